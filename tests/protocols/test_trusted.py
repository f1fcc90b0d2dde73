"""The trusted model: what each cheat comes to, and that the schedule never shows in the result."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from ostraka.attacks.parties import (
    Conflict,
    Duplicate,
    Silent,
    WrongDtype,
    WrongRound,
    WrongShape,
    corrupt_worker,
)
from ostraka.drivers.sim import Crash, Delivery, Links, Partition, Simulation
from ostraka.net import Abort, Net, Timeout
from ostraka.party import Frame
from ostraka.protocols.central_round import Update
from ostraka.rules import NNM, CenteredClipping, Mean, MultiKrum, TrimmedMean
from ostraka.trust.trusted import Plan, State, server, step, terms, worker

D = 5
NAMES = tuple(f"w{i}" for i in range(9))


def update(name: str, round: int, model: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng([int(name[1:]), round])
    return (0.5 * model + rng.standard_normal(D)).astype(np.float32)


def plan(**changes: Any) -> Plan:
    base = Plan(
        workers=NAMES,
        server="s",
        rounds=4,
        rule=TrimmedMean(2),
        pre=(NNM(2),),
        f=2,
        dropouts=None,
        rate=lambda r: 0.1 / (r + 1),
        deadline_s=10.0,
        max_norm=1e6,
    )
    return replace(base, **changes)


@dataclass
class Federation:
    """One simulated federation; ``lies`` replaces the program or the updates of some workers."""

    plan: Plan = field(default_factory=plan)
    lies: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    stored: list[State] = field(default_factory=lambda: [State.initial(np.ones(D, np.float32))])

    def run(self) -> Any:
        programs: dict[str, Any] = {"s": self._serve}
        programs |= {name: self._program(name) for name in self.plan.workers}
        simulation = Simulation(programs, seed=self.seed, trace=self._trace, **self.options)
        self.outcomes = simulation.run(until_s=1e4)
        return self.outcomes["s"]

    def model(self) -> np.ndarray:
        outcome = self.run()
        assert outcome.status == "done", outcome
        return outcome.result.model

    def told(self, event: str, *keys: str) -> set[tuple[Any, ...]]:
        return {tuple(e[k] for k in keys) for e in self.events if e["event"] == event}

    def _trace(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def _serve(self, net: Net) -> Any:
        return server(net, self.plan, self.stored[-1], commit=self.stored.append, trace=self._trace)

    def _program(self, name: str) -> Callable[[Net], Any]:
        lie = self.lies.get(name)

        def honest(round: int, model: np.ndarray) -> np.ndarray:
            return update(name, round, model)

        if lie is None:
            return lambda net: worker(net, self.plan, honest, D)
        if callable(lie):
            return lambda net: worker(net, self.plan, lambda r, m: lie(honest(r, m)), D)
        return lambda net: corrupt_worker(net, "s", lie, honest, D)


def without_the_last(count: int) -> np.ndarray:
    """The result of the federation that never had its last workers, with their share of f gone."""
    left = 2 - count
    smaller = plan(
        workers=NAMES[: len(NAMES) - count], rule=TrimmedMean(left), pre=(NNM(left),), f=left
    )
    return Federation(smaller).model()


def test_the_model_is_that_of_a_plain_loop() -> None:
    model = np.ones(D, np.float32)
    from ostraka.rules.aggregate import aggregate

    for r in range(4):
        rows = np.stack([update(name, r, model) for name in NAMES])
        result = aggregate(rows, TrimmedMean(2), [NNM(2)])
        model = step(model, result.vector, 0.1 / (r + 1))
    assert Federation().model().tobytes() == model.tobytes()


def test_workers_end_with_the_final_model() -> None:
    federation = Federation()
    model = federation.model()
    for name in NAMES:
        assert federation.outcomes[name].result.tobytes() == model.tobytes()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "links",
    [
        Links(shuffle=True),
        Links(latency_s=0.05, jitter_s=0.01, loss=0.05, duplicate=0.3, reorder=0.2, shuffle=True),
        Links(jitter_s=3.0, shuffle=True),
    ],
    ids=["shuffled", "lossy", "slow"],
)
def test_schedules_without_a_missed_deadline_do_not_show(links: Links, seed: int) -> None:
    clean = Federation().model()
    assert Federation(seed=seed, options={"links": links}).model().tobytes() == clean.tobytes()


def test_a_partition_that_heals_in_time_does_not_show() -> None:
    cut = Partition(frozenset(NAMES[:4]), 0.0, 8.0)
    model = Federation(options={"partitions": [cut]}).model()
    assert model.tobytes() == Federation().model().tobytes()


def nan_everywhere(u: np.ndarray) -> np.ndarray:
    return np.full_like(u, np.nan)


def one_nan(u: np.ndarray) -> np.ndarray:
    return np.where(np.arange(u.size) == 2, np.float32(np.nan), u)


def one_inf(u: np.ndarray) -> np.ndarray:
    return np.where(np.arange(u.size) == 0, np.float32(-np.inf), u)


def huge(u: np.ndarray) -> np.ndarray:
    return np.where(np.arange(u.size) == 1, np.float32(1e38), u)


def too_long(u: np.ndarray) -> np.ndarray:
    return (u * np.float32(2e6)).astype(np.float32)


REFUSED_FOR_CONTENT = [
    (nan_everywhere, "non-finite"),
    (one_nan, "non-finite"),
    (one_inf, "non-finite"),
    (huge, "norm"),
    (too_long, "norm"),
    (WrongShape(), "malformed"),
    (WrongDtype(), "malformed"),
    (WrongRound(1), "malformed"),
    (WrongRound(7, label=True), "malformed"),
]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("lie", "reason"), REFUSED_FOR_CONTENT)
def test_refused_content_leaves_the_result_of_the_run_without_it(
    lie: Any, reason: str, count: int
) -> None:
    liars = NAMES[len(NAMES) - count :]
    federation = Federation(lies=dict.fromkeys(liars, lie))
    assert federation.model().tobytes() == without_the_last(count).tobytes()
    told = federation.told("excluded", "party", "reason")
    assert told == {(name, reason) for name in liars}
    assert len([e for e in federation.events if e["event"] == "excluded"]) == 4 * count


def test_a_replayed_round_is_refused_as_replay() -> None:
    federation = Federation(lies={"w8": WrongRound(-1)})
    federation.run()
    assert ("w8", "replay", 3) in federation.told("excluded", "party", "reason", "round")


def test_silence_is_missing_lowers_n_and_keeps_f() -> None:
    federation = Federation(lies={"w8": Silent()})
    model = federation.model()
    assert federation.told("missing", "party") == {("w8",)}
    assert federation.told("excluded", "party") == set()
    smaller = plan(workers=NAMES[:8])
    assert model.tobytes() == Federation(smaller).model().tobytes()


def test_silence_beyond_the_written_dropouts_counts_among_the_f() -> None:
    silent = dict.fromkeys(NAMES[7:], Silent())
    federation = Federation(plan(dropouts=0), lies=silent)
    assert federation.model().tobytes() == without_the_last(2).tobytes()
    federation = Federation(plan(dropouts=1), lies=silent)
    left = plan(workers=NAMES[:7], rule=TrimmedMean(1), pre=(NNM(1),), f=1)
    assert federation.model().tobytes() == Federation(left).model().tobytes()


def test_duplicates_count_once_and_a_second_message_changes_nothing() -> None:
    clean = Federation().model()
    for lie in (Duplicate(), Conflict()):
        federation = Federation(lies=dict.fromkeys(NAMES[7:], lie))
        assert federation.model().tobytes() == clean.tobytes()
        whys = {why for (why,) in federation.told("dropped", "why")}
        told = "duplicate" if isinstance(lie, Duplicate) else "conflict"
        assert told in whys
        assert whys <= {told, "late"}


def test_more_refusals_than_f_end_the_round_with_numbers() -> None:
    federation = Federation(lies=dict.fromkeys(NAMES[6:], one_nan))
    outcome = federation.run()
    assert isinstance(outcome.error, Abort)
    assert "round 0 ended: 3 rows were refused, more than f=2" in outcome.error.reason
    assert "w6 non-finite, w7 non-finite, w8 non-finite" in outcome.error.reason
    assert federation.told("excluded", "party") == {("w6",), ("w7",), ("w8",)}
    assert outcome.error.blamed == ()


def test_a_bound_that_fails_through_silence_ends_the_round() -> None:
    krum = plan(rule=MultiKrum(3), pre=(), f=3)
    outcome = Federation(krum, lies={"w8": Silent()}).run()
    assert isinstance(outcome.error, Abort)
    assert "multi-krum needs n >= 2f + 3, got f=3, n=8" in outcome.error.reason


def test_nobody_at_all_is_a_timeout_and_the_state_is_kept() -> None:
    federation = Federation(lies=dict.fromkeys(NAMES, Silent()))
    outcome = federation.run()
    assert isinstance(outcome.error, Timeout)
    assert set(outcome.error.missing) == set(NAMES)
    assert federation.stored[-1].round == 0


def test_a_late_update_is_late_and_the_round_does_not_wait() -> None:
    class Slow:
        corrupt = frozenset({"w8"})

        def on_send(self, now: float, sender: str, to: str, frame: Frame) -> list[Delivery]:
            return [Delivery(sender, to, frame, 15.0 if sender == "w8" else 0.0)]

    federation = Federation(options={"adversary": Slow()})
    smaller = plan(workers=NAMES[:8])
    assert federation.model().tobytes() == Federation(smaller).model().tobytes()
    assert ("w8", "late") in federation.told("dropped", "peer", "why")


def test_a_server_that_restarts_asks_again_and_ends_with_the_same_model() -> None:
    clean = Federation().model()
    for at in (0.5, 1.5, 2.5, 3.5):
        links = Links(latency_s=0.5)
        crash = Crash("s", at, at + 1.0)
        federation = Federation(options={"links": links, "crashes": [crash]})
        assert federation.model().tobytes() == clean.tobytes()
        assert federation.stored[-1].epoch == 2


def test_a_crashed_worker_is_missing_and_may_return() -> None:
    crash = Crash("w3", 0.7, 12.0)
    links = Links(latency_s=0.5)
    federation = Federation(options={"links": links, "crashes": [crash]})
    federation.model()
    rounds = sorted(r for name, r in federation.told("missing", "party", "round") if name == "w3")
    assert rounds
    assert max(rounds) < 3, "it takes part again after its restart"


def test_the_previous_aggregate_is_the_reference_of_centered_clipping() -> None:
    federation = Federation(plan(rule=CenteredClipping(tau=0.1), pre=()))
    federation.run()
    states = {s.round: s for s in federation.stored}
    for r in range(4):
        rows = np.stack([update(name, r, states[r].model) for name in NAMES]).astype(np.float64)
        v = states[r].previous.astype(np.float64)
        shifts = rows - v
        factors = np.minimum(1.0, 0.1 / np.linalg.norm(shifts, axis=1))
        expected = v + (factors[:, None] * shifts).mean(axis=0)
        np.testing.assert_allclose(states[r + 1].previous, expected, atol=1e-6)


def test_an_update_beside_an_early_frame_still_counts() -> None:
    class Both:
        def answer(self, turn: Any, vector: np.ndarray) -> list[Any]:
            early = ((turn[0], turn[1] + 3), Update(turn[1] + 3, vector))
            return [early, (turn, Update(turn[1], vector))]

    federation = Federation(lies={"w8": Both()})
    assert federation.model().tobytes() == Federation().model().tobytes()
    assert federation.told("excluded", "party") == set()


def test_a_past_label_is_late_and_its_sender_missing() -> None:
    """Nothing tells a replay from an honest update that was slow, so it is no refusal."""
    federation = Federation(lies={"w8": WrongRound(-1, label=True)})
    model = federation.model()
    assert {r for _, r in federation.told("missing", "party", "round")} == {1, 2, 3}
    assert federation.told("excluded", "party") == set()
    assert np.isfinite(model).all()


def test_plain_mean_is_bent_by_one_liar_and_the_robust_rule_is_not() -> None:
    lie = {"w8": lambda u: np.full(D, 1e4, np.float32)}
    bent = Federation(plan(rule=Mean(), pre=()), lies=lie).model()
    held = Federation(lies=lie).model()
    clean = Federation().model()
    assert np.linalg.norm(bent - clean) > 100
    assert np.linalg.norm(held - clean) < 1


def test_the_stated_bytes_are_those_sent() -> None:
    simulation = Simulation(
        {"s": Federation()._serve, **{n: Federation()._program(n) for n in NAMES}}, seed=0
    )
    simulation.run()
    told = terms(9, 2, D)
    assert simulation.bytes_sent["w0"] <= 4 * told.cost["worker"].bytes_sent
    assert simulation.bytes_sent["w0"] > 4 * (4 * D)
    assert simulation.bytes_sent["s"] <= 5 * told.cost["server"].bytes_sent

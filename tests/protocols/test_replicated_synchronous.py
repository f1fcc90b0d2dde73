"""The synchronous variant: what it computes and sends, its deadline, and both filters."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from ostraka.attacks.servers import SERVER_ATTACKS, Lie, ServerAttack, corrupt_server
from ostraka.drivers.sim import Outcome, Simulation
from ostraka.net import Net, Program
from ostraka.protocols.scatter_gather import Model, Pull, Update
from ostraka.rules import MDA
from ostraka.rules.aggregate import aggregate
from ostraka.trust.public_step import step
from ostraka.trust.replicated import Plan, State, synchronous_server, synchronous_worker
from ostraka.trust.replicated import synchronous as module
from ostraka.trust.replicated.filters import LipschitzFilter, outlier_limit
from tests.protocols.replicated_world import SIGNS, D, make_plan, pulled
from tests.protocols.test_replicated import Counting


def sync_plan(n: int = 3, servers: int = 4, **changes: Any) -> Plan:
    return make_plan(n, servers, mode="synchronous", rounds=20, **changes)


class Learner:
    """Noisy gradients towards (1, 1, ...); remembers at which models it was trained."""

    def __init__(self, name: str) -> None:
        self.name, self.at, self.calls = name, {}, Counter[int]()

    def gradient(self, step: int, model: np.ndarray) -> np.ndarray:
        self.last = model
        self.calls[step] += 1
        return pulled(self.name, step, model)

    def update(self, step: int, gradient: np.ndarray) -> np.ndarray:
        self.at[step] = self.last
        return gradient


class Sync:
    """One simulated federation."""

    def __init__(self, plan: Plan, **options: Any) -> None:
        self.plan, self.options = plan, options
        self.learners = {name: Learner(name) for name in plan.workers}
        self.events: list[dict[str, Any]] = []
        self.replaced: dict[str, Program] = {}

    def server(self, net: Net) -> Any:
        start = State.initial(np.zeros(D, np.float32))
        return synchronous_server(net, self.plan, start, commit=lambda s: None, trace=self.trace)

    def lying(self, name: str, attack: ServerAttack) -> None:
        lie = Lie(attack, self.plan.session, SIGNS[name][0], np.random.default_rng(0))
        self.replaced[name] = lambda net: corrupt_server(net, lie, self.server)

    def trace(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def run(self) -> dict[str, Outcome]:
        programs: dict[str, Program] = dict.fromkeys(self.plan.servers, self.server)
        for name in self.plan.workers:
            learner = self.learners[name]
            programs[name] = lambda net, learner=learner: synchronous_worker(
                net, self.plan, learner, D, trace=self.trace
            )
        simulation = Simulation(programs | self.replaced, seed=0, **self.options)
        return simulation.run(until_s=1e5)

    def models(self, outcomes: dict[str, Outcome]) -> dict[str, np.ndarray]:
        honest = {name: out for name, out in outcomes.items() if name not in self.replaced}
        assert {out.status for out in honest.values()} == {"done"}, outcomes
        return {
            name: out.result.model if name in self.plan.servers else out.result
            for name, out in honest.items()
        }


def test_without_faults_it_is_plain_training_and_pulls_one_model_in_most_steps() -> None:
    counted = Counting()
    sync = Sync(sync_plan(), adversary=counted)
    model, plan = np.zeros(D, np.float32), sync.plan
    for t in range(plan.rounds):
        rows = np.stack([pulled(name, t, model) for name in plan.workers])
        model = step(model, aggregate(rows, MDA(1)).vector, 0.2)
    for name, found in sync.models(sync.run()).items():
        assert found.tobytes() == model.tobytes(), name
    pulls = [e["models"] for e in sync.events if e["event"] == "pulled"]
    whole = sum(t < 4 or t % plan.gather_every == 0 for t in range(plan.rounds))
    assert len(pulls) == plan.n * (plan.rounds - whole)
    shown = plan.n * (4 * (whole + 1)) + sum(pulls)
    gathers = 4 * 3 * (plan.rounds // plan.gather_every)
    assert counted.frames[Update.kind] == plan.n * 4 * plan.rounds
    assert counted.frames[Pull.kind] == shown
    assert counted.frames[Model.kind] == shown + gathers
    assert sum(pulls) < 2.5 * len(pulls), "fewer models than the asynchronous algorithm's four"


@pytest.mark.parametrize("kind", sorted(set(SERVER_ATTACKS) - {"slow"}))
def test_a_lying_server_and_a_silent_worker_of_the_fewest_there_may_be(kind: str) -> None:
    async def silent(net: Net) -> None:
        await net.sleep(1e9)

    sync = Sync(sync_plan())
    sync.lying("s2", SERVER_ATTACKS[kind]())
    sync.replaced["w01"] = silent
    for name, found in sync.models(sync.run()).items():
        assert np.abs(found - 1).max() < 0.2, (name, found)


def farthest(sync: Sync) -> float:
    """How far from what is to be learnt the worst model was that a worker was trained at."""
    sync.run()
    return max(
        float(np.abs(model - 1).max())
        for name, learner in sync.learners.items()
        for model in learner.at.values()
    )


@pytest.mark.parametrize("filters", ["both", "lipschitz", "outliers", "none"])
def test_each_filter_keeps_a_liars_models_away(
    filters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random models of size 10: with a filter none is ever trained at, without one they are."""
    if filters in ("outliers", "none"):
        monkeypatch.setattr(LipschitzFilter, "admits", lambda self, *models: True)
    if filters in ("lipschitz", "none"):
        monkeypatch.setattr(module, "outlier_limit", lambda *numbers: math.inf)
    sync = Sync(sync_plan(4, 4, gather_every=5))
    sync.lying("s1", SERVER_ATTACKS["random"](100.0))
    worst = farthest(sync)
    assert worst > 50 if filters == "none" else worst < 3


def test_too_few_in_time_end_the_run() -> None:
    async def silent(net: Net) -> None:
        await net.sleep(1e9)

    sync = Sync(sync_plan())
    sync.replaced = {"w00": silent, "w01": silent}
    outcomes = sync.run()
    assert outcomes["s0"].status == "failed"
    assert "no Update in update.0 from w00, w01" in str(outcomes["s0"].error)


# --- the filters alone ------------------------------------------------------------------------


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_history_decides_what_is_smooth() -> None:
    """n = 4, f = 1: of m coefficients the ceil(3 m / 4)-th smallest is the limit."""
    smooth = LipschitzFilter(4, 1)
    model, guess, gradient = vector(0), vector(2), vector(0)

    def admits(k: float) -> bool:
        return smooth.admits(model, guess, gradient, vector(2 * k))

    assert [admits(k) for k in (1, 2, 3, 4)] == [True, True, True, False]
    assert [admits(k) for k in (5, 3, 2.5)] == [False, True, True]
    assert admits(4)  # of 1, 2, 2.5, 3, 3, 4, 4, 5 the sixth


def test_what_does_not_move_or_is_not_finite_is_rejected_and_forgotten() -> None:
    smooth = LipschitzFilter(4, 1)
    zero, one = vector(0), vector(1)
    assert not smooth.admits(zero, zero, zero, one)
    for bad in (np.nan, np.inf, -np.inf):
        assert not smooth.admits(zero, one, zero, vector(bad))
        assert not smooth.admits(zero, vector(bad), zero, one)
    assert smooth.admits(zero, one, zero, vector(1e30)), "the history is still empty"


def test_without_byzantine_servers_everything_is_smooth() -> None:
    smooth = LipschitzFilter(3, 0)
    assert all(smooth.admits(vector(0), vector(1), vector(0), vector(10.0**k)) for k in range(9))


def test_the_outliers_limit_is_the_formula() -> None:
    assert outlier_limit(7, 0.1, 2.0, 5, 10, 2) == pytest.approx(0.2 * (17 * 8 / 8 + 2 * (6 % 5)))
    assert outlier_limit(1, 0.5, 3.0, 10, 4, 1) == pytest.approx(1.5 * (32 * 3 / 4))
    assert outlier_limit(9, 0.1, 2.0, 5, 10, 0) == math.inf


@pytest.mark.parametrize(
    ("n", "servers", "mode", "said"),
    [
        (3, 5, "asynchronous", r"at least 3 f \+ 1 workers, got n = 3 with f = 1"),
        (4, 4, "asynchronous", r"at least 3 f \+ 2 servers, got n = 4 with f = 1"),
        (2, 4, "synchronous", r"at least 2 f \+ 1 workers, got n = 2 with f = 1"),
        (3, 3, "synchronous", r"at least 3 f \+ 1 servers, got n = 3 with f = 1"),
    ],
)
def test_bounds_are_refused_with_their_numbers(n: int, servers: int, mode: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_plan(n, servers, mode=mode)

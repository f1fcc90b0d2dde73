"""One seeded run of the trusted model under random faults, checked against a plain loop.

Invariant: whatever the network and f corrupt workers do, the server ends with exactly the model
that a plain loop computes from the updates it says it used, or with a named reason.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ostraka.attacks.parties import PARTY_ATTACKS, corrupt_worker
from ostraka.drivers.sim import Crash, Delivery, Links, Partition, Simulation
from ostraka.net import Abort, Net, Timeout
from ostraka.party import Frame
from ostraka.rules import MDA, NNM, GeometricMedian, Median, MultiKrum, TrimmedMean
from ostraka.rules.aggregate import aggregate
from ostraka.rules.bounds import remaining
from ostraka.trust.trusted import Plan, State, server, step, worker

D = 7
DEADLINE_S = 10.0


def honest_update(name: str, round: int, model: np.ndarray) -> np.ndarray:
    """A made-up training step: depends on party, round and model, and on nothing else."""
    rng = np.random.default_rng([int(name.removeprefix("w")), round])
    return (0.3 * model + rng.standard_normal(D)).astype(np.float32)


class Junk:
    """A corrupt worker's updates: anything that float32 can say."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def __call__(self, round: int, model: np.ndarray) -> np.ndarray:
        kinds = [np.nan, np.inf, -np.inf, 3e38, 1e7, 1e-44, 0.0, -5.0]
        values = [self._rng.choice(kinds) for _ in range(D)]
        return np.array(values, dtype=np.float32)


@dataclass
class Meddler:
    """The adversary at the seam: delays, drops, repeats and bends what corrupt workers send."""

    corrupt: frozenset[str]
    rng: random.Random

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> list[Delivery]:
        if sender not in self.corrupt:
            return [Delivery(sender, to, frame, self.rng.choice([0.0, 0.0, 0.3]))]
        match self.rng.randrange(6):
            case 0:
                return []
            case 1:
                return [Delivery(sender, to, frame, 2 * DEADLINE_S)]
            case 2:
                at = self.rng.randrange(len(frame.body)) if frame.body else 0
                body = bytearray(frame.body)
                body[at] ^= 1 << self.rng.randrange(8)
                bent = Frame(frame.label, frame.kind, bytes(body))
                return [Delivery(sender, to, bent), Delivery(sender, to, frame, 0.1)]
            case 3:
                cut = frame.body[: self.rng.randrange(len(frame.body) + 1)]
                return [Delivery(sender, to, Frame(frame.label, frame.kind, cut))]
            case 4:
                label = tuple((name, self.rng.randrange(9)) for name, _ in frame.label)
                return [Delivery(sender, to, Frame(label, frame.kind, frame.body))]
            case _:
                return [Delivery(sender, to, frame)] * 2


@dataclass
class Story:
    """What one campaign run came to."""

    seed: int
    end: str
    reason: str = ""
    events: Counter[str] = field(default_factory=Counter)


def play(seed: int) -> Story:
    """Run one seed and check it; AssertionError names what is wrong."""
    rng = random.Random(seed)
    n, rounds = rng.randrange(5, 10), rng.randrange(1, 6)
    f = rng.randrange(0, (n - 3) // 2 + 1)
    names = tuple(f"w{i}" for i in range(n))
    corrupt = frozenset(names[n - f :])
    rule = rng.choice([TrimmedMean(f), MultiKrum(f), MDA(f), Median(), GeometricMedian()])
    pre = rng.choice([(), (NNM(f),)])
    dropouts = rng.choice([None, None, 0, 1, 2])
    plan = Plan(
        names, "server", rounds, rule, pre, f, dropouts, lambda r: 0.1, DEADLINE_S, max_norm=1e6
    )
    events: list[dict[str, Any]] = []
    stored: list[State] = [State.initial(np.zeros(D, np.float32))]
    programs = _programs(plan, corrupt, stored, events, rng)
    simulation = Simulation(
        programs,
        seed=seed,
        links=_links(rng),
        partitions=_partitions(rng, names),
        crashes=_crashes(rng, names, f),
        adversary=Meddler(corrupt, rng) if rng.random() < 0.5 else None,
        trace=lambda event, **fields: events.append({"event": event, **fields}),
    )
    outcome = simulation.run(until_s=1e5)["server"]
    _check_rounds(plan, corrupt, events, stored)
    counted = Counter(e.get("reason") or e["event"] for e in events)
    match outcome.error:
        case None:
            assert outcome.status == "done", (outcome.status, outcome.waiting)
            assert outcome.result.round == rounds
            return Story(seed, "done", events=counted)
        case Abort(reason=reason):
            assert "ended:" in reason, reason
            return Story(seed, "bound", reason, counted)
        case Timeout():
            return Story(seed, "silence", str(outcome.error), counted)


def _links(rng: random.Random) -> Links:
    return Links(
        latency_s=rng.choice([0.0, 0.05]),
        jitter_s=rng.choice([0.0, 0.02, 1.0]),
        loss=rng.choice([0.0, 0.05, 0.3]),
        duplicate=rng.choice([0.0, 0.2]),
        reorder=rng.choice([0.0, 0.3]),
        reorder_s=rng.choice([0.5, 4.0]),
        shuffle=True,
    )


def _partitions(rng: random.Random, names: tuple[str, ...]) -> list[Partition]:
    cuts = []
    for _ in range(rng.randrange(3)):
        group = frozenset(rng.sample(names, rng.randrange(1, len(names))))
        start = rng.uniform(0, 20)
        cuts.append(Partition(group, start, start + rng.choice([1.0, 5.0, 30.0])))
    return cuts


def _crashes(rng: random.Random, names: tuple[str, ...], f: int) -> list[Crash]:
    crashes = []
    for name in rng.sample(names, rng.randrange(0, f + 1)):
        at = rng.uniform(0, 15)
        crashes.append(Crash(name, at, rng.choice([None, at + rng.uniform(0, 20)])))
    if rng.random() < 0.3:
        at = rng.uniform(0, 15)
        crashes.append(Crash("server", at, at + rng.uniform(0, 5)))
    return crashes


def _programs(
    plan: Plan,
    corrupt: frozenset[str],
    stored: list[State],
    events: list[dict[str, Any]],
    rng: random.Random,
) -> dict[str, Any]:
    def trace(event: str, **fields: Any) -> None:
        events.append({"event": event, **fields})

    def serve(net: Net) -> Any:
        return server(net, plan, stored[-1], commit=stored.append, trace=trace)

    def work(name: str) -> Any:
        def train(round: int, model: np.ndarray) -> np.ndarray:
            return honest_update(name, round, model)

        if name not in corrupt:
            return lambda net: worker(net, plan, train, D)
        if rng.random() < 0.5:
            junk = Junk(rng)
            return lambda net: worker(net, plan, junk, D)
        attack = rng.choice(list(PARTY_ATTACKS.values()))()
        return lambda net: corrupt_worker(net, plan.server, attack, train, D)

    return {plan.server: serve, **{name: work(name) for name in plan.workers}}


def _check_rounds(
    plan: Plan, corrupt: frozenset[str], events: list[dict[str, Any]], stored: list[State]
) -> None:
    """Recompute, from what the server reports, every step in which no corrupt update counted."""
    states = {state.round: state for state in stored}
    assert [s.round for s in stored] == sorted(s.round for s in stored), "a round was lost"
    refusals = _refusals(events)
    for round in range(max(states)):
        assert np.isfinite(states[round + 1].model).all()
        used, refused = refusals[round]
        assert refused <= corrupt, f"honest workers were refused: {refused - corrupt}"
        rows = [name for name in used if name not in refused]
        if corrupt & set(rows):
            continue
        missing = len(plan.workers) - len(rows) - len(refused)
        _, f = remaining(len(plan.workers), plan.f, len(refused), missing, plan.dropouts)
        model = states[round].model
        expected = aggregate(
            np.stack([honest_update(name, round, model) for name in rows]),
            plan.rule.with_f(f),
            [part.with_f(f) for part in plan.pre],
            f=f,
        ).vector
        want = step(model, expected, plan.rate(round))
        assert want.tobytes() == states[round + 1].model.tobytes(), f"round {round} went wrong"


def _refusals(events: list[dict[str, Any]]) -> dict[int, tuple[list[str], set[str]]]:
    """Per round, of its last attempt: whose updates reached the rule's screening, who was refused.

    A round's refusals are told just before its "aggregated".
    """
    found: dict[int, tuple[list[str], set[str]]] = {}
    refused: set[str] = set()
    for event in events:
        if event["event"] == "excluded":
            refused.add(event["party"])
        elif event["event"] == "aggregated":
            found[event["round"]] = (list(event["distance"]), refused)
            refused = set()
    return found

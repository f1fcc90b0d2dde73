"""The asynchronous algorithm: what it computes, what it sends, and that it is never stuck."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest

from ostraka.drivers.sim import Crash, Delivery
from ostraka.net import Net
from ostraka.party import Frame
from ostraka.protocols.scatter_gather import Gathered, Model, Update
from ostraka.rules import MDA
from ostraka.rules.aggregate import aggregate
from ostraka.trust.public_step import step
from tests.protocols.replicated_world import D, Scheduler, World, make_plan, pulled


@dataclass
class Counting:
    """An adversary that only counts."""

    corrupt: frozenset[str] = frozenset()
    frames: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        self.frames[frame.kind] += 1
        self.bytes[frame.kind] += frame.size
        yield Delivery(sender, to, frame)


async def silent(net: Net) -> None:
    """A party that is there and says nothing."""
    await net.sleep(1e9)


def test_without_faults_it_is_plain_training_with_the_rule() -> None:
    world = World(make_plan(grace_s=0.1))
    world.run()
    model = np.zeros(D, np.float32)
    for t in range(world.plan.rounds):
        rows = np.stack([pulled(name, t, model) for name in world.plan.workers])
        model = step(model, aggregate(rows, MDA(1)).vector, 0.2)
    found = world.models()
    assert set(found) == {*world.plan.workers, *world.plan.servers}
    for name, last in found.items():
        assert last.tobytes() == model.tobytes(), name


@pytest.mark.parametrize(("rounds", "every"), [(12, 4), (10, 3), (7, 1), (5, 10)])
@pytest.mark.parametrize(("n", "servers"), [(4, 5), (7, 8)])
@pytest.mark.parametrize("check", ["off", "gather"])
def test_as_many_messages_as_the_formula_says(
    n: int, servers: int, rounds: int, every: int, check: str
) -> None:
    counted = Counting()
    plan = make_plan(n, servers, rounds=rounds, gather_every=every, equivocation_check=check)
    world = World(plan, adversary=counted)
    world.run()
    gathers, pairs = rounds // every, servers * (servers - 1)
    expected = {
        Model.kind: n * servers * (rounds + 1),  # the last time the models that training ends with
        Update.kind: n * servers * rounds,
        Gathered.kind: pairs * gathers,
        "Echo": 0 if check == "off" else pairs * (servers - 1) * gathers,
        "Done": servers * n + pairs,
    }
    assert counted.frames == Counter(expected), "nobody asks while nobody is late"
    vectors = sum(counted.bytes[kind] for kind in (Model.kind, Update.kind, Gathered.kind))
    count = sum(expected[kind] for kind in (Model.kind, Update.kind, Gathered.kind))
    assert vectors <= count * (4 * D + 96), "each vector crosses the wire once for each receiver"


def federation(seed: int) -> tuple[World, set[str]]:
    """A federation of any allowed size whose scheduler holds back whom it likes, and its liars."""
    draw = random.Random(seed)
    n, f, servers, f_servers = draw.choice(
        [(4, 1, 5, 1), (4, 1, 5, 1), (5, 1, 6, 1), (4, 1, 8, 2), (7, 2, 5, 1), (7, 2, 8, 2)]
    )
    plan = make_plan(
        n,
        servers,
        f=f,
        f_servers=f_servers,
        rounds=draw.choice([6, 9, 12]),
        window=draw.choice([1, 2, 3, 8]),
        gather_every=draw.choice([1, 2, 3, 4, 10]),
        grace_s=draw.choice([0.0, 0.1]),
        equivocation_check=draw.choice(["off", "gather"]),
        contraction=draw.choice(["median", "trimmed-mean", "nearest-neighbour"]),
    )
    corrupt = draw.sample(list(plan.workers), draw.randint(0, f))
    corrupt += draw.sample(list(plan.servers), draw.randint(0, f_servers))
    scheduler = Scheduler(
        plan, seed, seconds=draw.choice([0.3, 1, 3, 10, 40, 200]), corrupt=frozenset(corrupt)
    )
    return World(plan, dict.fromkeys(corrupt, silent), adversary=scheduler, seed=seed), set(corrupt)


def never_stuck(seed: int) -> None:
    world, corrupt = federation(seed)
    outcomes = world.run(until_s=2e4)
    away = {name for name, out in outcomes.items() if out.status != "done"}
    assert not [out for out in outcomes.values() if out.status == "failed"]
    assert corrupt <= away
    assert len(away & set(world.plan.workers)) <= world.plan.f
    assert len(away & set(world.plan.servers)) <= world.plan.f_servers
    steps = Counter(e["party"] for e in world.told("stepped"))
    for name, model in world.models().items():
        away_for_long = name in world.plan.servers and 2 * steps[name] < world.plan.rounds
        assert away_for_long or np.abs(model - 1).max() < 0.9, f"{name} has not been trained"


@pytest.mark.parametrize("seed", range(50))
def test_an_adversarial_scheduler_never_stops_it(seed: int) -> None:
    never_stuck(seed)


@pytest.mark.soak
@pytest.mark.parametrize("hundred", range(50))
def test_an_adversarial_scheduler_never_stops_it_in_5000_schedules(hundred: int) -> None:
    for seed in range(100 * hundred, 100 * hundred + 100):
        never_stuck(seed)


@pytest.mark.parametrize("seed", range(4))
def test_who_crashes_and_comes_back_catches_up(seed: int) -> None:
    """A server and a worker die at random moments and come back; then all servers at once."""
    draw = random.Random(seed)
    plan = make_plan(7, 5, f=2, rounds=30, gather_every=5, window=4)
    gone = draw.choice(list(plan.servers)), *draw.sample(list(plan.workers), 2)
    crashes = [Crash(name, draw.uniform(0.5, 4.0), draw.uniform(5.0, 9.0)) for name in gone]
    crashes += [Crash(name, 12.0, draw.uniform(12.5, 14.0)) for name in plan.servers]
    world = World(
        plan,
        adversary=Scheduler(plan, seed, calm_s=0.0, spread_s=0.3),
        crashes=tuple(crashes),
        seed=seed,
    )
    outcomes = world.run(until_s=5e3)
    assert {out.status for out in outcomes.values()} == {"done"}, outcomes
    last = list(world.models().values())
    assert max(float(np.abs(model - last[0]).max()) for model in last) < 0.2
    for model in last:
        assert np.abs(model - 1).max() < 0.2

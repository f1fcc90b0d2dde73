"""Every faulty schedule of two_server ends right or with a named reason.

Invariant: whatever the network, f corrupt workers and operators that crash and come back do, both
servers have after every round the model that a plaintext twin computes from the uploads that they
say they used, honest workers are never refused, and a run that stops says why.

A failing seed is in the test's name; OSTRAKA_SEED=n replays it alone:
    OSTRAKA_SEED=17 python -m pytest tests/sweep/test_two_server_schedules.py -k replay
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from ostraka.attacks.uploads import UPLOAD_ATTACKS
from ostraka.attacks.uploads import Upload as Attempt
from ostraka.drivers.sim import Crash, Delivery, Links, Partition
from ostraka.net import Abort, Timeout
from ostraka.party import Frame
from ostraka.rules import (
    MDA,
    NNM,
    CenteredClipping,
    GeometricMedian,
    GramRule,
    Krum,
    Mean,
    MultiKrum,
)
from ostraka.trust.two_server import Plan
from tests.protocols import two_server_twin as twin
from tests.protocols.two_server_world import (
    DEALER,
    OPERATORS,
    S0,
    S1,
    Cheat,
    Upload,
    Vector,
    World,
    identity,
    make_plan,
    random_updates,
)

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "soak-two-server.md"
CAMPAIGN = 3_000
D = 7
LINKS = (
    Links(shuffle=True),
    Links(0.05, 0.01, loss=0.05, duplicate=0.3, reorder=0.2, shuffle=True),
    Links(jitter_s=2.0, shuffle=True),
)


@dataclass
class Meddler:
    """The adversary at the seam: delays, drops, repeats and bends what corrupt workers send."""

    corrupt: frozenset[str]
    rng: random.Random

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> list[Delivery]:
        if sender not in self.corrupt:
            return [Delivery(sender, to, frame, self.rng.choice([0.0, 0.0, 0.3]))]
        body = b"".join([frame.body])  # type: ignore[list-item]
        match self.rng.randrange(6):
            case 0:
                return []
            case 1:
                return [Delivery(sender, to, frame, 45.0)]
            case 2:
                bent = bytearray(body)
                bent[self.rng.randrange(len(bent))] ^= 1 << self.rng.randrange(8)
                spoilt = Frame(frame.label, frame.kind, bytes(bent))
                return [Delivery(sender, to, spoilt), Delivery(sender, to, frame, 0.1)]
            case 3:
                cut = Frame(frame.label, frame.kind, body[: self.rng.randrange(len(body))])
                return [Delivery(sender, to, cut)]
            case 4:
                label = tuple((name, self.rng.randrange(4)) for name, _ in frame.label)
                return [Delivery(sender, to, Frame(label, frame.kind, body))]
            case _:
                return [Delivery(sender, to, frame)] * 2


def lie(rng: random.Random) -> Cheat:
    """One attack of the catalogue."""
    attack = UPLOAD_ATTACKS[rng.choice(sorted(UPLOAD_ATTACKS))]()

    def cheat(upload: Upload) -> None:
        holders = {"server_0": S0, "server_1": S1, "dealer": DEALER}
        context, sign = upload.world.plan.context(upload.turn), identity(upload.name)[0]
        attempt = Attempt(context, upload.name, upload.words, upload.own, sign)
        for holder, part in attack.answer(attempt):
            upload.send(holders[holder], part)

    return cheat


@dataclass
class Story:
    """What one campaign run came to."""

    seed: int
    end: str
    reason: str = ""
    rounds: int = 0
    events: Counter[str] = field(default_factory=Counter)


def some_plan(rng: random.Random) -> Plan:
    """A random plan whose bounds hold."""
    while True:
        n = rng.randrange(5, 10)
        f = rng.randrange(0, (n - 1) // 2 + 1)
        rules: list[GramRule] = [Mean(), GeometricMedian(), Krum(f), MultiKrum(f), MDA(f)]
        rules += [CenteredClipping(0.5), CenteredClipping(0.5, steps=2)]
        rule, pre = rng.choice(rules), rng.choice([(), (NNM(f),)])
        try:
            return make_plan(
                n,
                D,
                rule,
                pre,
                f=f,
                rounds=rng.randrange(1, 4),
                min_contributors=rng.choice([1, 2, 3]),
                dropouts=rng.choice([None, None, 0, 1, 2]),
            )
        except ValueError:
            continue


def some_world(seed: int) -> tuple[World, frozenset[str]]:
    """A random federation, and those of it who are corrupt."""
    rng = random.Random(seed)
    plan = some_plan(rng)
    corrupt = frozenset(rng.sample(plan.workers, plan.f))
    honest, junk = random_updates(seed), [np.nan, np.inf, 3e38, 1e7, 1e-44, 0.0, -0.5]

    def updates(name: str, round: int, model: Vector) -> Vector:
        if name in corrupt and seed % 3 == 0:
            drawn = random.Random(f"{seed} {name} {round}")
            return np.array([drawn.choice(junk) for _ in range(D)], np.float32)
        return honest(name, round, model)

    cheats = {name: lie(rng) for name in corrupt if rng.random() < 0.5}
    world = World(
        plan,
        updates,
        cheats,
        adversary=Meddler(corrupt, rng) if rng.random() < 0.5 else None,
        links=some_links(rng),
        partitions=some_partitions(rng, plan),
        crashes=some_crashes(rng, plan),
        seed=seed,
    )
    return world, corrupt


def some_links(rng: random.Random) -> Links:
    return Links(
        latency_s=rng.choice([0.0, 0.05]),
        jitter_s=rng.choice([0.0, 0.02, 1.0]),
        loss=rng.choice([0.0, 0.05, 0.2]),
        duplicate=rng.choice([0.0, 0.2]),
        reorder=rng.choice([0.0, 0.3]),
        reorder_s=rng.choice([0.5, 4.0]),
        shuffle=True,
    )


def some_partitions(rng: random.Random, plan: Plan) -> list[Partition]:
    cuts = []
    for _ in range(rng.randrange(3)):
        group = frozenset(rng.sample(plan.workers, rng.randrange(1, plan.n)))
        start = rng.uniform(0, 60)
        cuts.append(Partition(group, start, start + rng.choice([1.0, 5.0, 40.0])))
    return cuts


def some_crashes(rng: random.Random, plan: Plan) -> list[Crash]:
    """Workers that vanish for good, and an operator that comes back."""
    crashes = []
    for name in rng.sample(plan.workers, rng.randrange(0, plan.f + 1)):
        crashes.append(Crash(name, rng.uniform(0, 60)))
    if rng.random() < 0.3:
        at = rng.uniform(0, 60)
        crashes.append(Crash(rng.choice(OPERATORS), at, at + rng.uniform(0, 10)))
    return crashes


def play(seed: int) -> Story:
    """Run one seed and check it; AssertionError names what is wrong."""
    world, corrupt = some_world(seed)
    outcome = world.run(until_s=1e5)
    check(world, corrupt)
    counted = Counter(e.get("reason") or e["event"] for e in world.events)
    rounds = world.stored_0[-1].round
    match outcome.error:
        case None if outcome.status == "done":
            assert rounds == world.plan.rounds
            return Story(seed, "done", "", rounds, counted)
        case Abort(reason=reason):
            known = ("ended: ", "was begun", "sent a malformed")
            assert any(part in reason for part in known), reason
            return Story(seed, "bound", reason, rounds, counted)
        case Timeout():
            return Story(seed, "silence", str(outcome.error), rounds, counted)
        case _:
            waiting = {w.kind for w in outcome.waiting}
            raise AssertionError(f"server 0 is {outcome.status} and waits for {waiting}")


def check(world: World, corrupt: frozenset[str]) -> None:
    """Recompute every round that was finished, from what server 0 says of it."""
    done = world.stored_0[-1].round
    left_out = {round: world.left_out(round) for round in range(done)}
    for round, out in left_out.items():
        refused = {name for name, reason in out.items() if reason != "missing"}
        assert refused <= corrupt, f"honest workers were refused in round {round}: {out}"
    story = twin.played(world, left_out.__getitem__, done)
    first = {state.round: state.model for state in (*world.stored_0, *world.stored_1)}
    for states in (world.stored_0, world.stored_1):
        numbers = [state.round for state in states]
        assert numbers == sorted(numbers), "a round was lost"
        for state in states:
            expected = first[0] if state.round == 0 else story[state.round - 1].model
            assert state.model.tobytes() == expected.tobytes(), f"before round {state.round}"
    sums = {s.frame.label[:1]: s.frame.body for s in world.of_kind("Words")}
    assert all(sums[s.frame.label[:1]] == s.frame.body for s in world.of_kind("Words")), (
        "two sums of one round were opened"
    )


# --- tests ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rule", [MultiKrum(2), CenteredClipping(0.5), Mean()])
def test_schedules_without_a_missed_deadline_do_not_show(rule: GramRule) -> None:
    plan = make_plan(7, D, rule, f=2, rounds=2, min_contributors=3)
    clean = World(plan).finish().model.tobytes()
    for links in LINKS:
        for schedule in range(2):
            world = World(plan, links=links, schedule=schedule)
            assert world.finish().model.tobytes() == clean
            assert all(outcome.status == "done" for outcome in world.outcomes.values())
            assert world.left_out(0) == world.left_out(1) == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_faulty_schedule(seed: int) -> None:
    play(seed)


@pytest.mark.slow
def test_a_seed_replays_event_for_event() -> None:
    for seed in range(5):
        assert play(seed) == play(seed)


def test_replay() -> None:
    """The seed of OSTRAKA_SEED, or seed 0: the door for a failing seed of the long campaign."""
    story = play(int(os.environ.get("OSTRAKA_SEED", "0")))
    assert story.end in ("done", "bound", "silence")


@pytest.mark.soak
def test_campaign() -> None:
    stories: list[Story] = []
    start = time.monotonic()
    for seed in range(CAMPAIGN):
        try:
            stories.append(play(seed))
        except AssertionError as wrong:
            raise AssertionError(f"seed {seed}: {wrong}") from wrong
    RESULTS.write_text(summary(stories, time.monotonic() - start), encoding="utf-8")


def summary(stories: list[Story], seconds: float) -> str:
    ends = Counter(story.end for story in stories)
    events: Counter[str] = sum((story.events for story in stories), Counter())
    reasons = Counter(kind_of(story.reason) for story in stories if story.reason)
    lines = [
        "# Three thousand faulty schedules of two_server",
        "",
        "`make soak` plays random federations (5 to 9 workers, f of them corrupt, every Gram rule)",
        "on links with delay, jitter, loss, duplication, reordering and partitions, with workers",
        "that vanish, operators that crash and come back, and an adversary at the seam in half of",
        "them. After every round both servers must have exactly the model that a plaintext twin",
        "computes from the uploads that server 0 says it used; no honest worker may be refused, no",
        "round may open two sums, and a run that stops must say why.",
        "",
        f"{len(stories)} schedules, {sum(s.rounds for s in stories)} rounds, {seconds:.0f} s on "
        "one core, none failed.",
        "",
        "| end | schedules |",
        "|---|---|",
        f"| all rounds done | {ends['done']} |",
        f"| ended: a bound failed, said with its numbers | {ends['bound']} |",
        f"| ended: somebody did not answer in time, said who | {ends['silence']} |",
        "",
        "| what happened | times |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in events.most_common()),
        "",
        "Most frequent reasons for an end:",
        "",
        *(f"- {reason} ({count})" for reason, count in reasons.most_common(6)),
    ]
    return "\n".join(lines) + "\n"


def kind_of(reason: str) -> str:
    """A reason without the names of those concerned."""
    return (reason.partition("ended: ")[2] or reason).partition(" (")[0]


def test_the_summary_counts_what_happened() -> None:
    """The campaign writes its page from this."""
    stories = [
        Story(0, "done", "", 2, Counter({"norm": 1})),
        Story(1, "bound", "round 0 ended: too few (w0 norm)", 0, Counter({"norm": 2})),
    ]
    text = summary(stories, 1.0)
    assert "2 schedules, 2 rounds, 1 s on one core, none failed." in text
    assert "| norm | 3 |" in text
    assert "- too few (1)" in text

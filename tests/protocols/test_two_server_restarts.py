"""Restarts of `two_server`: whoever dies at whatever moment, one sum of a round is opened.

A process dies before or after a state is stored, or as it sends a frame: that frame and all later
ones are lost, and nothing is stored any more. Later it starts again from what it had stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import Any, cast

import numpy as np
import pytest

from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key, Prg
from ostraka.drivers.sim import Crash, Delivery
from ostraka.net import Abort, Net, Program, Timeout
from ostraka.party import Frame
from ostraka.protocols import turns
from ostraka.protocols.upload import ACTIVE
from ostraka.rules import GeometricMedian, GramRule, Mean, MultiKrum
from ostraka.trust import two_server
from ostraka.trust.two_server.plan import MOST_ATTEMPTS, Committed, State1
from ostraka.trust.two_server.server_1 import _Server
from tests.protocols.two_server_views import by_turn, hidden_words, masks_of, message_of, turn_of
from tests.protocols.two_server_world import (
    DEALER,
    OPERATORS,
    S0,
    S1,
    World,
    identity,
    make_plan,
)

N, D, ROUNDS, BACK_S = 7, 12, 2, 5.0
SERVER_1 = import_module("ostraka.trust.two_server.server_1")
PLANNING = import_module("ostraka.trust.two_server.plan")
RULES: dict[str, GramRule] = {"median": GeometricMedian(), "multi-krum": MultiKrum(f=1)}


@dataclass(frozen=True)
class Moment:
    """When a party dies, counted from 1: before or after its state of this number is stored, or as
    it sends its frame of this number.
    """

    party: str
    what: str
    number: int

    def __str__(self) -> str:
        return f"{self.party} {self.what} {self.number}"


class Killed(Abort):
    """Ends a process at once."""


@dataclass
class Fragile(World):
    """A world in which one party dies once and comes back."""

    moment: Moment = Moment(S0, "never", 0)
    dead: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.adversary = self
        if self.moment.number:
            self.crashes = [*self.crashes, Crash(self.moment.party, BACK_S, BACK_S)]

    @property
    def corrupt(self) -> frozenset[str]:
        """Nobody lies here."""
        return frozenset()

    def programs(self) -> dict[str, Program]:
        """The party's life may end before its time."""
        programs = super().programs()
        return programs | {self.moment.party: self._mortal(programs[self.moment.party])}

    def _mortal(self, life: Program) -> Program:
        async def program(net: Net) -> Any:
            self.dead = False
            try:
                return await life(net)
            except Killed:
                await net.sleep(1e9)  # until the simulator takes it away

        return program

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        """Nothing of a dead process travels, and nothing reaches it."""
        if sender == self.moment.party:
            self._count("frame")
        gone = self.dead and self.moment.party in (sender, to)
        return () if gone else (Delivery(sender, to, frame),)

    def _keep(self, party: str, stored: list[Any], state: Any) -> None:
        own = party == self.moment.party
        if own:
            self._count("before state")
        if not (own and self.dead):
            super()._keep(party, stored, state)
        if own:
            self._count("after state")
        if own and self.dead:
            raise Killed("the process was killed")

    def _count(self, what: str) -> None:
        self.counts[what] += 1
        if (what, self.counts[what]) == (self.moment.what, self.moment.number):
            self.dead = True


@pytest.fixture(autouse=True)
def few_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wraparound check is not what these tests are about, and most of their time."""
    monkeypatch.setattr(PLANNING, "projections", lambda n, rounds: 4)


def plan_of(rule: GramRule, **changes: Any) -> Any:
    changes = {"rounds": ROUNDS, "f": 1, "min_contributors": 3} | changes
    return make_plan(N, D, rule, **changes)


@cache
def clean(which: str) -> World:
    """The run in which nobody dies."""
    world = World(plan_of(RULES[which]))
    world.finish()
    return world


def check(world: World, which: str) -> None:
    """All that must hold after a run, whoever died."""
    zero, one = world.outcomes[S0], world.outcomes[S1]
    assert (zero.status, one.status) == ("done", "done"), (zero, one)
    assert zero.result.round == one.result.round == ROUNDS
    assert zero.result.model.tobytes() == one.result.model.tobytes()
    for name in world.plan.workers:
        assert world.outcomes[name].result.tobytes() == zero.result.model.tobytes()
    one_sum_of_each_round(world)
    nothing_after_the_commit_point(world)
    no_mask_twice(world)
    if isinstance(RULES[which], MultiKrum):  # opened exactly: the dither does not show
        assert zero.result.model.tobytes() == clean(which).outcomes[S0].result.model.tobytes()


def one_sum_of_each_round(world: World) -> None:
    for round in range(ROUNDS):
        sums = {s.frame.body for s in world.of_kind("Words") if turn_of(s)[0] == round}
        assert len(sums) == 1


def nothing_after_the_commit_point(world: World) -> None:
    """No later attempt of a committed round shows a model, takes an upload or opens anything."""
    done = {s.committed.round: s.committed.attempt for s in world.stored_1 if s.committed}
    assert done.keys() == set(range(ROUNDS))
    forbidden = {"PublicModel", "SharePart", "SeedPart", "Verdict", "ImageShare", "Weights"}
    for sent in world.sent:
        round, attempt = turn_of(sent)
        if sent.kind in forbidden and round < ROUNDS:
            assert attempt <= done[round], (sent.kind, round, attempt)


def no_mask_twice(world: World) -> None:
    """No hidden word of one attempt appears in another one, but for the committed sum."""
    seen: dict[int, tuple[int, int]] = {}
    for turn, frames in by_turn(world.sent).items():
        hidden = hidden_words([sent for sent in frames if sent.kind != "Words"])
        for words in hidden.values():
            for word in set(words.reshape(-1).tolist()):
                assert seen.setdefault(word, turn) == turn


# --- every moment -------------------------------------------------------------------------------


def moments(which: str, *, every: bool) -> Iterator[Moment]:
    """All moments; without ``every`` no two frames of a kind in a row, and those of one round."""
    for party in OPERATORS:
        states = {S0: 5 * ROUNDS + 1, S1: 1 + 2 * ROUNDS, DEALER: 0}[party]
        for number in range(1, states + 1):
            yield Moment(party, "before state", number)
            if every or which == "median":
                yield Moment(party, "after state", number)
        if every or which == "median":  # the frames of both rules are alike
            for number in frame_numbers(which, party, every=every):
                yield Moment(party, "frame", number)


def frame_numbers(which: str, party: str, *, every: bool) -> Iterator[int]:
    """The frames at which a party may die; in the final turn server 1 sends all and is done."""
    rounds = (ROUNDS if party == S1 else ROUNDS + 1) if every else 1
    before: tuple[str, bool] | None = None
    own = (sent for sent in clean(which).sent if sent.sender == party)
    for number, sent in enumerate(own, start=1):
        if turn_of(sent)[0] >= rounds:
            return
        kind = (sent.kind, dict(sent.frame.label).get("and", 0) > 0)
        if every or kind != before:
            yield number
        before = kind


def killed(which: str, moment: Moment) -> Fragile:
    """The run in which a party dies at this moment."""
    world = Fragile(plan_of(RULES[which]), moment=moment)
    world.run()
    assert world.boots[moment.party] == 2, f"{moment} never came"
    return world


@pytest.mark.slow
@pytest.mark.parametrize("party", OPERATORS)
@pytest.mark.parametrize("which", RULES)
def test_one_sum_is_opened_whenever_an_operator_dies(which: str, party: str) -> None:
    wrong = []
    for moment in (m for m in moments(which, every=False) if m.party == party):
        world = killed(which, moment)
        try:
            check(world, which)
        except AssertionError as failure:
            wrong.append((str(moment), str(failure)[:200]))
    assert wrong == []


@pytest.mark.soak
@pytest.mark.parametrize("which", RULES)
def test_one_sum_is_opened_at_every_single_moment(which: str) -> None:
    for moment in moments(which, every=True):
        check(killed(which, moment), which)


# --- how the attempts of a round end ------------------------------------------------------------


class Stalls:
    """Drops one kind of frame up to some attempt of round 0, so that nobody gets further."""

    corrupt: frozenset[str] = frozenset()

    def __init__(self, kind: str, last: int) -> None:
        self.kind, self.last = kind, last

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        stalled = frame.kind == self.kind and dict(frame.label)["attempt"] <= self.last
        return () if stalled and dict(frame.label)["round"] == 0 else (Delivery(sender, to, frame),)


def interrupted(rule: GramRule, kind: str, attempts: int, **changes: Any) -> World:
    """Attempts of round 0 that stop before a kind of frame; the dealer restarts after each."""
    crashes = [Crash(DEALER, BACK_S * i, BACK_S * i) for i in range(1, attempts + 1)]
    return World(plan_of(rule), adversary=Stalls(kind, attempts), crashes=crashes, **changes)


def passed_over(world: World) -> list[int]:
    return [round for (round,) in world.told("passed-over", "round")]


def test_three_attempts_at_most_show_the_rule_anything_then_the_round_is_passed_over() -> None:
    world = interrupted(MultiKrum(f=1), "Weights", 2 * MOST_ATTEMPTS)
    world.finish()
    assert len([s for s in world.of_kind("ImageShare") if turn_of(s)[0] == 0]) == MOST_ATTEMPTS
    assert passed_over(world) == [0]
    assert {turn_of(s)[0] for s in world.of_kind("Words")} == set(range(1, ROUNDS))
    assert world.stored_0[-1].model.tobytes() == world.stored_1[-1].model.tobytes()


def test_a_stored_part_of_the_sum_does_not_lift_the_limit() -> None:
    """Server 1 dies between Prepared and its commit every time; server 0 has a part each time."""
    world = World(plan_of(MultiKrum(f=1)), adversary=Stalls("Prepared", 2 * MOST_ATTEMPTS))
    world.crashes = [Crash(S1, BACK_S * i, BACK_S * i) for i in range(1, 2 * MOST_ATTEMPTS)]
    world.finish()
    assert len([s for s in world.of_kind("ImageShare") if turn_of(s)[0] == 0]) == MOST_ATTEMPTS
    assert passed_over(world) == [0]


def test_a_round_that_all_workers_may_have_answered_is_passed_over() -> None:
    """Everybody restarted in round 0, and who restarted stays out of it; the run goes on."""
    world = World(plan_of(MultiKrum(f=1)), adversary=Stalls("ImageShare", 1))
    everybody = (S0, S1, DEALER, *world.plan.workers)
    world.crashes = [Crash(name, BACK_S, BACK_S + 0.1) for name in everybody]
    world.replaced = {name: remembering(world, name) for name in world.plan.workers}
    world.finish()
    assert passed_over(world) == [0]
    assert {turn_of(s)[0] for s in world.of_kind("Words")} == set(range(1, ROUNDS))
    assert world.stored_0[-1].model.tobytes() == world.stored_1[-1].model.tobytes()


def test_a_first_attempt_with_nobody_ends_the_run_instead() -> None:
    world = World(plan_of(MultiKrum(f=1)))
    world.replaced = dict.fromkeys(world.plan.workers, lambda net: net.sleep(1e9))
    outcome = world.run()
    assert isinstance(outcome.error, Timeout)
    assert passed_over(world) == []


def test_server_1_keeps_to_a_committed_round_whatever_server_0_says_of_it() -> None:
    state = State1.initial(np.zeros(3, np.float32))
    record = Committed(0, 1, ("a",), np.ones(1, np.int64), 1, np.zeros(3, np.uint64))
    net = cast(Net, None)
    server = _Server(
        net, plan_of(MultiKrum(f=1)), state, Key(bytes(32)), lambda s: None, lambda *a: None, map
    )
    server.follow(1, turns.Open(False, True, bytes(32)))
    assert server.state.round == 1
    server.state = replace(state, committed=record)
    server.follow(1, turns.Open(False, True, bytes(32)))
    assert server.state.round == 0


@pytest.mark.slow
def test_attempts_that_showed_nothing_do_not_count() -> None:
    world = interrupted(MultiKrum(f=1), "MaskedBlock", 2 * MOST_ATTEMPTS)
    world.finish()
    assert len(world.of_kind("MaskedBlock")) == 2 * MOST_ATTEMPTS + ROUNDS
    assert len(world.of_kind("ImageShare")) == ROUNDS
    no_mask_twice(world)


@dataclass
class Streams:
    """All secret streams that were begun, by the attempt that had been opened last."""

    world: World
    seen: dict[tuple[int, int], set[bytes]] = field(default_factory=dict)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Look over the shoulder of every key."""
        stream = Key.stream

        def watched(key: Key) -> Prg:
            opened = [turn_of(sent) for sent in self.world.sent if sent.kind == "Open"]
            if opened:
                self.seen.setdefault(opened[-1], set()).add(key.reveal())
            return stream(key)

        patch.setattr(Key, "stream", watched)


def two_attempts(patch: pytest.MonkeyPatch) -> tuple[World, Streams]:
    world = interrupted(GeometricMedian(), "Prepared", 1)
    streams = Streams(world)
    streams.watch(patch)
    world.finish()
    assert streams.seen.keys() >= {(0, 1), (0, 2)}
    return world, streams


def test_two_attempts_of_a_round_share_no_stream_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, B, R, triples, coin, dither: whatever is drawn, it is drawn from another key."""
    world, streams = two_attempts(monkeypatch)
    first, second = streams.seen[0, 1], streams.seen[0, 2]
    assert min(len(first), len(second)) >= 2 * N + 6
    assert not first & second
    no_mask_twice(world)


def test_keys_that_forget_the_attempt_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    derive = Key.derive

    def forgetful(key: Key, domain: str, *parts: bytes | int) -> Key:
        return derive(key, domain, *(parts[:1] if domain == "turn" else parts))

    monkeypatch.setattr(Key, "derive", forgetful)
    world, _ = two_attempts(monkeypatch)
    with pytest.raises(AssertionError):
        no_mask_twice(world)


def remembering(world: World, name: str) -> Any:
    """A worker that answers a round only from the process that began it, which it has stored."""
    begun: dict[int, int] = {}

    def program(net: Net) -> Any:
        own = world.fresh_key(name)
        boot = world.boots[name]
        return two_server.worker(
            net,
            world.plan,
            world.train(name),
            own=own,
            sign=identity(name)[0],
            admit=lambda turn, model: begun.setdefault(turn[0], boot) == boot,
            trace=world.trace(name),
        )

    return program


@pytest.mark.parametrize("restarts", [False, True])
def test_a_worker_that_restarts_stays_missing_in_that_round(restarts: bool) -> None:
    world = interrupted(MultiKrum(f=1), "Weights", 1)
    world.replaced = {"w00": remembering(world, "w00")}
    if restarts:
        world.crashes = [*world.crashes, Crash("w00", 2.0, 2.0)]
    world.finish()
    told = world.told("missing", "round", "party")
    assert told == ([(0, "w00")] if restarts else [])
    parts = {turn_of(sent) for sent in world.of_kind("SharePart", sender="w00")}
    assert parts == {(0, 1), (1, 1)} | (set() if restarts else {(0, 2)})


# --- two sums over different sets ---------------------------------------------------------------


class Leaves:
    """w00 takes no part in later attempts than the first."""

    corrupt: frozenset[str] = frozenset()

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        gone = sender == "w00" and dict(frame.label)["attempt"] > 1
        return () if gone else (Delivery(sender, to, frame),)


@dataclass
class Forgets(Fragile):
    """Server 0 dies with the sum of attempt 1 in its hands; then w00 leaves."""

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        return Leaves().on_send(now, sender, to, frame) and super().on_send(now, sender, to, frame)


def sums_of_round_0(world: World) -> list[Ring]:
    """What a curious server 0 makes of all Words of round 0: p^T X of each, for equal weights."""
    began = {
        turn: frames
        for turn, frames in by_turn(world.sent).items()
        if any(sent.kind == "Active" for sent in frames)
    }
    sums = []
    for sent in world.of_kind("Words"):
        if turn_of(sent)[0] == 0:
            turn = max(t for t in began if t <= turn_of(sent))
            (active,) = (s for s in began[turn] if s.kind == "Active" and s.to == DEALER)
            masks = masks_of(world, turn, began[turn])[message_of(active).states == ACTIVE]
            sums.append(masks.sum(axis=0, dtype=np.uint64) + message_of(sent).words)
    return sums


def test_no_restart_makes_two_sums_of_which_one_lacks_a_worker() -> None:
    world = Forgets(plan_of(Mean()), moment=Moment(S0, "before state", 3))
    world.finish()
    sums = sums_of_round_0(world)
    assert len(sums) > 1
    assert {total.tobytes() for total in sums} == {sums[0].tobytes()}
    assert world.missing() == set()


@pytest.mark.slow
def test_without_the_commit_point_the_two_sums_differ_by_one_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forgetful(server: Any, round: int) -> tuple[int, None]:
        return turns.FRESH, None

    monkeypatch.setattr(SERVER_1._Server, "standing_at", forgetful)
    world = Forgets(plan_of(Mean()), moment=Moment(S0, "before state", 3))
    world.finish()
    update = world.updates("w00", 0, world.stored_0[0].model)
    first, second = sums_of_round_0(world)
    assert (first - second).tobytes() == world.plan.fixed.encode(update).tobytes()

"""States of `two_server` that were damaged or put back: one sum of a round is opened all the same.

Server 0's newest model is damaged when it dies, at whatever moment; server 1 helps it back. Server
1's state of an earlier moment is put back; server 0 notices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from ostraka.drivers.sim import Crash, Delivery
from ostraka.net import Abort, Net
from ostraka.party import Frame
from ostraka.protocols import turns
from ostraka.protocols.public_model import model_hash
from ostraka.rules import Mean
from ostraka.trust.two_server import Lost, State0, resume
from tests.protocols.test_two_server_restarts import (
    BACK_S,
    ROUNDS,
    RULES,
    D,
    Forgets,
    Fragile,
    Moment,
    clean,
    moments,
    no_mask_twice,
    nothing_after_the_commit_point,
    plan_of,
    sums_of_round_0,
)
from tests.protocols.two_server_views import turn_of
from tests.protocols.two_server_world import S0, S1, Sent, World

PLANNING = import_module("ostraka.trust.two_server.plan")


@pytest.fixture(autouse=True)
def few_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wraparound check is not what these tests are about, and most of their time."""
    monkeypatch.setattr(PLANNING, "projections", lambda n, rounds: 4)


# --- server 0's newest model is damaged -----------------------------------------------------------


def damaged(states: list[State0]) -> State0:
    """The last state without its model, as the store finds it (test_two_server_storage)."""
    last = states[-1]
    if last.round == 0 or last.passed_over:
        return last
    older = next(s for s in reversed(states) if s.round == last.round - 1)
    part = next(s.prepared for s in reversed(states) if s.prepared is not None)
    lost = Lost(model_hash(last.model), part if last.prepared is None else None)
    return replace(last, model=older.model, previous=older.previous, words=older.words, lost=lost)


@dataclass
class Damaged(Fragile):
    """Where server 0 dies, its newest model is damaged as well."""

    def _server_0(self, net: Net) -> Any:
        if self.boots[S0] > 0:
            self.stored_0.append(damaged(self.stored_0))
        return super()._server_0(net)


def restoring(sent: Sent) -> bool:
    return turns.RESTORE in (name for name, _ in sent.frame.label)


def whole(world: World, which: str) -> None:
    """The run ended as if nothing had been damaged, and opened one sum of each round."""
    zero, one = world.outcomes[S0], world.outcomes[S1]
    assert (zero.status, one.status) == ("done", "done"), (zero, one)
    assert zero.result.lost is None
    assert zero.result.model.tobytes() == one.result.model.tobytes()
    for name in world.plan.workers:
        assert world.outcomes[name].result.tobytes() == zero.result.model.tobytes()
    for round in range(ROUNDS):
        sums = {
            s.frame.body
            for s in world.of_kind("Words")
            if turn_of(s)[0] == round + restoring(s)  # a later round's attempt gives it back
        }
        assert len(sums) == 1
    nothing_after_the_commit_point(world)
    no_mask_twice(world)
    if which == "multi-krum":
        assert zero.result.model.tobytes() == clean(which).outcomes[S0].result.model.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("which", RULES)
def test_server_1_helps_a_server_0_back_whenever_it_dies(which: str) -> None:
    wrong, helped = [], set()
    for moment in moments(which, every=False):
        if moment.party != S0:
            continue
        world = Damaged(plan_of(RULES[which]), moment=moment)
        world.run()
        try:
            whole(world, which)
        except AssertionError as failure:
            wrong.append((str(moment), str(failure)[:200]))
        helped |= {s.kind for s in world.sent if restoring(s)}
    assert wrong == []
    assert helped == {"Words", "LastAggregate"}, "both ways back were taken"


@dataclass
class BothDamaged(Damaged):
    """Server 1's newest model is damaged as well: it goes back one round, with its last record."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.crashes = [*self.crashes, Crash(S1, BACK_S, BACK_S)]

    def _server_1(self, net: Net) -> Any:
        if self.boots[S1] == 1:
            last, older = self.stored_1[-1], self.stored_1[0]
            self.stored_1.append(replace(older, boot=last.boot, committed=last.committed))
        return super()._server_1(net)


def test_both_newest_models_are_made_again_from_the_two_parts_of_the_sum() -> None:
    world = BothDamaged(plan_of(RULES["multi-krum"]), moment=Moment(S0, "after state", 6))
    world.run()
    assert world.boots[S0] == world.boots[S1] == 2
    whole(world, "multi-krum")
    assert {s.kind for s in world.sent if restoring(s)} == {"Words"}
    assert any(turns.CATCH_UP in dict(s.frame.label) for s in world.of_kind("Rounded"))


class Lying(Damaged):
    """What is given back is not what was there."""

    corrupt = frozenset({S1})

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        if frame.kind in ("LastAggregate", "Words") and turns.RESTORE in dict(frame.label):
            body = bytearray(frame.body)
            body[-7 if frame.kind == "Words" else -4] ^= 1
            frame = replace(frame, body=bytes(body))
        return super().on_send(now, sender, to, frame)


def test_server_0_goes_on_with_the_model_that_it_had_or_not_at_all() -> None:
    for moment in (Moment(S0, "after state", 5), Moment(S0, "after state", 6)):
        world = Lying(plan_of(RULES["multi-krum"]), moment=moment)
        error = world.run().error
        assert isinstance(error, Abort)
        assert "does not lead to the model that was stored here for round 1" in error.reason


def lost_state(part: Any) -> tuple[State0, Lost]:
    lost = Lost(bytes(32), part)
    return replace(State0.initial(np.zeros(D, np.float32)), round=1, lost=lost), lost


def test_where_both_servers_lack_the_model_nothing_is_made_up() -> None:
    plan = plan_of(Mean())
    ready = turns.Ready(turns.BEHIND, 1, 1, 1)
    state, lost = lost_state(None)
    life = resume.restored(None, plan, state, lost, ready)  # type: ignore[arg-type]
    with pytest.raises(Abort, match="server-1 lacks it too: restore the newest state"):
        life.send(None)
    with pytest.raises(Abort, match="given back without the words"):
        resume.words_for_server_1(plan, replace(state, words=np.zeros(0, np.int64)))


# --- server 1's state is put back within a round ------------------------------------------------


@dataclass
class PutBack(Forgets):
    """Server 0 dies with the sum of attempt 1 in its hands; server 1 gets the copy of its state
    that was made before its commit point; then w00 leaves.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.crashes = [*self.crashes, Crash(S1, BACK_S, BACK_S)]

    def _server_1(self, net: Net) -> Any:
        if self.boots[S1] > 0:
            self.stored_1.append(next(s for s in self.stored_1[1:] if s.committed is None))
        return super()._server_1(net)


RECEIVED = Moment(S0, "after state", 3)


def test_a_server_1_that_has_forgotten_its_commit_point_is_noticed() -> None:
    world = PutBack(plan_of(Mean()), moment=RECEIVED)
    error = world.run().error
    assert world.stored_0[3].received
    assert isinstance(error, Abort)
    assert "server-1 does not know that it has committed to attempt 1 of round 0" in error.reason
    assert "its state is an old copy" in error.reason
    assert len(world.of_kind("Words")) == 1
    newest = max((s for s in world.stored_1 if s.committed), key=lambda s: s.round)
    world.crashes, world.stored_1 = [], [newest]
    world.boots[S1] = 0  # its newest state is brought back, and the run goes on
    world.moment = Moment(S0, "never", 0)
    world.finish()
    assert len({s.frame.body for s in world.of_kind("Words") if turn_of(s)[0] == 0}) == 1


@pytest.mark.slow
def test_without_that_the_two_sums_differ_by_one_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "refuse_old_copy", lambda *args: None)
    world = PutBack(plan_of(Mean()), moment=RECEIVED)
    world.finish()
    update = world.updates("w00", 0, world.stored_0[0].model)
    first, second = sums_of_round_0(world)
    assert (first - second).tobytes() == world.plan.fixed.encode(update).tobytes()


def test_the_note_is_stored_before_the_sum_is_used() -> None:
    """In every round: the words come, that they came is stored, then the step is."""
    world = clean("median")
    story = [(s.round, s.prepared is not None, s.received) for s in world.stored_0]
    for round in range(ROUNDS):
        told = [(held, received) for at, held, received in story if at == round]
        assert told[-2:] == [(True, False), (True, True)]
        assert not any(received for held, received in told[:-1])

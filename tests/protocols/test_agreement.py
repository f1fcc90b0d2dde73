"""Agreement: whatever liars, links and kills do, never two values, and one within t + 2 views."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka.crypto.transcript import digest
from ostraka.drivers.sim import Crash, Delivery
from ostraka.net import Abort, Inbox, Malformed, Net
from ostraka.protocols import tally as tally_module
from ostraka.protocols.ballots import (
    ASK,
    DECIDED,
    UNSIGNED,
    VIEW,
    VOID,
    Change,
    Decided,
    Decision,
    Have,
    Locked,
    Precommit,
    Prevote,
    Proposal,
    Stored,
    Verdict,
    dims,
)
from ostraka.protocols.tally import KEPT_VIEWS, Tally
from ostraka.protocols.voter import Voter
from ostraka.protocols.votes import (
    Certificate,
    Evidence,
    Phase,
    Plan,
    Slot,
    pack,
    stated,
    unpack,
    value_hash,
)
from tests.protocols.agreement_world import (
    INSTANCE,
    ITEM,
    LATENCY_S,
    NOBODY,
    SESSION,
    Item,
    Items,
    Killed,
    Liar,
    Plot,
    Puppets,
    Storm,
    Tagged,
    World,
    bits,
    content,
    make_plan,
    pair,
    plan_others,
    quick_sign,
)

ALL4 = bits(range(4), 4)
SOME4 = bits(range(3), 4)
PLAN4 = make_plan(4)


def signatures(plan: Plan, names: list[str], slot: Slot, value: bytes) -> dict[str, bytes]:
    statement = stated(plan.session, slot, value_hash(value))
    return {name: pair(name)[0](statement) for name in names}


def named(view: int, plan: Plan = PLAN4) -> str:
    return plan.leader(INSTANCE, view)


def follower(view: int = 0, plan: Plan = PLAN4) -> str:
    """One who leads neither this view nor the next."""
    return idle((view, view + 1), plan)


def idle(views: Sequence[int], plan: Plan) -> str:
    """One who leads none of these views."""
    leaders = {named(view, plan) for view in views}
    return next(name for name in plan.voters if name not in leaders)


# --- votes, certificates, evidence ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "t", "q"), [(1, 0, 1), (4, 1, 3), (7, 2, 5), (13, 4, 9), (100, 10, 56)]
)
def test_two_quorums_share_an_honest_voter_and_the_honest_are_one(n: int, t: int, q: int) -> None:
    plan = make_plan(n, t)
    assert plan.quorum == q
    assert 2 * q - n > t
    assert q <= n - t


@pytest.mark.parametrize(("n", "t", "d"), [(3, 1, 0), (5, 1, 1), (4, -1, 0), (4, 1, -1)])
def test_a_plan_that_promises_too_much_is_refused(n: int, t: int, d: int) -> None:
    with pytest.raises(ValueError, match=r"N >= 3 t \+ 2 dropouts \+ 1"):
        make_plan(n, t, dropouts=d).check()
    with pytest.raises(ValueError, match="ends"):
        make_plan(4, view_s=0.0).check()
    make_plan(6, 1, dropouts=1).check()
    with pytest.raises(ValueError, match="N >= 3 t"):
        Puppets("p00", make_plan(3, 1))


def test_views_grow_longer_while_nothing_is_decided() -> None:
    plan = make_plan(4, view_s=2.0, more_s=0.5)
    assert [plan.length_s(view) for view in (0, 1, 4)] == [2.0, 2.5, 4.0]
    one = Puppets(idle((0, 4), plan), plan)
    one.change(one.others(), 4)
    one.waits(3.9)
    assert [message.view for _, message in one.said(Change)][-1] == 4
    one.waits(0.2)
    assert [message.view for _, message in one.said(Change)][-1] == 5


def test_all_lead_in_turn_and_instances_begin_at_different_voters() -> None:
    plan = make_plan(7)
    assert {plan.leader(INSTANCE, view) for view in range(3, 10)} == set(plan.voters)
    assert len({plan.leader(INSTANCE._replace(round=r), 0) for r in range(30)}) > 3
    assert len({plan.leader(INSTANCE._replace(attempt=k), 0) for k in range(30)}) > 3


SLOT = Slot(INSTANCE, 3, Phase.PRECOMMIT)


def test_a_certificate_is_a_quorum_and_nothing_less() -> None:
    full = signatures(PLAN4, ["p00", "p01", "p03"], SLOT, ALL4)
    assert Certificate(SLOT, value_hash(ALL4), full).holds(PLAN4)
    for changed in (
        {name: full[name] for name in ("p00", "p01")},
        {**full, "p03": full["p01"]},
        {**full, "p03": bytes(64)},
        {**full, "p03": b"short"},
        {"p00": full["p00"], "p01": full["p01"], "stranger": full["p03"]},
    ):
        assert not Certificate(SLOT, value_hash(ALL4), changed).holds(PLAN4)


@pytest.mark.parametrize(
    "slot",
    [
        SLOT._replace(view=2),
        SLOT._replace(phase=Phase.PREVOTE),
        SLOT._replace(instance=INSTANCE._replace(round=8)),
        SLOT._replace(instance=INSTANCE._replace(attempt=0)),
        SLOT._replace(instance=INSTANCE._replace(name="dealers")),
    ],
)
def test_a_certificate_of_another_slot_is_none(slot: Slot) -> None:
    votes = signatures(PLAN4, ["p00", "p01", "p02"], slot, ALL4)
    assert Certificate(slot, value_hash(ALL4), votes).holds(PLAN4)
    assert not Certificate(SLOT, value_hash(ALL4), votes).holds(PLAN4)
    assert not Certificate(slot, value_hash(ALL4), votes).holds(
        replace(PLAN4, session=digest("another session"))
    )
    assert not Certificate(slot, value_hash(SOME4), votes).holds(PLAN4)


def test_packed_signatures_name_each_voter_once_and_are_canonical() -> None:
    full = signatures(PLAN4, list(PLAN4.voters), SLOT, ALL4)
    packed = pack(PLAN4, full)
    assert unpack(PLAN4, packed) == {name: full[name] for name in ("p00", "p01", "p02")}
    few = dict(list(full.items())[:2])
    assert unpack(PLAN4, pack(PLAN4, few)) is None
    assert unpack(PLAN4, packed[:-1]) is None
    assert unpack(PLAN4, packed + b"x") is None
    assert unpack(PLAN4, bytes([0b0011]) + packed[1:]) is None
    assert unpack(PLAN4, bytes([0b1111]) + packed[1:]) is None
    assert unpack(PLAN4, bytes([0b10111]) + packed[1:]) is None
    assert unpack(PLAN4, bytes([0b10011]) + packed[1:]) is None


@settings(max_examples=50)
@given(st.binary(max_size=250))
def test_unpacking_is_total(packed: bytes) -> None:
    found = unpack(PLAN4, packed)
    assert found is None or pack(PLAN4, found) == packed


@settings(max_examples=50)
@given(
    st.binary(max_size=120),
    st.sampled_from([Proposal, Change, Have, Decided, Stored, Prevote, Locked]),
)
def test_decoding_is_total_and_canonical(body: bytes, cls: Any) -> None:
    message = cls.form(**dims(PLAN4, 8, 8)).decode(body)
    assert isinstance(message, Malformed) or message.encode() == body


def test_bytes_that_are_too_many_or_too_few_are_malformed() -> None:
    form = Have.form(**dims(PLAN4, 8, 8))
    assert form.decode(Have(bytes(8)).encode()) == Have(bytes(8))
    assert isinstance(form.decode(Have(bytes(9)).encode()), Malformed)
    assert isinstance(form.decode(Have(bytes(8)).encode()[:-1]), Malformed)
    assert isinstance(form.decode(b"\x01"), Malformed)
    assert isinstance(form.decode(b"\x02\x00\x00\x00x"), Malformed)
    assert isinstance(form.decode(b"\xff\xff\xff\xff"), Malformed)


def test_two_values_in_one_slot_are_evidence_that_travels() -> None:
    first, second = (
        (value_hash(value), signatures(PLAN4, ["p01"], SLOT, value)["p01"])
        for value in (ALL4, SOME4)
    )
    evidence = Evidence("p01", SLOT, first, second)
    assert evidence.convinces(PLAN4)
    assert Evidence.of(evidence.told()) == evidence
    assert not replace(evidence, second=first).convinces(PLAN4)
    assert not replace(evidence, voter="p02").convinces(PLAN4)
    assert not replace(evidence, voter="stranger").convinces(PLAN4)
    assert not replace(evidence, second=(second[0], first[1])).convinces(PLAN4)
    for other in (
        SLOT._replace(view=4),
        SLOT._replace(phase=Phase.PREVOTE),
        SLOT._replace(instance=INSTANCE._replace(round=8)),
    ):
        elsewhere = value_hash(SOME4), signatures(PLAN4, ["p01"], other, SOME4)["p01"]
        assert not replace(evidence, second=elsewhere).convinces(PLAN4)
    assert not evidence.convinces(replace(PLAN4, session=digest("another session")))
    for key, junk in (("view", -1), ("view", 1 << 64), ("phase", 9), ("first", ["", "zz"])):
        with pytest.raises(ValueError):  # noqa: PT011
            Evidence.of({**evidence.told(), key: junk})


class Counted:
    """Counts verifications."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        verifies = tally_module.verifies

        def counting(*args: Any) -> bool:
            self.count += 1
            return verifies(*args)

        patch.setattr(tally_module, "verifies", counting)


def test_each_vote_is_verified_once_and_certificates_by_votes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted, tally = Counted(monkeypatch), Tally(PLAN4, INSTANCE)
    what, view = value_hash(ALL4), 3
    votes = signatures(PLAN4, list(PLAN4.voters), Slot(INSTANCE, view, Phase.PREVOTE), ALL4)
    for name in ("p00", "p01", "p00"):
        assert tally.add(view, Phase.PREVOTE, name, what, votes[name])
    assert counted.count == 2
    assert tally.certificate(view, Phase.PREVOTE, what) is None
    assert tally.prove(view, Phase.PREVOTE, what, pack(PLAN4, votes)) is not None
    assert counted.count == 3
    assert tally.prove(view, Phase.PREVOTE, what, pack(PLAN4, votes)) is not None
    assert counted.count == 3
    tally.forget(view + KEPT_VIEWS)
    assert tally.count(view, Phase.PREVOTE, what) == 3
    tally.forget(view + KEPT_VIEWS + 1)
    assert tally.count(view, Phase.PREVOTE, what) == 0


def test_a_tally_keeps_no_junk_and_knows_who_signed_twice() -> None:
    tally, slot = Tally(PLAN4, INSTANCE), Slot(INSTANCE, 0, Phase.PREVOTE)
    values = [bytes([i]) for i in range(1, 5)]
    kept = []
    for value in values:
        signature = signatures(PLAN4, ["p01"], slot, value)["p01"]
        assert tally.add(0, Phase.PREVOTE, "p01", value_hash(value), signature) == signature
        kept.append(tally.count(0, Phase.PREVOTE, value_hash(value)))
    assert kept == [1, 1, 0, 0]
    assert tally.add(0, Phase.PREVOTE, "p01", value_hash(values[3]), bytes(64)) is None
    assert tally.evidence["p01"].convinces(PLAN4)
    assert not tally.add(0, Phase.PREVOTE, "p02", value_hash(values[0]), bytes(64))
    false = signatures(PLAN4, ["p00", "p01", "p02"], slot, ALL4) | {"p02": bytes(64)}
    assert tally.prove(0, Phase.PREVOTE, value_hash(ALL4), pack(PLAN4, false)) is None
    assert tally.count(0, Phase.PREVOTE, value_hash(ALL4)) == 0
    assert set(tally.evidence) == {"p01"}


# --- one voter ------------------------------------------------------------------------------------


def test_a_voter_stores_then_signs_then_speaks_to_the_leader_alone() -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    assert one.order == ["store 0 1", "sign"]
    assert not one.said(Precommit)
    one.lock(0, ALL4)
    assert one.order == ["store 0 1", "sign", "store 0 2", "sign"]
    assert [(name, frame.kind) for name, frame in one.sent] == [
        (one.leader(0), "Prevote"),
        (one.leader(0), "Precommit"),
    ]
    assert one.decision is None
    one.decided(0, ALL4)
    assert one.decision is not None
    assert one.decision.value == ALL4
    assert one.decision.holds(PLAN4)
    assert not one.decision.evidence
    assert len(one.sent) == 2


def test_a_leader_shows_all_what_q_would_have_and_what_q_are_locked_on() -> None:
    one = Puppets(named(0), PLAN4)
    a, b, _ = one.others()
    assert one.order == ["store 0 0", "sign", "store 0 1", "sign"]
    one.prevote([a], 0, ALL4)
    assert not one.said(Locked)
    one.prevote([b], 0, ALL4)
    assert one.order[4:] == ["store 0 2", "sign"]
    [(_, message)] = one.said(Locked)
    votes = unpack(PLAN4, message.proof)
    assert votes is not None
    assert Certificate(Slot(INSTANCE, 0, Phase.PREVOTE), message.what, votes).holds(PLAN4)
    one.precommit([a], 0, ALL4)
    assert one.decision is None
    one.precommit([b], 0, ALL4)
    assert one.decision is not None
    assert one.decision.value == ALL4
    [(_, shown)] = one.said(Decided)
    assert Decision.of(PLAN4, INSTANCE, shown) is not None
    sent = sorted((frame.kind, name) for name, frame in one.sent)
    kinds = ("Decided", "Locked", "Proposal")
    assert sent == [(kind, name) for kind in kinds for name in sorted(one.others())]


def test_votes_that_come_to_another_than_the_leader_cost_and_count_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    counted = Counted(monkeypatch)
    one.prevote(one.others(), 0, ALL4)
    one.precommit(one.others(), 0, ALL4)
    assert counted.count == 0
    assert not one.said(Precommit)
    assert one.decision is None
    two = Puppets(named(0), PLAN4)
    counted.count = 0
    two.prevote(two.others(), 0, SOME4)  # it has not proposed this
    two.precommit(two.others(), 0, SOME4)
    for phase in (Prevote, Precommit):  # nor leads the view of these
        two.at(two.others()[0], 1, phase(value_hash(ALL4), bytes(64)))
    assert counted.count == 0
    assert not two.said(Locked)


def test_a_leader_verifies_no_more_votes_than_a_certificate_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Counted(monkeypatch)
    one = Puppets(named(0), PLAN4)
    one.prevote(one.others(), 0, ALL4)
    assert counted.count == PLAN4.quorum - 1
    one.at(one.others()[0], 0, Precommit(value_hash(ALL4), bytes(64)))
    one.precommit(one.others(), 0, ALL4)  # the first message of a slot counts
    assert counted.count == 2 * (PLAN4.quorum - 1) + 1
    assert one.decision is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"phase": Phase.PRECOMMIT},
        {"view": 1},
        {"round": 8},
        {"attempt": 0},
        {"name": "dealers"},
        {"session": digest("another session")},
        {"value": SOME4},
        {"names": ["p00", "p01"]},
    ],
)
def test_a_leader_that_shows_what_is_no_certificate_locks_nobody(wrong: dict[str, Any]) -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    made: dict[str, Any] = {"view": 0, "phase": Phase.PREVOTE, "value": ALL4} | wrong
    one.lock(0, ALL4, one.proof(**made))
    assert not one.said(Precommit)
    assert one.stored[-1].phase == Phase.PREVOTE


def test_a_forged_certificate_and_another_senders_lock_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    counted = Counted(monkeypatch)
    for name in one.others():
        if name != one.leader(0):
            proof = one.proof(0, Phase.PREVOTE, ALL4)
            one.at(name, 0, Locked(value_hash(ALL4), proof))
    assert counted.count == 0
    one.lock(0, ALL4, pack(PLAN4, dict.fromkeys(PLAN4.voters, bytes(64))))
    assert counted.count == 1
    assert not one.said(Precommit)
    one.lock(0, ALL4)  # the first message of a slot counts
    assert not one.said(Precommit)


def test_a_certificate_of_a_value_that_was_not_shown_locks_nobody() -> None:
    one = Puppets(follower(), PLAN4)
    one.lock(0, ALL4)
    assert not one.stored
    one.propose(0, ALL4)  # what overtook its proposal is not lost
    assert [stored.phase for stored in one.stored] == [Phase.PREVOTE, Phase.PRECOMMIT]
    two = Puppets(follower(), PLAN4)
    two.propose(0, ALL4)
    two.lock(0, SOME4)
    assert not two.said(Precommit)


def test_a_certificate_that_comes_a_view_early_is_kept() -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(1, ALL4)
    one.lock(1, ALL4)
    assert not one.stored
    one.change(one.others(), 1)
    assert [(stored.view, stored.phase) for stored in one.stored] == [
        (1, Phase.PREVOTE),
        (1, Phase.PRECOMMIT),
    ]


def test_who_has_not_prevoted_is_locked_by_a_certificate_too() -> None:
    one = Puppets(follower(), PLAN4, Items(PLAN4, range(3)))
    one.propose(0, ALL4)
    one.lock(0, ALL4)
    assert not one.said(Prevote)
    assert one.said(Precommit)


def test_votes_of_other_slots_sessions_and_signers_count_for_nothing() -> None:
    for slot in (
        {"round": 8},
        {"name": "dealers"},
        {"attempt": 0},
        {"session": digest("another session")},
        {"view": 1},
        {"phase": Phase.PRECOMMIT},
        {"signer": None},
    ):
        one = Puppets(named(0), PLAN4)
        for name in one.others():
            given: dict[str, Any] = {"view": 0, "phase": Phase.PREVOTE, "value": ALL4} | slot
            signer = given.pop("signer", name) or one.me
            signature = one.vote(signer, **given)
            one.at(name, 0, Prevote(value_hash(ALL4), signature))
        assert not one.said(Locked), slot
        one.prevote(one.others(), 0, ALL4)  # the first message of a slot counts
        assert not one.said(Locked), slot


def test_precommits_without_prevotes_decide_nothing_with_t_voters() -> None:
    one = Puppets(named(0), PLAN4)
    one.precommit(one.others()[: PLAN4.quorum - 1], 0, ALL4)
    assert one.decision is None
    assert not one.said(Locked)


def test_a_proposal_of_another_than_the_leader_or_unsigned_is_none() -> None:
    one = Puppets(follower(), PLAN4)
    other = next(name for name in one.others() if name != one.leader(0))
    signature = one.vote(other, 0, Phase.PROPOSE, ALL4)
    one.at(other, 0, Proposal(ALL4, 0, b"", signature))
    one.at(one.leader(0), 0, Proposal(ALL4, 0, b"", signature))
    assert not one.said(Prevote)


def seen(one: Puppets, view: int, value: bytes) -> tuple[int, bytes, bytes]:
    return view, value_hash(value), one.vote(one.leader(view), view, Phase.PROPOSE, value)


def test_who_leaves_a_view_tells_all_what_its_leader_has_shown_there() -> None:
    one = Puppets(follower(), PLAN4, Items(PLAN4, range(2)))
    one.propose(0, ALL4)
    one.propose(1, SOME4)  # not entered yet
    assert not one.said(Prevote)
    one.waits(PLAN4.view_s)
    for name in one.others():
        [(_, message)] = one.said(Change, name)
        assert (message.seen_view, message.seen, message.of_leader) == seen(one, 0, ALL4)


def test_a_leader_that_has_shown_two_voters_two_values_is_convicted() -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    one.change(one.others()[:1], 0, seen=seen(one, 0, SOME4))
    one.decided(0, ALL4)
    assert one.decision is not None
    assert one.decision.evidence[one.leader(0)].convinces(PLAN4)
    assert set(one.decision.evidence) == {one.leader(0)}


def test_a_leader_that_has_shown_another_value_than_was_decided_is_convicted() -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, SOME4)
    one.decided(0, ALL4)
    assert one.decision is not None
    assert one.decision.value == ALL4
    assert one.decision.evidence[one.leader(0)].convinces(PLAN4)


def test_what_was_shown_is_verified_where_it_convicts_and_once_from_a_liar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    counted = Counted(monkeypatch)
    a, b, c = one.others()
    one.change([a, b, c], 0)  # nothing was shown to them
    one.change([a, b, c], 0, seen=seen(one, 0, ALL4))
    one.change([a, b, c], 0, seen=seen(one, 3, SOME4))  # nothing is known of this one
    one.change([a], 0, seen=(1 << 63, bytes(32), bytes([1]) * 64))
    assert counted.count == 0
    for _ in range(5):
        one.change([a, b], 0, seen=(0, value_hash(SOME4), bytes([1]) * 64))
    assert counted.count == 2
    one.change([a], 0, seen=seen(one, 0, SOME4))
    assert counted.count == 2
    for _ in range(5):
        one.change([c], 0, seen=seen(one, 0, SOME4))
    one.change([b, c], 0, seen=seen(one, 0, bits([0, 1, 3], 4)))  # it is convicted already
    assert counted.count == 3
    one.decided(0, ALL4)
    assert one.decision is not None
    assert set(one.decision.evidence) == {one.leader(0)}


def test_nobody_is_convicted_by_what_it_has_not_signed() -> None:
    me = named(0)
    one = Puppets(me, PLAN4)
    name = one.others()[0]
    for forged in (bytes([1]) * 64, one.vote(name, 0, Phase.PROPOSE, SOME4)):
        one.change(one.others(), 0, seen=(0, value_hash(SOME4), forged))
    one.prevote(one.others(), 0, ALL4)
    one.precommit(one.others(), 0, ALL4)
    assert one.decision is not None
    assert not one.decision.evidence


def locked_in_view_1(**given: Any) -> Puppets:
    one = Puppets(follower(1), PLAN4, **given)
    one.locked(ALL4)
    assert one.stored[-1].phase == Phase.PRECOMMIT
    return one


def test_a_locked_voter_refuses_another_value_without_a_certificate() -> None:
    one = locked_in_view_1()
    one.propose(1, SOME4)
    assert [view for view, _ in one.said(Prevote)] == [0]
    assert one.subject.judged == [ALL4]


def test_a_locked_voter_takes_its_own_value_untested() -> None:
    one = locked_in_view_1()
    one.subject.first = frozenset({9})
    one.propose(1, ALL4)
    assert [view for view, _ in one.said(Prevote)] == [0, 1]


def test_a_certificate_moves_who_is_locked_unless_it_is_older() -> None:
    plan = make_plan(7)
    first, second = bits(range(7), 7), bits(range(6), 7)
    one = Puppets(idle((0, 1, 3, 4), plan), plan)
    one.locked(first)
    one.propose(1, first)
    one.lock(1, first)  # locked in view 1 now
    one.change(one.others(), 3)
    one.propose(3, second, (0, one.proof(0, Phase.PREVOTE, second)))
    assert [view for view, _ in one.said(Prevote)] == [0, 1]
    one.change(one.others(), 4)
    one.propose(4, second, (2, one.proof(2, Phase.PREVOTE, second)))
    assert [view for view, _ in one.said(Prevote)] == [0, 1, 4]


def test_what_q_voters_would_have_is_voted_for_without_items() -> None:
    one = Puppets(follower(1), PLAN4, Items(PLAN4, range(3)))
    one.change(one.others(), 1)
    one.propose(1, ALL4, (0, one.proof(0, Phase.PREVOTE, ALL4)))
    assert one.said(Prevote)
    assert not one.subject.judged


@pytest.mark.parametrize(
    "wrong",
    [
        {"phase": Phase.PRECOMMIT},
        {"view": 1},
        {"round": 8},
        {"attempt": 0},
        {"name": "dealers"},
        {"session": digest("another session")},
        {"value": SOME4},
        {"names": ["p00", "p01"]},
    ],
)
def test_a_certificate_that_proves_something_else_proves_nothing(wrong: dict[str, Any]) -> None:
    one = Puppets(follower(1), PLAN4)
    one.change(one.others(), 1)
    made: dict[str, Any] = {"view": 0, "phase": Phase.PREVOTE, "value": ALL4} | wrong
    one.propose(1, ALL4, (0, one.proof(**made)))
    assert not one.said(Prevote)


def test_a_certificate_of_this_view_or_a_later_one_carries_nothing() -> None:
    for proof_view in (1, 2, 1 << 63):
        one = Puppets(follower(1), PLAN4)
        one.change(one.others(), 1)
        one.propose(1, ALL4, (proof_view, one.proof(proof_view, Phase.PREVOTE, ALL4)))
        assert not one.said(Prevote)


def test_repeated_voters_in_a_certificate_count_once() -> None:
    one = Puppets(follower(1), PLAN4)
    one.change(one.others(), 1)
    vote = one.vote("p00", 0, Phase.PREVOTE, ALL4)
    one.propose(1, ALL4, (0, pack(PLAN4, dict.fromkeys(PLAN4.voters, vote))))
    assert not one.said(Prevote)


def test_a_second_proposal_of_a_view_changes_nothing() -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    one.propose(0, SOME4)
    assert [message.what for _, message in one.said(Prevote)] == [value_hash(ALL4)]


def test_who_has_said_that_a_view_is_over_votes_no_more_in_it() -> None:
    one = Puppets(follower(), PLAN4)
    one.waits(PLAN4.view_s)
    assert [message.view for _, message in one.said(Change)] == [1]
    one.propose(0, ALL4)
    one.lock(0, ALL4)
    assert not one.stored
    one.decided(0, ALL4)  # but a decision is a decision
    assert one.decision is not None
    two = Puppets(named(0), PLAN4)
    two.waits(PLAN4.view_s)
    two.prevote(two.others(), 0, ALL4)
    assert not two.said(Locked)
    two.precommit(two.others(), 0, ALL4)
    assert two.decision is not None


def test_t_voters_move_nobody_t_plus_1_do_and_a_view_begins_with_q() -> None:
    plan = make_plan(7)
    one = Puppets(follower(5, plan), plan)
    others = one.others()
    one.change(others[:2], 5)
    assert not one.said(Change)
    one.change(others[2:3], 5)
    assert [message.view for _, message in one.said(Change)] == [5]
    one.propose(5, bits(range(7), 7))
    assert not one.said(Prevote)  # with itself four are there
    one.change(others[3:4], 5)  # too far ahead until now, so it asks
    assert [message.asks for _, message in one.said(Change)] == [False, True]
    one.propose(5, bits(range(7), 7))  # what was refused as too early is not a slot's first
    assert one.said(Prevote)


def test_what_came_too_early_is_taken_when_it_is_said_again() -> None:
    one = Puppets(follower(5), PLAN4)
    one.propose(5, ALL4)
    one.change(one.others(), 5)
    one.propose(5, ALL4)
    assert [view for view, _ in one.said(Prevote)] == [5]


def test_what_came_a_view_early_is_kept() -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(1, ALL4)
    assert not [view for view, _ in one.said(Prevote) if view == 1]
    one.change(one.others(), 1)
    assert [view for view, _ in one.said(Prevote) if view == 1]


def test_the_newest_change_of_a_voter_counts() -> None:
    one = Puppets(follower(), PLAN4)
    a, b, _ = one.others()
    one.change([a], 5, number=8)
    one.change([a], 0, number=9)
    one.change([a], 5, number=7)
    one.change([b], 5)
    assert not one.said(Change)


def test_a_leader_waits_for_locks_and_proposes_the_latest_that_proves_itself() -> None:
    me = named(3)
    one = Puppets(me, PLAN4, Items(PLAN4, range(4)))
    a, b, c = one.others()
    other = bits([0, 1, 3], 4)
    forged = pack(PLAN4, dict.fromkeys(PLAN4.voters, bytes(64)))
    one.change([a], 3, (SOME4, 0, one.proof(0, Phase.PREVOTE, SOME4)))
    one.change([b], 3, (other, 1, one.proof(1, Phase.PREVOTE, other)))
    one.change([c], 3, (ALL4, 2, forged))
    assert not one.said(Proposal)
    one.waits(PLAN4.length_s(3) / 4)
    [(view, message)] = one.said(Proposal)
    assert (view, message.value, message.proof_view) == (3, other, 1)
    assert not one.subject.judged


def test_a_false_lock_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    one = Puppets(named(3), PLAN4, Items(PLAN4, range(2)))
    forged = pack(PLAN4, dict.fromkeys(PLAN4.voters, bytes(64)))
    one.change(one.others(), 3, (ALL4, 2, forged))
    one.waits(PLAN4.length_s(3) / 4)
    for index in range(2, 4):  # not ready before it has three items
        one.gives("p00" if one.me != "p00" else "p01", ((ITEM[0], index),), Item(bytes(32)))
    assert counted.count == 3


def test_a_lock_of_a_view_that_has_not_been_is_not_proposed() -> None:
    one = Puppets(named(3), PLAN4)
    one.change(one.others(), 3, (SOME4, 3, one.proof(3, Phase.PREVOTE, SOME4)))
    one.waits(PLAN4.length_s(3) / 4)
    [(_, message)] = one.said(Proposal)
    assert (message.value, message.proof) == (ALL4, b"")


def test_a_leader_prefers_its_own_lock_unless_another_is_later() -> None:
    for view, expected in ((0, ALL4), (1, SOME4)):
        one = Puppets(named(2), PLAN4)
        one.locked(ALL4, 0)
        one.change(one.others(), 2, (SOME4, view, one.proof(view, Phase.PREVOTE, SOME4)))
        one.waits(PLAN4.length_s(2) / 4)
        assert [message.value for _, message in one.said(Proposal)] == [expected]


def test_a_view_change_carries_the_lock_to_its_leader_alone() -> None:
    one = locked_in_view_1()
    one.change(one.others(), 2)
    for name in one.others():
        [message] = [m for _, m in one.said(Change, name) if m.view == 2]
        if name == named(2):
            assert (message.value, message.proof_view) == (ALL4, 0)
            votes = unpack(PLAN4, message.proof)
            assert votes is not None
            slot = Slot(INSTANCE, 0, Phase.PREVOTE)
            assert Certificate(slot, value_hash(ALL4), votes).holds(PLAN4)
        else:
            assert (message.value, message.proof) == (b"", b"")


def test_a_voter_asks_the_leader_once_for_what_it_lacks() -> None:
    one = Puppets(follower(), PLAN4, Items(PLAN4, range(3)))
    one.propose(0, ALL4)
    assert not one.said(Prevote)
    one.gives("p03", ((ITEM[0], 3),), Item(bytes(32)))
    assert not one.said(Prevote)
    asked = [name for name, frame in one.sent if frame.kind == "Have"]
    assert asked == [one.leader(0)]
    one.gives(one.leader(0), ((ITEM[0], 3),), Item(content(3)))
    assert one.said(Prevote)


def test_a_leader_asks_all_for_what_it_lacks_before_it_proposes_again() -> None:
    one = Puppets(named(1), PLAN4, Items(PLAN4, range(3)))
    one.change(one.others(), 1)
    assert sorted(n for n, frame in one.sent if frame.kind == "Have") == sorted(one.others())
    one.gives(one.others()[0], ((ITEM[0], 3),), Item(content(3)))
    one.waits(PLAN4.length_s(1) / 4)
    assert [message.value for _, message in one.said(Proposal)] == [ALL4]


def test_who_asks_is_answered_and_not_too_often() -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    asker = one.leader(0)
    one.change([asker], 0)
    assert len([n for n, f in one.sent if f.kind == "Prevote" and n == asker]) == 1
    one.change([asker], 0, asks=True)
    assert len([n for n, f in one.sent if f.kind == "Prevote" and n == asker]) == 2
    for _ in range(20):
        one.change([asker], 0, asks=True)
        one.gives(asker, ((ASK[0], 2), (ASK[1], _)), Have(bits([0, 1], 4)))
    assert len([n for n, f in one.sent if f.kind == "Prevote" and n == asker]) == 1 + 3
    assert one.subject.gave == 2 * 3
    one.waits(PLAN4.view_s)
    before = one.subject.gave
    one.gives(asker, ((ASK[0], 3), (ASK[1], 0)), Have(bits([0, 1], 4)))
    assert one.subject.gave == before + 2


def test_who_asks_hears_again_what_was_for_it() -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    other = next(name for name in one.others() if name != one.leader(0))
    one.change([other], 0, asks=True)
    assert [name for name, _ in one.sent] == [one.leader(0)]  # its vote is for the leader
    two = Puppets(named(0), PLAN4)
    two.prevote(two.others(), 0, ALL4)
    two.sent.clear()
    two.change([other], 0, asks=True)
    assert [(n, f.kind) for n, f in two.sent] == [(other, "Proposal"), (other, "Locked")]


def test_who_asks_hears_where_the_others_are() -> None:
    one = Puppets(follower(5), PLAN4)
    one.change(one.others()[:2], 5)
    one.sent.clear()
    one.change([one.others()[2]], 0, asks=True)
    assert [(name, frame.kind) for name, frame in one.sent] == [(one.others()[2], "Change")]
    assert [message.view for _, message in one.said(Change)] == [5]


def test_who_has_decided_shows_it_not_too_often_and_keeps_no_late_votes() -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    one.decided(0, ALL4)
    assert one.decision is not None
    asker = one.others()[0]
    for number in range(20):
        one.change([asker], 1)
        one.gives(asker, ((ASK[0], 2), (ASK[1], number)), Have(bits([0, 1], 4)))
    shown = [message for name, frame in one.sent for message in [frame.kind] if name == asker]
    assert shown.count("Decided") == 3
    assert one.subject.gave == 2 * 3
    [(_, message)] = one.said(Decided, asker)
    assert Decision.of(PLAN4, INSTANCE, message) is not None
    one.waits(PLAN4.view_s)
    one.change([asker], 2)
    assert [n for n, frame in one.sent if frame.kind == "Decided"] == [asker] * 4
    one.prevote(one.others(), 0, ALL4)
    one.gives(asker, ((DECIDED[0], 0),), message)
    one.gives(asker, ((ITEM[0], 0),), Item(content(0)))
    assert not any(frames for frames, _ in one.party._mail._unread.values())


def test_a_decision_is_taken_from_anybody_if_it_proves_itself() -> None:
    for phase, ok in ((Phase.PRECOMMIT, True), (Phase.PREVOTE, False)):
        one = Puppets(follower(), PLAN4)
        a, b, _ = one.others()
        proof = one.proof(9, phase, SOME4)
        one.decided(9, ALL4, a, proof=proof)
        assert one.decision is None
        one.decided(9, SOME4, b, proof=proof)
        assert (one.decision is not None) is ok
        assert one.decision is None or one.decision.holds(PLAN4)


def test_a_decision_comes_with_the_proposals_signature_and_goes_on_with_it() -> None:
    one = Puppets(follower(), PLAN4)
    a, b, c = one.others()
    other = one.vote(a, 9, Phase.PROPOSE, ALL4)
    for sender, wrong in ((a, bytes(64)), (b, other)):
        one.decided(9, ALL4, sender, of_leader=wrong)
        assert one.decision is None
    one.decided(9, ALL4, c)
    one.change([a], 1)
    [(_, message)] = one.said(Decided)
    assert message.of_leader == one.vote(one.leader(9), 9, Phase.PROPOSE, ALL4)
    two = Puppets(follower(), PLAN4)  # who knows it goes on with that one
    two.propose(0, ALL4)
    two.decided(0, ALL4, of_leader=bytes(64))
    two.change([a], 1)
    [(_, message)] = two.said(Decided)
    assert message.of_leader == two.vote(two.leader(0), 0, Phase.PROPOSE, ALL4)


def test_nobody_but_a_leader_shows_a_decision_unasked() -> None:
    one = Puppets(follower(), PLAN4)
    one.decided(0, ALL4, of_leader=bytes(64))
    one.propose(0, ALL4)
    assert not one.said(Decided)
    assert one.decision is None
    one.decided(0, ALL4, one.others()[-1])
    assert one.decision is not None
    assert not one.said(Decided)


def test_a_leader_with_three_values_delays_no_decision() -> None:
    """Two are known, and no third is kept; what q have precommitted is decided all the same."""
    one = Puppets(follower(), PLAN4)
    a, b, _ = one.others()
    third = bits([0, 1, 3], 4)
    one.propose(0, ALL4)
    one.change([a], 0, seen=seen(one, 0, SOME4))
    one.decided(0, third, b)
    assert one.decision is not None
    assert one.decision.value == third
    assert one.decision.evidence[one.leader(0)].convinces(PLAN4)
    assert one.decision.of_leader == one.vote(one.leader(0), 0, Phase.PROPOSE, third)


def test_a_void_is_voted_for_after_its_deadline_where_it_is_allowed() -> None:
    for voids, view, ok in ((True, 2, False), (True, 3, True), (False, 3, False)):
        one = Puppets(follower(view), PLAN4, voids=voids)
        one.change(one.others(), view)
        one.propose(view, VOID)
        assert any(at == view for at, _ in one.said(Prevote)) is ok, (voids, view)
        assert VOID not in one.subject.judged


def test_a_leader_gives_up_when_it_has_nothing_or_nothing_was_ever_taken() -> None:
    for view, held, expected in ((2, 2, []), (3, 2, [VOID]), (3, 4, [ALL4]), (6, 4, [VOID])):
        one = Puppets(named(view), PLAN4, Items(PLAN4, range(held), voids=True))
        one.change(one.others(), view)
        one.waits(PLAN4.length_s(view) / 4)
        assert [message.value for _, message in one.said(Proposal)] == expected, (view, held)
    one = Puppets(named(6), PLAN4, Items(PLAN4, range(4)))
    one.change(one.others(), 6)
    one.waits(PLAN4.length_s(6) / 4)
    assert [message.value for _, message in one.said(Proposal)] == [ALL4]


def test_a_subject_that_proposes_what_is_no_value_is_our_bug() -> None:
    for value in (VOID, bytes(2)):
        subject = Items(PLAN4, range(4))
        subject.propose = lambda value=value: value  # type: ignore[method-assign]
        with pytest.raises(ValueError, match="a value has 1 to 1 bytes"):
            Puppets(named(0), PLAN4, subject)


def test_views_far_ahead_and_long_values_take_no_memory() -> None:
    one = Puppets(follower(), PLAN4)
    liar = one.others()[0]
    for view in range(2, 3000):
        one.at(liar, view, Precommit(bytes(32), bytes(64)))
        one.gives(liar, ((DECIDED[0], view),), Decided(0, ALL4, b"", UNSIGNED))
    one.at(one.leader(0), 0, Proposal(bytes(2), 0, b"", bytes(64)))
    assert {"malformed"} <= {event["event"] for event in one.events}
    mail = one.party._mail
    assert sum(len(slot) for slot in mail._slots.values()) < 10


def test_views_that_are_long_over_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    voters: list[Voter] = []
    advance = Voter._advance
    monkeypatch.setattr(Voter, "_advance", lambda self: (voters.append(self), advance(self))[1])
    plan = make_plan(7)
    one = Puppets(idle(range(4), plan), plan)
    for view in range(40):
        one.change(one.others(), view)
        if one.leader(view) != one.me:
            one.propose(view, bits(range(7), 7))
            one.lock(view, bits(range(7), 7))
    assert len(one.said(Prevote)) > 30
    assert len(voters[-1].tally._of) <= 3 * (KEPT_VIEWS + 1)
    assert len(voters[-1].proposals) <= 1


# --- restarts -------------------------------------------------------------------------------------


def test_a_restarted_voter_says_the_same_again_and_nothing_else() -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    again = Puppets(one.me, PLAN4, restored=one.stored, life=2)
    assert again.said(Prevote) == one.said(Prevote)
    assert again.order == ["sign"]
    again.propose(0, SOME4)
    assert again.said(Prevote) == one.said(Prevote)
    again.lock(0, SOME4)
    assert not again.said(Precommit)
    assert [message.asks for _, message in again.said(Change)] == [True]
    labels = {frame.label for _, frame in again.sent if frame.kind == "Change"}
    assert labels == {((ASK[0], 2), (ASK[1], 1))}  # no earlier process has used it


def test_a_restarted_voter_is_locked_as_before() -> None:
    one = locked_in_view_1()
    again = Puppets(one.me, PLAN4, restored=one.stored, life=2)
    assert again.said(Precommit) == one.said(Precommit)
    again.change(again.others(), 1)
    again.propose(1, SOME4)
    assert [view for view, _ in again.said(Prevote)] == [0]
    again.change(again.others(), 2)
    [message] = [m for _, m in again.said(Change, named(2)) if m.view == 2]
    assert message.value == ALL4


def test_a_restarted_voter_knows_what_its_leader_has_shown() -> None:
    one = Puppets(follower(), PLAN4)
    one.propose(0, ALL4)
    again = Puppets(one.me, PLAN4, restored=one.stored, life=2)
    again.change(again.others()[:1], 0, seen=seen(again, 0, SOME4))
    again.decided(0, ALL4)
    assert again.decision is not None
    assert again.decision.evidence[again.leader(0)].convinces(PLAN4)
    again = Puppets(one.me, PLAN4, restored=one.stored, life=2)
    again.waits(PLAN4.view_s)
    [message] = [m for _, m in again.said(Change) if m.view == 1]
    assert (message.seen_view, message.seen, message.of_leader) == seen(one, 0, ALL4)


def test_a_restarted_leader_proposes_the_same_again() -> None:
    one = Puppets(named(0), PLAN4)
    again = Puppets(named(0), PLAN4, Items(PLAN4, range(3)), restored=one.stored[:1], life=2)
    assert again.said(Proposal) == one.said(Proposal)
    one.prevote(one.others(), 0, ALL4)
    again = Puppets(named(0), PLAN4, restored=one.stored, life=2)
    assert again.said(Proposal) == one.said(Proposal)
    assert again.said(Locked) == one.said(Locked)
    again.precommit(again.others()[:2], 0, ALL4)
    assert again.decision is not None


def test_what_was_stored_must_prove_its_lock() -> None:
    stored = Stored(0, Phase.PRECOMMIT, ALL4, 0, bytes(193), bytes(64))
    with pytest.raises(ValueError, match="proves no lock"):
        Puppets(follower(), PLAN4, restored=[stored], life=2)


def test_nothing_is_signed_where_storing_fails() -> None:
    def store(stored: Stored) -> None:
        raise Killed

    one = Puppets(follower(), PLAN4, store=store)
    one.propose(0, ALL4)
    assert one.order == ["store 0 1"]
    assert not one.said(Prevote)
    assert isinstance(one.party.error, Abort)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("phase", list(Phase))
def test_voters_that_die_at_any_signature_decide_the_same(phase: Phase, durable: bool) -> None:
    """Every voter dies as it stores this phase in its first view, before or after the write."""
    died: set[str] = set()

    def kill(name: str, stored: Stored) -> bool:
        if stored.phase != phase or name in died:
            return False
        died.add(name)
        return True

    world = World(PLAN4, **({"after_store": kill} if durable else {"before_store": kill})).run()
    assert world.values() == {ALL4}
    assert len(world.decisions) == 4
    assert died
    assert never_two_signed(world)


def never_two_signed(world: World) -> bool:
    """Whether every honest voter has stored one value in a slot, in the order of slots."""
    for stored in world.stored.values():
        slots = [(one.view, one.phase) for one in stored]
        if slots != sorted(set(slots)):
            return False
    return True


# --- worlds ---------------------------------------------------------------------------------------


async def silent(net: Net) -> None:
    await net.sleep(0.0)


@pytest.mark.parametrize("n", [1, 4, 7])
def test_undisturbed_all_decide_in_the_first_view(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    world = World(make_plan(n)).run()
    assert world.values() == {bits(range(n), n)}
    assert set(world.decided_views()) == {0}
    assert counted.count <= n * (2 * world.plan.quorum + 1)
    assert world.simulation.frames == 5 * (n - 1)
    assert world.last_view() == 0
    for decision in world.decisions.values():
        assert decision.holds(world.plan)
        assert not decision.evidence
        assert not decision.void


def test_a_decision_convinces_whoever_reads_it_later() -> None:
    world = World(PLAN4).run()
    decision = world.decisions["p00"]
    message = decision.message(PLAN4)
    form = Decided.form(**dims(PLAN4, 1))
    read = Decision.of(PLAN4, INSTANCE, form.decode(message.encode()))
    assert read is not None
    assert (read.value, read.certificate.what) == (decision.value, decision.certificate.what)
    assert Decision.of(PLAN4, INSTANCE._replace(round=8), message) is None
    assert Decision.of(PLAN4, INSTANCE, replace(message, value=SOME4)) is None
    assert Decision.of(PLAN4, INSTANCE, replace(message, view=1)) is None
    assert Decision.of(PLAN4, INSTANCE, replace(message, proof=b"")) is None
    prevotes = signatures(PLAN4, list(PLAN4.voters), Slot(INSTANCE, 0, Phase.PREVOTE), ALL4)
    of = Certificate(Slot(INSTANCE, 0, Phase.PREVOTE), value_hash(ALL4), prevotes)
    assert of.holds(PLAN4)
    assert not Decision(ALL4, of, {}).holds(PLAN4)
    assert not replace(decision, value=SOME4).holds(PLAN4)


@pytest.mark.parametrize(("n", "t", "dropouts"), [(4, 1, 0), (7, 2, 0), (8, 1, 2)])
def test_bad_leaders_in_a_row_cost_a_view_each(n: int, t: int, dropouts: int) -> None:
    plan = make_plan(n, t, dropouts=dropouts)
    bad = [plan.leader(INSTANCE, view) for view in range(t + dropouts)]
    world = World(plan, programs=dict.fromkeys(bad, silent)).run()
    assert len(world.values()) == 1
    assert set(world.decided_views()) == {t + dropouts}


def test_who_comes_after_the_decision_is_shown_it() -> None:
    late = follower()
    world = World(PLAN4, starts_s={late: 100.0}).run(all_of=plan_others(PLAN4, late))
    assert late not in world.decisions
    world = World(PLAN4, starts_s={late: 100.0}, adversary=Deaf(late, 99.0)).run()
    assert world.values() == {ALL4}
    assert len(world.decisions) == 4
    assert late not in world.stored


class Deaf:
    """Nothing (of a kind) reaches a party before some time, and nothing is sent again."""

    corrupt: frozenset[str] = frozenset()

    def __init__(self, party: str, until_s: float, kind: str | None = None) -> None:
        self.party, self.until_s, self.kind = party, until_s, kind

    def on_send(self, now: float, sender: str, to: str, frame: Any) -> Any:
        if to != self.party or now >= self.until_s or self.kind not in (None, frame.kind):
            yield Delivery(sender, to, frame)


def test_who_loses_all_that_was_said_asks_for_it() -> None:
    """One voter is silent, so that the deaf one is needed, and hears nothing of the first view."""
    deaf = follower()
    dead = next(n for n in PLAN4.voters if n not in (deaf, named(0), named(1)))
    world = World(PLAN4, programs={dead: silent}, adversary=Deaf(deaf, 3 * PLAN4.view_s)).run()
    assert world.values() == {ALL4}
    assert len(world.decisions) == 3


def test_a_value_that_omits_what_was_held_is_refused_and_the_next_leader_has_it() -> None:
    plan = make_plan(7)
    omitting = named(0, plan)
    held = {name: range(7) for name in plan.voters} | {omitting: range(6), named(1, plan): range(6)}
    world = World(plan, held=held).run()
    assert world.values() == {bits(range(7), 7)}
    assert set(world.decided_views()) == {1}
    assert all(
        s.phase != Phase.PREVOTE or s.value == bits(range(7), 7) or n in (omitting, named(1, plan))
        for n, ss in world.stored.items()
        for s in ss
    )


def test_items_that_some_lack_are_given_in_the_same_view() -> None:
    plan = make_plan(7)
    lacking = [name for name in plan.voters if name != named(0, plan)][:3]
    world = World(plan, held=dict.fromkeys(lacking, range(1, 7))).run()
    assert world.values() == {bits(range(7), 7)}
    assert set(world.decided_views()) == {0}
    assert all(subject.held == set(range(7)) for subject in world.subjects.values())


def test_nobody_returns_without_what_the_decision_speaks_of() -> None:
    """A voter that decides by a certificate alone still collects the items."""
    late = follower()
    held = {late: range(3)}
    world = World(PLAN4, held=held, starts_s={late: 50.0}, adversary=Deaf(late, 49.0)).run()
    assert world.values() == {ALL4}
    assert world.subjects[late].held == set(range(4))


def test_items_are_asked_for_until_they_come() -> None:
    lacking = follower()
    deaf = Deaf(lacking, 30.0, kind="Item")
    world = World(PLAN4, held={lacking: range(3)}, adversary=deaf).run()
    assert world.subjects[lacking].held == set(range(4))
    assert world.simulation.now > 30.0


class Splitter:
    """A leader that signs two values, shows each to a part and goes on with what q would have.

    It ends after ``steps``: 0 with the proposals, 1 shows certificates, 2 decisions to some, 3 to
    all.
    """

    def __init__(self, plan: Plan, parts: dict[bytes, list[str]], steps: int) -> None:
        self.plan, self.parts, self.steps = plan, parts, steps

    async def __call__(self, net: Net) -> None:
        others = plan_others(self.plan, net.me)
        sign, votes = pair(net.me)[0], dict[tuple[Phase, bytes], dict[str, bytes]]()
        here, values = net.sub(VIEW[0], 0), {value_hash(value): value for value in self.parts}
        for what, value in values.items():
            for phase in Phase:
                signature = sign(stated(SESSION, Slot(INSTANCE, 0, phase), what))
                votes[phase, what] = {net.me: signature}
            of_leader = votes[Phase.PROPOSE, what][net.me]
            here.broadcast(self.parts[value], Proposal(value, 0, b"", of_leader))
        inboxes = [Inbox(VIEW, m.form(), frozenset(others)) for m in (Prevote, Precommit)]
        while True:
            got = await net.arrival(*inboxes)
            assert got is not None
            phase, what = Phase(got.place + 1), got.message.what
            votes[phase, what][got.sender] = got.message.signature
            if len(votes[phase, what]) != self.plan.quorum or got.place >= self.steps:
                continue
            proof, part = pack(self.plan, votes[phase, what]), self.parts[values[what]]
            if phase == Phase.PREVOTE:
                here.broadcast(part, Locked(what, proof))
                continue
            decided = Decided(0, values[what], proof, votes[Phase.PROPOSE, what][net.me])
            net.sub(DECIDED[0]).broadcast(part[:1] if self.steps == 2 else others, decided)


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_leader_that_splits_decides_nothing_twice_and_is_convicted(cut: int, steps: int) -> None:
    leader = named(0)
    others = plan_others(PLAN4, leader)
    parts = {ALL4: others[:cut], SOME4: others[cut:]}
    held = dict.fromkeys(others, range(3))
    world = World(PLAN4, held=held, programs={leader: Splitter(PLAN4, parts, steps)})
    world.subject = lambda name: Items(PLAN4, range(4) if name in parts[ALL4] else range(3))
    world.run()
    assert len(world.values()) == 1
    blamed = {name for d in world.decisions.values() for name in d.evidence}
    assert blamed <= {leader}
    assert bool(blamed) is (0 < cut < 3)
    for decision in world.decisions.values():
        assert all(evidence.convinces(PLAN4) for evidence in decision.evidence.values())


class Withholder:
    """The liar of the known trap: its item goes to some, its certificate locks one of them.

    It leads view 0: the value with the item of its own, shown to all; the others lack the item.
    """

    def __init__(self, plan: Plan, shown: list[str], locked: str) -> None:
        self.plan, self.shown, self.locked = plan, shown, locked

    async def __call__(self, net: Net) -> None:
        sign, value = pair(net.me)[0], bits(range(4), 4)
        what = value_hash(value)
        proposal, prevote, _ = (
            sign(stated(SESSION, Slot(INSTANCE, 0, phase), what)) for phase in list(Phase)
        )
        others, here = plan_others(self.plan, net.me), net.sub(VIEW[0], 0)
        here.broadcast(others, Proposal(value, 0, b"", proposal))
        got = await here.quorum(Prevote.form(), others, self.plan.quorum - 1)
        votes = {name: message.signature for name, message in got.messages.items()}
        here.send(self.locked, Locked(what, pack(self.plan, votes | {net.me: prevote})))
        await silent(net)


def trapped() -> World:
    """p_liar's item is held by two of three; one of them is locked on it, the others may not be."""
    liar = named(0)
    a, b, c = plan_others(PLAN4, liar)
    index = list(PLAN4.voters).index(liar)
    without = set(range(4)) - {index}
    world = World(PLAN4, programs={liar: Withholder(PLAN4, [a, b], a)})
    world.subject = lambda name: Items(PLAN4, without if name == c else range(4))
    return world


class Stubborn(Items):
    """Gives nothing away: the schedule in which forwarding does not help in time."""

    def give(self, net: Net, to: str, have: bytes) -> None:
        pass


def stubborn(world: World) -> World:
    make = world.subject
    assert make is not None
    world.subject = lambda name: Stubborn(PLAN4, make(name).held)
    return world


def test_the_trap_one_locked_with_a_withheld_item_the_others_without() -> None:
    world = trapped().run(2000)
    assert world.values() == {ALL4}
    assert len(world.decisions) == 3
    assert max(world.decided_views()) <= PLAN4.t + 1
    assert all(s.held == set(range(4)) for s in world.subjects.values())


def test_the_trap_holds_for_ever_where_locked_values_are_tested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same schedule, items never forwarded, with and without the rule on certificates."""
    with_rule = stubborn(trapped())
    with_rule.run(300)
    assert any(stored for stored in with_rule.stored.values())
    voted = {
        name for name, of in with_rule.stored.items() for s in of if s.phase == Phase.PRECOMMIT
    }
    assert len(voted) == 3  # all were moved by the certificate, c too, which lacks the item

    def tested(self: Voter, proposed: Any) -> bool:
        lock = self.views.lock
        if lock is not None and proposed.value != lock.value:
            return proposed.proof_view >= lock.view
        return self.subject.judge(proposed.value) is Verdict.ACCEPT

    monkeypatch.setattr(Voter, "_acceptable", tested)
    without = stubborn(trapped()).run(300)
    assert not without.decisions
    assert without.last_view() > 15


def test_an_instance_without_a_value_is_void_after_its_deadline() -> None:
    held = dict.fromkeys(PLAN4.voters, range(2))
    world = World(PLAN4, held=held, voids=True).run()
    assert world.values() == {VOID}
    assert all(decision.void and decision.holds(PLAN4) for decision in world.decisions.values())
    assert set(world.decided_views()) == {PLAN4.deadline}
    assert len(World(PLAN4, held=held).run(200.0).decisions) == 0


# --- schedules ------------------------------------------------------------------------------------


def schedule(seed: int, n: int, *, quick: bool = True) -> World:
    """One world of that seed: t liars, late frames, kills, items that only some hold."""
    draw, plan = random.Random(seed), make_plan(n)
    names = list(plan.voters)
    liars = draw.sample(names, plan.t)
    dark = draw.choice(["", NOBODY, "one"])
    second = plan.leader(INSTANCE, 1)
    if dark == NOBODY and second not in liars:  # who leads after one has decided alone
        liars[0] = second
    honest = [name for name in names if name not in liars]
    first, outcast = draw.sample(honest, 2)
    hermit = first if dark == "one" else dark
    signs = {name: quick_sign(name) if quick else pair(name)[0] for name in liars}
    plot = Plot(plan, INSTANCE, signs, seed)
    withheld = {names.index(name) for name in liars if draw.random() < 0.7}
    held = {name: set(range(n)) - {i for i in withheld if draw.random() < 0.5} for name in honest}
    calm_s = draw.choice([0.0, 8.0, 16.0, 30.0])
    budget = draw.choice([3, 12, 24]) // plan.t + 1
    dying, at_s = draw.sample(honest, draw.choice([0, 1, 2])), draw.uniform(0.0, 9.0)
    world = World(
        plan,
        programs={name: Liar(plot, budget) for name in liars},
        seed=seed,
        quick=quick,
        adversary=Storm(
            seed,
            calm_s,
            draw.choice([0.0, 0.1, 0.3, 0.5]),
            frozenset(liars),
            plan.view_s,
            hermit,
            outcast if dark else "",
        ),
        kills={name: [draw.uniform(0.0, 9.0) for _ in range(2)] for name in dying[:1]},
        crashes=[Crash(name, at_s, at_s + draw.uniform(0.0, 6.0)) for name in dying[1:]],
    )
    world.subject = lambda name: Tagged(plan, held[name], names.index(name))
    return replace(world, plot=plot)


def check(world: World, seed: int) -> None:
    """Never two values; all decide, within t + 2 views after the last fault; nobody framed."""
    plan = world.plan
    world.run(3000.0)
    assert len(world.values()) == 1, seed
    assert len(world.decisions) == len(world.honest), seed
    assert never_two_signed(world), seed
    assert world.plot is not None
    quiet = max(world.adversary.calm_s, world.plot.last_s, *world.restarts_s()) + 2 * LATENCY_S
    assert max(world.decided_views()) <= world.last_view(quiet) + plan.t + 1, seed
    for decision in world.decisions.values():
        assert not decision.evidence.keys() & set(world.honest), seed


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_schedules(part: int) -> None:
    """A thousand in all; each has t liars."""
    for seed in range(100 * part, 100 * (part + 1)):
        check(schedule(seed, 13 if seed % 100 == 0 else 7 if seed % 20 == 0 else 4), seed)


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 7])
def test_schedules_with_real_signatures(n: int) -> None:
    for seed in range(5_000_000, 5_000_008):
        world = schedule(seed, n, quick=False)
        check(world, seed)
        for decision in world.decisions.values():
            assert decision.holds(world.plan)
            assert all(evidence.convinces(world.plan) for evidence in decision.evidence.values())


@pytest.mark.soak
@pytest.mark.parametrize("n", [4, 7, 13])
def test_many_schedules(n: int) -> None:
    count = {4: 70_000, 7: 25_000, 13: 5_000}[n]
    for seed in range(1_000_000, 1_000_000 + count):
        check(schedule(seed, n), seed)

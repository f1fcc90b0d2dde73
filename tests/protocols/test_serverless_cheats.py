"""Peers that cheat: every honest peer ends with the plaintext rule's sums, and is never blamed.

Who leaves a signed contradiction is evicted; silence, delay and withholding blame nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from ostraka.algebra.field import P
from ostraka.attacks.peers import SECOND, STEPS, PeerAttack, Together
from ostraka.attacks.peers_deal import (
    FalseMask,
    ForgedProof,
    FreeSlot,
    NoBit,
    NoElement,
    OffSphere,
    Score,
    TooLong,
    Wrapped,
    WrongShares,
)
from ostraka.attacks.peers_say import (
    BadSignatures,
    Crowding,
    Doubts,
    FalseBundle,
    FalseComplaint,
    FalseOpening,
    FalseWords,
    HalfReveal,
    NoOpening,
    Silent,
    SmallKey,
    Stale,
    Swapped,
    ThreeBodies,
    TwoBodies,
    Withhold,
)
from ostraka.drivers.sim import Crash, Delivery, Links, Partition
from ostraka.party import Frame
from ostraka.protocols.dealer import Dealer
from ostraka.rules import RSA, ClippedMean, FLTrust
from tests.protocols.serverless_world import PHASE_S, World, late_links, told

pytestmark = pytest.mark.slow
LIAR = 2
MISSING, SPOILT = ("deal", "proof"), ("deal-opened", "proof-opened")


def doubting(*cheats: PeerAttack) -> PeerAttack:
    """So that there is a second stage, in which some of them cheat."""
    return Together((Doubts(), *cheats))


"""Steps in which members complain: of boxes that are missing, of boxes that do not open."""


def wide(cheats: dict[int, PeerAttack], **changes: Any) -> World:
    """Two liars, and one who may be away."""
    return World(cheats, t=2, **{"n": 11, **changes})


def ball(cheat: PeerAttack, **changes: Any) -> World:
    return World({LIAR: cheat}, rule=ClippedMean(2.0, frac_bits=10), **changes)


# --- honest peers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [RSA(0.1), ClippedMean(1.0), FLTrust()])
def test_honest_peers_end_with_the_plaintext_sums(rule: Any) -> None:
    world = World(rule=rule, n=9).run().check()
    assert len(world.result("p00").accepted) == world.n


@pytest.mark.parametrize("seed", range(2))
def test_jitter_loss_and_reordering_change_nothing(seed: int) -> None:
    links = Links(0.01, jitter_s=0.1, loss=0.1, duplicate=0.1, reorder=0.2, shuffle=True)
    World(seed=seed, links=links).run().check()


# --- what is dealt --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [2, -1, P // 2])
def test_what_is_no_bit_is_left_out(value: int) -> None:
    World({LIAR: NoBit(value)}).run().check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize("message", [1, 2])
def test_a_wrong_degree_is_left_out(message: int) -> None:
    cheat = WrongShares(tuple(range(4)), message)
    ball(cheat).run().check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize("factor", [1.0, 64.0])
def test_a_vector_that_is_too_long_is_left_out(factor: float) -> None:
    ball(TooLong(factor)).run().check(out=[LIAR], blamed=[LIAR])


def four_squares(total: int) -> list[int]:
    """Four squares that sum to a number, by trying."""
    rng = np.random.default_rng(1)
    while True:
        a, b = (int(x) for x in rng.integers(0, math.isqrt(total) // 2, 2))
        rest = total - a * a - b * b
        for c in range(math.isqrt(rest), math.isqrt(rest) - 2000, -1):
            e = math.isqrt(rest - c * c)
            if c * c + e * e == rest:
                return [a, b, c, e]


def dense() -> list[int]:
    """Sixteen large entries, and four more that bring the norm to a multiple of p."""
    entries = np.random.default_rng(2).integers(-(10**9), 10**9, 16).tolist()
    norm = sum(e * e for e in entries)
    return [*entries, *four_squares(-norm % P)]


@pytest.mark.parametrize("entries", [[math.isqrt(P) + 1], four_squares(P), dense()])
def test_a_norm_that_wraps_around_is_left_out(entries: list[int]) -> None:
    world = World({LIAR: Wrapped(tuple(entries))}, rule=ClippedMean(2.8e4, frac_bits=10))
    assert sum(e * e for e in entries) % P <= (world.statement.image.norm_limit or 0)
    world.run().check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_point_off_the_sphere_is_left_out(factor: float) -> None:
    World({LIAR: OffSphere(factor)}, rule=FLTrust()).run().check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize("cheat", [Score(-4096), Score(0), Score(8192), Score(more=-1)])
def test_a_score_that_does_not_match_is_left_out(cheat: Score) -> None:
    """u of -1, 0 and 2, and one that is rounded down."""
    World({LIAR: cheat}, rule=FLTrust()).run().check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize("at", [0, -1])
def test_a_forged_proof_is_left_out(at: int) -> None:
    ball(ForgedProof(at)).run().check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize("word", ["b", "c"])
def test_a_mask_does_not_hide_a_violation(word: str) -> None:
    World({LIAR: FalseMask(word=word)}).run().check(out=[LIAR], blamed=[LIAR])


def test_a_value_in_a_slot_that_carries_none_is_left_out() -> None:
    ball(FreeSlot(0), d=21, n=9).run().check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize(("value", "message"), [(P, 1), (2**64 - 1, 2)])
def test_a_box_with_what_is_no_element_is_complained_about(value: int, message: int) -> None:
    """Nothing that the dealer could publish answers: it is out, and not blamed."""
    cheat = NoElement(5, value, message)
    ball(cheat).run().check(out=[LIAR])


# --- wrong shares to single members: the burn attack ----------------------------------------------


@pytest.mark.parametrize(("message", "at"), [(1, 0), (1, -1), (2, 0), (2, -1)])
def test_a_wrong_share_convicts_its_dealer(message: int, at: int) -> None:
    """In a value or in a mask: the member shows all that it was dealt."""
    cheat = WrongShares((5,), message, at)
    ball(cheat).run().check(out=[LIAR], blamed=[LIAR])


def test_a_wrong_seed_convicts_its_dealer() -> None:
    ball(WrongShares((0,))).run().check(out=[LIAR], blamed=[LIAR])


def test_dealers_who_each_burn_another_member_do_not_stop_the_sum() -> None:
    cheats: dict[int, PeerAttack] = {3: WrongShares((6,)), 4: WrongShares((7, 8), SECOND)}
    wide(cheats, n=13).run().check(out=[3, 4], blamed=[3, 4])


def test_burning_and_a_crash_do_not_stop_the_sum() -> None:
    cheats: dict[int, PeerAttack] = {3: WrongShares((6,)), 4: WrongShares((7,), SECOND)}
    world = wide(cheats, crashes=[Crash("p10", 0.05)])
    world.run().check(out=[3, 4], blamed=[3, 4])


def test_burning_dealers_that_then_are_silent_do_not_stop_the_sum() -> None:
    cheats: dict[int, PeerAttack] = {
        number: Together((WrongShares((number + 3,)), Silent("checks"))) for number in (3, 4)
    }
    wide(cheats, n=13).run().check(out=[3, 4], blamed=[3, 4])


# --- boxes and complaints -------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["deal", "proof"])
def test_a_box_that_is_withheld_is_published(step: str) -> None:
    """By the dealer, who is asked in a receipt: it counts, and so does the member."""
    world = World({LIAR: Withhold(("p05",), steps=(step,))}).run().check()
    assert f"p{LIAR:02d}" in world.result("p00").accepted
    assert world.trial(world.result("p00")).present.all()


@pytest.mark.parametrize("step", ["deal", "proof"])
def test_withholding_the_answer_as_well_leaves_the_dealer_out(step: str) -> None:
    cheat = Together(
        (
            Withhold(("p05",), steps=(step,)),
            Withhold(tuple(World().names), ("Answer",), (step,)),
        )
    )
    World({LIAR: cheat}).run().check(out=[LIAR])


@pytest.mark.parametrize("step", ["deal", "proof"])
def test_boxes_withheld_from_disjoint_members_do_not_stop_the_sum(step: str) -> None:
    cheats: dict[int, PeerAttack] = {
        3: Withhold(("p05", "p06"), ("Box", "Answer"), (step,)),
        4: Withhold(("p07", "p08"), ("Box", "Answer"), (step,)),
    }
    wide(cheats).run().check()


@pytest.mark.parametrize("step", ["deal", "proof"])
@pytest.mark.parametrize("victims", [("p05",), ("p04", "p05", "p06")])
def test_a_box_that_does_not_open_and_no_answer_leave_the_dealer_out(
    step: str, victims: tuple[str, ...]
) -> None:
    World({LIAR: NoOpening(victims, step)}).run().check(out=[LIAR])


def garbled(monkeypatch: pytest.MonkeyPatch, *pairs: tuple[str, str]) -> None:
    """Dealers seal for members what these cannot open; all else of it is honest."""
    honest = Dealer._sealed

    def sealed(self: Dealer, member: str, plain: bytes) -> bytes:
        box = honest(self, member, plain)
        return bytes(len(box)) if (self._me, member) in pairs else box

    monkeypatch.setattr(Dealer, "_sealed", sealed)


def test_a_box_that_does_not_open_is_answered_with_the_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    garbled(monkeypatch, ("p02", "p05"))
    world = World({LIAR: PeerAttack()}).run().check()
    assert "p02" in world.result("p00").accepted
    assert world.trial(world.result("p00")).present.all()


def test_more_boxes_that_do_not_open_than_liars_could_deny_leave_the_dealer_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    garbled(monkeypatch, ("p02", "p05"), ("p02", "p06"))
    World({LIAR: PeerAttack()}).run().check(out=[LIAR])


@dataclass
class LateAnswers:
    """A dealer's answer reaches its member late, and its receipt all, so that they wait for it."""

    corrupt: frozenset[str] = frozenset({"p02"})

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        own = frame.kind == "Answer" and frame.label[-1] == ("to", int(to[1:]))
        receipt = frame.kind == "Entry" and ("topic", 1) in frame.label
        late = sender in self.corrupt and (own or receipt)
        return (Delivery(sender, to, frame, 0.6 * PHASE_S * late * (1 + receipt)),)


def test_garbage_that_is_published_late_to_its_member_is_complained_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One dealer, who could else make all members unable to say anything in the checks."""
    names = World().names
    garbled(monkeypatch, *(("p02", name) for name in names))
    cheat = Withhold(tuple(names), ("Box",), ("deal",))
    World({LIAR: cheat}, adversary=LateAnswers()).run().check(out=[LIAR])


def test_garbage_that_is_published_to_all_but_its_member_is_complained_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And these dealers say nothing in the checks, and one more peer is away."""
    garbled(monkeypatch, ("p03", "p06"), ("p04", "p07"))
    cheats: dict[int, PeerAttack] = {
        number: Together((Withhold((f"p{number + 3:02d}",), ("Box", "Answer")), Silent("checks")))
        for number in (3, 4)
    }
    wide(cheats, crashes=[Crash("p10", 0.0)]).run().check(out=[10])


def test_where_all_have_boxes_that_open_there_is_no_second_stage() -> None:
    def stages(cheats: dict[int, PeerAttack]) -> set[str]:
        seen = set()

        class Watch:
            corrupt = frozenset[str]()

            def on_send(self, now: float, sender: str, to: str, frame: Frame) -> list[Delivery]:
                seen.update(name for name, _ in frame.label)
                return [Delivery(sender, to, frame)]

        World(cheats, adversary=Watch()).run().check()
        return seen & set(SPOILT)

    assert stages({}) == set()
    assert stages({LIAR: Doubts()}) == set(SPOILT)
    assert stages({LIAR: Silent("deal")}) == set(SPOILT)


@pytest.mark.parametrize("steps", [MISSING, SPOILT])
@pytest.mark.parametrize("about", [("p05", "p06"), tuple(World().names)])
def test_false_complaints_harm_nobody(steps: tuple[str, ...], about: tuple[str, ...]) -> None:
    world = World({LIAR: doubting(FalseComplaint(about, steps))}).run().check()
    assert len(world.result("p00").accepted) == world.n


@pytest.mark.parametrize("steps", [MISSING, SPOILT])
def test_a_complaint_that_comes_behind_another_receipt_is_answered(steps: tuple[str, ...]) -> None:
    """The dealer is shown two receipts, of which all others have but the one that complains."""
    world = World({LIAR: doubting(FalseComplaint(("p05",), steps, hidden=1))}).run().check()
    assert len(world.result("p00").accepted) == world.n


def test_as_many_false_complaints_as_liars_cost_t_vectors_at_most() -> None:
    cheat = doubting(FalseComplaint(("p05", "p06", "p07"), SPOILT))
    world = wide({3: cheat, 4: cheat}).run().check()
    assert len(world.result("p00").accepted) == world.n


@pytest.mark.parametrize("steps", [(), ("deal",), ("checks",)])
def test_one_link_that_is_late_beyond_all_deadlines_harms_nobody(steps: tuple[str, ...]) -> None:
    """And nothing that was dealt is published in the clear."""
    slow = late_links([("p05", "p06")], steps=steps)
    world = World(adversary=slow, dropouts=0).run().check()
    assert len(world.result("p00").accepted) == world.n


def test_a_late_link_costs_no_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Dealer, "may_expose", lambda self, member: asked.append(member))
    World(adversary=late_links([("p05", "p06")])).run().check()
    assert asked == []


# --- two things where there may be one ------------------------------------------------------------


ENTRIES = [
    *(("keys", 0), ("deal", 0), ("deal", 1), ("deal-opened", 0)),
    *(("proof", 0), ("proof-opened", 0), ("checks", 0)),
]
"""Step and topic of all that is signed."""


@pytest.mark.parametrize(("step", "topic"), ENTRIES)
def test_who_signs_two_things_is_evicted(step: str, topic: int) -> None:
    """Each half of the others is shown another one; they learn of both as they agree."""
    World({LIAR: doubting(TwoBodies(step, topic))}).run().check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize("step", ["deal", "checks"])
def test_who_shows_everybody_two_things_is_evicted(step: str) -> None:
    World({LIAR: TwoBodies(step, both=True)}).run().check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize("step", ["keys", "deal", "proof", "checks"])
def test_signatures_that_hold_for_half_of_the_others_stop_nobody(step: str) -> None:
    World({LIAR: BadSignatures(step)}).run().check()


def test_words_that_are_signed_for_half_of_the_others_still_convict() -> None:
    """Who has them without a signature that holds is shown one, with the bundle."""
    cheat = Together((FalseWords(), BadSignatures("checks"), Silent("accepted")))
    World({LIAR: cheat}).run().check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize(
    "step",
    ["keys", "deal", "proof", "checks"],
)
def test_unsigned_entries_do_not_crowd_out_what_all_others_have(step: str) -> None:
    World({LIAR: Crowding(step)}).run().check()


@pytest.mark.parametrize("step", SPOILT)
def test_a_complaint_that_its_dealer_has_no_room_for_does_not_leave_it_out(step: str) -> None:
    World({LIAR: doubting(FalseComplaint(("p05",), (step,), hidden=2))}).run().check()


@pytest.mark.parametrize("step", SPOILT)
def test_a_complaint_that_its_dealer_is_not_shown_does_not_leave_it_out(step: str) -> None:
    """The others pass it on in time for an answer."""
    complaint = FalseComplaint(("p05",), (step,))
    hidden = Withhold(("p05",), ("Entry",), (step,))
    World({LIAR: doubting(complaint, hidden)}).run().check()


@pytest.mark.parametrize("step", ["keys", "deal", "proof", "checks"])
def test_three_signed_entries_stop_nobody(step: str) -> None:
    World({LIAR: ThreeBodies(step)}).run(until_s=60.0).check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize("steps", [("keys",), ("deal",), ("checks",), STEPS])
def test_who_is_kept_waiting_is_not_left_behind(steps: tuple[str, ...]) -> None:
    """A liar shows its entries to all but two, who wait for them while the others go on."""
    world = World({LIAR: Withhold(("p05", "p06"), ("Entry",), steps)}).run().check()
    assert world.trial(world.result("p00")).present.all()


@pytest.mark.parametrize("step", ["coin", "last-coin", "checks"])
@pytest.mark.parametrize("to_none", [False, True])
def test_a_reveal_that_is_withheld_or_shown_to_half_stops_nobody(step: str, to_none: bool) -> None:
    World({LIAR: HalfReveal(step, to_none)}).run().check()


# --- lies in the checks and in the opening --------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 5])
def test_a_lie_in_the_checks_convicts_its_member(place: int) -> None:
    World({LIAR: FalseWords((place,))}).run().check(out=[LIAR], blamed=[LIAR])


def test_a_lie_about_one_dealer_convicts_its_member() -> None:
    World({LIAR: FalseWords(about=(4,))}).run().check(out=[LIAR], blamed=[LIAR])


def test_liars_that_lie_about_each_other_are_rid_of_or_harm_nobody() -> None:
    cheats: dict[int, PeerAttack] = {3: FalseWords(about=(4,)), 4: FalseWords(about=(3,))}
    world = wide(cheats).run()
    evicted = world.result("p00").evicted
    world.check(blamed=[int(name[1:]) for name in evicted])


@pytest.mark.parametrize("value", [P, 2**64 - 1])
def test_words_that_are_no_elements_count_as_none(value: int) -> None:
    world = World({LIAR: FalseWords(value=value)}).run().check()
    assert not world.trial(world.result("p00")).present[LIAR]


def test_a_bundle_that_nobody_dealt_convicts_nobody_but_its_author() -> None:
    cheat = Together((FalseWords(about=(4,)), FalseBundle()))
    World({LIAR: cheat}).run().check(out=[LIAR], blamed=[LIAR])


@pytest.mark.parametrize(
    "cheat",
    [FalseOpening(), FalseOpening(split=True), FalseOpening(2**64 - 1)],
)
def test_lies_in_the_opening_change_nothing(cheat: PeerAttack) -> None:
    World({LIAR: cheat}).run().check()


def test_as_many_lies_in_the_opening_as_liars_change_nothing() -> None:
    cheats: dict[int, PeerAttack] = {3: FalseOpening(), 4: FalseOpening(split=True)}
    wide(cheats, crashes=[Crash("p10", 0.0)]).run().check()


# --- silence, replays, keys -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "part"),
    [*((step, 0) for step in STEPS), ("deal", 1), ("proof", 1)],
)
def test_silence_from_any_step_on_stops_nobody(since: str, part: int) -> None:
    World({LIAR: Silent(since, part)}).run().check()


@pytest.mark.parametrize("since", ["keys", "proof", "checks"])
def test_silent_liars_and_a_crash_together_stop_nobody(since: str) -> None:
    cheats: dict[int, PeerAttack] = {3: Silent(since), 4: Silent(since)}
    wide(cheats, crashes=[Crash("p10", 0.0)]).run().check(out=[10])


@pytest.mark.parametrize(
    "cheat",
    [Stale(), Stale(0, 1), Swapped(), doubting(Swapped(("deal-opened", 0), ("proof-opened", 0)))],
)
def test_what_was_signed_for_something_else_counts_for_nothing(cheat: PeerAttack) -> None:
    World({LIAR: cheat}).run().check()


SMALL = [bytes(32), bytes([1]) + bytes(31), bytes([0xEC]) + bytes([0xFF] * 30) + bytes([0x7F])]


@pytest.mark.parametrize("key", SMALL)
def test_a_key_of_small_order_is_none(key: bytes) -> None:
    World({LIAR: SmallKey(key)}).run().check(out=[LIAR])


# --- crashes and all together ---------------------------------------------------------------------


@pytest.mark.parametrize("at_s", [0.0, 0.05, 0.1, 0.2, 0.3, 0.4])
def test_a_crash_at_any_time_stops_nobody(at_s: float) -> None:
    World(crashes=[Crash("p05", at_s)]).run().check()


@dataclass
class Watching:
    """Notes when a peer first says something in a step."""

    peer: str
    step: str
    corrupt: frozenset[str] = frozenset()
    at_s: float = math.inf

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        if sender == self.peer and any(name == self.step for name, _ in frame.label):
            self.at_s = min(self.at_s, now)
        return (Delivery(sender, to, frame),)


def test_a_member_that_crashes_after_its_words_is_an_erasure() -> None:
    watching = Watching("p05", "checks")
    World(adversary=watching).run()
    world = World(crashes=[Crash("p05", watching.at_s + 0.001)]).run().check()
    assert "p05" in world.result("p00").accepted
    assert world.trial(world.result("p00")).present[5]


ALL: list[tuple[PeerAttack, PeerAttack]] = [
    (NoBit(), FalseWords()),
    (WrongShares((6,)), FalseOpening()),
    (doubting(FalseComplaint(("p05",), SPOILT)), Withhold(("p08",), ("Box", "Answer"))),
    (TwoBodies(), Silent("checks")),
    (NoOpening(("p08",), "proof"), FalseWords((2,), (1,))),
    (HalfReveal(), TwoBodies("checks", 0)),
]


@pytest.mark.parametrize("pair", ALL)
def test_two_cheats_and_a_crash_together_stop_nobody(pair: tuple[PeerAttack, PeerAttack]) -> None:
    world = wide({3: pair[0], 4: pair[1]}, crashes=[Crash("p10", 0.15)]).run()
    evicted = world.result("p00").evicted
    world.check(blamed=[int(name[1:]) for name in evicted])


def test_who_cannot_meet_votes_void_and_tries_again() -> None:
    """Cut in two for longer than their patience, they agree on `void`, and deal afresh."""
    world = World(patience_s=6 * PHASE_S)
    world.partitions = [Partition(frozenset({"p00", "p01", "p02"}), 0.0, 200.0)]
    world.run().check()
    assert world.result("p00").attempt >= 1, told(world)
    assert {one["party"] for one in world.said("void")} == set(world.names)

"""What every cheat under two_server comes to: left out and named, and the round goes on.

Invariant: whatever f workers send, honest workers are never refused and the model is, bit for bit,
that of a plaintext twin without those that were left out; operators that misbehave end the run with
a sentence that names them, and never with anything but Abort or Timeout.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from ostraka.attacks.uploads import UPLOAD_ATTACKS, MissingPart, Overflow, UploadAttack
from ostraka.attacks.uploads import Upload as Attempt
from ostraka.drivers.sim import Crash, Delivery, Links
from ostraka.net import Abort, Label, Timeout
from ostraka.party import Frame
from ostraka.protocols.public_model import ModelDigest, PublicModel
from ostraka.protocols.upload import SeedPart, SharePart
from ostraka.rules import MDA, CenteredClipping, GeometricMedian, MultiKrum
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
    names,
    place,
    random_updates,
)

D = 24
OPENING = ("ImageShare", "Weights", "Words", "Rounded")


def plan(**changes: Any) -> Plan:
    rule = changes.pop("rule", MultiKrum(2))
    return make_plan(9, D, rule, **{"min_contributors": 3, "rounds": 2, "f": 2, **changes})


def goes_on_without(world: World, expected: dict[str, str]) -> None:
    """Exactly these are left out of every round, for these reasons; all others end as the twin."""
    state = world.finish()
    for round in range(world.plan.rounds):
        assert world.left_out(round) == expected
    right_without_the_left_out(world)
    for name in world.plan.workers:
        if name not in world.cheats:
            assert world.outcomes[name].result.tobytes() == state.model.tobytes()


def right_without_the_left_out(world: World) -> None:
    """Both servers have the twin's model, of those that counted, by the twin's weights."""
    story = twin.played(world, world.left_out)
    committed = world.stored_1[-1].committed
    assert committed is not None
    assert committed.values.tolist() == story[-1].weights.values.tolist()
    for server in (S0, S1):
        assert world.outcomes[server].result.model.tobytes() == story[-1].model.tobytes()


def aborted(world: World, *said: str, party: str = S0) -> None:
    """A party ended with Abort, and said this."""
    error = world.outcomes[party].error
    assert isinstance(error, Abort), world.outcomes
    for part in said:
        assert part in error.reason


# --- uploads that are no honest ones --------------------------------------------------------


def attack(kind: UploadAttack) -> Cheat:
    """An attack of ostraka.attacks as a cheat."""

    def cheat(upload: Upload) -> None:
        holders = {"server_0": S0, "server_1": S1, "dealer": DEALER}
        context, sign = upload.world.plan.context(upload.turn), identity(upload.name)[0]
        attempt = Attempt(context, upload.name, upload.words, upload.own, sign)
        for holder, part in kind.answer(attempt):
            upload.send(holders[holder], part)

    return cheat


def other_seed_for(holder: str) -> Cheat:
    """A whole upload, of which one holder gets the part of another one."""

    def cheat(upload: Upload) -> None:
        other = upload.parts(use="second")
        for to, part in (
            (S0, upload.seed_part),
            (DEALER, upload.seed_part),
            (S1, upload.share_part),
        ):
            second: Any = other[1] if to == S1 else other[0]
            upload.send(to, second if to == holder else part)

    return cheat


def two_to_each_in_other_order(upload: Upload) -> None:
    """Two whole uploads; the dealer gets the second one first."""
    first, second = (upload.seed_part, upload.share_part), upload.parts(use="second")
    for seed_part, share_part in (first, second):
        upload.send(S0, seed_part)
        upload.send(S1, share_part)
    upload.send(DEALER, second[0])
    upload.send(DEALER, first[0])


def two_to_one(upload: Upload) -> None:
    """One holder gets a second upload, of other words: the first counts."""
    upload.send_all()
    upload.send(S1, upload.parts(np.full(D, 77, np.uint64), "second")[1])


def everything_twice(upload: Upload) -> None:
    upload.send_all()
    upload.send_all()


def forged_signature(upload: Upload) -> None:
    """Signed with the key of another worker."""
    stranger, _ = identity("w00")
    context = upload.world.plan.context(upload.turn)
    seed_part, share_part = upload.seed_part, upload.share_part
    signature = stranger(context.id(upload.name, share_part.seed_hash, seed_part.share_hash))
    upload.send_all(
        (replace(seed_part, signature=signature), replace(share_part, signature=signature))
    )


def no_signature(upload: Upload) -> None:
    """64 zeros to one holder."""
    upload.send(S0, replace(upload.seed_part, signature=bytes(64)))
    upload.send(DEALER, upload.seed_part)
    upload.send(S1, upload.share_part)


def share_of_no_hash(upload: Upload) -> None:
    """The share is one word off what was signed."""
    words = upload.share_part.share.copy()
    words[3:4] += np.uint64(1)
    upload.send_all((upload.seed_part, replace(upload.share_part, share=words)))


def wrong_salt(upload: Upload) -> None:
    upload.send_all((upload.seed_part, replace(upload.share_part, salt=bytes(32))))


def seed_of_no_hash(upload: Upload) -> None:
    """The dealer gets a seed that is not the one that was signed."""
    upload.send(S0, upload.seed_part)
    upload.send(DEALER, replace(upload.seed_part, seed=bytes(32)))
    upload.send(S1, upload.share_part)


def turn_before(upload: Upload) -> None:
    """Signed for another round."""
    upload.send_all(upload.parts(turn=(upload.turn[0] + 1, 1)))


def another_attempt(upload: Upload) -> None:
    """Signed for another attempt of this round."""
    upload.send_all(upload.parts(turn=(upload.turn[0], upload.turn[1] + 1)))


def share_of(dtype: str, shape: tuple[int, ...]) -> Cheat:
    """A share that is no vector of d words."""

    def cheat(upload: Upload) -> None:
        share = np.zeros(shape, dtype)
        upload.send_all((upload.seed_part, replace(upload.share_part, share=share)))

    return cheat


def no_seed_for(holder: str) -> Cheat:
    return attack(MissingPart(holder))


MISSING, MALFORMED, INCONSISTENT = "missing", "malformed", "inconsistent"
CHEATS: dict[str, tuple[Cheat, str | None]] = {
    "no part for server 0": (no_seed_for("server_0"), MISSING),
    "no part for server 1": (no_seed_for("server_1"), MISSING),
    "no part for the dealer": (no_seed_for("dealer"), MISSING),
    "another seed for server 0": (other_seed_for(S0), MISSING),
    "another seed for the dealer": (other_seed_for(DEALER), MISSING),
    "another share for server 1": (other_seed_for(S1), MISSING),
    "two uploads in other orders": (two_to_each_in_other_order, MISSING),
    "two uploads to one holder": (two_to_one, None),
    "everything twice": (everything_twice, None),
    "signed by another worker": (forged_signature, INCONSISTENT),
    "not signed for one holder": (no_signature, INCONSISTENT),
    "share does not fit": (share_of_no_hash, INCONSISTENT),
    "salt does not fit": (wrong_salt, INCONSISTENT),
    "seed does not fit": (seed_of_no_hash, INCONSISTENT),
    "signed for another round": (turn_before, INCONSISTENT),
    "signed for another attempt": (another_attempt, INCONSISTENT),
    "too short": (share_of("uint64", (D - 1,)), MALFORMED),
    "too long": (share_of("uint64", (D + 1,)), MALFORMED),
    "empty": (share_of("uint64", (0,)), MALFORMED),
    "float64": (share_of("float64", (D,)), MALFORMED),
    "int64": (share_of("int64", (D,)), MALFORMED),
    "a matrix": (share_of("uint64", (D, 1)), MALFORMED),
}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_left_out_and_the_round_goes_on(cheat: str, count: int) -> None:
    what, expected = CHEATS[cheat]
    liars = names(9)[9 - count :]
    world = World(plan(), cheats=dict.fromkeys(liars, what))
    goes_on_without(world, {} if expected is None else dict.fromkeys(liars, expected))


ATTACKS = {
    **dict.fromkeys(("silent", "missing-part", "mixed-seeds"), MISSING),
    **dict.fromkeys(("wrong-shape", "wrong-dtype"), MALFORMED),
    **dict.fromkeys(("duplicate", "conflict"), None),
    "forged": INCONSISTENT,
    "overflow": "overflow",
}


@pytest.mark.parametrize("kind", UPLOAD_ATTACKS)
def test_every_attack_of_the_catalogue(kind: str) -> None:
    """A KeyError here asks what a new attack comes to."""
    liars = names(9)[7:]
    expected = ATTACKS[kind]
    world = World(plan(), cheats=dict.fromkeys(liars, attack(UPLOAD_ATTACKS[kind]())))
    goes_on_without(world, {} if expected is None else dict.fromkeys(liars, expected))


def test_two_liars_with_two_lies_are_told_apart() -> None:
    cheats = {"w03": attack(Overflow()), "w05": wrong_salt}
    goes_on_without(World(plan(), cheats=cheats), {"w03": "overflow", "w05": INCONSISTENT})


def test_the_detail_says_what_was_wrong_and_never_the_data() -> None:
    cheats = {"w03": wrong_salt, "w05": share_of("float64", (D,))}
    world = World(plan(), cheats=cheats)
    world.finish()
    details = dict(world.told("excluded", "party", "detail"))
    assert details == {"w03": "at another holder", "w05": "at another holder"}
    cheats = {"w03": no_signature}
    world = World(plan(), cheats=cheats)
    world.finish()
    details = dict(world.told("excluded", "party", "detail"))
    assert details == {"w03": "the SeedPart does not fit its signature"}


def test_another_workers_parts_sent_as_ones_own() -> None:
    """A rushing cheater copies a victim's parts to each holder: ids name their worker."""

    def copy(upload: Upload) -> None:
        victims = [s for s in upload.world.sent if s.sender == "w00" and s.frame.label]
        for sent in victims:
            if sent.frame.label[:2] == (("round", upload.turn[0]), ("attempt", upload.turn[1])):
                form: Any = SharePart.form(d=D) if sent.kind == "SharePart" else SeedPart.form()
                upload.send(sent.to, form.decode(sent.frame.body))

    world = World(plan(), cheats={"w08": copy})
    goes_on_without(world, {"w08": INCONSISTENT})


def test_the_parts_of_an_earlier_round_count_for_nothing() -> None:
    kept: list[tuple[SeedPart, SharePart]] = []

    def replay(upload: Upload) -> None:
        kept.append((upload.seed_part, upload.share_part))
        upload.send_all(kept[0])

    world = World(plan(), cheats={"w08": replay})
    state = world.finish()
    assert [world.left_out(round) for round in (0, 1)] == [{}, {"w08": INCONSISTENT}]
    right_without_the_left_out(world)
    assert state.round == 2


def test_old_labels_are_late() -> None:
    """Parts for a round that is over are dropped, and their sender is missing."""

    def old(upload: Upload) -> None:
        upload.send_all() if upload.turn[0] == 0 else None
        for to, part in ((S0, upload.seed_part), (S1, upload.share_part)):
            if upload.turn[0]:
                upload.send(to, part, turn=(0, 1))

    world = World(plan(), cheats={"w08": old})
    world.finish()
    assert [world.left_out(round) for round in (0, 1)] == [{}, {"w08": "missing"}]
    assert ("w08", "late") in world.told("dropped", "peer", "why")
    right_without_the_left_out(world)


def test_a_flood_for_turns_to_come_is_bounded_and_hurts_its_sender_alone() -> None:
    def flood(upload: Upload) -> None:
        upload.send_all()
        for attempt in range(2, 150):
            for to, part in zip((S0, DEALER, S1), (*upload.parts(), None), strict=True):
                later: Any = part if part is not None and to != S1 else upload.share_part
                upload.send(to, later, turn=(upload.turn[0] + 1, attempt))

    world = World(plan(rounds=3), cheats={"w08": flood})
    state = world.finish()
    assert state.round == 3
    assert {name for round in range(3) for name in world.left_out(round)} <= {"w08"}
    right_without_the_left_out(world)
    told = world.told("dropped", "party", "peer", "why")
    assert {peer for _, peer, _ in told} == {"w08"}
    assert (S0, "w08", "early") in told, "server 0 knows which turn is the last one"
    assert {(S1, "w08", "flood"), (DEALER, "w08", "flood")} <= set(told), "others keep a few"


# --- what happens to parts on their way -----------------------------------------------------


@dataclass
class Seam:
    """Does something to the frames of corrupt parties that match; all others travel as they are.

    ``touch`` gives what travels instead, each with a delay.
    """

    corrupt: frozenset[str]
    touch: Callable[[Frame], Sequence[tuple[Frame, float]]]
    kinds: frozenset[str]
    to: frozenset[str]
    touched: int = field(default=0)

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> list[Delivery]:
        if sender in self.corrupt and to in self.to and frame.kind in self.kinds:
            self.touched += 1
            return [Delivery(sender, to, f, delay) for f, delay in self.touch(frame)]
        return [Delivery(sender, to, frame)]


def with_body(change: Callable[[bytes], bytes]) -> Callable[[Frame], list[tuple[Frame, float]]]:
    return lambda frame: [(Frame(frame.label, frame.kind, change(bytes_of(frame))), 0.0)]


def bytes_of(frame: Frame) -> bytes:
    return b"".join([frame.body])  # type: ignore[list-item]


def flipped(at: float) -> Callable[[bytes], bytes]:
    """One bit, at this part of the body."""

    def change(body: bytes) -> bytes:
        out = bytearray(body)
        if out:
            out[min(len(out) - 1, int(at * len(out)))] ^= 1
        return bytes(out)

    return change


BENT: dict[str, Callable[[Frame], list[tuple[Frame, float]]]] = {
    "a bit of its head": with_body(flipped(0.0)),
    "a bit of its middle": with_body(flipped(0.5)),
    "a bit of its end": with_body(flipped(1.0)),
    "cut": with_body(lambda body: body[: len(body) // 2]),
    "one byte short": with_body(lambda body: body[:-1]),
    "longer": with_body(lambda body: body + b"\0"),
    "zeros": with_body(lambda body: bytes(len(body))),
    "ones": with_body(lambda body: b"\xff" * len(body)),
    "empty": with_body(lambda body: b""),
    "never": lambda frame: [],
    "late": lambda frame: [(frame, 45.0)],
    "of another kind": lambda frame: [(Frame(frame.label, "Stray", frame.body), 0.0)],
}


@pytest.mark.parametrize("holder", OPERATORS)
@pytest.mark.parametrize("bend", BENT)
def test_a_part_that_arrives_bent_leaves_its_sender_out(bend: str, holder: str) -> None:
    kinds = frozenset({"SeedPart", "SharePart"})
    seam = Seam(frozenset({"w04"}), BENT[bend], kinds, frozenset({holder}))
    world = World(plan(), adversary=seam)
    world.finish()
    assert seam.touched == 2
    reasons = {world.left_out(round)["w04"] for round in (0, 1)}
    if bend in ("never", "late", "of another kind"):
        assert reasons == {"missing"}
    elif bend in ("cut", "one byte short", "longer", "empty"):
        assert reasons == {"malformed"}
    else:
        assert reasons <= {"malformed", "inconsistent"}
    assert set(world.left_out(0)) == {"w04"}
    right_without_the_left_out(world)


# --- updates that are none ------------------------------------------------------------------


def nan_everywhere(u: Vector) -> Vector:
    return np.full_like(u, np.nan)


def one_nan(u: Vector) -> Vector:
    return np.where(np.arange(u.size) == 2, np.float32(np.nan), u)


def one_inf(u: Vector) -> Vector:
    return np.where(np.arange(u.size) == 0, np.float32(-np.inf), u)


def huge(u: Vector) -> Vector:
    return np.where(np.arange(u.size) == 1, np.float32(1e38), u)


def above_max_norm(u: Vector) -> Vector:
    return np.asarray(u * np.float32(2e6 / np.linalg.norm(u)))


@pytest.mark.parametrize("bend", [nan_everywhere, one_nan, one_inf, huge, above_max_norm])
def test_an_update_that_is_no_vector_is_refused(bend: Callable[[Vector], Vector]) -> None:
    honest = random_updates(0)

    def updates(name: str, round: int, model: Vector) -> Vector:
        update = honest(name, round, model)
        return bend(update) if name in ("w01", "w06") else update

    goes_on_without(World(plan(), updates), {"w01": "overflow", "w06": "overflow"})


# --- silence and bounds ---------------------------------------------------------------------


def nothing(upload: Upload) -> None:
    """Send nothing."""


def test_silence_lowers_n_and_keeps_f_where_no_dropouts_are_written() -> None:
    world = World(plan(), cheats={"w08": nothing})
    goes_on_without(world, {"w08": "missing"})
    assert twin.played(world, world.left_out)[0].f == 2


def test_silence_beyond_the_written_dropouts_counts_among_the_f() -> None:
    world = World(plan(dropouts=1), cheats=dict.fromkeys(("w07", "w08"), nothing))
    goes_on_without(world, dict.fromkeys(("w07", "w08"), "missing"))
    assert twin.played(world, world.left_out)[0].f == 1


def test_silence_never_lowers_the_f_of_the_guard() -> None:
    """Else colluders who keep others silent would have a victim counted as well covered.

    The first row is the geometric median of the others, which come in opposite pairs.
    """
    rng = np.random.default_rng(0)
    half = [0.1 * rng.standard_normal(D) for _ in range(4)]
    rows = [np.full(D, 0.1) + row for row in (np.zeros(D), *half, *(-row for row in half))]

    def updates(name: str, round: int, model: Vector) -> Vector:
        return rows[place(name)].astype(np.float32)

    cheats = dict.fromkeys(("w04", "w08"), nothing)
    world = World(plan(rule=GeometricMedian(), dropouts=0), updates, cheats)
    goes_on_without(world, dict.fromkeys(cheats, "missing"))
    one = twin.played(world, world.left_out)[0]
    assert (one.f, one.capped) == (0, True)
    kept = np.sort(one.weights.reals)[::-1]
    assert 1 + ((kept[3:] / kept[0]) ** 2).sum() >= 3, "with the two largest colluders subtracted"


def test_more_refusals_than_f_end_the_round_and_name_all() -> None:
    liars = names(9)[6:]
    expected = "round 0 ended: 3 rows were refused, more than f=2"
    for cheat, reason, stage in (
        (wrong_salt, "inconsistent", "Commitment"),
        (attack(Overflow()), "overflow", "MaskedBlock"),
        (beyond_the_clip, "norm", "ImageShare"),
    ):
        world = World(plan(), cheats=dict.fromkeys(liars, cheat))
        world.run()
        for server in (S0, S1):
            aborted(world, expected, *(f"{name} {reason}" for name in liars), party=server)
        assert not world.of_kind(stage), "the round ends before the next step"
        assert not [kind for kind in OPENING if world.of_kind(kind)]
        assert world.stored_0[-1].round == world.stored_1[-1].round == 0
        assert world.stored_0[-1].opened == 0


def beyond_the_clip(upload: Upload) -> None:
    """Twice the clip, in one coordinate."""
    words = np.zeros(D, np.uint64)
    words[0] = int(2 * upload.world.plan.fixed.clip * 2**upload.world.plan.fixed.frac_bits)
    upload.send_all(upload.parts(words))


def test_refusals_at_different_steps_add_up() -> None:
    cheats = {"w06": wrong_salt, "w07": attack(Overflow()), "w08": beyond_the_clip}
    world = World(plan(), cheats=cheats)
    world.run()
    aborted(world, "more than f=2", "w06 inconsistent", "w07 overflow", "w08 norm")
    assert not [kind for kind in OPENING if world.of_kind(kind)]


def test_a_cohort_below_the_least_ends_the_round() -> None:
    world = World(plan(min_cohort=8), cheats={"w02": nothing, "w04": nothing})
    world.run()
    for server in (S0, S1):
        aborted(
            world,
            "7 vectors are left, fewer than min_cohort = 8 (w02 missing, w04 missing)",
            party=server,
        )
    assert not [kind for kind in ("Commitment", *OPENING) if world.of_kind(kind)]


@pytest.mark.parametrize("last", ["overflow", "norm"])
def test_the_cohort_is_counted_again_after_each_check(last: str) -> None:
    lies = {"overflow": attack(Overflow()), "norm": beyond_the_clip}
    world = World(plan(min_cohort=8), cheats={"w02": nothing, "w04": lies[last]})
    world.run()
    aborted(world, "7 vectors are left, fewer than min_cohort = 8", f"w04 {last}", "w02 missing")
    assert world.of_kind("Commitment")
    assert not [kind for kind in OPENING if world.of_kind(kind)]


def test_a_rules_bound_that_fails_through_silence_ends_the_round() -> None:
    world = World(plan(rule=MultiKrum(3), f=3), cheats={"w08": nothing})
    world.run()
    aborted(world, "multi-krum needs n >= 2f + 3, got f=3, n=8", "w08 missing")
    assert not [kind for kind in OPENING if world.of_kind(kind)]


def test_nobody_at_all_is_a_timeout_and_the_state_is_kept() -> None:
    world = World(plan(), cheats=dict.fromkeys(names(9), nothing))
    error = world.run().error
    assert isinstance(error, Timeout)
    assert error.missing == names(9)
    assert isinstance(world.outcomes[S1].error, Timeout)
    assert (world.stored_0[-1].round, world.stored_1[-1].round) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_cohort": 4}, "min_cohort must be at least f + min_contributors = 5"),
        ({"min_cohort": 10}, "at most n = 9"),
        ({"min_contributors": 6}, "n - dropouts >= 2f + min_contributors"),
        ({"dropouts": 3}, "n - dropouts >= 2f + min_contributors"),
        ({"rule": MultiKrum(2, m=3)}, "write min_contributors = 1"),
        ({"rule": MDA(5), "f": 5}, "2f < n"),
    ],
)
def test_numbers_that_cannot_hold_are_refused_at_the_start(changes: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        plan(**changes)


# --- servers that say different things ------------------------------------------------------


def doctored(frame: Frame) -> list[tuple[Frame, float]]:
    """Another model than the true one, or the digest of another one."""
    if frame.kind == "PublicModel":
        shown: Any = PublicModel.form(d=D).decode(frame.body)  # type: ignore[arg-type]
        other: Any = PublicModel(shown.final, shown.vector + np.float32(1))
    else:
        stated: Any = ModelDigest.form().decode(frame.body)  # type: ignore[arg-type]
        other = ModelDigest(stated.final, bytes(32))
    return [(Frame(frame.label, frame.kind, other.encode()), 0.0)]


def of_round(round: int, touch: Callable[[Frame], Any]) -> Callable[[Frame], Any]:
    at = (("round", round), ("stated", round))
    return lambda frame: touch(frame) if frame.label[0] in at else [(frame, 0.0)]


@pytest.mark.parametrize("server", [S0, S1])
def test_a_worker_that_is_shown_another_model_does_not_train(server: str) -> None:
    kinds = frozenset({"PublicModel", "ModelDigest"})
    seam = Seam(frozenset({server}), of_round(0, doctored), kinds, frozenset({"w03"}))
    world = World(plan(), adversary=seam)
    state = world.finish()
    assert ("w03", 0) not in world.trained
    assert ("w03", 1) in world.trained, "it is asked again in the next round"
    sent = [s.frame.label[0] for s in world.sent if s.sender == "w03"]
    assert ("round", 0) not in sent, "nothing of it leaves"
    told = world.told("ignored", "by", "round", "party", "reason")
    assert told == [("w03", 0, S0, "inconsistent")]
    assert [world.left_out(round) for round in (0, 1)] == [{"w03": "missing"}, {}]
    right_without_the_left_out(world)
    assert world.outcomes["w03"].result.tobytes() == state.model.tobytes()


def test_a_final_model_that_is_not_the_servers_own_is_not_taken() -> None:
    seam = Seam(
        frozenset({S0}), of_round(2, doctored), frozenset({"PublicModel"}), frozenset({"w03"})
    )
    world = World(plan(), adversary=seam)
    world.run()
    aborted(world, "server-0 ends the run with another model than server-1 states", party="w03")
    assert world.outcomes["w04"].status == "done"


def test_a_first_model_that_is_not_the_files_is_not_trained_on() -> None:
    world = World(plan(initial=bytes(32)))
    error = world.run().error
    assert isinstance(error, Timeout)
    assert world.trained == []
    assert not [s for s in world.sent if s.sender in names(9)]


def test_a_server_0_that_opens_a_round_on_another_model_is_noticed_by_server_1() -> None:
    """Its digest in Open differs: server 1 does not go on."""

    def bend(frame: Frame) -> list[tuple[Frame, float]]:
        body = bytearray(bytes_of(frame))
        body[-2] ^= 1  # of the digest; behind it stands the flag that it is lacking
        return [(Frame(frame.label, frame.kind, bytes(body)), 0.0)]

    seam = Seam(frozenset({S0}), bend, frozenset({"Open"}), frozenset({S1}))
    world = World(plan(), adversary=seam)
    world.run()
    aborted(world, "server-0 opens round 0 with another model than the one computed", party=S1)
    assert world.trained == []


def test_a_round_beyond_the_last_is_not_trained_on() -> None:
    def more(label: Label) -> Label:
        return tuple((name, at if name == "attempt" else 9) for name, at in label)

    def bend(frame: Frame) -> list[tuple[Frame, float]]:
        return [(Frame(more(frame.label), frame.kind, frame.body), 0.0)]

    kinds = frozenset({"PublicModel", "ModelDigest"})
    seam = Seam(frozenset({S0, S1}), of_round(0, bend), kinds, frozenset({"w03"}))
    world = World(plan(), adversary=seam)
    world.run()
    aborted(world, "the servers open round 9 of 2", party="w03")
    assert ("w03", 9) not in world.trained


# --- operators that break the protocol ------------------------------------------------------


RULE = CenteredClipping(0.5, steps=2)
"""It is shown most: distances, norms and products."""
MALFORMED_BY = ("one byte short", "longer")
TRIED = tuple(bend for bend in BENT if bend not in ("cut", "empty", "ones"))


def small() -> Plan:
    """One round of few, for what is tried often."""
    return make_plan(5, 6, RULE, f=1, min_contributors=2)


def exchanged() -> list[tuple[str, str, str]]:
    """Who sends what to whom among operators, in a clean round."""
    world = World(small())
    world.finish()
    among = {(s.kind, s.sender, s.to) for s in world.sent if {s.sender, s.to} <= set(OPERATORS)}
    return sorted(among)


EXCHANGED = exchanged()


def test_the_messages_among_operators_are_known() -> None:
    """Everything below is tried on each of them."""
    assert {kind for kind, _, _ in EXCHANGED} == {
        *("Boot", "Open", "Ready", "Go", "Part", "Held", "Active", "Commitment", "Reveal"),
        *("Correction", "Masked", "Verdict", "MaskedBlock", "Taken", "CrossTerms"),
        *("ImageShare", "Weights", "Prepared", "Words", "Rounded"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sender", "to"), EXCHANGED)
def test_an_operator_that_sends_bent_messages_is_named(kind: str, sender: str, to: str) -> None:
    for bend in TRIED:
        seam = Seam(frozenset({sender}), BENT[bend], frozenset({kind}), frozenset({to}))
        world = World(small(), adversary=seam)
        world.run(until_s=1e4)  # any exception but Abort and Timeout would leave it
        assert seam.touched, bend
        error = str(world.outcomes[to].error)
        if bend in MALFORMED_BY:
            assert f"{sender} sent a malformed {kind}" in error
        elif bend in ("never", "of another kind"):
            assert world.outcomes[to].status != "done" or (kind, to) == ("Rounded", S1), bend
            waiting = [name for w in world.outcomes[to].waiting for name in w.senders]
            assert sender in error or sender in waiting
        for name in OPERATORS:
            ended_well_or_said_why(world, name, late=bend == "late")


def ended_well_or_said_why(world: World, name: str, late: bool) -> None:
    """Done; or failed with a sentence that names an operator, or the rows that fell out; or idle.

    An operator that is later than the deadline makes the others wait in vain for the workers.

    A server that lies about shares makes rows fail their checks: that ends the round, by its bound.
    Who waits for a turn to be opened, or for a process to begin, waits as long as its driver lets
    it.
    """
    outcome = world.outcomes[name]
    if outcome.status == "stuck":
        assert {waiting.kind for waiting in outcome.waiting} <= {"Open", "Boot"}, outcome
    elif outcome.status == "failed":
        text = str(outcome.error)
        said = ["ended: ", "the other server's", *(o for o in OPERATORS if o != name)]
        said += ["no SeedPart"] if late else []
        assert any(part in text for part in said), text
    else:
        assert outcome.status == "done", outcome


@pytest.mark.parametrize("gone", OPERATORS)
@pytest.mark.parametrize("at_s", [0.05, 0.35, 0.75, 1.15, 1.55, 1.95, 3.0])
def test_an_operator_that_vanishes_is_named_and_the_state_is_kept(gone: str, at_s: float) -> None:
    world = World(plan(), links=Links(latency_s=0.1), crashes=[Crash(gone, at_s)])
    world.run()
    for name in OPERATORS:
        error = world.outcomes[name].error
        if name != gone and error is not None:
            assert isinstance(error, Timeout)
            assert any(other in str(error) for other in OPERATORS)
    rounds = world.stored_0[-1].round, world.stored_1[-1].round
    assert rounds[0] - rounds[1] in (0, 1)

"""Small promises of two_server's parts, each of which some attack would use if it broke."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ostraka.algebra.fixed import unusable
from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import signer_from, verifies
from ostraka.net import Abort
from ostraka.protocols import upload
from ostraka.protocols.opening import Weights
from ostraka.protocols.upload import ACTIVE, MISSING, Active, Context, Roster, make_parts
from ostraka.rules import MultiKrum
from ostraka.sharing.additive import Masks, Memory, Shares, block_width, hide, largest_block, spans
from ostraka.trust.two_server.decide import Standing, check_weights
from ostraka.trust.two_server.plan import Plan, State0
from ostraka.trust.two_server.resume import committed
from ostraka.trust.two_server.worker import encoded
from tests.protocols.two_server_world import (
    DEALER,
    S0,
    S1,
    Upload,
    World,
    fixed_point,
    make_plan,
)

SEED = bytes(range(32))


def context(**changes: object) -> Context:
    public = signer_from(bytes(32))[1]
    return replace(Context(bytes(32), (0, 1), {"a": public, "b": public}), **changes)


@pytest.mark.parametrize("changes", [{"session": bytes([1]) * 32}, {"turn": (0, 2)}])
def test_an_upload_belongs_to_one_session_and_turn(changes: dict[str, object]) -> None:
    """Signed parts of another run of the same workers are worth nothing here."""
    sign, public = signer_from(bytes(32))
    here, there = context(), context(**changes)
    seed_part, _ = make_parts(there, "a", np.zeros(4, np.uint64), Key(SEED), sign)
    hashes = (upload._seed_hash(seed_part.seed), seed_part.share_hash)
    assert verifies(public, seed_part.signature, there.id("a", *hashes))
    assert not verifies(public, seed_part.signature, here.id("a", *hashes))
    assert not verifies(public, seed_part.signature, there.id("b", *hashes))


def test_equal_seeds_of_two_workers_or_turns_give_different_masks() -> None:
    """Else who copies a seed would learn the difference of two vectors."""
    masks = {
        context(**changes).mask(worker, SEED).stream().words(4).tobytes()
        for worker in ("a", "b")
        for changes in ({}, {"turn": (0, 2)}, {"turn": (1, 1)}, {"session": bytes([1]) * 32})
    }
    assert len(masks) == 8


def test_server_1_cannot_count_an_upload_that_a_holder_lacks() -> None:
    plan = make_plan(5, 4, MultiKrum(f=1), f=1, min_contributors=2, min_cohort=3)

    class Names:
        corrupt = frozenset({S1})

        def on_send(self, now, sender, to, frame):
            from ostraka.drivers.sim import Delivery

            if frame.kind == "Active" and to == S0:
                states = np.array([ACTIVE] * 5, np.uint8)
                frame = replace(frame, body=Active(states).encode())
            if frame.kind == "SeedPart" and sender == "w00" and to == S0:
                return ()
            return (Delivery(sender, to, frame),)

    world = World(plan, adversary=Names())
    error = world.run().error
    assert isinstance(error, Abort)
    assert "counts uploads that server-0 does not hold: w00" in error.reason
    assert MISSING == 0


def standing(plan: Plan) -> Standing:
    return Standing(plan, 0, Roster(plan.workers, {}, ()))


@pytest.mark.parametrize(
    ("values", "count"),
    [
        *[([1, 1, 1], 2), ([1, 0, 0], 3), ([2, 0, 0], 1), ([5, 5, 5], 1)],
        *[([-(2**63), 1, 1], 0), ([2**26, -(2**26), 2**24], 0)],
    ],
)
def test_weights_that_no_rule_gives_name_their_sender(values: list[int], count: int) -> None:
    plan = make_plan(7, 4, MultiKrum(f=1), f=1, min_contributors=3)
    weights = Weights(np.array([*values, 0, 0, 0, 0]), count, False, True)
    with pytest.raises(Abort, match="server-1 sent weights that no rule gives"):
        check_weights(plan, standing(plan), weights)


def test_a_max_norm_below_the_noise_is_refused_at_the_start() -> None:
    """Else every honest worker would be refused, as a liar, in every round."""
    noisy = fixed_point(10_000, clip=1.0, sigma=0.5, frac_bits=10)
    with pytest.raises(ValueError, match=r"max_norm = 50 is less than bound = 55.*raise max_norm"):
        make_plan(5, 10_000, MultiKrum(f=1), f=1, fixed=noisy, max_norm=50.0)
    make_plan(5, 10_000, MultiKrum(f=1), f=1, fixed=noisy, max_norm=56.0)


def test_max_norm_holds_below_the_clip_too() -> None:
    """Longer updates are refused in every trust model, not clipped in one of them."""
    fixed = fixed_point(1000, clip=4.0)
    one = np.zeros(1000, np.float32)
    for size, max_norm, refused in ((1.01, 1.0, True), (0.99, 1.0, False), (1.01, 4.0, False)):
        one[7] = size
        plan = make_plan(5, 1000, MultiKrum(f=1), f=1, fixed=fixed, max_norm=max_norm)
        assert np.array_equal(encoded(plan, one), unusable(1000) if refused else fixed.encode(one))


ONE = 1 << 24


@pytest.mark.parametrize(
    ("values", "count"),
    [([1, 0, 0, 0, 0, 0, 0], 1), ([ONE, 0, 0, 0, 0, 0, 0], 0), ([ONE - 6, 1, 1, 1, 1, 1, 1], 0)],
)
def test_server_0_opens_no_sum_that_is_nearly_one_update(values: list[int], count: int) -> None:
    """A server 1 that lies about the rule cannot choose whose update opens."""
    plan = make_plan(7, 4, MultiKrum(f=1), f=1, min_contributors=3)
    weights = Weights(np.array(values), count, False, True)
    with pytest.raises(Abort, match="fewer than min_contributors = 3: nothing was opened"):
        check_weights(plan, standing(plan), weights)
    check_weights(plan, standing(plan), Weights(np.array([1] * 4 + [0] * 3), 4, False, True))


def test_server_0_finishes_only_the_attempt_that_it_has_stored() -> None:
    world = World(make_plan(5, 4, MultiKrum(f=1), f=1))
    world.finish()
    prepared = next(s.prepared for s in world.stored_0 if s.prepared is not None)
    state = replace(State0.initial(np.zeros(4, np.float32)), prepared=prepared)

    assert committed(world.plan, state, prepared.attempt) is prepared
    for wrong in (prepared.attempt + 1, prepared.attempt - 1):
        with pytest.raises(Abort, match="this state is an old copy"):
            committed(world.plan, state, wrong)
    with pytest.raises(Abort, match="this state is an old copy"):
        committed(world.plan, replace(state, prepared=None), prepared.attempt)


@pytest.mark.parametrize(("n", "d"), [(1, 10), (9, 1 << 18), (17, 1 << 17), (5000, 3000), (100, 7)])
def test_no_block_of_fewer_rows_is_larger_than_the_largest(n: int, d: int) -> None:
    most = largest_block(n, d)
    for rows in {1, n // 2 or 1, max(1, n - 1), n}:
        wide = max(high - low for low, high in spans(rows, d))
        assert rows * wide <= most
        assert block_width(rows) % 2 == 0
        assert [low for low, _ in spans(rows, d)][1:] == [h for _, h in spans(rows, d)][:-1]


def test_a_mask_and_a_share_make_the_secret_again_block_by_block() -> None:
    d = block_width(3) + 2999
    secret = Key(SEED).derive("secret").stream().words(d)
    seeds = [Key(SEED).derive("seed", i) for i in range(3)]
    shares = [hide(secret, seed) for seed in seeds]
    memory = Memory()
    made = zip(Masks(seeds, d).blocks(memory), Shares(shares, d).blocks(memory), strict=True)
    for masking, sharing in made:
        mask, (low, high) = masking.words(), masking[:2]
        assert np.array_equal(mask + sharing.words(), np.tile(secret[low:high], (3, 1)))
        memory.give(mask)  # a later block may be written over an earlier one
    assert high == d


def test_rows_are_changed_as_they_are_drawn() -> None:
    d = block_width(2) + 5
    masks, seen = Masks([Key(SEED).derive("seed", i) for i in range(2)], d), []

    def change(row: int, low: int, high: int, words: Ring) -> None:
        seen.append((row, low, high))
        words += np.uint64(row + 1)

    plain = [np.array(block.words()) for block in masks.blocks(Memory())]
    changed = [np.array(block.words()) for block in masks.blocks(Memory(), change)]
    for one, other in zip(plain, changed, strict=True):
        assert np.array_equal(other, one + np.array([[1], [2]], np.uint64))
    assert seen == [(row, low, high) for low, high in spans(2, d) for row in (0, 1)]


def test_mail_for_the_far_future_is_not_kept() -> None:
    """A worker that floods server 1 with shares of later rounds costs it two uploads at most."""
    plan = make_plan(5, 50, MultiKrum(f=1), f=1, rounds=3)
    world = World(plan)

    def flood(upload: Upload) -> None:
        for ahead in range(2, 12):
            upload.send(S1, upload.parts()[1], (upload.turn[0] + ahead, 1))
        upload.send_all()

    world.cheats = {"w00": flood}
    world.finish()
    dropped = [e for e in world.events if e["event"] == "dropped" and e["peer"] == "w00"]
    assert {e["why"] for e in dropped} <= {"early", "flood"}
    assert dropped
    assert world.missing() == set()
    assert DEALER in {e.to for e in world.of_kind("SeedPart")}

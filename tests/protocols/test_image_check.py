"""Checks of shared submissions: honest dealers pass, and each cheat is caught by the word that
stands for it, whatever up to t members say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ostraka.algebra.field import P, from_integers, uniform
from ostraka.algebra.image_sets import Ball, Bits, Image, Product, Sphere, Submission
from ostraka.algebra.lattice import inner
from ostraka.crypto.prg import Key
from ostraka.protocols.image_check import COPIES, WORDS, Judged, Shares, judge, member_words
from ostraka.protocols.image_coefficients import Coefficients, draw_projections
from ostraka.protocols.image_equations import Statement
from ostraka.rules import ClippedMean, FLTrust
from ostraka.rules.image import Public
from ostraka.sharing.shamir import Packing

N, T, D = 15, 2, 7
PACKING = Packing.fitting(N, T)
COIN = [Key(bytes([i]) * 32) for i in (1, 2)]


def key(*numbers: int) -> Key:
    return Key(bytes(32)).derive("a dealer of a test", *numbers)


@dataclass
class Dealer:
    """Deals as the protocol says, but for what a test changes on the way.

    ``change``: the secrets (l, width) as elements, before they are shared. ``masks``: what is
    added to the masks of B and C, (N, 2) each. ``shares``: all shares (N, width).
    """

    statement: Statement
    submission: Submission
    change: Callable[[np.ndarray], None] = lambda secrets: None
    forge: Callable[[list[int]], None] = lambda bits: None
    number: int = 0
    added: dict[str, np.ndarray] = field(default_factory=dict)

    def deal(self) -> list[np.ndarray]:
        """Shares (N, width), masks of A, B and C (N, 2)."""
        statement, packing = self.statement, self.statement.packing
        bits = self._bits().tolist()
        self.forge(bits)
        signed = np.concatenate(
            [
                statement.lay(self.submission, 0),
                statement.lay((np.array(bits, np.int64),), len(self.submission)),
            ],
            axis=1,
        )
        secrets = np.empty(signed.shape, np.uint64)
        from_integers(signed, secrets)
        self.change(secrets)
        masks = np.empty((packing.slots, COPIES), np.uint64)
        uniform(key(self.number, 0).stream(), masks)
        both = shared(packing, np.concatenate([secrets, masks], axis=1), self.number)
        shares, masks_a = both[:, : statement.width], both[:, statement.width :]
        dealt = [shares.copy(), masks_a.copy()]
        for place, share in enumerate((packing.deal_vanishing, packing.deal_zero_sums), 1):
            out = np.empty((packing.n, COPIES), np.uint64)
            share(key(self.number, 100 + place).stream(), out)
            dealt.append(out)
        for name, more in self.added.items():
            place = ["values", "a", "b", "c"].index(name)
            dealt[place] = (dealt[place].astype(object) + more).astype(object) % P
            dealt[place] = dealt[place].astype(np.uint64)
        return dealt

    def _bits(self) -> np.ndarray:
        """The proof, or the nearest thing to one: each number modulo its bits."""
        try:
            return self.statement.prove(self.submission, draw_projections(self.statement, COIN[0]))
        except ValueError:
            return near_proof(self.statement, self.submission)


def near_proof(statement: Statement, submission: Submission) -> np.ndarray:
    """Bits of what the numbers are in the field, cut off where they are too long."""
    values = [
        ((bound.sign * number.of(submission) + bound.offset) % P, bound.bits)
        for number in statement.numbers
        for bound in number.bounds
    ]
    for part, words in zip(statement.projected, draw_projections(statement, COIN[0]), strict=True):
        rows = list(zip(submission[part].tolist(), words.tolist(), strict=False))
        for test in range(statement.tests):
            a, b = divmod(test, 32)
            total = sum(y * ((w[a] >> b & 1) - (w[a] >> 32 + b & 1)) for y, w in rows)
            values.append(((total + 2**28) % P, 29))
    return np.array([v >> i & 1 for v, bits in values for i in range(bits)], np.int64)


def shared(packing: Packing, secrets: np.ndarray, number: int) -> np.ndarray:
    """Shares (N, w) of secrets (l, w)."""
    known = np.zeros((packing.degree + 1, secrets.shape[1]), np.uint64)
    known[: packing.slots] = secrets
    rest = np.empty((packing.n - packing.seeds, secrets.shape[1]), np.uint64)
    streams = [key(number, 1, i).stream() for i in range(packing.seeds)]
    packing.deal(known, streams, rest)
    return np.concatenate([known[packing.slots :], rest])


def checked(
    statement: Statement,
    dealers: list[Dealer],
    lies: Callable[[np.ndarray], None] = lambda words: None,
    absent: tuple[int, ...] = (),
    copies: int = COPIES,
) -> Judged:
    """All members compute their words; then somebody judges."""
    dealt = [dealer.deal() for dealer in dealers]
    projections = draw_projections(statement, COIN[0])
    drawn = [Coefficients.draw(statement, projections, COIN[1], copy) for copy in range(copies)]
    words = np.zeros((statement.packing.n, len(dealers), WORDS), np.uint64)
    for member in range(statement.packing.n):
        own = [np.stack([d[place][member] for d in dealt]) for place in range(4)]
        words[member] = member_words(statement, drawn, member, Shares(*own))
    lies(words)
    present = np.ones(statement.packing.n, np.bool_)
    present[list(absent)] = False
    return judge(statement, words, present)


def ball(radius: float = 2.0, d: int = D) -> Statement:
    return Statement.of(Ball(d, radius, 10), PACKING, 0)


def a_vector(statement: Statement, seed: int = 0) -> Submission:
    rng = np.random.default_rng(seed)
    image: Any = statement.image
    size = image.parts[0].size
    if isinstance(image, Bits):
        return (rng.integers(0, 2, size).astype(np.int64),)
    return tuple(image.encode(rng.standard_normal(size)))


ROOT = (0.3 * np.random.default_rng(5).standard_normal(D)).astype(np.float32)


def sphere() -> tuple[Statement, Submission]:
    rule, public = FLTrust(), Public(ROOT)
    image: Any = rule.image(public)
    update = ROOT + 0.2 * np.random.default_rng(6).standard_normal(D).astype(np.float32)
    return Statement.of(image, PACKING, 0), rule.submit(update, public, 0)


def every_image() -> list[tuple[Statement, Submission]]:
    flat, tied = Statement.of(Bits(D), PACKING, 0), ball()
    both: Image = Product((Bits(3), Ball(4, 1.0, 8), sphere()[0].image))
    parts = (np.array([1, 0, 1]), np.array([3, -4, 5, 6]), *sphere()[1])
    product = Statement.of(both, PACKING, 0), tuple(part.astype(np.int64) for part in parts)
    return [(flat, a_vector(flat)), (tied, a_vector(tied)), sphere(), product]


@pytest.mark.parametrize(("statement", "submission"), every_image())
def test_honest_dealers_pass_whatever_t_members_say(
    statement: Statement, submission: Submission
) -> None:
    def lies(words: np.ndarray) -> None:
        words[3] = 7
        words[8, :, 2] += np.uint64(1)

    found = checked(statement, [Dealer(statement, submission, number=i) for i in range(3)], lies)
    assert found.acceptable.all()
    assert not found.agrees[:, [3, 8]].any()
    assert found.agrees.sum() == 3 * (N - 2)


def test_words_show_nothing_of_the_submission() -> None:
    """Two submissions, the same masks: the words differ; other masks: they are other elements."""
    statement = ball()
    one, other = (
        checked(statement, [Dealer(statement, a_vector(statement, seed), number=seed)])
        for seed in (1, 2)
    )
    for a, b in zip(one.decoded, other.decoded, strict=True):
        assert not (a.codewords == b.codewords).any()


# --- cheats -------------------------------------------------------------------------------------


def caught(found: Judged) -> None:
    assert not found.acceptable[0]
    assert found.acceptable[1:].all()


def with_honest(statement: Statement, cheat: Dealer) -> Judged:
    honest = sphere()[1] if isinstance(statement.image, Sphere) else a_vector(statement)
    return checked(statement, [cheat, Dealer(statement, honest, number=9)])


@pytest.mark.parametrize("value", [2, -1, 10**6])
def test_what_is_no_bit_is_caught(value: int) -> None:
    statement = Statement.of(Bits(D), PACKING, 0)
    vector = a_vector(statement)[0].copy()
    vector[3] = value
    caught(with_honest(statement, Dealer(statement, (vector,))))


def test_a_wrong_degree_is_caught() -> None:
    """One share is not on the polynomial of the others, for more members than may lie."""
    statement = ball()
    more = np.zeros((N, statement.width), object)
    more[: N // 2, 0] = 1
    caught(with_honest(statement, Dealer(statement, a_vector(statement), added={"values": more})))


@pytest.mark.parametrize("length", [1.01, 2.0, 64.0])
def test_a_vector_that_is_too_long_is_caught(length: float) -> None:
    statement = ball()
    vector = np.zeros(D, np.int64)
    vector[2] = math.ceil(length * 2.0 * 2**10)
    caught(with_honest(statement, Dealer(statement, (vector,))))


def wrapping() -> list[np.ndarray]:
    """Integers whose squared norm is small modulo p and not in truth."""
    root = math.isqrt(P) + 1
    a, b = root, 0
    four = _four_squares(P)
    return [np.array([*v, *[0] * (D - len(v))], np.int64) for v in ([a, b], four)]


def _four_squares(total: int) -> list[int]:
    """Four squares that sum to a number, by trying."""
    rng = np.random.default_rng(1)
    while True:
        a, b = (int(x) for x in rng.integers(0, math.isqrt(total) // 2, 2))
        rest = total - a * a - b * b
        for c in range(math.isqrt(rest), math.isqrt(rest) - 2000, -1):
            e = math.isqrt(rest - c * c)
            if c * c + e * e == rest:
                return [a, b, c, e]


@pytest.mark.parametrize("vector", wrapping())
def test_a_norm_that_wraps_around_is_caught_by_the_projections(vector: np.ndarray) -> None:
    statement = ball(2.8e4)
    norm = sum(int(y) ** 2 for y in vector) % P
    assert norm <= statement.image.norm_limit  # type: ignore[operator]
    caught(with_honest(statement, Dealer(statement, (vector,))))


@pytest.mark.parametrize("at", [0, 17, 40, -1])
def test_a_proof_value_that_is_wrong_is_caught(at: int) -> None:
    statement = ball()

    def forge(bits: list[int]) -> None:
        bits[at] ^= 1

    caught(with_honest(statement, Dealer(statement, a_vector(statement), forge=forge)))


@pytest.mark.parametrize("delta", [1, P - 1])
def test_proof_values_that_are_no_bits_but_fit_the_equation_are_caught(delta: int) -> None:
    """Two more in one place and one less in the next: only B sees it."""
    statement = ball()
    at = statement.columns[-1].start

    def change(secrets: np.ndarray) -> None:
        width = statement.columns[-1].stop - at
        assert width > 1
        secrets[0, at] = (int(secrets[0, at]) + 2 * delta) % P
        secrets[0, at + 1] = (int(secrets[0, at + 1]) - delta) % P

    found = with_honest(statement, Dealer(statement, a_vector(statement), change=change))
    caught(found)


@pytest.mark.parametrize("which", [0, -1])
def test_a_value_in_a_slot_that_carries_none_is_caught(which: int) -> None:
    """It would let a vector be longer: a slot with i y, i^2 = -1, cancels its norm."""
    statement = ball()
    slot, column = statement.filling[which]

    def change(secrets: np.ndarray) -> None:
        secrets[slot, column] = 1

    caught(with_honest(statement, Dealer(statement, a_vector(statement), change=change)))


@pytest.mark.parametrize("score", [-1, 0, 2 * 4096, 4097])
def test_a_score_that_does_not_match_is_caught(score: int) -> None:
    statement, (z, _) = sphere()
    caught(with_honest(statement, Dealer(statement, (z, np.array([score])))))


@pytest.mark.parametrize("more", [-1, 3])
def test_a_score_that_is_rounded_another_way_is_caught(more: int) -> None:
    statement, (z, score) = sphere()
    caught(with_honest(statement, Dealer(statement, (z, score + more))))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_score_that_matches_in_the_field_alone_is_caught(sign: int) -> None:
    """-U, and a square root of what U^2 should be: only the range of the score tells."""
    statement, (z, score) = sphere()
    image: Any = statement.image
    least = int(score[0]) ** 2
    root = -int(score[0])
    if sign > 0:  # p is 3 mod 4
        squares = (x for x in range(least + 1, least + 4096) if math.isqrt(x) ** 2 != x)
        root = next(r for x in squares if (r := pow(x, (P + 1) // 4, P)) ** 2 % P == x)
        assert 0 <= root**2 * image.kappa % P - inner(z, image.diameter) < image.kappa << 13

    def change(secrets: np.ndarray) -> None:
        secrets[0, statement.columns[1].start] = root % P

    near = [
        v >> i & 1
        for v, bits in (
            (root % P, 13),
            (2**12 - root % P, 13),
            (root**2 * image.kappa % P - inner(z, image.diameter), _bits(statement, 4)),
        )
        for i in range(bits)
    ]

    def forge(bits: list[int]) -> None:
        start = 2 * _bits(statement, 0)
        bits[start : start + len(near)] = near
        rest = (image.kappa << 13) - (root**2 * image.kappa % P - inner(z, image.diameter))
        width = _bits(statement, 5)
        bits[start + len(near) : start + len(near) + width] = [rest >> i & 1 for i in range(width)]

    cheat = Dealer(statement, (z, score), change=change, forge=forge)
    caught(with_honest(statement, cheat))


def _bits(statement: Statement, bound: int) -> int:
    return [b.bits for number in statement.numbers for b in number.bounds][bound]


@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_a_point_inside_or_outside_the_sphere_is_caught(scale: float) -> None:
    statement, (z, _) = sphere()
    image: Any = statement.image
    off = np.rint(scale * z).astype(np.int64)
    caught(with_honest(statement, Dealer(statement, (off, np.array([image.score(off)])))))


@pytest.mark.parametrize("name", ["b", "c"])
def test_masks_that_would_hide_a_violation_do_not_fit_both_copies(name: str) -> None:
    """The masks are dealt before the coin: a fixed one does not cancel what the coin makes of it.

    And a mask that is not of its form is a violation by itself.
    """
    statement = ball()
    more = np.zeros((N, COPIES), object)
    more[:, :] = 5  # a constant polynomial: 5 in every slot
    honest = a_vector(statement)
    caught(with_honest(statement, Dealer(statement, honest, added={name: more})))


def test_too_few_members_that_agree_do_not_count() -> None:
    """A word may decode though liars and withheld shares leave too few who agree with all six."""
    statement = ball()
    least = 2 * PACKING.degree + 1 + T
    dealer = Dealer(statement, a_vector(statement))
    absent = tuple(range(N - least))
    assert checked(statement, [dealer], absent=absent).acceptable.all()

    def one_more(words: np.ndarray) -> None:
        words[N - 1, 0, 4] += np.uint64(1)

    assert not checked(statement, [dealer], one_more, absent).acceptable.any()


def test_both_copies_count() -> None:
    """A violation in the words of the second copy alone rejects the dealer as well."""
    statement = ball()
    more = np.zeros((N, COPIES), object)
    more[:, 1] = 5
    dealer = Dealer(statement, a_vector(statement), added={"c": more})
    caught(with_honest(statement, dealer))
    assert not checked(statement, [dealer]).acceptable.any()


def test_an_image_without_equations_is_refused() -> None:
    class Other(Bits):
        pass

    strange: Any = object()
    with pytest.raises(ValueError, match="no equations are known"):
        _ = Statement(strange, PACKING, 64).numbers
    assert Statement.of(Other(3), PACKING, 0).numbers == ()


def test_as_many_projections_as_the_budget_asks() -> None:
    assert ball().tests == 64
    large = Packing.fitting(200, 40)
    # Who may choose which 43 of 200 parts of the coin are missing has so many coins, in bits.
    choices = sum(math.comb(200, missing) for missing in range(44))
    assert 2 ** (146) < choices < 2**147
    assert Statement.of(Ball(D, 1.0, 10), large, 3).tests == 41 + 147 + 6


def test_clipped_means_of_any_update_have_a_proof() -> None:
    rule = ClippedMean(tau=2.0, frac_bits=10)
    for seed in range(20):
        update = 10.0 ** (seed - 10) * np.random.default_rng(seed).standard_normal(D)
        statement = Statement.of(rule.image(Public.blank(D)), PACKING, 0)
        submission = rule.submit(update, Public.blank(D), 0)
        assert checked(statement, [Dealer(statement, submission)]).acceptable.all()

"""Privacy attacks on `two_server`, each shown to succeed with its cure off and to fail with it.

The attacker is one curious operator that keeps its whole view, alone or with f workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pytest

from ostraka.algebra.fixed import FixedPoint
from ostraka.algebra.ring import Ring
from ostraka.protocols import upload
from ostraka.rules import GeometricMedian, GramRule, Mean, MultiKrum, Needs
from ostraka.rules.gram import Geometry
from ostraka.rules.guard import Guarded
from ostraka.rules.integer_weights import IntegerWeights
from tests.protocols.two_server_views import by_turn, masks_of, message_of
from tests.protocols.two_server_world import DEALER, S0, S1, World, given, make_plan

PLANNING, DECIDING, SERVING_0, SERVING_1 = (
    import_module(f"ostraka.trust.two_server.{name}")
    for name in ("plan", "decide", "server_0", "server_1")
)
OPENING = import_module("ostraka.protocols.opening")
ONE = 1 << 24


@pytest.fixture(autouse=True)
def few_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wraparound check is not what these tests are about, and most of their time."""
    monkeypatch.setattr(PLANNING, "projections", lambda n, rounds: 4)


@dataclass(frozen=True)
class Given(GramRule):
    """Weights that everybody knows beforehand."""

    weights: tuple[float, ...]
    name: ClassVar[str] = "given"
    centre: ClassVar[Literal["public"] | None] = None

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs.NOTHING

    def check(self, n: int, f: int | None = None) -> None:
        """One weight for each worker."""

    def coefficients(self, geometry: Geometry, f: int) -> npt.NDArray[np.float64]:
        """The weights, sum 1."""
        weights = np.array(self.weights)
        return np.asarray(weights / weights.sum())


# --- the opening --------------------------------------------------------------------------------


def no_dither(patch: pytest.MonkeyPatch) -> None:
    """The exact sum is opened, as the paper does it."""
    patch.setattr(OPENING, "dither_words", lambda key, bits, d: np.zeros(d, np.uint64))


def weights_of_24_bits(patch: pytest.MonkeyPatch) -> None:
    """Equal weights too are integers that sum to 2^24: the first row takes what is left over."""

    def quantise(coefficients: Any, n: int, *_: Any, **__: Any) -> IntegerWeights:
        values = np.floor(coefficients[:n] * ONE).astype(np.int64)
        values[: ONE - int(values.sum())] += 1
        return IntegerWeights(values, 0)

    patch.setattr(DECIDING, "quantise", quantise)


def seen_by_0(world: World) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The integer weights and z = p^T X (+ dither), int64, from server 0's recorded view."""
    ((turn, frames),) = [(t, f) for t, f in by_turn(world.sent).items() if t[0] == 0]
    (weights,) = (message_of(s).values for s in frames if s.kind == "Weights")
    (words,) = (message_of(s).words for s in frames if s.kind == "Words")
    z = weights.view(np.uint64) @ masks_of(world, turn, frames) + words
    return weights, z.view(np.int64)


def opened(rule: GramRule, rows: npt.NDArray[np.int64], bits: int = 20) -> World:
    """One round over these integer rows (m, d)."""
    m, d = rows.shape
    fixed = FixedPoint(d, bits, 4.0)
    plan = make_plan(m, d, rule, f=1, min_contributors=3, fixed=fixed)
    world = World(plan, updates=given([row * fixed.unit for row in rows.astype(np.float64)]))
    world.finish()
    return world


def low_bits(weights: npt.NDArray[np.int64], z: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """One row by the residue of the sum: all weights but the first are w, the first w + 1."""
    w = int(weights.min())
    return np.asarray((z + w // 2) % w - w // 2)


SIZES = [5, 7, 9, 10]


def rows_of(m: int, d: int = 64, size: int = 1 << 17) -> npt.NDArray[np.int64]:
    return np.random.default_rng(m).integers(-size, size + 1, (m, d))


@pytest.mark.parametrize("m", [5, 7, 9])
def test_low_bits_of_an_exact_sum_are_one_workers_update(
    m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_dither(monkeypatch)
    weights_of_24_bits(monkeypatch)
    rows = rows_of(m)
    world = opened(Mean(), rows)
    assert (low_bits(*seen_by_0(world)) == rows[0]).all()


@pytest.mark.parametrize("m", SIZES)
def test_low_bits_say_nothing_under_the_dither(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_of_24_bits(monkeypatch)
    rows = rows_of(m)
    guess = low_bits(*seen_by_0(opened(Mean(), rows)))
    assert (guess == rows).sum() == 0
    assert np.abs(correlations(rows, guess)).max() < 0.6


@pytest.mark.parametrize("m", SIZES)
def test_equal_weights_are_ones_and_their_sum_has_no_low_bits(m: int) -> None:
    rows = rows_of(m)
    weights, z = seen_by_0(opened(Mean(), rows))
    assert (weights == 1).all()
    assert (z == rows.sum(axis=0)).all(), "the exact sum, which is what server 0 may learn"


def correlations(rows: npt.NDArray[Any], guess: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Of every row (m, d) with one guess (d,)."""
    return np.array([np.corrcoef(row, guess)[0, 1] for row in rows.astype(np.float64)])


def unequal(m: int) -> Given:
    """Weights that nothing ties to one another, near enough to equal for the guard."""
    return Given(tuple((1.0 + 0.1 * np.random.default_rng(m).random(m)).tolist()))


def solutions(
    weights: npt.NDArray[np.int64], low: int, high: int, box: int
) -> Iterator[tuple[int, ...]]:
    """All small rows x, |x_i| <= box, with low <= p^T x <= high: meet in the middle."""
    half = len(weights) // 2
    values = range(-box, box + 1)
    left = np.array(list(itertools.product(values, repeat=half)))
    right = np.array(list(itertools.product(values, repeat=len(weights) - half)))
    sums = left @ weights[:half]
    order = np.argsort(sums)
    others = right @ weights[half:]
    starts = np.searchsorted(sums[order], low - others, side="left")
    ends = np.searchsorted(sums[order], high - others, side="right")
    for j in np.flatnonzero(ends > starts):
        for i in order[starts[j] : ends[j]]:
            yield (*left[i].tolist(), *right[j].tolist())


BOXES = {5: 4, 7: 2, 9: 1, 10: 1}
"""How large the few-valued updates of the knapsack are, so that an exact sum has one solution."""


@pytest.mark.parametrize("m", SIZES)
def test_an_exact_sum_of_unequal_weights_is_solved_as_a_knapsack(
    m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_dither(monkeypatch)
    rows = rows_of(m, d=8, size=BOXES[m])
    weights, z = seen_by_0(opened(unequal(m), rows))
    for total, column in zip(z.tolist(), rows.T.tolist(), strict=True):
        assert list(solutions(weights, total, total, BOXES[m])) == [tuple(column)]


@pytest.mark.slow
@pytest.mark.parametrize("m", SIZES)
def test_under_the_dither_every_worker_may_have_sent_anything(m: int) -> None:
    """All of z is used: the attacker takes every dither into account, and knows the box."""
    box = BOXES[m]
    rows = rows_of(m, d=3, size=box)
    weights, z = seen_by_0(opened(unequal(m), rows))
    for total, column in zip(z.tolist(), rows.T.tolist(), strict=True):
        found = np.array(list(solutions(weights, total - ONE // 2 + 1, total + ONE // 2, box)))
        assert tuple(column) in set(map(tuple, found.tolist()))
        assert len(found) > 20
        values = [len(set(worker.tolist())) for worker in found.T]
        assert min(values) == 2 * box + 1, "no value of any worker is ruled out"


def test_the_dither_alone_covers_the_low_bits_of_real_size_updates() -> None:
    """Of unequal 24-bit weights no residue of z tells a row."""
    rows = rows_of(7)
    weights, z = seen_by_0(opened(unequal(7), rows))
    for weight in weights.tolist():
        guess = np.asarray((z + weight // 2) % weight - weight // 2)
        assert np.abs(correlations(rows, guess)).max() < 0.6


# --- guessing an update from its id -------------------------------------------------------------


def guessed(world: World, party: str, guesses: list[Ring], salts: list[bytes]) -> list[int]:
    """Which guesses of w00's update fit the hash in the part that this party holds."""
    (part,) = (message_of(s) for s in world.of_kind("SeedPart", "w00", party))
    context = world.plan.context((0, 1))
    mask = context.mask("w00", part.seed).stream().words(world.plan.fixed.d)
    return [
        number
        for number, guess in enumerate(guesses)
        for salt in salts
        if upload._share_hash(salt, guess - mask) == part.share_hash
    ]


@pytest.mark.parametrize("party", [S0, DEALER])
@pytest.mark.parametrize("salted", [True, False])
def test_a_guess_of_an_update_cannot_be_tested_against_its_id(
    party: str, salted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not salted:
        share_hash = upload._share_hash
        monkeypatch.setattr(upload, "_share_hash", lambda salt, y: share_hash(bytes(32), y))
    rows = rows_of(5, d=6, size=3)
    world = opened(Mean(), rows)
    guesses = [world.plan.fixed.encode(row * world.plan.fixed.unit) for row in rows[::-1]]
    own = [message_of(s).salt for s in world.of_kind("SharePart") if s.sender != "w00"]
    found = guessed(world, party, guesses, [bytes(32), *own])
    assert set(found) == (set() if salted else {4})
    (share,) = (message_of(s) for s in world.of_kind("SharePart", "w00", S1))
    assert set(guessed(world, party, guesses, [share.salt])) == {4}, "with the salt it would be"
    held = [message_of(s).encode() for s in world.sent if s.to in (S0, DEALER)]
    assert not any(share.salt in body for body in held)


# --- one dominant contributor -------------------------------------------------------------------


def unguarded(patch: pytest.MonkeyPatch) -> None:
    """Neither server looks whether an update shows through."""
    patch.setattr(DECIDING, "guarded", lambda c, *_: Guarded(c, False))
    patch.setattr(SERVING_0, "check_weights", lambda *_: None)


def residue(world: World, rows: npt.NDArray[np.float64], f: int) -> float:
    """Correlation with worker 0 of what is left when f colluders subtract their own rows."""
    weights, z = seen_by_0(world)
    largest = np.argsort(-np.abs(weights[1:]), kind="stable")[:f] + 1
    left = z.astype(np.float64) - weights[largest] @ (rows[largest] / world.plan.fixed.unit)
    return float(np.corrcoef(left, rows[0])[0, 1])


DOMINANT = {
    "0.3 and 99 equal": (0.3, *[0.7 / 99] * 99),
    "0.5 and 10 equal": (0.5, *[0.05] * 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("f", [0, 2])
@pytest.mark.parametrize("which", DOMINANT)
def test_a_dominant_contributor_is_capped_to_what_min_contributors_says(
    which: str, f: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, least, d = DOMINANT[which], 3, 2000
    rows = np.random.default_rng(1).choice([-0.02, 0.02], (len(weights), d))
    plan = make_plan(len(weights), d, Given(weights), f=f, min_contributors=least)
    world = World(plan, updates=given(list(rows)))
    world.finish()
    assert world.told("capped", "round", "least") == [(0, least)]
    assert residue(world, rows, f) == pytest.approx(least**-0.5, abs=0.06)

    unguarded(monkeypatch)
    open_world = World(plan, updates=given(list(rows)))
    open_world.finish()
    assert residue(open_world, rows, f) > 0.95, "without the guard the victim is read"


@pytest.mark.parametrize("guard", [True, False])
def test_one_worker_at_the_geometric_median_does_not_end_the_round(
    guard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs around one row: that row is the geometric median, and would be opened alone."""
    rng = np.random.default_rng(2)
    away = rng.normal(scale=0.02, size=(5, 400))
    victim = rng.normal(scale=0.02, size=400)
    rows = np.concatenate([victim[None], victim + away, victim - away])
    if not guard:
        unguarded(monkeypatch)
    plan = make_plan(11, 400, GeometricMedian(), f=2, min_contributors=3, rounds=2)
    world = World(plan, updates=given(list(rows)))
    world.finish()
    weights, _ = seen_by_0(world)
    shares = np.sort(np.abs(weights / weights.sum()))[::-1]
    covered = 1 + ((shares[3:] / shares[0]) ** 2).sum()
    assert world.told("capped", "round", "least") == ([(0, 3), (1, 3)] if guard else [])
    assert (covered >= 3 * (1 - 2**-6)) if guard else (shares[0] > 0.99)


# --- gradient inversion -------------------------------------------------------------------------

CLASSES, PIXELS = 10, 64


def digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The built-in digits: images (n, 64) in [0, 1] and labels."""
    with np.load(str(files("ostraka.learn.datasets") / "digits.npz")) as data:
        named = {name: data[name] for name in data.files}
    images = next(a for a in named.values() if a.size == len(a) * PIXELS and a.ndim > 1)
    labels = next(a for a in named.values() if a.ndim == 1)
    flat = images.reshape(len(images), PIXELS).astype(np.float64)
    return flat / flat.max(), labels.astype(np.int64)


def gradient(image: npt.NDArray[np.float64], label: int) -> npt.NDArray[np.float64]:
    """Of the cross entropy of a zero softmax model on one example: (10 * 64 + 10,)."""
    slope = np.full(CLASSES, 0.1)
    slope[label] -= 1.0
    return np.concatenate([np.outer(slope, image).reshape(-1), slope])


def inverted(vector: npt.NDArray[np.float64], label: int) -> npt.NDArray[np.float64]:
    """The input of a linear layer from its gradient: weight row over bias entry."""
    weights, biases = vector[:-CLASSES].reshape(CLASSES, PIXELS), vector[-CLASSES:]
    return np.asarray(weights[label] / biases[label])


@dataclass(frozen=True)
class Inversion:
    """One round on one example each, all of one class; what is compared is what differs in it."""

    world: World
    images: npt.NDArray[np.float64]
    label: int
    typical: npt.NDArray[np.float64]

    def likeness(self, vector: npt.NDArray[np.float64], worker: int) -> float:
        """Correlation of a reconstruction with a worker's image, beyond what is typical."""
        found = inverted(vector, self.label) - self.typical
        return float(np.corrcoef(found, self.images[worker] - self.typical)[0, 1])


def inversion(n: int = 24, label: int = 3) -> Inversion:
    images, labels = digits()
    chosen = np.random.default_rng(0).permutation(images[labels == label])
    rows = [gradient(image, label) for image in chosen[:n]]
    plan = make_plan(n, len(rows[0]), MultiKrum(f=2), min_contributors=3, clip=8.0)
    world = World(plan, updates=given(rows))
    world.finish()
    return Inversion(world, chosen[:n], label, chosen.mean(axis=0))


@pytest.mark.slow
def test_gradient_inversion_reads_an_update_and_neither_share_nor_the_aggregate() -> None:
    """A worker whose class nobody else has shows in any sum, robust or not: here all share one."""
    case = inversion()
    world, fixed = case.world, case.world.plan.fixed
    n = world.plan.n
    ((turn, frames),) = [(t, f) for t, f in by_turn(world.sent).items() if t[0] == 0]
    updates = [fixed.decode(fixed.encode(world.updates(w, 0, np.zeros(0)))) for w in names(world)]
    plain = [case.likeness(vector, i) for i, vector in enumerate(updates)]
    masks = masks_of(world, turn, frames)
    seeds = [case.likeness(fixed.decode(masks[i]), i) for i in range(n)]
    held = {s.sender: message_of(s).share for s in frames if s.kind == "SharePart"}
    shares = [case.likeness(fixed.decode(held[w]), i) for i, w in enumerate(names(world))]
    total = [case.likeness(world.stored_0[-1].previous, i) for i in range(n)]
    chance = 4 / np.sqrt(PIXELS)
    assert min(plain) > 0.95
    assert max(np.abs(seeds)) < chance
    assert max(np.abs(shares)) < chance
    assert abs(np.mean(seeds)) < chance / np.sqrt(n)
    assert abs(np.mean(shares)) < chance / np.sqrt(n)
    assert np.mean(total) < 0.5
    assert max(total) < min(plain) - 0.2


def names(world: World) -> tuple[str, ...]:
    return world.plan.workers


def test_the_attacks_are_run_on_the_true_masks() -> None:
    """The view that the attacks read is whole: mask and share make the update."""
    rows = rows_of(5, d=6, size=100)
    world = opened(Mean(), rows)
    ((turn, frames),) = [(t, f) for t, f in by_turn(world.sent).items() if t[0] == 0]
    held = {s.sender: message_of(s).share for s in frames if s.kind == "SharePart"}
    whole = masks_of(world, turn, frames) + np.stack([held[w] for w in names(world)])
    assert (whole.view(np.int64) == rows).all()

"""The geometry of the rows: one small matrix from which Gram rules and pre-aggregations decide.

One pass over the rows gives the float64 inner products of [worker rows, public rows] relative to
the coordinate-wise median of the worker rows. A minority of rows cannot move that centre, so the
distances of honest rows keep their digits beside outliers and at a large common offset. (A mean
would be moved: one row of 10^6 made honest float32 distances wrong by a factor of 466.)

The public rows are the origin, whose distances are the norms, and the reference where one is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ostraka.algebra.ops import NUMPY, Array, Float, Ops, fill, spans
from ostraka.algebra.selection import median

ORIGIN = "origin"
REFERENCE = "reference"

_UNDERFLOW = 1e-200
_SUSPECT = 1e-9
_BITS = 32
_COMPARE = 1 << 16
_WHOLE_LIMIT = 1 << 61


@dataclass(frozen=True, eq=False)
class Geometry:
    """Inner products and squared distances of n worker rows, followed by the public rows.

    `gram` and `squared` are float64 (m, m), m = n + len(publics), in units of `unit` squared;
    `gram` is relative to a centre that a minority of rows cannot move, `squared` does not depend
    on it. `first[i]` is the first worker row equal to row i. Equal rows have the same entries, bit
    for bit, and distance 0, so that ties among them are decided by position alone.

    `pairs` is False when nothing was measured between worker rows. Those entries are NaN then, and
    asking for `distances` is a ValueError: a rule that reads more than it declares must not give a
    silent wrong answer.
    """

    gram: Float
    squared: Float
    n: int
    first: npt.NDArray[np.intp]
    publics: tuple[str, ...] = ()
    unit: float = 1.0
    pairs: bool = True

    @classmethod
    def from_rows(cls, rows: Array, ops: Ops = NUMPY, reference: Array | None = None) -> Geometry:
        """Measure the rows (n, d), float32 or float64, finite, with norms of at most 1e150.

        Works through blocks of columns in float64. Rows so small that their squares would underflow
        (float64 entries below about 1e-100) are measured in a `unit` of their own.
        """
        publics = (ORIGIN,) if reference is None else (ORIGIN, REFERENCE)
        gram, unit = _centred_gram(rows, ops, reference, 0), 1.0
        if gram.max() < _UNDERFLOW:
            biggest = ops.biggest(rows)
            shift = min(1000, 1 - math.frexp(biggest)[1]) if biggest > 0 else 0
            gram, unit = _centred_gram(rows, ops, reference, shift), 2.0**-shift
        n = int(rows.shape[0])
        first = _first_equal(rows, gram[:n, :n], ops)
        return cls._of(gram, n, first, publics, unit)

    @classmethod
    def from_distances(
        cls, squared: npt.ArrayLike, publics: tuple[str, ...] = (), unit: float = 1.0
    ) -> Geometry:
        """Build the same from squared distances alone, (m, m), symmetric, the public rows last.

        The centre is the worker row with the least median distance to the others: a row among the
        honest majority. Integers (int64 or uint64, at most 2^61: distances on a fixed-point grid
        of step `unit`) are subtracted exactly and rounded to float64 once, at the end.
        ValueError when the matrix is not one of distances.
        """
        known = _exact(squared)
        n = len(known) - len(publics) if known.ndim else 0
        if known.ndim != 2 or known.shape[0] != known.shape[1] or n < 1:
            raise ValueError(f"squared distances must be a square matrix, got {known.shape}")
        _check_lengths(known)
        _check_distances(known)
        centre = int(np.argmin(np.sort(known[:n, :n], axis=1)[:, n // 2]))
        gram = _around(known, centre)
        first = np.argmin(known[:n, :n], axis=1)
        pick = np.ix_(*[_pick(first, len(known))] * 2)
        return cls(gram[pick], known[pick].astype(np.float64), n, first, publics, unit)

    @classmethod
    def from_publics(
        cls,
        to_publics: npt.ArrayLike,
        between_publics: npt.ArrayLike,
        publics: tuple[str, ...],
        unit: float = 1.0,
    ) -> Geometry:
        """Build what is known when no two worker rows were compared (`pairs` is False).

        `to_publics` (n, p): squared distance of every worker row to every public row, the origin
        first, so that its column holds the squared norms; `between_publics` (p, p) the same among
        the public rows. Both in units of `unit` squared. `gram` is relative to the origin.
        ValueError when they are no distances or the origin is not the first public row.
        """
        to = np.array(to_publics, dtype=np.float64)
        between = np.array(between_publics, dtype=np.float64)
        p = len(publics)
        if publics[:1] != (ORIGIN,):
            raise ValueError(f"the origin must be the first public row, got {publics}")
        if to.ndim != 2 or to.shape[1] != p or len(to) < 1 or between.shape != (p, p):
            shapes = f"{to.shape} and {between.shape}"
            raise ValueError(f"squared distances to {p} public rows do not have shapes {shapes}")
        _check_lengths(to)
        _check_lengths(between)
        _check_distances(between)
        return cls._partial(to, between, publics, unit)

    @classmethod
    def blank(cls, n: int) -> Geometry:
        """Give a geometry for rules that need nothing but n: nothing in it was measured."""
        return cls._partial(np.empty((n, 0)), np.empty((0, 0)), (), 1.0)

    @classmethod
    def _partial(
        cls, to_publics: Float, between: Float, publics: tuple[str, ...], unit: float
    ) -> Geometry:
        n, p = to_publics.shape
        squared = np.full((n + p, n + p), np.nan)
        squared[:n, n:], squared[n:, :n], squared[n:, n:] = to_publics, to_publics.T, between
        np.fill_diagonal(squared, 0.0)
        gram = _around(squared, n) if p else np.full((n, n), np.nan)
        return cls(gram, squared, n, np.arange(n), publics, unit, pairs=False)

    @classmethod
    def _of(
        cls,
        gram: Float,
        n: int,
        first: npt.NDArray[np.intp],
        publics: tuple[str, ...],
        unit: float,
    ) -> Geometry:
        pick = _pick(first, len(gram))
        gram = gram[np.ix_(pick, pick)]
        gram = (gram + gram.T) / 2
        diagonal = np.diagonal(gram)
        squared = np.maximum(diagonal[:, None] + diagonal[None, :] - 2 * gram, 0.0)
        np.fill_diagonal(squared, 0.0)
        return cls(gram, squared, n, first, publics, unit)

    @property
    def distances(self) -> Float:
        """Squared distances (n, n) between the worker rows; ValueError if not measured."""
        if not self.pairs:
            raise ValueError(
                "distances between workers were not measured: a rule or pre-aggregation read more "
                "than it declares. Let its `needs` say so"
            )
        return self.squared[: self.n, : self.n]

    @property
    def compared(self) -> Float:
        """The same to 32 bits, for rules that only sort them.

        The digits beyond are rounding, which depends on how the rows were measured: without them
        distances that are equal in exact arithmetic are equal here, and who sorts by them decides
        ties by position, in every trust model.
        """
        mantissa, exponent = np.frexp(self.distances)
        rounded: Float = np.ldexp(np.rint(mantissa * 2.0**_BITS), exponent - _BITS)
        return rounded

    @property
    def norms(self) -> Float:
        """Squared norms (n,) of the worker rows."""
        return self.squared[: self.n, self.index(ORIGIN)]

    @property
    def centre(self) -> int:
        """Position of the public row that rules start from: the reference, else the origin."""
        return self.index(REFERENCE if REFERENCE in self.publics else ORIGIN)

    def index(self, public: str) -> int:
        """Position of a public row; ValueError when this geometry has none of that name."""
        if public not in self.publics:
            raise ValueError(f"this geometry has no public row {public!r}, only {self.publics}")
        return self.n + self.publics.index(public)

    def mix(self, matrix: Float) -> Geometry:
        """Geometry of the k rows `matrix` @ worker rows, (k, n) with row sums 1; publics stay.

        Without `pairs` the entries of the mixtures are NaN: they cannot be known.
        """
        if not self.pairs:
            unknown = np.full((len(matrix), len(self.publics)), np.nan)
            between = self.squared[self.n :, self.n :]
            return self._partial(unknown, between, self.publics, self.unit)
        matrix = self._canonical(matrix)
        k = len(matrix)
        publics = len(self.publics)
        whole = np.zeros((k + publics, self.n + publics))
        whole[:k, : self.n] = matrix
        whole[k:, self.n :] = np.eye(publics)
        _, at, which = np.unique(matrix, axis=0, return_index=True, return_inverse=True)
        first = at[which.reshape(-1)]
        mixed = self._of(whole @ self.gram @ whole.T, k, first, self.publics, self.unit)
        return replace(mixed, squared=self._keep_publics(mixed.squared, k))

    def from_point(self, point: Float) -> Float:
        """Squared distances (n,) of an affine combination of the rows to each worker row.

        `point` (m,) has sum 1. The difference of coefficients is taken before the product, so a
        point close to a row keeps its digits.
        """
        shift = np.tile(point, (self.n, 1))
        np.fill_diagonal(shift, 0.0)
        np.fill_diagonal(shift, -shift.sum(axis=1))
        squared: Float = np.einsum("ij,ij->i", shift @ self.gram, shift)
        return np.maximum(squared, 0.0)

    def length(self, shift: Float) -> float:
        """Squared length of a combination (m,) of the rows whose sum is 0."""
        return float(np.maximum(shift @ self.gram @ shift, 0.0))

    def _canonical(self, matrix: Float) -> Float:
        """Move the weight of repeated rows to the first of them."""
        folded = np.zeros_like(matrix)
        np.add.at(folded.T, self.first, matrix.T)
        return folded

    def _keep_publics(self, squared: Float, k: int) -> Float:
        """Distances among public rows are not computed anew by a mixture."""
        squared[k:, k:] = self.squared[self.n :, self.n :]
        return squared


def _exact(squared: npt.ArrayLike) -> npt.NDArray[np.int64] | Float:
    """Give integers as int64, so that their differences are exact, and all else as float64."""
    known = np.asarray(squared)
    if known.dtype.kind not in "iu":
        return np.array(known, dtype=np.float64)
    if known.size and int(known.max()) > _WHOLE_LIMIT:
        raise ValueError(f"squared distances must be at most 2^61, got {int(known.max())}")
    return known.astype(np.int64)


def _check_lengths(squared: npt.NDArray[np.int64] | Float) -> None:
    if not (np.isfinite(squared).all() and (squared >= 0).all()):
        raise ValueError("squared distances must be finite and not negative")


def _check_distances(squared: npt.NDArray[np.int64] | Float) -> None:
    if np.diagonal(squared).any() or not np.array_equal(squared, squared.T):
        raise ValueError("squared distances must be symmetric with a zero diagonal")


def _around(squared: npt.NDArray[np.int64] | Float, centre: int) -> Float:
    """Inner products relative to a row of a matrix of squared distances."""
    to_centre = squared[centre]
    doubled = to_centre[:, None] + to_centre[None, :] - squared
    gram: Float = doubled.astype(np.float64) / 2
    return gram


def _pick(first: npt.NDArray[np.intp], m: int) -> npt.NDArray[np.intp]:
    return np.concatenate([first, np.arange(len(first), m)]).astype(np.intp)


def _centred_gram(rows: Array, ops: Ops, reference: Array | None, shift: int) -> Float:
    """Inner products of [rows, origin, reference] around the median, all scaled by 2^shift."""
    n, d = (int(size) for size in rows.shape)
    m = n + (1 if reference is None else 2)
    gram = np.zeros((m, m))
    with ops.scratch(rows, n) as parts, ops.scratch(rows, m, wide=True) as blocks:
        for low, high in spans(d):
            part, block = parts[:, : high - low], blocks[:, : high - low]
            fill(part, rows, low, high)
            block[:n], block[n] = part, 0.0
            if reference is not None:
                block[n + 1] = reference[low:high]
            if shift:
                block *= 2.0**shift
                part = ops.copy(block[:n])
            block -= median(part, ops)
            gram += ops.gram(block)
    return gram


def _first_equal(rows: Array, gram: Float, ops: Ops) -> npt.NDArray[np.intp]:
    """For each row the first row equal to it; only pairs at nearly no distance are compared."""
    diagonal = np.diagonal(gram)
    total = diagonal[:, None] + diagonal[None, :]
    suspects = np.argwhere(np.tril(np.abs(total - 2 * gram) <= _SUSPECT * total, -1))
    first = np.arange(len(gram))
    for i, j in suspects:
        if first[i] == i and first[j] == j and _equal(rows[int(i)], rows[int(j)], ops):
            first[i] = j
    return first


def _equal(a: Array, b: Array, ops: Ops) -> bool:
    return all(
        ops.equal(a[low:high], b[low:high]) for low, high in spans(int(a.shape[0]), _COMPARE)
    )

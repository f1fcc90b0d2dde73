"""Weights as integers, the rounding of the weighted sum, and the aggregate made of it.

Step 7 of a two-server round. Each server holds a share of the integer rows X, and the servers open
an integer image of p^T X. Equal weights are sent as 1: the exact sum is opened and divided
afterwards, and a sum of m rows tells nothing of one of them. Unequal weights are integers of
`WEIGHT_BITS` fractional bits, and their sum is never opened exactly: integers that sum to 2^24
leave one worker's update in the low bits (2^24 mod m is 1 for m = 3, 5, 7, 9, 13), and unequal ones
can be solved for the rows as a knapsack. So one server adds a uniform dither and the other rounds
the fractional bits away (`round_off`) before anybody sees the sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ostraka.algebra.ops import Float

WEIGHT_BITS = 24
"""Fractional bits of an unequal weight."""

Words = npt.NDArray[np.int64] | npt.NDArray[np.uint64]

_ONE = 1 << WEIGHT_BITS
_NEARLY = 1e-9


@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """Integer weights of the worker rows.

    `values` (n,) int64. With `count` = m > 0 they are 0 or 1, m of them 1, and the aggregate is the
    sum divided by m. With `count` = 0 they are signed with `WEIGHT_BITS` fractional bits, and what
    they lack of 1 is the weight of the public centre. ValueError for any others.
    """

    values: npt.NDArray[np.int64]
    count: int

    def __post_init__(self) -> None:
        if self.values.dtype != np.int64 or self.values.ndim != 1:
            shape = f"{self.values.dtype} {self.values.shape}"
            raise ValueError(f"integer weights must be one int64 vector, got {shape}")
        flags = ((self.values == 0) | (self.values == 1)).all()
        if self.count and not (flags and int(self.values.sum()) == self.count > 0):
            raise ValueError(f"equal weights must be {self.count} ones among zeros")

    @property
    def reals(self) -> Float:
        """The weights (n,) as float64, as the aggregate applies them."""
        return self.values / (self.count or _ONE)

    @property
    def centre_weight(self) -> float:
        """Weight of the public centre, exact: 1 minus the sum of the weights; 0 for equal ones."""
        return 0.0 if self.count else (_ONE - int(self.values.sum())) / _ONE


def quantise(
    coefficients: Float, n: int, sums_to_one: bool, weight_bound: float = 1.0
) -> IntegerWeights:
    """Integer weights of the first n coefficients, those of the worker rows; the rest are publics.

    Equal weights 1/m, which leave nothing for a public row, become ones. Otherwise, when the rule's
    weights sum to 1 (`sums_to_one`), the integers sum to exactly 2^24: by largest remainders, ties
    to the first row, and a zero stays zero. Else each weight is rounded to the nearest integer.
    Every integer is within 2^-24 of its weight. ValueError when a weight is not finite or above
    the rule's `weight_bound` in absolute value, or when they should sum to 1 and do not.
    """
    if not (n >= 1 and coefficients.ndim == 1 and len(coefficients) >= n):
        raise ValueError(f"coefficients of shape {coefficients.shape} do not cover n={n} workers")
    workers = coefficients[:n]
    if not np.isfinite(coefficients).all():
        raise ValueError("a weight is no finite number")
    highest = float(np.abs(workers).max())
    # Sums of 1/m may be 1 plus an ulp.
    if highest > weight_bound * (1.0 + _NEARLY):
        raise ValueError(f"a weight of size {highest:g} is above the rule's bound {weight_bound:g}")
    chosen = workers[workers != 0.0]
    if len(chosen) and _equal(chosen):
        return IntegerWeights((workers != 0.0).astype(np.int64), len(chosen))
    if not sums_to_one:
        return IntegerWeights(np.rint(workers * float(_ONE)).astype(np.int64), 0)
    return IntegerWeights(np.array(_largest_remainders(workers), dtype=np.int64), 0)


def _equal(chosen: Float) -> bool:
    """Whether these are m weights 1/m, which leave nothing for a public centre."""
    whole = abs(len(chosen) * float(chosen[0]) - 1.0) <= _NEARLY
    return whole and bool((chosen == chosen[0]).all())


def _largest_remainders(weights: Float) -> list[int]:
    """Integers that sum to 2^24; in exact arithmetic, so that no tie depends on a rounding."""
    total = math.fsum(weights.tolist())
    if abs(total - 1.0) > _NEARLY:
        raise ValueError(f"the weights must sum to 1, but sum to {total!r}")
    exact = [Fraction(weight) * _ONE for weight in weights.tolist()]
    values = [math.floor(weight) for weight in exact]
    # A stable sort: among equal remainders the first row comes first. There are never more spare
    # units than rows with a remainder, so a zero gets none.
    order = sorted(range(len(values)), key=lambda i: values[i] - exact[i])
    for i in order[: _ONE - sum(values)]:
        values[i] += 1
    return values


def shift_bits(weight_bound: float) -> int:
    """Bits s that a sum of unequal weights is rounded by: 24 + max(0, ceil(log2 W)).

    W is the rule's own `weight_bound`. The dither is uniform in [-2^(s-1), 2^(s-1)).
    """
    if not (math.isfinite(weight_bound) and weight_bound > 0):
        raise ValueError(f"a weight bound must be finite and above 0, got {weight_bound!r}")
    mantissa, exponent = math.frexp(weight_bound)
    power = exponent - 1 if mantissa == 0.5 else exponent
    return WEIGHT_BITS + max(0, power)


def round_off(z: Words, s: int) -> npt.NDArray[np.int64]:
    """Round a dithered sum (d,), signed words mod 2^64, to whole steps of 2^s: what may be opened.

    Gives ((z + 2^(s-1)) >> s) << (s - 24) as int64, in steps of the fixed-point grid; exact values
    that are s bits short of 2^63 do not wrap. Overwrites `z`, whose memory the result is.
    ValueError for other words or shifts.
    """
    if z.dtype not in (np.dtype(np.int64), np.dtype(np.uint64)):
        raise ValueError(f"the sum must be int64 or uint64, got {z.dtype}")
    if not WEIGHT_BITS <= s < 63:
        raise ValueError(f"a sum is rounded by {WEIGHT_BITS} to 62 bits, got {s}")
    words = z.view(np.int64)
    words += np.int64(1 << (s - 1))
    words >>= np.int64(s)
    words <<= np.int64(s - WEIGHT_BITS)
    return words


def combine(
    opened: npt.NDArray[np.int64],
    weights: IntegerWeights,
    unit: float,
    centre: Float | None = None,
) -> Float:
    """Aggregate (d,) float64 from what was opened, bit for bit the same on every machine.

    `opened` (d,) int64: the exact sum for equal weights, the result of `round_off` otherwise.
    `unit` is the step of the fixed-point grid, a power of two. `centre` (d,) float64 is the public
    row that the rule starts from; None for the origin, or for weights that sum to 1.
    ValueError when dtypes or shapes do not fit.
    """
    if opened.dtype != np.int64:
        raise ValueError(f"what was opened must be int64, got {opened.dtype}")
    aggregate: Float = opened.astype(np.float64)
    if weights.count:
        aggregate /= weights.count
    aggregate *= unit
    share = weights.centre_weight
    if centre is None or share == 0.0:
        return aggregate
    if centre.dtype != np.float64 or centre.shape != opened.shape:
        shapes = f"{centre.dtype} {centre.shape} beside {opened.shape}"
        raise ValueError(f"the centre must be a float64 vector like what was opened, got {shapes}")
    aggregate += share * centre
    return aggregate

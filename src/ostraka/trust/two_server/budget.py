"""Room for what a round opens: the weighted sum with its dither must fit in 64 bits.

Step 7 of a two-server round opens z = p^T X + u modulo 2^64 and reads z + 2^(s-1) as a signed
number. A wrap there would be a wrong model that nobody notices, so start-up refuses every chain
and grid for which a wrap is possible. Proof: docs/trust/two-server.md, "Opening".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

import numpy as np
import numpy.typing as npt

from ostraka.algebra.fixed import FixedPoint
from ostraka.rules.api import GramRule
from ostraka.rules.integer_weights import WEIGHT_BITS, shift_bits

_ONE = 1 << WEIGHT_BITS
_TOP = 1 << 63
_NEARLY = Fraction(1, 1 << 29)
"""What floats may add to a declared bound, relatively; rules.integer_weights lets pass half."""


@dataclass(frozen=True)
class Budget:
    """What a rule declares of its weights on n workers, and what that needs of the 64 bits.

    ``weight_bound`` (W) and ``sum_bound`` (S) as in rules.api.GramRule; ``centred``: the weights
    need not sum to 1, since a public row takes the rest.
    """

    rule: str
    n: int
    weight_bound: float
    sum_bound: float
    centred: bool

    @classmethod
    def of(cls, rule: GramRule, n: int) -> Self:
        """The declarations of a rule. ValueError for bounds that are no positive numbers."""
        if not (math.isfinite(rule.sum_bound) and rule.sum_bound > 0):
            raise ValueError(
                f"{rule.name} declares sum_bound {rule.sum_bound!r}: no number above 0"
            )
        shift_bits(rule.weight_bound)
        return cls(rule.name, n, rule.weight_bound, rule.sum_bound, rule.centre is not None)

    @property
    def shift(self) -> int:
        """s, the bits that the dither covers."""
        return shift_bits(self.weight_bound)

    @property
    def _whole(self) -> Fraction:
        """2^24 S + n: integer weights are each off by less than 1 of 2^-24."""
        return Fraction(self.sum_bound) * _ONE + self.n

    def largest(self, norm_limit: int) -> int:
        """No coordinate of p^T X is larger, whatever rows of squared norm <= norm_limit are."""
        return math.isqrt(math.floor(self._whole**2 * norm_limit))

    def needed(self, norm_limit: int) -> int:
        """largest + 2^s, which must be at most 2^63."""
        return self.largest(norm_limit) + (1 << self.shift)

    def holds(self, fixed: FixedPoint) -> bool:
        """Whether nothing that is opened on this grid can wrap."""
        return self.needed(fixed.norm_limit) <= _TOP

    def fitting(self, fixed: FixedPoint) -> FixedPoint | None:
        """The grid with the most frac_bits, no more than ``fixed`` has, that fits; None if none."""
        return next((grid for grid in _coarser(fixed) if self.holds(grid)), None)

    def check(self, fixed: FixedPoint) -> None:
        """ValueError with the numbers, and with what would fit, where something could wrap."""
        if self.holds(fixed):
            return
        fits = self.fitting(fixed)
        advice = "no frac_bits from 0 on fits: lower clip, or take a rule with smaller bounds"
        if fits is not None:
            advice = f"the largest frac_bits that fits is {fits.frac_bits}"
        longest = math.sqrt(fixed.norm_limit)
        raise ValueError(
            f"what {self.rule} opens may not fit in 64 bits: weights of size up to "
            f"{self.weight_bound:g} and sum |p_i| |x_i| up to {self.sum_bound:g} times the longest "
            f"row, of {longest:.4g} units of 2^-{fixed.frac_bits}, need (2^24 * "
            f"{self.sum_bound:g} + n) * {longest:.4g} + 2^{self.shift} = "
            f"{float(self.needed(fixed.norm_limit)):.4g} at n = {self.n}, more than 2^63: {advice}"
        )

    def require(self, values: npt.NDArray[np.int64], count: int) -> None:
        """ValueError for integer weights, int64 (n,), beyond what the rule has declared.

        Around a public centre their sum says nothing, since the rows that they belong to may be
        short; else it is at most S.
        """
        if count:
            return
        sizes = [abs(value) for value in values.tolist()]
        most = math.floor(Fraction(self.weight_bound) * _ONE * (1 + _NEARLY)) + 1
        if max(sizes, default=0) > most:
            raise ValueError(
                f"a weight of {max(sizes) / _ONE:.4g} is above {self.rule}'s bound "
                f"{self.weight_bound:g}"
            )
        if not self.centred and sum(sizes) > self._whole * (1 + _NEARLY):
            raise ValueError(
                f"weights whose sizes sum to {sum(sizes) / _ONE:.4g} are above {self.rule}'s "
                f"bound {self.sum_bound:g}"
            )


def largest_word(
    values: npt.NDArray[np.int64], count: int, norm_limit: int, bits: int | None
) -> int:
    """No word of an honest aggregate under these weights is larger in size; reached.

    ``values`` and ``count`` as in rules.integer_weights, ``bits`` the dither's or None for an
    exact sum, whose words are p^T X; else they are whole steps of 2^bits, in units of 2^24.
    """
    total = sum(abs(value) for value in values.tolist())
    most = math.isqrt(total * total * norm_limit)
    return most if bits is None else -(-most >> bits) << (bits - WEIGHT_BITS)


def _coarser(fixed: FixedPoint) -> Iterator[FixedPoint]:
    """This grid and all with fewer bits that are still finer than the bound."""
    for frac_bits in range(fixed.frac_bits, -1, -1):
        if math.ldexp(fixed.bound, frac_bits) < 1:
            return
        yield replace(fixed, frac_bits=frac_bits)

"""Reals as fixed-point numbers in Z_2^64, and the bounds that keep them from wrapping.

An update is clipped to a norm, multiplied by 2^frac_bits and rounded to signed integers. By
Cauchy-Schwarz every inner product of two accepted vectors is at most the square of the norm, so
the bits that are needed depend on the norm and not on the number of coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ostraka.algebra.ring import Ring

Float = npt.NDArray[np.float64]

DEFAULT_FRAC_BITS = 20
FRAC_BITS_MAX = 60
SCALED_BITS = 26
"""bound * 2^frac_bits is at most 2^26: the proof of the wraparound check needs T <= 2^29."""
PROJECTION_BITS = SCALED_BITS + 3
COORDINATES_MAX = 1 << 32
_PART = 1 << 16
_LIMB_BITS = 22
_LIMB_RUN = 1 << 19
_SHORT, _SHORT_RUN = 1 << 25, 1 << 12
"""So many squares of numbers of that size are below 2^63 together."""
"""So many squares of 22-bit limbs are below 2^63 together."""


@dataclass(frozen=True)
class FixedPoint:
    """How updates of d coordinates travel: the grid 2^-frac_bits and the largest norm.

    clip: the largest norm of an update before noise, in the update's units. sigma: the standard
    deviation of the noise on each coordinate of what is sent, 0 for none. ValueError, with what to
    write instead, when the numbers make no sense or do not fit.
    """

    d: int
    frac_bits: int
    clip: float
    sigma: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not 1 <= self.d <= COORDINATES_MAX:
            raise ValueError(f"an update has 1 to 2^32 coordinates, got d={self.d}")
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ValueError(f"clip must be a positive number, got {self.clip}")
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise ValueError(f"sigma must be 0 or a positive number, got {self.sigma}")
        if not 0 <= self.frac_bits <= FRAC_BITS_MAX:
            raise ValueError(f"frac_bits must be 0 to {FRAC_BITS_MAX}, got {self.frac_bits}")
        fits = _fitting_bits(self.bound)
        if self.frac_bits > fits:
            advice = f"the largest frac_bits that fits is {fits}"
            if fits < 0:
                advice = "no frac_bits from 0 on fits: lower clip or sigma"
            raise ValueError(
                f"the largest norm {self.bound:g} times 2^{self.frac_bits} exceeds "
                f"2^{SCALED_BITS}: {advice}"
            )
        if math.ldexp(self.bound, self.frac_bits) < 1:
            raise ValueError(
                f"the largest norm {self.bound:g} is less than one unit of 2^-{self.frac_bits}, so "
                "every update would be sent as zero: write "
                f"{self._advised()} frac_bits, or a larger clip where updates are longer"
            )

    @classmethod
    def fitting(
        cls,
        d: int,
        clip: float,
        sigma: float = 0.0,
        frac_bits: int | None = None,
        most: int = DEFAULT_FRAC_BITS,
    ) -> Self:
        """A FixedPoint with these frac_bits or, for None, as many up to ``most`` as fit."""
        if frac_bits is None:
            sound = d >= 1 and math.isfinite(clip) and clip > 0 and math.isfinite(sigma)
            bits = _fitting_bits(_bound(d, clip, sigma)) if sound and sigma >= 0 else 0
            frac_bits = max(0, min(most, bits))
        return cls(d, frac_bits, clip, sigma)

    def _advised(self) -> str:
        fits = min(FRAC_BITS_MAX, _fitting_bits(self.bound))
        return f"up to {fits}" if fits > self.frac_bits else "more"

    @property
    def bound(self) -> float:
        """The largest norm of what is sent: clip, and room for the noise where there is some."""
        return _bound(self.d, self.clip, self.sigma)

    @property
    def unit(self) -> float:
        """The grid's step in the update's units, 2^-frac_bits."""
        return math.ldexp(1.0, -self.frac_bits)

    @cached_property
    def norm_limit(self) -> int:
        """The largest squared norm, in units squared, that a vector may have.

        floor((bound 2^frac_bits + sqrt(d) / 2)^2), exactly, in integers. Rounding moves each
        coordinate by up to half a unit and so the norm by up to sqrt(d) / 2: without this slack
        about half of the honest vectors at the bound would be refused.
        """
        top, bottom = self.bound.as_integer_ratio()
        top <<= self.frac_bits
        rational = 4 * top * top + bottom * bottom * self.d
        return (rational + math.isqrt(16 * bottom * bottom * top * top * self.d)) // (
            4 * bottom * bottom
        )

    @property
    def projection_limit(self) -> int:
        """T: the largest |<X, r>| on random signs r that passes the wraparound check.

        <X, r> is a sum of 2d independent terms +-X_i / 2, so by Hoeffding it exceeds T with
        probability at most 2 exp(-T^2 / ||X||^2). T = floor(8 sqrt(norm_limit)) + 1 makes that
        2 exp(-64) for every vector that norm_limit accepts; it is 8 bound 2^frac_bits and 8 times
        the rounding slack, but never above 2^29, which the proof of the check needs. Where that
        cuts (only within sqrt(d) / 2 units of the largest bound) the exponent is still at least
        64 / (1 + sqrt(d) 2^-27)^2, which is 63.9 at d = 2^32.
        """
        return min(1 << PROJECTION_BITS, math.isqrt(64 * self.norm_limit) + 1)

    @property
    def gram_bits(self) -> int:
        """Bits of a signed inner product of two accepted vectors: at most 54 of the 64."""
        return self.norm_limit.bit_length() + 1

    @property
    def distance_bits(self) -> int:
        """Bits of a signed squared distance of two accepted vectors: at most 56 of the 64."""
        return (4 * self.norm_limit).bit_length() + 1

    def encode(self, vector: npt.NDArray[Any], size: float | None = None) -> Ring:
        """What an honest party sends: float32 or float64 (d,) -> uint64 (d,), always accepted.

        Clipped to `bound` in float64, rounded to the nearest grid point and, where rounding
        leaves the integer vector too long, scaled down until `accepts` holds. Within the bound
        each coordinate is off by at most half a unit (and 2^-20 units next to the bound).
        ``size``: the vector's norm by ``norm``, where it is known already. ValueError for another
        dtype or shape and for a coordinate that is not finite.
        """
        self._check_shape(vector)
        length, biggest = norm(vector) if size is None else size, 0.0
        if not length <= self.bound:
            biggest = self._biggest(vector)
            parts = (part for _, part in self._parts(vector, biggest))
            length = math.sqrt(sum(_squares(part.astype(np.float64, copy=False)) for part in parts))
        factor = min(1.0, self.bound / length) if length > 0 else 1.0
        shrink = 2.0**-50
        words = np.empty(self.d, np.int64)
        while True:
            scale = math.ldexp(factor, self.frac_bits)
            squares = _round(self._parts(vector, biggest), scale, words)
            # A sum of up to 2^32 squares in float64 is off by less than a part in 2^20; where that
            # leaves no doubt the exact sum, which takes longer than all the rest, is not needed.
            if squares <= self.norm_limit * (1 - 2.0**-20):
                return words.view(np.uint64)
            total = squared_norm(words)
            if total <= self.norm_limit:
                return words.view(np.uint64)
            factor *= math.sqrt(self.norm_limit / total) * (1 - shrink)
            shrink = min(1.0, 4 * shrink)

    def encode_short(self, vector: npt.NDArray[Any]) -> Ring | None:
        """What ``encode`` gives, where the vector is clearly within the bound; otherwise None.

        Also for what is not finite, or no float32 or float64 (d,). One pass in place of two.
        """
        if vector.dtype not in (np.float32, np.float64) or vector.shape != (self.d,):
            return None
        # Rounding moves the norm by at most sqrt(d) / 2, and the sum is off by less than 2^-20.
        longest = math.ldexp(self.bound, self.frac_bits) - math.sqrt(self.d) / 2
        words = np.empty(self.d, np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            squares = _round(self._parts(vector, 0.0), math.ldexp(1.0, self.frac_bits), words)
        short = longest > 0 and squares <= longest * longest * (1 - 2.0**-20)
        return words.view(np.uint64) if short else None

    def _parts(self, vector: npt.NDArray[Any], biggest: float) -> Iterator[tuple[int, Float]]:
        """(first coordinate, some coordinates), none above the bound by much where one was.

        A part at a time, so that all steps on it find it in the cache.
        """
        for at in range(0, self.d, _PART):
            part = vector[at : at + _PART]
            if biggest > self.bound:
                part = part.astype(np.float64, copy=False)
                # In two steps: a quotient of the two numbers may be too small to be a float.
                with np.errstate(under="ignore"):
                    part = part / biggest * self.bound
            yield at, part

    def _check_shape(self, vector: npt.NDArray[Any]) -> None:
        if vector.dtype not in (np.float32, np.float64) or vector.shape != (self.d,):
            raise ValueError(
                f"an update must be float32 or float64 ({self.d},), "
                f"got {vector.dtype} {vector.shape}"
            )

    def _biggest(self, vector: npt.NDArray[Any]) -> float:
        """The largest size of a coordinate; ValueError for what is not finite."""
        biggest = max(float(vector.max()), -float(vector.min()))
        if not math.isfinite(biggest):  # the largest of anything and NaN is NaN
            raise ValueError("an update must be finite, and this one has a NaN or an infinity")
        return biggest

    def encode_exactly(self, vector: npt.NDArray[Any]) -> Ring:
        """What a party sends that does not obey: rounded and not clipped; may be refused.

        float32 or float64 (d,) -> uint64 (d,). ValueError for another dtype or shape, for a
        coordinate that is not finite, and when one times 2^frac_bits is 2^63 or more.
        """
        self._check_shape(vector)
        biggest = self._biggest(vector)
        if biggest >= math.ldexp(1.0, 63 - self.frac_bits):
            raise ValueError(
                f"a coordinate of size {biggest:g} times 2^{self.frac_bits} does not fit in 64 bits"
            )
        wide = vector.astype(np.float64, copy=False)
        return _on_grid(wide, math.ldexp(1.0, self.frac_bits)).astype(np.int64).view(np.uint64)

    def decode(self, words: Ring | npt.NDArray[np.int64]) -> Float:
        """Signed ring numbers -> float64 of the same shape, times the unit.

        Exact below 2^53 units, else the nearest float64. ValueError for another dtype.
        """
        if words.dtype not in (np.uint64, np.int64):
            raise ValueError(f"ring numbers are uint64 or int64, got {words.dtype}")
        reals = words.view(np.int64).astype(np.float64)
        reals *= self.unit
        return reals

    def accepts(self, words: Ring) -> bool:
        """Whether a ring vector, read as signed numbers, is no longer than `norm_limit` allows."""
        return squared_norm(words) <= self.norm_limit


def unusable(d: int) -> Ring:
    """What a worker sends when its update is no vector of numbers at all: uint64 (d,).

    2^62 in coordinate 0, else 0. It has norm 0 mod 2^64, and each projection of the wraparound
    check sees it with probability 1/2: K of them refuse it but for a chance of 2^-K.
    """
    words = np.zeros(d, np.uint64)
    words[0] = 1 << 62
    return words


def norm(vector: npt.NDArray[Any]) -> float:
    """The norm of a float vector (d,) in float64; inf where too large, nan where it has one.

    The same on every machine: the parts' sums are added in order.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        parts = (vector[at : at + _PART] for at in range(0, len(vector), _PART))
        return math.sqrt(sum(_squares(part.astype(np.float64, copy=False)) for part in parts))


def squared_norm(words: Ring | npt.NDArray[np.int64]) -> int:
    """The exact squared norm of a ring vector read as signed numbers; it may exceed 64 bits.

    ValueError for another dtype than uint64 or int64 and for more than one axis.
    """
    if words.dtype not in (np.uint64, np.int64) or words.ndim != 1:
        raise ValueError(f"a ring vector is uint64 (d,), got {words.dtype} {words.shape}")
    signed = words.view(np.int64)
    if len(signed) and int(signed.min()) >= -_SHORT and int(signed.max()) <= _SHORT:
        return _dot(signed, signed, _SHORT_RUN)
    # The size of -2^63 is itself in int64, and right as uint64.
    rest = np.abs(words.view(np.int64)).view(np.uint64)
    limbs = []
    while rest.any():
        limbs.append(rest & np.uint64((1 << _LIMB_BITS) - 1))
        rest = rest >> np.uint64(_LIMB_BITS)
    return sum(
        _dot(a, b) << _LIMB_BITS * (i + j) for i, a in enumerate(limbs) for j, b in enumerate(limbs)
    )


def _dot(a: npt.NDArray[Any], b: npt.NDArray[Any], run: int = _LIMB_RUN) -> int:
    return sum(int(np.dot(a[k : k + run], b[k : k + run])) for k in range(0, len(a), run))


def _squares(values: Float) -> float:
    """Their sum of squares. Not BLAS: its sum depends on the number of threads."""
    return float(np.einsum("i,i->", values, values))


def _round(
    parts: Iterator[tuple[int, npt.NDArray[Any]]], scale: float, words: npt.NDArray[np.int64]
) -> float:
    """Write the parts times the scale, rounded, to the words; gives their sum of squares."""
    squares, memory = 0.0, np.empty(min(_PART, len(words)))
    for at, part in parts:
        grid = memory[: len(part)]
        grid[:] = part
        with np.errstate(under="ignore"):
            grid *= scale
        np.rint(grid, out=grid)
        words[at : at + len(grid)] = grid
        squares += _squares(grid)
    return squares


def _on_grid(values: Float, scale: float) -> Float:
    """The nearest whole numbers of units, as floats."""
    with np.errstate(under="ignore"):
        grid: Float = values * scale
    return np.rint(grid, out=grid)


def _bound(d: int, clip: float, sigma: float) -> float:
    return clip if sigma == 0 else clip + sigma * (math.sqrt(d) + 8)


def _fitting_bits(bound: float) -> int:
    """The most frac_bits with bound 2^frac_bits <= 2^26; it may be negative."""
    if not math.isfinite(bound):
        return -1
    mantissa, exponent = math.frexp(bound)
    return SCALED_BITS - (exponent - 1 if mantissa == 0.5 else exponent)

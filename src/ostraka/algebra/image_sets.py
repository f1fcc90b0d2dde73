"""The sets that submissions are proven to lie in: bits, balls, spheres, and products of them.

Each says exactly, in integers of any size, what belongs to it, and which public bounds make that
up. Source: the sphere and its score are ours; the wraparound check is that of PINE (2023).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from ostraka.algebra.fixed import FixedPoint, squared_norm
from ostraka.algebra.lattice import Float, Integers, inner

Submission = tuple[Integers, ...]
"""What a peer deals: one int64 vector for each part of the image."""

LONGEST = 30_000_000
"""The longest submitted vector, in grid units, slack included: 8.7 times this is below T."""
PROJECTION_LIMIT = 1 << 28
"""T: the largest projection on random signs that passes the wraparound check; T^2 <= (p + 1)/32."""
SCORE_BITS = 12
"""k: a score u is dealt as U = u 2^k, rounded up."""


@dataclass(frozen=True)
class Part:
    """One vector of a submission: the label under which its sum is opened, and its length."""

    label: str
    size: int


@dataclass(frozen=True)
class Range:
    """A number that an honest submission keeps within public bounds: low <= value <= high."""

    name: str
    low: int
    high: int

    @property
    def bits(self) -> int:
        """Bits of value - low, and of high - value."""
        return (self.high - self.low).bit_length()


PROJECTION = Range("projection", -PROJECTION_LIMIT, PROJECTION_LIMIT)
"""Of the products of a vector with random signs, each of which is bounded by itself."""


class Image(ABC):
    """A set of submissions: all that a trust model must know to prove membership.

    `parts` are what is dealt, and what is opened of the sum; nothing else is. `ranges` are the
    numbers whose bounds make up membership, as integers. `norm_limit` bounds the squared norm of
    all parts of which there is a `PROJECTION` range; None for bits, of which every entry is proven.
    """

    @property
    @abstractmethod
    def norm_limit(self) -> int | None:
        """The largest squared norm, in units squared."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The vectors of a submission."""

    @property
    @abstractmethod
    def ranges(self) -> tuple[Range, ...]:
        """What must be within bounds."""

    @abstractmethod
    def holds(self, submission: Submission) -> bool:
        """`contains` for a submission of the right form."""

    def contains(self, submission: Submission) -> bool:
        """Whether a submission lies in the image, in exact integers, whatever their size.

        ValueError when it is not one int64 vector of the right length for each part.
        """
        form = [(getattr(v, "dtype", None), np.shape(v)) for v in submission]
        if form != [(np.int64, (part.size,)) for part in self.parts]:
            wanted = ", ".join(f"int64 ({part.size},)" for part in self.parts)
            raise ValueError(f"a submission is {wanted}, got {form}")
        return self.holds(submission)


@dataclass(frozen=True)
class Bits(Image):
    """{0, 1}^d. Nothing is rounded, so there is no slack."""

    d: int

    @property
    def norm_limit(self) -> None:
        """None: every entry is proven."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The bits; of their sum the counts are opened."""
        return (Part("open-counts", self.d),)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """None: that every entry is a bit is an equation."""
        return ()

    def holds(self, submission: Submission) -> bool:
        """Whether every entry is 0 or 1."""
        (bits,) = submission
        return bool(((bits == 0) | (bits == 1)).all())


@dataclass(frozen=True)
class Ball(Image):
    """Grid vectors of d coordinates with ||y|| <= radius 2^frac_bits + sqrt(d)/2 units.

    The slack sqrt(d)/2 is the most that rounding adds to a norm. ValueError, with what to write
    instead, when the longest exceeds 3.0e7 units or the radius is below one.
    """

    d: int
    radius: float
    frac_bits: int

    def __post_init__(self) -> None:
        if self.radius > self._longest(self.frac_bits):
            fits = next(
                (b for b in range(self.frac_bits, -1, -1) if self.radius <= self._longest(b)), -1
            )
            advice = f"frac_bits = {fits}, or " if fits >= 0 else ""
            raise ValueError(
                f"tau * 2^frac_bits + sqrt(d)/2 must be at most 3.0e7, got tau = {self.radius:g}, "
                f"frac_bits = {self.frac_bits}, d = {self.d}: write {advice}a tau of at most "
                f"{0.999 * self._longest(self.frac_bits):.4g}"
            )
        _ = self.grid  # which refuses all else that cannot work

    def _longest(self, frac_bits: int) -> float:
        """The longest vector before rounding, in the update's units."""
        return math.ldexp(LONGEST - math.sqrt(self.d) / 2, -frac_bits)

    @cached_property
    def grid(self) -> FixedPoint:
        """Reals to grid units and back."""
        return FixedPoint(self.d, self.frac_bits, self.radius)

    @property
    def norm_limit(self) -> int:
        """B: the largest squared norm, in units squared."""
        return self.grid.norm_limit

    @property
    def parts(self) -> tuple[Part, ...]:
        """The vector."""
        return (Part("open-sum", self.d),)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The squared norm, and the projections that keep it from wrapping."""
        return Range("norm", 0, self.norm_limit), PROJECTION

    def encode(self, vector: Float) -> Submission:
        """Clipped to the radius and rounded: float64 (d,) -> a point of the ball, always.

        Off by at most half a unit in each coordinate within the radius. ValueError as FixedPoint.
        """
        return (self.grid.encode(vector).view(np.int64),)

    def decode(self, sums: Integers) -> Float:
        """Grid units as reals, exactly below 2^53 units."""
        return self.grid.decode(sums)

    def holds(self, submission: Submission) -> bool:
        """Whether ||y||^2 <= B."""
        return squared_norm(submission[0]) <= self.norm_limit


@dataclass(frozen=True, eq=False)
class Sphere(Image):
    """Points (z, U) with | ||z||^2 - <z, G> | <= eps and 0 <= U^2 kappa - <z, G> <= 2^(k+1) kappa.

    The sphere has the public vector G, int64 (d,), as its diameter. For z on it the cosine of z and
    G is u = ||z|| / ||G||, and u^2 = <z, G> / ||G||^2; U in 0..2^k is u 2^k rounded up, and kappa =
    ceil(||G||^2 / 2^(2k)). Rounded up, because a slack to both sides would admit U = 0 beside a
    vector of norm 2^(-k/2) ||G||. As it is, U = 0 leaves sqrt(eps) = 2^-16 ||G||, and no z is
    longer than U sqrt(kappa) + sqrt(eps). At z = 0 U may be up to sqrt(2^(k+1)): 2.3 % for k = 12.
    G = 0 makes it one point. ValueError unless 2^(2k + 12) <= ||G||^2 and all fits in 3.0e7 units.
    """

    diameter: Integers
    score_bits: int = SCORE_BITS

    def __post_init__(self) -> None:
        longest = math.isqrt(self.norm_limit)
        if longest > LONGEST:
            raise ValueError(f"a sphere's vectors must be within 3.0e7 units, got {longest}")
        if self.squared and self.squared < 1 << 2 * self.score_bits + 12:
            raise ValueError(
                f"a score of {self.score_bits} bits needs a diameter of at least "
                f"2^{self.score_bits + 6} units, got {math.isqrt(self.squared)}: a finer grid"
            )

    @cached_property
    def squared(self) -> int:
        """||G||^2."""
        return squared_norm(self.diameter)

    @property
    def eps(self) -> int:
        """The slack, in units squared: 2^-32 ||G||^2, which `round_to_sphere` reaches."""
        return self.squared >> 32

    @property
    def kappa(self) -> int:
        """The least whole number that is at least ||G||^2 / 2^(2k), and at least 1."""
        return max(1, -(-self.squared >> 2 * self.score_bits))

    @property
    def norm_limit(self) -> int:
        """The largest squared norm of a z: <z, G> <= U^2 kappa, and eps."""
        return (self.kappa << 2 * self.score_bits) * (self.squared > 0) + self.eps

    @property
    def parts(self) -> tuple[Part, ...]:
        """The vector z and the score U, which is squared alone and so stands alone."""
        return Part("open-sum", len(self.diameter)), Part("open-scores", 1)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """||z||^2 - <z, G>, U, U^2 kappa - <z, G>, and the projections of z."""
        return (
            Range("sphere", -self.eps, self.eps),
            Range("score", 0, 1 << self.score_bits),
            Range("match", 0, self.kappa << self.score_bits + 1),
            PROJECTION,
        )

    def score(self, z: Integers) -> int:
        """The least U with U^2 kappa >= <z, G>, for a z of the sphere."""
        least = -(-inner(z, self.diameter) // self.kappa)
        return math.isqrt(least - 1) + 1 if least > 0 else 0

    def holds(self, submission: Submission) -> bool:
        """Whether the residual, the score and how they match are within bounds."""
        z, score = submission[0], int(submission[1][0])
        squared = squared_norm(z)
        if squared > self.norm_limit:  # which also keeps the inner product small
            return False
        product = inner(z, self.diameter)
        values = squared - product, score, score * score * self.kappa - product
        return all(r.low <= v <= r.high for r, v in zip(self.ranges, values, strict=False))


@dataclass(frozen=True, eq=False)
class Product(Image):
    """Submissions made of those of several images, one after the other."""

    images: tuple[Image, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those of the images, their labels numbered."""
        pairs = [(at, part) for at, image in enumerate(self.images) for part in image.parts]
        return tuple(Part(f"{part.label}-{at}", part.size) for at, part in pairs)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Those of the images, their names numbered."""
        pairs = [(at, r) for at, image in enumerate(self.images) for r in image.ranges]
        return tuple(Range(f"{r.name}-{at}", r.low, r.high) for at, r in pairs)

    @property
    def norm_limit(self) -> int | None:
        """The sum over the images that have one."""
        limits = [image.norm_limit for image in self.images if image.norm_limit is not None]
        return sum(limits) if limits else None

    def holds(self, submission: Submission) -> bool:
        """Whether each image holds its own parts."""
        rest = iter(submission)
        return all(image.holds(tuple(islice(rest, len(image.parts)))) for image in self.images)

"""FLTrust: updates weighed by their cosine with a public root gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ostraka.algebra.fixed import squared_norm
from ostraka.algebra.image_sets import LONGEST, SCORE_BITS, Sphere, Submission
from ostraka.algebra.lattice import Float, Integers, round_to_sphere
from ostraka.rules.api import positive
from ostraka.rules.image import ImageRule, Public, Reads, Vector


@dataclass(frozen=True)
class FLTrust(ImageRule):
    """Sum of z_i over sum of TS_i; z_i = TS_i ||g0|| g_i / ||g_i||, TS_i = ReLU(cos(g_i, g0)).

    Source: Cao, Fang, Liu and Gong 2021, equations 2 to 4. The public vector is the root gradient
    g0. All z_i lie on the sphere with diameter g0 (Thales), and each of its points is z of itself.
    Opened: the sum of z_i and the sum of scores. The step is zero where g0 is, and where the scores
    sum to less than ``least_trust``. It is never longer than ||g0||, and f peers move it by at most
    2f / (H + f) ||g0||, where H is the sum of the honest peers' scores; on top of either comes the
    sphere's slack, 2^-16 ||g0|| for each peer over the sum of all scores.

    The grid follows g0, so that ||G0|| is always between 1.4e7 and 3.0e7 units: a fixed one would
    leave few bits to the scores once gradients are small.
    """

    least_trust: float = 0.0625
    name: ClassVar[str] = "fltrust"

    def __post_init__(self) -> None:
        positive("FLTrust", "least_trust", self.least_trust)

    @property
    def reads(self) -> Reads:
        """The root gradient."""
        return "root"

    def image(self, public: Public) -> Sphere:
        """The sphere with diameter g0, in grid units."""
        return Sphere(_on_grid(public.reference, root_bits(public.reference)))

    def pre(self, update: Float, public: Public, peer: int) -> Submission:
        """The projection of g0 onto the update's direction, rounded; zero where that cannot be."""
        sphere = self.image(public)
        z = _projected(update, sphere)
        return z, np.array([sphere.score(z)])

    def agg(self, sums: Submission, accepted: int, public: Public) -> Float:
        """Sum over sum, in float64: scaled by a power of two, then divided."""
        trust = math.ldexp(float(sums[1][0]), -SCORE_BITS)
        if not public.reference.any() or trust < self.least_trust:
            return np.zeros(public.d)
        return np.ldexp(sums[0].astype(np.float64), -root_bits(public.reference)) / trust


def root_bits(g0: Vector) -> int:
    """The frac_bits of a round: the most with which g0, float32 (d,), is within 3.0e7 units.

    Found in integers, so that all peers find the same; below 0 for a huge g0, and 0 for none.
    """
    largest = float(np.max(np.abs(g0)))
    if largest == 0.0:
        return 0
    bits = 25 - math.frexp(largest)[1]
    longest = math.isqrt(squared_norm(_on_grid(g0, bits))) + 1
    # Rounding, here and on the final grid, moves a norm by up to sqrt(d) / 2 each.
    room = LONGEST - math.isqrt(len(g0)) - 4
    while longest > room:
        longest, bits = -(-longest // 2), bits - 1
    return bits


def _on_grid(g0: Vector, bits: int) -> Integers:
    return np.rint(np.ldexp(g0.astype(np.float64), bits)).astype(np.int64)


def _projected(update: Float, sphere: Sphere) -> Integers:
    """A point of the sphere near the projection of G0 onto the update; 0 where none is near."""
    none = np.zeros(len(update), np.int64)
    largest = float(np.max(np.abs(update)))
    if largest == 0.0:
        return none
    with np.errstate(under="ignore"):
        direction = update / largest
        # Not BLAS: its sums depend on the number of threads.
        product = float(np.einsum("i,i->", direction, sphere.diameter.astype(np.float64)))
        if product <= 0.0:
            return none
        direction *= product / float(np.einsum("i,i->", direction, direction))
    z = round_to_sphere(direction, sphere.diameter, sphere.eps)
    if z is None:
        return none
    # Next to G0 rounding may lead just past it, to a score above 1.
    return z if sphere.score(z) <= 1 << sphere.score_bits else sphere.diameter.copy()

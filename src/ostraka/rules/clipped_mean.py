"""Means of clipped updates: around zero, or around the previous aggregate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ostraka.algebra.fixed import DEFAULT_FRAC_BITS
from ostraka.algebra.image_sets import Ball, Submission
from ostraka.algebra.lattice import Float
from ostraka.rules.api import positive
from ostraka.rules.image import ImageRule, Public, Reads


@dataclass(frozen=True)
class ClippedMean(ImageRule):
    """v + mean of (x_i - v) min(1, tau / ||x_i - v||), with v = 0 unless ``centred``.

    Source: with centred = True, Karimireddy, He and Jaggi 2021 (centered clipping), one inner step,
    v the previous aggregate, which is the public vector: what `CenteredClipping(tau, steps=1)` is
    on plain rows. With False the norm-bounded mean. Opened: the sum of the clipped differences. f
    peers move the result by at most 2f/n (tau + sqrt(d)/2 2^-frac_bits).
    """

    tau: float
    centred: bool = False
    frac_bits: int = DEFAULT_FRAC_BITS
    name: ClassVar[str] = "clipped-mean"

    def __post_init__(self) -> None:
        positive("clipped mean", "tau", self.tau)

    @property
    def reads(self) -> Reads:
        """The previous aggregate, where it is centred."""
        return "aggregate" if self.centred else "nothing"

    def image(self, public: Public) -> Ball:
        """The ball of radius tau."""
        return Ball(public.d, self.tau, self.frac_bits)

    def pre(self, update: Float, public: Public, peer: int) -> Submission:
        """Clip the difference to v, and round it."""
        return self.image(public).encode(update - self._centre(public))

    def agg(self, sums: Submission, accepted: int, public: Public) -> Float:
        """The mean in float64, then v added."""
        return self._centre(public) + self.image(public).decode(sums[0]) / accepted

    def _centre(self, public: Public) -> Float:
        return public.reference.astype(np.float64) * self.centred

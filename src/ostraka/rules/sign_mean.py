"""Means and majorities of signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ostraka.algebra.image_sets import Bits, Submission
from ostraka.algebra.lattice import Float
from ostraka.rules.image import ImageRule, Public, sign_bits, signed


@dataclass(frozen=True)
class SignMean(ImageRule):
    """The mean of the updates' signs or, with ``majority``, the sign of that mean.

    Source: Bernstein et al. 2018 (signSGD; with majority vote there). Opened: how many signs are
    positive, coordinate by coordinate. f peers move a mean by at most 2f/n. A coordinate that is 0
    must be given a sign: see `sign_bits`. A majority that is a tie is 0.
    """

    majority: bool = False
    name: ClassVar[str] = "sign-mean"

    def image(self, public: Public) -> Bits:
        """Bits."""
        return Bits(public.d)

    def pre(self, update: Float, public: Public, peer: int) -> Submission:
        """1 where the update is positive."""
        return sign_bits(update > 0, update == 0, peer + public.coin)

    def agg(self, sums: Submission, accepted: int, public: Public) -> Float:
        """Mean or majority, between -1 and 1."""
        total = signed(sums[0], accepted)
        return np.sign(total) if self.majority else total / accepted

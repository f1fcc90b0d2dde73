"""RSA: each peer keeps a model of its own, and pulls the public one by signs only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ostraka.algebra.image_sets import Bits, Submission
from ostraka.algebra.lattice import Float
from ostraka.rules.api import positive
from ostraka.rules.image import ImageRule, Public, Reads, Vector, sign_bits, signed


@dataclass(frozen=True)
class RSA(ImageRule):
    """Byzantine-robust stochastic aggregation with the l1 penalty, weight ``lam``.

    Source: Li, Xu, Chen, Giannakis and Ling 2019, the l1-norm RSA, with f_0 = 0. In every round,
    with learning rate a, from the same x_0 and x_i:

        peer i:  x_i <- x_i - a (gradient_i(x_i) + lam sign(x_i - x_0))     (`local_step`)
        public:  x_0 <- x_0 - a lam sum over i of sign(x_0 - x_i)           (a times the aggregate)

    The update is the peer's own model x_i, the public vector is x_0. Opened: how many of the
    accepted peers lie below x_0, coordinate by coordinate. A peer moves x_0 by at most a lam per
    coordinate, whatever it submits. Where x_i = x_0 the paper's sign is 0 and the bit must choose:
    see `sign_bits`.
    """

    lam: float
    name: ClassVar[str] = "rsa"

    def __post_init__(self) -> None:
        positive("RSA", "lam", self.lam)

    @property
    def reads(self) -> Reads:
        """The public model."""
        return "model"

    def image(self, public: Public) -> Bits:
        """Bits."""
        return Bits(public.d)

    def pre(self, update: Float, public: Public, peer: int) -> Submission:
        """1 where x_0 > x_i."""
        x_0 = public.reference
        return sign_bits(x_0 > update, x_0 == update, peer + public.coin)

    def agg(self, sums: Submission, accepted: int, public: Public) -> Float:
        """Lam times the sum of sign(x_0 - x_i)."""
        return self.lam * signed(sums[0], accepted)

    def local_step(self, own: Vector, gradient: npt.NDArray[Any], x_0: Vector, a: float) -> Vector:
        """The peer's own step: x_i, its gradient there and the x_0 of before, float32 (d,)."""
        pull = gradient.astype(np.float64) + self.lam * np.sign(own.astype(np.float64) - x_0)
        return (own - a * pull).astype(np.float32)

"""Centered clipping: steps towards the rows, each row's pull limited to a radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ostraka.algebra.ops import Float
from ostraka.rules.api import GramRule, Needs, check_minority, positive, whole_number
from ostraka.rules.gram import Geometry


@dataclass(frozen=True)
class CenteredClipping(GramRule):
    """v <- v + mean of (x_i - v) min(1, tau / ||x_i - v||), `steps` times; 2f < n.

    Source: Karimireddy, He and Jaggi 2021 (learning from history). v starts at the reference, the
    previous aggregate, which is a public row; without one at the zero vector. Computed in the span
    of the rows: no vector is formed before the end.
    """

    tau: float
    steps: int = 1
    name: ClassVar[str] = "centered-clipping"
    uses_reference: ClassVar[bool] = True
    centre: ClassVar[Literal["public"] | None] = "public"

    def __post_init__(self) -> None:
        positive("centered clipping", "tau", self.tau)
        whole_number("centered clipping", "steps", self.steps, 1)

    @property
    def needs(self) -> Needs:
        """Norms and products with the reference for one step, the Gram matrix for more."""
        return Needs.PUBLIC_PRODUCTS if self.steps == 1 else Needs.GRAM

    def check(self, n: int, f: int | None = None) -> None:
        """Need 2f < n."""
        check_minority("centered clipping", n, f)

    def coefficients(self, geometry: Geometry, f: int) -> Float:
        """Coefficients of v; that of the start is 1 minus the sum of the others."""
        n = geometry.n
        start = geometry.centre
        point = np.zeros(n + len(geometry.publics))
        point[start] = 1.0
        for step in range(self.steps):
            squared = geometry.squared[start, :n] if step == 0 else geometry.from_point(point)
            distance = np.sqrt(squared) * geometry.unit
            shrink = self.tau / np.maximum(distance, self.tau)
            point *= 1.0 - shrink.sum() / n
            point[:n] += shrink / n
        return point

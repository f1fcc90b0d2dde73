"""The mean: no protection, the baseline of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ostraka.algebra.ops import Float
from ostraka.rules.api import GramRule, Needs
from ostraka.rules.gram import Geometry


@dataclass(frozen=True)
class Mean(GramRule):
    """Plain mean, every row with weight 1/n. One Byzantine row moves it anywhere: no bound on f."""

    name: ClassVar[str] = "mean"

    @property
    def needs(self) -> Needs:
        """Nothing but n."""
        return Needs.NOTHING

    def check(self, n: int, f: int | None = None) -> None:
        """Promise nothing, so refuse only n < 1."""
        if n < 1:
            raise ValueError(f"mean needs n >= 1, got n={n}")

    def coefficients(self, geometry: Geometry, f: int) -> Float:
        """1/n for every worker row."""
        weights = np.zeros(geometry.n + len(geometry.publics))
        weights[: geometry.n] = 1.0 / geometry.n
        return weights

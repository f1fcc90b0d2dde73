"""The coordinate-wise median."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ostraka.algebra.ops import Array, Ops
from ostraka.algebra.selection import median
from ostraka.rules.api import CoordinateRule, check_minority


@dataclass(frozen=True)
class Median(CoordinateRule):
    """Median of every coordinate (Yin et al. 2018, Definition 1); 2f < n for the f in force.

    For an even n it is the mean of the two middle values; torch.median and the libraries built on
    it give the lower one, which is biased.
    """

    name: ClassVar[str] = "median"

    def check(self, n: int, f: int | None = None) -> None:
        """Need 2f < n."""
        check_minority(self.name, n, f)

    def columns(self, block: Array, f: int, ops: Ops) -> Array:
        """Median of each column, in float64."""
        return median(block, ops)

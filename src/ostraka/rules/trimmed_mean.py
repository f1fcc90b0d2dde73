"""The coordinate-wise trimmed mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ostraka.algebra.ops import Array, Ops
from ostraka.algebra.selection import window_mean
from ostraka.rules.api import CoordinateRule, check_minority, whole_number


@dataclass(frozen=True)
class TrimmedMean(CoordinateRule):
    """Mean of every coordinate without its f smallest and f largest values; 2f < n.

    Source: Yin et al. 2018, Definition 2, with beta = f/n. The n - 2f values that are kept are
    summed in float64. Exactly f go on either side, whatever their values: no ties are dropped
    together.
    """

    f: int
    name: ClassVar[str] = "trimmed-mean"

    def __post_init__(self) -> None:
        whole_number("trimmed mean", "f", self.f, 0)

    def check(self, n: int, f: int | None = None) -> None:
        """Need 2f < n."""
        check_minority("trimmed mean", n, f, self.f)

    def columns(self, block: Array, f: int, ops: Ops) -> Array:
        """Mean of ranks f..n-f-1 of each column, in float64."""
        return window_mean(block, self.f, block.shape[0] - self.f, ops)

"""Minimum diameter averaging, exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ostraka.algebra.cover import CoverSearch
from ostraka.algebra.ops import Float
from ostraka.rules.api import GramRule, Needs, check_minority, whole_number
from ostraka.rules.gram import Geometry
from ostraka.rules.krum import equal_weights


@dataclass(frozen=True)
class MDA(GramRule):
    """The mean of the n - f rows whose largest mutual distance is smallest; 2f < n.

    Source: El-Mhamdi et al. 2020 (ByzSGD), after Rousseeuw 1985. Exact: rows farther apart than a
    threshold conflict, and n - f rows without conflict exist when f rows cover all conflicts. Among
    subsets of equal diameter it takes the lexicographically first, which is what trying
    all of them in order and keeping the first strictly better one gives. Milliseconds at n = 50;
    exponential in f in the worst case, as every exact method for this NP-hard problem.
    """

    f: int
    name: ClassVar[str] = "mda"

    def __post_init__(self) -> None:
        whole_number("mda", "f", self.f, 0)

    @property
    def needs(self) -> Needs:
        """Distances between workers."""
        return Needs.DISTANCES

    def check(self, n: int, f: int | None = None) -> None:
        """Need 2f < n."""
        check_minority("mda", n, f, self.f)

    def most_rows(self, n: int) -> int:
        """Give n - f."""
        return n - self.f

    def coefficients(self, geometry: Geometry, f: int) -> Float:
        """1/(n-f) for each kept row."""
        kept, _ = smallest_diameter(geometry.compared, self.f)
        return equal_weights(geometry, kept)


def smallest_diameter(squared: Float, f: int) -> tuple[list[int], int]:
    """Rows of the first subset of n - f with the smallest diameter, and the search nodes spent."""
    n = len(squared)
    everyone = (1 << n) - 1
    steps = np.unique(squared)
    low, high, nodes = 0, len(steps) - 1, 0
    while low < high:
        middle = (low + high) // 2
        search = CoverSearch(_conflicts(squared, float(steps[middle])))
        if search.exists(everyone, f):
            high = middle
        else:
            low = middle + 1
        nodes += search.nodes
    search = CoverSearch(_conflicts(squared, float(steps[low])))
    kept = _first_subset(search, n, f)
    return kept, nodes + search.nodes


def _conflicts(squared: Float, threshold: float) -> list[int]:
    """For each row the bitmask of the rows that are farther away than the threshold."""
    packed = np.packbits(squared > threshold, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def _first_subset(search: CoverSearch, n: int, f: int) -> list[int]:
    """Take rows in order whenever n - f rows without conflict, all taken ones included, exist."""
    kept: list[int] = []
    free, budget = (1 << n) - 1, f
    for i in range(n):
        if len(kept) == n - f:
            break
        if not free >> i & 1:
            continue
        without = free & ~(1 << i)
        rest = without & ~search.neighbours[i]
        left = budget - (without ^ rest).bit_count()
        if search.exists(rest, left):
            kept.append(i)
            free, budget = rest, left
        else:
            free, budget = without, budget - 1
    return kept

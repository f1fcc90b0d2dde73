"""Krum and Multi-Krum: rows whose nearest neighbours are near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ostraka.algebra.ops import Float
from ostraka.rules.api import GramRule, Needs, check_krum, whole_number
from ostraka.rules.gram import Geometry


def krum_scores(squared: Float, f: int) -> Float:
    """Sum (n,) of the n - f - 2 smallest squared distances of each row to the other rows."""
    n = len(squared)
    others = squared[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    scores: Float = np.sort(others, axis=1)[:, : n - f - 2].sum(axis=1)
    return scores


def equal_weights(geometry: Geometry, chosen: Float | list[int]) -> Float:
    """Coefficients of the mean of the chosen worker rows."""
    weights = np.zeros(geometry.n + len(geometry.publics))
    weights[np.asarray(chosen, dtype=np.intp)] = 1.0 / len(chosen)
    return weights


@dataclass(frozen=True)
class Krum(GramRule):
    """The row with the smallest sum of its n - f - 2 smallest squared distances; n >= 2f + 3.

    Source: Blanchard et al. 2017, the Krum function. As there, distances are squared and a row is
    no neighbour of itself; libraries differ in both and in the number of neighbours. Ties go to
    the first row. The output is one worker's row.
    """

    f: int
    name: ClassVar[str] = "krum"
    publishes_one_row: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole_number("krum", "f", self.f, 0)

    @property
    def needs(self) -> Needs:
        """Distances between workers."""
        return Needs.DISTANCES

    def check(self, n: int, f: int | None = None) -> None:
        """Need n >= 2f + 3."""
        check_krum("krum", n, f, self.f)

    def coefficients(self, geometry: Geometry, f: int) -> Float:
        """1 for the chosen row."""
        return equal_weights(geometry, [int(np.argmin(krum_scores(geometry.compared, self.f)))])


@dataclass(frozen=True)
class MultiKrum(GramRule):
    """The mean of the m rows with the lowest Krum scores; n >= 2f + 3, 1 <= m <= n - f.

    Source: Blanchard et al. 2017, experiments. Scores are computed once, not again after each
    choice. The paper leaves m open; it is n - f here unless given. Ties go to the first rows.
    """

    f: int
    m: int | None = None
    name: ClassVar[str] = "multi-krum"

    def __post_init__(self) -> None:
        whole_number("multi-krum", "f", self.f, 0)
        if self.m is not None:
            whole_number("multi-krum", "m", self.m, 1)

    @property
    def needs(self) -> Needs:
        """Distances between workers."""
        return Needs.DISTANCES

    def check(self, n: int, f: int | None = None) -> None:
        """Need n >= 2f + 3 and m <= n - f."""
        check_krum("multi-krum", n, f, self.f)
        if self.m is not None and self.m > n - self.f:
            raise ValueError(f"multi-krum needs m <= n - f, got m={self.m}, f={self.f}, n={n}")

    def most_rows(self, n: int) -> int:
        """Give m."""
        return n - self.f if self.m is None else self.m

    def coefficients(self, geometry: Geometry, f: int) -> Float:
        """1/m for each chosen row."""
        order = np.argsort(krum_scores(geometry.compared, self.f), kind="stable")
        return equal_weights(geometry, [int(i) for i in order[: self.most_rows(geometry.n)]])

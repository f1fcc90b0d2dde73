"""The geometric median by smoothed Weiszfeld steps, in the span of the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ostraka.algebra.ops import Float
from ostraka.rules.api import GramRule, Needs, check_minority, positive, whole_number
from ostraka.rules.gram import Geometry

_ON_A_ROW = 1e-7


@dataclass(frozen=True)
class GeometricMedian(GramRule):
    """The point with the smallest sum of distances to the rows (RFA); 2f < n.

    Source: Pillutla, Kakade and Harchaoui 2022, algorithm 2: z <- mean of the rows with weights
    1 / max(nu, ||x_i - z||), which minimises the sum of distances smoothed within `nu` (an absolute
    length) of a row. At most `max_iterations` steps; ends when a step is at most
    `tolerance` times the median distance to the rows (the mean distance would let one far row end
    it at once).

    Starts at the mean, except when some row has a smaller sum of distances or the mean lies on a
    row: then it starts at the best row. (From a mean that one huge row displaced, 100 steps do not
    come back.) On a row the plain step hardly moves, whether or not the row is optimal, so the
    first step from there is that of Vardi and Zhang 2000: it leaves every row that is not.
    """

    nu: float = 1e-6
    max_iterations: int = 100
    tolerance: float = 1e-8
    name: ClassVar[str] = "geometric-median"

    def __post_init__(self) -> None:
        positive("geometric median", "nu", self.nu)
        whole_number("geometric median", "max_iterations", self.max_iterations, 1)
        positive("geometric median", "tolerance", self.tolerance, zero=True)

    @property
    def needs(self) -> Needs:
        """Distances between workers."""
        return Needs.DISTANCES

    def check(self, n: int, f: int | None = None) -> None:
        """Need 2f < n."""
        check_minority("geometric median", n, f)

    def coefficients(self, geometry: Geometry, f: int) -> Float:
        """Convex coefficients of the worker rows."""
        n = geometry.n
        nu = self.nu / geometry.unit
        point = np.zeros(n + len(geometry.publics))
        point[:n] = _start(geometry)
        for _ in range(self.max_iterations):
            distance = np.maximum(nu, np.sqrt(geometry.from_point(point)))
            pull = distance.min() / distance
            moved = np.zeros_like(point)
            moved[:n] = pull / pull.sum()
            step = math.sqrt(geometry.length(moved - point))
            point = moved
            if step <= self.tolerance * float(np.sort(distance)[n // 2]):
                break
        return point


def _start(geometry: Geometry) -> Float:
    """Worker coefficients (n,) of the mean, or of a step away from the best row."""
    n = geometry.n
    mean = np.zeros(n + len(geometry.publics))
    mean[:n] = 1.0 / n
    to_mean = np.sqrt(geometry.from_point(mean))
    between = np.sqrt(geometry.distances)
    sums = between.sum(axis=1)
    on_a_row = to_mean.min() <= _ON_A_ROW * float(np.sort(to_mean)[n // 2])
    if to_mean.sum() <= sums.min() * (1 + 1e-12) and not on_a_row:
        return mean[:n]
    # A far row can swallow the digits of all sums: among equal ones prefer a row amid the others.
    inner = np.sort(between, axis=1)[:, : n // 2 + 1].sum(axis=1)
    tied = sums <= sums.min() * (1 + 1e-12)
    return _leave_row(geometry, int(np.argmin(np.where(tied, inner, np.inf))))


def _leave_row(geometry: Geometry, row: int) -> Float:
    """Step of Vardi and Zhang from a row: stays there exactly when the row is optimal."""
    n = geometry.n
    distance = np.sqrt(geometry.distances[row])
    apart = distance > 0
    there = np.zeros(n)
    there[row] = 1.0
    if not apart.any():
        return there
    pull = np.zeros(n)
    pull[apart] = distance[apart].min() / distance[apart]
    away = np.zeros(n + len(geometry.publics))
    away[:n] = pull
    away[row] -= pull.sum()
    force = math.sqrt(geometry.length(away)) / distance[apart].min()
    repeated = n - int(apart.sum())
    stay = 1.0 if force <= repeated else repeated / force
    left: Float = (1.0 - stay) * pull / pull.sum() + stay * there
    return left

"""Nearest-neighbour mixing: every row becomes the mean of its neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ostraka.algebra.ops import Float
from ostraka.rules.api import Needs, PreAggregation, check_minority, whole_number
from ostraka.rules.gram import Geometry


@dataclass(frozen=True)
class NNM(PreAggregation):
    """Replaces each row by the mean of the n - f rows nearest to it, itself included; 2f < n.

    Source: Allouah et al. 2023 (fixing by mixing). Ties go to the first rows. The rule behind
    it still faces f Byzantine rows: the mixtures around the Byzantine ones.
    """

    f: int
    name: ClassVar[str] = "nnm"

    def __post_init__(self) -> None:
        whole_number("nnm", "f", self.f, 0)

    @property
    def needs(self) -> Needs:
        """Distances between workers."""
        return Needs.DISTANCES

    def check(self, n: int, f: int | None = None) -> None:
        """Need 2f < n."""
        check_minority("nnm", n, f, self.f)

    def matrix(self, geometry: Geometry, f: int) -> Float:
        """Mixing matrix (n, n): 1/(n-f) for each neighbour."""
        n, keep = geometry.n, geometry.n - self.f
        nearest = np.argsort(geometry.compared, axis=1, kind="stable")[:, :keep]
        matrix = np.zeros((n, n))
        np.put_along_axis(matrix, nearest, 1.0 / keep, axis=1)
        return matrix

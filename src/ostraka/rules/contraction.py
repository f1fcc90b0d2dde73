"""What a server makes of the models that servers show one another: steps that bring them together.

Sources: El-Mhamdi et al. 2020, section 3 (Distributed Median Contraction) for the median. It does
not contract in the worst case, when a Byzantine server tells each receiver something else or the
schedule picks who is late, so there are two more: the trimmed mean (Dolev et al. 1986, approximate
agreement, for each coordinate by itself) and the mean of the vectors nearest to one's own (MoNNA,
Farhadkhani et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ostraka.rules.aggregate import aggregate
from ostraka.rules.median import Median
from ostraka.rules.trimmed_mean import TrimmedMean

Vector = npt.NDArray[np.float32]
Contraction = Callable[[npt.NDArray[np.float32], int, int], Vector]


def median(rows: npt.NDArray[np.float32], own: int, f: int) -> Vector:
    """Coordinate-wise median (d,) of q finite rows (q, d); q >= 2f + 1, ``own`` is not used."""
    return _whole(aggregate(rows, Median(), f=f).vector)


def trimmed_mean(rows: npt.NDArray[np.float32], own: int, f: int) -> Vector:
    """Mean (d,) of each coordinate without its f smallest and f largest; ``own`` is not used.

    Of q = n - f rows with up to f Byzantine the honest range of every coordinate shrinks to at most
    2f / (n - 3f) of what it was, whatever each receiver was told: less than 1 where n > 5f.
    """
    return _whole(aggregate(rows, TrimmedMean(f), f=f).vector)


def nearest_neighbour(rows: npt.NDArray[np.float32], own: int, f: int) -> Vector:
    """Mean (d,) of the q - f rows nearest to row ``own``, itself included; ties go to the first.

    Shrinks the honest diameter where n > 7f and, if nobody can tell two receivers two things, where
    n > 5f. Sums are in float64.
    """
    with np.errstate(over="ignore"):  # of numbers near the end of float32, in float64: never
        wide = rows.astype(np.float64)
        shift = wide - wide[own]
        squared = np.einsum("ij,ij->i", shift, shift)
    squared[own] = -1.0
    nearest = np.sort(np.argsort(squared, kind="stable")[: len(rows) - f])
    return _whole(wide[nearest].mean(axis=0))


CONTRACTIONS: Mapping[str, Contraction] = {
    "median": median,
    "trimmed-mean": trimmed_mean,
    "nearest-neighbour": nearest_neighbour,
}


def default_contraction(n: int, f: int) -> str:
    """The trimmed mean where it is sure to contract, n > 5f, else the paper's median."""
    return "trimmed-mean" if n > 5 * f else "median"


def diameter(rows: npt.NDArray[np.float32]) -> float:
    """The largest distance between two of the rows (q, d)."""
    wide = rows.astype(np.float64)
    return max(float(np.linalg.norm(wide - row, axis=1).max()) for row in wide)


def _whole(vector: npt.NDArray[np.floating]) -> Vector:
    return np.asarray(vector, dtype=np.float32)

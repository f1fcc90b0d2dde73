"""What a server makes of the models that servers show one another: steps that bring them together.

Sources: El-Mhamdi et al. 2020, section 3 (Distributed Median Contraction) for the median. It does
not contract in the worst case, when a Byzantine server tells each receiver something else or the
schedule picks who is late, so there are two more: the trimmed mean (Dolev et al. 1986, approximate
agreement, for each coordinate by itself) and the mean of the vectors nearest to one's own (MoNNA,
Farhadkhani et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ostraka.algebra.ops import BLOCK, NUMPY, fill, spans
from ostraka.rules.aggregate import by_coordinate
from ostraka.rules.api import CoordinateRule
from ostraka.rules.median import Median
from ostraka.rules.trimmed_mean import TrimmedMean

Vector = npt.NDArray[np.float32]
Rows = npt.NDArray[np.float32] | Sequence[npt.NDArray[np.float32]]
Contraction = Callable[[Rows, int, int], Vector]


def median(rows: Rows, own: int, f: int) -> Vector:
    """Coordinate-wise median (d,) of q finite rows (q, d); q >= 2f + 1, ``own`` is not used."""
    return _whole(rows, Median(), f)


def trimmed_mean(rows: Rows, own: int, f: int) -> Vector:
    """Mean (d,) of each coordinate without its f smallest and f largest; ``own`` is not used.

    Of q = n - f rows with up to f Byzantine the honest range of every coordinate shrinks to at most
    2f / (n - 3f) of what it was, whatever each receiver was told: less than 1 where n > 5f.
    """
    return _whole(rows, TrimmedMean(f), f)


def nearest_neighbour(rows: Rows, own: int, f: int) -> Vector:
    """Mean (d,) of the q - f rows nearest to row ``own``, itself included; ties go to the first.

    Shrinks the honest diameter where n > 7f and, if nobody can tell two receivers two things, where
    n > 5f. Sums are in float64.
    """
    x = NUMPY.rows(rows)
    q, d = x.shape
    blocks, squared = np.empty((q, min(d, BLOCK))), np.zeros(q)
    for low, high in spans(d):
        block = blocks[:, : high - low]
        fill(block, x, low, high)
        block -= block[own].copy()
        squared += NUMPY.squares(block)
    squared[own] = -1.0
    nearest = np.sort(np.argsort(squared, kind="stable")[: q - f])
    found = np.empty(d, np.float32)
    for low, high in spans(d):
        block = blocks[: len(nearest), : high - low]
        fill(block, [x[at] for at in nearest], low, high)
        found[low:high] = block.mean(axis=0)
    return found


CONTRACTIONS: Mapping[str, Contraction] = {
    "median": median,
    "trimmed-mean": trimmed_mean,
    "nearest-neighbour": nearest_neighbour,
}


def default_contraction(n: int, f: int) -> str:
    """The trimmed mean where it is sure to contract, n > 5f, else the paper's median."""
    return "trimmed-mean" if n > 5 * f else "median"


def diameter(rows: Rows) -> float:
    """The largest distance between two of the finite rows (q, d); 0 only where all are equal.

    From float64 differences of the rows themselves: near rows beside huge ones keep their digits.
    """
    x = NUMPY.rows(rows)
    q, d = x.shape
    blocks, squared = np.empty((2, q, min(d, BLOCK))), np.zeros((q, q))
    for low, high in spans(d):
        block, apart = blocks[:, :, : high - low]
        fill(block, x, low, high)
        with np.errstate(over="ignore"):
            for i in range(1, q):
                np.subtract(block[:i], block[i], out=apart[:i])
                squared[i, :i] += NUMPY.squares(apart[:i])
    return math.sqrt(squared.max())


def _whole(rows: Rows, rule: CoordinateRule, f: int) -> Vector:
    """The rule on rows that nobody need look through again."""
    x = NUMPY.rows(rows)
    rule.check(int(x.shape[0]), f)
    vector, _ = by_coordinate(x, rule, (), f, NUMPY)
    return np.asarray(vector, dtype=np.float32)

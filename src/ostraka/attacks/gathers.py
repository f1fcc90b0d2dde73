"""The worst that a scheduler and lying servers together can do to one gather, found by search.

Honest servers hold one number each (one coordinate, or where they stand on a line). Each receives
q values: its own, those of the f liars and of all honest servers but the n - q that the scheduler
makes late. The adversary knows everything and wants the honest servers as far apart as possible
afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, combinations_with_replacement, product

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
Contraction = Callable[[Values, int, int], Values]
_INSIDE, _EQUAL = 1e-3, 1e-9


def worst_gather(
    honest: Values, f: int, q: int, contract: Contraction, *, equivocates: bool
) -> Values:
    """The honest values (n - f,) after the worst gather that the search finds.

    ``honest`` float32 (n - f,); ``q``: values that each receives, n - f or less than n by what the
    scheduler holds back; ``contract(rows (q, 1), own, f)``; ``equivocates``: whether a liar may
    tell each receiver another value.
    """
    if equivocates:
        lows, highs = [], []
        for own in range(len(honest)):
            results = [
                _result(honest, own, late, lies, contract, f)
                for late in _late(honest, own, f, q)
                for lies in combinations_with_replacement(_lies(honest, own, f, q), f)
            ]
            lows.append(min(results))
            highs.append(max(results))
        return _apart(np.array(lows), np.array(highs))
    best = np.full_like(honest, honest[0])
    for lies in combinations_with_replacement(_common_lies(honest, f, q), f):
        ends = []
        for own in range(len(honest)):
            lates = _late(honest, own, f, q)
            results = [_result(honest, own, late, lies, contract, f) for late in lates]
            ends.append((min(results), max(results)))
        after = _apart(np.array([e[0] for e in ends]), np.array([e[1] for e in ends]))
        best = max(best, after, key=np.ptp)
    return best


def splits(h: int) -> Iterator[Values]:
    """Ways in which h honest servers may stand: two groups of any sizes, and evenly spread."""
    for low in range(1, h):
        yield np.array([0.0] * low + [1.0] * (h - low), np.float32)
    yield np.linspace(0, 1, h, dtype=np.float32)
    for low, high in product(range(1, h - 1), repeat=2):
        if low + high < h:
            yield np.array([0.0] * low + [0.5] * (h - low - high) + [1.0] * high, np.float32)


def _apart(lows: npt.NDArray[np.float64], highs: npt.NDArray[np.float64]) -> Values:
    """One value for each server, low or high, so that the two farthest are as far as can be.

    The others go where they are farther from the middle, and where that is all the same to the
    smaller group, so that the next gather can be as bad.
    """
    pairs = ((i, j) for i, j in product(range(len(lows)), repeat=2) if i != j)
    bottom, top = max(pairs, key=lambda pair: highs[pair[1]] - lows[pair[0]])
    middle = (lows[bottom] + highs[top]) / 2
    chosen = np.empty(len(lows), np.float32)
    count = 0  # how many more are high than low
    for i in (bottom, top, *(i for i in range(len(lows)) if i not in (bottom, top))):
        gain = float(abs(highs[i] - middle) - abs(lows[i] - middle))
        up = i == top or (i != bottom and (gain > _EQUAL or (gain > -_EQUAL and count <= 0)))
        chosen[i] = highs[i] if up else lows[i]
        count += 1 if up else -1
    return chosen


def _result(
    honest: Values,
    own: int,
    late: Sequence[int],
    lies: Sequence[float],
    contract: Contraction,
    f: int,
) -> float:
    present = [i for i in range(len(honest)) if i not in late and i != own]
    rows = np.array([honest[own], *honest[present], *lies], np.float32)[:, None]
    return float(contract(rows, 0, f)[0])


def _late(honest: Values, own: int, f: int, q: int) -> list[tuple[int, ...]]:
    """Who is held back: the highest and the lowest ones, the nearest above and below one's own."""
    count = len(honest) + f - q
    others = [i for i in np.argsort(honest, kind="stable").tolist() if i != own]
    if len(others) <= 5:
        return list(combinations(others, count))
    above = [i for i in others if honest[i] > honest[own]]
    below = [i for i in reversed(others) if honest[i] < honest[own]]
    orders = (others, others[::-1], above + below, below + above)
    return list(dict.fromkeys(tuple(sorted(order[:count])) for order in orders))


def _lies(honest: Values, own: int, f: int, q: int) -> list[float]:
    """Far away, at the honest ends, and just inside the receiver's cut, beyond its own value."""
    mine = float(honest[own])
    distances = np.sort(np.abs(honest.astype(np.float64) - mine))
    cuts = {
        float(distances[min(k, len(distances) - 1)]) for k in (q - 2 * f - 1, q - 2 * f, q - f - 1)
    }
    near = [mine + side * cut * (1 - _INSIDE) for cut in cuts for side in (-1, 1)]
    return sorted({-1e6, 1e6, float(honest.min()), float(honest.max()), *near})


def _common_lies(honest: Values, f: int, q: int) -> list[float]:
    """What a liar may tell all alike: anything that would suit some receiver."""
    ends = int(honest.argmin()), int(honest.argmax())
    return sorted({lie for own in ends for lie in _lies(honest, own, f, q)})

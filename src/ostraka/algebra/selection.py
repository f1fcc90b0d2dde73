"""Means of a window of ranks per column, by a pruned sorting network.

A Batcher merge-exchange network (Knuth, The Art of Computer Programming 3, 5.2.2, Algorithm M)
sorts n wires with compare-exchanges whose order does not depend on the data, so each of them is one
minimum and one maximum over whole rows. Walking the network backwards from the ranks that are
needed drops the comparators, and the halves of comparators, that nobody reads.
"""

from __future__ import annotations

from functools import lru_cache

from ostraka.algebra.ops import Array, Ops

NETWORK_MAX = 128
"""Rows up to which the network is used; beyond it columns are sorted."""

Comparator = tuple[int, int, bool, bool]
"""(low wire, high wire, is the minimum read later, is the maximum read later)."""


def merge_exchange(n: int) -> list[tuple[int, int]]:
    """Comparators (i, j), i < j, that sort n wires upwards."""
    pairs: list[tuple[int, int]] = []
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top if n > 1 else 0
    while p:
        q, r, step = top, 0, p
        while True:
            pairs += [(i, i + step) for i in range(n - step) if i & p == r]
            if q == p:
                break
            step, q, r = q - p, q >> 1, p
        p >>= 1
    return pairs


@lru_cache(maxsize=256)
def network(n: int, low: int, high: int) -> tuple[Comparator, ...]:
    """Comparators after which wires low..high-1 hold these ranks of n wires."""
    read = set(range(low, high))
    kept: list[Comparator] = []
    for i, j in reversed(merge_exchange(n)):
        if i in read or j in read:
            kept.append((i, j, i in read, j in read))
            read |= {i, j}
    return tuple(reversed(kept))


def window_mean(block: Array, low: int, high: int, ops: Ops) -> Array:
    """Mean of ranks low..high-1 of every column.

    `block` is (n, w), float32 or float64, finite, with 0 <= low < high <= n; it is used as scratch
    memory, so w should be one that stays in cache. Gives a float64 vector (w,), summed in float64.
    Ties and order of rows do not matter.
    """
    if block.shape[0] <= NETWORK_MAX:
        done = ops.window_mean(block, network, low, high)
        if done is not None:
            return done
    wires = _ranks(block, low, high, ops)[low:high]
    total = ops.wide(wires[0])
    total += 0.0  # which zero a minimum gives depends on the order of the rows
    for wire in wires[1:]:
        total += wire
    if high - low > 1:
        total /= high - low
    return total


def median(block: Array, ops: Ops) -> Array:
    """Median of every column, the mean of the two middles for an even n; see `window_mean`."""
    n = block.shape[0]
    return window_mean(block, (n - 1) // 2, n // 2 + 1, ops)


def _ranks(block: Array, low: int, high: int, ops: Ops) -> list[Array]:
    """Wires of which low..high-1 hold these ranks; the others hold anything."""
    n = block.shape[0]
    if n > NETWORK_MAX:
        block = ops.sort(block)
        return [block[i] for i in range(n)]
    wires = [block[i] for i in range(n)]
    spare = ops.copy(wires[0])
    for i, j, need_min, need_max in network(n, low, high):
        a, b = wires[i], wires[j]
        if need_min and need_max:
            ops.minimum(a, b, out=spare)
            ops.maximum(a, b, out=b)
            wires[i], spare = spare, a
        elif need_min:
            ops.minimum(a, b, out=a)
        else:
            ops.maximum(a, b, out=b)
    return wires

"""Compiled loops of the ring Z_2^64: tiled products, projections on signs, weighted sums.

Products of rows (Winograd 1968). With w = 2h, the product of x and y is

    sum over k < h of (x[k] + y[h + k]) (x[h + k] + y[k])  -  c(x)  -  c(y),
    c(x) = sum over k < h of x[k] x[h + k]

which is exact in a ring and takes half the multiplications: c is found once for each row. Additions
are cheap here and products are not. A word is low + 2^32 high, so a product mod 2^64 is low low' +
2^32 (low high' + high low'): one exact 32 x 32 -> 64 bit product and two of 32 bits, which are one
instruction on a vector whose halves are swapped (vectors.py). Columns are first copied, strip by
strip, to a buffer that stays in the second-level cache, filled up with zeros to whole tiles and
vectors, its rows no power of two apart: such rows would fall on the same cache lines.

Projections on signs (the method of four Russians). Three columns have only 27 combinations of
signs, so their signed sums are written to a table once, for eight rows at a time side by side, and
each vector of signs then costs one addition for every three columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from ostraka.algebra.kernels import inlined, kernel
from ostraka.algebra.kernels.vectors import (
    ENTRIES,
    GROUP,
    LANES,
    TABLES,
    TILE,
    add_entries,
    add_tile,
    fill_table,
)

Array = npt.NDArray[Any]

STRIP = 256
"""Columns of a strip of words: 100 rows are 200 KiB, and a cache of 512 KiB holds two strips."""
VECTOR = 16
"""A strip's width is filled up to a multiple of this many words, and its rows lie so much more
apart."""
PIECE = 1 << 12
"""Columns whose places in the tables are found together."""
TURNED = 96
"""Columns that are turned at a time, so that rows stand side by side: a multiple of
GROUP * TABLES."""


def _readable(dtype: Any, axes: int) -> Any:
    """An argument type that takes read-only and unaligned arrays as well."""
    return types.Array(dtype, axes, "C", readonly=True, aligned=False)


_MATRIX = _readable(types.uint64, 2)
_VECTOR = _readable(types.uint64, 1)
_SIGNS = _readable(types.int8, 2)
_SUMS = types.Array(types.uint64, 1, "C")


@inlined
def _filled(count: int, unit: int) -> int:
    return (count + unit - 1) // unit * unit


@inlined
def _pack(source: Array, low: int, high: int, strip: Array) -> None:
    """Copy the columns low to high into the strip, zeros to its right and below."""
    width = high - low
    strip[:, width : _filled(width, VECTOR)] = 0
    strip[source.shape[0] :] = 0
    for i in range(source.shape[0]):
        row, target = source[i], strip[i]
        for k in range(width):
            target[k] = row[low + k]


@inlined
def _crossed(strip: Array, half: int, sums: Array) -> None:
    """Add to the sums each row's products of its first half with its second."""
    for i in range(strip.shape[0]):
        x, y = strip[i, :half], strip[i, half : 2 * half]
        total = np.uint64(0)
        for k in range(half):
            total += x[k] * y[k]
        sums[i] += total


@inlined
def _add_strip(a: Array, b: Array, half: int, symmetric: bool, out: Array) -> None:
    """Add Winograd's sums of two packed strips; of a symmetric one, the tiles with j >= i."""
    for i in range(0, a.shape[0], TILE):
        for j in range(i if symmetric else 0, b.shape[0]):
            add_tile(a, i, b, j, half, out)


@inlined
def _products(a: Array, b: Array, symmetric: bool) -> Array:
    n = _filled(a.shape[0], TILE)
    m = n if symmetric else b.shape[0]
    left = np.empty((n, STRIP + VECTOR), np.uint64)
    right = left if symmetric else np.empty((m, STRIP + VECTOR), np.uint64)
    out, lefts, rights = np.zeros((n, m), np.uint64), np.zeros(n, np.uint64), np.zeros(m, np.uint64)
    for low in range(0, a.shape[1], STRIP):
        high = min(low + STRIP, a.shape[1])
        half = _filled(high - low, VECTOR) // 2
        _pack(a, low, high, left)
        _crossed(left, half, lefts)
        if not symmetric:
            _pack(b, low, high, right)
            _crossed(right, half, rights)
        _add_strip(left, right, half, symmetric, out)
    if symmetric:
        rights = lefts
    for i in range(n):
        for j in range(m):
            out[i, j] -= lefts[i] + rights[j]
    return out


@kernel(_MATRIX, _MATRIX)
def products(a: Array, b: Array) -> Array:
    """The products of the rows of a (n, w) and b (m, w), mod 2^64, zeros below and beside them."""
    return _products(a, b, False)


@kernel(_MATRIX)
def gram(a: Array) -> Array:
    """The products of the rows of a with one another; only the entries with j >= i are right."""
    return _products(a, a, True)


@inlined
def _indices(signs: Array, low: int, high: int, index: Array) -> None:
    """Write for each vector of signs where the entries of its groups of three columns stand.

    The last line may reach beyond the columns: what is missing counts as zeros.
    """
    columns = GROUP * TABLES
    last = np.zeros(columns, np.int8)
    for k in range(signs.shape[0]):
        for line in range(_filled(high - low, columns) // columns):
            first = low + columns * line
            row = signs[k, first : first + columns]
            if first + columns > high:
                last[:] = 0
                last[: high - first] = signs[k, first:high]
                row = last
            places = index[line, k]
            for t in range(TABLES):
                x, y, z = row[GROUP * t], row[GROUP * t + 1], row[GROUP * t + 2]
                places[t] = LANES * (ENTRIES * t + ENTRIES // 2 + 9 * x + 3 * y + z)


@inlined
def _turn_rows(block: Array, first: int, low: int, high: int, turned: Array) -> None:
    """Write rows of the block as columns side by side, zeros for what the block does not have."""
    turned[:] = 0
    for i in range(min(LANES, block.shape[0] - first)):
        row = block[first + i]
        for k in range(high - low):
            turned[k, i] = row[low + k]


@kernel(_MATRIX, _SIGNS)
def signed(block: Array, signs: Array) -> Array:
    """The products (n, K) of words (n, w) with signs (K, w), mod 2^64."""
    n, count, w = block.shape[0], signs.shape[0], block.shape[1]
    out = np.zeros((n, count), np.uint64)
    index = np.empty((_filled(min(w, PIECE), TURNED) // (GROUP * TABLES), count, TABLES), np.uint16)
    turned = np.empty((TURNED, LANES), np.uint64)
    tables = np.empty((TABLES * ENTRIES, LANES), np.uint64)
    sums = np.empty((count, LANES), np.uint64)
    for low in range(0, w, PIECE):
        high = min(low + PIECE, w)
        _indices(signs, low, high, index)
        for first in range(0, n, LANES):
            sums[:] = 0
            for k in range(low, high, TURNED):
                end = min(k + TURNED, high)
                _turn_rows(block, first, k, end, turned)
                for at in range(0, end - k, GROUP * TABLES):
                    for t in range(TABLES):
                        fill_table(tables, ENTRIES * t, turned, at + GROUP * t)
                    line = (k + at - low) // (GROUP * TABLES)
                    for v in range(count):
                        add_entries(sums, v, tables, index, line)
            for i in range(first, min(first + LANES, n)):
                for v in range(count):
                    out[i, v] += sums[v, i - first]
    return out


@kernel(_MATRIX, _MATRIX, _SUMS)
def dots(a: Array, b: Array, out: Array) -> None:
    """Add the product of each row of a with the same row of b, mod 2^64."""
    for i in range(a.shape[0]):
        x, y = a[i], b[i]
        total = np.uint64(0)
        for k in range(x.shape[0]):
            total += x[k] * y[k]
        out[i] += total


@kernel(_VECTOR, _MATRIX, _SUMS)
def weighted(weights: Array, block: Array, out: Array) -> None:
    """Add weights (n,) times the block (n, w), mod 2^64."""
    for low in range(0, out.shape[0], STRIP):
        part = out[low : low + STRIP]
        for i in range(weights.shape[0]):
            weight, row = weights[i], block[i, low : low + STRIP]
            for k in range(part.shape[0]):
                part[k] += weight * row[k]

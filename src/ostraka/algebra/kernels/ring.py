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
    turn_columns,
)

Array = npt.NDArray[Any]

STRIP = 512
"""Columns of a strip of words: 100 rows are 400 KiB, within a second-level cache of 512 KiB."""
VECTOR = 16
"""A strip's width is filled up to a multiple of this many words, and its rows lie so much more
apart."""
LINE = GROUP * TABLES
"""Columns whose signs are one word."""
TURNED = 4 * LINE
"""Columns that are turned at a time, so that rows stand side by side."""
PIECE = 40 * TURNED
"""Columns whose places in the tables are found together."""


def _readable(dtype: Any, axes: int) -> Any:
    """An argument type that takes read-only and unaligned arrays as well."""
    return types.Array(dtype, axes, "C", readonly=True, aligned=False)


_MATRIX = _readable(types.uint64, 2)
_VECTOR = _readable(types.uint64, 1)
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
def _places(words: Array, first: int, lines: int, places: Array) -> None:
    """Write for some words of all vectors of signs where their eight entries stand, a byte each.

    A byte's bits 0 to 5 are a, b, c, d, e, f and its signs a - b, c - d, e - f: entry
    9 (a - b) + 3 (c - d) + e - f + 13 of a table, which is 9 (a + !b) + 3 (c + !d) + e + !f.
    """
    ones = np.uint64(0x0101010101010101)
    for v in range(words.shape[0]):
        row = words[v]
        for k in range(lines):
            word = row[first + k]
            rest = ~word
            x = (word & ones) + (rest >> np.uint64(1) & ones)
            y = (word >> np.uint64(2) & ones) + (rest >> np.uint64(3) & ones)
            z = (word >> np.uint64(4) & ones) + (rest >> np.uint64(5) & ones)
            places[k, v] = x * np.uint64(9) + y * np.uint64(3) + z


@inlined
def _turn(block: Array, first: int, low: int, high: int, turned: Array) -> None:
    """Write LANES rows of the block as columns side by side, zeros for what it does not have."""
    if high - low < TURNED or block.shape[0] - first < LANES:
        turned[:] = 0
        for i in range(min(LANES, block.shape[0] - first)):
            for k in range(high - low):
                turned[k, i] = block[first + i, low + k]
    else:
        for k in range(0, TURNED, 4):
            turn_columns(turned, k, block, first, low + k)


@kernel(_MATRIX, _MATRIX)
def signed(block: Array, words: Array) -> Array:
    """The products (n, K) of words (n, w) with the signs of words (K, lines), mod 2^64."""
    n, count, w = block.shape[0], words.shape[0], block.shape[1]
    out = np.zeros((n, count), np.uint64)
    places = np.empty((_filled(min(w, PIECE), LINE) // LINE, count), np.uint64)
    turned = np.empty((TURNED, LANES), np.uint64)
    tables = np.empty((TABLES * ENTRIES, LANES), np.uint64)
    sums = np.empty((count, LANES), np.uint64)
    for low in range(0, w, PIECE):
        high = min(low + PIECE, w)
        _places(words, low // LINE, _filled(high - low, LINE) // LINE, places)
        for first in range(0, n, LANES):
            sums[:] = 0
            for k in range(low, high, TURNED):
                end = min(k + TURNED, high)
                _turn(block, first, k, end, turned)
                for at in range(0, end - k, LINE):
                    for t in range(TABLES):
                        fill_table(tables, ENTRIES * t, turned, at + GROUP * t)
                    add_entries(sums, tables, places, (k + at - low) // LINE)
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

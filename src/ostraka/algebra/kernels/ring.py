"""Compiled loops of the ring Z_2^64: tiled products, projections on signs, weighted sums.

Products of rows. A word is low + 2^32 high, so a product mod 2^64 is low low' + 2^32 (low high' +
high low'). The first part needs the vector unit's exact 32 x 32 -> 64 bit product, the second only
its 32-bit product; so each is a loop of its own, with one multiplication and one addition for each
vector. A processor without a 64-bit vector product (AVX2, for one) would otherwise spend three
multiplications, two shifts and more additions. Both run in tiles of 3 x 3 rows: nine sums and six
operands fit in 16 vector registers. Columns are first copied, strip by strip, to a buffer that
stays in the second-level cache, filled up with zeros to whole tiles and vectors: rows that lie a
power of two apart in memory would fall on the same cache lines.

Projections on signs (the method of four Russians). Three columns have only 27 combinations of
signs, so their signed sums are written to a table once, for eight rows at a time side by side, and
each vector of signs then costs one addition for every three columns.

Every entry takes a range of columns and gives its own sums, so ranges can run in any order and on
any thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from ostraka.algebra.kernels import inlined, kernel
from ostraka.algebra.kernels.vectors import ENTRIES, GROUP, LANES, TABLES, add_entries, fill_table

Array = npt.NDArray[Any]

TILE = 3
STRIP = 512
"""Columns of a strip of words: 100 rows are 400 KiB, which a cache of 512 KiB holds."""
VECTOR = 16
"""A strip's width is filled up to a multiple of this many words."""
TURNED = 96
"""Columns that are turned at a time, so that rows stand side by side: a multiple of
GROUP * TABLES."""

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def _readable(dtype: Any, axes: int) -> Any:
    """An argument type that takes read-only and unaligned arrays as well."""
    return types.Array(dtype, axes, "C", readonly=True, aligned=False)


_MATRIX = _readable(types.uint64, 2)
_VECTOR = _readable(types.uint64, 1)
_SIGNS = _readable(types.int8, 2)
_SUMS = types.Array(types.uint64, 1, "C")
_COLUMN = types.int64


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
def _turn(a: Array, i: int, width: int, turned: Array) -> None:
    """Swap the halves of the words of one tile's rows."""
    for r in range(TILE):
        row, target = a[i + r], turned[r]
        for k in range(width):
            target[k] = (row[k] << _HALF) | (row[k] >> _HALF)


@inlined
def _add_low(a: Array, i: int, b: Array, j: int, width: int, out: Array) -> None:
    """Add to a tile of out the exact products of the low halves of words."""
    a0, a1, a2 = a[i, :width], a[i + 1, :width], a[i + 2, :width]
    b0, b1, b2 = b[j, :width], b[j + 1, :width], b[j + 2, :width]
    s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = np.uint64(0)
    for k in range(width):
        x0, x1, x2 = a0[k] & _LOW, a1[k] & _LOW, a2[k] & _LOW
        y0, y1, y2 = b0[k] & _LOW, b1[k] & _LOW, b2[k] & _LOW
        s00, s01, s02 = s00 + x0 * y0, s01 + x0 * y1, s02 + x0 * y2
        s10, s11, s12 = s10 + x1 * y0, s11 + x1 * y1, s12 + x1 * y2
        s20, s21, s22 = s20 + x2 * y0, s21 + x2 * y1, s22 + x2 * y2
    rows = (s00, s01, s02), (s10, s11, s12), (s20, s21, s22)
    for r in range(TILE):
        for c in range(TILE):
            out[i + r, j + c] += rows[r][c]


@inlined
def _add_cross(a: Array, i: int, b: Array, j: int, width: int, out: Array) -> None:
    """Add to a tile of out 2^32 times the products of 32-bit halves; a holds only the tile."""
    a0, a1, a2 = a[0, :width], a[1, :width], a[2, :width]
    b0, b1, b2 = b[j, :width], b[j + 1, :width], b[j + 2, :width]
    s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = np.uint32(0)
    for k in range(width):
        x0, x1, x2 = a0[k], a1[k], a2[k]
        y0, y1, y2 = b0[k], b1[k], b2[k]
        s00, s01, s02 = np.uint32(s00 + x0 * y0), np.uint32(s01 + x0 * y1), np.uint32(s02 + x0 * y2)
        s10, s11, s12 = np.uint32(s10 + x1 * y0), np.uint32(s11 + x1 * y1), np.uint32(s12 + x1 * y2)
        s20, s21, s22 = np.uint32(s20 + x2 * y0), np.uint32(s21 + x2 * y1), np.uint32(s22 + x2 * y2)
    rows = (s00, s01, s02), (s10, s11, s12), (s20, s21, s22)
    for r in range(TILE):
        for c in range(TILE):
            out[i + r, j + c] += np.uint64(rows[r][c]) << _HALF


@inlined
def _add_strip(a: Array, b: Array, width: int, symmetric: bool, out: Array) -> None:
    """Add the products of two packed strips; of a symmetric one, the tiles with j >= i."""
    turned = np.empty((TILE, STRIP), np.uint64)
    a_halves, b_halves = turned.view(np.uint32), b.view(np.uint32)
    for i in range(0, a.shape[0], TILE):
        _turn(a, i, width, turned)
        for j in range(i if symmetric else 0, b.shape[0], TILE):
            _add_low(a, i, b, j, width, out)
            _add_cross(a_halves, i, b_halves, j, 2 * width, out)


@kernel(_MATRIX, _MATRIX, types.boolean, _COLUMN, _COLUMN)
def products(a: Array, b: Array, symmetric: bool, low: int, high: int) -> Array:
    """The products (n, m) of the rows of a and b over the columns low to high, mod 2^64.

    Where `symmetric`, a and b must be one array, and only the entries with j >= i are right.
    """
    n, m = _filled(a.shape[0], TILE), _filled(b.shape[0], TILE)
    out = np.zeros((n, m), np.uint64)
    left = np.empty((n, STRIP), np.uint64)
    right = left if symmetric else np.empty((m, STRIP), np.uint64)
    for k in range(low, high, STRIP):
        end = min(k + STRIP, high)
        _pack(a, k, end, left)
        if not symmetric:
            _pack(b, k, end, right)
        _add_strip(left, right, _filled(end - k, VECTOR), symmetric, out)
    return out


@inlined
def _indices(signs: Array, low: int, high: int, index: Array) -> None:
    """Write for each group of three columns and each vector of signs its table entry."""
    for k in range(signs.shape[0]):
        row = signs[k]
        for g in range(index.shape[0]):
            entry = 0
            for at in range(low + GROUP * g, low + GROUP * g + GROUP):
                entry = 3 * entry + (row[at] + 1 if at < high else 1)
            index[g, k] = entry


@inlined
def _turn_rows(block: Array, first: int, low: int, high: int, turned: Array) -> None:
    """Write rows of the block as columns side by side, zeros for what the block does not have."""
    turned[:] = 0
    for i in range(min(LANES, block.shape[0] - first)):
        row = block[first + i]
        for k in range(high - low):
            turned[k, i] = row[low + k]


@kernel(_MATRIX, _SIGNS, _COLUMN, _COLUMN)
def signed(block: Array, signs: Array, low: int, high: int) -> Array:
    """The products (n, K) of words with signs over the columns low to high, mod 2^64."""
    n, count = block.shape[0], signs.shape[0]
    out = np.empty((n, count), np.uint64)
    index = np.empty((_filled(high - low, GROUP * TABLES) // GROUP, count), np.uint8)
    _indices(signs, low, high, index)
    turned = np.empty((TURNED, LANES), np.uint64)
    tables = np.empty((TABLES * ENTRIES, LANES), np.uint64)
    sums = np.empty((count, LANES), np.uint64)
    for first in range(0, n, LANES):
        sums[:] = 0
        for k in range(low, high, TURNED):
            end = min(k + TURNED, high)
            _turn_rows(block, first, k, end, turned)
            for at in range(0, end - k, GROUP * TABLES):
                for t in range(TABLES):
                    fill_table(tables, ENTRIES * t, turned, at + GROUP * t)
                for v in range(count):
                    add_entries(sums, v, tables, index, (k + at - low) // GROUP)
        for i in range(first, min(first + LANES, n)):
            for v in range(count):
                out[i, v] = sums[v, i - first]
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

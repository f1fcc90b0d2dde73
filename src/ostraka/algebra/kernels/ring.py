"""Compiled loops of the ring Z_2^64: tiled products, projections on signs, weighted sums.

A word is low + 2^32 high, so a product mod 2^64 is low low' + 2^32 (low high' + high low'). The sums
of the first part need the vector unit's exact 32 x 32 -> 64 bit product, those of the second only
its 32-bit product; so each is a loop of its own, one multiplication and one addition for each
vector. A processor without a 64-bit vector product (every one before AVX-512) would spend three
multiplications, two shifts and an extra addition instead. On signs, a word is four signed digits
of 16 bits, and the vector unit adds pairs of 16-bit products.

Every product runs in tiles of 3 x 3 rows: nine sums and six operands fit in 16 vector registers.
Columns are first copied in strips to a buffer whose rows are whole numbers of vectors and whole
numbers of tiles, filled up with zeros. It stays in the second-level cache; rows far apart in memory
would fall on the same cache lines. Entries take a range of columns and give their own sums, so
ranges can run in any order and on any thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from ostraka.algebra.kernels import inlined, kernel

Array = npt.NDArray[Any]

TILE = 3
STRIP = 512
"""Columns of a strip of words: 100 rows are 400 KiB."""
SIGN_STRIP = 2048
"""Columns of a strip of signs: 100 rows of 16 bits are 400 KiB; 32768 terms would still be exact
in 32 bits."""
VECTOR = 32
"""A strip's width is filled up to a multiple of this."""
DIGITS = 4
DIGIT_BITS = 16
HALF = 32

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(HALF)
_CARRY = np.uint64(0x0000_8000_8000_8000)


def _like(dtype: Any, axes: int) -> Any:
    """An argument type that takes read-only and unaligned arrays as well."""
    return types.Array(dtype, axes, "C", readonly=True, aligned=False)


_MATRIX = _like(types.uint64, 2)
_SIGNS = _like(types.int8, 2)
_VECTOR = _like(types.uint64, 1)
_OUT = types.Array(types.uint64, 1, "C")
_AT = types.int64


def _add(total: Any, a: Any, b: Any) -> Any:
    """Add a product: of low halves to uint64, of halves to uint32, of digits to int32."""
    raise TypeError("only compiled code calls this")


def _low(total: Any, a: Any, b: Any) -> Any:
    return total + (a & _LOW) * (b & _LOW)


def _cross(total: Any, a: Any, b: Any) -> Any:
    return np.uint32(total + a * b)


def _pair(total: Any, a: Any, b: Any) -> Any:
    return np.int32(total + np.int32(a) * np.int32(b))


@overload(_add)
def _add_as(total: Any, a: Any, b: Any) -> Any:
    return {types.uint64: _low, types.uint32: _cross, types.int32: _pair}[total]


@inlined
def _tile(a: Array, i: int, b: Array, j: int, width: int, sums: Array) -> None:
    """Fill sums (3, 3) with the sum over k of a[i + r, k] times b[j + c, k], as `add` adds."""
    a0, a1, a2 = a[i, :width], a[i + 1, :width], a[i + 2, :width]
    b0, b1, b2 = b[j, :width], b[j + 1, :width], b[j + 2, :width]
    sums[:] = 0
    s00, s01, s02 = sums[0, 0], sums[0, 1], sums[0, 2]
    s10, s11, s12 = sums[1, 0], sums[1, 1], sums[1, 2]
    s20, s21, s22 = sums[2, 0], sums[2, 1], sums[2, 2]
    for k in range(width):
        x0, x1, x2 = a0[k], a1[k], a2[k]
        y0, y1, y2 = b0[k], b1[k], b2[k]
        s00, s01, s02 = _add(s00, x0, y0), _add(s01, x0, y1), _add(s02, x0, y2)
        s10, s11, s12 = _add(s10, x1, y0), _add(s11, x1, y1), _add(s12, x1, y2)
        s20, s21, s22 = _add(s20, x2, y0), _add(s21, x2, y1), _add(s22, x2, y2)
    sums[0, 0], sums[0, 1], sums[0, 2] = s00, s01, s02
    sums[1, 0], sums[1, 1], sums[1, 2] = s10, s11, s12
    sums[2, 0], sums[2, 1], sums[2, 2] = s20, s21, s22


@inlined
def _filled(count: int, unit: int) -> int:
    return (count + unit - 1) // unit * unit


@inlined
def _pack(source: Array, first: int, low: int, high: int, strip: Array) -> None:
    """Copy the columns low to high of the rows from `first` on into the strip, zeros around."""
    width = high - low
    for r in range(strip.shape[0]):
        if first + r < source.shape[0]:
            row, target = source[first + r], strip[r]
            for k in range(width):
                target[k] = row[low + k]
            for k in range(width, _filled(width, VECTOR)):
                target[k] = 0
        else:
            strip[r, : _filled(width, VECTOR)] = 0


@inlined
def _turn(a: Array, i: int, width: int, turned: Array) -> None:
    """Swap the halves of the words of one tile's rows."""
    for r in range(TILE):
        for k in range(width):
            word = a[i + r, k]
            turned[r, k] = (word << _HALF) | (word >> _HALF)


@inlined
def _strip_products(a: Array, b: Array, width: int, symmetric: bool, out: Array) -> None:
    """Add the products of two packed strips; of a symmetric one, the tiles with j >= i."""
    turned = np.empty((TILE, STRIP), np.uint64)
    low = np.empty((TILE, TILE), np.uint64)
    cross = np.empty((TILE, TILE), np.uint32)
    b_halves = b.view(np.uint32)
    halves = turned.view(np.uint32)
    for i in range(0, a.shape[0], TILE):
        _turn(a, i, width, turned)
        for j in range(i if symmetric else 0, b.shape[0], TILE):
            _tile(a, i, b, j, width, low)
            _tile(halves, 0, b_halves, j, 2 * width, cross)
            for r in range(TILE):
                for c in range(TILE):
                    out[i + r, j + c] += low[r, c] + (np.uint64(cross[r, c]) << _HALF)


@kernel(_MATRIX, _AT, _AT)
def gram(block: Array, low: int, high: int) -> Array:
    """The symmetric products (n, n) of the rows over the columns low to high, mod 2^64."""
    n = block.shape[0]
    out = np.zeros((_filled(n, TILE), _filled(n, TILE)), np.uint64)
    strip = np.empty((_filled(n, TILE), STRIP), np.uint64)
    for k in range(low, high, STRIP):
        end = min(k + STRIP, high)
        _pack(block, 0, k, end, strip)
        _strip_products(strip, strip, _filled(end - k, VECTOR), True, out)
    for i in range(n):
        for j in range(i):
            out[i, j] = out[j, i]
    return out[:n, :n]


@kernel(_MATRIX, _MATRIX, _AT, _AT)
def products(a: Array, b: Array, low: int, high: int) -> Array:
    """The products (n, m) of the rows of a and b over the columns low to high, mod 2^64."""
    n, m = a.shape[0], b.shape[0]
    out = np.zeros((_filled(n, TILE), _filled(m, TILE)), np.uint64)
    left = np.empty((_filled(n, TILE), STRIP), np.uint64)
    right = np.empty((_filled(m, TILE), STRIP), np.uint64)
    for k in range(low, high, STRIP):
        end = min(k + STRIP, high)
        _pack(a, 0, k, end, left)
        _pack(b, 0, k, end, right)
        _strip_products(left, right, _filled(end - k, VECTOR), False, out)
    return out[:n, :m]


@inlined
def _pack_digits(block: Array, first: int, low: int, high: int, strip: Array) -> None:
    """Write three rows of words as twelve rows of signed digits, lowest digit first.

    x = sum of digit_p 2^(16 p) mod 2^64 with digits in [-2^15, 2^15): adding 2^15 to the three
    lower digits carries where needed, and flipping their top bits takes it off again.
    """
    width = high - low
    for r in range(TILE):
        for p in range(DIGITS):
            strip[DIGITS * r + p, : _filled(width, VECTOR)] = 0
        if first + r < block.shape[0]:
            row = block[first + r]
            for p in range(DIGITS):
                target, shift = strip[DIGITS * r + p], np.uint64(DIGIT_BITS * p)
                for k in range(width):
                    target[k] = np.int16(((row[low + k] + _CARRY) ^ _CARRY) >> shift)


@kernel(_MATRIX, _SIGNS, _AT, _AT)
def signed(block: Array, signs: Array, low: int, high: int) -> Array:
    """The products (n, K) of words with signs over the columns low to high, mod 2^64."""
    n, count = block.shape[0], signs.shape[0]
    out = np.zeros((_filled(n, TILE), _filled(count, TILE)), np.uint64)
    right = np.empty((_filled(count, TILE), SIGN_STRIP), np.int16)
    left = np.empty((TILE * DIGITS, SIGN_STRIP), np.int16)
    sums = np.empty((TILE, TILE), np.int32)
    for k in range(low, high, SIGN_STRIP):
        end = min(k + SIGN_STRIP, high)
        width = _filled(end - k, VECTOR)
        _pack(signs, 0, k, end, right)
        for first in range(0, n, TILE):
            _pack_digits(block, first, k, end, left)
            for i in range(0, TILE * DIGITS, TILE):
                for j in range(0, right.shape[0], TILE):
                    _tile(left, i, right, j, width, sums)
                    for r in range(TILE):
                        row, digit = divmod(i + r, DIGITS)
                        shift = np.uint64(DIGIT_BITS * digit)
                        for c in range(TILE):
                            out[first + row, j + c] += np.uint64(np.int64(sums[r, c])) << shift
    return out[:n, :count]


@kernel(_MATRIX, _MATRIX, _OUT)
def dots(a: Array, b: Array, out: Array) -> None:
    """Add the product of each row of a with the same row of b, mod 2^64."""
    for i in range(a.shape[0]):
        x, y = a[i], b[i]
        total = np.uint64(0)
        for k in range(x.shape[0]):
            total += x[k] * y[k]
        out[i] += total


@kernel(_VECTOR, _MATRIX, _OUT)
def weighted(weights: Array, block: Array, out: Array) -> None:
    """Add weights (n,) times the block (n, w), mod 2^64."""
    for low in range(0, out.shape[0], STRIP):
        part = out[low : low + STRIP]
        for i in range(weights.shape[0]):
            weight, row = weights[i], block[i, low : low + STRIP]
            for k in range(part.shape[0]):
                part[k] += weight * row[k]

"""Arrays of the ring Z_2^64: products of rows, projections on signs, weighted sums, all exact.

A ring array is uint64; a negative number is its two's complement. Every function adds to `out`, so
that a caller can stream columns in C-contiguous blocks: 2^13 and 2^16 columns are equally fast
(benchmarks/ring_kernels.py). Results are exact mod 2^64, so neither the blocks nor their order
changes a bit of them, and blocks can be worked on by several threads, each with an `out` of its
own: kernels hold no lock while they run. They are compiled at the first call of a process, which
takes seconds once and less than one second from then on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.uint64]

SIGNS_PER_WORD = 24


def add_gram(block: Ring, out: Ring) -> None:
    """Add block @ block.T mod 2^64 to out (n, n); block (n, w). Both triangles are added.

    ValueError for another dtype, shape or memory order, or when out is part of the block.
    """
    n, _ = _matrix("block", block)
    _target(out, (n, n), block)
    from ostraka.algebra.kernels import ring

    upper = ring.gram(block)[:n, :n]
    out += np.triu(upper)
    out += np.triu(upper, 1).T


def add_products(a: Ring, b: Ring, out: Ring) -> None:
    """Add a @ b.T mod 2^64 to out (n, m); a (n, w), b (m, w).

    ValueError for another dtype, shape or memory order, or when out is part of a or b.
    """
    (n, _), (m, _) = _matrix("a", a), _matrix("b", b, columns=a.shape[-1])
    _target(out, (n, m), a, b)
    from ostraka.algebra.kernels import ring

    out += ring.products(a, b)[:n, :m]


def add_squares(block: Ring, out: Ring) -> None:
    """Add each row's sum of squares mod 2^64 to out (n,); block (n, w).

    ValueError for another dtype, shape or memory order, or when out is part of the block.
    """
    add_dots(block, block, out)


def add_dots(a: Ring, b: Ring, out: Ring) -> None:
    """Add the product of each row of a with the same row of b, mod 2^64, to out (n,).

    ValueError for another dtype, shape or memory order, or when out is part of a or b.
    """
    n, w = _matrix("a", a)
    _matrix("b", b, columns=w)
    if len(b) != n:
        raise ValueError(f"a and b must have as many rows, got {n} and {len(b)}")
    _target(out, (n,), a, b)
    from ostraka.algebra.kernels import ring

    ring.dots(a, b, out)


def sign_words(width: int) -> int:
    """The random words that stand for `width` signs: 24 signs a word, rounded up."""
    return -(-width // SIGNS_PER_WORD)


def add_signed(block: Ring, words: Ring, out: Ring) -> None:
    """Add the products of rows with vectors of signs that words stand for, mod 2^64, to out (n, K).

    block (n, w), words (K, sign_words(w)). Each byte is three signs, the lowest byte and its lowest
    bits first: bit 0 minus bit 1, bit 2 minus bit 3, bit 4 minus bit 5. Bits 6 and 7 and what goes
    beyond w count for nothing. Of uniform words the signs are -1, 0, 1 with probability 1/4, 1/2,
    1/4, each by itself. ValueError for another dtype, shape or memory order, or when out is part of
    the block or the words.
    """
    n, w = _matrix("block", block)
    count, _ = _matrix("words", words, columns=sign_words(w))
    _target(out, (n, count), block, words)
    from ostraka.algebra.kernels import ring

    out += ring.signed(block, words)


def add_weighted(weights: Ring | npt.NDArray[np.int64], block: Ring, out: Ring) -> None:
    """Add weights (n,) @ block mod 2^64 to out (w,); weights int64 or uint64, block (n, w).

    ValueError for another dtype, shape or memory order, or when out is part of the block.
    """
    n, w = _matrix("block", block)
    if weights.dtype not in (np.uint64, np.int64) or weights.shape != (n,):
        raise ValueError(
            f"weights must be int64 or uint64 with shape ({n},), got {_described(weights)}"
        )
    _target(out, (w,), block)
    from ostraka.algebra.kernels import ring

    ring.weighted(np.ascontiguousarray(weights).view(np.uint64), block, out)


def _described(array: npt.NDArray[Any]) -> str:
    order = "" if array.flags.c_contiguous else ", not C-contiguous"
    return f"{array.dtype} {array.shape}{order}"


def _matrix(
    name: str, array: npt.NDArray[Any], dtype: Any = np.uint64, columns: int | None = None
) -> tuple[int, int]:
    """Check a C-contiguous matrix and give its shape."""
    fits = array.dtype == dtype and array.ndim == 2 and array.flags.c_contiguous
    if not fits or (columns is not None and array.shape[1] != columns):
        wanted = f"(rows, {'columns' if columns is None else columns})"
        raise ValueError(
            f"{name} must be a C-contiguous {np.dtype(dtype)} matrix {wanted}, "
            f"got {_described(array)}"
        )
    return array.shape[0], array.shape[1]


def _target(out: Ring, shape: tuple[int, ...], *sources: npt.NDArray[Any]) -> None:
    """Check where sums go: right dtype and shape, writeable, apart from what is read."""
    if out.dtype != np.uint64 or out.shape != shape or not out.flags.c_contiguous:
        raise ValueError(f"out must be a C-contiguous uint64 array {shape}, got {_described(out)}")
    if not out.flags.writeable:
        raise ValueError("out must be writeable")
    if any(np.may_share_memory(out, source) for source in sources):
        raise ValueError("out must not share memory with what is read")

"""Additive sharing of Z_2^64 vectors between two holders: a secret is mask + share.

The mask is a stream that follows from a 32-byte seed, so one holder keeps only the seed and makes
any block of columns again when it needs it; the other keeps the share. Either alone is uniform and
says nothing of the secret. Source: He, Karimireddy and Jaggi 2020, section 3, with seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ostraka.algebra.ring import Ring, add_products
from ostraka.crypto.prg import Key

_BLOCK_WORDS = 1 << 21  # 16 MiB: a block of all rows stays near the cache, and memory small


def hide(secret: Ring, seed: Key) -> Ring:
    """The share secret - mask, uint64 (d,), of which the seed's stream is the mask."""
    share = np.empty_like(secret)
    seed.stream().fill(share)
    np.subtract(secret, share, out=share)
    return share


def spans(n: int, d: int) -> Iterator[tuple[int, int]]:
    """Column blocks (low, high) of n rows: a fixed width that follows from n alone, all of d."""
    width = block_width(n)
    return ((low, min(low + width, d)) for low in range(0, d, width))


def block_width(n: int) -> int:
    """Columns of a block of n rows: a power of two, so that every block begins on an even word."""
    return max(1 << 10, 1 << ((_BLOCK_WORDS // max(1, n)).bit_length() - 1))


def largest_block(n: int, d: int) -> int:
    """Words of the largest block of any number of rows up to n: fewer rows have wider blocks."""
    return min(max(_BLOCK_WORDS, n << 10), n * d)


class Rows(Protocol):
    """The n vectors (d,) that one party holds, block by block."""

    @property
    def n(self) -> int:
        """How many rows there are."""

    @property
    def d(self) -> int:
        """How long a row is."""

    def block(self, low: int, high: int) -> Ring:
        """Columns low to high of all rows: uint64 (n, high - low), C-contiguous, the caller's."""


def products_with(rows: Rows, public: Ring) -> Ring:
    """Products uint64 (n,) of all rows with one public row (d,)."""
    out = np.zeros((rows.n, 1), np.uint64)
    for low, high in spans(rows.n, rows.d):
        add_products(rows.block(low, high), public[None, low:high], out)
    return out[:, 0]


@dataclass(frozen=True)
class Masks:
    """Rows that follow from seeds; ``low`` must be even."""

    seeds: Sequence[Key]
    d: int

    @property
    def n(self) -> int:
        """See Rows."""
        return len(self.seeds)

    def block(self, low: int, high: int) -> Ring:
        """See Rows."""
        out = np.empty((self.n, high - low), np.uint64)
        for row, seed in zip(out, self.seeds, strict=True):
            seed.stream(low).fill(row)
        return out


@dataclass(frozen=True)
class Shares:
    """Rows that arrived: one array (d,) for each."""

    rows: Sequence[Ring]
    d: int

    @property
    def n(self) -> int:
        """See Rows."""
        return len(self.rows)

    def block(self, low: int, high: int) -> Ring:
        """See Rows."""
        out = np.empty((self.n, high - low), np.uint64)
        for place, row in zip(out, self.rows, strict=True):
            place[:] = row[low:high]
        return out

"""Additive sharing of Z_2^64 vectors between two holders: a secret is mask + share.

The mask is a stream that follows from a 32-byte seed, so one holder keeps only the seed and makes
any block of columns again when it needs it; the other keeps the share. Either alone is uniform and
says nothing of the secret. Source: He, Karimireddy and Jaggi 2020, section 3, with seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from ostraka.algebra.ring import Map, Ring, add_products
from ostraka.crypto.prg import Key, Prg

_BLOCK_WORDS = 1 << 21  # 16 MiB: a block of all rows stays near the cache, and memory small
_PORTIONS = 8


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


Blocks = Iterator[tuple[int, int, Ring]]


class Rows(Protocol):
    """The n vectors (d,) that one party holds, block by block.

    ``map`` is what a kernel spreads its work with: the builtin one, or that of a pool of threads.
    """

    @property
    def n(self) -> int:
        """How many rows there are."""

    @property
    def d(self) -> int:
        """How long a row is."""

    @property
    def map(self) -> Map:
        """How work is spread."""

    def blocks(self) -> Blocks:
        """(low, high, columns low to high of all rows), in order and up to d.

        The columns are uint64 (n, high - low), C-contiguous and the caller's to change, until the
        next ones are asked for: their memory is used again.
        """


def by_rows(map: Map, work: Callable[..., None], *rows: Any) -> None:
    """Do some work on a few rows of each of these at a time, spread by ``map``.

    To hand a thread a single row costs as much as to fill it.
    """
    n = len(rows[0])
    parts = [slice(n * k // _PORTIONS, n * (k + 1) // _PORTIONS) for k in range(_PORTIONS)]
    list(map(partial(_portion, work, rows), parts))


def _portion(work: Callable[..., None], rows: Sequence[Any], part: slice) -> None:
    work(*(own[part] for own in rows))


def products_with(rows: Rows, public: Ring) -> Ring:
    """Products uint64 (n,) of all rows with one public row (d,)."""
    out = np.zeros((rows.n, 1), np.uint64)
    for low, high, block in rows.blocks():
        add_products(block, public[None, low:high], out, rows.map)
    return out[:, 0]


@dataclass(frozen=True)
class Masks:
    """Rows that follow from seeds."""

    seeds: Sequence[Key]
    d: int
    map: Map = map

    @property
    def n(self) -> int:
        """See Rows."""
        return len(self.seeds)

    def blocks(self) -> Blocks:
        """See Rows."""
        streams = [seed.stream() for seed in self.seeds]
        for low, high, block in _places(self.n, self.d):
            by_rows(self.map, _fill, streams, block)
            yield low, high, block


@dataclass(frozen=True)
class Shares:
    """Rows that arrived: one array (d,) for each."""

    rows: Sequence[Ring]
    d: int
    map: Map = map

    @property
    def n(self) -> int:
        """See Rows."""
        return len(self.rows)

    def blocks(self) -> Blocks:
        """See Rows."""
        for low, high, block in _places(self.n, self.d):
            by_rows(self.map, partial(_copy, low, high), self.rows, block)
            yield low, high, block


def _places(n: int, d: int) -> Blocks:
    """Every span with a place for its block, in one piece of memory."""
    memory = np.empty(n * min(d, block_width(n)), np.uint64)
    for low, high in spans(n, d):
        yield low, high, memory[: n * (high - low)].reshape(n, high - low)


def _fill(streams: Sequence[Prg], block: Ring) -> None:
    for stream, place in zip(streams, block, strict=True):
        stream.fill(place)


def _copy(low: int, high: int, rows: Sequence[Ring], block: Ring) -> None:
    for row, place in zip(rows, block, strict=True):
        place[:] = row[low:high]

"""Additive sharing of Z_2^64 vectors between two holders: a secret is mask + share.

The mask is a stream that follows from a 32-byte seed, so one holder keeps only the seed and makes
any block of columns again when it needs it; the other keeps the share. Either alone is uniform and
says nothing of the secret. Source: He, Karimireddy and Jaggi 2020, section 3, with seeds.

All work on shared rows goes block by block of columns. Streams are drawn one block after the other,
since a cipher call holds Python's lock; threads, where `Rows.map` has some, meanwhile work on those
before them in kernels, which hold no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np

from ostraka.algebra.ring import Ring, add_products
from ostraka.crypto.prg import Key, fill_rows

_BLOCK_WORDS = 1 << 20  # 8 MiB: near the cache, and long enough that calls do not count
T = TypeVar("T")


class Map(Protocol):
    """What the builtin `map` does with one iterable, possibly on several threads."""

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        """Give the function's results in the order of the items.

        Items are taken by the caller's thread, and only a few ahead of the results.
        """


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


class Memory:
    """Arrays that are used again: the system's fresh pages cost as much as filling them.

    Safe to use from several threads: taking from a list and giving back are one step each.
    """

    def __init__(self) -> None:
        self._free: list[Ring] = []

    def take(self, n: int, w: int) -> Ring:
        """Words (n, w) of any content, C-contiguous."""
        for _ in range(len(self._free)):
            try:
                words = self._free.pop()
            except IndexError:
                break
            if words.size >= n * w:
                return words[: n * w].reshape(n, w)
        return np.empty(n * w, np.uint64).reshape(n, w)

    def give(self, block: Ring) -> None:
        """Take back what ``take`` gave, which nobody reads any more."""
        assert block.base is not None
        self._free.append(block.base)


class Block(NamedTuple):
    """The columns low to high of some rows."""

    low: int
    high: int
    words: Callable[[], Ring]
    """Gives them, uint64 (n, high - low), C-contiguous, in memory that must be given back.

    To be called once, on any thread.
    """


class Rows(Protocol):
    """The n vectors (d,) that one party holds.

    ``map`` is how work on several blocks is spread: the builtin one, or that of a pool of threads.
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

    def blocks(self, memory: Memory) -> Iterator[Block]:
        """All columns in order."""

    def only(self, rows: Sequence[int]) -> Self:
        """Some of the rows, in this order."""


def by_blocks(rows: Rows, work: Callable[[int, int, Ring], T]) -> Iterable[T]:
    """Results of some work on every block of columns, in order: work(low, high, words).

    The words are the work's to change, until it returns.
    """
    memory = Memory()

    def worked(block: Block) -> T:
        words = block.words()
        try:
            return work(block.low, block.high, words)
        finally:
            memory.give(words)

    return rows.map(worked, rows.blocks(memory))


def products_with(rows: Rows, public: Ring) -> Ring:
    """Products uint64 (n,) of all rows with one public row (d,)."""

    def work(low: int, high: int, block: Ring) -> Ring:
        part = np.zeros((rows.n, 1), np.uint64)
        add_products(block, public[None, low:high], part)
        return part[:, 0]

    return total(by_blocks(rows, work), (rows.n,))


def total(parts: Iterable[Ring], shape: tuple[int, ...]) -> Ring:
    """The sum of arrays of words of one shape, mod 2^64."""
    out = np.zeros(shape, np.uint64)
    for part in parts:
        out += part
    return out


Change = Callable[[int, int, int, Ring], None]
"""Called with a row's number, its first column, the one behind its last, and its words."""


def _itself(words: Ring) -> Ring:
    return words


def _changed(change: Change, low: int, high: int, block: Ring, row: int) -> None:
    change(row, low, high, block[row])


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

    def blocks(self, memory: Memory, change: Change | None = None) -> Iterator[Block]:
        """See Rows. ``change`` may put other words in each row as soon as it is drawn."""
        streams = [seed.stream() for seed in self.seeds]
        for low, high in spans(self.n, self.d):
            block = memory.take(self.n, high - low)
            fill_rows(streams, block, change and partial(_changed, change, low, high, block))
            yield Block(low, high, partial(_itself, block))

    def only(self, rows: Sequence[int]) -> Masks:
        """See Rows."""
        return Masks([self.seeds[i] for i in rows], self.d, self.map)


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

    def blocks(self, memory: Memory) -> Iterator[Block]:
        """See Rows."""
        for low, high in spans(self.n, self.d):
            yield Block(low, high, partial(self._copied, low, high, memory))

    def _copied(self, low: int, high: int, memory: Memory) -> Ring:
        block = memory.take(self.n, high - low)
        for row, place in zip(self.rows, block, strict=True):
            place[:] = row[low:high]
        return block

    def only(self, rows: Sequence[int]) -> Shares:
        """See Rows."""
        return Shares([self.rows[i] for i in rows], self.d, self.map)

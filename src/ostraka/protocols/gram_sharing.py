"""A sharing of twice the Gram matrix, 2 X X^T, from shared rows, with one mask per worker.

Source: goes beyond the pairwise products of He, Karimireddy and Jaggi 2020, section 3.3, which cost
n (n - 1) d words each way. Here X = X0 + Y; server 0 and the dealer have the seeds of X0, server 1
has Y. With B from a key of server 1 and the dealer, server 1 sends F = Y - B, and the parallelogram
law on X and P = X0 - B gives each party one symmetric product of what it knows:

    server 0:  (X + P)(X + P)^T + R        X + P = 2 X0 + F
    server 1:  (X - P)(X - P)^T + words    X - P = Y + B
    dealer:    words = -2 P P^T - R        to server 1
                 sum = 2 X X^T

Twice, because 2 has no inverse mod 2^64: G is known mod 2^63, which is enough once the wraparound
check has refused norms of 2^63 and more.

Parties: two servers and a dealer, any one curious. Revealed: nothing; F is masked by B, the
dealer's words by R, symmetric, from a key of server 0 and the dealer. The dealer's words never go
to server 0. One vector per worker crosses the server link in one direction; the rest is O(n^2).
Blocks of columns travel in order, a batch at a time, so that memory stays O(n block).

Rules that need no cross terms have the diagonal alone: ``full`` is then False and all results (n,).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import numpy as np

from ostraka.algebra.ring import Ring, add_gram, add_squares
from ostraka.crypto.prg import Key
from ostraka.net import Net
from ostraka.sharing.additive import (
    Block,
    Masks,
    Memory,
    Rows,
    Shares,
    block_width,
    largest_block,
    spans,
    total,
)
from ostraka.wire import Array, Bool, Message, Tensor

BATCH = 8
"""Blocks that are worked on and acknowledged together: at least as many as threads."""
AHEAD = 1
"""Batches that server 1 may have sent while server 0 works on the one before them."""
BLOCK = ("block",)


@dataclass(frozen=True)
class MaskedBlock(Message):
    """Server 1 to server 0: columns of F."""

    words: Annotated[Array, Tensor("uint64", ("n", "w"))]


@dataclass(frozen=True)
class Taken(Message):
    """Server 0 to server 1: this block is done with, and all before it."""

    done: Bool


@dataclass(frozen=True)
class CrossTerms(Message):
    """Dealer to server 1: the upper triangle of -2 P P^T - R, or its diagonal."""

    words: Annotated[Array, Tensor("uint64", ("count",))]


async def gram_0(
    net: Net, server_1: str, masks: Masks, blinding: Key, full: bool, *, timeout_s: float
) -> Ring:
    """Server 0's share of 2 X X^T: uint64 (n, n), or (n,) of its diagonal."""
    share = _unpack(_blinding(blinding, masks.n, full), masks.n, full)
    memory = Memory()
    arrived: dict[int, Ring] = {}

    def sum_of(i: int, low: int, high: int, x: Ring) -> None:
        """2 X0 + F."""
        x += x
        x += arrived[low][i]

    sums = masks.blocks(memory, sum_of)
    for batch in _batches(masks):
        for number, (low, high) in batch:
            form = MaskedBlock.form(n=masks.n, w=high - low)
            at = net.sub(BLOCK[0], number)
            arrived[low] = (await at.recv(form, server_1, timeout_s=timeout_s)).words
        share += _own_products(masks, memory, islice(sums, len(batch)), full)
        arrived.clear()
        last = batch[-1][0]
        net.sub(BLOCK[0], last).send(server_1, Taken(True))
        net.window(BLOCK, (last + 1,))
    return share


async def gram_1(
    net: Net,
    server_0: str,
    dealer: str,
    shares: Shares,
    mask: Masks,
    full: bool,
    *,
    timeout_s: float,
) -> Ring:
    """Server 1's share of 2 X X^T: uint64 (n, n), or (n,) of its diagonal; ``mask`` makes B."""
    share = _empty(shares.n, full)
    memory = Memory()
    words = np.empty(largest_block(shares.n, shares.d), np.uint64)
    waiting: list[int] = []

    def masked(low: int, high: int) -> Ring:
        return words[: shares.n * (high - low)].reshape(shares.n, -1)

    def sum_of(i: int, low: int, high: int, b: Ring) -> None:
        """Y + B, and beside it F = Y - B."""
        y = shares.rows[i][low:high]
        np.subtract(y, b, out=masked(low, high)[i])
        b += y

    def sums(batch: Batch) -> Iterator[Block]:
        """The blocks of a batch, each once its F is on its way."""
        for (number, (low, high)), block in zip(batch, made, strict=False):  # more are to come
            net.sub(BLOCK[0], number).send(server_0, MaskedBlock(masked(low, high)))
            yield block

    made = mask.blocks(memory, sum_of)
    for batch in _batches(shares):
        share += _own_products(shares, memory, sums(batch), full)
        waiting.append(batch[-1][0])
        if len(waiting) > AHEAD:
            await _taken(net, server_0, waiting.pop(0), timeout_s)
    for number in waiting:
        await _taken(net, server_0, number, timeout_s)
    form = CrossTerms.form(count=_count(shares.n, full))
    dealt = await net.recv(form, dealer, timeout_s=timeout_s)
    return share + _unpack(dealt.words, shares.n, full)


def gram_dealer(
    net: Net, server_1: str, masks: Masks, mask: Masks, blinding: Key, full: bool
) -> None:
    """The dealer's part: -2 P P^T from both streams, minus R, to server 1."""
    memory = Memory()
    streams = [seed.stream() for seed in mask.seeds]
    drawn = np.empty(min(block_width(mask.n), mask.d), np.uint64)

    def difference(i: int, low: int, high: int, x: Ring) -> None:
        """X0 - B."""
        b = drawn[: high - low]
        streams[i].fill(b)
        x -= b

    own = _own_products(masks, memory, masks.blocks(memory, difference), full)
    words = np.negative(_pack(own + own, full)) - _blinding(blinding, masks.n, full)
    net.send(server_1, CrossTerms(words))


Batch = list[tuple[int, tuple[int, int]]]


def _batches(rows: Rows) -> Iterator[Batch]:
    """The number and the columns of every block, a batch at a time."""
    columns = enumerate(spans(rows.n, rows.d))
    while batch := list(islice(columns, BATCH)):
        yield batch


async def _taken(net: Net, server_0: str, number: int, timeout_s: float) -> None:
    """Wait until server 0 is done with a block and all before it, and forget them."""
    await net.sub(BLOCK[0], number).recv(Taken.form(), server_0, timeout_s=timeout_s)
    net.window(BLOCK, (number + 1,))


def _empty(n: int, full: bool) -> Ring:
    return np.zeros((n, n) if full else n, np.uint64)


def _own_products(rows: Rows, memory: Memory, blocks: Iterable[Block], full: bool) -> Ring:
    """The products of rows with one another, or of each with itself, over blocks of columns."""

    def work(block: Block) -> Ring:
        words, own = block.words(), _empty(rows.n, full)
        if full:
            add_gram(words, own)
        else:
            add_squares(words, own)
        memory.give(words)
        return own

    return total(rows.map(work, blocks), _empty(rows.n, full).shape)


def _count(n: int, full: bool) -> int:
    return n * (n + 1) // 2 if full else n


def _blinding(key: Key, n: int, full: bool) -> Ring:
    return key.stream().words(_count(n, full))


def _pack(square: Ring, full: bool) -> Ring:
    return square[np.triu_indices(len(square))] if full else square


def _unpack(words: Ring, n: int, full: bool) -> Ring:
    """A symmetric matrix from its upper triangle, or the diagonal as it is."""
    if not full:
        return words
    upper = np.zeros((n, n), np.uint64)
    upper[np.triu_indices(n)] = words
    return upper + np.triu(upper, 1).T

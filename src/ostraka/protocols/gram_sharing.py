"""A sharing of twice the Gram matrix, 2 X X^T, from shared rows, with one mask per worker.

Source: goes beyond the pairwise products of He, Karimireddy and Jaggi 2020, section 3.3, which cost
n (n - 1) d words each way. Here X = X0 + Y; server 0 and the dealer have the seeds of X0, server 1
has Y. With B from a key of server 1 and the dealer, server 1 sends F = B - Y, and the parallelogram
law on X and P = X0 - B gives each party one symmetric product of what it knows:

    server 0:  (X + P)(X + P)^T + R        X + P = 2 X0 - F
    server 1:  (X - P)(X - P)^T + words    X - P = 2 B - F
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

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import numpy as np

from ostraka.algebra.ring import Ring, add_gram, add_squares
from ostraka.crypto.prg import Key
from ostraka.net import Net
from ostraka.sharing.additive import Block, Masks, Memory, Rows, Shares, spans, total
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
    made = masks.blocks(memory)

    def work(both: tuple[Ring, Ring]) -> Ring:
        x, f = both
        return _own_products(x, f, 1, full, memory)

    for batch in _batches(masks):
        arrived = []
        for number, width in batch:
            form = MaskedBlock.form(n=masks.n, w=width)
            at = net.sub(BLOCK[0], number)
            arrived.append((await at.recv(form, server_1, timeout_s=timeout_s)).words)
        drawn = (x for _, _, x in islice(made, len(batch)))
        share += total(masks.map(work, zip(drawn, arrived, strict=True)), share.shape)
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
    made = mask.blocks(memory)
    waiting: list[int] = []

    def work(at: Block) -> tuple[Ring, Ring]:
        low, high, b = at
        f = memory.take(*b.shape)
        for row, masking, masked in zip(shares.rows, b, f, strict=True):
            np.subtract(masking, row[low:high], out=masked)
        return f, _own_products(b, f, 1, full, memory)

    for batch in _batches(shares):
        blocks = islice(made, len(batch))
        for (number, _), (f, own) in zip(batch, shares.map(work, blocks), strict=True):
            net.sub(BLOCK[0], number).send(server_0, MaskedBlock(f))
            memory.give(f)
            share += own
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

    def work(both: tuple[Block, Block]) -> Ring:
        (_, _, x), (_, _, b) = both
        own = _own_products(x, b, 0, full, memory)
        memory.give(b)
        return own

    blocks = zip(masks.blocks(memory), mask.blocks(memory), strict=True)
    own = total(masks.map(work, blocks), _empty(masks.n, full).shape)
    words = np.negative(_pack(own + own, full)) - _blinding(blinding, masks.n, full)
    net.send(server_1, CrossTerms(words))


def _batches(rows: Rows) -> Iterator[list[tuple[int, int]]]:
    """(number, width) of all blocks, a batch at a time."""
    widths = enumerate(high - low for low, high in spans(rows.n, rows.d))
    while batch := list(islice(widths, BATCH)):
        yield batch


async def _taken(net: Net, server_0: str, number: int, timeout_s: float) -> None:
    """Wait until server 0 is done with a block and all before it, and forget them."""
    await net.sub(BLOCK[0], number).recv(Taken.form(), server_0, timeout_s=timeout_s)
    net.window(BLOCK, (number + 1,))


def _empty(n: int, full: bool) -> Ring:
    return np.zeros((n, n) if full else n, np.uint64)


def _own_products(a: Ring, b: Ring, shift: int, full: bool, memory: Memory) -> Ring:
    """The products of the rows of 2^shift a - b with one another, or of each with itself.

    The block ``a`` is given back to the memory.
    """
    own = _empty(len(a), full)
    if full:
        add_gram(a, own, b, shift)
    else:
        a <<= np.uint64(shift)
        a -= b
        add_squares(a, own)
    memory.give(a)
    return own


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

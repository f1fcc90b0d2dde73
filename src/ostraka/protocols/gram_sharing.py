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
Blocks of columns travel in order, a few at a time, so that memory stays O(n block).

Rules that need no cross terms have the diagonal alone: ``full`` is then False and all results (n,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ostraka.algebra.ring import Map, Ring, add_gram, add_squares
from ostraka.crypto.prg import Key
from ostraka.net import Net
from ostraka.sharing.additive import Masks, Rows, by_rows
from ostraka.wire import Array, Bool, Message, Tensor

AHEAD = 3
"""Blocks that server 1 may have sent before server 0 has worked on them."""
BLOCK = ("block",)


@dataclass(frozen=True)
class MaskedBlock(Message):
    """Server 1 to server 0: columns of F."""

    words: Annotated[Array, Tensor("uint64", ("n", "w"))]


@dataclass(frozen=True)
class Taken(Message):
    """Server 0 to server 1: this block is done with."""

    done: Bool


@dataclass(frozen=True)
class CrossTerms(Message):
    """Dealer to server 1: the upper triangle of -2 P P^T - R, or its diagonal."""

    words: Annotated[Array, Tensor("uint64", ("count",))]


async def gram_0(
    net: Net, server_1: str, masks: Masks, blinding: Key, full: bool, *, timeout_s: float
) -> Ring:
    """Server 0's share of 2 X X^T: uint64 (n, n), or (n,) of its diagonal."""
    share = _empty(masks.n, full)
    for number, (low, high, block) in enumerate(masks.blocks()):
        at = net.sub(BLOCK[0], number)
        form = MaskedBlock.form(n=masks.n, w=high - low)
        f = (await at.recv(form, server_1, timeout_s=timeout_s)).words
        by_rows(masks.map, _twice_and, block, f)
        del f
        at.send(server_1, Taken(True))
        net.window(BLOCK, (number + 1,))
        _add_own(block, share, masks.map)
    return share + _unpack(_blinding(blinding, masks.n, full), masks.n, full)


async def gram_1(
    net: Net, server_0: str, dealer: str, shares: Rows, mask: Masks, full: bool, *, timeout_s: float
) -> Ring:
    """Server 1's share of 2 X X^T: uint64 (n, n), or (n,) of its diagonal; ``mask`` makes B."""
    n, number = shares.n, -1
    share = _empty(n, full)
    for number, (held, masking) in enumerate(zip(shares.blocks(), mask.blocks(), strict=True)):
        y, f = held[2], masking[2]
        by_rows(shares.map, _sum_and_difference, y, f)
        if number >= AHEAD:
            await _taken(net, server_0, number - AHEAD, timeout_s)
        net.sub(BLOCK[0], number).send(server_0, MaskedBlock(f))
        _add_own(y, share, shares.map)
    for last in range(max(0, number - AHEAD + 1), number + 1):
        await _taken(net, server_0, last, timeout_s)
    form = CrossTerms.form(count=_count(n, full))
    dealt = await net.recv(form, dealer, timeout_s=timeout_s)
    return share + _unpack(dealt.words, n, full)


def gram_dealer(
    net: Net, server_1: str, masks: Masks, mask: Masks, blinding: Key, full: bool
) -> None:
    """The dealer's part: -2 P P^T from both streams, minus R, to server 1."""
    own = _empty(masks.n, full)
    for (_, _, x), (_, _, b) in zip(masks.blocks(), mask.blocks(), strict=True):
        by_rows(masks.map, _minus, x, b)
        _add_own(x, own, masks.map)
    words = np.negative(_pack(own + own, full)) - _blinding(blinding, masks.n, full)
    net.send(server_1, CrossTerms(words))


async def _taken(net: Net, server_0: str, number: int, timeout_s: float) -> None:
    """Wait until server 0 is done with a block, and forget all up to it."""
    await net.sub(BLOCK[0], number).recv(Taken.form(), server_0, timeout_s=timeout_s)
    net.window(BLOCK, (number + 1,))


def _twice_and(x: Ring, f: Ring) -> None:
    """2 X0 + F in the place of X0."""
    x += x
    x += f


def _sum_and_difference(y: Ring, b: Ring) -> None:
    """Y + B in the place of Y, and F = Y - B in that of B."""
    y += b
    b += b
    np.subtract(y, b, out=b)


def _minus(x: Ring, b: Ring) -> None:
    """X0 - B in the place of X0."""
    x -= b


def _empty(n: int, full: bool) -> Ring:
    return np.zeros((n, n) if full else n, np.uint64)


def _add_own(block: Ring, share: Ring, map: Map) -> None:
    """Add a block's products of rows with one another, or of each row with itself."""
    if share.ndim == 2:
        add_gram(block, share, map)
    else:
        add_squares(block, share)


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

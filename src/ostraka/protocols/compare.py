"""Comparison of shared integers with a dealer: is every number of a row in [0, 2^63)?

Source: the adder of Kogge and Stone 1973 on XOR-shared bits with the multiplication triples of
Beaver 1991. Parties: two servers and a dealer, any one of them curious. Guarantee: both servers
learn for each row one bit, whether all its numbers, shared additively in Z_2^64, have a top bit of
0. Revealed: that bit, nothing else.
Everything is done on whole words of 64 bits, all numbers at once: a row of k numbers costs 12 k +
ceil(k/64) + 5 words of triples or fewer, in 1 + 6 + ceil(log2(k/64)) + 6 rounds and the opening.

v >= 0 and M - v >= 0 (read as signed numbers) together say exactly that 0 <= v <= M, for any v.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.net import Abort, Net
from ostraka.protocols.exchange import swap
from ostraka.wire import Array, Message, Tensor

_SHIFTS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Correction(Message):
    """Dealer to server 1: its share of the products of all triples."""

    words: Annotated[Array, Tensor("uint64", ("count",))]


@dataclass(frozen=True)
class Masked(Message):
    """Server to server: shares of the masked operands of one layer of ANDs."""

    words: Annotated[Array, Tensor("uint64", (2, "count"))]


@dataclass(frozen=True)
class Verdict(Message):
    """Server to server: shares of one bit per row."""

    bits: Annotated[Array, Tensor("uint8", ("rows",))]


@dataclass
class Triples:
    """One server's shares of random words a, b and a & b, each used once."""

    a: Ring
    b: Ring
    c: Ring
    _used: int = field(default=0)

    def take(self, count: int) -> tuple[Ring, Ring, Ring]:
        """The next ``count`` triples. ValueError when the dealer was asked for too few."""
        start, self._used = self._used, self._used + count
        if self._used > len(self.a):
            raise ValueError(f"{self._used} triples are needed, {len(self.a)} were dealt")
        span = slice(start, self._used)
        return self.a[span], self.b[span], self.c[span]


def triples_needed(rows: int, tests: int) -> int:
    """Words of triples that ``non_negative`` uses for so many rows of so many numbers."""
    adder = rows * tests * 2 * len(_SHIFTS)
    return adder + rows * (sum(_halves(tests)) + len(_SHIFTS))


def deal(net: Net, server_1: str, key_0: Key, key_1: Key, count: int) -> None:
    """The dealer: both servers expand their keys, server 1 is sent what makes products of them."""
    (a_0, b_0, c_0), (a_1, b_1) = _expand(key_0, 3, count), _expand(key_1, 2, count)
    net.send(server_1, Correction(((a_0 ^ a_1) & (b_0 ^ b_1)) ^ c_0))


def triples_0(key: Key, count: int) -> Triples:
    """Server 0's triples, from the key that it shares with the dealer."""
    a, b, c = _expand(key, 3, count)
    return Triples(a, b, c)


async def triples_1(net: Net, dealer: str, key: Key, count: int, *, timeout_s: float) -> Triples:
    """Server 1's triples, from the key that it shares with the dealer and the dealer's message."""
    a, b = _expand(key, 2, count)
    correction = await net.recv(Correction.form(count=count), dealer, timeout_s=timeout_s)
    return Triples(a, b, correction.words)


async def non_negative(
    net: Net, side: int, peer: str, shares: Ring, triples: Triples, *, timeout_s: float
) -> npt.NDArray[np.bool_]:
    """One bit per row, bool (rows,): whether all its numbers lie in [0, 2^63).

    ``shares`` uint64 (rows, tests) are this server's additive shares; ``side`` is 0 or 1.
    """
    rows, tests = shares.shape
    gates = _Gates(net, side, peer, triples, timeout_s)

    # 1. The two additive shares are the operands of an adder: p = a xor b, g = a and b.
    p = shares.reshape(-1)
    nothing = np.zeros_like(p)
    g = await gates.conjunction(0, *((p, nothing) if side == 0 else (nothing, p)))

    # 2. Kogge-Stone: after the last step bit i of g is the carry out of bits 0 to i.
    top = p >> np.uint64(63)
    for step, shift in enumerate(_SHIFTS[:-1], start=1):
        moved = np.uint64(shift)
        both = await gates.conjunction(step, np.stack([p, p]), np.stack([g << moved, p << moved]))
        g, p = g ^ both[0], both[1]
    g = g ^ await gates.conjunction(len(_SHIFTS), p, g << np.uint64(_SHIFTS[-1]))
    negative = top ^ ((g >> np.uint64(62)) & np.uint64(1))

    # 3. A row is good when no number is negative: fold all bits of a row into one.
    good = (negative ^ np.uint64(1 - side)).reshape(rows, tests).astype(np.uint8)
    bits = await _fold(gates, good, side)

    # 4. Open one bit per row. The other bits of the words hold parts of the fold: they stay.
    return await open_bits(net, peer, (bits & np.uint64(1)).astype(np.uint8), timeout_s)


async def open_bits(
    net: Net, peer: str, shares: npt.NDArray[np.uint8], timeout_s: float
) -> npt.NDArray[np.bool_]:
    """Open XOR-shared bits to both servers: uint8 (rows,) of 0 and 1 to bool (rows,)."""
    theirs = await swap(net, peer, Verdict(shares), Verdict.form(rows=len(shares)), timeout_s)
    if theirs.bits.max(initial=0) > 1:
        raise Abort(f"{peer} sent a bit above 1")
    return (shares ^ theirs.bits).astype(bool)


async def _fold(gates: _Gates, good: npt.NDArray[np.uint8], side: int) -> Ring:
    """AND of each row's bits, shares uint64 (rows,), in bit 0."""
    rows, tests = good.shape
    # Padding is the shared bit 1, which changes no AND.
    full = np.full((rows, -(-tests // 64) * 64), 1 - side, np.uint8)
    full[:, :tests] = good
    words = np.packbits(full, axis=1, bitorder="little").view(np.uint64)
    step = len(_SHIFTS) + 1
    for half in _halves(tests):
        met = await gates.conjunction(step, words[:, :half], words[:, half : 2 * half])
        words = np.concatenate([met, words[:, 2 * half :]], axis=1)
        step += 1
    column = words[:, 0]
    for shift in reversed(_SHIFTS):
        column = await gates.conjunction(step, column, column >> np.uint64(shift))
        step += 1
    return column


def _halves(tests: int) -> Iterator[int]:
    """How many pairs of words each layer folds until one word is left."""
    words = -(-tests // 64)
    while words > 1:
        yield words // 2
        words -= words // 2


@dataclass
class _Gates:
    """AND of XOR-shared words, one exchange for a whole layer."""

    net: Net
    side: int
    peer: str
    triples: Triples
    timeout_s: float

    async def conjunction(self, step: int, x: Ring, y: Ring) -> Ring:
        """Shares of x & y: (d ^ a) & (e ^ b) with d = x ^ a and e = y ^ b opened."""
        shape, count = x.shape, x.size
        a, b, c = self.triples.take(count)
        own = np.stack([x.reshape(-1) ^ a, y.reshape(-1) ^ b])

        net = self.net.sub("and", step)
        theirs = await swap(net, self.peer, Masked(own), Masked.form(count=count), self.timeout_s)

        d, e = own ^ theirs.words
        product = c ^ (d & b) ^ (e & a)
        if self.side == 0:
            product ^= d & e
        given: Ring = product.reshape(shape)
        return given


def _expand(key: Key, parts: int, count: int) -> tuple[Ring, ...]:
    words = key.stream().words(parts * count)
    return tuple(words.reshape(parts, count))

"""Opening the aggregate of shared rows, once and never again, rounded when weights are unequal.

Source: He, Karimireddy and Jaggi 2020, section 3.2, last step, which opens p^T X exactly. That is
not safe: the low bits of a sum with 24-bit weights, or a knapsack over unequal ones, give single
rows. So server 1 adds a uniform dither and server 0 keeps the bits above it (two-server page, step
7). Equal weights are sent as 1; their sum is opened exactly.

Parties: two servers. Revealed: the weights to server 0, p^T X + dither to server 0, the rounded
aggregate to both. This is a commit point: server 0 stores its part and says so; then server 1
stores the very words that it will send, and sends them. After that nobody opens another sum of this
round, whatever crashes: two sums over different sets differ by one row. Each server stores by a
callback, which returns when its argument is durable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ostraka.algebra.ring import Ring, add_weighted
from ostraka.crypto.prg import Key
from ostraka.net import Net
from ostraka.sharing.additive import Rows, by_blocks
from ostraka.wire import Array, Bool, Index, Message, Tensor


@dataclass(frozen=True)
class Weights(Message):
    """Server 1 to server 0: integer weights of the surviving rows; see rules.integer_weights.

    ``enough``: False when too few rows would cover for one another: the round ends, unopened.
    """

    values: Annotated[Array, Tensor("int64", ("n",))]
    count: Index
    capped: Bool
    enough: Bool


@dataclass(frozen=True)
class Prepared(Message):
    """Server 0 to server 1: my part is stored."""

    stored: Bool


@dataclass(frozen=True)
class Words(Message):
    """Server 1 to server 0: p^T Y, with the dither in it."""

    words: Annotated[Array, Tensor("uint64", ("d",))]


@dataclass(frozen=True)
class Rounded(Message):
    """Server 0 to server 1: the aggregate that both go on from."""

    words: Annotated[Array, Tensor("int64", ("d",))]


async def prepare_0(
    net: Net,
    server_1: str,
    rows: Rows,
    survivors: list[int],
    check: Callable[[Weights], None],
    store: Callable[[Weights, Ring], None],
    *,
    timeout_s: float,
) -> tuple[Weights, Ring] | None:
    """Server 0, until the commit point: the weights, and its own p^T X0, which is stored.

    ``check`` raises Abort for weights that cannot be. None when server 1 ends the round, because
    too few rows would cover for one another.
    """
    form = Weights.form(n=len(survivors))
    weights = await net.recv(form, server_1, timeout_s=timeout_s)
    if not weights.enough:
        return None
    check(weights)
    own = combined(rows, survivors, weights.values)

    store(weights, own)
    net.send(server_1, Prepared(True))
    return weights, own


def refuse_1(net: Net, server_0: str, n: int) -> None:
    """Server 1: tell server 0 that this round opens no aggregate."""
    net.send(server_0, Weights(np.zeros(n, np.int64), 0, False, False))


async def commit_1(
    net: Net,
    server_0: str,
    rows: Rows,
    survivors: list[int],
    weights: Weights,
    dither: tuple[Key, int] | None,
    store: Callable[[Ring], None],
    *,
    timeout_s: float,
) -> Ring:
    """Server 1, up to its words, which it gives.

    ``dither``: a fresh key and s, or None for equal weights.
    """
    net.send(server_0, weights)
    words = combined(rows, survivors, weights.values)
    if dither is not None:
        words += dither_words(*dither, rows.d)

    await net.recv(Prepared.form(), server_0, timeout_s=timeout_s)
    store(words)
    net.send(server_0, Words(words))
    return words


async def open_sum_0(net: Net, server_1: str, own: Ring, *, timeout_s: float) -> Ring:
    """Server 0: p^T X with the dither in it, uint64 (d,); only its high bits may be used."""
    theirs = await net.recv(Words.form(d=len(own)), server_1, timeout_s=timeout_s)
    return own + theirs.words


def send_aggregate_0(net: Net, server_1: str, aggregate: np.ndarray) -> None:
    """Server 0: the rounded aggregate, int64 (d,), to server 1."""
    net.send(server_1, Rounded(aggregate))


async def take_aggregate_1(net: Net, server_0: str, d: int, *, timeout_s: float) -> np.ndarray:
    """Server 1: the rounded aggregate as server 0 sends it, int64 (d,)."""
    message = await net.recv(Rounded.form(d=d), server_0, timeout_s=timeout_s)
    return message.words


def combined(rows: Rows, survivors: list[int], values: np.ndarray) -> Ring:
    """Integer combination of the surviving rows: uint64 (d,)."""
    used = np.flatnonzero(values)
    weights = values[used]
    out = np.zeros(rows.d, np.uint64)

    def work(low: int, high: int, block: Ring) -> None:
        add_weighted(weights, block, out[low:high])

    for _ in by_blocks(rows.only([survivors[i] for i in used]), work):
        pass
    return out


def dither_words(key: Key, bits: int, d: int) -> Ring:
    """Uniform integers in [-2^(bits-1), 2^(bits-1)), uint64 (d,)."""
    low = key.stream().words(d) >> np.uint64(64 - bits)
    low -= np.uint64(1 << (bits - 1))
    return low

"""The baseline of two_server_round.py: squared distances by one Beaver triple for every pair.

Source: He, Karimireddy and Jaggi 2020, section 3.3, with the triples of Beaver 1991. Rows are
shared additively between two servers. For every pair i < j the servers hold shares of the
difference D = x_i - x_j and of a dealt triple of vectors u, v and c = <u, v>. They open D - u and
D - v, 2 d words a pair and n (n - 1) d words in each direction, and have shares of

    <D, D> = <D - u, D - v> + <D - u, v> + <u, D - v> + c.

It gets the same ring kernels, generator, messages and network as ours, and a dealer that deals
seeds and one word a pair. Neither side makes checks here: the two are compared at what they are
for, distances of shared rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any

import numpy as np

from in_memory import Clock, LinkCounter, key, simulate
from ostraka.algebra.ring import Ring, add_dots
from ostraka.crypto.prg import Key, Prg
from ostraka.net import Net
from ostraka.protocols.compare import Correction
from ostraka.protocols.exchange import swap
from ostraka.protocols.gram_sharing import gram_0, gram_1, gram_dealer
from ostraka.protocols.linear_image import Image, open_image, send_image
from ostraka.sharing.additive import Masks, Memory, Rows, Shares, hide, spans
from ostraka.wire import Array, Message, Tensor

PATIENCE_S = 600.0
DISTANCES = Image(distances=True, norms=False, products=False)


@dataclass(frozen=True)
class MaskedPairs(Message):
    """Server to server: shares of D - u and D - v, some columns of row i with all later rows."""

    words: Annotated[Array, Tensor("uint64", (2, "pairs", "w"))]


@dataclass(frozen=True)
class Distances(Message):
    """Server 0 to server 1: its shares of the squared distances."""

    words: Annotated[Array, Tensor("uint64", ("pairs",))]


# --- the protocol ---------------------------------------------------------------------------


async def server(net: Net, side: int, rows: Rows, triples: Key) -> np.ndarray | None:
    """One server's life; server 1 gives the squared distances int64 (pairs,), i < j in order."""
    peer, stream = f"server-{1 - side}", triples.stream()
    total = np.zeros(rows.n * (rows.n - 1) // 2, np.uint64)
    step, memory = 0, Memory()
    for low, high, words in rows.blocks(memory):
        block = words()
        for i, pairs in later_rows(rows.n):
            u, v = take(stream, (2, rows.n - 1 - i, high - low))
            difference = block[i] - block[i + 1 :]
            own = np.stack([difference - u, difference - v])

            form = MaskedPairs.form(pairs=len(u), w=high - low)
            theirs = await swap(net.sub("step", step), peer, MaskedPairs(own), form, PATIENCE_S)

            own += theirs.words
            if side == 0:
                v += own[1]  # <D - u, D - v> is added by one of the two
            add_dots(own[0], v, total[pairs])
            add_dots(u, own[1], total[pairs])
            step += 1
            net.window(("step",), (step,))
        memory.give(block)

    if side == 0:
        total += triples.derive("products").stream().words(len(total))
        net.send(peer, Distances(total))
        return None
    dealt = Correction.form(count=len(total))
    total += (await net.recv(dealt, "dealer", timeout_s=PATIENCE_S)).words
    answer = await net.recv(Distances.form(pairs=len(total)), peer, timeout_s=PATIENCE_S)
    return (total + answer.words).view(np.int64)


async def dealer(net: Net, n: int, d: int, key_0: Key, key_1: Key) -> None:
    """Makes both servers' shares of u and v again, and tells server 1 its share of <u, v>."""
    first, second = key_0.stream(), key_1.stream()
    products = np.zeros(n * (n - 1) // 2, np.uint64)
    for low, high in spans(n, d):
        for i, pairs in later_rows(n):
            shape = (2, n - 1 - i, high - low)
            u, v = take(first, shape) + take(second, shape)
            add_dots(u, v, products[pairs])
    own = key_0.derive("products").stream().words(len(products))
    net.send("server-1", Correction(products - own))


def later_rows(n: int) -> Iterator[tuple[int, slice]]:
    """Every row i that has later rows, and where its pairs with all of these stand."""
    start = 0
    for i in range(n - 1):
        yield i, slice(start, start + n - 1 - i)
        start += n - 1 - i


def take(stream: Prg, shape: tuple[int, ...]) -> Ring:
    """The next words of a stream in this shape."""
    out = np.empty(shape, np.uint64)
    stream.fill(out)
    return out


# --- the comparison -------------------------------------------------------------------------


def compare(n: int, d: int, clock: Clock, times: int = 3) -> dict[str, Any]:
    """Bytes between the servers and seconds of all parties, of the paper's scheme and of ours."""
    masks, shares, expected = shared_rows(n, d)
    schemes = {
        "pairwise triples": pairwise_programs(masks, shares),
        "ours": our_programs(masks, shares),
    }
    found: dict[str, Any] = {"n": n, "d": d}
    for name, programs in schemes.items():
        seconds = []
        for _ in range(times + 1):  # the first run compiles
            counter, start = LinkCounter(), clock()
            distances = simulate(programs, counter)["server-1"]
            seconds.append(clock() - start)
            assert np.array_equal(distances, expected), f"{name}: wrong distances"
        found[name] = {
            "seconds": round(median(seconds[1:]), 4),
            "bytes_0_to_1": counter.link("server-0", "server-1"),
            "bytes_1_to_0": counter.link("server-1", "server-0"),
            "bytes_of_dealer": counter.link("dealer", "server-1"),
        }
    return {**found, **ratios(n, d, found)}


def ratios(n: int, d: int, found: dict[str, Any]) -> dict[str, float]:
    """The paper's scheme to ours; AssertionError unless bytes are the closed forms and headers."""
    pairs, ours = found["pairwise triples"], found["ours"]
    vectors = 8 * n * (n - 1) * d
    for direction in ("bytes_0_to_1", "bytes_1_to_0"):
        assert 0 <= pairs[direction] - vectors <= vectors // 100, "not n (n - 1) d words"
    assert 0 <= ours["bytes_1_to_0"] - 8 * n * d <= 64 * (n + d // 1024), "not n d words"
    assert ours["bytes_0_to_1"] <= 8 * n * n + 64 * (n + d // 1024), "not O(n^2) words"
    both = [side["bytes_0_to_1"] + side["bytes_1_to_0"] for side in (pairs, ours)]
    return {
        "bytes_ratio": round(both[0] / both[1], 1),
        "seconds_ratio": round(pairs["seconds"] / ours["seconds"], 1),
    }


def shared_rows(n: int, d: int) -> tuple[Masks, Shares, np.ndarray]:
    """Small random rows shared between the servers, and their true squared distances."""
    rng = np.random.default_rng(0)
    rows = rng.integers(-(1 << 15), 1 << 15, (n, d))
    masks = Masks([key("row", i) for i in range(n)], d)
    shares = [hide(row.view(np.uint64), seed) for row, seed in zip(rows, masks.seeds, strict=True)]
    differences = (rows[i] - rows[j] for i, j in zip(*np.triu_indices(n, 1), strict=True))
    expected = np.array([np.dot(one, one) for one in differences])
    return masks, Shares(shares, d), expected


def pairwise_programs(masks: Masks, shares: Shares) -> dict[str, Any]:
    keys = key("triples 0"), key("triples 1")
    return {
        "server-0": lambda net: server(net, 0, masks, keys[0]),
        "server-1": lambda net: server(net, 1, shares, keys[1]),
        "dealer": lambda net: dealer(net, masks.n, masks.d, *keys),
    }


def our_programs(masks: Masks, shares: Shares) -> dict[str, Any]:
    n, blinding = masks.n, key("blinding")
    mask = Masks([key("gram mask", i) for i in range(n)], masks.d)

    async def server_0(net: Net) -> None:
        gram = await gram_0(net, "server-1", masks, blinding, True, timeout_s=PATIENCE_S)
        send_image(net, "server-1", DISTANCES.of(gram, None, list(range(n))))

    async def server_1(net: Net) -> np.ndarray:
        gram = await gram_1(net, "server-0", "dealer", shares, mask, True, timeout_s=PATIENCE_S)
        share = DISTANCES.of(gram, None, list(range(n)))
        opened = await open_image(net, "server-0", DISTANCES, share, n, timeout_s=PATIENCE_S)
        assert opened.distances is not None
        distances: np.ndarray = opened.distances[np.triu_indices(n, 1)]
        return distances

    async def deal(net: Net) -> None:
        gram_dealer(net, "server-1", masks, mask, blinding, True)

    return {"server-0": server_0, "server-1": server_1, "dealer": deal}

"""Wraparound check: no coordinate of a shared vector is so large that its square wraps in Z_2^64.

Source: in the manner of PINE (Rothblum, Omri, Chen and Talwar 2024, section 4), with a dealer's
comparisons in place of proofs. Parties: two servers and a dealer, any one curious; workers send
anything. Guarantee: after the uploads are fixed the servers toss a coin for K vectors r_k with
entries -1, 0, 1 of probabilities 1/4, 1/2, 1/4, and test |<x, r_k>| <= T, T about
8 bound 2^frac_bits and at most 2^29 (algebra.fixed). An honest x fails one test with probability at
most 2 exp(-64). An x whose norm wraps passes one with probability at most 1/2, so all K with 2^-K:
docs/trust/two-server.md has the proof. Revealed: one bit per worker. It kills the attack of 2^63 on
a coordinate, which leaves every distance as it was, and that of 2^32, whose square is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ostraka.algebra.ring import Ring, add_signed, sign_words
from ostraka.crypto.prg import Key
from ostraka.net import Net
from ostraka.protocols.coin import toss
from ostraka.protocols.compare import Triples, non_negative, triples_needed
from ostraka.sharing.additive import Block, Memory, Rows, total

LEAST_PROJECTIONS = 100
SAFETY_BITS = 40


def projections(n: int, rounds: int) -> int:
    """K: at least 100, and so many that a cheater passes in a whole run with at most 2^-40.

    ``rounds`` counts attempts too. Union bound over n workers and all rounds.
    """
    chances = math.ceil(math.log2(max(1, n * rounds)))
    return max(LEAST_PROJECTIONS, SAFETY_BITS + chances)


def wrap_triples(n: int, k: int) -> int:
    """Words of triples that the check of n vectors uses."""
    return triples_needed(n, 2 * k)


async def within_reach(
    net: Net,
    side: int,
    peer: str,
    rows: Rows,
    limit: int,
    k: int,
    own: Key,
    triples: Triples,
    *,
    timeout_s: float,
) -> npt.NDArray[np.bool_]:
    """One bit per vector, bool (n,): whether all its projections are within ``limit`` = T.

    ``rows`` are this server's shares; ``own`` is its fresh part of the coin.
    """
    # 1. The coin, after the uploads are fixed.
    coin = await toss(net.sub("coin"), peer, own, timeout_s=timeout_s)

    # 2. Projections are linear: each server takes those of its own shares.
    y = project(rows, coin, k)

    # 3. |y| <= T exactly when y + T and T - y are both in [0, 2^63).
    tests = two_sided(y, side, -limit, limit)
    return await non_negative(net, side, peer, tests, triples, timeout_s=timeout_s)


def project(rows: Rows, coin: Key, k: int) -> Ring:
    """Products (n, k) of all rows with the k public vectors that follow from the coin."""

    memory = Memory()

    def drawn() -> Iterator[tuple[Block, Ring]]:
        for block in rows.blocks(memory):
            signs = np.empty((k, sign_words(block.high - block.low)), np.uint64)
            coin.derive("projections", block.low).stream().fill(signs)
            yield block, signs

    def work(both: tuple[Block, Ring]) -> Ring:
        words, part = both[0].words(), np.zeros((rows.n, k), np.uint64)
        add_signed(words, both[1], part)
        memory.give(words)
        return part

    return total(rows.map(work, drawn()), (rows.n, k))


def two_sided(shares: Ring, side: int, low: int, high: int) -> Ring:
    """Shares (n, 2 k) that are all non-negative exactly when low <= value <= high, from (n, k).

    Side 0 adds the public bounds. ``high - low`` must be below 2^63.
    """
    above, below = shares.copy(), np.negative(shares)
    if side == 0:
        above -= np.uint64(low % (1 << 64))
        below += np.uint64(high % (1 << 64))
    return np.concatenate([above, below], axis=1)

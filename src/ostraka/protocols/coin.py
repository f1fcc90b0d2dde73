"""A coin that two parties toss together: neither can choose it, both know it.

Source: Blum 1983, coin flipping by telephone, with a hash as commitment. Parties: two, of whom one
may be curious; a party that sees the other's value first may refuse to go on, which ends the round
and opens nothing. Guarantee: 32 bytes, uniform if either party draws its part uniformly. Revealed:
the coin. Two rounds of 32 bytes each way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ostraka.crypto.prg import Key
from ostraka.crypto.transcript import digest
from ostraka.net import Abort, Net
from ostraka.protocols.exchange import swap
from ostraka.wire import Exactly, Message


@dataclass(frozen=True)
class Commitment(Message):
    """To my part of the coin."""

    digest: Annotated[bytes, Exactly(32)]


@dataclass(frozen=True)
class Reveal(Message):
    """My part of the coin."""

    part: Annotated[bytes, Exactly(32)]


async def toss(net: Net, peer: str, own: Key, *, timeout_s: float) -> Key:
    """The coin as a key for public streams; ``own`` is this party's fresh part.

    Abort when the peer's part is not what it committed to.
    """
    part = own.reveal()

    # 1. Commit. The name in the digest keeps a peer from sending our own commitment back.
    theirs = await swap(
        net, peer, Commitment(_committed(net.me, part)), Commitment.form(), timeout_s
    )

    # 2. Reveal.
    revealed = await swap(net, peer, Reveal(part), Reveal.form(), timeout_s)
    if _committed(peer, revealed.part) != theirs.digest:
        raise Abort(f"{peer} revealed another coin than it had committed to")

    first, second = sorted([(net.me, part), (peer, revealed.part)])
    return Key(digest("coin", first[1], second[1]))


def _committed(name: str, part: bytes) -> bytes:
    return digest("coin commitment", name.encode(), part)

"""A coin of many: nobody knows it before the reveals, nobody chooses it, all end with the same.

Source: step 3 of the serverless design; commitments as in Blum 1983. Parties: dealers, each of whom
has committed to a part in its header, up to t of whom lie and see all other parts first. Guarantee:
32 bytes that are fixed by the agreed set of reveals. Whoever withholds its part chooses between two
coins, so t liars and ``dropouts`` more choose among 2^(t + dropouts): callers have those bits to
spare. Revealed: the parts and the coin. One message of 32 bytes from everybody to everybody, and an
agreement. A part is revealed only once what it is to be drawn after is agreed on.
"""

from __future__ import annotations

from collections.abc import Mapping

from ostraka.crypto.prg import KEY_BYTES, Key
from ostraka.protocols.board import UNSIGNED, Entry, Topic
from ostraka.protocols.entry_set import EntrySet
from ostraka.protocols.scene import Assembly, Scene
from ostraka.protocols.waiting import gather


def committed(scene: Scene, number: int, dealer: str, part: Key) -> bytes:
    """A dealer's commitment (32 bytes) to its part of coin ``number``."""
    return scene.stated(f"coin {number}", dealer.encode(), part.reveal())


async def toss(
    assembly: Assembly, name: str, number: int, commitments: Mapping[str, bytes], own: Key | None
) -> Key:
    """Coin ``number``, from what dealers have committed to; ``own``: this peer's part, if any.

    ``name``: of the agreement on the reveals.
    """
    scene, owners = assembly.scene, tuple(commitments)

    def sound(owner: str, body: bytes) -> bool:
        if len(body) != KEY_BYTES:
            return False
        return committed(scene, number, owner, Key(body)) == commitments[owner]

    board = assembly.board(name, [Topic("", KEY_BYTES, owners, sound)])
    if own is not None:
        board.publish(0, Entry(own.reveal(), UNSIGNED))
    await gather(assembly, name, board, owners)
    subject = EntrySet(board, owners, scene.least)
    decision = await assembly.decide(name, subject)
    parts = subject.entries(decision.value)
    return Key(scene.stated("coin", decision.value, *(part.body for part in parts.values())))

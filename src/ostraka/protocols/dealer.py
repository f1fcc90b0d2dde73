"""A dealer's own side of dealing.py: what it deals, and its answers to complaints."""

from __future__ import annotations

import numpy as np

from ostraka.crypto.seal import seal
from ostraka.crypto.transcript import digest
from ostraka.protocols.board import DIGEST_BYTES
from ostraka.protocols.dealing_messages import (
    FIRST,
    Header,
    Own,
    Setting,
    box_use,
    octets,
    plain_digest,
)
from ostraka.protocols.scene import Assembly


class Dealer:
    """What this peer deals in one message."""

    def __init__(self, assembly: Assembly, setting: Setting, own: Own) -> None:
        self._scene, self._setting, self._own = assembly.scene, setting, own
        self._me = assembly.net.me
        self._place = {name: at for at, name in enumerate(assembly.scene.names)}

    def deal(self) -> tuple[Header, dict[str, bytes], bytes]:
        """The header, every other member's box, and what this peer deals itself."""
        n, name = len(self._place), self._setting.name
        boxes, plains = (np.zeros((n, DIGEST_BYTES), np.uint8) for _ in range(2))
        sealed: dict[str, bytes] = {}
        for member in self._setting.members:
            at, plain = self._place[member], self.plain(member)
            plains[at] = octets(plain_digest(self._scene, name, self._me, member, plain))
            if member != self._me:
                sealed[member] = self._sealed(member, plain)
                boxes[at] = octets(digest("box", sealed[member]))
        own = self.plain(self._me)
        self._own.forget()
        coins = np.stack([octets(coin) for coin in self._own.coins])
        return Header(boxes, plains, coins), sealed, own

    def plain(self, member: str) -> bytes:
        """A member's salt and vector."""
        at = self._place[member]
        return self._own.salts.derive("salt", at).reveal() + self._own.vector(at)

    def answer(self, kind: int, member: str) -> bytes | None:
        """What a complaint of this kind is answered with; None where it must not be."""
        if kind == FIRST:
            return self._sealed(member, self.plain(member))
        return self.plain(member) if self.may_expose(member) else None

    def may_expose(self, member: str) -> bool:
        """Whether t members' vectors at most are public then: more would give the secret away."""
        exposed = self._setting.exposed
        if len(exposed | {member}) > self._scene.plan.t:
            return False
        exposed.add(member)
        return True

    def _sealed(self, member: str, plain: bytes) -> bytes:
        use = box_use(self._scene, self._setting.name, self._me, member)
        return seal(self._setting.secrets[member], use, plain)

"""What two parties still owe each other, across connections that come and go.

Sans-I/O. A frame keeps its sequence number (1, 2, ...) for the sender's life; the receiver
delivers rising numbers only, so what is sent again counts once. After a new connection the sender
goes on behind the last number that the peer says it has. A peer that restarted has nothing: it
gets again every frame whose label still matters here (the sender keeps those even when they were
acknowledged), so that a round survives the death of either end.

The queue is bounded. When it is full the oldest acknowledged frames go first, then the oldest
others: a peer that was away so long is merely late.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ostraka.net import Label
from ostraka.party import Frame

ID_BYTES = 16


@dataclass(slots=True)
class _Kept:
    """A frame that was posted, until nobody can need it any more."""

    sequence: int
    frame: Frame


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one peer's queue may hold."""

    frames: int = 256
    bytes: int = 1 << 28


def session_id(context: bytes, ends: dict[str, bytes]) -> bytes:
    """Names a session: the federation file's digest, two names, two processes (incarnations)."""
    digest = hashlib.sha256(b"ostraka session 1\0" + context)
    for name, incarnation in sorted(ends.items()):
        digest.update(len(name.encode()).to_bytes(2, "big") + name.encode() + incarnation)
    return digest.digest()[:ID_BYTES]


class Link:
    """One peer: what it has not acknowledged, what it may need again, what came from it."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._kept: list[_Kept] = []
        self._bytes = 0
        self._next = 1
        self._cursor = 0
        self._acknowledged = 0
        self.peer = bytes(ID_BYTES)
        self.received = 0
        self.lost = 0

    # --- sending ----------------------------------------------------------------------------

    def post(self, frame: Frame) -> int:
        """Queue a frame; gives how many old ones had to go for it."""
        self._kept.append(_Kept(self._next, frame))
        self._next += 1
        self._bytes += frame.size
        return self._shrink()

    def next(self) -> tuple[int, Frame] | None:
        """The next frame for this connection with its number, or None."""
        for kept in self._unsent():
            self._cursor = kept.sequence
            return kept.sequence, kept.frame
        return None

    @property
    def owes(self) -> bool:
        """Whether the peer has not acknowledged everything."""
        return any(kept.sequence > self._acknowledged for kept in self._kept)

    @property
    def backlog(self) -> int:
        """Bytes that the peer has not acknowledged."""
        return sum(k.frame.size for k in self._kept if k.sequence > self._acknowledged)

    def forget(self, labels: Collection[Label]) -> None:
        """These labels matter no more: what the peer has of them need not be kept."""
        self._drop(k for k in self._kept if k.frame.label in labels and self._had(k))

    def acknowledged(self, sequence: int) -> bool:
        """The peer has everything up to this number; False if it was never sent."""
        if sequence > self._cursor:
            return False
        self._acknowledged = max(self._acknowledged, sequence)
        return True

    # --- receiving --------------------------------------------------------------------------

    def deliver(self, sequence: int) -> bool:
        """Whether the frame of this number is new."""
        if sequence <= self.received:
            return False
        self.received = sequence
        return True

    # --- connections ------------------------------------------------------------------------

    def connected(self, peer: bytes, has: int) -> None:
        """A connection to the peer's process ``peer``, which has our frames up to ``has``.

        ``has`` is 0 for a process that knows nothing of this one. An untrue ``has`` harms the
        peer alone: it misses or repeats frames of its own.
        """
        if peer != self.peer:
            self.peer, self.received, self._acknowledged = peer, 0, 0
        self._acknowledged = max(self._acknowledged, min(has, self._next - 1))
        self._cursor = self._acknowledged

    def _unsent(self) -> Iterator[_Kept]:
        return (kept for kept in self._kept if kept.sequence > self._cursor)

    def _had(self, kept: _Kept) -> bool:
        return kept.sequence <= self._acknowledged

    def _drop(self, going: Iterator[_Kept]) -> None:
        gone = {kept.sequence for kept in going}
        self._bytes -= sum(k.frame.size for k in self._kept if k.sequence in gone)
        self._kept = [k for k in self._kept if k.sequence not in gone]

    def _shrink(self) -> int:
        """Keep to the bounds; the newest frame always stays. Gives how many unread ones went."""
        lost = 0
        while len(self._kept) > 1 and (
            len(self._kept) > self._bounds.frames or self._bytes > self._bounds.bytes
        ):
            oldest = next((k for k in self._kept[:-1] if self._had(k)), self._kept[0])
            self._kept.remove(oldest)
            self._bytes -= oldest.frame.size
            lost += not self._had(oldest)
        self.lost += lost
        return lost

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
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ostraka.net import Label
from ostraka.party import Frame

ID_BYTES = 16


@dataclass(slots=True)
class _Kept:
    """A frame that was posted, until nobody can need it any more."""

    sequence: int
    frame: Frame
    forgotten: bool = False


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
        self._cursor = 0  # the last number sent on this connection, or known to be there
        self._sent = 0  # the last number ever sent to the peer's present process
        self._acknowledged = 0
        self._newest = 0  # the last number that is kept
        self.peer = bytes(ID_BYTES)
        self.received = 0
        self.lost = 0

    # --- sending ----------------------------------------------------------------------------

    def post(self, frame: Frame) -> int:
        """Queue a frame; gives how many unacknowledged old ones had to go for it."""
        self._kept.append(_Kept(self._next, frame))
        self._newest = self._next
        self._next += 1
        self._bytes += frame.size
        return self._shrink()

    def next(self) -> tuple[int, Frame] | None:
        """The next frame for this connection with its number, or None."""
        if self._newest <= self._cursor:
            return None
        kept = next(kept for kept in self._kept if kept.sequence > self._cursor)
        self._cursor = kept.sequence
        self._sent = max(self._sent, kept.sequence)
        return kept.sequence, kept.frame

    @property
    def owes(self) -> bool:
        """Whether the peer has not acknowledged everything. May be asked from any thread."""
        return self._newest > self._acknowledged

    @property
    def backlog(self) -> int:
        """Bytes that the peer has not acknowledged."""
        return sum(kept.frame.size for kept in self._kept if not self._had(kept))

    def forget(self, labels: Collection[Label]) -> None:
        """These labels matter no more: once the peer has such a frame, it need not be kept."""
        for kept in self._kept:
            kept.forgotten |= kept.frame.label in labels
        self._drop_forgotten()

    def acknowledged(self, sequence: int) -> bool:
        """The peer has everything up to this number; False if it was never sent there."""
        if sequence > self._sent:
            return False
        if sequence > self._acknowledged:
            self._acknowledged = sequence
            self._drop_forgotten()
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
            self.peer, self.received, self._acknowledged, self._sent = peer, 0, 0, 0
        self.acknowledged(min(has, self._sent))
        self._cursor = self._acknowledged

    def _had(self, kept: _Kept) -> bool:
        return kept.sequence <= self._acknowledged

    def _drop_forgotten(self) -> None:
        self._keep(lambda kept: not (kept.forgotten and self._had(kept)))

    def _keep(self, wanted: Callable[[_Kept], bool]) -> None:
        self._kept = [kept for kept in self._kept if wanted(kept)]
        self._bytes = sum(kept.frame.size for kept in self._kept)
        self._newest = self._kept[-1].sequence if self._kept else 0

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

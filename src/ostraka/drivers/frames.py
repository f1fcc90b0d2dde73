"""Frames on a byte stream: a fixed header, a short tail, then the body in memory of its own.

    magic 4 | version 1 | type 1 | label bytes 1 | kind bytes 1 | body bytes 8 |
    session 16 | sequence 8 | acknowledged 8 || label | kind | body

The label names the round (``epoch.1/round.7``), the session names the two parties, both their
present processes and the digest of the federation file. ``FrameReader`` is total: any bytes give
frames or one ``Violation``; nothing is allocated for a body before its length is compared with
what the receiver expects of this kind, so a claim of 2^40 bytes costs nothing, and what is within
that length takes memory only as its bytes arrive. Only DATA has a label, a kind and a sequence
number; there is one way to write a frame.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ostraka.net import Body, Label, Malformed
from ostraka.wire import MAX_LABEL_BYTES, decode_label, encode_label

MAGIC = b"OSTK"
VERSION = 1
HEADER = struct.Struct("<4sBBBBQ16sQQ")
MAX_KIND_BYTES = 48
NO_SESSION = bytes(16)
_KIND = re.compile(rb"[A-Z][A-Za-z0-9]*")


class Type(IntEnum):
    """What a frame is for. Only DATA carries a sequence number; REFUSE and BYE end a connection."""

    HELLO = 1
    WELCOME = 2
    REFUSE = 3
    DATA = 4
    ALIVE = 5
    BYE = 6


class Violation(ValueError):  # noqa: N818
    """Bytes that no honest peer sends; the connection is closed. Says what was seen."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One frame as it came: a body of ``Malformed`` was too long and was not read."""

    type: Type
    label: Label
    kind: str
    body: Body | Malformed
    session: bytes
    sequence: int
    acknowledged: int


def pack(
    type: Type,
    *,
    label: Label = (),
    kind: str = "",
    body: Body = b"",
    session: bytes = NO_SESSION,
    sequence: int = 0,
    acknowledged: int = 0,
) -> list[Body]:
    """A frame as pieces to send one after the other; a long body is not copied."""
    at, what = encode_label(label), kind.encode()
    if type is Type.DATA:
        if len(what) > MAX_KIND_BYTES or not _KIND.fullmatch(what) or not sequence:
            raise ValueError(f"no message is called {kind!r} with sequence number {sequence}")
    elif at or what or sequence:
        raise ValueError(f"{type.name} has no label, kind or sequence number")
    head = HEADER.pack(
        MAGIC, VERSION, type, len(at), len(what), len(body), session, sequence, acknowledged
    )
    if len(body) <= 1 << 12:
        return [b"".join((head, at, what, body))]
    return [b"".join((head, at, what)), body]


Cap = Callable[[Type, str], int | None]
"""The longest body of this type and kind that is expected now; None: none is."""


class FrameReader:
    """Says where the next bytes belong and gives a frame when it is whole.

    ``cap`` is asked once a frame, before its body has memory. A DATA body beyond it becomes
    ``Malformed`` (its sender has spoken, and badly) and the reader is ``broken`` from then on, as
    it is behind a Violation: the connection must be closed.
    """

    def __init__(self, cap: Cap) -> None:
        self._cap = cap
        self.broken = False
        self._head = bytearray(HEADER.size)
        self._tail = bytearray(MAX_LABEL_BYTES + MAX_KIND_BYTES)
        self._begin()

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return self._place[self._filled :]

    def advance(self, count: int) -> Packet | None:
        """Take note of ``count`` bytes written into ``room()``. Raises Violation, for good."""
        if self.broken:
            raise Violation("nothing is read behind what was no frame")
        self._filled += count
        try:
            return self._advanced()
        except Violation:
            self.broken = True
            raise

    def _advanced(self) -> Packet | None:
        if self._part == "head" and not MAGIC.startswith(self._head[: min(self._filled, 4)]):
            raise Violation("these are no frames of ostraka")
        while self._filled == len(self._place):
            packet = self._step()
            if packet is not None:
                self._begin()
                return packet
        return None

    @property
    def midway(self) -> bool:
        """Whether a frame has begun that is not whole."""
        return self._part != "head" or self._filled > 0

    def _begin(self) -> None:
        self._part = "head"
        self._place = memoryview(self._head)
        self._filled = 0

    def _step(self) -> Packet | None:
        """One part is whole: go on to the next, or give the frame."""
        if self._part == "head":
            self._fields = self._checked()
            self._part = "tail"
            self._place = memoryview(self._tail)[: self._fields[3] + self._fields[4]]
        elif self._part == "tail":
            return self._admitted()
        else:
            return self._packet(self._place.toreadonly())
        self._filled = 0
        return None

    def _checked(self) -> tuple[bytes, int, int, int, int, int, bytes, int, int]:
        fields = HEADER.unpack(self._head)
        _, version, code, label_bytes, kind_bytes, _, _, sequence, _ = fields
        if version != VERSION:
            raise Violation(f"frame version {version}, this is version {VERSION}")
        if not Type.HELLO <= code <= Type.BYE:
            raise Violation(f"frame type {code}")
        if label_bytes > MAX_LABEL_BYTES or kind_bytes > MAX_KIND_BYTES:
            raise Violation(f"label of {label_bytes} and kind of {kind_bytes} bytes")
        if code == Type.DATA and not (kind_bytes and sequence):
            raise Violation("DATA without a kind or a sequence number")
        if code != Type.DATA and (label_bytes or kind_bytes or sequence):
            raise Violation(f"{Type(code).name} with a label, a kind or a sequence number")
        return fields

    def _admitted(self) -> Packet | None:
        """Label and kind are here: read them, ask for the cap, make room for the body."""
        label_bytes, kind_bytes, size = self._fields[3:6]
        label = decode_label(bytes(self._tail[:label_bytes]))
        if isinstance(label, Malformed):
            raise Violation(label.detail)
        kind = bytes(self._tail[label_bytes : label_bytes + kind_bytes])
        type = Type(self._fields[2])
        if kind and not _KIND.fullmatch(kind):
            raise Violation("the kind is no word")
        self._label, self._kind = label, kind.decode()
        cap = self._cap(type, self._kind)
        if cap is None:
            raise Violation(f"{f'{type.name} {self._kind}'.strip()} is not expected here")
        if size > cap:
            if type is not Type.DATA:
                raise Violation(f"{type.name} of {size} bytes, at most {cap} expected")
            self.broken = True
            return self._packet(Malformed(f"{size} bytes, at most {cap} expected"))
        if size == 0:
            return self._packet(b"")
        self._part, self._filled = "body", 0
        self._place = np.empty(size, np.uint8).data  # untouched pages cost nothing
        return None

    def _packet(self, body: Body | Malformed) -> Packet:
        _, _, code, _, _, _, session, sequence, acknowledged = self._fields
        return Packet(Type(code), self._label, self._kind, body, session, sequence, acknowledged)

"""One connection from its first byte to its last: greeting, then frames of a session.

Both ends say HELLO; each checks the other's and answers WELCOME, or REFUSE with a reason. The name
that counts is the channel's (the pinned key); a HELLO that claims another is refused. After both
WELCOMEs the connection is open and carries the link's frames.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from ostraka.drivers.channel import Channel
from ostraka.drivers.frames import FrameReader, Packet, Type, Violation, pack
from ostraka.drivers.link import ID_BYTES, Link, session_id
from ostraka.net import Body, Malformed
from ostraka.party import Frame
from ostraka.wire import U64, Exactly, Message, Text

MAX_REFUSAL_BYTES = 1 << 20
ACK_DELAY_S = 0.02
NOBODY_YET = bytes(ID_BYTES)

Code = Literal["identity", "configuration", "version", "policy", "busy"]
CODES = ("identity", "configuration", "version", "policy", "busy")


@dataclass(frozen=True)
class Hello(Message):
    """Who speaks to whom, with which federation file, from which process, and what it has.

    ``knows`` and ``has``: the receiver's process as last seen, and its frames received.
    ``held``: the highest label that the sender's stored state knows of the receiver, as text.
    """

    sender: Annotated[str, Text(64)]
    to: Annotated[str, Text(64)]
    context: Annotated[bytes, Exactly(32)]
    incarnation: Annotated[bytes, Exactly(ID_BYTES)]
    knows: Annotated[bytes, Exactly(ID_BYTES)]
    has: Annotated[int, U64]
    held: Annotated[str, Text(200)]


HELLO = Hello.form()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one side will not talk to the other; ``details`` is for its code to define."""

    code: str
    text: str
    details: bytes = b""

    def encode(self) -> bytes:
        """Code, text, details, each ended by a zero byte but the last."""
        return b"\0".join((self.code.encode(), self.text.encode(), self.details))

    @classmethod
    def decode(cls, body: bytes) -> Refusal:
        """Total: what does not parse says so."""
        parts = body.split(b"\0", 2)
        code = parts[0].decode("ascii", "replace")
        if len(parts) != 3 or code not in CODES:
            return cls("version", "it refused in words that this version does not know")
        shown = "".join(c if c.isprintable() else "?" for c in parts[1].decode("utf-8", "replace"))
        return cls(code, shown[:500], parts[2])


class Hub(Protocol):
    """What a connection asks of the transport that it belongs to."""

    @property
    def me(self) -> str:
        """This party's name."""

    @property
    def peers(self) -> Collection[str]:
        """The names that may speak to this party."""

    @property
    def context(self) -> bytes:
        """The federation file's digest."""

    @property
    def incarnation(self) -> bytes:
        """This process."""

    @property
    def details(self) -> bytes:
        """What a refusal for another configuration carries."""

    def held(self, peer: str) -> str:
        """The highest label that this party has stored of the peer."""

    def link(self, peer: str) -> Link:
        """The peer's link."""

    def expects(self, peer: str) -> Mapping[str, int]:
        """The kinds that the peer may send, with their longest bodies."""

    def welcome(self, connection: Connection) -> None:
        """The connection is open."""

    def parted(self, connection: Connection, error: Exception | None) -> None:
        """An open connection has ended."""

    def refused_by(self, peer: str, refusal: Refusal) -> None:
        """The peer will not talk to us."""

    def take(self, peer: str, frame: Frame) -> None:
        """A frame that is new."""


class Connection:
    """Drives one channel; ``greeted`` ends when it is open (True) or cannot be (False)."""

    def __init__(self, hub: Hub, sock: socket.socket, peer: str | None) -> None:
        self._hub = hub
        self.peer = peer
        self.stage: Literal["greeting", "refused", "open", "closed"] = "greeting"
        self.why = "the other side closed"
        self.hello: Hello | None = None
        self._now = asyncio.get_running_loop().time
        self.heard_at = self._now()
        self.error: Exception | None = None
        self.greeted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue: list[list[Body]] = []
        self._welcomed = False
        self._ack_due = False
        self._session = b""
        self._link: Link | None = None
        self._reader = FrameReader(self._cap)
        self.channel = Channel(
            sock, self._reader, source=self._pieces, on_packet=self._packet, on_end=self._ended
        )
        if peer is not None:
            self.greet(peer)

    # --- greeting ---------------------------------------------------------------------------

    def greet(self, peer: str) -> None:
        """Say HELLO to the party that the channel belongs to."""
        link = self._hub.link(peer)
        hello = Hello(
            sender=self._hub.me,
            to=peer,
            context=self._hub.context,
            incarnation=self._hub.incarnation,
            knows=link.peer,
            has=link.received,
            held=self._hub.held(peer),
        )
        self._say(pack(Type.HELLO, body=hello.encode()))

    def _hear(self, hello: Hello) -> None:
        """Check the other side's HELLO and answer it."""
        first = self.peer is None
        if first and hello.sender not in self._hub.peers:
            self.refuse(Refusal("identity", f"{hello.sender!r} is no party of this federation"))
            return
        if first:
            self.peer = hello.sender
            self.greet(hello.sender)
        peer = self.peer
        assert peer is not None, "a name from the channel, or the one just taken"
        if hello.sender != peer:
            self.refuse(Refusal("identity", f"the key of {peer} cannot speak for {hello.sender!r}"))
        elif hello.to != self._hub.me:
            self.refuse(Refusal("identity", f"this is {self._hub.me}, not {hello.to!r}"))
        elif hello.context != self._hub.context:
            text = "the federation files differ"
            self.refuse(Refusal("configuration", text, self._hub.details))
        else:
            self.hello = hello
            ends = {self._hub.me: self._hub.incarnation, peer: hello.incarnation}
            self._session = session_id(self._hub.context, ends)
            self._say(pack(Type.WELCOME, session=self._session))
            self._open()

    def _open(self) -> None:
        """Both have welcomed the other: from here on frames flow."""
        if self.hello is None or not self._welcomed or self.stage != "greeting":
            return
        assert self.peer is not None, "who was welcomed has a name"
        self.stage = "open"
        link = self._link = self._hub.link(self.peer)
        has = self.hello.has if self.hello.knows == self._hub.incarnation else 0
        link.connected(self.hello.incarnation, has)
        self._settle(True)
        self._hub.welcome(self)
        self.channel.wake()

    def refuse(self, refusal: Refusal) -> None:
        """Say why not; the other side may answer with its own REFUSE before it closes."""
        if self.stage in ("greeting", "open"):
            self.stage = "refused"
            self.why = refusal.text
            self._say(pack(Type.REFUSE, body=refusal.encode()))
            self._settle(False)

    # --- frames -----------------------------------------------------------------------------

    def alive(self) -> None:
        """Tell the peer that this end lives, and what it has."""
        if self.stage == "open" and self._link is not None:
            self._ack_due = True
            self.channel.wake()

    def bye(self) -> None:
        """Part in friendship."""
        if self.stage == "open":
            self._say(pack(Type.BYE, session=self._session))

    def close(self, why: str) -> None:
        """Close at once."""
        self.channel.close()
        self._over(why, None)

    def _cap(self, type: Type, kind: str) -> int | None:
        """What may come now, and how long it may be."""
        if self.stage == "open" and type is Type.DATA and self.peer is not None:
            return self._hub.expects(self.peer).get(kind)
        if kind:
            return None
        greeting = {Type.HELLO: HELLO.max_bytes, Type.WELCOME: 0}
        caps = {Type.REFUSE: MAX_REFUSAL_BYTES, Type.BYE: 0}
        caps |= greeting if self.stage in ("greeting", "refused") else {Type.ALIVE: 0}
        return caps.get(type)

    def _packet(self, packet: Packet) -> None:
        self.heard_at = self._now()
        match packet.type:
            case Type.HELLO if self.stage == "greeting" and self.hello is None:
                hello = HELLO.decode(_bytes(packet))
                if isinstance(hello, Malformed):
                    raise Violation(f"HELLO: {hello.detail}")
                self._hear(hello)
            case Type.WELCOME if self.stage == "greeting" and self.hello is not None:
                if packet.session != self._session:
                    raise Violation("WELCOME to another session")
                self._welcomed = True
                self._open()
            case Type.REFUSE:
                self._refused(Refusal.decode(_bytes(packet)))
            case Type.DATA | Type.ALIVE if self.stage == "open":
                self._data(packet)
            case Type.BYE:
                self.close("the other side has left")
            case _ if self.stage == "refused":
                pass  # what was under way when we refused
            case type:
                raise Violation(f"{type.name} at the wrong time")

    def _data(self, packet: Packet) -> None:
        assert self._link is not None, "an open connection has a link"
        assert self.peer is not None, "an open connection has a peer"
        if packet.session != self._session:
            raise Violation("a frame of another session")
        if not self._link.acknowledged(packet.acknowledged):
            raise Violation(f"acknowledges frame {packet.acknowledged}, which was never sent")
        if packet.type is Type.DATA and self._link.deliver(packet.sequence):
            if not self._ack_due:
                self._ack_due = True
                loop = asyncio.get_running_loop()
                loop.call_later(ACK_DELAY_S, self.channel.wake)
            self._hub.take(self.peer, Frame(packet.label, packet.kind, packet.body))

    def _refused(self, refusal: Refusal) -> None:
        told = self.stage == "refused"
        self.stage = "refused"
        self.channel.close()
        self._over(self.why if told else f"refused: {refusal.text}", None)
        if self.peer is not None:
            self._hub.refused_by(self.peer, refusal)

    # --- out --------------------------------------------------------------------------------

    def _say(self, pieces: list[Body]) -> None:
        self._queue.append(pieces)
        self.channel.wake()

    def _pieces(self) -> list[Body] | None:
        if self._queue:
            return self._queue.pop(0)
        if self.stage != "open" or self._link is None:
            return None
        following = self._link.next()
        if following is not None:
            return self._frame(*following)
        if self._ack_due:
            self._ack_due = False
            return pack(Type.ALIVE, session=self._session, acknowledged=self._link.received)
        return None

    def _frame(self, sequence: int, frame: Frame) -> list[Body]:
        assert self._link is not None, "an open connection has a link"
        assert not isinstance(frame.body, Malformed), "what is sent was encoded here"
        self._ack_due = False
        return pack(
            Type.DATA,
            label=frame.label,
            kind=frame.kind,
            body=frame.body,
            session=self._session,
            sequence=sequence,
            acknowledged=self._link.received,
        )

    # --- ends -------------------------------------------------------------------------------

    def _ended(self, error: Exception | None) -> None:
        why = self.why if self.stage == "refused" or error is None else _told(error)
        self._over(why, error)

    def _over(self, why: str, error: Exception | None) -> None:
        was_open, self.stage = self.stage == "open", "closed"
        self.why, self.error = why, error
        self._settle(False)
        if not self.over.done():
            self.over.set_result(None)
        if was_open:
            self._hub.parted(self, error)

    def _settle(self, greeted: bool) -> None:
        if not self.greeted.done():
            self.greeted.set_result(greeted)


def _bytes(packet: Packet) -> bytes:
    """The body of a control frame, which is never too long to be here."""
    return b"" if isinstance(packet.body, Malformed) else bytes(packet.body)


def _told(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)

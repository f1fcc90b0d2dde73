"""One connection from its first byte to its last: greeting, then frames of a session.

Both ends say HELLO; each checks the other's and answers WELCOME, or REFUSE with a reason. The name
that counts is the channel's (the pinned key); a HELLO that claims another is refused. After both
WELCOMEs the connection is open and carries the link's frames. Whatever does not belong where it
comes ends the connection and changes nothing else.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from ostraka.drivers.channel import Channel
from ostraka.drivers.frames import FrameReader, Packet, Type, Violation, pack
from ostraka.drivers.link import ID_BYTES, Link, session_id
from ostraka.drivers.pace import Tempo
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
        words = parts[1][:1000].decode("utf-8", "replace")
        shown = "".join(c if c.isprintable() else "?" for c in words)
        return cls(code, shown[:200], parts[2])


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

    def tempo(self, peer: str) -> Tempo:
        """How quickly the peer may send frames."""

    def welcome(self, connection: Connection, peer: str, held: str) -> None:
        """The connection is open; ``held`` is what the peer's HELLO says."""

    def parted(self, connection: Connection, peer: str) -> None:
        """An open connection has ended."""

    def refused_by(self, peer: str, refusal: Refusal) -> None:
        """The peer will not talk to us."""

    def take(self, peer: str, frame: Frame) -> None:
        """A frame that is new."""


@dataclass(frozen=True, slots=True)
class _Open:
    """What an open connection works with."""

    peer: str
    link: Link
    expects: Mapping[str, int]


class Connection:
    """Drives one channel; ``greeted`` ends when it is open (True) or cannot be (False).

    ``peer``: whom the channel's key belongs to; None where only HELLO says it.
    """

    def __init__(self, hub: Hub, sock: socket.socket, peer: str | None) -> None:
        loop = asyncio.get_running_loop()
        self._hub = hub
        self.peer = peer
        self.stage: Literal["greeting", "refused", "open", "closed"] = "greeting"
        self.why = "the other side closed"
        self.error: Exception | None = None
        self.refused: Refusal | None = None  # what this side said
        self.declined: Refusal | None = None  # what the other side said
        self.greeted: asyncio.Future[bool] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self._queue: list[list[Body]] = []
        self._hello: Hello | None = None
        self._welcomed = False
        self._ack_due = False
        self._session = b""
        self._open: _Open | None = None
        self.channel = Channel(
            sock,
            FrameReader(self._cap),
            source=self._pieces,
            on_packet=self._packet,
            on_violation=self._violated,
            on_end=self._ended,
        )
        if peer is not None:
            self._greet(peer)

    # --- greeting ---------------------------------------------------------------------------

    def _greet(self, peer: str) -> None:
        """Say HELLO to the party that the channel belongs to, if it may speak to this one."""
        if peer not in self._hub.peers:
            self.refuse(Refusal("identity", f"{peer!r} has no business with {self._hub.me}"))
            return
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
        if self.peer is None and hello.sender in self._hub.peers:
            self.peer = hello.sender
            self._greet(self.peer)
        refusal = self._objection(hello)
        if refusal is not None:
            self.refuse(refusal)
            return
        self._hello = hello
        ends = {self._hub.me: self._hub.incarnation, hello.sender: hello.incarnation}
        self._session = session_id(self._hub.context, ends)
        self._say(pack(Type.WELCOME, session=self._session))
        self._begin()

    def _objection(self, hello: Hello) -> Refusal | None:
        if self.peer is None:
            text = f"{hello.sender!r} is no party that {self._hub.me} knows"
            return Refusal("identity", text)
        if hello.sender != self.peer:
            text = f"the key of {self.peer} cannot speak for {hello.sender!r}"
            return Refusal("identity", text)
        if hello.to != self._hub.me:
            return Refusal("identity", f"this is {self._hub.me}, not {hello.to!r}")
        if hello.context != self._hub.context:
            return Refusal("configuration", "the federation files differ", self._hub.details)
        return None

    def _begin(self) -> None:
        """Both have welcomed the other: from here on frames flow."""
        hello = self._hello
        if hello is None or not self._welcomed or self.stage != "greeting":
            return
        self.stage = "open"
        peer, link = hello.sender, self._hub.link(hello.sender)
        self._open = _Open(peer, link, self._hub.expects(peer))
        self.channel.allow(self._hub.tempo(peer))
        link.connected(hello.incarnation, hello.has * (hello.knows == self._hub.incarnation))
        self._settle(True)
        self._hub.welcome(self, peer, hello.held)
        self.channel.wake()

    def refuse(self, refusal: Refusal) -> None:
        """Say why not, while greeting; the other side may answer with its own REFUSE."""
        if self.stage == "greeting":
            self.stage = "refused"
            self.refused, self.why = refusal, refusal.text
            self._say(pack(Type.REFUSE, body=refusal.encode()))
            self._settle(False)

    def dismiss(self, refusal: Refusal) -> None:
        """Close an open connection with a last word on why, if there is room for it."""
        self._queue.append(pack(Type.REFUSE, body=refusal.encode()))
        self._over(refusal.text, None)  # first: the link's frames are for the newer connection
        self.channel.wake()
        self.channel.close()

    @property
    def incarnation(self) -> bytes:
        """The peer's process, once it is known."""
        return NOBODY_YET if self._hello is None else self._hello.incarnation

    # --- frames -----------------------------------------------------------------------------

    def alive(self) -> None:
        """Tell the peer that this end lives, and what it has."""
        if self.stage == "open":
            self._ack_due = True
            self.channel.wake()

    def close(self, why: str) -> None:
        """Close at once."""
        self.channel.close()
        self._over(why, None)

    async def part(self, why: str, wait_s: float) -> None:
        """Close, with BYE where the connection is open, so that what was said is still heard."""
        if self._open is not None and self.stage == "open":
            has = self._open.link.received
            self._queue.append(pack(Type.ALIVE, session=self._session, acknowledged=has))
            self._queue.append(pack(Type.BYE, session=self._session))
        self._over(why, None)
        self.channel.wake()
        await self.channel.depart(wait_s)

    def _cap(self, type: Type, kind: str) -> int | None:
        """What may come now, and how long it may be."""
        if type is Type.DATA:
            return None if self._open is None else self._open.expects.get(kind)
        caps = {Type.REFUSE: MAX_REFUSAL_BYTES, Type.BYE: 0}
        if self._open is not None:
            caps[Type.ALIVE] = 0
        else:
            caps |= {Type.HELLO: HELLO.max_bytes, Type.WELCOME: 0}
        return caps.get(type)

    def _packet(self, packet: Packet) -> None:
        match packet.type:
            case Type.HELLO if self.stage == "greeting" and self._hello is None:
                hello = HELLO.decode(_bytes(packet))
                if isinstance(hello, Malformed):
                    raise Violation(f"HELLO: {hello.detail}")
                self._hear(hello)
            case Type.WELCOME if self._hello is not None and not self._welcomed:
                if packet.session != self._session:
                    raise Violation("WELCOME to another session")
                self._welcomed = True
                self._begin()
            case Type.REFUSE:
                self._refused(Refusal.decode(_bytes(packet)))
            case Type.DATA | Type.ALIVE if self._open is not None:
                self._data(packet, self._open)
            case Type.BYE:
                self.close("the other side has left")
            case _ if self.stage == "refused":
                pass  # what was under way when we refused
            case type:
                raise Violation(f"{type.name} at the wrong time")

    def _data(self, packet: Packet, at: _Open) -> None:
        if packet.session != self._session:
            raise Violation("a frame of another session")
        if not at.link.acknowledged(packet.acknowledged):
            raise Violation(f"acknowledges frame {packet.acknowledged}, which was never sent")
        if packet.type is not Type.DATA:
            return
        if not self._ack_due:
            self._ack_due = True
            asyncio.get_running_loop().call_later(ACK_DELAY_S, self.channel.wake)
        if at.link.deliver(packet.sequence):
            self._hub.take(at.peer, Frame(packet.label, packet.kind, packet.body))

    def _refused(self, refusal: Refusal) -> None:
        self.declined = refusal
        self.channel.close()
        self._over(self.why if self.stage == "refused" else "the other side refused", None)
        if self.peer is not None:
            self._hub.refused_by(self.peer, refusal)

    # --- out --------------------------------------------------------------------------------

    def _say(self, pieces: list[Body]) -> None:
        self._queue.append(pieces)
        self.channel.wake()

    def _pieces(self) -> list[Body] | None:
        if self._queue:
            return self._queue.pop(0)
        if self.stage != "open" or self._open is None:
            return None
        link = self._open.link
        following = link.next()
        if following is not None:
            return self._frame(*following, link.received)
        if self._ack_due:
            self._ack_due = False
            return pack(Type.ALIVE, session=self._session, acknowledged=link.received)
        return None

    def _frame(self, sequence: int, frame: Frame, received: int) -> list[Body]:
        if isinstance(frame.body, Malformed):
            raise ValueError("a body that did not come cannot be sent")
        self._ack_due = False
        return pack(
            Type.DATA,
            label=frame.label,
            kind=frame.kind,
            body=frame.body,
            session=self._session,
            sequence=sequence,
            acknowledged=received,
        )

    # --- ends -------------------------------------------------------------------------------

    def _violated(self, violation: Violation) -> None:
        """What came is no frame, or none for here: say so to whom was not met yet, and close."""
        if self.stage == "greeting":
            self.refuse(Refusal("version", str(violation)))
        else:
            self.channel.close()
            self._ended(violation)

    def _ended(self, error: Exception | None) -> None:
        why = self.why if self.stage == "refused" or error is None else reason_of(error)
        self._over(why, error)

    def _over(self, why: str, error: Exception | None) -> None:
        if self.stage == "closed":
            return
        self.stage = "closed"
        self.why, self.error = why, error
        self._settle(False)
        if not self.over.done():
            self.over.set_result(None)
        if self._open is not None:
            self._hub.parted(self, self._open.peer)

    def _settle(self, greeted: bool) -> None:
        if not self.greeted.done():
            self.greeted.set_result(greeted)


def _bytes(packet: Packet) -> bytes:
    """The body of a control frame, which is never too long to be here."""
    return b"" if isinstance(packet.body, Malformed) else bytes(packet.body)


def reason_of(error: Exception) -> str:
    """What went wrong on a socket, in the system's words."""
    if isinstance(error, ConnectionError | BlockingIOError | TimeoutError) and error.errno:
        return os.strerror(error.errno)  # event loops put words of their own in its place
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)

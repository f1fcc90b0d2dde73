"""A blind relay: joins the connections of two parties that both can only dial out.

Each of the two opens a TLS connection to the relay and asks for the other (BRIDGE); when both are
there the relay says WELCOME to each and from then on copies bytes. Inside, the two run the same
TLS 1.3 handshake, pinned to each other's keys, and the same frames as over a direct connection: so
the relay sees who talks to whom, when and how much, and nothing else. Whatever it drops, reorders,
repeats or alters breaks the inner TLS, is told, and costs a reconnection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from ostraka.drivers.channel import part, ready
from ostraka.drivers.connection import MAX_REFUSAL_BYTES, Refusal
from ostraka.drivers.door import CROWDED, Door
from ostraka.drivers.frames import FrameReader, Packet, Type, Violation, pack
from ostraka.drivers.pace import Pace
from ostraka.drivers.security import Refused, Security
from ostraka.drivers.tcp import Address
from ostraka.drivers.teller import Teller
from ostraka.net import Malformed, Trace
from ostraka.wire import Exactly, Message, Text

CHUNK_BYTES = 1 << 16
GREETING_S = 5.0
BRIEFLY_S = 0.01
BRIDGES_A_SECOND, BRIDGES_AT_ONCE = 2.0, 60.0
LATER = (BlockingIOError, ssl.SSLWantReadError)


@dataclass(frozen=True)
class Bridge(Message):
    """A party's request to the relay: join me with ``to``."""

    to: Annotated[str, Text(64)]
    context: Annotated[bytes, Exactly(32)]


BRIDGE = Bridge.form()
Pair = tuple[str, str]
Copied = Callable[[str, str, bytes], bytes]


@dataclass(eq=False)
class _Waiting:
    """One side of a bridge that is not complete."""

    sock: socket.socket
    other: asyncio.Future[socket.socket] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Relay:
    """The relay's whole work. ``pairs``: who may meet whom; ``copied``: tests listen in there.

    A pair has one bridge: a newer one takes the older one's place.
    """

    def __init__(
        self,
        pairs: frozenset[frozenset[str]],
        security: Security,
        *,
        context: bytes,
        details: bytes,
        trace: Trace,
        copied: Copied = lambda sender, to, chunk: chunk,
    ) -> None:
        self._pairs, self._security = pairs, security
        self._context, self._details = context, details
        self._trace, self._copied = trace, copied
        self._waiting: dict[Pair, _Waiting] = {}
        self._tell = Teller(trace)
        self._bridges: dict[frozenset[str], tuple[socket.socket, socket.socket]] = {}
        self._paces = {pair: Pace(BRIDGES_A_SECOND, BRIDGES_AT_ONCE) for pair in pairs}
        self._door = Door(self._answer, self._turned_away, 2 * len(pairs))

    async def start(self, listen: Address) -> int:
        """Listen; gives the port. Raises OSError when that cannot be."""
        return self._door.open(*listen)

    async def stop(self) -> None:
        """Close every bridge."""
        await self._door.close()

    async def _answer(self, sock: socket.socket, address: str) -> None:
        secured = sock
        try:
            async with asyncio.timeout(GREETING_S):
                secured, name = await self._security.accept(sock)
                request = await _request(secured)
            assert name is not None, "a relay knows names from keys"
            if (refusal := self._unfit(name, request)) is not None:
                await _send(secured, b"".join(pack(Type.REFUSE, body=refusal.encode())))
                raise Refused(refusal.text)
            self._door.known()
            await self._join(name, request.to, secured)
        except (Refused, Violation) as refused:
            self._turned_away(address, str(refused))
            await part(secured)
        except TimeoutError:
            self._turned_away(address, "it did not say what it wants in time")
        except asyncio.CancelledError as cancelled:
            if CROWDED in cancelled.args:
                self._turned_away(address, CROWDED)
            raise
        except OSError as error:
            self._turned_away(address, error.strerror or str(error))
        finally:
            secured.close()

    def _unfit(self, name: str, request: Bridge) -> Refusal | None:
        """Why this request is refused, if it is."""
        if request.context != self._context:
            return Refusal("configuration", "the federation files differ", self._details)
        pair = frozenset((name, request.to))
        if pair not in self._pairs:
            return Refusal("policy", f"{name} has nobody of that name to meet here")
        if self._paces[pair].rest_s(1, asyncio.get_running_loop().time()) > 0.0:
            return Refusal("busy", f"{name} asks for bridges too often")
        return None

    async def _join(self, name: str, to: str, sock: socket.socket) -> None:
        """Wait for the other side, then copy what this one sends until either ends."""
        other = self._waiting.pop((to, name), None)
        if other is not None and not other.other.done():
            self._replace(frozenset((name, to)), (other.sock, sock))
            for end in (other.sock, sock):
                await _send(end, b"".join(pack(Type.WELCOME)))
            other.other.set_result(sock)
            await self._copy(name, to, sock, other.sock)
            return
        before = self._waiting.pop((name, to), None)
        if before is not None:
            before.other.cancel()
        mine = self._waiting[name, to] = _Waiting(sock)
        gone = asyncio.ensure_future(ready(sock, to_write=False))
        ends: list[asyncio.Future[Any]] = [mine.other, gone]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            if self._waiting.get((name, to)) is mine:
                del self._waiting[name, to]
        if mine.other.done() and not mine.other.cancelled():
            self._trace("bridged", peer=name, other=to)
            await self._copy(name, to, sock, mine.other.result())
            self._trace("unbridged", peer=name, other=to)

    def _replace(self, pair: frozenset[str], ends: tuple[socket.socket, socket.socket]) -> None:
        """This is the pair's bridge now; an older one ends."""
        for sock in self._bridges.get(pair, ()):
            _cut(sock)
        self._bridges[pair] = ends

    async def _copy(self, name: str, to: str, source: socket.socket, target: socket.socket) -> None:
        """Pass on this side's bytes; either side's end ends both."""
        try:
            while chunk := await _receive(source):
                await _send(target, self._copied(name, to, chunk))
        except (OSError, ValueError):
            pass  # the other side's copy has closed it, or the network did
        finally:
            for sock in (source, target):
                _cut(sock)

    def _turned_away(self, address: str, why: str) -> None:
        self._tell("refused", address, why)


def through(
    reach: Callable[[], Any], security: Security, relay: str, to: str, context: bytes
) -> Callable[[], Any]:
    """How a party is reached through a relay: gives a socket whose other end is that party.

    ``reach`` connects to the relay, ``security`` pins its key. The socket is one end of a local
    pair; a task copies between the other end and the relay until either closes.
    """

    async def bridge() -> socket.socket:
        outer = await security.dial(await reach(), relay)
        with contextlib.ExitStack() as undo:
            undo.callback(outer.close)
            await _send(outer, b"".join(pack(Type.HELLO, body=Bridge(to, context).encode())))
            await _welcome(outer)
            inner, ours = socket.socketpair()
            undo.pop_all()
        inner.setblocking(False)
        ours.setblocking(False)
        task = asyncio.get_running_loop().create_task(_tunnel(outer, ours))
        _tunnels.add(task)
        task.add_done_callback(_tunnels.discard)
        return inner

    return bridge


_tunnels: set[asyncio.Task[None]] = set()
"""Keeps running tunnels alive; each ends when either of its sockets does."""


def _cut(sock: socket.socket) -> None:
    """End a connection whose socket another task works on; that task closes it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


async def _tunnel(outer: socket.socket, inner: socket.socket) -> None:
    """Copy both ways until one side ends."""
    ways = [
        asyncio.ensure_future(_pass(outer, inner)),
        asyncio.ensure_future(_pass(inner, outer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        outer.close()
        inner.close()


async def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while chunk := await _receive(source):
            await _send(target, chunk)


async def _request(sock: socket.socket) -> Bridge:
    """The one frame with which a party begins."""
    packet = await _packet(sock, {Type.HELLO: BRIDGE.max_bytes})
    body = b"" if isinstance(packet.body, Malformed) else packet.body
    request = BRIDGE.decode(body)
    if isinstance(request, Malformed):
        raise Violation(f"no request for a bridge: {request.detail}")
    return request


async def _welcome(sock: socket.socket) -> None:
    """Wait until the other side is there. Raises Refused, or OSError when the relay closes."""
    packet = await _packet(sock, {Type.WELCOME: 0, Type.REFUSE: MAX_REFUSAL_BYTES})
    if packet.type is Type.REFUSE:
        body = b"" if isinstance(packet.body, Malformed) else bytes(packet.body)
        raise Refused(f"the relay refuses: {Refusal.decode(body).text}")


async def _packet(sock: socket.socket, caps: dict[Type, int]) -> Packet:
    """One frame of these types, and not a byte more."""
    reader = FrameReader(lambda type, kind: None if kind else caps.get(type))
    while True:
        room = reader.room()
        chunk = await _receive(sock, len(room))
        if not chunk:
            raise ConnectionResetError("the other side closed")
        room[: len(chunk)] = chunk
        packet = reader.advance(len(chunk))
        if packet is not None:
            return packet


async def _receive(sock: socket.socket, most: int = CHUNK_BYTES) -> bytes:
    while True:
        try:
            return sock.recv(most)
        except LATER:
            await ready(sock, to_write=False)
        except ssl.SSLWantWriteError:  # TLS renews its keys; another task may wait to write
            await asyncio.sleep(BRIEFLY_S)


async def _send(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            await ready(sock, to_write=True)
        except ssl.SSLWantReadError:  # TLS renews its keys; another task waits to read
            await asyncio.sleep(BRIEFLY_S)

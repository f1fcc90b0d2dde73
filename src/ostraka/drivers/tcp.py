"""One party's connections: accepts, dials, greets, reconnects, and loses nothing on the way.

Everything here runs on one event loop. ``Security`` says how a bare socket becomes one that knows
its peer: ``tls.PinnedTls`` in earnest, ``Plain`` (names are believed) for tests and measurements.
Strangers are bounded in number, time and bytes; known peers in what they may send.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import resource
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ostraka.drivers.channel import part
from ostraka.drivers.connection import Connection, Refusal
from ostraka.drivers.link import ID_BYTES, Bounds, Link
from ostraka.net import Label, Trace
from ostraka.party import Frame

Address = tuple[str, int]
CROWDED = "too many strangers at once; it was the oldest"


class Refused(Exception):  # noqa: N818
    """A handshake that ended badly: what this side saw in the other."""


class Security(Protocol):
    """Turns a connected non-blocking socket into one that knows its peer."""

    async def accept(self, sock: socket.socket) -> tuple[socket.socket, str | None]:
        """The socket to use and the peer's name (None: what HELLO says). Raises Refused."""

    async def dial(self, sock: socket.socket, peer: str) -> socket.socket:
        """The socket to use, if the other end is this peer. Raises Refused."""

    def explain(self, error: Exception | None) -> str | None:
        """Why the other side refused our identity, if that is what this error says."""


class Plain:
    """No security at all: names are believed. For tests and measurements, never for a party."""

    async def accept(self, sock: socket.socket) -> tuple[socket.socket, str | None]:
        """See Security."""
        return sock, None

    async def dial(self, sock: socket.socket, peer: str) -> socket.socket:
        """See Security."""
        return sock

    def explain(self, error: Exception | None) -> str | None:
        """See Security."""
        return None


@dataclass(frozen=True)
class Peer:
    """A party that this one is linked with.

    ``reach`` gives a connected socket where this side opens the connection (None: the peer does).
    ``expects``: the kinds that it may send, with their longest bodies.
    ``accepting``: this side plays the TLS server although it opened the connection (relays).
    """

    name: str
    expects: Mapping[str, int]
    reach: Callable[[], Any] | None = None
    accepting: bool = False


@dataclass(frozen=True)
class Times:
    """Seconds. ``quiet_s``: a connection that brings nothing for so long is closed."""

    handshake_s: float = 5.0
    connect_s: float = 5.0
    heartbeat_s: float = 5.0
    quiet_s: float = 20.0
    retry_s: float = 0.1
    retry_most_s: float = 5.0


@dataclass
class Handlers:
    """What a transport tells its owner, all on the event loop's thread."""

    frame: Callable[[str, Frame], None]
    connected: Callable[[str, str], None] = lambda peer, held: None
    disconnected: Callable[[str], None] = lambda peer: None
    refused: Callable[[str, Refusal], None] = lambda peer, refusal: None
    held: Callable[[str], str] = lambda peer: ""
    trace: Trace = lambda event, **fields: None


@dataclass
class Strangers:
    """Connections that have not said who they are, oldest first."""

    most: int = 256
    open: dict[int, tuple[socket.socket, asyncio.Task[None]]] = field(default_factory=dict)

    def admit(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        """One more; the oldest goes when there are too many."""
        self.open[id(task)] = (sock, task)
        task.add_done_callback(lambda done: self.open.pop(id(done), None))
        if len(self.open) > self.most:
            self.evict()

    def known(self, task: asyncio.Task[None] | None) -> None:
        """This one has said who it is."""
        self.open.pop(id(task), None)

    def evict(self) -> bool:
        """Close the oldest; False when there is none."""
        for key, (_, task) in self.open.items():
            del self.open[key]
            task.cancel(CROWDED)
            return True
        return False


class Transport:
    """All links of one party. Make it, ``start`` it and use it on one event loop."""

    def __init__(
        self,
        me: str,
        peers: Mapping[str, Peer],
        security: Security,
        handlers: Handlers,
        *,
        context: bytes,
        details: bytes = b"",
        listen: Address | None = None,
        bounds: Bounds | None = None,
        times: Times | None = None,
    ) -> None:
        self.me = me
        self.peers = peers
        self.context, self.details = context, details
        self.incarnation = os.urandom(ID_BYTES)
        self.port: int | None = None
        self._security, self._handlers = security, handlers
        self._listen, self._times = listen, times or Times()
        self._links = {name: Link(bounds) for name in peers}
        self._open: dict[str, Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers = Strangers(_stranger_cap(len(peers)))
        self._told: Counter[tuple[str, str]] = Counter()
        self._listener: socket.socket | None = None
        self._reserve = -1

    # --- what the owner calls ---------------------------------------------------------------

    async def start(self) -> None:
        """Listen, and dial whom this party dials. Raises OSError when it cannot listen."""
        if self._listen is not None:
            host, port = self._listen
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=1024)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self._reserve = os.open(os.devnull, os.O_RDONLY)
            self._spawn(self._accept(self._listener))
        for peer in self.peers.values():
            if peer.reach is not None:
                self._spawn(self._dial(peer))
        self._spawn(self._heartbeat())

    async def stop(self) -> None:
        """Say goodbye and close everything."""
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self._open.values()):
            connection.alive()
            connection.bye()
            connection.close("this side has left")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
            os.close(self._reserve)

    def post(self, to: str, frame: Frame) -> None:
        """Queue a frame for a peer; it goes out now or when the peer is back."""
        lost = self._links[to].post(frame)
        if lost:
            self._tell("overflow", to, frames=lost)
        connection = self._open.get(to)
        if connection is not None:
            connection.channel.wake()

    def forget(self, labels: set[Label]) -> None:
        """These labels matter no more."""
        for link in self._links.values():
            link.forget(labels)

    def pause(self, peer: str) -> None:
        """Read nothing more of this peer for now."""
        if (connection := self._open.get(peer)) is not None:
            connection.channel.pause()

    def resume(self, peer: str) -> None:
        """Read the peer again."""
        if (connection := self._open.get(peer)) is not None:
            connection.channel.resume()

    @property
    def connected(self) -> frozenset[str]:
        """Who is connected now."""
        return frozenset(self._open)

    @property
    def owing(self) -> frozenset[str]:
        """Who has not acknowledged everything."""
        return frozenset(name for name, link in self._links.items() if link.owes)

    # --- what connections ask (Hub) ---------------------------------------------------------

    def held(self, peer: str) -> str:
        """See Hub."""
        return self._handlers.held(peer)

    def link(self, peer: str) -> Link:
        """See Hub."""
        return self._links[peer]

    def expects(self, peer: str) -> Mapping[str, int]:
        """See Hub."""
        return self.peers[peer].expects

    def welcome(self, connection: Connection) -> None:
        """See Hub."""
        peer = connection.peer
        assert peer is not None, "an open connection has a peer"
        assert connection.hello is not None, "an open connection has heard one"
        before = self._open.pop(peer, None)
        if before is not None:
            before.close("replaced by a newer connection")
        self._open[peer] = connection
        self._handlers.trace("connected", peer=peer)
        self._handlers.connected(peer, connection.hello.held)

    def parted(self, connection: Connection, error: Exception | None) -> None:
        """See Hub."""
        peer = connection.peer
        if peer is not None and self._open.get(peer) is connection:
            del self._open[peer]
            self._handlers.trace("disconnected", peer=peer, why=connection.why)
            self._handlers.disconnected(peer)

    def refused_by(self, peer: str, refusal: Refusal) -> None:
        """See Hub."""
        self._tell("refused-by", peer, reason=refusal.code, why=refusal.text)
        self._handlers.refused(peer, refusal)

    def take(self, peer: str, frame: Frame) -> None:
        """See Hub."""
        self._handlers.frame(peer, frame)

    # --- accepting --------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                await self._exhausted(listener, error)
                continue
            task = self._spawn(self._answer(sock, f"{address[0]}:{address[1]}"))
            self._strangers.admit(sock, task)

    async def _exhausted(self, listener: socket.socket, error: OSError) -> None:
        """No descriptor is left: make room, and turn away who waits longest."""
        self._tell("refused", "", why=f"cannot accept: {error.strerror}")
        if error.errno in (errno.EMFILE, errno.ENFILE) and not self._strangers.evict():
            os.close(self._reserve)
            with contextlib.suppress(OSError):
                listener.accept()[0].close()
            self._reserve = os.open(os.devnull, os.O_RDONLY)
        await asyncio.sleep(0.02)

    async def _answer(self, sock: socket.socket, address: str) -> None:
        """A connection that somebody opened to us."""
        sock.setblocking(False)
        connection = None
        try:
            async with asyncio.timeout(self._times.handshake_s):
                sock, peer = await self._security.accept(sock)
                _prompt(sock)
                connection = Connection(self, sock, peer)
                await connection.greeted
            self._strangers.known(asyncio.current_task())
        except Refused as refused:
            self._tell("refused", address, why=str(refused))
        except TimeoutError:
            self._tell("refused", address, why="it did not say who it is in time")
        except asyncio.CancelledError as cancelled:
            if CROWDED in cancelled.args:
                self._tell("refused", address, why=CROWDED)
            raise
        finally:
            if connection is None or connection.stage != "open":
                await self._closed(connection, sock, address)

    async def _closed(
        self, connection: Connection | None, sock: socket.socket, address: str
    ) -> None:
        """End a connection that never opened; what was refused is told with its reason."""
        if connection is None:
            sock.close()  # nothing is left of it where TLS took it over
            return
        if connection.stage in ("refused", "closed"):
            self._tell("refused", connection.peer or address, why=connection.why)
        if connection.stage == "refused" and not connection.channel.closed:
            await asyncio.sleep(0.2)  # the other side's own reasons may still come
            if not connection.channel.closed:
                await part(connection.channel.detach())
        connection.close(connection.why)

    # --- dialling ---------------------------------------------------------------------------

    async def _dial(self, peer: Peer) -> None:
        """Keep one connection to this peer, for ever."""
        wait_s = self._times.retry_s
        while True:
            connection = await self._try(peer)
            if connection is not None:
                wait_s = self._times.retry_s
                await connection.over
            await asyncio.sleep(wait_s * (0.5 + random.random()))  # spreads retries
            wait_s = min(2 * wait_s, self._times.retry_most_s)

    async def _try(self, peer: Peer) -> Connection | None:
        """One attempt to reach a peer; None when it failed, which is told."""
        sock, connection = None, None
        try:
            assert peer.reach is not None, "only who is reached is dialled"
            async with asyncio.timeout(self._times.connect_s):
                sock = await peer.reach()
            async with asyncio.timeout(self._times.handshake_s):
                sock = await self._secured(sock, peer)
                _prompt(sock)
                connection = Connection(self, sock, peer.name)
                if await connection.greeted:
                    return connection
            self._failed(peer, connection.why, connection.error)
        except Refused as refused:
            self._failed(peer, str(refused), refused)
        except TimeoutError:
            self._failed(peer, "no answer in time", None)
        except OSError as error:
            self._failed(peer, error.strerror or str(error), error)
        if connection is not None:
            await self._closed(connection, connection.channel.detach(), peer.name)
        elif sock is not None:
            sock.close()
        return None

    async def _secured(self, sock: socket.socket, peer: Peer) -> socket.socket:
        if not peer.accepting:
            return await self._security.dial(sock, peer.name)
        secured, name = await self._security.accept(sock)
        if name not in (None, peer.name):
            raise Refused(f"{name} answered where {peer.name} was expected")
        return secured

    def _failed(self, peer: Peer, why: str, error: Exception | None) -> None:
        ours = self._security.explain(error)
        if ours is not None:
            self.refused_by(peer.name, Refusal("identity", ours))
        else:
            self._tell("unreachable", peer.name, why=why)

    # --- care -------------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        """Close connections that have died without a word; show the others that this end lives."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._times.heartbeat_s)
            for connection in list(self._open.values()):
                if loop.time() - connection.heard_at > self._times.quiet_s:
                    connection.close("nothing was heard for too long")
                else:
                    connection.alive()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _tell(self, event: str, who: str, **fields: Any) -> None:
        """Say it the first, second, fourth, eighth... time: nobody may fill our records."""
        key = (event, who.rpartition(":")[0] or who)
        count = self._told[key] = self._told[key] + 1
        if len(self._told) > 10_000:
            self._told.clear()
        if count & (count - 1) == 0:
            self._handlers.trace(event, peer=who, count=count, **fields)


def _prompt(sock: socket.socket) -> None:
    """Small frames go out at once."""
    with contextlib.suppress(OSError):  # a local pair of sockets has no such option
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _stranger_cap(peers: int) -> int:
    """How many strangers may be connected: an eighth of what descriptors allow beside the peers."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(16, min(256, (limit - 2 * peers - 64) // 8))


def to_address(address: Address) -> Callable[[], Any]:
    """How a party with an address is reached."""

    async def reach() -> socket.socket:
        loop = asyncio.get_running_loop()
        last: OSError = OSError(f"{address[0]} has no address")
        for family, kind, proto, _, place in await loop.getaddrinfo(
            *address, type=socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, proto)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, place)
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError):
                    raise
                last = error
            else:
                return sock
        raise last

    return reach

"""One party's connections: accepts, dials, greets, reconnects, and loses nothing on the way.

``Security`` says how a bare socket becomes one that knows its peer: ``tls.PinnedTls`` in earnest,
``Plain`` (names are believed) for tests and measurements. Strangers are bounded in number, time and
bytes; known peers in what they may send.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from ostraka.drivers.channel import PACKETS
from ostraka.drivers.connection import Connection, Refusal, reason_of
from ostraka.drivers.door import CROWDED, Door
from ostraka.drivers.link import ID_BYTES, Bounds, Link
from ostraka.drivers.pace import Pace, Tempo
from ostraka.drivers.security import Refused, Security
from ostraka.drivers.teller import Teller
from ostraka.net import Label, Trace
from ostraka.party import Frame

Address = tuple[str, int]
ONE_PLACE_S = 2.0
LAST_WORDS_S = 0.2
FAREWELL_S = 1.0


CONNECTIONS_A_SECOND, CONNECTIONS_AT_ONCE = 1.0, 30.0
DOUBLE = "another process with the same identity has connected since"


@dataclass(frozen=True)
class Peer:
    """A party that this one is linked with.

    ``reach`` gives a connected socket where this side opens the connection (None: the peer does).
    ``expects``: the kinds that it may send, with their longest bodies.
    ``accepting``: this side plays the TLS server although it opened the connection (relays).
    ``bounds``: what is kept for it while it is away (None: the transport's); ``tempo``: how quickly
    it may send frames.
    """

    name: str
    expects: Mapping[str, int]
    reach: Callable[[], Any] | None = None
    accepting: bool = False
    bounds: Bounds | None = None
    tempo: Tempo = PACKETS


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
    disconnected: Callable[[str, str], None] = lambda peer, why: None
    refused: Callable[[str, Refusal], None] = lambda peer, refusal: None
    held: Callable[[str], str] = lambda peer: ""
    trace: Trace = lambda event, **fields: None


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
        self._links = {name: Link(peer.bounds or bounds) for name, peer in peers.items()}
        self._open: dict[str, Connection] = {}
        self._paused: set[str] = set()
        self._paces = {name: Pace(CONNECTIONS_A_SECOND, CONNECTIONS_AT_ONCE) for name in peers}
        self._tasks: set[asyncio.Task[None]] = set()
        self._door = Door(self._answer, self._turned_away, len(peers))
        self._tell = Teller(handlers.trace)
        self._random = random.Random()  # spreads retries, nothing else

    # --- what the owner calls ---------------------------------------------------------------

    async def start(self) -> None:
        """Listen, and dial whom this party dials. Raises OSError when it cannot listen."""
        if self._listen is not None:
            self.port = self._door.open(*self._listen)
        for peer in self.peers.values():
            if peer.reach is not None:
                self._spawn(self._dial(peer))
        self._spawn(self._heartbeat())

    async def stop(self) -> None:
        """Say goodbye and close everything, within some 2 s."""
        leaving = [c.part("this side has left", FAREWELL_S) for c in self._open.values()]
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*leaving, self._door.close(), *self._tasks, return_exceptions=True)
        for connection in list(self._open.values()):
            connection.close("this side has left")  # it opened in the last moment

    def post(self, to: str, frame: Frame) -> None:
        """Queue a frame for a peer; it goes out now or when the peer is back."""
        lost = self._links[to].post(frame)
        if lost:
            self._tell("overflow", to, "it was away for too long", frames=lost)
        connection = self._open.get(to)
        if connection is not None:
            connection.channel.wake()

    def forget(self, labels: set[Label]) -> None:
        """These labels matter no more."""
        for link in self._links.values():
            link.forget(labels)

    def pause(self, peer: str) -> None:
        """Read nothing more of this peer until ``resume``, on whatever connection."""
        self._paused.add(peer)
        if (connection := self._open.get(peer)) is not None:
            connection.channel.pause()

    def resume(self, peer: str) -> None:
        """Read the peer again."""
        self._paused.discard(peer)
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

    def tempo(self, peer: str) -> Tempo:
        """See Hub."""
        return self.peers[peer].tempo

    def welcome(self, connection: Connection, peer: str, held: str) -> None:
        """See Hub."""
        before = self._open.get(peer)
        self._open[peer] = connection
        if before is not None and before.incarnation != connection.incarnation:
            # An older process of this peer lives, or its end was never heard of.
            self._tell("replaced", peer, DOUBLE)
            before.dismiss(Refusal("busy", DOUBLE))
        elif before is not None:
            before.close("replaced by a newer connection")
        else:
            self._handlers.trace("connected", peer=peer)
        self._handlers.connected(peer, held)
        if peer in self._paused:
            connection.channel.pause()

    def parted(self, connection: Connection, peer: str) -> None:
        """See Hub."""
        if self._open.get(peer) is connection:
            del self._open[peer]
            self._handlers.trace("disconnected", peer=peer, why=connection.why)
            self._handlers.disconnected(peer, connection.why)

    def refused_by(self, peer: str, refusal: Refusal) -> None:
        """See Hub."""
        self._tell("refused-by", peer, refusal.text, reason=refusal.code)
        self._handlers.refused(peer, refusal)

    def take(self, peer: str, frame: Frame) -> None:
        """See Hub."""
        self._handlers.frame(peer, frame)

    # --- accepting --------------------------------------------------------------------------

    async def _answer(self, sock: socket.socket, address: str) -> None:
        """A connection that somebody opened to us."""
        _prompt(sock)
        connection = None
        try:
            async with asyncio.timeout(self._times.handshake_s):
                sock, peer = await self._security.accept(sock)
                self._not_too_often(peer)
                connection = Connection(self, sock, peer)
                if await connection.greeted:
                    return
            if connection.refused is not None or connection.declined is None:
                self._turned_away(connection.peer or address, connection.why)
            await _dismiss(connection)
        except Refused as refused:
            self._turned_away(address, str(refused))
        except TimeoutError:
            self._turned_away(address, "it did not say who it is in time")
        except asyncio.CancelledError as cancelled:
            if CROWDED in cancelled.args:
                self._turned_away(address, CROWDED)
            raise
        except OSError as error:
            self._broken("refused", address, error)
        finally:
            _abandon(connection, sock)

    def _not_too_often(self, peer: str | None) -> None:
        """Raise Refused for a peer whose connections come and go too quickly to be of use."""
        if peer in self._paces:
            now = asyncio.get_running_loop().time()
            if self._paces[peer].rest_s(1, now) > 0.0:
                raise Refused(f"{peer} connects too often")

    def _turned_away(self, who: str, why: str) -> None:
        self._tell("refused", who, why)

    def _broken(self, event: str, who: str, error: OSError) -> None:
        """A handshake broke off. What was said against us counts nothing: anybody can say it."""
        ours = self._security.explain(error)
        if ours is None:
            self._tell(event, who, reason_of(error))
        else:
            self._tell("refused-by", who, ours, reason="identity")

    # --- dialling ---------------------------------------------------------------------------

    async def _dial(self, peer: Peer) -> None:
        """Keep one connection to this peer, for ever."""
        wait_s = self._times.retry_s
        while True:
            await self._try(peer)
            while (connection := self._open.get(peer.name)) is not None:
                await asyncio.wait([connection.over])  # it may be one that the peer opened
                wait_s = self._times.retry_s
            rest_s = self._paces[peer.name].rest_s(1, asyncio.get_running_loop().time())
            await asyncio.sleep(max(rest_s, wait_s * (0.5 + self._random.random())))
            wait_s = min(2 * wait_s, self._times.retry_most_s)

    async def _try(self, peer: Peer) -> None:
        """One attempt to reach a peer; what fails is told."""
        sock, connection = None, None
        try:
            async with asyncio.timeout(self._times.connect_s):
                sock = await self._reach(peer)
            _prompt(sock)
            async with asyncio.timeout(self._times.handshake_s):
                sock = await self._secured(sock, peer)
                connection = Connection(self, sock, peer.name)
                if await connection.greeted:
                    return
            self._failed(peer.name, connection)
            await _dismiss(connection)
        except Refused as refused:  # by us, or by a relay on the way
            self._tell("unreachable" if sock is None else "refused", peer.name, str(refused))
        except TimeoutError:
            self._tell("unreachable", peer.name, "no answer in time")
        except OSError as error:
            self._broken("unreachable", peer.name, error)
        finally:
            _abandon(connection, sock)

    async def _reach(self, peer: Peer) -> socket.socket:
        if peer.reach is None:
            raise OSError(f"{peer.name} has no address")
        sock: socket.socket = await peer.reach()
        return sock

    async def _secured(self, sock: socket.socket, peer: Peer) -> socket.socket:
        if not peer.accepting:
            return await self._security.dial(sock, peer.name)
        secured, name = await self._security.accept(sock)
        if name not in (None, peer.name):
            secured.close()
            raise Refused(f"{name} answered where {peer.name} was expected")
        return secured

    def _failed(self, peer: str, connection: Connection) -> None:
        """The peer proved who it is, yet the connection did not open."""
        ours = self._security.explain(connection.error)
        if ours is not None:
            self.refused_by(peer, Refusal("identity", ours))
        elif connection.refused is not None:
            self._turned_away(peer, connection.why)
        elif connection.declined is None:
            self._tell("unreachable", peer, connection.why)

    # --- care -------------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        """Close connections that have died without a word; show the others that this end lives."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._times.heartbeat_s)
            for connection in list(self._open.values()):
                channel = connection.channel
                if not channel.paused and loop.time() - channel.heard_at > self._times.quiet_s:
                    connection.close("nothing was heard for too long")
                else:
                    connection.alive()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _dismiss(connection: Connection) -> None:
    """Close a connection that did not open; the other side's own reasons may still come."""
    if connection.stage == "refused":
        await asyncio.wait([connection.over], timeout=LAST_WORDS_S)
    await connection.part(connection.why, FAREWELL_S)


def _abandon(connection: Connection | None, sock: socket.socket | None) -> None:
    """Leave nothing open of an attempt that ended, however it ended."""
    if connection is None:
        if sock is not None:
            sock.close()  # nothing is left of it where TLS took it over
    elif connection.stage in ("greeting", "refused"):
        connection.close(connection.why)


def _prompt(sock: socket.socket) -> None:
    """Small frames go out at once."""
    with contextlib.suppress(OSError):  # a local pair of sockets has no such option
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def to_address(address: Address) -> Callable[[], Any]:
    """How a party with an address is reached: every place of its name is tried in turn."""

    async def reach() -> socket.socket:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise OSError(f"{address[0]} is no name of a machine") from None
        last: OSError = OSError(f"{address[0]} has no address")
        for number, (family, kind, proto, _, place) in enumerate(found, 1):
            with contextlib.ExitStack() as undo:
                sock = undo.enter_context(socket.socket(family, kind, proto))
                sock.setblocking(False)
                try:
                    async with asyncio.timeout(None if number == len(found) else ONE_PLACE_S):
                        await loop.sock_connect(sock, place)
                except OSError as error:
                    last = error
                else:
                    undo.pop_all()
                    return sock
        raise last

    return reach

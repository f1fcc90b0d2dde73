"""A non-blocking socket, plain or TLS, on an event loop: frames in, pieces out.

Python's ``ssl`` socket is driven directly instead of through asyncio's TLS transport: bytes are
decrypted straight into the frame's own memory, and every alert of the other side is seen.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable

from ostraka.drivers.frames import FrameReader, Packet, Violation
from ostraka.drivers.pace import Tempo
from ostraka.net import Body

BURST_BYTES = 1 << 20
"""At most so much is read or written before others have their turn."""
TURN_PACKETS = 32
"""And at most so many frames are read: a small one costs as much work as a megabyte's bytes."""
PACKETS = Tempo(a_second=500, at_once=1000)
"""A peer that sends more frames is read no faster. Most protocols need a few a round."""
LATER = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Source = Callable[[], list[Body] | None]


class Channel:
    """One connection. ``source`` is asked for the next pieces whenever the last ones are out.

    ``on_end`` hears once how it ended (None: the other side closed). ``on_violation`` hears of
    bytes that are no frames; nothing is read after them, closing is left to the hearer.
    """

    def __init__(
        self,
        sock: socket.socket,
        reader: FrameReader,
        *,
        source: Source,
        on_packet: Callable[[Packet], None],
        on_violation: Callable[[Violation], None],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._fd = sock.fileno()
        self._reader = reader
        self._source, self._on_packet = source, on_packet
        self._on_violation, self._on_end = on_violation, on_end
        self._out: deque[memoryview] = deque()
        self._writer_waits = False
        self._writable_at_all = True
        self._idle: asyncio.Future[None] | None = None
        self._reading = True
        self._deaf = False
        self._pace = PACKETS.pace()
        self._resting: asyncio.TimerHandle | None = None
        self._packets = 0
        self._again: asyncio.Handle | None = None
        self.heard_at = self._loop.time()
        self.closed = False
        self._loop.add_reader(self._fd, self._readable)

    def wake(self) -> None:
        """There may be something to send."""
        if not self.closed and not self._writer_waits:
            self._writable()

    def pause(self) -> None:
        """Read no more for now: whoever sends too much fills the network, not our memory."""
        if self._reading and not self.closed:
            self._reading = False
            if self._resting is None:
                self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again."""
        if not self._reading and not self._deaf and not self.closed:
            self._reading = True
            self.heard_at = self._loop.time()
            if self._resting is None:
                self._loop.add_reader(self._fd, self._readable)
                self._later()

    def allow(self, tempo: Tempo) -> None:
        """From now on frames may come at this tempo: the other side is known."""
        self._pace = tempo.pace()

    @property
    def paused(self) -> bool:
        """Whether nothing is read now, so that silence means nothing."""
        return not self._reading

    async def depart(self, wait_s: float) -> None:
        """Send what the source still has, then close so that the other side can read it.

        Nothing is read as a frame any more. What is not out after ``wait_s`` is lost.
        """
        self.pause()
        self._deaf = True
        end = self._loop.time() + wait_s
        try:
            async with asyncio.timeout_at(end):
                while self._writer_waits and not self.closed:
                    self._idle = self._loop.create_future()
                    await self._idle
        except TimeoutError:
            pass
        finally:
            if not self.closed:
                self.closed = True
                self._leave_loop()
                await part(self._sock, max(0.0, end - self._loop.time()))

    def close(self) -> None:
        """Close without a word to ``on_end``."""
        if not self.closed:
            self.closed = True
            self._leave_loop()
            self._sock.close()

    def _end(self, error: Exception | None) -> None:
        if not self.closed:
            self.close()
            self._on_end(error)

    def _leave_loop(self) -> None:
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        for handle in (self._again, self._resting):
            if handle is not None:
                handle.cancel()
        self._settle()

    # --- in ---------------------------------------------------------------------------------

    def _later(self) -> None:
        """Read on in the loop's next turn, whatever the socket shows."""
        if self._again is None:
            self._again = self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._again = None
        self._readable()

    def _readable(self) -> None:
        taken = self._packets = 0
        while taken < BURST_BYTES and self._packets < TURN_PACKETS and self._wants():
            try:
                count = self._sock.recv_into(self._reader.room())
            except LATER:
                break
            except OSError as error:  # ssl.SSLError is one
                self._end(error)
                return
            if count == 0:
                self._end(None)
                return
            taken += count
            self.heard_at = self._loop.time()
            self._advance(count)
        self._rest()
        if self._wants() and _decrypted(self._sock):
            self._later()

    def _wants(self) -> bool:
        return self._reading and self._resting is None and not self.closed

    def _rest(self) -> None:
        """Read nothing for a while when too many frames came."""
        rest_s = self._pace.rest_s(self._packets, self._loop.time())
        if rest_s > 0.0 and self._wants():
            self._loop.remove_reader(self._fd)
            self._resting = self._loop.call_later(rest_s, self._rested)

    def _rested(self) -> None:
        self._resting = None
        if self._wants():
            self._loop.add_reader(self._fd, self._readable)
            self._later()

    def _advance(self, count: int) -> None:
        """Hand over the frame that these bytes end, if they end one."""
        try:
            packet = self._reader.advance(count)
            if packet is not None:
                self._packets += 1
                self._on_packet(packet)
            if self._reader.broken:
                raise Violation("a frame that is too long ends the connection")
        except Violation as violation:
            self.pause()
            self._deaf = True
            if not self.closed:
                self._on_violation(violation)

    # --- out --------------------------------------------------------------------------------

    def _writable(self) -> None:
        sent = 0
        while sent < BURST_BYTES and self._writable_at_all and not self.closed:
            if not self._out and not self._refill():
                self._wait_to_write(False)
                return
            try:
                count = self._sock.send(self._out[0])
            except LATER:
                break
            except OSError as error:
                self._unwritable(error)
                return
            sent += count
            if count == len(self._out[0]):
                self._out.popleft()
            else:
                self._out[0] = self._out[0][count:]
        if self._writable_at_all and not self.closed:
            self._wait_to_write(True)

    def _unwritable(self, error: OSError) -> None:
        """The other side has closed; why it did so may still lie there to be read."""
        self._writable_at_all = False
        self._wait_to_write(False)
        self._loop.call_soon(self._read_last, error)

    def _read_last(self, error: OSError) -> None:
        self._readable()
        self._end(error)

    def _refill(self) -> bool:
        pieces = self._source()
        if not pieces:
            return False
        self._out.extend(memoryview(piece).cast("B") for piece in pieces)
        return True

    def _wait_to_write(self, wait: bool) -> None:
        if wait != self._writer_waits:
            self._writer_waits = wait
            if wait:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)
                self._settle()

    def _settle(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)


def _decrypted(sock: socket.socket) -> bool:
    """Whether TLS holds decrypted bytes that the socket does not show."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


async def ready(sock: socket.socket, *, to_write: bool) -> None:
    """Wait until the socket can be read or written."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def wake() -> None:
        if not done.done():
            done.set_result(None)

    add, remove = (
        (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
    )
    fd = sock.fileno()
    add(fd, wake)
    try:
        await done
    finally:
        remove(fd)


async def part(sock: socket.socket, wait_s: float = 1.0) -> None:
    """Close so that the other side can still read our last words: no reset wipes them out."""
    try:
        sock.setblocking(False)
        socket.socket.shutdown(sock, socket.SHUT_WR)
        async with asyncio.timeout(wait_s):
            for _ in range(64):
                await ready(sock, to_write=False)
                if not socket.socket.recv(sock, 1 << 16):
                    break
    except (OSError, ValueError):  # TimeoutError is an OSError; a closed socket has no descriptor
        pass
    finally:
        sock.close()

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
from ostraka.net import Body

BURST_BYTES = 1 << 20
"""At most so much is read or written before others have their turn."""
LATER = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Source = Callable[[], list[Body] | None]


class Channel:
    """One connection. ``source`` is asked for the next pieces whenever the last ones are out."""

    def __init__(
        self,
        sock: socket.socket,
        reader: FrameReader,
        *,
        source: Source,
        on_packet: Callable[[Packet], None],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._fd = sock.fileno()
        self._reader = reader
        self._source, self._on_packet, self._on_end = source, on_packet, on_end
        self._out: deque[memoryview] = deque()
        self._writer_waits = False
        self._reading = True
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
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again."""
        if not self._reading and not self.closed:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)
            self._loop.call_soon(self._readable)

    def detach(self) -> socket.socket:
        """Stop working on the socket and hand it over, open."""
        self._leave_loop()
        self.closed = True
        return self._sock

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

    def _readable(self) -> None:
        taken = 0
        try:
            while taken < BURST_BYTES and self._reading and not self.closed:
                count = self._sock.recv_into(self._reader.room())
                if count == 0:
                    self._end(None)
                    return
                taken += count
                packet = self._reader.advance(count)
                if packet is not None:
                    self._on_packet(packet)
                if self._reader.broken:
                    raise Violation("a frame that is too long ends the connection")
        except LATER:
            return
        except (OSError, Violation) as error:  # ssl.SSLError is an OSError
            self._end(error)
            return
        # TLS may hold decrypted bytes that the socket does not show.
        if self._reading and not self.closed:
            self._loop.call_soon(self._readable)

    def _writable(self) -> None:
        sent = 0
        try:
            while sent < BURST_BYTES and not self.closed:
                if not self._out and not self._refill():
                    self._wait_to_write(False)
                    return
                count = self._sock.send(self._out[0])
                sent += count
                if count == len(self._out[0]):
                    self._out.popleft()
                else:
                    self._out[0] = self._out[0][count:]
        except LATER:
            pass
        except OSError as error:
            self._readable()  # why the other side closed may still lie there to be read
            self._end(error)
            return
        if not self.closed:
            self._wait_to_write(True)

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
    except (OSError, TimeoutError, ValueError):
        pass
    finally:
        sock.close()

"""A bad network for real sockets: a TCP proxy that delays, cuts, corrupts, throttles, partitions.

For rehearsals (`ostraka local`) and tests. What passes through it is never lost but by a cut, as
with TCP: a partition holds bytes and new connections until it heals. Chance comes from a seed;
which chunk meets it depends on timing, so a seed repeats the amount of trouble, not each fault.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar

Address = tuple[str, int]
T = TypeVar("T")
Waiting = asyncio.Queue[tuple[float, bytes]]  # chunks, each with the time when it is due

CHUNK_BYTES = 64 * 1024
CHUNKS_QUEUED = 64  # per direction of a connection: at most 4 MiB wait for their time
SLICES_PER_S = 20  # how smoothly a throttle lets bytes through
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all: close sends RST
CALL_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with the way to one target; times in seconds.

    A chunk is what one read finds, at most 64 KiB. ``cut_chance`` and ``corrupt_chance`` are per
    forwarded chunk: to reset its connection (after a random part of the chunk), to flip one of its
    bits. ``delay_s`` is one way; ``jitter_s`` adds up to so much, order stays.
    ``throttle_bytes_s`` is per direction of a connection. ``partitions`` are (start, end) and
    ``cut_at`` moments after the proxy's start: nothing passes, every open connection is reset.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    cut_chance: float = 0.0
    corrupt_chance: float = 0.0
    throttle_bytes_s: float | None = None
    partitions: tuple[tuple[float, float], ...] = ()
    cut_at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be."""
        for name in ("cut_chance", "corrupt_chance"):
            if not 0.0 <= (chance := getattr(self, name)) <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1, got {chance}")
        for name in ("delay_s", "jitter_s"):
            if not 0.0 <= (seconds := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must be 0 or more seconds, got {seconds}")
        if self.throttle_bytes_s is not None and not 0.0 < self.throttle_bytes_s < math.inf:
            raise ValueError(f"throttle_bytes_s must be positive, got {self.throttle_bytes_s}")
        for start, end in self.partitions:
            if not 0.0 <= start < end:
                raise ValueError(f"a partition must end after its start, got {start} to {end}")
        for at in self.cut_at:
            if not 0.0 <= at < math.inf:
                raise ValueError(f"cut_at must be 0 or more seconds, got {at}")


@dataclass(slots=True)
class Counters:
    """What a proxy has done: connections accepted, bytes forwarded each way, connections cut."""

    connections: int = 0
    bytes_to_target: int = 0
    bytes_from_target: int = 0
    cuts: int = 0


class Proxy:
    """Forwards connections to one target through one kind of bad network, in the running loop."""

    def __init__(self, target: Address, faults: Faults, seed: int) -> None:
        self.counters = Counters()
        self._target = target
        self._faults = faults
        self._random = random.Random(seed)
        self._open = asyncio.Event()
        self._open.set()
        self._holds: set[object] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; the clock of partitions and cuts starts. Gives the port; raises OSError."""
        family = _family(host)
        self._listener = socket.create_server((host, port), family=family, backlog=2048)
        self._listener.setblocking(False)
        bound: int = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(self._listener))
        for number, (start, end) in enumerate(self._faults.partitions):
            self._later(start, self._hold, number)
            self._later(end, self._release, number)
        for at in self._faults.cut_at:
            self._later(at, self.cut)
        return bound

    async def stop(self) -> None:
        """Stop listening and reset every connection."""
        for timer in self._timers:
            timer.cancel()
        tasks = [*self._connections, *filter(None, [self._accepting])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    def hold(self) -> None:
        """Partition by hand: nothing passes, new connections hang, until `release`."""
        self._hold("by hand")

    def release(self) -> None:
        """Heal what `hold` did; partitions of the plan go on."""
        self._release("by hand")

    def cut(self) -> None:
        """Reset every open connection, those that hang too."""
        for task in self._connections:
            if not task.cancelling():
                self.counters.cuts += 1
                task.cancel()

    def _hold(self, why: object) -> None:
        self._holds.add(why)
        self._open.clear()

    def _release(self, why: object) -> None:
        self._holds.discard(why)
        if not self._holds:
            self._open.set()

    def _later(self, seconds: float, do: Callable[..., None], *args: object) -> None:
        if seconds <= 0.0:
            do(*args)
        elif seconds < math.inf:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(seconds, do, *args))

    # --- connections ------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                near, _ = await loop.sock_accept(listener)
            except OSError:  # out of descriptors, or the caller left: the next may do better
                await asyncio.sleep(0.05)
                continue
            self.counters.connections += 1
            task = asyncio.create_task(self._serve(near))
            self._connections.add(task)
            task.add_done_callback(functools.partial(self._gone, near))

    def _gone(self, near: socket.socket, task: asyncio.Task[None]) -> None:
        near.close()  # still open if the task was cut before it began
        self._connections.discard(task)

    async def _serve(self, near: socket.socket) -> None:
        """One connection until both ways have ended, or one end, a fault or `cut` resets it."""
        ends, ended = [near], False
        try:
            far = socket.socket(_family(self._target[0]))
            ends.append(far)
            for end in ends:
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._open.wait()
            await asyncio.get_running_loop().sock_connect(far, self._target)
            async with asyncio.TaskGroup() as group:
                self._pump(group, near, far, self._count_to_target)
                self._pump(group, far, near, self._count_from_target)
            ended = True
        except* OSError:
            pass  # an end was reset or refused, or a fault did it: the other learns it as a reset
        finally:
            for end in ends:
                if not ended:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                end.close()

    def _pump(
        self,
        group: asyncio.TaskGroup,
        source: socket.socket,
        sink: socket.socket,
        count: Callable[[int], None],
    ) -> None:
        waiting: Waiting = asyncio.Queue(CHUNKS_QUEUED)
        group.create_task(self._take(source, waiting))
        group.create_task(self._give(sink, waiting, count))

    async def _take(self, source: socket.socket, waiting: Waiting) -> None:
        """Read chunks and note when each is due; an empty one says that no more will come."""
        loop, faults = asyncio.get_running_loop(), self._faults
        while True:
            chunk = await loop.sock_recv(source, CHUNK_BYTES)
            delay_s = faults.delay_s + faults.jitter_s * self._random.random()
            await waiting.put((loop.time() + delay_s, chunk))
            if not chunk:
                return

    async def _give(
        self, sink: socket.socket, waiting: Waiting, count: Callable[[int], None]
    ) -> None:
        """Send each chunk when it is due and nothing holds it, as the faults have it."""
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await waiting.get()
            await asyncio.sleep(due - loop.time())
            if not chunk:
                await self._open.wait()
                sink.shutdown(socket.SHUT_WR)
                return
            if self._happens(self._faults.corrupt_chance):
                chunk = self._flipped(chunk)
            cut = self._happens(self._faults.cut_chance)
            if cut:
                chunk = chunk[: self._random.randrange(len(chunk))]
            await self._send(sink, chunk, count)
            if cut:
                self.counters.cuts += 1
                raise ConnectionResetError("cut by the proxy")

    async def _send(self, sink: socket.socket, chunk: bytes, count: Callable[[int], None]) -> None:
        """Send a chunk; a hold stops it at once, even half-way."""
        rate = self._faults.throttle_bytes_s
        most = len(chunk) if rate is None else max(1, int(rate / SLICES_PER_S))
        view = memoryview(chunk)
        while view:
            await self._open.wait()
            try:
                sent = sink.send(view[:most])
            except BlockingIOError:
                await _writable(sink)
                continue
            view = view[sent:]
            count(sent)
            if rate is not None:
                await asyncio.sleep(sent / rate)

    def _happens(self, chance: float) -> bool:
        return chance > 0.0 and self._random.random() < chance

    def _flipped(self, chunk: bytes) -> bytes:
        altered = bytearray(chunk)
        altered[self._random.randrange(len(chunk))] ^= 1 << self._random.randrange(8)
        return bytes(altered)

    def _count_to_target(self, count: int) -> None:
        self.counters.bytes_to_target += count

    def _count_from_target(self, count: int) -> None:
        self.counters.bytes_from_target += count


async def _writable(sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sink, _mark, ready)
    try:
        await ready
    finally:
        loop.remove_writer(sink)


def _mark(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class ProxyThread:
    """Any number of proxies in a daemon thread of their own, for code that runs no event loop.

    A context manager. Calls may come from any thread; each waits until it is done.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._proxies: dict[int, Proxy] = {}

    def start(self) -> None:
        """Start the thread; nothing if it runs."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="ostraka-proxies", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Stop every proxy, reset their connections and end the thread; nothing if none runs."""
        if self._loop is None or self._thread is None:
            return
        for proxy in self._proxies.values():
            self._call(proxy.stop())
        self._proxies.clear()
        self._call(self._loop.shutdown_default_executor())  # it looked up the targets' names
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def add(self, target: Address, faults: Faults, seed: int = 0, host: str = "127.0.0.1") -> int:
        """One more proxy; gives the port of ``host`` where it listens. Raises OSError."""

        async def begin() -> tuple[int, Proxy]:
            proxy = Proxy(target, faults, seed)
            return await proxy.start(host), proxy

        port, proxy = self._call(begin())
        self._proxies[port] = proxy
        return port

    def hold(self, port: int) -> None:
        """See `Proxy.hold`."""
        self._soon(self._proxies[port].hold)

    def release(self, port: int) -> None:
        """See `Proxy.release`."""
        self._soon(self._proxies[port].release)

    def cut(self, port: int) -> None:
        """See `Proxy.cut`."""
        self._soon(self._proxies[port].cut)

    def counters(self, port: int) -> Counters:
        """What the proxy at this port has done so far, as a copy."""
        return replace(self._proxies[port].counters)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def _soon(self, do: Callable[[], None]) -> None:
        async def run() -> None:
            do()

        self._call(run())

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise ValueError("the proxies' thread is not running: call start() first")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S_MAX)

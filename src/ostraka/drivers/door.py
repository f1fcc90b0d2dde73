"""A listening socket that strangers cannot block: bounded in number, time and descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import resource
import socket
from collections.abc import Callable, Coroutine
from typing import Any

CROWDED = "too many strangers at once; it was the oldest"
PAUSE_S = 0.005

Answer = Callable[[socket.socket, str], Coroutine[Any, Any, None]]


class Door:
    """Accepts connections and lets ``answer`` find out who they are, oldest out first.

    ``answer(sock, address)`` runs as a task for every connection; until it calls ``known`` the
    connection counts as a stranger's, and when there are too many the oldest one's task is
    cancelled (with the message CROWDED). ``tell(address, why)`` hears what could not be accepted.
    """

    def __init__(self, answer: Answer, tell: Callable[[str, str], None], known: int) -> None:
        self._answer, self._tell = answer, tell
        self._most = _stranger_cap(known)
        self._strangers: dict[asyncio.Task[None], None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._reserve = -1

    def open(self, host: str, port: int) -> int:
        """Listen; gives the port. Raises OSError when that cannot be."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
        listener.setblocking(False)
        self._reserve = os.open(os.devnull, os.O_RDONLY)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))
        self._accepting.add_done_callback(lambda done: listener.close())
        found: int = listener.getsockname()[1]
        return found

    async def close(self) -> None:
        """Listen no more, and answer nobody any longer."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._release()

    def known(self) -> None:
        """The connection of the present task has said who it is."""
        task = asyncio.current_task()
        if task is not None:
            self._strangers.pop(task, None)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                self._exhausted(listener, error)
                await asyncio.sleep(PAUSE_S)
            else:
                self._admit(sock, f"{address[0]}:{address[1]}")
                await asyncio.sleep(0)  # a full backlog must not hold up those who are in

    def _admit(self, sock: socket.socket, address: str) -> None:
        sock.setblocking(False)
        task = self._spawn(self._answer(sock, address))
        self._strangers[task] = None
        task.add_done_callback(functools.partial(self._gone, sock))
        if len(self._strangers) > self._most:
            self._evict()

    def _exhausted(self, listener: socket.socket, error: OSError) -> None:
        """No descriptor is left: the oldest stranger goes, or else who knocks is turned away."""
        self._tell("", f"cannot accept: {error.strerror}")
        if error.errno in (errno.EMFILE, errno.ENFILE) and not self._evict():
            self._release()
            with contextlib.suppress(OSError):
                listener.accept()[0].close()
            with contextlib.suppress(OSError):  # somebody else was faster: the next time, then
                self._reserve = os.open(os.devnull, os.O_RDONLY)

    def _release(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _gone(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._strangers.pop(task, None)
        if task.cancelled():
            sock.close()  # still open where the task was cancelled before it began

    def _evict(self) -> bool:
        """Close the oldest stranger's connection; False when there is none."""
        for task in self._strangers:
            del self._strangers[task]
            task.cancel(CROWDED)
            return True
        return False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _stranger_cap(known: int) -> int:
    """How many strangers may be connected: half of what descriptors allow beside the known.

    All the known may come back at one time, and each is a stranger until it has said its name.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(16, min(256, (limit - 2 * known - 64) // 2))

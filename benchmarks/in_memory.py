"""What the benchmarks of `two_server` share: timers, a counter of bytes, and runs in one process.

Nothing here changes the programs that are measured: the timers are put around functions of the
modules for the length of a run, and the counter sits at the simulated network's seam.
"""

from __future__ import annotations

import functools
import inspect
import os
import platform
import resource
import sys
import threading
import time
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ostraka.app.folder import versions
from ostraka.crypto.prg import Key
from ostraka.crypto.transcript import digest
from ostraka.drivers.sim import Delivery, Simulation
from ostraka.mailbox import Limits
from ostraka.net import Abort, Program, Timeout
from ostraka.party import Frame

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""The second counts what all threads of this process use: for machines that do other work too."""
Clock = Callable[[], float]
PLAIN = "other"
"""The kind of work that no inner timer names."""


class Stopwatch:
    """Seconds by (phase, kind of work); each second counts once, for the innermost of both.

    A phase is a step of the protocol, a kind is what a processor does in it.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._clock = clock
        self._thread = threading.get_ident()
        self._stack = [("rest", PLAIN)]
        self._since = clock()
        self._undo: list[Callable[[], None]] = []

    def reset(self) -> None:
        """Forget everything so far; what is running goes on."""
        self._count()
        self.seconds.clear()

    def phases(self) -> dict[str, float]:
        """Seconds of every phase."""
        self._count()
        totals: dict[str, float] = defaultdict(float)
        for (phase, _), seconds in self.seconds.items():
            totals[phase] += seconds
        return dict(totals)

    def phase(self, name: str, *places: tuple[Any, str]) -> None:
        """Count calls of these functions, (module or class, attribute), as a phase."""
        for owner, attribute in places:
            self._wrap(owner, attribute, lambda now: (name, PLAIN))

    def kind(self, name: str, *places: tuple[Any, str]) -> None:
        """Count calls of these functions as a kind of work, in whatever phase they happen."""
        for owner, attribute in places:
            self._wrap(owner, attribute, lambda now: (now[0], name))

    def restore(self) -> None:
        """Take all timers away again."""
        while self._undo:
            self._undo.pop()()

    def _wrap(self, owner: Any, attribute: str, at: Callable[[tuple[str, str]], Any]) -> None:
        original = getattr(owner, attribute)

        @functools.wraps(original)
        def timed(*args: Any, **named: Any) -> Any:
            if threading.get_ident() != self._thread:  # counted where the work was handed out
                return original(*args, **named)
            with self._inside(at):
                return original(*args, **named)

        @functools.wraps(original)
        async def stepped(*args: Any, **named: Any) -> Any:
            return await self._steps(original(*args, **named), at)

        setattr(owner, attribute, stepped if inspect.iscoroutinefunction(original) else timed)
        self._undo.append(lambda: setattr(owner, attribute, original))

    @types.coroutine
    def _steps(self, inner: Coroutine[Any, Any, Any], at: Any) -> Generator[Any, Any, Any]:
        """Run a coroutine and count its own steps, not the time in which it waits."""
        answer: Any = None
        failure: Abort | Timeout | None = None
        try:
            while True:
                with self._inside(at):
                    try:
                        request = inner.throw(failure) if failure else inner.send(answer)
                    except StopIteration as end:
                        return end.value
                answer = failure = None
                try:
                    answer = yield request
                except (Abort, Timeout) as raised:
                    failure = raised
        finally:
            inner.close()

    @contextmanager
    def _inside(self, at: Callable[[tuple[str, str]], tuple[str, str]]) -> Generator[None]:
        self._count()
        self._stack.append(at(self._stack[-1]))
        try:
            yield
        finally:
            self._count()
            self._stack.pop()

    def _count(self) -> None:
        now = self._clock()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now


@dataclass
class LinkCounter:
    """An adversary that only counts: frames and bytes by (sender, receiver, kind of message)."""

    corrupt: frozenset[str] = frozenset()
    frames: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    bytes: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        at = role(sender), role(to), frame.kind
        self.frames[at] += 1
        self.bytes[at] += frame.size
        return (Delivery(sender, to, frame),)

    def reset(self) -> None:
        self.frames.clear()
        self.bytes.clear()

    def link(self, sender: str, to: str) -> int:
        """All bytes of a link in one direction."""
        return sum(size for (a, b, _), size in self.bytes.items() if (a, b) == (sender, to))


def role(name: str) -> str:
    """The role of a party of these benchmarks; all workers are one."""
    return "worker" if name.startswith("worker") else name


def key(*parts: object) -> Key:
    """A fixed key for a measurement; a real party takes its own from the operating system."""
    return Key(digest("benchmark", *(str(part).encode() for part in parts)))


def simulate(programs: Mapping[str, Program], counter: LinkCounter | None = None) -> dict[str, Any]:
    """Every party's result. RuntimeError when one of them did not end well."""
    room = Limits(unread_frames=1 << 20, unread_bytes=1 << 40, frame_bytes=1 << 40)
    outcomes = Simulation(programs, seed=0, adversary=counter, limits=room).run()
    for name, outcome in outcomes.items():
        if outcome.status != "done":
            raise RuntimeError(f"{name} {outcome.status}: {outcome.error or outcome.waiting}")
    return {name: outcome.result for name, outcome in outcomes.items()}


def best_of(times: int, action: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
    """Seconds of the fastest of several calls, after one that warms up."""
    action()
    seconds = []
    for _ in range(times):
        start = clock()
        action()
        seconds.append(clock() - start)
    return min(seconds)


def peak_gb() -> float:
    """The most memory that this process ever held, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    return {
        **versions(),
        "processor": cpu,
        "blas": f"{blas['name']} {blas['version']}",
        "numba": version("numba"),
        "cores": os.cpu_count(),
    }


def _name(function: Any) -> str:
    """The name of a function, or of that which a partial one hands on."""
    while isinstance(function, functools.partial):
        inner = function.args[0] if function.args else None
        function = inner if callable(inner) else function.func
    return str(getattr(function, "__name__", ""))

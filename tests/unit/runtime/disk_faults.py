"""Storage that fails on purpose: at the k-th file-system call, and a disk that loses its power.

Run as a program (`disk_faults.py SCENARIO FOLDER`) it forks one child for every k and way to die,
each in a folder of its own, and prints what each had acknowledged, one JSON list per line.
"""

import contextlib
import errno
import itertools
import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ostraka.drivers.checkpoint import Checkpoints
from ostraka.drivers.journal import Journal

CALLS = ("open", "write", "pwrite", "fsync", "ftruncate", "replace", "unlink", "mkdir", "close")
SPACE = ("open", "write", "pwrite", "fsync", "replace", "mkdir")  # what a full disk may refuse
WRITES = ("write", "pwrite")
ALL = [{"round": k, "digest": f"{k:064x}", "vote": k % 2 == 0} for k in range(6)]
OPERATIONS = 4
Hook = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@contextlib.contextmanager
def hooked(hook: Hook) -> Iterator[None]:
    """Let every file-system call of this process go through a hook."""
    originals = {name: getattr(os, name) for name in CALLS}

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **named: hook(name, call, args, named)

    for name, call in originals.items():
        setattr(os, name, wrap(name, call))
    try:
        yield
    finally:
        for name, call in originals.items():
            setattr(os, name, call)


def half(args: tuple[Any, ...]) -> tuple[Any, ...]:
    file, data, *rest = args
    return (file, bytes(data)[: len(data) // 2], *rest)


class Killer:
    """Ends the process at the k-th call: before it, after it, or half-way through a write."""

    def __init__(self, at: int, how: str) -> None:
        self.at, self.how, self.count = at, how, 0

    def __call__(self, name: str, call: Any, args: Any, named: Any) -> Any:
        self.count += 1
        if self.count != self.at:
            return call(*args, **named)
        try:  # the call may fail by itself: there is nothing to unlink
            if self.how == "after":
                return call(*args, **named)
            if self.how == "half" and name in WRITES:
                return call(*half(args), **named)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)


class Failing:
    """The k-th call raises, maybe after half a write; or all that need space, until healed."""

    def __init__(self, at: int, how: str, code: int) -> None:
        self.at, self.how, self.code = at, how, code
        self.count = self.fired = 0
        self.healed = False

    def __call__(self, name: str, call: Any, args: Any, named: Any) -> Any:
        self.count += 1
        lasting = self.how == "lasting" and self.count >= self.at and name in SPACE
        if self.healed or not (lasting or (self.how != "lasting" and self.count == self.at)):
            return call(*args, **named)
        self.fired += 1
        if self.how == "half" and name in WRITES:
            call(*half(args), **named)
        if name == "close":  # the kernel lets go of the file, whatever close says
            call(*args, **named)
        known = [os.fspath(args[0])] if not isinstance(args[0], int) else []
        raise OSError(self.code, os.strerror(self.code), *known)


class Power:
    """Remembers what of a folder tree is on disk: content since its fsync, names since theirs."""

    def __init__(self) -> None:
        self.paths: dict[int, Path] = {}
        self.files: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}

    def __call__(self, name: str, call: Any, args: Any, named: Any) -> Any:
        result = call(*args, **named)
        if name == "open":
            self.paths[result] = Path(args[0])
        elif name == "fsync":
            path = self.paths[args[0]]
            about = path.stat()
            if stat.S_ISDIR(about.st_mode):
                self.names[about.st_ino] = {e.name: e.stat().st_ino for e in path.iterdir()}
            else:
                self.files[about.st_ino] = path.read_bytes()
        return result

    def cut(self, folder: Path, left: Path) -> Path:
        """What a power cut would leave of a folder, in a new one."""
        left.mkdir()
        for name, number in self.names.get(folder.stat().st_ino, {}).items():
            (left / name).write_bytes(self.files.get(number, b""))
        return left


# --- the lives that are ended -------------------------------------------------------------------


def arrays(round: int) -> dict[str, Any]:
    return {"theta": np.full(300, round, np.float32), "count": np.array(round)}


def append_some(folder: Path, acknowledge: Callable[[], object], start: int = 0) -> None:
    with Journal(folder / "log") as journal:
        for record in ALL[start : start + OPERATIONS]:
            journal.append(record)
            acknowledge()


def append_after_a_tear(folder: Path, acknowledge: Callable[[], object]) -> None:
    append_some(folder, acknowledge, start=2)


def tear(folder: Path) -> None:
    """A journal of two records whose third was being written when the power went."""
    with Journal(folder / "log") as journal:
        for record in ALL[:3]:
            journal.append(record)
    whole = (folder / "log").read_bytes()
    (folder / "log").write_bytes(whole[:-30])


def save_some(folder: Path, acknowledge: Callable[[], object]) -> None:
    store = Checkpoints(folder / "state" / "checkpoints", mode=0o600)
    for round in range(OPERATIONS):
        store.save(round, arrays(round), {"round": round})
        acknowledge()


def nothing(folder: Path) -> None:
    """Start from an empty folder."""


SCENARIOS: dict[str, tuple[Callable[[Path], None], Callable[..., None]]] = {
    "journal": (nothing, append_some),
    "torn-journal": (tear, append_after_a_tear),
    "checkpoints": (nothing, save_some),
}


def live(scenario: str, folder: Path, at: int, how: str) -> tuple[bool, int]:
    """One forked life that ends at the given call; whether it was killed, and what it got done."""
    before, program = SCENARIOS[scenario]
    folder.mkdir()
    before(folder)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        tell = os.write
        with hooked(Killer(at, how)):
            program(folder, lambda: tell(writing, b"."))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        acknowledged = len(pipe.read())
    status = os.waitpid(child, 0)[1]
    if status not in (0, signal.SIGKILL):
        raise SystemExit(f"a child of {scenario} at call {at} ({how}) ended with status {status}")
    return status != 0, acknowledged


def main(scenario: str, folder: Path) -> None:
    for at in itertools.count(1):
        for how in ("before", "half", "after"):
            place = folder / f"{at}-{how}"
            killed, acknowledged = live(scenario, place, at, how)
            print(json.dumps([at, how, str(place), acknowledged]), flush=True)
            if not killed:
                return


FULL, BROKEN = errno.ENOSPC, errno.EIO

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

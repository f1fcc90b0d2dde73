"""The one stream of events: everything that happens, as flat records, to any number of readers.

Protocols and trust models are handed a ``Trace`` and call ``trace("excluded", party=..., ...)``;
terminal, report, metrics and benchmarks read the same records. Nothing else logs.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Record = dict[str, Any]
Reader = Callable[[Record], None]


class Stream:
    """Hands every event to every reader, in order, from any thread; protocols call it ``trace``.

    Each record gets ``s``, the seconds since the stream began (plus ``elapsed_s``, for a run that
    goes on after a restart), on the monotonic clock.
    """

    def __init__(self, *readers: Reader, elapsed_s: float = 0.0) -> None:
        self._readers = list(readers)
        self._lock = threading.RLock()
        self._start = time.monotonic() - elapsed_s

    def add(self, reader: Reader) -> None:
        """One more reader, from now on."""
        self._readers.append(reader)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the stream began."""
        return time.monotonic() - self._start

    def __call__(self, event: str, **fields: Any) -> None:
        """Publish one event."""
        with self._lock:
            record = {"event": event, "s": round(self.elapsed_s, 6), **fields}
            for reader in self._readers:
                reader(record)


def as_json(record: Record) -> str:
    """One line of strict JSON; numbers that JSON cannot say become null."""
    return json.dumps(_plain(record), allow_nan=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case _:
            return value


def _mine(path: str, flags: int) -> int:
    """Open a file that only its owner may read: events say whose update counted how much."""
    return os.open(path, flags, 0o600)


class JsonLines:
    """A reader that appends every event to a file, one JSON object per line.

    ``prompt``: each line leaves this process at once, so that a kill loses none.
    """

    def __init__(self, path: Path, *, prompt: bool = False) -> None:
        buffering = 1 if prompt else -1
        self._file = open(path, "a", buffering, "utf-8", opener=_mine)  # noqa: SIM115

    def __call__(self, record: Record) -> None:
        """Append one event."""
        self._file.write(as_json(record) + "\n")

    def size(self) -> int:
        """Bytes in the file, all events so far included."""
        self._file.flush()
        return os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """Put what was written on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()


class DamagedEventsError(ValueError):
    """A line of an event file is no event; names file and line."""


def read_events(path: Path) -> Iterator[Record]:
    """The events of a file; a torn last line is dropped, as a crash may leave one.

    Raises DamagedEventsError for any other line that is no event.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.endswith("\n"):
                yield _event(path, number, line)


def _event(path: Path, number: int, line: str) -> Record:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        record = None
    if not (isinstance(record, dict) and isinstance(record.get("event"), str)):
        raise DamagedEventsError(f"line {number} of {path} is no event: the file was damaged")
    return record

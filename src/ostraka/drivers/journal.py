"""A journal: small records that are on disk once `append` returns, read back in order.

The file is a first line that says what it is, then one line per record: sixteen hex digits of a
checksum, a space, the record as JSON. Each checksum is chained over all records before it, so a
line that was changed, removed or moved is noticed; only whole lines missing at the very end are
not (who depends on the last records asks others what they saw of them).

A crash in the middle of an append leaves a torn tail: a last line without its end, or with the
zeros that file systems show where bytes never reached the disk. It was never acknowledged and is
dropped. Anything else that does not fit is damage, also in the last line: it may have been
acknowledged. One process writes a journal at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from ostraka.drivers.checkpoint import naming, sync_folder

HEADER = b"ostraka journal 1\n"
LINE_BYTES_MAX = 64 * 1024
CHECK_DIGITS = 16


class DamagedJournalError(OSError):
    """A journal holds what no crash leaves behind; names file and line."""


class Journal:
    """An append-only log of JSON objects: acknowledged means durable.

    ``records`` are those found when it was opened (later ones are not added: a long run must not
    fill the memory); ``dropped`` is a sentence about a torn tail that was passed over, or None.
    """

    def __init__(self, path: Path) -> None:
        """Open or make (mode 0600) the journal; its folder must exist.

        Raises DamagedJournalError, and OSError with its file name where storage fails.
        """
        self.path = path
        self.records: list[dict[str, Any]] = []
        self.dropped: str | None = None
        self._chain = bytes(32)
        self._size = 0  # bytes of acknowledged content: what follows is torn
        self._torn = False
        with naming(path), contextlib.ExitStack() as undo:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, self._file)
            with open(self._file, "rb", closefd=False) as file:
                self._read(file)
            self._settle()
            undo.pop_all()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record, on disk when this returns.

        Raises ValueError for a record that JSON cannot say or that is too long, and OSError with
        its file name where storage fails: then the record is not in the journal for whoever goes
        on, but may be found there after a crash. The journal can be used again at once.
        """
        if self._file < 0:
            raise ValueError(f"the journal {self.path} is closed")
        text = json.dumps(dict(record), sort_keys=True, separators=(",", ":"), allow_nan=False)
        body = text.encode("ascii")
        chain = _next(self._chain, body)
        line = b"%s %s\n" % (_check(chain), body)
        if len(line) > LINE_BYTES_MAX:
            raise ValueError(
                f"a record of {len(line)} bytes is too long for {self.path}: "
                f"at most {LINE_BYTES_MAX} fit in a line"
            )
        with naming(self.path):
            self._write(line)
        self._chain = chain

    def close(self) -> None:
        """Cut off what a failed append left and let the file go; a second call does nothing."""
        if self._file < 0:
            return
        file, self._file = self._file, -1
        with naming(self.path):
            try:
                if self._torn:
                    with contextlib.suppress(OSError):  # the next reader drops it as well
                        os.ftruncate(file, self._size)
            finally:
                os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    # --- writing ----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Make what was found durable, its name too: a writer may have died before it did."""
        if self._size:
            os.fsync(self._file)
        else:
            self._write(HEADER)
        sync_folder(self.path.parent)

    def _write(self, line: bytes) -> None:
        if self._torn:
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)  # or old torn bytes could show up amid the new line's
        self._torn = True
        view, at = memoryview(line), self._size
        while view:
            written = os.pwrite(self._file, view, at)
            view, at = view[written:], at + written
        os.fsync(self._file)
        self._torn = False
        self._size = at

    # --- reading ----------------------------------------------------------------------------

    def _read(self, file: BinaryIO) -> None:
        line = file.readline(LINE_BYTES_MAX + 1)
        if line != HEADER:
            self._torn = bool(line)
            if not _is_torn_header(line):
                raise self._damaged(1, f"a journal begins with {HEADER.decode().strip()!r}")
            return
        self._size = len(HEADER)
        number = 1
        while line := file.readline(LINE_BYTES_MAX + 1):
            number += 1
            if self._take(line):
                continue
            if file.read(1) or not _is_torn(line):
                raise self._damaged(number, "its checksum or form is wrong")
            self._torn = True
            self.dropped = (
                f"the last line of {self.path} (line {number}, {len(line)} bytes) was torn by a "
                "crash before it was acknowledged: it is dropped"
            )

    def _take(self, line: bytes) -> bool:
        """Whether the line is whole and continues the chain; if so, its record is taken."""
        if len(line) > LINE_BYTES_MAX or not line.endswith(b"\n"):
            return False
        body = line[CHECK_DIGITS + 1 : -1]
        chain = _next(self._chain, body)
        if line[: CHECK_DIGITS + 1] != _check(chain) + b" ":
            return False
        try:
            record = json.loads(body)
        except (ValueError, RecursionError):
            return False
        if not isinstance(record, dict):
            return False
        self.records.append(record)
        self._chain = chain
        self._size += len(line)
        return True

    def _damaged(self, number: int, why: str) -> DamagedJournalError:
        return DamagedJournalError(
            f"line {number} of {self.path} is damaged ({why}): no crash does this; restore the "
            "file from a backup, or ask the other parties before this one starts afresh"
        )


def _next(chain: bytes, body: bytes) -> bytes:
    return hashlib.sha256(HEADER + chain + body).digest()


def _check(chain: bytes) -> bytes:
    return chain.hex()[:CHECK_DIGITS].encode("ascii")


def _is_torn(line: bytes) -> bool:
    """Whether a crash in the middle of one append can leave this behind (JSON holds no zeros)."""
    return len(line) <= LINE_BYTES_MAX and (not line.endswith(b"\n") or b"\0" in line)


def _is_torn_header(line: bytes) -> bool:
    """Whether a crash in the middle of making a journal can leave this behind."""
    return len(line) <= len(HEADER) and HEADER.startswith(line.rstrip(b"\0"))

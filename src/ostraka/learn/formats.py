"""Readers of the two published file formats: IDX (plain or gzip) and CIFAR-10's binary version.

Files come from strangers. The caller says beforehand what the header may promise, nothing is read
past that, and every refusal names the file, what was expected and what was seen. Pickle formats
are never read.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

EXAMPLES_MAX = 1_000_000
"""No header may promise more images than this."""
CIFAR_RECORD = 1 + 3 * 32 * 32
CIFAR_RECORDS_MAX = 10_000
_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"


class DataError(ValueError):
    """A data file is not what it should be; names the file, what was expected and what was seen."""

    def __init__(self, path: Path, expected: str, seen: str) -> None:
        super().__init__(f"{path}: expected {expected}, saw {seen}")
        self.path = path


def _read(stream: IO[bytes], size: int) -> bytearray:
    """Up to ``size`` bytes; memory grows with what is there, not with what is promised."""
    body = bytearray()
    while len(body) < size:
        chunk = stream.read(min(_CHUNK, size - len(body)))
        if not chunk:
            break
        body += chunk
    return body


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == _GZIP
    return cast(IO[bytes], gzip.open(path, "rb") if zipped else path.open("rb"))


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array (N, *shape) of an IDX file, gzip recognised by content; N is in the header.

    Raises DataError when the magic, the sizes or the length of the body are not as they must be,
    or the gzip stream is broken. Source: the description on the MNIST page (Y. LeCun).
    """
    try:
        with _open(path) as stream:
            return _idx(path, stream, shape)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, "a whole gzip stream", str(error)) from error


def _idx(path: Path, stream: IO[bytes], shape: tuple[int, ...]) -> np.ndarray:
    magic = bytes((0, 0, 8, 1 + len(shape)))
    head = bytes(_read(stream, 4 + 4 * (1 + len(shape))))
    if head[:4] != magic:
        raise DataError(
            path, f"IDX magic {magic.hex()} (uint8, {magic[3]} dimensions)", head[:4].hex()
        )
    if len(head) < 4 + 4 * (1 + len(shape)):
        raise DataError(path, f"a header of {4 + 4 * (1 + len(shape))} bytes", f"{len(head)} bytes")
    sizes = tuple(int(size) for size in np.frombuffer(head, ">u4", offset=4))
    if sizes[1:] != shape or not 1 <= sizes[0] <= EXAMPLES_MAX:
        wanted = " x ".join([f"1..{EXAMPLES_MAX}", *map(str, shape)])
        raise DataError(path, f"sizes {wanted}", " x ".join(map(str, sizes)))
    promised = int(np.prod(sizes, dtype=np.int64))
    body = _read(stream, promised)
    if len(body) < promised:
        raise DataError(path, f"{promised} bytes after the header", f"{len(body)}")
    if stream.read(1):
        raise DataError(path, f"{promised} bytes after the header", "more")
    return np.frombuffer(body, np.uint8).reshape(sizes)


def read_cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 3, 32, 32) and labels uint8 (N,) of one file of the binary version.

    Raises DataError unless the file is 1 to 10,000 whole records of 3,073 bytes. Source: the
    CIFAR-10 page (A. Krizhevsky).
    """
    limit = CIFAR_RECORDS_MAX * CIFAR_RECORD
    with path.open("rb") as stream:
        body = _read(stream, limit + 1)
    if not body or len(body) > limit or len(body) % CIFAR_RECORD:
        seen = f"more than {limit} bytes" if len(body) > limit else f"{len(body)} bytes"
        raise DataError(
            path, f"1 to {CIFAR_RECORDS_MAX} whole records of {CIFAR_RECORD} bytes", seen
        )
    records = np.frombuffer(body, np.uint8).reshape(-1, CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]

"""A pseudorandom generator for what must stay secret: AES-256 in counter mode.

The key is an argument: whoever makes one takes its 32 bytes from the operating system, for one use
only. Nothing here knows where it came from.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES = 32
_ZEROS = bytes(1 << 16)  # encrypted in pieces that stay in the cache


class Prg:
    """An endless stream of bytes from a key of 32 bytes: the same key gives the same stream.

    Block k is AES-256 of k as a big-endian 128-bit number. Every call goes on where the last one
    ended. Whoever has the key has the stream, so it shows nowhere, and copying and pickling are
    refused. A process that forks must not use one stream on both sides. Raises ValueError for a
    key of another length.
    """

    __slots__ = ("_stream",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a generator's key has {KEY_BYTES} bytes, got {len(key)}")
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def __repr__(self) -> str:
        return "Prg(secret)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret stream is neither copied nor stored: make one from a fresh key")

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes. ValueError for a negative count."""
        _check(count)
        out = bytearray(count)
        self._fill(memoryview(out))
        return bytes(out)

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """The next 8 ``count`` bytes as uint64 (count,), little-endian on every machine.

        ValueError for a negative count.
        """
        _check(count)
        out = np.empty(count, "<u8")
        self._fill(out.view(np.uint8).data)
        return out.astype(np.uint64, copy=False)

    def _fill(self, out: memoryview) -> None:
        """Straight into the caller's memory, which is several times as fast as ``update``."""
        for start in range(0, len(out), len(_ZEROS)):
            part = out[start : start + len(_ZEROS)]
            self._stream.update_into(_ZEROS[: len(part)], part)


def _check(count: int) -> None:
    if count < 0:
        raise ValueError(f"a count must not be negative, got {count}")

"""A pseudorandom generator for what must stay secret: AES-256 in counter mode.

The key is an argument: whoever makes one takes its 32 bytes from the operating system, for one use
only. Nothing here knows where it came from.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
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
        _check_key(key)
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

    def fill(self, out: npt.NDArray[np.uint64]) -> None:
        """The next words into ``out``, uint64 and C-contiguous, without memory of its own."""
        if out.dtype != np.uint64 or not out.flags.c_contiguous:
            raise ValueError(f"only contiguous uint64 words are filled, got {out.dtype}")
        self._fill(out.reshape(-1).view(np.uint8).data)

    def _fill(self, out: memoryview) -> None:
        """Straight into the caller's memory, which is several times as fast as ``update``."""
        if len(out) == len(_ZEROS):  # no loop where one call does
            self._stream.update_into(_ZEROS, out)
            return
        for start in range(0, len(out), len(_ZEROS)):
            part = out[start : start + len(_ZEROS)]
            zeros = _ZEROS if len(part) == len(_ZEROS) else _ZEROS[: len(part)]
            self._stream.update_into(zeros, part)


def fill_rows(
    streams: Sequence[Prg], out: npt.NDArray[np.uint64], after: Callable[[int], None] | None = None
) -> None:
    """The next words of every stream into its own row of ``out``, uint64 and C-contiguous.

    ``fill`` for each row does the same; here the rows' memory is found once for all. ``after`` is
    called with the number of each row that was filled, which is then still in the cache.
    """
    if out.dtype != np.uint64 or not out.flags.c_contiguous or len(out) != len(streams):
        raise ValueError(f"{len(streams)} rows of uint64 words, got {out.dtype} {out.shape}")
    if not out.size:
        return
    octets, width = out.reshape(-1).view(np.uint8).data, 8 * out[0].size
    for row, stream in enumerate(streams):
        stream._fill(octets[row * width : (row + 1) * width])
        if after is not None:
            after(row)


class Key:
    """32 secret bytes, from which other keys and streams are derived, each for one named use.

    Derivation is HMAC-SHA256 over a domain and parts, each with its length before it: different
    uses give independent keys, and a derived key says nothing of its parent. Two keys cannot be
    compared, added or printed. ValueError for another length.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        _check_key(secret)
        self._secret = secret

    def __repr__(self) -> str:
        return "Key(secret)"

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("keys are not compared")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> NoReturn:
        raise TypeError("a key is neither true nor false")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is neither copied nor stored")

    def derive(self, domain: str, *parts: bytes | int) -> Key:
        """The key for one use. Numbers are below 2^64. ValueError for an empty domain."""
        if not domain:
            raise ValueError("a key needs a domain that names its use")
        message = bytearray()
        for part in (f"ostraka key {domain}".encode(), *parts):
            piece = part.to_bytes(8, "little") if isinstance(part, int) else part
            message += len(piece).to_bytes(8, "little") + piece
        return Key(hmac.digest(self._secret, bytes(message), hashlib.sha256))

    def stream(self) -> Prg:
        """This key's stream of words, from its beginning."""
        return Prg(self._secret)

    def reveal(self) -> bytes:
        """The secret itself, to be sent to the party that shares it."""
        return self._secret


def _check_key(key: bytes) -> None:
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise ValueError(f"a generator's key has {KEY_BYTES} bytes, got {len(key)}")


def _check(count: int) -> None:
    if count < 0:
        raise ValueError(f"a count must not be negative, got {count}")

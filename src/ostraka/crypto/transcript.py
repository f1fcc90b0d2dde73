"""Digests that say what they are of: one hash function, no two uses that could be confused."""

from __future__ import annotations

from blake3 import blake3

SHORT_BYTES = 1 << 14
"""So many are hashed in one piece: to copy them costs less than to hash each part by itself."""


def digest(domain: str, *parts: bytes | memoryview) -> bytes:
    """32 bytes: BLAKE3 over the domain and the parts, each with its length before it.

    A view must be of bytes. The domain names the use ("fingerprint 1"), so that a digest made for
    one purpose never equals one made for another; the lengths keep ("ab", "c") and ("a", "bc")
    apart. Raises ValueError for an empty domain.
    """
    if not domain:
        raise ValueError("a digest needs a domain that names its use")
    pieces: list[bytes | memoryview] = []
    size = 0
    for part in (f"ostraka {domain}".encode(), *parts):
        pieces.append(len(part).to_bytes(8, "little"))
        pieces.append(part)
        size += len(part)
    if size <= SHORT_BYTES:
        return blake3(b"".join(pieces)).digest()
    state = blake3()
    for piece in pieces:
        state.update(piece)
    return state.digest()

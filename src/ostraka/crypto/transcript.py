"""Digests that say what they are of: one hash function, no two uses that could be confused."""

from __future__ import annotations

from blake3 import blake3


def digest(domain: str, *parts: bytes | memoryview) -> bytes:
    """32 bytes: BLAKE3 over the domain and the parts, each with its length before it.

    A view must be of bytes. The domain names the use ("fingerprint 1"), so that a digest made for
    one purpose never equals one made for another; the lengths keep ("ab", "c") and ("a", "bc")
    apart. Raises ValueError for an empty domain.
    """
    if not domain:
        raise ValueError("a digest needs a domain that names its use")
    state = blake3()
    for part in (f"ostraka {domain}".encode(), *parts):
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()

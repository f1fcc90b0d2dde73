"""Do all parties hold the same federation file, and if not, which field differs.

Every party sends one digest per key of its checked configuration, defaults filled in, so that the
files may differ in spelling and comments but in no value. Digests, not values: the answer is the
name of a field. A value of few choices can be guessed from its digest, which is why they go to
pinned parties only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ostraka.app.config import Config
from ostraka.crypto.transcript import digest

if TYPE_CHECKING:
    from ostraka.drivers.connection import Refusal
    from ostraka.drivers.tcp import Handlers

SIZE = 16
"""Bytes of a field's digest: enough to name a field; the file's own digest has 32."""
MOST_BYTES, MOST_FIELDS, LONGEST_KEY = 1 << 20, 20_000, 200
SHOWN = 8
APP_FILE = "the app file"


def digests(config: Config, app: str | None = None) -> dict[str, bytes]:
    """16 bytes for every dotted key, for example "training.momentum" or "party.NAME.identity".

    ``app``: the digest of the app file, which all who train must hold alike; None leaves it out.

    "party" alone stands for the names in their order, which numbers the workers; "privacy" alone
    for a file without that table. ValueError for a key of [rule] that could not be sent; none that
    a rule knows is of that kind.
    """
    return {key: _digest(key, text)[:SIZE] for key, text in _fields(config, app)}


def federation_digest(config: Config, app: str | None = None) -> bytes:
    """32 bytes over all keys and values, the same wherever ``digests`` are the same.

    Over whole digests of the fields, not over the shortened ones.
    """
    return digest("federation 1", *(_digest(k, text) for k, text in sorted(_fields(config, app))))


def encode(found: Mapping[str, bytes]) -> bytes:
    """The digests as bytes: a count (4, little-endian), then sorted length (1), key, digest (16).

    ValueError where ``decode`` would not read them back.
    """
    parts = [len(found).to_bytes(4, "little")]
    for key in sorted(found):
        if not _is_key(key.encode()) or len(found[key]) != SIZE:
            raise ValueError(f"field {key!r} cannot be sent: its name or digest has a wrong length")
        parts += [bytes([len(key)]), key.encode(), found[key]]
    body = b"".join(parts)
    if len(body) > MOST_BYTES or len(found) > MOST_FIELDS:
        raise ValueError(f"a federation file of {len(found)} fields is too large to compare")
    return body


def decode(body: bytes) -> dict[str, bytes] | None:
    """What ``encode`` was given, or None for any other bytes: exactly one form is read."""
    if not 4 <= len(body) <= MOST_BYTES:
        return None
    count = int.from_bytes(body[:4], "little")
    # Every entry has at least a length, one letter and a digest.
    if count > min(MOST_FIELDS, (len(body) - 4) // (2 + SIZE)):
        return None
    found: dict[str, bytes] = {}
    at, last = 4, b""
    for _ in range(count):
        length = body[at] if at < len(body) else 0
        key = body[at + 1 : at + 1 + length]
        end = at + 1 + length + SIZE
        if not _is_key(key) or key <= last:
            return None
        found[key.decode("ascii")] = body[end - SIZE : end]
        at, last = end, key
    return found if at == len(body) else None  # neither cut short nor longer


def differing(ours: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> list[str]:
    """The keys whose values differ or that only one side has, sorted; none: the same file."""
    return sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))


def difference_text(peer: str, fields: list[str]) -> str:
    """The refusal of a peer with another file, as a sentence that stays short."""
    more = f" and {len(fields) - SHOWN} more" if len(fields) > SHOWN else ""
    shown = ", ".join(fields[:SHOWN]).replace("two_server", "two-server")  # as people write it
    return (
        f"{peer} holds another federation file: {shown}{more} "
        f"differ{'s' if len(fields) == 1 else ''}; agree on one file and start again"
    )


def keys(ours: Mapping[str, bytes], refusal: Refusal) -> list[str]:
    """The keys whose values differ from those of a peer that refused us, by the digests it sent."""
    theirs = decode(refusal.details)
    return [] if theirs is None else differing(ours, theirs)


def naming_keys(ours: Mapping[str, bytes], handlers: Handlers) -> Handlers:
    """Handlers that also tell, once a peer, which keys differ where its federation file does."""
    told: set[str] = set()

    def refused(peer: str, refusal: Refusal) -> None:
        if refusal.code == "configuration" and peer not in told:
            told.add(peer)
            handlers.trace("differs", peer=peer, keys=keys(ours, refusal)[:SHOWN])
        handlers.refused(peer, refusal)

    return replace(handlers, refused=refused)


def _is_key(key: bytes) -> bool:
    return 1 <= len(key) <= LONGEST_KEY and all(0x20 <= byte < 0x7F for byte in key)


def _digest(key: str, text: str) -> bytes:
    return digest("federation field 1", key.encode(), text.encode())


def _fields(config: Config, app: str | None) -> Iterator[tuple[str, str]]:
    """Every dotted key with its value as canonical JSON, and the app file's digest."""
    if app is not None:
        yield APP_FILE, json.dumps(app)
    tables: dict[str, Any] = config.model_dump()
    parties = tables.pop("party")
    pairs = [("party", [party["name"] for party in parties])]
    for party in parties:
        name = party.pop("name")
        pairs += [(f"party.{name}.{key}", value) for key, value in party.items()]
    for section, table in tables.items():
        inner = table.items() if isinstance(table, dict) else ()
        pairs += [(f"{section}.{key}", value) for key, value in inner] or [(section, table)]
    for key, value in pairs:
        if not _is_key(key.encode()):
            raise ValueError(f"the key {key!r} is no name that parties can compare")
        yield key, json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)  # dates

"""Any bytes, in any pieces, give packets or one Violation: nothing else is raised, and the reader
never holds more memory than the cap allows.

A case is one stream: valid frames, mutated, cut, spliced, or plain junk, fed in random pieces.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from ostraka.drivers.frames import HEADER, MAGIC, FrameReader, Packet, Type, Violation, pack
from ostraka.net import Malformed

CAP = 600
CAPS = {Type.HELLO: 300, Type.WELCOME: 0, Type.REFUSE: CAP, Type.ALIVE: 0, Type.BYE: 0}
KINDS = {"Word": 40, "Block": CAP}
EDGES = (0, 1, 47, 48, 255, 256, CAP, CAP + 1, 1 << 31, 1 << 40, (1 << 64) - 1)
JUNK = (
    b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x04eval\x94\x93\x94.",
    b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    b"PK\x03\x04\x14\x00\x00\x00\x08\x00",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b'{"a":' * 40,
)


@dataclass
class Tally:
    """What came of the cases."""

    cases: int = 0
    packets: int = 0
    malformed: int = 0
    unfinished: int = 0
    violations: Counter[str] = field(default_factory=Counter)


def cap(type: Type, kind: str) -> int | None:
    if type is Type.DATA:
        return KINDS.get(kind)
    return None if kind else CAPS[type]


def valid(rng: random.Random) -> bytes:
    """One frame that would be taken."""
    type = rng.choice((*Type, Type.DATA, Type.DATA))
    if type is not Type.DATA:
        return b"".join(pack(type, body=rng.randbytes(rng.randint(0, CAPS[type]))))
    kind = rng.choice(list(KINDS))
    label = tuple(
        (rng.choice(("round", "epoch-a")), rng.randrange(99)) for _ in range(rng.randrange(4))
    )
    pieces = pack(
        type,
        label=label,
        kind=kind,
        body=rng.randbytes(rng.randint(0, KINDS[kind])),
        session=rng.randbytes(16),
        sequence=rng.randint(1, 1 << 63),
        acknowledged=rng.getrandbits(64),
    )
    return b"".join(pieces)


POOL = [valid(random.Random(index)) for index in range(1000)]


def mutated(rng: random.Random, stream: bytearray) -> None:
    """Bend a stream in place, most often somewhere in a header."""
    at = rng.randrange(min(len(stream), 120)) if rng.random() < 0.7 else rng.randrange(len(stream))
    match rng.randrange(6):
        case 0:
            stream[at] ^= 1 << rng.randrange(8)
        case 1:
            stream[at] = rng.choice((0, 1, 4, 47, 200, 201, 255))
        case 2:
            del stream[at : at + rng.randrange(1, 60)]
        case 3:
            stream[at:at] = rng.randbytes(rng.randrange(1, 60))
        case 4:
            stream[8:16] = rng.choice(EDGES).to_bytes(8, "little")
        case 5:
            stream[at:] = rng.choice(JUNK)


def stream_of(rng: random.Random) -> bytes:
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice(JUNK) + rng.randbytes(rng.randrange(40))
    if kind == 1:
        return MAGIC + b"\x01" + rng.randbytes(rng.randrange(HEADER.size + 40))
    stream = bytearray(rng.choice(POOL) + (rng.choice(POOL) if kind % 2 else b""))
    if kind > 2:
        for _ in range(1 + kind // 8):
            mutated(rng, stream)
            stream = stream or bytearray(1)
    return bytes(stream)


def play(seed: int, tally: Tally) -> None:
    """One case. AssertionError names what is wrong; any other exception is a finding too."""
    rng = random.Random(seed)
    stream = stream_of(rng)
    reader = FrameReader(cap)
    at, ended = 0, False
    largest = rng.choice((1, 16, 64, 4096, 4096)) if len(stream) < 400 else rng.choice((64, 4096))
    tally.cases += 1
    while at < len(stream) and not ended:
        room = reader.room()
        assert 0 < len(room) <= CAP, f"room for {len(room)} bytes"
        piece = stream[at : at + min(len(room), 1 + int(rng.random() * largest))]
        room[: len(piece)] = piece
        at += len(piece)
        try:
            packet = reader.advance(len(piece))
        except Violation as violation:
            tally.violations[family(str(violation))] += 1
            ended = True
        else:
            ended = packet is not None and checked(packet, tally)
            assert reader.broken == ended
    if ended:
        assert reader.broken, "nothing is read behind a violation"
    elif reader.midway:
        tally.unfinished += 1


def checked(packet: Packet, tally: Tally) -> bool:
    """Whether the packet ends its connection: its body was too long."""
    tally.packets += 1
    assert (packet.type is Type.DATA) == bool(packet.kind and packet.sequence)
    if isinstance(packet.body, Malformed):
        tally.malformed += 1
        assert packet.type is Type.DATA
        return True
    allowed = cap(packet.type, packet.kind)
    assert allowed is not None
    assert len(packet.body) <= allowed
    return False


def family(text: str) -> str:
    """The sentence without its numbers, for the summary."""
    if text.endswith("is not expected here"):
        return "not expected here"
    return " ".join("#" if any(c.isdigit() for c in word) else word for word in text.split())

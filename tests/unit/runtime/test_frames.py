"""Frames: what is packed is read again, in any pieces; the rest is refused from the header."""

import io
import pickle
import ssl
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostraka.drivers.frames import HEADER, MAGIC, FrameReader, Packet, Type, Violation, pack
from ostraka.net import Malformed

SESSION = bytes(range(16))
LABEL = (("epoch", 1), ("round", 7))


def cap(type: Type, kind: str) -> int | None:
    """HELLO of 100 bytes and Word of 40,000 are expected, and control frames without a body."""
    if type is Type.DATA:
        return {"Word": 40_000}.get(kind)
    return 100 if type is Type.HELLO else 0


def data(body: bytes = b"abc", *, sequence: int = 5, kind: str = "Word") -> bytes:
    pieces = pack(
        Type.DATA,
        label=LABEL,
        kind=kind,
        body=body,
        session=SESSION,
        sequence=sequence,
        acknowledged=9,
    )
    return b"".join(pieces)


def feed(reader: FrameReader, stream: bytes, pieces: int = 1 << 20) -> list[Packet]:
    packets, at = [], 0
    while at < len(stream):
        room = reader.room()
        piece = stream[at : at + min(len(room), pieces)]
        room[: len(piece)] = piece
        at += len(piece)
        packet = reader.advance(len(piece))
        if packet is not None:
            packets.append(packet)
    return packets


def head(**changes: int) -> bytes:
    """A header of a HELLO without a body, or with other fields."""
    fields = {"version": 1, "type": 1, "label": 0, "kind": 0, "size": 0, "sequence": 0} | changes
    return HEADER.pack(
        MAGIC,
        fields["version"],
        fields["type"],
        fields["label"],
        fields["kind"],
        fields["size"],
        SESSION,
        fields["sequence"],
        0,
    )


@given(st.binary(max_size=9000), st.integers(1, 6000), st.integers(1, (1 << 64) - 1))
def test_what_is_packed_is_read_again_in_any_pieces(
    body: bytes, pieces: int, sequence: int
) -> None:
    stream = data(body, sequence=sequence) + b"".join(pack(Type.ALIVE, acknowledged=3))
    first, second = feed(FrameReader(cap), stream, pieces)
    assert first == Packet(Type.DATA, LABEL, "Word", body, SESSION, sequence, 9)
    assert second == Packet(Type.ALIVE, (), "", b"", bytes(16), 0, 3)
    assert not body or first.body.readonly


def test_a_long_body_is_sent_without_a_copy() -> None:
    body = bytes(10_000)
    pieces = pack(Type.DATA, label=LABEL, kind="Word", body=body, sequence=1)
    assert len(pieces) == 2
    assert pieces[1] is body


@pytest.mark.parametrize(
    ("kind", "sequence", "type"),
    [
        ("", 1, Type.DATA),
        ("word", 1, Type.DATA),
        ("W" * 49, 1, Type.DATA),
        ("Word", 0, Type.DATA),
        ("Word", 0, Type.HELLO),
        ("", 1, Type.ALIVE),
    ],
)
def test_what_could_not_be_read_is_not_packed(kind: str, sequence: int, type: Type) -> None:
    with pytest.raises(ValueError, match=r"no message is called|has no label"):
        pack(type, kind=kind, sequence=sequence)


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (head(version=2), "frame version 2, this is version 1"),
        (head(type=0), "frame type 0"),
        (head(type=7), "frame type 7"),
        (head(type=4, label=201, kind=4, sequence=1), "label of 201"),
        (head(type=4, kind=49, sequence=1), "kind of 49"),
        (head(type=4, kind=4), "without a kind or a sequence"),
        (head(type=4, sequence=1), "without a kind or a sequence"),
        (head(type=5, sequence=1), "ALIVE with"),
        (head(type=2, label=7), "WELCOME with"),
        (head(type=6, kind=4), "BYE with"),
        (head(type=1, size=101), "HELLO of 101 bytes, at most 100 expected"),
        (head(type=5, size=1), "ALIVE of 1 bytes, at most 0 expected"),
        (head(type=4, kind=4, sequence=1) + b"Kind", "DATA Kind is not expected here"),
        (head(type=4, kind=4, sequence=1) + b"W\xc3\xb6r", "the kind is no word"),
        (head(type=4, label=8, kind=4, sequence=1) + b"round.01Word", "not canonical"),
        (head(type=4, label=5, kind=4, sequence=1) + b"roundWord", "label is not"),
    ],
)
def test_what_is_no_frame_is_a_violation_for_good(stream: bytes, why: str) -> None:
    for pieces in (1, 1 << 20):
        reader = FrameReader(cap)
        with pytest.raises(Violation, match=why):
            feed(reader, stream, pieces)
        assert reader.broken
        with pytest.raises(Violation, match="nothing is read"):
            reader.advance(0)


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def npy() -> bytes:
    made = io.BytesIO()
    np.save(made, np.zeros(3))
    return made.getvalue()


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a", "b")
    return made.getvalue()


@pytest.mark.parametrize(
    "stream",
    [
        pickle.dumps({"a": 1}),
        pickle.dumps([1], protocol=0),
        npy(),
        zipped(),
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n",
        client_hello(),
        b"[" * 100,
        b"OSTX",
    ],
    ids=["pickle", "pickle-0", "npy", "zip", "http", "http-2", "tls", "json", "nearly"],
)
def test_other_formats_are_refused_at_their_first_bytes(stream: bytes) -> None:
    assert len(stream[:4]) == 4
    with pytest.raises(Violation, match="no frames of ostraka"):
        feed(FrameReader(cap), stream[:4])


def test_a_claim_of_2_to_the_40_bytes_allocates_nothing() -> None:
    control = head(size=1 << 40)
    label = b"round.1"
    long = head(type=4, label=len(label), kind=4, size=1 << 40, sequence=1) + label + b"Word"
    tracemalloc.start()
    try:
        with pytest.raises(Violation, match="1099511627776 bytes"):
            feed(FrameReader(cap), control)
        reader = FrameReader(cap)
        (packet,) = feed(reader, long)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert packet.body == Malformed("1099511627776 bytes, at most 40000 expected")
    assert (packet.label, packet.kind, packet.sequence) == ((("round", 1),), "Word", 1)
    with pytest.raises(Violation, match="nothing is read"):
        reader.advance(1)


def test_a_body_gets_memory_only_for_itself() -> None:
    stream = data(bytes(40_000))
    tracemalloc.start()
    try:
        reader = FrameReader(cap)
        feed(reader, stream[:-1])
        assert reader.midway
        assert tracemalloc.get_traced_memory()[0] < 60_000
        (packet,) = feed(reader, stream[-1:])
    finally:
        tracemalloc.stop()
    assert packet.body == bytes(40_000)
    assert not reader.midway


def test_bodies_do_not_share_memory() -> None:
    reader = FrameReader(cap)
    (first,) = feed(reader, data(b"a" * 100))
    feed(reader, data(b"b" * 100))
    assert first.body == b"a" * 100

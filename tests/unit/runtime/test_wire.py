"""The wire format is total (any bytes decode or are refused), capped and canonical."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ostraka.net import Malformed
from ostraka.wire import (
    DTYPES,
    U8,
    Array,
    Bool,
    Exactly,
    Index,
    Message,
    Octets,
    Tensor,
    Text,
    decode_label,
    encode_label,
)


@dataclass(frozen=True)
class Everything(Message):
    """One field of every kind."""

    small: Annotated[int, U8]
    round: Index
    last: Bool
    digest: Annotated[bytes, Exactly(4)]
    note: Annotated[str, Text(8)]
    matrix: Annotated[Array, Tensor("float32", ("n", 2))]
    mask: Annotated[Array, Tensor("bool", ("n",))]


def example(n: int = 3) -> Everything:
    matrix = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    return Everything(7, 1 << 40, True, b"abcd", "né", matrix, np.arange(n) % 2 == 0)


def same(a: Message, b: Message) -> bool:
    return all(
        np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def test_round_trip() -> None:
    body = example().encode()
    form = Everything.form(n=3)
    assert same(form.decode(body), example())
    assert len(body) <= form.max_bytes


@given(st.integers(0, len(example().encode()) - 1), st.integers(1, 255))
def test_no_changed_byte_is_read_as_the_same_message(at: int, flip: int) -> None:
    body = bytearray(example().encode())
    body[at] ^= flip
    got = Everything.form(n=3).decode(bytes(body))
    assert isinstance(got, Malformed) or not same(got, example())


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused_and_decoding_is_canonical(body: bytes) -> None:
    got = Everything.form(n=1).decode(body)
    if not isinstance(got, Malformed):
        assert got.encode() == body


@given(st.integers(0, 300), st.binary(max_size=3))
def test_truncated_and_extended_bodies_are_refused(cut: int, tail: bytes) -> None:
    body = example().encode()
    changed = body[:cut] + tail
    got = Everything.form(n=3).decode(changed)
    assert changed == body or isinstance(got, Malformed)


@dataclass(frozen=True)
class Any32(Message):
    vector: Annotated[Array, Tensor("float32", ("d",))]


@given(
    hnp.arrays(
        dtype=st.sampled_from(DTYPES).map(np.dtype),
        shape=hnp.array_shapes(min_dims=0, max_dims=4, max_side=3),
        elements={"allow_subnormal": True},
    )
)
def test_only_the_expected_dtype_and_shape_pass(array: np.ndarray) -> None:
    got = Any32.form(d=3).decode(Any32(array).encode())
    fits = array.dtype == np.float32 and array.shape == (3,)
    assert isinstance(got, Malformed) != fits
    if fits:
        assert got.vector.tobytes() == array.tobytes()


def test_refusals_name_field_expectation_and_what_was_seen_but_no_data() -> None:
    body = Any32(np.full(5, 42, np.float32)).encode()
    assert Any32.form(d=4).decode(body) == Malformed("vector: shape (5,), expected (4,)")
    wide = Any32(np.zeros(4)).encode()
    assert Any32.form(d=4).decode(wide) == Malformed("vector: dtype float64, expected float32")


@dataclass(frozen=True)
class Piece(Message):
    data: Annotated[bytes, Octets("cap")]
    table: Annotated[Array, Tensor("uint8", ("d", 2))]


def test_each_refusal_says_what_is_wrong_first() -> None:
    whole = Piece(b"ab", np.ones((3, 2), np.uint8)).encode()
    assert same(Piece.form(cap=2, d=3).decode(whole), Piece(b"ab", np.ones((3, 2), np.uint8)))
    code, shape = DTYPES.index("uint8"), (3).to_bytes(8, "little") + (2).to_bytes(8, "little")
    head = b"\2\0\0\0ab"
    assert whole[:24] == head + bytes([code, 2]) + shape
    for body, why in (
        (b"\2\0\0", "data: ends 1 bytes too early"),
        (b"\3\0\0\0abc", "data: 3 bytes, at most 2 expected"),
        (head[:-1], "data: ends 1 bytes too early"),
        (head + bytes([code]), "table: ends 1 bytes too early"),
        (head + bytes([len(DTYPES), 2]), f"table: dtype code {len(DTYPES)}, rank 2"),
        (head + bytes([code, 5]), f"table: dtype code {code}, rank 5"),
        (head + bytes([0, 2]), "table: dtype float32, expected uint8"),
        (head + bytes([code, 0]), "table: shape (), expected (3, 2)"),
        (head + bytes([code, 1]) + shape[:8], "table: shape (3,), expected (3, 2)"),
        (head + bytes([code, 2]) + shape[:-1], "table: ends 1 bytes too early"),
        (head + bytes([code, 2]) + shape[::-1], "table: shape"),
        (whole[:28], "table: ends 4 bytes too early"),
        (whole[:24] + b"\1" + whole[25:], "table: padding is not zero"),
        (whole[:-1], "table: ends 1 bytes too early"),
        (whole + b"x", "1 bytes too many"),
    ):
        for kind in (bytes, memoryview):
            got = Piece.form(cap=2, d=3).decode(kind(body))
            assert isinstance(got, Malformed)
            assert got.detail.startswith(why), (body, got)


@pytest.mark.parametrize("d", [-1, 2**64, 2**80])
def test_sizes_that_no_array_has_refuse_every_array(d: int) -> None:
    got = Any32.form(d=d).decode(Any32(np.zeros(3, np.float32)).encode())
    assert got == Malformed(f"vector: shape (3,), expected ({d},)")


def test_shape_that_overflows_is_refused_without_allocation() -> None:
    head = bytes([DTYPES.index("float32"), 1]) + (2**40).to_bytes(8, "little")
    got = Any32.form(d=2**40).decode(head + bytes(6) + b"1234")
    assert isinstance(got, Malformed)
    assert "too early" in got.detail


def test_object_arrays_and_odd_dtypes_cannot_be_sent() -> None:
    for array in (np.array([object()]), np.zeros(2, np.complex64), np.zeros(2, "U3")):
        with pytest.raises(ValueError, match="is sent"):
            Any32(array).encode()


def test_big_endian_input_is_sent_as_little_endian() -> None:
    got = Any32.form(d=2).decode(Any32(np.array([1, 2], ">f4")).encode())
    assert not isinstance(got, Malformed)
    assert got.vector.tolist() == [1.0, 2.0]


def test_decoded_arrays_are_read_only_aligned_views() -> None:
    body = Any32(np.ones(1000, np.float32)).encode()
    got = Any32.form(d=1000).decode(body)
    assert not got.vector.flags.writeable
    assert got.vector.flags.aligned
    assert np.shares_memory(got.vector, np.frombuffer(body, np.uint8))


names = st.from_regex(r"[a-z]+(-[a-z]+)?", fullmatch=True).filter(lambda s: len(s) < 12)
labels = st.lists(st.tuples(names, st.integers(0, 2**64 - 1)), max_size=4).map(tuple)


@given(labels)
def test_labels_round_trip(label: tuple[tuple[str, int], ...]) -> None:
    assert decode_label(encode_label(label)) == label


@given(st.one_of(st.binary(max_size=40), st.from_regex(rb"[a-z]{1,3}\.[0-9]{1,3}(/a\.1)?")))
def test_label_decoding_is_total_and_canonical(body: bytes) -> None:
    label = decode_label(body)
    if not isinstance(label, Malformed):
        assert encode_label(label) == body


def test_labels_out_of_range_are_refused() -> None:
    for body in (b"a.01", b"a.", b".1", b"A.1", b"a.18446744073709551616", b"a.1/" * 9, b"/"):
        assert isinstance(decode_label(body), Malformed), body
    with pytest.raises(ValueError, match="cannot be sent"):
        encode_label((("Round", 1),))

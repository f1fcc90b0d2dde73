"""Typed messages to bytes and back: total, capped, canonical.

A message is a frozen dataclass that derives from ``Message``; every field is annotated with what
it may be on the wire. ``Update.form(d=79510)`` fixes the symbolic sizes and is what a receiver
expects: its length is known before anything is allocated, and every byte string decodes to a
message or to ``Malformed``. One value has one encoding: bytes may be compared, hashed and signed.

Arrays travel as dtype code, rank, shape and little-endian C-order content on a 16-byte boundary;
decoding gives a read-only view of the received bytes, without a copy.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Protocol,
    Self,
    TypeVar,
    cast,
    get_args,
    get_type_hints,
)

import numpy as np
import numpy.typing as npt

from ostraka.net import Body, Label, Malformed

if sys.byteorder != "little":  # arrays are sent as they lie in memory
    raise ImportError("Ostraka runs on little-endian machines")

Array = npt.NDArray[Any]
Dims = Mapping[str, int]
DTYPES = ("float32", "float64", "uint8", "int8", "uint32", "int32", "uint64", "int64", "bool")
MAX_RANK = 4
ALIGNMENT = 16
M = TypeVar("M", bound="Message")


class Field(Protocol):
    """How one kind of value lies on the wire."""

    def size(self, dims: Dims) -> int:
        """The greatest number of bytes that a value may take, padding included."""

    def write(self, out: Parts, value: Any) -> None:
        """Append the value's only encoding. Raises ValueError for a value that has none."""

    def reader(self, dims: Dims) -> Reader:
        """What reads a value where the sizes are these; made once for a form."""


Reader = Callable[[Body, int], tuple[Any, int]]
"""The value at this offset and the offset behind it. Raises ``Bad``, nothing else."""


class Parts:
    """The pieces of a body, joined once: a large array is copied a single time."""

    __slots__ = ("pieces", "size")

    def __init__(self) -> None:
        self.pieces: list[bytes | memoryview] = []
        self.size = 0

    def add(self, piece: bytes | memoryview) -> None:
        """Append bytes, or a flat view of bytes."""
        self.pieces.append(piece)
        self.size += len(piece)


class Bad(Exception):  # noqa: N818
    """Bytes that are not what was expected; never leaves this module."""


def _take(body: Body, at: int, count: int) -> Body:
    if at + count > len(body):
        raise Bad(f"ends {at + count - len(body)} bytes too early")
    return body[at : at + count]


@dataclass(frozen=True, slots=True)
class Unsigned:
    """An integer of 8, 32 or 64 bits."""

    bits: int

    def size(self, dims: Dims) -> int:
        """See Field."""
        return self.bits // 8

    def write(self, out: Parts, value: Any) -> None:
        """See Field."""
        if isinstance(value, bool) or not 0 <= value < 1 << self.bits:
            raise ValueError(f"{value!r} is no unsigned integer of {self.bits} bits")
        out.add(int(value).to_bytes(self.bits // 8, "little"))

    def reader(self, dims: Dims) -> Reader:
        """See Field."""
        return self._read

    def _read(self, body: Body, at: int) -> tuple[int, int]:
        width = self.bits // 8
        return int.from_bytes(_take(body, at, width), "little"), at + width


@dataclass(frozen=True, slots=True)
class Flag:
    """A truth value: one byte, 0 or 1."""

    def size(self, dims: Dims) -> int:
        """See Field."""
        return 1

    def write(self, out: Parts, value: Any) -> None:
        """See Field."""
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is no truth value")
        out.add(bytes([value]))

    def reader(self, dims: Dims) -> Reader:
        """See Field."""
        return self._read

    def _read(self, body: Body, at: int) -> tuple[bool, int]:
        byte = _take(body, at, 1)[0]
        if byte > 1:
            raise Bad(f"truth value {byte}")
        return byte == 1, at + 1


@dataclass(frozen=True, slots=True)
class Exactly:
    """Bytes of one fixed length."""

    count: int

    def size(self, dims: Dims) -> int:
        """See Field."""
        return self.count

    def write(self, out: Parts, value: Any) -> None:
        """See Field."""
        if not isinstance(value, bytes) or len(value) != self.count:
            raise ValueError(f"expected {self.count} bytes")
        out.add(value)

    def reader(self, dims: Dims) -> Reader:
        """See Field."""
        return self._read

    def _read(self, body: Body, at: int) -> tuple[bytes, int]:
        return bytes(_take(body, at, self.count)), at + self.count


@dataclass(frozen=True, slots=True)
class Text:
    """A string of at most so many UTF-8 bytes, its length before it."""

    cap: int

    def size(self, dims: Dims) -> int:
        """See Field."""
        return 4 + self.cap

    def write(self, out: Parts, value: Any) -> None:
        """See Field."""
        data = cast(str, value).encode()
        if len(data) > self.cap:
            raise ValueError(f"a text of {len(data)} bytes, at most {self.cap} allowed")
        out.add(struct.pack("<I", len(data)) + data)

    def reader(self, dims: Dims) -> Reader:
        """See Field."""
        return self._read

    def _read(self, body: Body, at: int) -> tuple[str, int]:
        count = int.from_bytes(_take(body, at, 4), "little")
        if count > self.cap:
            raise Bad(f"text of {count} bytes, at most {self.cap} expected")
        try:
            return str(_take(body, at + 4, count), "utf-8"), at + 4 + count
        except UnicodeDecodeError:
            raise Bad("text is not UTF-8") from None


@dataclass(frozen=True, slots=True)
class Octets:
    """Bytes, their number before them; the form fixes how many there are at most."""

    cap: str

    def size(self, dims: Dims) -> int:
        """See wire.Field."""
        return 4 + dims[self.cap]

    def write(self, out: Parts, value: Any) -> None:
        """See wire.Field; whether it is too long is the receiver's check."""
        out.add(len(value).to_bytes(4, "little"))
        out.add(value)

    def reader(self, dims: Dims) -> Reader:
        """See wire.Field."""
        most = dims[self.cap]

        def read(body: Body, at: int) -> tuple[bytes, int]:
            count = int.from_bytes(_take(body, at, 4), "little")
            if count > most:
                raise Bad(f"{count} bytes, at most {most} expected")
            return bytes(_take(body, at + 4, count)), at + 4 + count

        return read


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array of one dtype and shape; names in the shape are sizes that the form fixes."""

    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or len(self.shape) > MAX_RANK:
            raise ValueError(f"no array of dtype {self.dtype} and rank {len(self.shape)} is sent")

    def expected(self, dims: Dims) -> tuple[int, ...]:
        """The shape with its names replaced."""
        return tuple(dims[n] if isinstance(n, str) else n for n in self.shape)

    def size(self, dims: Dims) -> int:
        """See Field."""
        content = math.prod(self.expected(dims)) * np.dtype(self.dtype).itemsize
        return 2 + 8 * len(self.shape) + ALIGNMENT - 1 + content

    def write(self, out: Parts, value: Any) -> None:
        """Append any array of a listed dtype; whether it fits the form is the receiver's check."""
        array = np.ascontiguousarray(value)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype.name not in DTYPES or array.ndim > MAX_RANK:
            raise ValueError(f"no array of dtype {array.dtype} and rank {array.ndim} is sent")
        shape = np.shape(value)
        code = DTYPES.index(array.dtype.name)
        out.add(struct.pack(f"<BB{len(shape)}Q", code, len(shape), *shape))
        out.add(bytes(-out.size % ALIGNMENT))
        out.add(array.reshape(-1).view(np.uint8).data)

    def reader(self, dims: Dims) -> Reader:
        """See Field."""
        return _Shaped(self.dtype, self.expected(dims)).read


class _Shaped:
    """Reads arrays of one dtype and shape."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self._dtype = np.dtype(dtype)
        self._head = struct.Struct(f"<BB{len(shape)}Q")
        self._expected = (DTYPES.index(dtype), len(shape), *shape)
        self._shape = shape
        self._count = math.prod(shape)
        self._bytes = self._count * self._dtype.itemsize
        self._truths = dtype == "bool"

    def read(self, body: Body, at: int) -> tuple[Array, int]:
        """See Reader."""
        begin = at + self._head.size
        if begin > len(body) or self._head.unpack_from(body, at) != self._expected:
            raise Bad(self._why_not(body, at))
        padding = -begin % ALIGNMENT
        if any(_take(body, begin, padding)):
            raise Bad("padding is not zero")
        begin += padding
        end = begin + self._bytes
        if end > len(body):
            raise Bad(f"ends {end - len(body)} bytes too early")
        if self._truths and max(memoryview(body)[begin:end], default=0) > 1:
            raise Bad("truth value above 1")
        array = np.frombuffer(body, self._dtype, self._count, begin)
        return array if len(self._shape) == 1 else array.reshape(self._shape), end

    def _why_not(self, body: Body, at: int) -> str:
        """What is wrong with a head that is not the expected one."""
        code, rank = _take(body, at, 2)
        if code >= len(DTYPES) or rank > MAX_RANK:
            return f"dtype code {code}, rank {rank}"
        if DTYPES[code] != self._dtype.name:
            return f"dtype {DTYPES[code]}, expected {self._dtype.name}"
        shape = struct.unpack(f"<{rank}Q", _take(body, at + 2, 8 * rank))
        return f"shape {shape}, expected {self._shape}"


U8, U32, U64 = Unsigned(8), Unsigned(32), Unsigned(64)
Index = Annotated[int, U64]
Bool = Annotated[bool, Flag()]


_layouts: dict[type[Any], tuple[tuple[str, Field], ...]] = {}


def _layout(cls: type[Any]) -> tuple[tuple[str, Field], ...]:
    """The fields of a message class in order, each with its place on the wire."""
    if cls not in _layouts:
        hints = get_type_hints(cls, include_extras=True)
        _layouts[cls] = tuple((f.name, get_args(hints[f.name])[1]) for f in fields(cls))
    return _layouts[cls]


@dataclass(frozen=True)
class Message:
    """Base of every message: a frozen dataclass whose fields say how they lie on the wire."""

    kind: ClassVar[str] = "Message"

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__

    def encode(self) -> bytes:
        """The canonical bytes. Raises ValueError for a value that the field cannot hold."""
        out = Parts()
        for name, field in _layout(type(self)):
            field.write(out, getattr(self, name))
        return b"".join(out.pieces)

    @classmethod
    def form(cls, **dims: int) -> Form[Self]:
        """What a receiver expects: this message with these sizes."""
        return Form(cls, dims)


class Form(Generic[M]):
    """A message type with all its sizes fixed; see ``net.Form``."""

    def __init__(self, cls: type[M], dims: Dims) -> None:
        self._cls = cls
        self._readers = [(name, field.reader(dims)) for name, field in _layout(cls)]
        self.kind = cls.kind
        self.max_bytes = sum(field.size(dims) for _, field in _layout(cls))

    def decode(self, body: Body) -> M | Malformed:
        """The message, or why these bytes are none. Total: no input raises."""
        values = []
        at = 0
        for name, read in self._readers:
            try:
                value, at = read(body, at)
            except Bad as bad:
                return Malformed(f"{name}: {bad}")
            values.append(value)
        if at != len(body):
            return Malformed(f"{len(body) - at} bytes too many")
        return self._cls(*values)


MAX_LABEL_BYTES = 200
MAX_LABEL_DEPTH = 8


def encode_label(label: Label) -> bytes:
    """A label's canonical bytes. Raises ValueError for labels that no receiver accepts."""
    body = b"/".join(name.encode() + b"." + str(index).encode() for name, index in label)
    if decode_label(body) != label:
        raise ValueError(f"{label!r} cannot be sent")
    return body


def decode_label(body: bytes) -> Label | Malformed:
    """A label from bytes. Total."""
    if len(body) > MAX_LABEL_BYTES or body.count(b"/") >= MAX_LABEL_DEPTH:
        return Malformed("label too long")
    parts = body.split(b"/") if body else []
    label = []
    for part in parts:
        name, dot, digits = part.partition(b".")
        word = name.replace(b"-", b"")
        if not (dot and word.isalpha() and word.islower() and digits.isdigit()):
            return Malformed("label is not name.index/name.index/...")
        index = int(digits)
        if index >= 1 << 64 or str(index).encode() != digits:
            return Malformed("label index is not canonical")
        label.append((name.decode(), index))
    return tuple(label)

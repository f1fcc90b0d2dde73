"""What is said when vectors are dealt (dealing.py), and what must be known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol

import numpy as np

from ostraka.crypto.prg import Key
from ostraka.crypto.transcript import digest
from ostraka.protocols.board import DIGEST_BYTES
from ostraka.protocols.scene import Scene
from ostraka.wire import Array, Bool, Message, Octets, Tensor

HEADERS = 0
"""The topic of headers; receipts come after it."""
FIRST, SECOND = 1, 2
"""Complaints, and their answers: a box is missing, a box does not open."""
SALT_BYTES = 32
ANSWER = ("answer", "of", "to")
BOX = ("box",)
Digests = Annotated[Array, Tensor("uint8", ("n", DIGEST_BYTES))]


@dataclass(frozen=True)
class Header(Message):
    """What a dealer has dealt, member by member: digests of its box, and of what is in it."""

    boxes: Digests
    plains: Digests
    coins: Annotated[Array, Tensor("uint8", (2, DIGEST_BYTES))]


@dataclass(frozen=True)
class Receipt(Message):
    """A member's word on each dealer: the header that it holds, and whether it complains.

    ``opens``: every box that it holds opens to what its header says.
    """

    headers: Digests
    wrong: Annotated[Array, Tensor("bool", ("n",))]
    opens: Bool


@dataclass(frozen=True)
class Box(Message):
    """One member's vector, sealed."""

    data: Annotated[bytes, Octets("box")]


@dataclass(frozen=True)
class Answer(Message):
    """To a complaint: the box, or the vector itself with its salt."""

    data: Annotated[bytes, Octets("box")]


class Shape(Protocol):
    """What one member's vector looks like, as bytes."""

    @property
    def longest(self) -> int:
        """No member's vector has more bytes."""

    def sound(self, member: int, payload: bytes) -> bool:
        """Whether these bytes are a vector for this member. Total."""


class Own(NamedTuple):
    """What this peer deals: each member's vector, each time the same, and two commitments.

    ``forget`` frees memory that the vectors take until one of them is asked for again.
    """

    vector: Callable[[int], bytes]
    salts: Key
    coins: tuple[bytes, bytes]
    forget: Callable[[], None] = lambda: None


class Setting(NamedTuple):
    """One message of an attempt: ``name`` of its agreement, who deals, who has a key.

    ``secrets``: what this peer shares with each other member. ``exposed``: the members whose
    vectors this peer has published in this attempt, never more than t.
    """

    name: str
    dealers: tuple[str, ...]
    members: tuple[str, ...]
    secrets: Mapping[str, Key]
    shape: Shape
    exposed: set[str]


def complaints(
    scene: Scene, setting: Setting, receipts: Mapping[str, Receipt], headers: Array | None
) -> dict[str, dict[str, bytes]]:
    """Whom members' receipts complain about, and under which header: zeros for none.

    Who names another header of a dealer than ``headers`` (n, 32) has, zeros for none, lacks what
    that one speaks of; None where receipts of other headers say nothing. Members that name more
    dealers than t that lie, ``dropouts`` that are away and one behind a slow link name nobody.
    """
    names, most = scene.names, scene.plan.t + scene.plan.dropouts + 1
    found = {}
    for member, receipt in receipts.items():
        differs = np.False_
        if headers is not None:
            differs = headers.any(axis=1) & (receipt.headers != headers).any(axis=1)
        dealers = {
            names[at]: bytes(receipt.headers[at])
            for at in np.flatnonzero(receipt.wrong | differs).tolist()
            if names[at] in setting.dealers
        }
        if dealers and len(dealers) <= most:
            found[member] = dealers
    return found


def opened(name: str) -> str:
    """The name of the second agreement of a message, on whose boxes open."""
    return f"{name}-opened"


def box_use(scene: Scene, name: str, dealer: str, member: str) -> bytes:
    """32 bytes that name the box of a member in the message of this name."""
    return scene.stated(f"box {name}", dealer.encode(), member.encode())


def plain_digest(scene: Scene, name: str, dealer: str, member: str, plain: bytes) -> bytes:
    """What a header says of a member's salt and vector."""
    return scene.stated("vector", box_use(scene, name, dealer, member), plain)


def names(
    scene: Scene, setting: Setting, header: Header, kind: int, parties: tuple[str, str], data: bytes
) -> bool:
    """Whether these bytes are what a header names: the box (FIRST), or what was in it, and sound.

    ``parties``: dealer and member.
    """
    dealer, member = parties
    at = scene.names.index(member)
    if kind == FIRST:
        return bytes(header.boxes[at]) == digest("box", data)
    found = plain_digest(scene, setting.name, dealer, member, data)
    return bytes(header.plains[at]) == found and setting.shape.sound(at, data[SALT_BYTES:])


def octets(found: bytes) -> Array:
    """Bytes as uint8."""
    return np.frombuffer(found, np.uint8)

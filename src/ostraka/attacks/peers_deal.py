"""Cheats of a peer of `serverless` in what it deals: peers.py says how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ostraka.algebra.field import Integers, P
from ostraka.algebra.image_sets import Submission
from ostraka.attacks.peers import FIRST, PeerAttack
from ostraka.protocols.image_check import COPIES
from ostraka.protocols.image_equations import Statement


@dataclass(frozen=True)
class NoBit(PeerAttack):
    """Submits a value that is no bit, or another number than it may, at one place."""

    value: int = 2
    at: int = 3
    name: ClassVar[str] = "no-bit"

    def submission(self, statement: Statement, own: Submission) -> Submission:
        """One entry changed."""
        vector = own[0].copy()
        vector[self.at] = self.value
        return (vector, *own[1:])


@dataclass(frozen=True)
class TooLong(PeerAttack):
    """Submits a vector of this many times the largest norm, along one coordinate."""

    factor: float = 2.0
    name: ClassVar[str] = "too-long"

    def submission(self, statement: Statement, own: Submission) -> Submission:
        """One large entry."""
        vector = np.zeros_like(own[0])
        limit = statement.image.norm_limit or 1
        vector[1] = int(self.factor * limit**0.5) + 1
        return (vector, *own[1:])


@dataclass(frozen=True)
class Wrapped(PeerAttack):
    """Submits these integers, huge ones, whose squared norm is small modulo p."""

    entries: tuple[int, ...] = (1518500250,)
    name: ClassVar[str] = "wrapped"

    def submission(self, statement: Statement, own: Submission) -> Submission:
        """The entries, then zeros."""
        vector = np.zeros_like(own[0])
        vector[: len(self.entries)] = self.entries
        return (vector, *own[1:])


@dataclass(frozen=True)
class OffSphere(PeerAttack):
    """Submits its point of the sphere times a factor, with the score that fits best."""

    factor: float = 1.1
    name: ClassVar[str] = "off-sphere"

    def submission(self, statement: Statement, own: Submission) -> Submission:
        """The vector scaled, its score kept."""
        return (np.rint(self.factor * own[0]).astype(np.int64), own[1])


@dataclass(frozen=True)
class Score(PeerAttack):
    """Submits another score: ``value``, or its own and ``more``."""

    value: int | None = None
    more: int = 0
    name: ClassVar[str] = "score"

    def submission(self, statement: Statement, own: Submission) -> Submission:
        """The same vector."""
        value = int(own[1][0]) if self.value is None else self.value
        return (own[0], np.array([value + self.more], np.int64))


@dataclass(frozen=True)
class ForgedProof(PeerAttack):
    """Flips one bit of its proof."""

    at: int = 0
    name: ClassVar[str] = "forged-proof"

    def bits(self, statement: Statement, bits: Integers) -> None:
        """One flipped."""
        bits[self.at] ^= 1


@dataclass(frozen=True)
class FreeSlot(PeerAttack):
    """Puts a value into a slot that carries none."""

    which: int = 0
    value: int = 1
    name: ClassVar[str] = "free-slot"

    def lay(self, statement: Statement, first: int, laid: Integers) -> None:
        """See PeerAttack."""
        slot, column = statement.filling[self.which]
        start = statement.columns[first].start
        if start <= column < start + laid.shape[1]:
            laid[slot, column - start] = self.value


@dataclass(frozen=True)
class WrongShares(PeerAttack):
    """Deals these members, by their places, shares that are not those of its polynomials.

    ``message``: which one is wrong; ``at``: which element of it, -1 for the last mask.
    """

    members: tuple[int, ...]
    message: int = FIRST
    at: int = 0
    name: ClassVar[str] = "wrong-shares"

    def vector(self, statement: Statement, message: int, member: int, payload: bytes) -> bytes:
        """One element more by one; another seed."""
        if message != self.message or member not in self.members:
            return payload
        if message == FIRST and member < statement.packing.seeds:
            return bytes([payload[0] ^ 1]) + payload[1:]
        elements = np.frombuffer(payload, "<u8").copy()
        elements[self.at] = (int(elements[self.at]) + 1) % P
        return elements.tobytes()


@dataclass(frozen=True)
class FalseMask(NoBit):
    """Submits what is no bit, and deals masks that would cancel the violation for coefficient 1.

    ``word``: "b", or "c", where the score or a proof value would be what it hides.
    """

    word: str = "b"
    name: ClassVar[str] = "false-mask"

    def vector(self, statement: Statement, message: int, member: int, payload: bytes) -> bytes:
        """The masks less a constant."""
        if message == FIRST:
            return payload
        elements = np.frombuffer(payload, "<u8").copy()
        violation = self.value * (self.value - 1)
        at = slice(-2 * COPIES, -COPIES) if self.word == "b" else slice(-COPIES, None)
        elements[at] = [(int(one) - violation) % P for one in elements[at]]
        return elements.tobytes()


@dataclass(frozen=True)
class NoElement(PeerAttack):
    """Deals a member, in a box that opens, a number that is no element of the field."""

    member: int
    value: int = P
    message: int = FIRST
    name: ClassVar[str] = "no-element"

    def vector(self, statement: Statement, message: int, member: int, payload: bytes) -> bytes:
        """The first number replaced."""
        if message != self.message or member != self.member:
            return payload
        return self.value.to_bytes(8, "little") + payload[8:]


DEALING_ATTACKS: dict[str, type[PeerAttack]] = {
    attack.name: attack
    for attack in (
        *(NoBit, TooLong, Wrapped, OffSphere, Score, ForgedProof, FreeSlot),
        *(WrongShares, FalseMask, NoElement),
    )
}

"""A submission as shares: what its dealer gives each member, in two messages, and back from bytes.

Source: steps 1 and 3 of the serverless design. The first message carries the shares of all parts
and of one mask for each copy of A; members 1 .. t get a seed from which they draw theirs. The
second carries, after the first coin, the shares of the proof's bits and the masks of B and C.
Everything follows from the submission and one key, so that a dealer gives the same again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ostraka.algebra.field import Field, add, from_integers, is_canonical, uniform
from ostraka.algebra.image_sets import Submission
from ostraka.crypto.prg import KEY_BYTES, Key
from ostraka.net import Body
from ostraka.protocols.image_check import COPIES, Shares
from ostraka.protocols.image_equations import Statement

ELEMENT_BYTES = 8


class First:
    """What a member's vector of the first message looks like: see dealing.Shape."""

    def __init__(self, statement: Statement) -> None:
        self.statement = statement

    @property
    def width(self) -> int:
        """Elements of a member's vector: its shares, then its masks."""
        return self.statement.dealt + COPIES

    @property
    def longest(self) -> int:
        """See Shape."""
        return max(KEY_BYTES, self.width * ELEMENT_BYTES)

    def sound(self, member: int, payload: bytes) -> bool:
        """See Shape."""
        if member < self.statement.packing.seeds:
            return len(payload) == KEY_BYTES
        return _elements(payload, self.width) is not None

    def elements(self, member: int, payload: Body) -> Field:
        """A member's elements (width,), read-only; the payload is sound."""
        if member >= self.statement.packing.seeds:
            return np.frombuffer(payload, "<u8")
        drawn = np.empty(self.width, np.uint64)
        uniform(Key(bytes(payload)).stream(), drawn)
        return drawn


class FirstDeal(First):
    """The first message of one dealer."""

    def __init__(self, statement: Statement, submission: Submission, key: Key) -> None:
        super().__init__(statement)
        self._submission, self._key = submission, key
        self._rows: Field | None = None

    def vector(self, member: int) -> bytes:
        """What this member is dealt."""
        packing = self.statement.packing
        if member < packing.seeds:
            return self._seed(member).reveal()
        if self._rows is None:
            self._rows = self._deal()
        return bytes(self._rows[member - packing.seeds])

    def forget(self) -> None:
        """Free the rows, which follow again from the submission and the key."""
        self._rows = None

    def _seed(self, member: int) -> Key:
        return self._key.derive("share", member)

    def _deal(self) -> Field:
        statement, packing = self.statement, self.statement.packing
        known = np.empty((packing.degree + 1, self.width), np.uint64)
        secrets = np.empty((packing.slots, statement.dealt), np.uint64)
        from_integers(statement.lay(self._submission, 0), secrets)
        known[: packing.slots, : statement.dealt] = secrets
        masks = np.empty((packing.slots, COPIES), np.uint64)
        uniform(self._key.derive("masks a").stream(), masks)
        known[: packing.slots, statement.dealt :] = masks
        rows = np.empty((packing.n - packing.seeds, self.width), np.uint64)
        packing.deal(known, [self._seed(m).stream() for m in range(packing.seeds)], rows)
        return rows


class Second:
    """What a member's vector of the second message looks like: see dealing.Shape."""

    def __init__(self, statement: Statement) -> None:
        self.statement = statement

    @property
    def width(self) -> int:
        """Elements of a member's vector: its shares of bits, its masks of B, those of C."""
        return self.statement.width - self.statement.dealt + 2 * COPIES

    @property
    def longest(self) -> int:
        """See Shape."""
        return self.width * ELEMENT_BYTES

    def sound(self, member: int, payload: bytes) -> bool:
        """See Shape."""
        return _elements(payload, self.width) is not None


class SecondDeal(Second):
    """The second message of one dealer; ``words``: the random words of the first coin.

    ValueError for a submission that is not in the image: nothing proves it.
    """

    def __init__(
        self, statement: Statement, submission: Submission, key: Key, words: Sequence[Field]
    ) -> None:
        super().__init__(statement)
        packing = statement.packing
        bits = statement.lay((statement.prove(submission, tuple(words)),), len(submission))
        known = np.empty((packing.degree + 1, bits.shape[1]), np.uint64)
        secrets = np.empty(bits.shape, np.uint64)
        from_integers(bits, secrets)
        known[: packing.slots] = secrets
        streams = [key.derive("share of bits", m).stream() for m in range(packing.seeds)]
        rest = np.empty((packing.n - packing.seeds, bits.shape[1]), np.uint64)
        packing.deal(known, streams, rest)
        masks = []
        for use, deal in (("b", packing.deal_vanishing), ("c", packing.deal_zero_sums)):
            mask = np.empty((packing.n, COPIES), np.uint64)
            deal(key.derive(f"masks {use}").stream(), mask)
            masks.append(mask)
        shares = np.concatenate([known[packing.slots :], rest])
        self._rows = np.concatenate([shares, *masks], axis=1)

    def vector(self, member: int) -> bytes:
        """What this member is dealt."""
        return bytes(self._rows[member])


def member_shares(
    statement: Statement, member: int, firsts: Sequence[Body], seconds: Sequence[Body]
) -> Shares:
    """What one member holds of several dealers, from the sound payloads of both messages."""
    first = First(statement)
    n, dealt, bits = len(firsts), statement.dealt, statement.width - statement.dealt
    values = np.empty((n, statement.width), np.uint64)
    masks = np.empty((3, n, COPIES), np.uint64)
    for at, (one, two) in enumerate(zip(firsts, seconds, strict=True)):
        row = first.elements(member, one)
        values[at, :dealt], masks[0, at] = row[:dealt], row[dealt:]
        rest = np.frombuffer(two, "<u8")
        values[at, dealt:] = rest[:bits]
        masks[1, at], masks[2, at] = rest[bits : bits + COPIES], rest[bits + COPIES :]
    return Shares(values, *masks)


def summed(statement: Statement, member: int, firsts: Sequence[Body]) -> Field:
    """A member's share (dealt,) of the sum of several dealers' parts."""
    first = First(statement)
    total = np.zeros(statement.dealt, np.uint64)
    for payload in firsts:
        add(total, first.elements(member, payload)[: statement.dealt], total)
    return total


def _elements(payload: bytes, width: int) -> Field | None:
    """So many elements of the field; None for other bytes."""
    if len(payload) != width * ELEMENT_BYTES:
        return None
    found = np.frombuffer(payload, "<u8")
    return found if is_canonical(found) else None

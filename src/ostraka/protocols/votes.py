"""Votes of an agreement: what is signed, what q of them prove, and what two of them betray.

A slot is (session, round, instance, attempt, view, phase); the voter signs the digest of a value
for it. q = floor((N + t) / 2) + 1 signatures of one slot and value are a certificate: any two of
them share more than t voters, so an honest one, and that one signs one value in a slot. Two values
that one voter signed for one slot are evidence. Both are pure data that anybody checks offline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

from ostraka.crypto.sign import SIGNATURE_BYTES, verifies
from ostraka.crypto.transcript import digest
from ostraka.net import Body


class Phase(IntEnum):
    """What a voter says in a view, in this order."""

    PROPOSE = 0
    PREVOTE = 1
    PRECOMMIT = 2


class Instance(NamedTuple):
    """One agreement of a session."""

    round: int
    name: str
    attempt: int = 0

    def digest(self, session: bytes) -> bytes:
        """32 bytes that name it."""
        return _named(session, self)


@lru_cache(64)  # every vote needs it
def _named(session: bytes, instance: Instance) -> bytes:
    numbers = (number.to_bytes(8, "little") for number in (instance.round, instance.attempt))
    return digest("instance", session, instance.name.encode(), *numbers)


class Slot(NamedTuple):
    """Where a voter signs one value at most."""

    instance: Instance
    view: int
    phase: Phase


def value_hash(value: bytes) -> bytes:
    """32 bytes that name a value."""
    return digest("value", value)


def stated(session: bytes, slot: Slot, what: bytes) -> bytes:
    """What a voter signs (32 bytes) when the value of this hash is its slot's."""
    place = slot.view.to_bytes(8, "little") + bytes([slot.phase])
    return digest("vote", slot.instance.digest(session), place, what)


@dataclass(frozen=True)
class Plan:
    """What all voters agree on beforehand; `check` refuses what cannot hold.

    ``voters``: names to raw public keys, in order; ``session`` names the run (32 bytes); up to
    ``t`` voters lie, up to ``dropouts`` more are away. View v ends after ``view_s`` + v ``more_s``
    seconds without a decision.
    """

    voters: Mapping[str, bytes]
    session: bytes
    t: int
    dropouts: int = 0
    view_s: float = 4.0
    more_s: float = 1.0

    @property
    def n(self) -> int:
        """How many voters there are."""
        return len(self.voters)

    @property
    def quorum(self) -> int:
        """q: two quorums share more than t voters."""
        return (self.n + self.t) // 2 + 1

    @property
    def deadline(self) -> int:
        """The first view in which a void may be proposed afresh."""
        return self.t + 2

    def check(self) -> None:
        """ValueError with a sentence for numbers with which a promise cannot hold."""
        least = 3 * self.t + 2 * self.dropouts + 1
        if self.t < 0 or self.dropouts < 0 or self.n < least:
            raise ValueError(
                f"agreement needs N >= 3 t + 2 dropouts + 1 voters, got N = {self.n} with "
                f"t = {self.t} and dropouts = {self.dropouts}"
            )
        if self.view_s <= 0.0 or self.more_s < 0.0:
            raise ValueError(f"a view of {self.view_s:g} s that grows by {self.more_s:g} s ends")

    def leader(self, instance: Instance, view: int) -> str:
        """Who proposes in a view: all in turn, from a place that the instance's digest draws."""
        first = int.from_bytes(instance.digest(self.session)[:8], "little")
        return tuple(self.voters)[(first + view) % self.n]

    def length_s(self, view: int) -> float:
        """How long a view lasts."""
        return self.view_s + view * self.more_s


@dataclass(frozen=True)
class Certificate:
    """Signatures by name under the same value's hash in the same slot."""

    slot: Slot
    what: bytes
    signatures: Mapping[str, bytes]

    def holds(self, plan: Plan) -> bool:
        """Whether a quorum of the plan's voters has signed. Total."""
        statement = stated(plan.session, self.slot, self.what)
        signed = sum(
            verifies(plan.voters[name], signature, statement)
            for name, signature in self.signatures.items()
            if name in plan.voters
        )
        return signed >= plan.quorum


@dataclass(frozen=True)
class Evidence:
    """Two hashes that one voter signed for one slot, each with its signature."""

    voter: str
    slot: Slot
    first: tuple[bytes, bytes]
    second: tuple[bytes, bytes]

    def told(self) -> dict[str, Any]:
        """For events, in which anybody can look it up and check it."""
        numbers = {"view": self.slot.view, "phase": int(self.slot.phase)}
        slot = {**self.slot.instance._asdict(), **numbers}
        first, second = ([part.hex() for part in pair] for pair in (self.first, self.second))
        return {"voter": self.voter, **slot, "first": first, "second": second}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Evidence:
        """What `told` gave. Raises KeyError, TypeError or ValueError for what it never gives."""
        numbers = [told[key] for key in ("round", "attempt", "view", "phase")]
        if not all(type(one) is int and 0 <= one < 1 << 64 for one in numbers):
            raise ValueError("a slot's numbers are whole and have 64 bits")
        name, voter = told["name"], told["voter"]
        if not (isinstance(name, str) and isinstance(voter, str)):
            raise ValueError("names are texts")
        name.encode(), voter.encode()  # not every text can be
        number, attempt, view, phase = numbers
        slot = Slot(Instance(number, name, attempt), view, Phase(phase))
        pairs = [tuple(bytes.fromhex(part) for part in told[key]) for key in ("first", "second")]
        (a, b), (c, d) = pairs
        return cls(voter, slot, (a, b), (c, d))

    def convinces(self, plan: Plan) -> bool:
        """Whether these are two hashes and the voter's own signatures of both. Total."""
        public = plan.voters.get(self.voter)
        return (
            public is not None
            and self.first[0] != self.second[0]
            and all(
                verifies(public, signature, stated(plan.session, self.slot, what))
                for what, signature in (self.first, self.second)
            )
        )


def packed_bytes(n: int, quorum: int) -> int:
    """How long packed signatures are."""
    return -(-n // 8) + quorum * SIGNATURE_BYTES


def pack(plan: Plan, signatures: Mapping[str, bytes]) -> bytes:
    """A bit for each voter that signed, then the first q signatures, in the order of voters."""
    signers = [place for place, name in enumerate(plan.voters) if name in signatures][: plan.quorum]
    names = tuple(plan.voters)
    bits = sum(1 << place for place in signers).to_bytes(-(-plan.n // 8), "little")
    return bits + b"".join(signatures[names[place]] for place in signers)


def unpack(plan: Plan, packed: Body) -> Mapping[str, bytes] | None:
    """What `pack` packed; None for other bytes. Total: nobody stands in it twice."""
    if len(packed) != packed_bytes(plan.n, plan.quorum):
        return None
    start = -(-plan.n // 8)
    bits = int.from_bytes(packed[:start], "little")
    signers = [name for place, name in enumerate(plan.voters) if bits >> place & 1]
    if bits >> plan.n or len(signers) != plan.quorum:
        return None
    at = range(start, len(packed), SIGNATURE_BYTES)
    return {
        name: bytes(packed[i : i + SIGNATURE_BYTES]) for name, i in zip(signers, at, strict=True)
    }

"""What voters say in an agreement, where it lies, what they store and what they agree about.

Proposals and votes lie under their view, so that a window bounds how far ahead anybody may speak;
questions (`Change`, `Have`) lie under the asker's process and a number that only grows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Protocol

from ostraka.crypto.sign import SIGNATURE_BYTES
from ostraka.net import Arrival, Inbox, Net
from ostraka.protocols.consistent_broadcast import Digest, Signature
from ostraka.protocols.votes import (
    Certificate,
    Evidence,
    Instance,
    Phase,
    Plan,
    Slot,
    pack,
    packed_bytes,
    unpack,
    value_hash,
)
from ostraka.wire import U8, Bool, Index, Message, Octets

VIEW, ASK, DECIDED = ("view",), ("life", "ask"), ("decided",)
VOID = b""
"""The value of an instance that gives up; no subject proposes it."""


Value = Annotated[bytes, Octets("value")]
Proof = Annotated[bytes, Octets("proof")]
"""Packed signatures of a quorum, or nothing."""
UNSIGNED = bytes(SIGNATURE_BYTES)
"""Stands where a signature would, if there were one."""


@dataclass(frozen=True)
class Proposal(Message):
    """The leader of a view to all. ``proof``: q prevotes for the value in an earlier view."""

    value: Value
    proof_view: Index
    proof: Proof
    signature: Signature


@dataclass(frozen=True)
class Prevote(Message):
    """A voter to the leader of the view: I would have this value, which you have signed for it."""

    what: Digest
    signature: Signature


@dataclass(frozen=True)
class Locked(Message):
    """The leader to all: these q voters would have this value; I hold it and am locked on it."""

    what: Digest
    proof: Proof


@dataclass(frozen=True)
class Precommit(Message):
    """A voter to the leader: I have seen that q would have this value, and am locked on it."""

    what: Digest
    signature: Signature


@dataclass(frozen=True)
class Change(Message):
    """A voter to all: I vote no more before this view. To its leader also the lock, if any.

    Whoever has decided shows the decision in answer; to one who ``asks`` the others say again what
    they have said. Nobody passes it on, so it is not signed: the lock proves itself. ``seen``: the
    last value that a leader has shown this voter, in ``seen_view``, with ``of_leader``, that
    leader's signature (zeros: none has): whoever was shown another there convicts the leader.
    """

    view: Index
    asks: Bool
    value: Value
    proof_view: Index
    proof: Proof
    seen_view: Index
    seen: Digest
    of_leader: Signature


@dataclass(frozen=True)
class Have(Message):
    """Give me the items that I lack, if these are those that I hold."""

    have: Annotated[bytes, Octets("have")]


@dataclass(frozen=True)
class Decided(Message):
    """q precommits for a value in a view: nobody decides another one.

    ``of_leader``: that view's leader proposed it, so that two proposals are found out.
    """

    view: Index
    value: Value
    proof: Proof
    of_leader: Signature


@dataclass(frozen=True)
class Stored(Message):
    """What must be on disk before the signature for a slot leaves; `encode` gives its bytes.

    ``proof``: with a proposal as it stands there, with a precommit the lock's. ``of_leader``: with
    a prevote the leader's signature, else zeros.
    """

    view: Index
    phase: Annotated[int, U8]
    value: Value
    proof_view: Index
    proof: Proof
    of_leader: Signature


@dataclass(frozen=True)
class Decision:
    """What an instance has decided, for ever, and who signed two things on the way.

    ``of_leader``: the proposal's signature; who has not decided yet takes no decision without it.
    """

    value: bytes
    certificate: Certificate
    evidence: Mapping[str, Evidence]
    of_leader: bytes = UNSIGNED

    @property
    def void(self) -> bool:
        """Whether the instance gave up."""
        return self.value == VOID

    def holds(self, plan: Plan) -> bool:
        """Whether a quorum has precommitted this value. Pure and total."""
        slot = self.certificate.slot
        of_value = self.certificate.what == value_hash(self.value)
        return slot.phase == Phase.PRECOMMIT and of_value and self.certificate.holds(plan)

    def message(self, plan: Plan) -> Decided:
        """What others are shown."""
        proof = pack(plan, self.certificate.signatures)
        return Decided(self.certificate.slot.view, self.value, proof, self.of_leader)

    @classmethod
    def of(cls, plan: Plan, instance: Instance, message: Decided) -> Decision | None:
        """The decision that a message shows; None where it proves none. Pure and total."""
        signatures = unpack(plan, message.proof)
        if signatures is None:
            return None
        slot = Slot(instance, message.view, Phase.PRECOMMIT)
        certificate = Certificate(slot, value_hash(message.value), signatures)
        found = cls(message.value, certificate, {}, message.of_leader)
        return found if found.holds(plan) else None


class Verdict(Enum):
    """What a voter thinks of a value that comes without a certificate."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    NOT_YET = "not yet"


class Subject(Protocol):
    """What one instance is about, as one voter sees it; its labels lie below the instance's.

    Items are what values speak of (receipts, reveals, check messages): signed by whom they come
    from, so that anybody may pass them on. What is asked of it again and again must be cheap.
    """

    @property
    def value_bytes(self) -> int:
        """No value is longer."""

    @property
    def have_bytes(self) -> int:
        """What `have` gives is never longer."""

    @property
    def voids(self) -> bool:
        """Whether the instance may give up."""

    @property
    def inboxes(self) -> Sequence[Inbox[Any]]:
        """Where items come in that others give."""

    def propose(self) -> bytes | None:
        """What this voter would propose now, never VOID; None where it is not ready."""

    def judge(self, value: bytes) -> Verdict:
        """Whether a fresh value is to be voted for. REFUSE for bytes that are no value. Total."""

    def holds(self, value: bytes) -> bool:
        """Whether this voter has every item that a decided value speaks of."""

    def upon(self, got: Arrival) -> None:
        """An item came, or what is none."""

    def have(self) -> bytes:
        """Which items this voter holds, in a form of its own."""

    def give(self, net: Net, to: str, have: bytes) -> None:
        """Send another voter the items that it lacks, below this label. Total."""


def dims(plan: Plan, value_bytes: int, have_bytes: int = 0) -> dict[str, int]:
    """The sizes of all messages' forms, for `Stored.form(**dims(...))` too."""
    return {
        "value": value_bytes,
        "have": have_bytes,
        "proof": packed_bytes(plan.n, plan.quorum),
    }

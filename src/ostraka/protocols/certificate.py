"""Certificates: what each round ended with, signed by a quorum, every one naming the one before.

Source: step 7 of the serverless design. Parties: the N voters of a round, up to t of whom lie. A
record that q = floor((N + t) / 2) + 1 of them have signed is what every honest peer has computed:
any two quorums share an honest one. Revealed: the record. One signature from everybody to
everybody. A chain of certificates is pure data, which anybody checks offline against the peers'
public keys: `verify_chain`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ostraka.crypto.sign import Sign, verifies
from ostraka.crypto.transcript import digest
from ostraka.net import Abort, Inbox, Malformed, Net
from ostraka.protocols.consistent_broadcast import Digest, Signature
from ostraka.protocols.votes import Plan
from ostraka.wire import Message

MOST_BYTES = 1 << 20
"""Of a record's text; a longer one is refused unread."""


@dataclass(frozen=True)
class Record:
    """What a round ended with; digests as hexadecimal text.

    ``previous``: the digest of the record before, of the first one the session. ``model``: of the
    model after the round, ``aggregate``: of what it moved by; ``checks``: of the agreed list of
    check messages. ``peers`` took part;
    ``accepted`` count in the sum; ``evicted`` take part no more.
    """

    session: str
    round: int
    attempt: int
    previous: str
    model: str
    aggregate: str
    checks: str
    peers: tuple[str, ...]
    accepted: tuple[str, ...]
    evicted: tuple[str, ...]

    def encode(self) -> bytes:
        """Its only text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, text: bytes) -> Record:
        """The record of a text. ValueError for any other bytes."""
        if len(text) > MOST_BYTES:
            raise ValueError(f"a record has at most {MOST_BYTES} bytes, not {len(text)}")
        try:
            told = json.loads(text)
            lists = {key: tuple(told[key]) for key in ("peers", "accepted", "evicted")}
            record = cls(**{**told, **lists})
        except (TypeError, KeyError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(f"this is no record: {error}") from error
        if record.encode() != text or not record._sound():
            raise ValueError("this is not how a record is written")
        return record

    def _sound(self) -> bool:
        texts = self.session, self.previous, self.model, self.aggregate, self.checks
        names = (*self.peers, *self.accepted, *self.evicted)
        numbers = self.round, self.attempt
        return (
            all(isinstance(one, str) for one in (*texts, *names))
            and all(type(one) is int and 0 <= one < 1 << 64 for one in numbers)
            and {*self.accepted, *self.evicted} <= set(self.peers)
            and len(set(self.peers)) == len(self.peers)
        )

    @property
    def digest(self) -> bytes:
        """32 bytes that name it, and that are signed."""
        return digest("certificate", self.encode())


@dataclass(frozen=True)
class Certificate:
    """A record, and signatures under its digest by name."""

    record: Record
    signatures: Mapping[str, bytes]

    def holds(self, plan: Plan) -> bool:
        """Whether a quorum of a round's voters has signed. Total."""
        signed = sum(
            verifies(plan.voters[name], signature, self.record.digest)
            for name, signature in self.signatures.items()
            if name in plan.voters
        )
        return signed >= plan.quorum

    def told(self) -> dict[str, Any]:
        """For a file of lines."""
        signatures = {name: one.hex() for name, one in sorted(self.signatures.items())}
        return {"record": self.record.encode().decode(), "signatures": signatures}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Certificate:
        """What `told` gave. ValueError for anything else."""
        try:
            record = Record.decode(told["record"].encode())
            signatures = {str(name): bytes.fromhex(one) for name, one in told["signatures"].items()}
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"this is no certificate: {error}") from error
        return cls(record, signatures)


@dataclass(frozen=True)
class Signed(Message):
    """My signature under the record of this digest."""

    what: Digest
    signature: Signature


async def certify(
    net: Net, plan: Plan, record: Record, *, sign: Sign, timeout_s: float
) -> Certificate:
    """The record with a quorum of signatures; Abort where none comes in time."""
    what = record.digest
    signatures = {net.me: sign(what)}
    others = tuple(name for name in plan.voters if name != net.me)
    net.broadcast(others, Signed(what, signatures[net.me]))
    inbox, until = Inbox((), Signed.form(), frozenset(others)), net.now + timeout_s
    differ: set[str] = set()
    while len(signatures) < plan.quorum:
        got = await net.arrival(inbox, timeout_s=max(0.0, until - net.now))
        if got is None:
            raise Abort(
                f"only {len(signatures)} of {plan.quorum} signatures under round {record.round} "
                f"came in time, and {len(differ)} peers signed another record"
            )
        if isinstance(got.message, Malformed):
            continue
        if got.message.what != what:
            differ.add(got.sender)
        elif verifies(plan.voters[got.sender], got.message.signature, what):
            signatures[got.sender] = got.message.signature
    return Certificate(record, signatures)


@dataclass(frozen=True)
class Point:
    """Where a chain has come to: the next round, the digest before it, who is evicted by then."""

    round: int
    previous: bytes
    evicted: tuple[str, ...] = ()


def verify_chain(
    certificates: Sequence[Certificate],
    keys: Mapping[str, bytes],
    session: bytes,
    t: int,
    start: Point | None = None,
) -> Point:
    """Check a run's certificates from a point on, or from its first round; where they end. Pure.

    ``keys``: all peers' raw public keys, in their order; ``t``: of the first round. ValueError with
    a sentence for the first one that does not hold.
    """
    at = start or Point(0, session)
    for certificate in certificates:
        record, number = certificate.record, at.round
        peers = tuple(name for name in keys if name not in at.evicted)
        left = t - len(at.evicted)
        plan = Plan({name: keys[name] for name in peers}, session, left)
        for holds, what in (
            (record.session == session.hex(), "is of another session"),
            (record.round == number, f"is of round {record.round}"),
            (record.previous == at.previous.hex(), "does not name the one before"),
            (record.peers == peers, "is of other peers than were left"),
            (len(record.evicted) <= left, f"evicts {len(record.evicted)} peers, more than {left}"),
        ):
            if not holds:
                raise ValueError(f"certificate {number} {what}")
        if not certificate.holds(plan):
            raise ValueError(f"certificate {number} has fewer than {plan.quorum} signatures")
        at = Point(number + 1, record.digest, (*at.evicted, *record.evicted))
    return at

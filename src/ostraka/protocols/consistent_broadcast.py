"""Consistent broadcast of digests: nobody can show two parties two things for one slot.

Source: Bracha and Toueg 1985 (echo broadcast), with signatures as in Reiter 1994, on digests as
Cachin et al. 2011, section 3.10, describe it. Parties: n servers, at most f Byzantine, n > 3f;
asynchronous links. A slot is (kind, step, originator). The originator signs the digest of what it
says there; every server echoes, once and for ever, the first signed digest that it sees for a slot,
from the originator or in somebody's echo. What the originator and others, n - f in all, have signed
has a certificate. Guarantee: two certificates of one slot are of the same digest (they share
n - 2f > f servers, so an honest one, which echoed once); what an honest originator says gets one as
soon as n - f servers are connected; two digests that one originator signed for one slot are
evidence that convinces anybody. Revealed: digests. n (n - 1) echoes of 160 bytes for each slot.

An echo must be stored before it leaves (``store``): a server that echoed again after a restart
could help two certificates into being.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ostraka.crypto.sign import SIGNATURE_BYTES, Sign, verifies
from ostraka.crypto.transcript import digest
from ostraka.wire import Exactly, Message

Digest = Annotated[bytes, Exactly(32)]
Signature = Annotated[bytes, Exactly(SIGNATURE_BYTES)]


class Slot(NamedTuple):
    """One thing that one party says: what kind, at which step, who."""

    kind: str
    step: int
    originator: str


@dataclass(frozen=True)
class Echo(Message):
    """A server to all: the first digest that I saw for this slot, and its originator's signature.

    The slot is where the message lies; ``signature`` is the echoing server's own.
    """

    digest: Digest
    of_originator: Signature
    signature: Signature


@dataclass(frozen=True)
class Evidence:
    """Two digests that one originator signed for one slot."""

    slot: Slot
    first: tuple[bytes, bytes]
    second: tuple[bytes, bytes]

    def told(self) -> dict[str, Any]:
        """For events, in which anybody can look it up and check it: digests and signatures."""
        first, second = ([part.hex() for part in pair] for pair in (self.first, self.second))
        return {**self.slot._asdict(), "first": first, "second": second}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Evidence:
        """What `told` gave. Raises KeyError, TypeError or ValueError for what it never gives."""
        slot = Slot(str(told["kind"]), int(told["step"]), str(told["originator"]))
        pairs = [tuple(bytes.fromhex(part) for part in told[key]) for key in ("first", "second")]
        (a, b), (c, d) = pairs
        return cls(slot, (a, b), (c, d))

    def convinces(self, session: bytes, public: bytes) -> bool:
        """Whether these are two digests and the originator's own signatures of both. Total."""
        pairs = (self.first, self.second)
        return self.first[0] != self.second[0] and all(
            verifies(public, signature, stated(session, self.slot, what))
            for what, signature in pairs
        )


@dataclass(frozen=True)
class Certificate:
    """Who signed that this is what the slot holds: the originator and the echoes."""

    digest: bytes
    of_originator: bytes
    echoes: Mapping[str, bytes]

    def holds(self, session: bytes, slot: Slot, keys: Mapping[str, bytes], f: int) -> bool:
        """Whether n - f of the servers, the originator among them, have signed. Total."""
        if slot.originator not in keys:
            return False
        statement = stated(session, slot, self.digest)
        if not verifies(keys[slot.originator], self.of_originator, statement):
            return False
        echoed = echo_of(statement)
        signed = {slot.originator} | {
            name
            for name, signature in self.echoes.items()
            if name in keys and verifies(keys[name], signature, echoed)
        }
        return len(signed) >= len(keys) - f


def vector_hash(vector: npt.NDArray[np.float32]) -> bytes:
    """32 bytes that name a vector, float32 (d,)."""
    octets = np.ascontiguousarray(vector, "<f4").view(np.uint8)
    return digest("vector", octets.data)


def stated(session: bytes, slot: Slot, what: bytes) -> bytes:
    """What an originator signs (32 bytes) when a payload of this digest is its slot's."""
    step = slot.step.to_bytes(8, "little")
    return digest("slot", session, slot.kind.encode(), step, slot.originator.encode(), what)


def echo_of(statement: bytes) -> bytes:
    """What another server signs (32 bytes) when it echoes a statement."""
    return digest("echo", statement)


@dataclass
class _Seen:
    """What is known of one slot: the first digest, and the signatures under each."""

    digest: bytes
    of_originator: bytes
    echoes: dict[bytes, dict[str, bytes]] = field(default_factory=dict)


class ConsistentBroadcast:
    """One server's side for all slots: what it has seen, what it must echo, who has lied.

    ``keys``: the servers' raw public keys by name, one's own included. ``store(slot, digest,
    of_originator)`` makes an echo durable before it leaves. Without ``sign`` and ``store`` it only
    watches, as workers do: it counts echoes and makes none.
    """

    def __init__(
        self,
        me: str,
        session: bytes,
        keys: Mapping[str, bytes],
        f: int,
        sign: Sign | None,
        store: Callable[[Slot, bytes, bytes], None] | None,
    ) -> None:
        self._me, self._session, self._keys, self._f = me, session, keys, f
        self._sign, self._store = sign, store
        self._seen: dict[Slot, _Seen] = {}
        self.evidence: dict[str, Evidence] = {}

    def restore(self, slot: Slot, what: bytes, of_originator: bytes) -> None:
        """An echo that this server stored before it restarted."""
        self._begin(slot, what, of_originator)

    def say(self, slot: Slot, what: bytes) -> bytes:
        """Sign one's own slot; ValueError where it holds another digest already."""
        if slot.originator != self._me or self._sign is None:
            raise ValueError(f"{self._me} cannot speak for {slot.originator}")
        seen = self._seen.get(slot)
        if seen is not None:
            if seen.digest != what:
                raise ValueError(f"{slot} holds something else already")
            return seen.of_originator
        signature = self._sign(stated(self._session, slot, what))
        self._begin(slot, what, signature)
        return signature

    def signed(self, slot: Slot, what: bytes, of_originator: bytes) -> bool:
        """Whether the slot's originator has signed this digest for it."""
        seen = self._seen.get(slot)
        if seen is not None and (seen.digest, seen.of_originator) == (what, of_originator):
            return True  # that was looked at before it was kept
        public = self._keys.get(slot.originator)
        return public is not None and verifies(
            public, of_originator, stated(self._session, slot, what)
        )

    def hear(self, slot: Slot, what: bytes, of_originator: bytes) -> Echo | None:
        """A signed digest came; gives the echo that is due, the first time.

        Signatures that do not hold are ignored: they may be anybody's.
        """
        if not self.signed(slot, what, of_originator):
            return None
        seen = self._seen.get(slot)
        if seen is None:
            if self._store is not None:
                self._store(slot, what, of_originator)
            self._begin(slot, what, of_originator)
            return self.echo(slot)
        if seen.digest != what and slot.originator not in self.evidence:
            pairs = (seen.digest, seen.of_originator), (what, of_originator)
            self.evidence[slot.originator] = Evidence(slot, *pairs)
        return None

    def take(self, slot: Slot, sender: str, echo: Echo) -> Echo | None:
        """Another server's echo came; gives one's own echo, where it is due now."""
        due = self.hear(slot, echo.digest, echo.of_originator)
        seen = self._seen.get(slot)
        if seen is None or sender not in self._keys or sender == slot.originator:
            return due
        if not self.signed(slot, echo.digest, echo.of_originator):
            return due  # a digest that nobody has signed would only take room
        echoes = seen.echoes.setdefault(echo.digest, {})
        if len(echoes) < len(self._keys) - self._f - 1:  # with the originator's own they are enough
            statement = stated(self._session, slot, echo.digest)
            if verifies(self._keys[sender], echo.signature, echo_of(statement)):
                echoes[sender] = echo.signature
        return due

    def echo(self, slot: Slot) -> Echo | None:
        """One's own echo of a slot, once more; None where nothing was seen, or it is one's own."""
        seen = self._seen.get(slot)
        own = None if seen is None else seen.echoes.get(seen.digest, {}).get(self._me)
        if seen is None or own is None:
            return None
        return Echo(seen.digest, seen.of_originator, own)

    def certificate(self, slot: Slot, what: bytes, of_originator: bytes) -> Certificate | None:
        """The certificate of a digest in a slot; None while too few have signed."""
        seen = self._seen.get(slot)
        echoes = {} if seen is None else seen.echoes.get(what, {})
        if len({slot.originator, *echoes}) < len(self._keys) - self._f:
            return None
        return Certificate(what, of_originator, dict(echoes))

    def forget(self, kind: str, below: int) -> None:
        """Drop all slots of a kind whose step is below this one."""
        old = [slot for slot in self._seen if slot.kind == kind and slot.step < below]
        for slot in old:
            del self._seen[slot]

    def _begin(self, slot: Slot, what: bytes, of_originator: bytes) -> None:
        seen = self._seen[slot] = _Seen(what, of_originator)
        if slot.originator != self._me and self._sign is not None:
            signature = self._sign(echo_of(stated(self._session, slot, what)))
            seen.echoes[what] = {self._me: signature}

"""The agreement that ends an attempt: whose submissions count and who is evicted, or `void`.

Source: step 6 of the serverless design. A value names the check messages that it follows from, the
dealers that count and the peers that are evicted. A voter lets a fresh one through only if it has
verified itself why an acceptable dealer is missing and why a peer is evicted, and refuses a dealer
against whom it held evidence when it began. Items are pieces of evidence, which anybody may pass
on. Where the instance decides `void`, nothing of this attempt is ever opened, and the next may
begin; a decided set is opened, or the round ends for good.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from ostraka.crypto.transcript import digest
from ostraka.net import Arrival, Inbox, Net
from ostraka.protocols.ballots import Verdict
from ostraka.protocols.burn_defence import Bundle, Bundles
from ostraka.protocols.checking import Trial
from ostraka.protocols.consistent_broadcast import Signature
from ostraka.protocols.scene import Assembly, Scene
from ostraka.protocols.votes import Evidence
from ostraka.wire import Message, Octets, Text

DIGEST_BYTES = 32
ENTRIES, VOTES = ("entries", "of"), ("votes", "of")
_TOLD_BYTES = 2048


@dataclass(frozen=True)
class TwoEntries(Message):
    """Two different bodies that one peer has signed for one use."""

    use: Annotated[str, Text(64)]
    first: Annotated[bytes, Octets("body")]
    first_signature: Signature
    second: Annotated[bytes, Octets("body")]
    second_signature: Signature

    def convinces(self, scene: Scene, peer: str) -> bool:
        """Whether the peer has signed both in this attempt. Pure and total."""
        pairs = (self.first, self.first_signature), (self.second, self.second_signature)
        return self.first != self.second and all(
            scene.signed(self.use, peer, body, signature) for body, signature in pairs
        )


@dataclass(frozen=True)
class TwoVotes(Message):
    """Two values that one peer has signed in one slot of an agreement, as `Evidence.told` says."""

    told: Annotated[bytes, Octets("told")]

    def evidence(self) -> Evidence | None:
        """What it tells; None for anything else. Total."""
        try:
            return Evidence.of(json.loads(self.told))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None


Contradiction = TwoEntries | TwoVotes


class Charges:
    """The evidence that one peer holds in an attempt, all of it verified; ``trial``: once known."""

    def __init__(self, assembly: Assembly, net: Net, body_bytes: int) -> None:
        self._assembly, self._net = assembly, net
        self.contradictions: dict[str, Contradiction] = {}
        self.trial: Trial | None = None
        self.bundles: Bundles | None = None
        others = frozenset(assembly.others)
        self.inboxes: tuple[Inbox[Any], ...] = (
            Inbox(ENTRIES, TwoEntries.form(body=body_bytes), others),
            Inbox(VOTES, TwoVotes.form(told=_TOLD_BYTES), others),
        )

    def join(self, trial: Trial, bundles: Bundles) -> None:
        """The checks are done: what follows from them counts from now on."""
        self.trial, self.bundles = trial, bundles
        self.inboxes = (*self.inboxes, bundles.inbox)

    def collect(self) -> None:
        """Take in what this peer has seen itself."""
        for board in self._assembly.boards:
            for use, owner, (one, two) in board.twice():
                self.contradictions.setdefault(
                    owner, TwoEntries(use, one.body, one.signature, two.body, two.signature)
                )
        for name, evidence in self._assembly.double_votes.items():
            told = json.dumps(evidence.told(), sort_keys=True).encode()
            self.contradictions.setdefault(name, TwoVotes(told))

    def blamed(self) -> frozenset[str]:
        """All peers against whom evidence is in hand."""
        found = set(self.contradictions)
        if self.trial is not None and self.bundles is not None:
            found |= {*self.trial.refuted, *self.bundles.against}
        return frozenset(found)

    def upon(self, got: Arrival) -> None:
        """Take a piece of evidence that holds."""
        names = self._assembly.scene.names
        if isinstance(got.message, Bundle):
            if self.bundles is not None:
                self.bundles.upon(got)
            return
        if got.index[1] >= len(names):
            return
        peer = names[got.index[1]]
        if peer not in self.contradictions and self._holds(peer, got.message):
            self.contradictions[peer] = got.message

    def _holds(self, peer: str, message: Contradiction) -> bool:
        if isinstance(message, TwoEntries):
            return message.convinces(self._assembly.scene, peer)
        evidence = message.evidence()
        plan = self._assembly.scene.plan
        return evidence is not None and evidence.voter == peer and evidence.convinces(plan)

    def give(self, to: str, lacking: frozenset[str]) -> None:
        """Send another peer evidence against these."""
        names = self._assembly.scene.names
        for peer in lacking:
            message = self.contradictions.get(peer)
            if message is not None:
                kind, of = ENTRIES if isinstance(message, TwoEntries) else VOTES
                self._net.sub(kind).sub(of, names.index(peer)).send(to, message)
            elif self.bundles is not None and peer in self.bundles.against:
                self.bundles.give(to, *self.bundles.against[peer])


class AcceptedSet:
    """The subject; made when the instance begins."""

    voids = True

    def __init__(self, scene: Scene, charges: Charges) -> None:
        self._scene, self._charges = scene, charges
        charges.collect()
        self._first = charges.blamed()
        self._bitmap = -(-len(scene.names) // 8)
        self.value_bytes = DIGEST_BYTES + 2 * self._bitmap
        self.have_bytes = self._bitmap
        self.inboxes: Sequence[Inbox[Any]] = charges.inboxes

    def propose(self) -> bytes | None:
        """Every acceptable dealer against whom nothing is known; all others that are known of."""
        trial = self._charges.trial
        if trial is None:
            return None
        blamed = self._charges.blamed()
        dealers = [dealer for dealer in trial.acceptable if dealer not in blamed]
        if len(dealers) < self._scene.least:
            return None
        return self._after(trial) + self._bits(dealers) + self._bits(blamed)

    def judge(self, value: bytes) -> Verdict:
        """See Subject."""
        trial = self._charges.trial
        if len(value) != self.value_bytes:
            return Verdict.REFUSE
        if trial is None:
            return Verdict.NOT_YET
        found = read(self._scene, value)
        if found is None or found.after != self._after(trial):
            return Verdict.REFUSE
        dealers, evicted = set(found.dealers), set(found.evicted)
        if len(dealers) < self._scene.least:  # nothing was opened: a new deal is better
            return Verdict.REFUSE
        if not dealers <= set(trial.acceptable) - self._first - evicted:
            return Verdict.REFUSE
        reasons = evicted | (set(trial.acceptable) - dealers)
        return Verdict.ACCEPT if reasons <= self._charges.blamed() else Verdict.NOT_YET

    def holds(self, value: bytes) -> bool:
        """A decided set needs no items: who lacks them learns what q others have verified."""
        return True

    def upon(self, got: Arrival) -> None:
        """See Subject."""
        self._charges.upon(got)

    def have(self) -> bytes:
        """A bitmap of all against whom evidence is in hand."""
        return self._bits(self._charges.blamed())

    def give(self, net: Net, to: str, have: bytes) -> None:
        """See Subject."""
        held = _names(self._scene, have)
        if held is not None:
            self._charges.give(to, self._charges.blamed() - set(held))

    def _after(self, trial: Trial) -> bytes:
        return digest("checks", trial.value)

    def _bits(self, names: Sequence[str] | frozenset[str]) -> bytes:
        bits = sum(1 << at for at, name in enumerate(self._scene.names) if name in names)
        return bits.to_bytes(self._bitmap, "little")


class Accepted(NamedTuple):
    """A decided set: ``after``, the digest of the check messages; dealers and evicted peers."""

    after: bytes
    dealers: tuple[str, ...]
    evicted: tuple[str, ...]


def read(scene: Scene, value: bytes) -> Accepted | None:
    """What a value says; None for bytes that are none. Pure and total."""
    bitmap = -(-len(scene.names) // 8)
    if len(value) != DIGEST_BYTES + 2 * bitmap:
        return None
    rest = value[DIGEST_BYTES:]
    dealers, evicted = (_names(scene, part) for part in (rest[:bitmap], rest[bitmap:]))
    if dealers is None or evicted is None:
        return None
    return Accepted(value[:DIGEST_BYTES], dealers, evicted)


def _names(scene: Scene, bitmap: bytes) -> tuple[str, ...] | None:
    bits = int.from_bytes(bitmap, "little")
    if bits >> len(scene.names) or len(bitmap) != -(-len(scene.names) // 8):
        return None
    return tuple(name for at, name in enumerate(scene.names) if bits >> at & 1)

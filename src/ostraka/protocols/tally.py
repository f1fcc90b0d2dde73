"""The votes that one voter has verified, each once: how many there are, what they prove."""

from __future__ import annotations

from ostraka.crypto.sign import verifies
from ostraka.net import Body
from ostraka.protocols.ballots import UNSIGNED
from ostraka.protocols.votes import (
    Certificate,
    Evidence,
    Instance,
    Phase,
    Plan,
    Slot,
    stated,
    unpack,
)

KEPT_VIEWS = 4
"""Views behind the present one whose votes are kept: proposals carry certificates of them."""


class Tally:
    """The verified votes of one instance; ``evidence``: who signed twice."""

    def __init__(self, plan: Plan, instance: Instance) -> None:
        self._plan, self._instance = plan, instance
        self._of: dict[tuple[int, Phase], dict[bytes, dict[str, bytes]]] = {}
        self._false: set[str] = set()
        self.evidence: dict[str, Evidence] = {}

    def stated(self, view: int, phase: Phase, what: bytes) -> bytes:
        """What is signed (32 bytes) for a slot of this instance."""
        return stated(self._plan.session, Slot(self._instance, view, phase), what)

    def add(
        self, view: int, phase: Phase, voter: str, what: bytes, signature: bytes
    ) -> bytes | None:
        """The voter's signature, the known one or this; None if neither is. A third is not kept."""
        of = self._of.get((view, phase), {})
        known = of.get(what, {}).get(voter)
        if known is not None:
            return known
        if not verifies(self._plan.voters[voter], signature, self.stated(view, phase, what)):
            return None
        if sum(voter in signatures for signatures in of.values()) < 2:
            self.keep(view, phase, voter, what, signature)
        return signature

    def keep(self, view: int, phase: Phase, voter: str, what: bytes, signature: bytes) -> None:
        """Keep a vote that is known to be signed."""
        of = self._of.setdefault((view, phase), {})
        for other, signatures in of.items():
            if other != what and voter in signatures and voter not in self.evidence:
                pairs = (other, signatures[voter]), (what, signature)
                self.evidence[voter] = Evidence(voter, Slot(self._instance, view, phase), *pairs)
        of.setdefault(what, {}).setdefault(voter, signature)

    def compare(self, sender: str, view: int, what: bytes, of_leader: bytes) -> None:
        """A leader that has signed another value than is known here is convicted.

        Verified only where it would convict, and once at most from a sender that lies.
        """
        leader = self._plan.leader(self._instance, view)
        of = self._of.get((view, Phase.PROPOSE), {})
        known = any(leader in signatures for signatures in of.values())
        if of_leader == UNSIGNED or not known:
            return
        if sender in self._false or leader in self.evidence:
            return
        if self.add(view, Phase.PROPOSE, leader, what, of_leader) is None:
            self._false.add(sender)

    def count(self, view: int, phase: Phase, what: bytes) -> int:
        """How many have voted so."""
        return len(self._of.get((view, phase), {}).get(what, ()))

    def certificate(self, view: int, phase: Phase, what: bytes) -> Certificate | None:
        """The certificate of a value; None while too few have voted so."""
        signatures = self._of.get((view, phase), {}).get(what, {})
        if len(signatures) < self._plan.quorum:
            return None
        return Certificate(Slot(self._instance, view, phase), what, dict(signatures))

    def prove(self, view: int, phase: Phase, what: bytes, packed: Body) -> Certificate | None:
        """The certificate in these bytes; None if it is none.

        Votes that are known cost nothing; those of a false certificate are not kept, so that
        nobody fills this memory with what it alone has signed.
        """
        signatures = unpack(self._plan, packed)
        if signatures is None:
            return None
        known = self._of.get((view, phase), {}).get(what, {})
        new = {name: one for name, one in signatures.items() if name not in known}
        statement = self.stated(view, phase, what)
        if not all(verifies(self._plan.voters[name], one, statement) for name, one in new.items()):
            return None
        for name, one in new.items():
            self.keep(view, phase, name, what, one)
        return self.certificate(view, phase, what)

    def forget(self, present: int) -> None:
        """Drop what is too old for the view that begins."""
        for view, phase in [key for key in self._of if key[0] < present - KEPT_VIEWS]:
            del self._of[view, phase]

"""What one voter signs in an agreement: stored, signed and told, in this order.

Votes go to the view's leader alone, who tells all what q of them prove.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ostraka.crypto.sign import Sign
from ostraka.net import Net
from ostraka.protocols.ballots import (
    UNSIGNED,
    VIEW,
    Locked,
    Precommit,
    Prevote,
    Proposal,
    Stored,
)
from ostraka.protocols.tally import Tally
from ostraka.protocols.votes import Certificate, Instance, Phase, Plan, pack, value_hash

Said = Proposal | Prevote | Locked | Precommit


class Proposed(NamedTuple):
    """A leader's value, its hash, the view of its certificate or -1, the leader's signature."""

    value: bytes
    what: bytes
    proof_view: int
    signature: bytes


class Speaker:
    """One voter's own slots, in their order; ``said`` is what it has signed in the present view."""

    def __init__(
        self,
        net: Net,
        plan: Plan,
        instance: Instance,
        tally: Tally,
        sign: Sign,
        store: Callable[[Stored], None],
    ) -> None:
        self._net, self._plan, self._instance, self._tally = net, plan, instance, tally
        self._sign, self._store = sign, store
        self._others: Sequence[str] = tuple(name for name in plan.voters if name != net.me)
        self.said: dict[Phase, tuple[Said, Sequence[str]]] = {}

    def cast(
        self,
        view: int,
        phase: Phase,
        value: bytes,
        proof: Certificate | None = None,
        of_leader: bytes = UNSIGNED,
    ) -> Proposed:
        """Fill a slot: on disk first, so that a restarted voter never fills it otherwise."""
        proof_view = proof.slot.view if proof is not None else 0
        packed = pack(self._plan, proof.signatures) if proof is not None else b""
        stored = Stored(view, phase, value, proof_view, packed, of_leader)
        self._store(stored)
        return self.say(stored)

    def say(self, stored: Stored) -> Proposed:
        """Sign what is stored and tell it; gives the proposal that it is about."""
        view, phase, what = stored.view, Phase(stored.phase), value_hash(stored.value)
        leader = self._plan.leader(self._instance, view)
        signature = self._sign(self._tally.stated(view, phase, what))
        of_leader = signature if phase is Phase.PROPOSE else stored.of_leader
        self._tally.keep(view, Phase.PROPOSE, leader, what, of_leader)
        self._tally.keep(view, phase, self._net.me, what, signature)
        leads = leader == self._net.me
        message: Said
        if phase is Phase.PROPOSE:
            message = Proposal(stored.value, stored.proof_view, stored.proof, signature)
        elif phase is Phase.PREVOTE:
            message = Prevote(what, signature)
        elif leads:
            message = Locked(what, stored.proof)
        else:
            message = Precommit(what, signature)
        to = () if leads and phase is Phase.PREVOTE else self._others if leads else (leader,)
        self.said[phase] = message, to
        self._net.sub(VIEW[0], view).broadcast(to, message)
        proof_view = stored.proof_view if stored.proof else -1
        return Proposed(stored.value, what, proof_view, of_leader)

    def said_to(self, party: str) -> list[Said]:
        """What it has told this party in the present view."""
        return [message for message, to in self.said.values() if party in to]

"""One voter of an agreement; agreement.py says what it is for, and whose algorithm it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ostraka.crypto.sign import Sign
from ostraka.net import Arrival, Inbox, Malformed, Net, Trace
from ostraka.protocols.ballots import (
    ASK,
    DECIDED,
    VIEW,
    VOID,
    Change,
    Decided,
    Decision,
    Have,
    Locked,
    Precommit,
    Prevote,
    Proposal,
    Stored,
    Subject,
    Verdict,
    dims,
)
from ostraka.protocols.speaker import Proposed, Speaker
from ostraka.protocols.tally import Tally
from ostraka.protocols.views import Asks, Lock, Ration, Seen, Views
from ostraka.protocols.votes import Instance, Phase, Plan, value_hash

Handlers = Mapping[Inbox[Any], Callable[[Arrival], None]]


async def take(net: Net, handlers: Handlers, timeout_s: float | None, trace: Trace) -> None:
    """The next message to whom it is for."""
    got = await net.arrival(*handlers, timeout_s=timeout_s)
    if got is not None and isinstance(got.message, Malformed):
        trace("malformed", party=got.sender, by=net.me, detail=got.message.detail)
    elif got is not None:
        list(handlers.values())[got.place](got)


class Voter:
    """`_upon_...` take one message each, `_advance` does what is due by then."""

    def __init__(
        self,
        net: Net,
        plan: Plan,
        instance: Instance,
        subject: Subject,
        asks: Asks,
        sign: Sign,
        store: Callable[[Stored], None],
        trace: Trace,
    ) -> None:
        self.net, self.plan, self.instance, self.subject = net, plan, instance, subject
        self.asks, self.trace = asks, trace
        self.others = tuple(name for name in plan.voters if name != net.me)
        self.tally, self.views = Tally(plan, instance), Views(net, plan, instance, asks)
        self.speaker = Speaker(net, plan, instance, self.tally, sign, store)
        self.answered, self.given = Ration(net, plan), Ration(net, plan)
        self.proposals: dict[int, Proposed] = {}
        self.decision: Decision | None = None
        self.weigh = True
        self.asked = -1

    async def run(self, restored: Sequence[Stored]) -> Decision:
        """Vote until there is a decision."""
        sizes = dims(self.plan, self.subject.value_bytes, self.subject.have_bytes)
        others = frozenset(self.others)
        handlers: Handlers = {
            Inbox(VIEW, Proposal.form(**sizes), others): self._upon_proposal,
            Inbox(VIEW, Prevote.form(), others): partial(self._upon_vote, Phase.PREVOTE),
            Inbox(VIEW, Locked.form(**sizes), others): self._upon_locked,
            Inbox(VIEW, Precommit.form(), others): partial(self._upon_vote, Phase.PRECOMMIT),
            Inbox(ASK, Change.form(**sizes), others): self._upon_change,
            Inbox(ASK, Have.form(**sizes), others): self._upon_have,
            Inbox(DECIDED, Decided.form(**sizes), others): self._upon_decided,
            **dict.fromkeys(self.subject.inboxes, self._upon_item),
        }
        self._resume(restored)
        while True:
            self._advance()
            if self.decision is not None:
                return self.decision
            await take(self.net, handlers, self.views.wakes_s(), self.trace)

    def _resume(self, restored: Sequence[Stored]) -> None:
        """Stand where the last signature was made, and say again what was signed there."""
        self.views.begin(max((stored.view for stored in restored), default=0))
        for stored in restored:
            if stored.phase == Phase.PRECOMMIT:
                what = value_hash(stored.value)
                proof = self.tally.prove(stored.view, Phase.PREVOTE, what, stored.proof)
                if proof is None:
                    raise ValueError(f"what was stored of view {stored.view} proves no lock")
                self.views.lock = Lock(stored.view, stored.value, proof)
            if stored.view == self.views.view:
                self.proposals.setdefault(stored.view, self.speaker.say(stored))
        if not self.asks.first:
            self.views.say_change(asks=True)

    def _advance(self) -> None:
        if self.views.advance():
            self._entered(self.views.view)
        self._propose()
        self._prevote()
        self._precommit()
        self._decide()

    def _entered(self, view: int) -> None:
        """Forget what is older; a leader asks for the items that its value might omit."""
        self.speaker.said, self.weigh = {}, True
        self.tally.forget(view)
        self.proposals = {v: one for v, one in self.proposals.items() if v >= view}
        if self.views.leads:
            self.asks.items(self.subject, self.others)

    # --- what is due --------------------------------------------------------------------------

    def _may(self, phase: Phase) -> bool:
        """Whether this voter still speaks in its view, and has not come to this phase."""
        return self.views.wish == self.views.view and phase > max(self.speaker.said, default=-1)

    def _propose(self) -> None:
        views = self.views
        if not (views.leads and self._may(Phase.PROPOSE) and self.net.now >= views.propose_at):
            return
        lock = views.highest_lock(self.tally)
        value = self._fresh() if lock is None else lock.value
        if value is not None:
            proof = None if lock is None else lock.proof
            self.proposals[views.view] = self.speaker.cast(views.view, Phase.PROPOSE, value, proof)

    def _fresh(self) -> bytes | None:
        """A value of one's own; a void where there is none in time, or none was ever taken."""
        value, deadline, view = self.subject.propose(), self.plan.deadline, self.views.view
        if value is not None and not 0 < len(value) <= self.subject.value_bytes:
            raise ValueError(f"a value has 1 to {self.subject.value_bytes} bytes, not {len(value)}")
        late = view >= deadline and (value is None or view >= 2 * deadline)
        return VOID if late and self.subject.voids else value

    def _prevote(self) -> None:
        proposed = self.proposals.get(self.views.view)
        if proposed is None:
            return
        self.views.seen = Seen(self.views.view, proposed.what, proposed.signature)
        if self.weigh and self._may(Phase.PREVOTE):
            self.weigh = False
            if self._acceptable(proposed):
                of_leader = proposed.signature
                self.speaker.cast(self.views.view, Phase.PREVOTE, proposed.value, None, of_leader)

    def _acceptable(self, proposed: Proposed) -> bool:
        """The lock's value, one with a certificate that is not older, or a fresh one if free."""
        value, lock, views = proposed.value, self.views.lock, self.views
        if lock is not None:
            return value == lock.value or proposed.proof_view >= lock.view
        if proposed.proof_view >= 0:
            return True
        if value == VOID:
            return self.subject.voids and views.view >= self.plan.deadline
        verdict = self.subject.judge(value)
        if verdict is Verdict.NOT_YET and self.asked < views.view and not views.leads:
            self.asked = views.view
            self.asks.items(self.subject, (views.leader,))
        return verdict is Verdict.ACCEPT

    def _precommit(self) -> None:
        view = self.views.view
        proposed = self.proposals.get(view)
        if proposed is None or not self._may(Phase.PRECOMMIT):
            return
        proof = self.tally.certificate(view, Phase.PREVOTE, proposed.what)
        if proof is not None:
            self.views.lock = Lock(view, proposed.value, proof)
            value, of_leader = proposed.value, proposed.signature
            self.speaker.cast(view, Phase.PRECOMMIT, value, proof, of_leader)

    def _decide(self) -> None:
        """A leader with q precommits shows them to all, and nobody need ask."""
        view = self.views.view
        proposed = self.proposals.get(view) if self.views.leads else None
        if proposed is None or self.decision is not None:
            return
        proof = self.tally.certificate(view, Phase.PRECOMMIT, proposed.what)
        if proof is not None:
            evidence = dict(self.tally.evidence)
            self.decision = Decision(proposed.value, proof, evidence, proposed.signature)
            self.net.sub(DECIDED[0]).broadcast(self.others, self.decision.message(self.plan))

    # --- upon receiving -----------------------------------------------------------------------

    def _upon_proposal(self, got: Arrival) -> None:
        view, message, what = got.index[0], got.message, value_hash(got.message.value)
        if got.sender != self.plan.leader(self.instance, view) or view in self.proposals:
            return
        proof_view = message.proof_view if message.proof else -1
        proves = self.tally.prove
        if proof_view >= view or (
            message.proof and proves(proof_view, Phase.PREVOTE, what, message.proof) is None
        ):
            return
        signature = self.tally.add(view, Phase.PROPOSE, got.sender, what, message.signature)
        if signature is not None:
            self.proposals[view] = Proposed(message.value, what, proof_view, signature)
            self.weigh = True

    def _upon_vote(self, phase: Phase, got: Arrival) -> None:
        """A leader counts votes for its own value, until there are enough."""
        view, what = self.views.view, got.message.what
        proposed = self.proposals.get(view)
        own = self.views.leads and proposed is not None and proposed.what == what
        if own and got.index == (view,) and self.tally.count(view, phase, what) < self.plan.quorum:
            self.tally.add(view, phase, got.sender, what, got.message.signature)

    def _upon_locked(self, got: Arrival) -> None:
        """The leader's alone is looked at: one certificate in a view, however many send one."""
        view, message = got.index[0], got.message
        if got.sender == self.plan.leader(self.instance, view):
            self.tally.prove(view, Phase.PREVOTE, message.what, message.proof)

    def _upon_change(self, got: Arrival) -> None:
        self.views.upon_change(got)
        said = got.message
        self.tally.compare(got.sender, said.seen_view, said.seen, said.of_leader)
        if said.asks and self.answered.due(got.sender):
            self.views.say_again(got.sender, self.speaker.said_to(got.sender))

    def _upon_have(self, got: Arrival) -> None:
        if self.given.due(got.sender):
            self.subject.give(self.net, got.sender, got.message.have)

    def _upon_item(self, got: Arrival) -> None:
        self.subject.upon(got)
        self.weigh = True

    def _upon_decided(self, got: Arrival) -> None:
        message, what = got.message, value_hash(got.message.value)
        view, leader = message.view, self.plan.leader(self.instance, message.view)
        proof = self.tally.prove(view, Phase.PRECOMMIT, what, message.proof)
        if proof is not None:
            signature = self.tally.add(view, Phase.PROPOSE, leader, what, message.of_leader)
            if signature is not None:
                evidence = dict(self.tally.evidence)
                self.decision = Decision(message.value, proof, evidence, signature)

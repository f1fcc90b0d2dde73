"""Views of an agreement: when one ends, who says so, where the next begins; asking and answering.

As in PBFT a voter whose view lasted too long votes no more in it and says so to all (`Change`); it
joins t + 1 others, of whom one is honest, and enters a view that q have come to. So views begin
at all honest voters within two delays, whatever their clocks and the liars say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ostraka.net import Arrival, Net
from ostraka.protocols.ballots import ASK, UNSIGNED, VIEW, Change, Have, Subject
from ostraka.protocols.tally import Tally
from ostraka.protocols.votes import Certificate, Instance, Phase, Plan, pack, value_hash
from ostraka.wire import Message

ANSWERS = 3
"""How often in ``view_s`` a party is answered: an honest one asks no oftener."""


class Lock(NamedTuple):
    """A value that q voters would have in a view, and their prevotes."""

    view: int
    value: bytes
    proof: Certificate


class Seen(NamedTuple):
    """What the leader of a view has shown this voter: its value's hash, and its signature."""

    view: int = 0
    what: bytes = bytes(32)
    of_leader: bytes = UNSIGNED


class Asks:
    """One process's questions: labels of their own, so that no old one is taken for a new one."""

    def __init__(self, net: Net, life: int) -> None:
        self._net, self._life, self._number = net, life, 0

    @property
    def first(self) -> bool:
        """Whether this is the voter's first process."""
        return self._life == 1

    def label(self) -> Net:
        """The next question's label."""
        self._number += 1
        return self._net.sub(ASK[0], self._life).sub(ASK[1], self._number)

    def items(self, subject: Subject, to: Sequence[str]) -> None:
        """Ask for the items that this voter lacks."""
        self.label().broadcast(to, Have(subject.have()))


class Ration:
    """How often who asks is answered: a question costs little, and answers a lot."""

    def __init__(self, net: Net, plan: Plan) -> None:
        self._net, self._view_s = net, plan.view_s
        self._spent: dict[str, tuple[float, int]] = {}

    def due(self, party: str) -> bool:
        """Whether this party may be answered now."""
        since, count = self._spent.get(party, (-math.inf, 0))
        if self._net.now >= since + self._view_s:
            since, count = self._net.now, 0
        self._spent[party] = (since, count + 1)
        return count < ANSWERS


class Views:
    """Where one voter stands. ``wish``: it votes no more before that view; ``lock``: its own.

    ``seen``: the last proposal in a view that it has entered.
    """

    def __init__(self, net: Net, plan: Plan, instance: Instance, asks: Asks) -> None:
        self._net, self._plan, self._instance, self._asks = net, plan, instance, asks
        self._others = tuple(name for name in plan.voters if name != net.me)
        self._changes: dict[str, tuple[tuple[int, ...], Change]] = {}
        self._last: tuple[Net, Change, Lock | None] | None = None
        self.lock: Lock | None = None
        self.seen = Seen()
        self.view = self.wish = 0
        self.due_at = self.propose_at = 0.0

    @property
    def leader(self) -> str:
        """Who proposes in this view."""
        return self._plan.leader(self._instance, self.view)

    @property
    def leads(self) -> bool:
        """Whether this voter does."""
        return self.leader == self._net.me

    def wakes_s(self) -> float:
        """How long to wait for messages, at most."""
        now = self._net.now
        at = self.propose_at if now < self.propose_at else self.due_at
        return max(0.0, at - now)

    def begin(self, view: int) -> None:
        """Enter a view. Its leader waits for locks and items before it proposes, but in view 0."""
        self.view, self.wish = view, max(view, self.wish)
        self._net.window(VIEW, (view,), (view + 1,))
        length_s = self._plan.length_s(view)
        self.due_at = self._net.now + length_s
        self.propose_at = self._net.now + (length_s / 4 if view and self.leads else 0.0)

    def advance(self) -> bool:
        """Leave a view that has lasted long enough, join, enter; whether a view has begun."""
        if self._net.now >= self.due_at:
            self._lose_patience()
        joined, entered = self._joined()
        if joined > self.wish:
            self.wish = joined
            self.say_change(asks=False)
        if entered <= self.view:
            return False
        missed = entered > self.view + 1  # what was said there was refused, as too far ahead
        self.begin(entered)
        if missed:
            self.say_change(asks=True)
        return True

    def _lose_patience(self) -> None:
        self.due_at = self._net.now + self._plan.length_s(self.view)
        self.wish = max(self.wish, self.view + 1)
        self.say_change(asks=False)

    def _joined(self) -> tuple[int, int]:
        """The views that t + 1 others, and that q with this voter, have come to."""
        plan = self._plan
        others = [change.view for _, change in self._changes.values()] + [0] * plan.n
        others.sort(reverse=True)
        joined = others[plan.t]
        others.append(max(self.wish, joined))
        others.sort(reverse=True)
        return joined, others[plan.quorum - 1]

    def say_change(self, *, asks: bool) -> None:
        """Say to all which view this voter has come to, and to its leader the lock."""
        label, lock = self._asks.label(), self.lock
        change = Change(self.wish, asks, b"", 0, b"", *self.seen)
        for name in self._others:
            label.send(name, self._with_lock(name, change, lock))
        self._last = label, replace(change, asks=False), lock

    def _with_lock(self, to: str, change: Change, lock: Lock | None) -> Change:
        if lock is None or to != self._plan.leader(self._instance, change.view):
            return change
        proof = pack(self._plan, lock.proof.signatures)
        return replace(change, value=lock.value, proof_view=lock.view, proof=proof)

    def upon_change(self, got: Arrival) -> None:
        """Another voter says where it is: what it said last counts."""
        index, _ = self._changes.get(got.sender, ((), None))
        if got.index > index:
            self._changes[got.sender] = got.index, got.message

    def highest_lock(self, tally: Tally) -> Lock | None:
        """The latest of all locks shown and one's own; what proves nothing is looked at once."""
        shown = [(name, *last) for name, last in self._changes.items() if last[1].proof]
        shown.sort(key=lambda one: one[2].proof_view, reverse=True)
        for name, index, change in shown:
            view, what = change.proof_view, value_hash(change.value)
            if self.lock is not None and self.lock.view >= view:
                break
            if view >= self.view:
                continue
            proof = tally.prove(view, Phase.PREVOTE, what, change.proof)
            if proof is not None:
                return Lock(view, change.value, proof)
            self._changes[name] = index, replace(change, proof=b"")
        return self.lock

    def say_again(self, to: str, said: Iterable[Message]) -> None:
        """What one who asks may have missed: where this voter is, and what it said in its view."""
        if self._last is not None:
            label, change, lock = self._last
            label.send(to, self._with_lock(to, change, lock))
        for message in said:
            self._net.sub(VIEW[0], self.view).send(to, message)

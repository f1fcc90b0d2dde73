"""A parameter server of `replicated`: nobody trusts it, and it trusts nobody.

It reads as the paper's pseudocode does, "upon receiving": the `_upon` methods take one message
each, and `_advance` does what is due by then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ostraka.crypto.sign import Sign
from ostraka.net import Arrival, Inbox, Malformed, Net, Trace
from ostraka.protocols.consistent_broadcast import Echo, Slot
from ostraka.protocols.scatter_gather import (
    DONE,
    ECHO,
    GATHER,
    MEMBER,
    MODEL,
    QUESTION,
    UPDATE,
    Ask,
    Done,
    Fetch,
    Gathered,
    Member,
    Model,
    Standing,
    Update,
    place_of,
    question,
)
from ostraka.rules.aggregate import aggregate
from ostraka.rules.contraction import CONTRACTIONS, diameter, median
from ostraka.trust.public_step import Vector, step
from ostraka.trust.replicated.gathers import KEPT, Gathers, Store, Stored
from ostraka.trust.replicated.plan import Plan, Signed, State
from ostraka.trust.replicated.questions import Members, Questions, answer_fetch


async def server(
    net: Net,
    plan: Plan,
    state: State,
    *,
    sign: Sign,
    commit: Callable[[State], None],
    store: Store,
    restored: Mapping[Slot, Stored],
    trace: Trace,
) -> State:
    """A server's whole life, until it and enough others are through; gives its last state.

    ``commit(state)`` stores what it goes on from after a restart: at the start, after every gather
    and at the end. ``store(slot, stored)`` makes durable what it signs, before it leaves;
    ``restored`` is what earlier processes stored.
    """
    state = replace(state, life=state.life + 1)
    commit(state)
    gathers = Gathers(net, plan, sign, store, restored, trace)
    return await _Server(net, plan, state, gathers, commit, trace).run()


class _Server:
    def __init__(
        self,
        net: Net,
        plan: Plan,
        state: State,
        gathers: Gathers,
        commit: Callable[[State], None],
        trace: Trace,
    ) -> None:
        self.net, self.plan, self.commit, self.trace = net, plan, commit, trace
        self.life, self.step, self.model = state.life, state.step, state.model
        self.complete: dict[int, Members] = dict(state.gathers)
        self.gathers = gathers
        self.questions = Questions(net, plan, state.life, gathers)
        self.gathering = False
        self.lost = state.life > 1
        self.updates: dict[int, dict[str, Vector]] = defaultdict(dict)
        self.shown: dict[int, Vector] = {}
        self.answered: dict[tuple[str, int], float] = {}
        self.done: set[str] = set()
        self.ready_at: float | None = None
        self.leave_at: float | None = None
        self.patience_s = plan.patience_s
        self.impatient_at = net.now + plan.patience_s

    async def run(self) -> State:
        plan = self.plan
        workers = frozenset(plan.workers)
        others = frozenset(plan.servers) - {self.net.me}
        d = self.model.size
        handlers: dict[Inbox[Any], Callable[[Arrival], None]] = {
            Inbox(UPDATE, Update.form(d=d), workers): self._upon_update,
            Inbox(GATHER, Gathered.form(d=d), others): self.gathers.upon_gathered,
            Inbox(ECHO, Echo.form(), others): self.gathers.upon_echo,
            Inbox(QUESTION, Ask.form(), others | workers): self._upon_ask,
            Inbox(QUESTION, Standing.form(), others): self._upon_standing,
            Inbox(QUESTION, Fetch.form(), others): self._upon_fetch,
            Inbox(MEMBER, Member.form(d=d, n=plan.n_servers), others): self._upon_member,
            Inbox(DONE, Done.form(), others | workers): self._upon_done,
        }
        self._enter()
        if self.lost:
            self._ask()
        while self.leave_at is None or self.net.now < self.leave_at:
            if self._advance():
                continue
            due = [self.impatient_at, self.ready_at, self.leave_at]
            wait_s = min(at for at in due if at is not None) - self.net.now
            got = await self.net.arrival(*handlers, timeout_s=max(0.0, wait_s))
            if got is None:
                self._upon_silence()
            elif isinstance(got.message, Malformed):
                detail = got.message.detail
                self.trace("malformed", party=got.sender, by=self.net.me, detail=detail)
            else:
                list(handlers.values())[got.place](got)
        return self._state()

    # --- steps --------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Take the step or finish the gather that is due; whether one was."""
        plan = self.plan
        if self.step == plan.rounds:
            return False
        if self.gathering:
            return self._finish_gather(plan.gather_after(self.step))
        have = self.updates[self.step]
        if not self._settled(len(have), plan.quorum, plan.n):
            return False
        self._take_step({name: have[name] for name in plan.workers if name in have})
        return True

    def _settled(self, count: int, quorum: int, everybody: int) -> bool:
        """Whether a quorum is there, and all have spoken or the grace after it is over.

        There may be fewer than before: who is convicted does not count any more.
        """
        if count < quorum:
            self.ready_at = None
            return False
        if self.ready_at is None:
            self.ready_at = self.net.now + self.plan.grace_s
        return count == everybody or self.net.now >= self.ready_at

    def _take_step(self, updates: Mapping[str, Vector]) -> None:
        plan = self.plan
        rule, pre = plan.rule.with_f(plan.f), [part.with_f(plan.f) for part in plan.pre]
        found = aggregate(np.stack(list(updates.values())), rule, pre, f=plan.f)
        self.model = step(self.model, found.vector, plan.rate(self.step))
        self.lost = False
        self.trace("stepped", party=self.net.me, round=self.step, workers=list(updates))
        if plan.gather_after(self.step):
            self._begin_gather()
        else:
            self._begin_step(self.step + 1)

    def _begin_gather(self) -> None:
        self.gathering = True
        self._progress()
        self.gathers.show(self.plan.gather_after(self.step), self.model)

    def _finish_gather(self, number: int) -> bool:
        plan, own = self.plan, self.net.me
        accepted = self.gathers.accepted(number)
        if not self._settled(len(accepted) + 1, plan.server_quorum, plan.n_servers):
            return False
        accepted[own] = Signed(*self.gathers.own(number, self.model), {})
        present = [name for name in plan.servers if name in accepted]
        rows = np.stack([accepted[name].vector for name in present])
        contract = CONTRACTIONS[plan.contraction]
        self.model = contract(rows, present.index(own), plan.f_servers)
        self.trace("gathered", party=own, gather=number, servers=present, diameter=diameter(rows))
        self._keep(number, accepted)
        self._begin_step(self.step + 1)
        return True

    def _begin_step(self, step: int) -> None:
        self.step, self.gathering = step, False
        self._progress()
        self._enter()

    def _enter(self) -> None:
        """Scatter: show the model of this step to all workers, and forget what is long over."""
        plan = self.plan
        low, gather = max(0, self.step - plan.window - 2), self.step // plan.gather_every
        self.net.window(UPDATE, (self.step,), (self.step + plan.window,))
        self.net.window(MODEL, (low,))
        ahead = gather + 1 + plan.window // plan.gather_every
        self.net.window(GATHER, (max(0, gather - KEPT),), (ahead,))
        self.gathers.forget(gather - KEPT)
        self.updates = defaultdict(dict, {s: u for s, u in self.updates.items() if s >= self.step})
        self.shown = {s: m for s, m in self.shown.items() if s >= low} | {self.step: self.model}
        self.net.sub(MODEL[0], self.step).broadcast(plan.workers, Model(self.model))
        if self.step == plan.rounds:
            self.commit(self._state())
            self.net.sub(DONE[0]).broadcast(self._others(), Done(True))
            self._leave_when_enough()

    def _progress(self) -> None:
        self.ready_at = None
        self.patience_s = self.plan.patience_s
        self.impatient_at = self.net.now + self.patience_s

    def _keep(self, number: int, members: Members) -> None:
        """A gather is complete: it is where those who come back may begin."""
        self.complete = {g: m for g, m in self.complete.items() if g > number - KEPT}
        self.complete[number] = members
        self.questions.arrived(number)
        self.commit(replace(self._state(), step=number * self.plan.gather_every))

    def _state(self) -> State:
        return State(self.life, self.step, self.model, self.complete)

    def _others(self) -> tuple[str, ...]:
        return tuple(name for name in self.plan.servers if name != self.net.me)

    def _upon_update(self, got: Arrival) -> None:
        vector: Vector = got.message.vector
        reason = self.plan.refusal(vector)
        if reason is not None:
            at = {"round": got.index[0], "party": got.sender, "by": self.net.me}
            self.trace("excluded", **at, reason=reason, detail="")
        elif got.index[0] >= self.step:
            self.updates[got.index[0]].setdefault(got.sender, vector)

    # --- questions ----------------------------------------------------------------------------

    def _upon_silence(self) -> None:
        if self.net.now >= self.impatient_at:
            self._ask()

    def _ask(self) -> None:
        if self.step < self.plan.rounds:
            self.questions.ask(place_of(self.step, self.gathering))
            self._catch_up()
        self.patience_s = min(2 * self.patience_s, 16 * self.plan.patience_s)
        self.impatient_at = self.net.now + self.patience_s

    def _upon_ask(self, got: Arrival) -> None:
        """Somebody waits: say where this server stands and send again what it has for them.

        Not more often than an honest one would ask, since a question costs little to send.
        """
        asker, place = got.index[0], got.message.place
        if asker != self.plan.number(got.sender):
            return
        self.net.sub(QUESTION[0], asker).window(QUESTION[1:], got.index[1:])
        label = question(self.net, *got.index)
        label.send(
            got.sender, Standing(place_of(self.step, self.gathering), max(self.complete, default=0))
        )
        last = self.answered.get((got.sender, place))
        if last is not None and self.net.now < last + self.plan.patience_s / 2:
            return
        self.answered = {at: t for at, t in self.answered.items() if at[0] != got.sender}
        self.answered[got.sender, place] = self.net.now
        if got.sender in self.plan.servers:
            self._show_gather_again(got.sender, self.plan.gather_after(place // 2))
        else:
            for at in sorted({place // 2, self.step} & self.shown.keys()):
                self.net.sub(MODEL[0], at).send(got.sender, Model(self.shown[at]))

    def _show_gather_again(self, to: str, number: int) -> None:
        """One's vector of a gather that one has come to, or skipped, and one's echoes."""
        reached = place_of(self.step, self.gathering) >= place_of(
            number * self.plan.gather_every - 1, True
        )
        if number and reached and number >= self.step // self.plan.gather_every - KEPT:
            self.gathers.show(number, self.model, (to,))
            self.gathers.echo_again(number, to)

    def _upon_standing(self, got: Arrival) -> None:
        self.questions.upon_standing(got)
        self._catch_up()

    def _upon_fetch(self, got: Arrival) -> None:
        if self.complete and got.index[0] == self.plan.number(got.sender):
            number = max(self.complete)
            answer_fetch(self.net, self.plan, got, number, self.complete[number])

    def _upon_member(self, got: Arrival) -> None:
        self.questions.upon_member(got)
        self._catch_up()

    def _catch_up(self) -> None:
        """Move up to where f + 1 servers claim to be, by way of the newest gather, if that helps.

        Within the window the model is kept; beyond it, and after a restart, the median of a
        complete gather is taken, unless one's own model is of a later step.
        """
        plan, own = self.plan, place_of(self.step, self.gathering)
        goal = self.questions.claimed(own)
        if self.step == plan.rounds or goal <= own or not self.questions.heard_enough():
            return
        far = self.lost or goal // 2 > self.step + plan.window
        if far:
            found = self.questions.complete()
            if found is not None and found[0] * plan.gather_every > self.step:
                self._take_gather(*found)
            elif self.questions.claimed_gather() * plan.gather_every > self.step:
                self.questions.fetch(self.step // plan.gather_every)
                return
        self._jump(goal)

    def _take_gather(self, number: int, members: Members) -> None:
        """Go on from the median of a complete gather."""
        rows = np.stack([members[name].vector for name in self.plan.servers if name in members])
        self.model = median(rows, 0, self.plan.f_servers)
        self.step, self.gathering = number * self.plan.gather_every, False
        self._keep(number, members)
        self.shown = {}
        self.trace("recovered", party=self.net.me, gather=number, vectors=len(rows))

    def _jump(self, goal: int) -> None:
        """Skip to a place: what was skipped is answered with the present model."""
        start, end = self.step + (self.step in self.shown), min(goal // 2, self.plan.rounds)
        self.trace("skipped", party=self.net.me, round=self.step, to=end)
        self.shown |= dict.fromkeys(range(max(start, end - self.plan.window - 2), end), self.model)
        self.lost = False
        self._begin_step(max(self.step, end))
        if goal % 2 and self.step < self.plan.rounds and self.plan.gather_after(self.step):
            self._begin_gather()

    # --- the end ------------------------------------------------------------------------------

    def _upon_done(self, got: Arrival) -> None:
        self.done.add(got.sender)
        self._leave_when_enough()

    def _leave_when_enough(self) -> None:
        """Leave when all are through, or some time after as many as can be waited for."""
        plan = self.plan
        if self.step < plan.rounds:
            return
        workers = sum(name in self.done for name in plan.workers)
        servers = 1 + sum(name in self.done for name in plan.servers)
        if workers == plan.n and servers == plan.n_servers:
            self.leave_at = self.net.now
        elif workers >= plan.quorum and servers >= plan.server_quorum and self.leave_at is None:
            self.leave_at = self.net.now + plan.linger_s

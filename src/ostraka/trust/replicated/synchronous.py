"""The synchronous variant: links of bounded delay, and one model pulled instead of a quorum.

Source: El-Mhamdi et al. 2020, section 5. n >= 2f + 1 workers and n_ps >= 3 f_ps + 1 servers. There
are no quorums: everybody takes what came by the deadline, at least n - f of it, and each missing
one counts among the f of the rule. A worker pulls one model in a step, from the servers in turn,
and keeps it if both filters admit it (filters.py); if they admit none, it takes the median of all.
At the beginning and after each gather it takes the median of all at once.

Servers wait `deadline_s` for updates. A worker begins when f_ps + 1 servers say that they have
begun with a step, and waits for a model a share of that time, so that even if it asks all of them
in vain its update is in time: honest servers must begin within that share of one another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from ostraka.net import Abort, Arrival, Inbox, Malformed, Net, Timeout, Trace
from ostraka.protocols.scatter_gather import (
    BEGUN,
    DONE,
    MODEL,
    PULL,
    UPDATE,
    Begun,
    Done,
    Model,
    Pull,
    Update,
)
from ostraka.rules.aggregate import aggregate
from ostraka.rules.contraction import CONTRACTIONS, diameter, median
from ostraka.trust.public_step import Vector, step
from ostraka.trust.replicated.filters import LipschitzFilter, distance, outlier_limit
from ostraka.trust.replicated.plan import Plan, State

SHOWN = ("shown",)
"""Where servers show one another their models in a gather."""


class Learner(Protocol):
    """A worker's training, in two halves."""

    def gradient(self, step: int, model: Vector) -> Vector:
        """The gradient at a model, on the minibatch of this step: the same one every time."""

    def update(self, step: int, gradient: Vector) -> Vector:
        """What is sent for this step (with momentum, say)."""


# --- the server -----------------------------------------------------------------------------


async def synchronous_server(
    net: Net, plan: Plan, state: State, *, commit: Callable[[State], None], trace: Trace
) -> State:
    """A server's whole life; gives its last state. Raises Timeout where too few were in time."""
    state = replace(state, life=state.life + 1)
    commit(state)
    return await _Server(net, plan, state, commit, trace).run()


class _Server:
    def __init__(
        self, net: Net, plan: Plan, state: State, commit: Callable[[State], None], trace: Trace
    ) -> None:
        self.net, self.plan, self.commit, self.trace = net, plan, commit, trace
        self.state = state
        self.others = tuple(name for name in plan.servers if name != net.me)
        self.pulls: dict[int, set[str]] = defaultdict(set)
        self.updates: dict[int, dict[str, Vector]] = defaultdict(dict)
        self.shown: dict[int, dict[str, Vector]] = defaultdict(dict)
        self.done: set[str] = set()

    async def run(self) -> State:
        plan = self.plan
        while (t := self.state.step) < plan.rounds:
            self._begin()
            came = self.updates[t]
            await self._until(lambda came=came: len(came) == plan.n)  # type: ignore[misc]
            model = self._stepped(t, {name: came[name] for name in plan.workers if name in came})
            number = plan.gather_after(t)
            if number:
                model = await self._gathered(number, model)
            self.state = replace(self.state, step=t + 1, model=model)
            self.commit(self.state)
            for old in [s for s in self.updates if s <= t]:
                del self.updates[old]
            self.net.window(UPDATE, (t + 1,), (t + 1 + plan.window,))
            self.net.window(PULL, (t + 1,), (t + 1 + plan.window,))
        self._begin()
        await self._until(lambda: len(self.done) == plan.n)
        return self.state

    def _begin(self) -> None:
        self.net.sub(BEGUN[0], self.state.step).broadcast(self.plan.workers, Begun(True))
        self._answer_pulls()

    async def _until(self, complete: Callable[[], bool]) -> None:
        """Take what comes until all is there, or the deadline has passed."""
        plan, d = self.plan, self.state.model.size
        workers = frozenset(plan.workers)
        handlers: dict[Inbox[object], Callable[[Arrival], None]] = {
            Inbox(UPDATE, Update.form(d=d), workers): self._upon_update,
            Inbox(PULL, Pull.form(), workers): self._upon_pull,
            Inbox(SHOWN, Model.form(d=d), frozenset(self.others)): self._upon_shown,
            Inbox(DONE, Done.form(), workers): self._upon_done,
        }
        end = self.net.now + plan.deadline_s
        while not complete() and self.net.now < end:
            got = await self.net.arrival(*handlers, timeout_s=end - self.net.now)
            if got is None:
                return
            if isinstance(got.message, Malformed):
                detail = got.message.detail
                self.trace("malformed", party=got.sender, by=self.net.me, detail=detail)
            else:
                list(handlers.values())[got.place](got)

    def _stepped(self, t: int, updates: Mapping[str, Vector]) -> Vector:
        """The model after a step with the updates that came."""
        plan = self.plan
        missing = plan.n - len(updates)
        if missing > plan.f:
            silent = tuple(name for name in plan.workers if name not in updates)
            raise Timeout((("update", t),), Update.kind, silent)
        f = plan.f - missing
        rule, pre = plan.rule.with_f(f), [part.with_f(f) for part in plan.pre]
        found = aggregate(np.stack(list(updates.values())), rule, pre, f=f)
        self.trace("stepped", party=self.net.me, round=t, workers=list(updates))
        return step(self.state.model, found.vector, plan.rate(t))

    async def _gathered(self, number: int, model: Vector) -> Vector:
        plan, came = self.plan, self.shown[number]
        self.net.sub(SHOWN[0], number).broadcast(self.others, Model(model))
        await self._until(lambda: len(came) == len(self.others))
        missing = len(self.others) - len(came)
        if missing > plan.f_servers:
            silent = tuple(name for name in self.others if name not in came)
            raise Timeout((("shown", number),), Model.kind, silent)
        present = [name for name in plan.servers if name in came or name == self.net.me]
        rows = np.stack([came.get(name, model) for name in present])
        contract = CONTRACTIONS[plan.contraction]
        result = contract(rows, present.index(self.net.me), plan.f_servers - missing)
        told = {"party": self.net.me, "gather": number, "servers": present}
        self.trace("gathered", **told, diameter=diameter(rows))
        for old in [g for g in self.shown if g <= number]:
            del self.shown[old]
        self.net.window(SHOWN, (number + 1,), (number + 1 + plan.window,))
        return result

    def _upon_update(self, got: Arrival) -> None:
        vector, at = got.message.vector, got.index[0]
        reason = self.plan.refusal(vector)
        if reason is not None:
            who = {"party": got.sender, "by": self.net.me}
            self.trace("excluded", round=at, **who, reason=reason, detail="")
        elif self.state.step <= at <= self.state.step + self.plan.window:
            self.updates[at].setdefault(got.sender, vector)

    def _upon_shown(self, got: Arrival) -> None:
        vector, number = got.message.vector, got.index[0]
        if np.isfinite(vector).all():
            self.shown[number].setdefault(got.sender, vector)
        else:
            detail = f"its model in gather {number} is not finite"
            self.trace("malformed", party=got.sender, by=self.net.me, detail=detail)

    def _upon_pull(self, got: Arrival) -> None:
        if self.state.step <= got.index[0] <= self.state.step + self.plan.window:
            self.pulls[got.index[0]].add(got.sender)
            self._answer_pulls()

    def _answer_pulls(self) -> None:
        """Show the model of this step to those who have asked for it."""
        label = self.net.sub(MODEL[0], self.state.step)
        for name in sorted(self.pulls.pop(self.state.step, ())):
            label.send(name, Model(self.state.model))
        for old in [s for s in self.pulls if s < self.state.step]:
            del self.pulls[old]

    def _upon_done(self, got: Arrival) -> None:
        self.done.add(got.sender)


# --- the worker -----------------------------------------------------------------------------


async def synchronous_worker(
    net: Net, plan: Plan, learner: Learner, d: int, *, trace: Trace
) -> Vector:
    """A worker's whole life; gives the median of the servers' last models."""
    return await _Worker(net, plan, learner, d, trace).run()


class _Worker:
    def __init__(self, net: Net, plan: Plan, learner: Learner, d: int, trace: Trace) -> None:
        self.net, self.plan, self.learner, self.d, self.trace = net, plan, learner, d, trace
        self.turn = plan.workers.index(net.me)
        self.lipschitz = LipschitzFilter(plan.n_servers, plan.f_servers)
        self.pull_s = plan.deadline_s / (plan.n_servers + 2)

    async def run(self) -> Vector:
        plan, servers = self.plan, tuple(self.plan.servers)
        model, gradient = np.zeros(self.d, np.float32), np.zeros(self.d, np.float32)
        limit_rate, limit_norm = 0.0, 0.0
        for t in range(plan.rounds):
            await self._begun(t)
            if t < plan.n_servers or t % plan.gather_every == 0:
                found = await self._median_of_all(t, {})
                if 0 < t < plan.n_servers:
                    self._smooth(t, model, gradient, found)  # it fills the history
                model = found
            else:
                model = await self._pulled(t, model, gradient, limit_rate * limit_norm)
            gradient = self.learner.gradient(t, model)
            if t % plan.gather_every == 0:
                limit_rate = plan.rate(t)
                limit_norm = distance(gradient, np.zeros_like(gradient))
            update = self.learner.update(t, gradient)
            self.net.sub(UPDATE[0], t).broadcast(servers, Update(update))
            self.net.window(MODEL, (t + 1,), (t + 1,))
        await self._begun(plan.rounds)
        last = await self._median_of_all(plan.rounds, {})
        self.net.sub(DONE[0]).broadcast(servers, Done(True))
        return last

    async def _begun(self, t: int) -> None:
        """Wait until an honest server has begun with a step, as long as that can take."""
        servers, quorum = tuple(self.plan.servers), self.plan.f_servers + 1
        patience_s = 3 * self.plan.deadline_s
        form = Begun.form()
        await self.net.sub(BEGUN[0], t).quorum(form, servers, quorum, timeout_s=patience_s)
        self.net.window(BEGUN, (t + 1,), (t + 1 + self.plan.window,))

    async def _pulled(self, t: int, model: Vector, gradient: Vector, unit: float) -> Vector:
        """One model that both filters admit, from the servers in turn; else the median of all."""
        plan, servers = self.plan, tuple(self.plan.servers)
        guess = step(model, gradient, plan.rate(t - 1))
        limit = outlier_limit(t, 1.0, unit, plan.gather_every, plan.n, plan.f)
        seen: dict[str, Vector] = {}
        for attempt in range(plan.n_servers):
            name = servers[(self.turn + t + attempt) % plan.n_servers]
            shown = await self._pull(t, (name,))
            if not shown:
                continue
            seen |= shown
            found = shown[name]
            if plan.f_servers == 0:
                break
            smooth = self._smooth(t, model, gradient, found)
            if smooth and distance(guess, found) < limit:
                break
        else:
            self.trace("pulled", party=self.net.me, round=t, models=len(seen), admitted=False)
            return await self._median_of_all(t, seen)
        self.trace("pulled", party=self.net.me, round=t, models=len(seen), admitted=True)
        return found

    def _smooth(self, t: int, model: Vector, gradient: Vector, found: Vector) -> bool:
        """The Lipschitz filter's word on a model of step t, after `model` and its gradient."""
        if self.plan.f_servers == 0:
            return True
        guess = step(model, gradient, self.plan.rate(t - 1))
        there = self.learner.gradient(t - 1, found)
        return self.lipschitz.admits(model, guess, gradient, there)

    async def _median_of_all(self, t: int, seen: dict[str, Vector]) -> Vector:
        plan = self.plan
        rest = tuple(name for name in plan.servers if name not in seen)
        shown = seen | await self._pull(t, rest)
        missing = plan.n_servers - len(shown)
        if missing > plan.f_servers:
            raise Abort(f"only {len(shown)} of {plan.n_servers} servers showed a model of step {t}")
        rows = np.stack([shown[name] for name in plan.servers if name in shown])
        return median(rows, 0, plan.f_servers - missing)

    async def _pull(self, t: int, servers: tuple[str, ...]) -> dict[str, Vector]:
        """The finite models that these servers show of a step, in time."""
        if not servers:
            return {}
        self.net.sub(PULL[0], t).broadcast(servers, Pull(True))
        label = self.net.sub(MODEL[0], t)
        got = await label.gather(Model.form(d=self.d), servers, timeout_s=self.pull_s)
        for name, bad in got.malformed.items():
            self.trace("malformed", party=name, by=self.net.me, detail=bad.detail)
        return {
            name: message.vector
            for name, message in got.messages.items()
            if np.isfinite(message.vector).all()
        }

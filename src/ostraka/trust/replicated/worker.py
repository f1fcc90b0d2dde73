"""A worker of `replicated`: trains at the median of what the servers show it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from ostraka.net import Inbox, Malformed, Net, Trace
from ostraka.protocols.scatter_gather import (
    DONE,
    MODEL,
    QUESTION,
    UPDATE,
    Ask,
    Done,
    Model,
    Standing,
    Update,
    place_of,
    question,
)
from ostraka.rules.contraction import median
from ostraka.trust.public_step import Vector
from ostraka.trust.replicated.plan import Plan

Train = Callable[[int, Vector], Vector]


async def worker(net: Net, plan: Plan, train: Train, d: int, *, life: int, trace: Trace) -> Vector:
    """A worker's whole life, until q_ps servers have shown it their last models: their median.

    ``train(step, model)`` gives the update. ``life``: a number greater than in any earlier process
    of this worker.
    """
    return await _Worker(net, plan, train, d, life, trace).run()


class _Worker:
    def __init__(self, net: Net, plan: Plan, train: Train, d: int, life: int, trace: Trace) -> None:
        self.net, self.plan, self.train, self.d = net, plan, train, d
        self.life, self.trace = life, trace
        self.number = plan.number(net.me)
        self.step = 0  # the least that it still takes models for
        self.models: dict[int, dict[str, Vector]] = defaultdict(dict)
        self.ready_at: float | None = None
        self.updates: dict[int, Vector] = {}
        self.claims: dict[str, int] = {}
        self.asked = 0
        self.patience_s = plan.patience_s
        self.impatient_at = net.now + plan.patience_s

    async def run(self) -> Vector:
        servers = frozenset(self.plan.servers)
        inboxes = (
            Inbox(MODEL, Model.form(d=self.d), servers),
            Inbox(QUESTION, Standing.form(), servers),
            Inbox(QUESTION, Ask.form(), servers),
        )
        self._move(0)
        while True:
            newest = self._newest()
            if newest is not None and self._settled(newest):
                model = self._median(newest)
                if newest == self.plan.rounds:
                    self.net.sub(DONE[0]).broadcast(tuple(self.plan.servers), Done(True))
                    return model
                self._answer_step(newest, model)
                continue
            due = [self.impatient_at] + ([] if self.ready_at is None else [self.ready_at])
            wait_s = max(0.0, min(due) - self.net.now)
            got = await self.net.arrival(*inboxes, timeout_s=wait_s)
            if got is None:
                if self.net.now >= self.impatient_at:
                    self._ask()
            elif got.place == 0:
                self._upon_model(got.index[0], got.sender, got.message)
            elif got.place == 1:
                self._upon_standing(got.sender, got.message)
            else:
                self._upon_ask(got.index, got.sender, got.message)

    # --- models -------------------------------------------------------------------------------

    def _upon_model(self, step: int, server: str, message: Model | Malformed) -> None:
        if isinstance(message, Malformed) or not np.isfinite(message.vector).all():
            detail = f"its model of step {step} is not finite or not well-formed"
            self.trace("malformed", party=server, by=self.net.me, detail=detail)
        elif self.step <= step <= self.plan.rounds:
            self.models[step].setdefault(server, message.vector)

    def _newest(self) -> int | None:
        """The newest step of which a quorum of servers has shown its model."""
        quorum = self.plan.server_quorum
        return max((s for s, shown in self.models.items() if len(shown) >= quorum), default=None)

    def _settled(self, step: int) -> bool:
        """Whether all have spoken, or the grace after the quorum is over."""
        if self.ready_at is None:
            self.ready_at = self.net.now + self.plan.grace_s
        return len(self.models[step]) == self.plan.n_servers or self.net.now >= self.ready_at

    def _median(self, step: int) -> Vector:
        shown = self.models[step]
        rows = np.stack([shown[name] for name in self.plan.servers if name in shown])
        return median(rows, 0, self.plan.f_servers)

    def _answer_step(self, step: int, model: Vector) -> None:
        self._move(step + 1)
        update = self.train(step, model)
        self.updates[step] = update
        self.net.sub(UPDATE[0], step).broadcast(tuple(self.plan.servers), Update(update))
        self.impatient_at = self.net.now + self.plan.patience_s

    def _move(self, step: int) -> None:
        """Take models from this step on; keep one's own updates of the last window."""
        window = self.plan.window
        self.step, self.ready_at = step, None
        self.patience_s = self.plan.patience_s
        self.net.window(MODEL, (step,), (step + window,))
        kept = max(0, step - window - 2)
        self.net.window(UPDATE, (kept,))
        self.models = defaultdict(dict, {s: m for s, m in self.models.items() if s >= step})
        self.updates = {s: u for s, u in self.updates.items() if s >= kept}

    # --- questions ----------------------------------------------------------------------------

    def _ask(self) -> None:
        """Nothing came for a while: ask the servers for what was missed."""
        self.asked += 1
        self.net.sub(QUESTION[0], self.number).window(QUESTION[1:], (self.life, self.asked))
        label = question(self.net, self.number, self.life, self.asked)
        label.broadcast(tuple(self.plan.servers), Ask(place_of(self.step, False)))
        self.patience_s = min(2 * self.patience_s, 16 * self.plan.patience_s)
        self.impatient_at = self.net.now + self.patience_s

    def _upon_standing(self, server: str, message: Standing | Malformed) -> None:
        """Where f + 1 servers claim to be beyond one's window, an honest one is: skip to there.

        To the step before it, since the others of that step may still need this update.
        """
        if isinstance(message, Malformed):
            return
        self.claims[server] = max(message.place, self.claims.get(server, 0))
        claimed = sorted(self.claims.values(), reverse=True)[self.plan.f_servers :]
        least = min(claimed[0] // 2, self.plan.rounds) - 1 if claimed else 0
        if least > self.step + self.plan.window:
            self._move(least)
            self._ask()

    def _upon_ask(self, index: tuple[int, ...], server: str, message: Ask | Malformed) -> None:
        """A server that waits for updates: send it this worker's once more."""
        if isinstance(message, Malformed) or index[0] != self.plan.number(server):
            return
        self.net.sub(QUESTION[0], index[0]).window(QUESTION[1:], (index[1], index[2] + 1))
        update = self.updates.get(message.place // 2)
        if update is not None:
            self.net.sub(UPDATE[0], message.place // 2).send(server, Update(update))

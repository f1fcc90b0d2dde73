"""A peer of `serverless`: trains, deals, checks and opens, round after round.

Composition only: what a rule makes of an update is dealt (rounds.py), the opened sums are
aggregated and the model takes its step (architecture.md, "The same bits everywhere"), and a quorum
signs what the round ended with. Who was away is shown the last certificate and the model
(catch_up.py), and goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ostraka.algebra.image_sets import Submission
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import Sign
from ostraka.crypto.transcript import digest
from ostraka.net import Net, Trace
from ostraka.protocols.certificate import Certificate, Record, certify
from ostraka.rules.image import Public
from ostraka.trust.public_step import Vector, step
from ostraka.trust.serverless.plan import Plan, State
from ostraka.trust.serverless.rounds import ROUND, Keeping, Opened, Seat, Table, play_round

SIGNED = "signed"
Train = Callable[[int, Vector], Vector | None]
"""A peer's update of a round, at the public model; None where it has none."""


class Disk(Protocol):
    """What a peer keeps across restarts."""

    def round(self, number: int) -> Keeping:
        """What belongs to a round; what was kept of earlier ones is dropped."""

    def commit(self, state: State, certificate: Certificate) -> None:
        """A round is over: both at once, and durable."""


@dataclass(frozen=True, eq=False)
class Self:
    """What one peer has of its own."""

    sign: Sign
    fresh: Callable[[], Key]
    disk: Disk
    trace: Trace
    life: int = 1


async def peer(net: Net, plan: Plan, state: State, train: Train, own: Self) -> State:
    """A peer's whole life: rounds until the last one, or until it is evicted.

    Raises Abort where a round can open nothing, or a certificate finds no quorum.
    """
    while state.round < plan.rounds and net.me in plan.names(state):
        net.window((ROUND,), (state.round,), (state.round + 1,))
        state = await _round(net, plan, state, train, own)
    return state


async def _round(net: Net, plan: Plan, state: State, train: Train, own: Self) -> State:
    public, voters = plan.public(state), plan.voters(state)
    table = Table(voters, state.round, plan.statement(state), plan.phase_s, plan.patience_s)
    keeping = own.disk.round(state.round)
    seat = Seat(own.sign, own.fresh, keeping, own.trace, own.life)
    submission = _submission(net, plan, state, public, train)
    opened = await play_round(net, table, seat, submission)
    after = _after(plan, state, public, opened)
    record = _record(plan, state, after, opened)
    certificate = await certify(
        net.sub(ROUND, state.round).sub(SIGNED),
        voters,
        record,
        sign=own.sign,
        timeout_s=plan.patience_s,
    )
    after = replace(after, chain=record.digest)
    own.disk.commit(after, certificate)
    _tell(own.trace, plan, state, opened)
    return after


def _submission(
    net: Net, plan: Plan, state: State, public: Public, train: Train
) -> Submission | None:
    update = train(state.round, state.model)
    if update is None:
        return None
    return plan.rule.submit(update, public, list(plan.peers).index(net.me))


def _after(plan: Plan, state: State, public: Public, opened: Opened) -> State:
    """The public state after a round, but for the certificate that names it."""
    aggregate = plan.rule.aggregate(opened.sums, len(opened.accepted), public)
    model = step(state.model, aggregate, plan.rate(state.round))
    evicted = (*state.evicted, *opened.evicted)
    return replace(state, round=state.round + 1, model=model, aggregate=aggregate, evicted=evicted)


def _record(plan: Plan, state: State, after: State, opened: Opened) -> Record:
    return Record(
        session=plan.session.hex(),
        round=state.round,
        attempt=opened.attempt,
        previous=state.chain.hex(),
        model=model_digest(after.model).hex(),
        checks=opened.after.hex(),
        peers=plan.names(state),
        accepted=opened.accepted,
        evicted=opened.evicted,
    )


def model_digest(model: Vector) -> bytes:
    """32 bytes that name a model, float32 (d,)."""
    return digest("vector", np.ascontiguousarray(model, "<f4").view(np.uint8).data)


def _tell(trace: Trace, plan: Plan, state: State, opened: Opened) -> None:
    """Whose submission counted, who was evicted, and who was left out for what."""
    for name in opened.evicted:
        trace("evicted", round=state.round, party=name)
    for name in plan.names(state):
        if name not in opened.accepted and name not in opened.evicted:
            trace("missing", round=state.round, party=name)

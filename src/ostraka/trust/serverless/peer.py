"""A peer of `serverless`: trains, deals, checks and opens, round after round.

Composition only: what a rule makes of an update is dealt (rounds.py), the opened sums are
aggregated and the model takes its step (architecture.md, "The same bits everywhere"), and a quorum
signs what the round ended with. Who was away is shown the last certificate and the model
(catch_up.py), and goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ostraka.algebra.image_sets import Submission
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import Sign
from ostraka.net import Net, Trace
from ostraka.protocols.certificate import Certificate, Record, certify
from ostraka.protocols.consistent_broadcast import vector_hash
from ostraka.protocols.public_vector import settle
from ostraka.protocols.scene import Assembly, Scene
from ostraka.rules.image import Public
from ostraka.trust.public_step import Vector, step
from ostraka.trust.serverless.catch_up import Behind, Shelf, see_off, serve
from ostraka.trust.serverless.plan import Plan, State
from ostraka.trust.serverless.rounds import ROUND, Keeping, Opened, Seat, Table, play_round

SIGNED, ROOT = "signed", "root"
Train = Callable[[int, Vector], Vector | None]
"""A peer's update of a round, at the public model; None where it has none."""


class Disk(Protocol):
    """What a peer keeps across restarts."""

    def round(self, number: int) -> Keeping:
        """What belongs to a round; what was kept of earlier ones is dropped."""

    def commit(self, state: State, certificates: Sequence[Certificate]) -> None:
        """A round is over, or several that this peer has missed: all at once, and durable."""

    def certificates(self, start: int) -> Sequence[Certificate]:
        """All from this round on."""


@dataclass(frozen=True, eq=False)
class Self:
    """What one peer has of its own; ``root`` gives the gradient of public root data at a model."""

    sign: Sign
    fresh: Callable[[], Key]
    disk: Disk
    trace: Trace
    life: int = 1
    root: Train | None = None


async def peer(net: Net, plan: Plan, state: State, train: Train, own: Self) -> State:
    """A peer's whole life: rounds until the last one, or until it is evicted.

    Raises Abort where a round can open nothing, a certificate finds no quorum, or nothing moves.
    """
    shelf, behind = Shelf(state, own.disk.certificates), Behind(net, plan, own.life)
    await net.beside(serve(net, plan, shelf))
    if own.life > 1:
        state = _jump(net.me, own, state, await behind.look(state))
    while state.round < plan.rounds and net.me in plan.names(state):
        shelf.state = state
        net.window((ROUND,), (state.round,), (state.round + 1,))
        place, found = await net.race(_round(net, plan, state, train, own), behind.overtaken(state))
        state = _jump(net.me, own, state, found) if place else found
    shelf.state = state
    await see_off(net, plan)
    return state


def _jump(me: str, own: Self, state: State, found: tuple[State, list[Certificate]] | None) -> State:
    """Go on from what others have come to, once it is stored."""
    if found is None:
        return state
    after, certificates = found
    own.disk.commit(after, certificates)
    own.trace("skipped", party=me, round=state.round, to=after.round)
    return after


async def _round(net: Net, plan: Plan, state: State, train: Train, own: Self) -> State:
    state = await _rooted(net, plan, state, own)
    public, voters = plan.public(state), plan.voters(state)
    table = Table(voters, state.round, plan.statement(state), plan.wait_s, plan.patience_s)
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
    own.disk.commit(after, [certificate])
    _tell(own.trace, plan, state, opened)
    return after


async def _rooted(net: Net, plan: Plan, state: State, own: Self) -> State:
    """The state with the root gradient that all have agreed on, where the rule reads one."""
    if plan.rule.reads != "root":
        return state
    found = None if own.root is None else own.root(state.round, state.model)
    if found is None:
        raise ValueError(f"{plan.rule.name} reads a root gradient, and {net.me} has none")
    scene = Scene(plan.voters(state), state.round, 0, plan.wait_s)
    keeping = own.disk.round(state.round)
    label = net.sub(ROUND, state.round)
    assembly = Assembly(label, scene, own.sign, keeping, own.trace, own.life)
    return replace(state, root=await settle(assembly, ROOT, found, plan.root_tolerance))


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
    return State(state.round + 1, model, aggregate, np.zeros_like(model), state.chain, evicted)


def _record(plan: Plan, state: State, after: State, opened: Opened) -> Record:
    return Record(
        session=plan.session.hex(),
        round=state.round,
        attempt=opened.attempt,
        previous=state.chain.hex(),
        model=vector_hash(after.model).hex(),
        aggregate=vector_hash(after.aggregate).hex(),
        checks=opened.after.hex(),
        peers=plan.names(state),
        accepted=opened.accepted,
        evicted=opened.evicted,
    )


def _tell(trace: Trace, plan: Plan, state: State, opened: Opened) -> None:
    """Whose submission counted, who was evicted, and who was left out for what."""
    for name in opened.evicted:
        trace("evicted", round=state.round, party=name)
    for name in plan.names(state):
        if name not in opened.accepted and name not in opened.evicted:
            trace("missing", round=state.round, party=name)

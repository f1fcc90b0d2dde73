"""How a peer that was away comes back: the newest model, and the certificates that lead to it.

Whoever asks is told how far others are, and fetches from one of them after the other: what it gets
proves itself, as a quorum has signed every record of the chain, and the last one names the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from ostraka.net import Abort, Inbox, Malformed, Net, Timeout
from ostraka.protocols.board import within
from ostraka.protocols.certificate import Certificate, Point, verify_chain
from ostraka.protocols.consistent_broadcast import vector_hash
from ostraka.protocols.views import Ration
from ostraka.trust.serverless.plan import Plan, State
from ostraka.wire import Array, Index, Message, Octets, Tensor

ASK, FETCH, DONE = ("behind", "ask"), ("behind", "fetch"), "done"
MOST_BYTES = 1 << 24
"""Of the certificates in one answer: a thousand rounds and more."""


@dataclass(frozen=True)
class Ask(Message):
    """I am at this round: who is beyond it?"""

    round: Index


@dataclass(frozen=True)
class Standing(Message):
    """I am."""

    round: Index


@dataclass(frozen=True)
class Fetch(Message):
    """Show me how you came there."""

    round: Index


@dataclass(frozen=True)
class Way(Message):
    """The certificates from a round on, and what the last one names."""

    certificates: Annotated[bytes, Octets("certificates")]
    model: Annotated[Array, Tensor("float32", ("d",))]
    aggregate: Annotated[Array, Tensor("float32", ("d",))]


@dataclass(frozen=True)
class Done(Message):
    """I have the last model, or take no part any more."""


@dataclass
class Shelf:
    """What a peer shows to those who ask."""

    state: State
    certificates: Callable[[int], Sequence[Certificate]]


async def serve(net: Net, plan: Plan, shelf: Shelf) -> None:
    """Answer whoever is behind; runs until it is ended."""
    others = frozenset(plan.peers) - {net.me}
    ration = Ration(net, plan.voters(shelf.state))
    inboxes = Inbox(ASK, Ask.form(), others), Inbox(FETCH, Fetch.form(), others)
    while True:
        got = await net.arrival(*inboxes)
        if got is None or isinstance(got.message, Malformed) or not ration.due(got.sender):
            continue
        state, label = shelf.state, within(net, (ASK, FETCH)[got.place], *got.index)
        if got.message.round >= state.round:
            continue
        if got.place == 0:
            label.send(got.sender, Standing(state.round))
            continue
        told = [one.told() for one in shelf.certificates(got.message.round)]
        text = json.dumps(told).encode()
        if len(text) <= MOST_BYTES:
            label.send(got.sender, Way(text, state.model, state.aggregate))


class Behind:
    """One process's questions, in labels of their own."""

    def __init__(self, net: Net, plan: Plan, life: int) -> None:
        self._net, self._plan, self._life, self._number = net, plan, life, 0
        self._others = tuple(name for name in plan.peers if name != net.me)

    async def look(self, state: State) -> tuple[State, list[Certificate]] | None:
        """The newest public state that somebody shows, and its certificates; None for none."""
        self._number += 1
        label = self._at(ASK)
        label.broadcast(self._others, Ask(state.round))
        try:
            got = await label.quorum(
                Standing.form(), self._others, 1, grace_s=1.0, timeout_s=self._plan.phase_s
            )
        except Timeout:
            return None
        ahead = sorted(got.messages, key=lambda name: -got.messages[name].round)
        for name in ahead:
            self._number += 1
            label = self._at(FETCH)
            label.send(name, Fetch(state.round))
            form = Way.form(d=self._plan.d, certificates=MOST_BYTES)
            answer = await label.gather(form, (name,), timeout_s=self._plan.phase_s)
            found = None
            if name in answer.messages:
                found = followed(self._plan, state, answer.messages[name])
            if found is not None:
                return found
        return None

    async def overtaken(self, state: State) -> tuple[State, list[Certificate]]:
        """What `look` gives once somebody is ahead; asks again and again.

        Raises Abort where nothing moves for ``stall_s``.
        """
        since, stall_s = self._net.now, self._plan.stall_s
        while True:
            await self._net.sleep(self._plan.look_s)
            found = await self.look(state)
            if found is not None:
                return found
            if stall_s is not None and self._net.now - since >= stall_s:
                raise Abort(f"no progress for {stall_s:g} s: round {state.round + 1} does not end")

    def _at(self, path: tuple[str, str]) -> Net:
        return within(self._net, path, self._life, self._number)


def followed(plan: Plan, state: State, way: Way) -> tuple[State, list[Certificate]] | None:
    """The state that a way leads to; None where it does not hold. Total."""
    try:
        told = json.loads(way.certificates)
        certificates = [Certificate.of(one) for one in told]
        start = Point(state.round, state.chain, state.evicted)
        end = verify_chain(certificates, plan.peers, plan.session, plan.t, start)
    except (ValueError, TypeError, RecursionError):
        return None
    if not certificates or end.round > plan.rounds:
        return None
    record = certificates[-1].record
    named = vector_hash(way.model).hex(), vector_hash(way.aggregate).hex()
    if named != (record.model, record.aggregate):
        return None
    found = replace(
        state,
        round=end.round,
        model=way.model.copy(),
        aggregate=way.aggregate.copy(),
        chain=end.previous,
        evicted=end.evicted,
    )
    return found, certificates


async def see_off(net: Net, plan: Plan) -> None:
    """Stay until all others have the last model, for ``linger_s`` at most."""
    others = tuple(name for name in plan.peers if name != net.me)
    label = net.sub(DONE)
    label.broadcast(others, Done())
    await label.gather(Done.form(), others, timeout_s=plan.linger_s)

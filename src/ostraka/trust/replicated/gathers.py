"""A server's part in the gathers: its own signed vectors, the others', echoes, who has lied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np

from ostraka.crypto.sign import Sign
from ostraka.net import Arrival, Net, Trace
from ostraka.protocols.consistent_broadcast import (
    Certificate,
    ConsistentBroadcast,
    Echo,
    Slot,
    vector_hash,
)
from ostraka.protocols.scatter_gather import ECHO, GATHER, Gathered
from ostraka.trust.public_step import Vector
from ostraka.trust.replicated.plan import Plan, Signed

KEPT = 2
"""Complete gathers that a server keeps for those who come back."""

Stored = tuple[Vector | None, bytes, bytes]
"""What is stored of a slot: one's own vector, or None for an echo; the digest; the signature."""
Store = Callable[[Slot, Stored], None]


class Gathers:
    """All gathers of one process. ``store`` makes durable what it signs, before it leaves.

    ``restored``: what earlier processes of this server stored.
    """

    def __init__(
        self,
        net: Net,
        plan: Plan,
        sign: Sign,
        store: Store,
        restored: Mapping[Slot, Stored],
        trace: Trace,
    ) -> None:
        self._net, self._plan, self._trace = net, plan, trace
        self._names = tuple(plan.servers)
        self._others = tuple(name for name in plan.servers if name != net.me)
        self._store = store
        self._own: dict[int, tuple[Vector, bytes]] = {}
        self._heard: dict[int, dict[str, tuple[Vector, bytes, bytes]]] = defaultdict(dict)
        self._broadcast = ConsistentBroadcast(
            net.me,
            plan.session,
            plan.servers,
            plan.f_servers,
            sign,
            lambda slot, what, signature: store(slot, (None, what, signature)),
        )
        self.ignored: set[str] = set()
        for slot, (vector, what, signature) in restored.items():
            self._broadcast.restore(slot, what, signature)
            if vector is not None:
                self._own[slot.step] = (vector, signature)

    def show(self, number: int, model: Vector, to: tuple[str, ...] | None = None) -> None:
        """Sign one's own vector of a gather, once it is stored, and show it to the others.

        What was signed before is shown again, whatever the model is by now.
        """
        vector, signature = self.own(number, model)
        label = self._net.sub(GATHER[0], number)
        label.broadcast(self._others if to is None else to, Gathered(vector, signature))

    def own(self, number: int, model: Vector) -> tuple[Vector, bytes]:
        """One's own vector of a gather and its signature."""
        if number not in self._own:
            slot, what = Slot(Gathered.kind, number, self._net.me), vector_hash(model)
            signature = self._broadcast.say(slot, what)
            self._store(slot, (model, what, signature))
            self._own[number] = (model, signature)
        return self._own[number]

    def upon_gathered(self, got: Arrival) -> None:
        """Another server's vector."""
        number, vector, signature = got.index[0], got.message.vector, got.message.signature
        slot, what = Slot(Gathered.kind, number, got.sender), vector_hash(vector)
        if not np.isfinite(vector).all() or not self._broadcast.signed(slot, what, signature):
            detail = f"its vector of gather {number} is not finite or not signed"
            self._trace("malformed", party=got.sender, by=self._net.me, detail=detail)
            return
        self._heard[number].setdefault(got.sender, (vector, what, signature))
        if self._plan.equivocation_check != "off":
            self._say(slot, self._broadcast.hear(slot, what, signature))

    def upon_echo(self, got: Arrival) -> None:
        """Another server's echo of somebody's vector."""
        number, originator = got.index
        if originator < len(self._names):
            slot = Slot(Gathered.kind, number, self._names[originator])
            self._say(slot, self._broadcast.take(slot, got.sender, got.message))

    def echo_again(self, number: int, to: str) -> None:
        """Send one's echoes of a gather once more, to somebody who may have missed them."""
        for place, name in enumerate(self._names):
            echo = self._broadcast.echo(Slot(Gathered.kind, number, name))
            if echo is not None:
                self._net.sub(GATHER[0], number).sub(ECHO[1], place).send(to, echo)

    def accepted(self, number: int) -> dict[str, Signed]:
        """The others' vectors that may be used: certified ones, where that is asked."""
        found = {}
        for name, (vector, what, signature) in self._heard[number].items():
            if self._plan.equivocation_check == "off":
                found[name] = Signed(vector, signature, {})
            elif name not in self.ignored:
                slot = Slot(Gathered.kind, number, name)
                certificate = self._broadcast.certificate(slot, what, signature)
                if certificate is not None:
                    found[name] = Signed(vector, signature, certificate.echoes)
        return found

    def proves(self, number: int, name: str, signed: Signed) -> bool:
        """Whether a vector out of another server's complete gather is what it is said to be."""
        if name not in self._plan.servers or not np.isfinite(signed.vector).all():
            return False
        slot, what = Slot(Gathered.kind, number, name), vector_hash(signed.vector)
        if self._plan.equivocation_check == "off":
            return self._broadcast.signed(slot, what, signed.signature)
        certificate = Certificate(what, signed.signature, signed.echoes)
        return certificate.holds(self._plan.session, slot, self._plan.servers, self._plan.f_servers)

    def forget(self, below: int) -> None:
        """Drop all gathers below this one."""
        self._broadcast.forget(Gathered.kind, below)
        for kept in (self._own, self._heard):
            for number in [number for number in kept if number < below]:
                del kept[number]

    def _say(self, slot: Slot, echo: Echo | None) -> None:
        """Send the echo that is due, and leave out whoever is convicted by now."""
        if echo is not None:
            place = self._names.index(slot.originator)
            label = self._net.sub(GATHER[0], slot.step).sub(ECHO[1], place)
            label.broadcast(self._others, echo)
        liar = slot.originator
        if liar in self._broadcast.evidence and liar not in self.ignored:
            self.ignored.add(liar)
            self._trace(
                "excluded",
                party=liar,
                by=self._net.me,
                reason="equivocation",
                detail=f"two vectors, both signed, in gather {slot.step}",
            )

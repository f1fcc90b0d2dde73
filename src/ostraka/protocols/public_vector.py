"""A vector that everybody can compute, but for rounding: all end with the same bits of it.

Source: the serverless design, on FLTrust's root gradient. Parties: N voters that hold the same
public data, up to t of whom lie. Sums of floats differ between machines in their last bits, so one
voter's vector is taken: the leader's, which each voter accepts if it lies within a stated part of
its own norm from its own. Guarantee: one vector at all honest voters, within the tolerance of what
honest ones of a quorum have computed. Revealed: the vector, which was public. One vector of d
floats from the leader to all, and an agreement on its digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from ostraka.net import Arrival, Inbox, Net
from ostraka.protocols.ballots import Verdict
from ostraka.protocols.consistent_broadcast import vector_hash
from ostraka.protocols.scene import Assembly
from ostraka.wire import Array, Message, Tensor

VECTOR = ("vector",)
DIGEST_BYTES = 32

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Computed(Message):
    """What I have computed, or what another voter has and I accept."""

    vector: Annotated[Array, Tensor("float32", ("d",))]


class NearVector:
    """The subject of the agreement. ``tolerance``: as a part of the norm of one's own vector."""

    voids = False

    def __init__(self, net: Net, own: Vector, others: Sequence[str], tolerance: float) -> None:
        self._net, self._own, self._others = net, own, tuple(others)
        self._radius = tolerance * float(np.linalg.norm(own.astype(np.float64)))
        self._held = {vector_hash(own): own}
        self._heard: set[str] = set()
        self._last = vector_hash(own)
        self._decided: bytes | None = None
        self._shown = False
        self.value_bytes = DIGEST_BYTES
        self.have_bytes = (len(self._others) + 1) * DIGEST_BYTES
        form = Computed.form(d=own.size)
        self.inboxes: Sequence[Inbox[Any]] = (Inbox(VECTOR, form, frozenset(others)),)

    def propose(self) -> bytes | None:
        """One's own, which all are shown first."""
        what = vector_hash(self._own)
        if not self._shown:
            self._shown = True
            self._label(what).broadcast(self._others, Computed(self._own))
        return what

    def judge(self, value: bytes) -> Verdict:
        """See Subject."""
        if len(value) != DIGEST_BYTES:
            return Verdict.REFUSE
        self._last = value
        return Verdict.ACCEPT if value in self._held else Verdict.NOT_YET

    def holds(self, value: bytes) -> bool:
        """See Subject. What is decided is taken as it is: q voters have compared it."""
        self._decided = self._last = value
        return value in self._held

    def vector(self, value: bytes) -> Vector:
        """The decided one."""
        return self._held[value]

    def upon(self, got: Arrival) -> None:
        """Keep a vector that is near one's own: the first of each sender, and what is judged.

        None is forgotten: what was accepted once may be decided.
        """
        vector = got.message.vector
        what = vector_hash(vector)
        if what in self._held:
            return
        named = what == self._decided or (what == self._last and self._near(vector))
        if not named and (got.sender in self._heard or not self._near(vector)):
            return
        self._heard.add(got.sender)
        self._held[what] = vector

    def _near(self, vector: Vector) -> bool:
        with np.errstate(over="ignore", invalid="ignore"):
            apart = np.linalg.norm(vector.astype(np.float64) - self._own)
        return bool(apart <= self._radius)  # nothing compares with a NaN

    def have(self) -> bytes:
        """See Subject."""
        return b"".join(self._held)

    def give(self, net: Net, to: str, have: bytes) -> None:
        """See Subject: what was proposed last."""
        listed = {have[i : i + DIGEST_BYTES] for i in range(0, len(have), DIGEST_BYTES)}
        if self._last in self._held and self._last not in listed:
            self._label(self._last).send(to, Computed(self._held[self._last]))

    def _label(self, what: bytes) -> Net:
        """Each vector has a place of its own among those that this voter sends."""
        return self._net.sub(VECTOR[0], int.from_bytes(what[:8], "little"))


async def settle(assembly: Assembly, name: str, own: Vector, tolerance: float) -> Vector:
    """The vector (d,) that all go on with; ``name``: of the agreement."""
    subject = NearVector(assembly.at(name), own, assembly.others, tolerance)
    decision = await assembly.decide(name, subject)
    return subject.vector(decision.value)

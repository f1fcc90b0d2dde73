"""One attempt of a round without servers: who takes part, what is signed, what was agreed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ostraka.crypto.sign import Sign, verifies
from ostraka.crypto.transcript import digest
from ostraka.net import Net, Trace
from ostraka.protocols.agreement import agree, remain
from ostraka.protocols.ballots import Decision, Stored, Subject
from ostraka.protocols.board import Board, Topic
from ostraka.protocols.votes import Evidence, Instance, Plan


@dataclass(frozen=True)
class Scene:
    """An attempt as all its peers see it; ``plan.session`` stands for the public state as well.

    ``phase_s``: how long a peer waits for others in each step before it goes on without them.
    """

    plan: Plan
    round: int
    attempt: int
    phase_s: float

    @property
    def names(self) -> tuple[str, ...]:
        """All peers, in the order of their places."""
        return tuple(self.plan.voters)

    @property
    def least(self) -> int:
        """So many peers neither lie nor are away, whatever happens."""
        return self.plan.n - self.plan.t - self.plan.dropouts

    def instance(self, name: str) -> Instance:
        """The agreement of this name."""
        return Instance(self.round, name, self.attempt)

    def stated(self, use: str, *parts: bytes) -> bytes:
        """32 bytes that name these parts, for this use, in this attempt alone."""
        numbers = (number.to_bytes(8, "little") for number in (self.round, self.attempt))
        return digest(f"attempt {use}", self.plan.session, *numbers, *parts)

    def signed(self, use: str, owner: str, body: bytes, signature: bytes) -> bool:
        """Whether a peer has signed these bytes for this use. Total."""
        public = self.plan.voters.get(owner)
        return public is not None and verifies(public, signature, self.entry(use, owner, body))

    def entry(self, use: str, owner: str, body: bytes) -> bytes:
        """What a peer signs."""
        return self.stated(use, owner.encode(), body)


class Storage(Protocol):
    """What a peer keeps of the agreements of an attempt until the attempt is over."""

    def store(self, instance: Instance, stored: Stored) -> None:
        """Make it durable before the signature leaves."""

    def restored(self, instance: Instance) -> Sequence[Stored]:
        """All that earlier processes of this peer stored, in order."""


class Assembly:
    """One peer's side of an attempt: what it signs, and the agreements that it takes part in."""

    def __init__(
        self,
        net: Net,
        scene: Scene,
        sign: Sign,
        storage: Storage,
        trace: Trace,
        life: int = 1,
    ) -> None:
        self.net, self.scene, self.sign, self.trace = net, scene, sign, trace
        self.others = tuple(name for name in scene.names if name != net.me)
        self.double_votes: dict[str, Evidence] = {}
        self.boards: list[Board] = []
        self._storage, self._life = storage, life

    def at(self, name: str) -> Net:
        """Where everything about one agreement lies."""
        return self.net.sub(name)

    def board(self, name: str, topics: Sequence[Topic]) -> Board:
        """What peers publish for one agreement."""
        vouchers = self.scene.plan.t + 1
        board = Board(self.at(name), topics, self.others, self.scene.signed, vouchers)
        self.boards.append(board)
        return self.boards[-1]

    def signature(self, use: str, body: bytes) -> bytes:
        """This peer's own, under what it publishes once."""
        return self.sign(self.scene.entry(use, self.net.me, body))

    async def decide(self, name: str, subject: Subject) -> Decision:
        """Agree, and answer those who are behind for as long as the caller runs."""
        net, scene = self.at(name), self.scene
        instance = scene.instance(name)
        decision = await agree(
            net,
            scene.plan,
            instance,
            subject,
            sign=self.sign,
            store=lambda stored: self._storage.store(instance, stored),
            restored=self._storage.restored(instance),
            life=self._life,
            trace=self.trace,
        )
        self.double_votes = {**decision.evidence, **self.double_votes}
        await self.net.beside(remain(net, scene.plan, decision, subject, self.trace))
        return decision

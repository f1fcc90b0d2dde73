"""What the peers of `serverless` agree on beforehand, and what a peer keeps between rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ostraka.crypto.transcript import digest
from ostraka.protocols.consistent_broadcast import vector_hash
from ostraka.protocols.image_equations import Statement
from ostraka.protocols.votes import Plan as Voters
from ostraka.rules.image import ImageRule, Public
from ostraka.sharing.shamir import Packing
from ostraka.trust.public_step import Vector


@dataclass(frozen=True)
class Plan:
    """What all peers agree on; `check` refuses what cannot hold.

    ``peers``: names to raw public keys, in order; ``session`` names the run (32 bytes); up to ``t``
    peers lie, and up to ``dropouts`` more are away in a round; ``rate``: round to learning rate;
    ``d``: coordinates. ``phase_s``: how long a peer waits for others in each step, at least;
    ``view_s``: in the first view of an agreement; ``root_tolerance``: how far others' root
    gradients may be from one's own, over its norm; ``linger_s``: how long it stays, after the last
    round, for those who are not through; ``stall_s``: how long it goes on in a round that does not
    end, None for ever.
    """

    peers: Mapping[str, bytes]
    session: bytes
    t: int
    rounds: int
    rule: ImageRule
    d: int
    rate: Callable[[int], float]
    dropouts: int = 0
    phase_s: float = 10.0
    view_s: float = 4.0
    root_tolerance: float = 1e-3
    linger_s: float = 30.0
    stall_s: float | None = None

    def check(self) -> None:
        """ValueError with a sentence for numbers with which a promise cannot hold."""
        packing = Packing.fitting(len(self.peers), self.t, self.dropouts)
        self.voters(State.initial(self, np.zeros(self.d, np.float32))).check()
        self.rule.check(packing.n, self.d, self.t)

    @property
    def wait_s(self) -> float:
        """How long a step waits: ``phase_s``, and longer than the last view that liars may spoil.

        Who is told of a decision only when its view is over must still be heard in the next step.
        """
        return max(self.phase_s, 1.25 * (self.view_s + self.t + 1))

    @property
    def patience_s(self) -> float:
        """How long a peer takes part in an attempt before it gives up: every step at its longest.

        A phase for keys, five for each message, one for each coin, one for checks and one for
        bundles; eight agreements of t + 2 views.
        """
        views = sum(self.view_s + view for view in range(self.t + 2))
        return 15 * self.wait_s + 8 * views

    @property
    def look_s(self) -> float:
        """How often a peer asks whether others are ahead: thrice before these may be gone."""
        return min(self.patience_s / 2, self.linger_s / 3)

    def names(self, state: State) -> tuple[str, ...]:
        """The peers that are left."""
        return tuple(name for name in self.peers if name not in state.evicted)

    def voters(self, state: State) -> Voters:
        """The agreements of a round, bound to the public state before it."""
        peers = {name: self.peers[name] for name in self.names(state)}
        number = state.round.to_bytes(8, "little")
        session = digest("round", self.session, state.chain, number, vector_hash(state.root))
        t = self.t - len(state.evicted)
        return Voters(peers, session, t, self.dropouts, self.view_s)

    def public(self, state: State) -> Public:
        """What the rule reads in a round, the same bits at all peers."""
        coin = digest("coin of equal signs", self.voters(state).session)[0] & 1
        vectors = {"model": state.model, "aggregate": state.aggregate, "root": state.root}
        nothing = np.zeros_like(state.model)
        return Public(vectors.get(self.rule.reads, nothing), coin)

    def statement(self, state: State) -> Statement:
        """What is proven of every submission of a round."""
        packing = Packing.fitting(
            len(self.peers), self.t, self.dropouts, evicted=len(state.evicted)
        )
        return Statement.of(self.rule.image(self.public(state)), packing, self.dropouts)


@dataclass(frozen=True, eq=False)
class State:
    """What is public before a round, the same at all honest peers; ``round`` is the next one.

    ``aggregate``: of the round before; ``root``: the gradient of public root data at this model,
    once it is agreed on, and zeros before, and where the rule reads none;
    ``chain``: the digest of the last certificate, of the session before the first.
    """

    round: int
    model: Vector
    aggregate: Vector
    root: Vector
    chain: bytes
    evicted: tuple[str, ...] = field(default=())

    @classmethod
    def initial(cls, plan: Plan, model: Vector) -> State:
        """Before the first round."""
        zeros = np.zeros_like(model)
        return cls(0, model, zeros, zeros, plan.session)

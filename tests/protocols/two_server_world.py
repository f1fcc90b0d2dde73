"""One simulated federation of `two_server`: plans, programs, cheating parties, all that was sent.

Everything follows from a seed. Every process gets a key of its own (`World.key`), so that a test
can make again whatever a party has drawn.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ostraka.algebra.fixed import FixedPoint
from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import Sign, signer_from
from ostraka.crypto.transcript import digest
from ostraka.drivers.sim import Adversary, Crash, Delivery, Links, Outcome, Partition, Simulation
from ostraka.mailbox import Limits
from ostraka.net import Net, Program
from ostraka.party import Frame
from ostraka.protocols import turns
from ostraka.protocols.public_model import next_shown
from ostraka.protocols.upload import SeedPart, SharePart, make_parts
from ostraka.rules import GramRule, PreAggregation, own_f
from ostraka.sharing.additive import Map
from ostraka.trust import two_server
from ostraka.trust.two_server import Plan, State0, State1
from ostraka.trust.two_server.worker import encoded

S0, S1, DEALER = "server-0", "server-1", "dealer"
OPERATORS = (S0, S1, DEALER)
Vector = npt.NDArray[Any]
Updates = Callable[[str, int, Vector], Vector]
"""What a worker computes: (name, round, model) to its update (d,)."""


def names(n: int) -> tuple[str, ...]:
    """The workers, in order."""
    return tuple(f"w{i:02d}" for i in range(n))


def place(name: str) -> int:
    """A worker's position."""
    return int(name.removeprefix("w"))


def identity(name: str) -> tuple[Sign, bytes]:
    """A worker's signing function and public key."""
    return signer_from(digest("a worker of a test", name.encode()))


def fixed_point(d: int, clip: float = 4.0, sigma: float = 0.0, frac_bits: int = 20) -> FixedPoint:
    """The grid, with fewer fractional bits where the bound would not fit."""
    bound = clip + (sigma * (math.sqrt(d) + 8) if sigma else 0.0)
    return FixedPoint(d, min(frac_bits, math.floor(26 - math.log2(bound))), clip, sigma)


def make_plan(
    n: int, d: int, rule: GramRule, pre: Sequence[PreAggregation] = (), **changes: Any
) -> Plan:
    """A checked plan; f is the chain's unless it is given, everything else may be changed."""
    stated = [own_f(part) for part in (rule, *pre)]
    f = changes.pop("f", next((value for value in stated if value is not None), 0))
    least = changes.pop("min_contributors", 1)
    base = Plan(
        keys={name: identity(name)[1] for name in names(n)},
        server_0=S0,
        server_1=S1,
        dealer=DEALER,
        session=digest("a session of a test"),
        rounds=1,
        rule=rule,
        pre=tuple(pre),
        f=f,
        dropouts=None,
        rate=lambda round: 0.5 / (round + 1),
        deadline_s=30.0,
        patience_s=60.0,
        max_norm=1e6,
        fixed=changes.pop("fixed", None) or fixed_point(d, changes.pop("clip", 4.0)),
        min_contributors=least,
        min_cohort=f + least,
    )
    plan = replace(base, **changes)
    plan.check()
    return plan


def random_updates(seed: int, scale: float = 1.0) -> Updates:
    """Updates of norm about ``scale`` that depend on worker, round, model and seed alone."""

    def update(name: str, round: int, model: Vector) -> Vector:
        rng = np.random.default_rng([seed, place(name), round])
        spread = scale / math.sqrt(model.size) * rng.standard_normal(model.size)
        return (0.25 * model + spread).astype(np.float32)

    return update


def given(rows: Sequence[Vector]) -> Updates:
    """The same rows in every round."""
    return lambda name, round, model: rows[place(name)]


@dataclass(frozen=True)
class Sent:
    """A frame as its sender gave it to the network."""

    at_s: float
    sender: str
    to: str
    frame: Frame

    @property
    def kind(self) -> str:
        """What it claims to be."""
        return self.frame.kind


@dataclass(frozen=True)
class Upload:
    """What a cheating worker has at hand in one turn: its honest words and parts, and its keys.

    ``net`` is without a label.
    """

    world: World
    net: Net
    turn: turns.Turn
    words: Ring
    own: Key
    seed_part: SeedPart
    share_part: SharePart

    @property
    def name(self) -> str:
        """The worker."""
        return self.net.me

    def parts(
        self, words: Ring | None = None, use: str = "other", turn: turns.Turn | None = None
    ) -> tuple[SeedPart, SharePart]:
        """A well-formed upload of any words, under another seed for every ``use``."""
        context = self.world.plan.context(self.turn if turn is None else turn)
        chosen = self.words if words is None else words
        return make_parts(context, self.name, chosen, self.own.derive(use), identity(self.name)[0])

    def send(self, to: str, part: Any, turn: turns.Turn | None = None) -> None:
        """Send one part in this turn, or in another one."""
        turns.at(self.net, self.turn if turn is None else turn).send(to, part)

    def send_all(self, parts: tuple[SeedPart, SharePart] | None = None) -> None:
        """Send parts as an honest worker would."""
        seed_part, share_part = parts or (self.seed_part, self.share_part)
        self.send(S0, seed_part)
        self.send(DEALER, seed_part)
        self.send(S1, share_part)


def in_both_servers(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Replace what server 0 and server 1 call by this name."""
    for module in ("server_0", "server_1"):  # the package holds functions of these names
        found = importlib.import_module(f"ostraka.trust.two_server.{module}")
        monkeypatch.setattr(found, name, value)


Cheat = Callable[[Upload], None]
"""Sends whatever it likes in place of the honest upload."""


@dataclass
class World:
    """A federation in the simulator. All but ``plan`` has a default; run it once, or again.

    ``updates`` is what workers compute. ``cheats`` replaces the upload of some workers;
    ``replaced`` the whole program of some parties. ``adversary`` sits at the seam. All keys follow
    from ``seed``, and the order of events too, unless it has a seed of its own, ``schedule``.
    ``on_commit`` is asked (party, state) after each state that a server has stored; ``map`` is how
    operators spread their arithmetic. What was sent,
    told, stored and trained on lies in ``sent``, ``events``, ``stored_0``, ``stored_1`` and
    ``trained``. Running again starts every party anew from what it has stored.
    """

    plan: Plan
    updates: Updates = field(default_factory=lambda: random_updates(0))
    cheats: Mapping[str, Cheat] = field(default_factory=dict)
    replaced: Mapping[str, Program] = field(default_factory=dict)
    adversary: Adversary | None = None
    links: Links | None = None
    crashes: Sequence[Crash] = ()
    partitions: Sequence[Partition] = ()
    seed: int = 0
    schedule: int | None = None
    first_model: Vector | None = None
    on_commit: Callable[[str, Any], None] = lambda party, state: None
    map: Map = map

    def __post_init__(self) -> None:
        d = self.plan.fixed.d
        model = np.zeros(d, np.float32) if self.first_model is None else self.first_model
        self.stored_0 = [State0.initial(model)]
        self.stored_1 = [State1.initial(model)]
        self.boots: Counter[str] = Counter()
        self.events: list[dict[str, Any]] = []
        self.sent: list[Sent] = []
        self.trained: list[tuple[str, int]] = []
        self.outcomes: dict[str, Outcome] = {}

    # --- running --------------------------------------------------------------------------------

    def run(self, *, until_s: float = 1e5, stop: Callable[[], bool] | None = None) -> Outcome:
        """Run all parties; gives the outcome of server 0, and keeps those of all."""
        plan = self.plan
        simulation = Simulation(
            self.programs(),
            seed=self.seed if self.schedule is None else self.schedule,
            links=self.links,
            partitions=self.partitions,
            crashes=self.crashes,
            adversary=_Recorder(self),
            trace=self.trace("net"),
            limits=Limits(64, plan.most_unread(), plan.most_bytes()),
        )
        self.outcomes = simulation.run(until_s=until_s, stop=stop)
        self.bytes_sent = simulation.bytes_sent
        return self.outcomes[S0]

    def finish(self) -> State0:
        """Run to the end, which must be a good one for server 0; gives its last state."""
        outcome = self.run()
        assert outcome.status == "done", (outcome, self.outcomes[S1], self.outcomes[DEALER])
        state = outcome.result
        assert isinstance(state, State0)
        return state

    def key(self, name: str, boot: int = 1) -> Key:
        """The fresh key of a party's process of this number, from 1."""
        return Key(digest("a process of a test", str((self.seed, name, boot)).encode()))

    def programs(self) -> dict[str, Program]:
        """The life of every party."""
        own: dict[str, Program] = {S0: self._server_0, S1: self._server_1, DEALER: self._dealer}
        own |= dict.fromkeys(self.plan.workers, self._worker)
        own |= {name: self._cheater(cheat) for name, cheat in self.cheats.items()}
        return {**own, **self.replaced}

    def fresh_key(self, name: str) -> Key:
        """The key of the process that begins now."""
        self.boots[name] += 1
        return self.key(name, self.boots[name])

    def trace(self, party: str) -> Callable[..., None]:
        """Record what a party tells."""
        return lambda event, **told: self.events.append({"event": event, "by": party, **told})

    def train(self, name: str) -> Callable[[int, Vector], Vector]:
        """A worker's training, which is recorded."""

        def train(round: int, model: Vector) -> Vector:
            self.trained.append((name, round))
            return self.updates(name, round, model)

        return train

    # --- what came of it ------------------------------------------------------------------------

    def told(self, event: str, *keys: str) -> list[tuple[Any, ...]]:
        """These fields of all events of a name, in order."""
        return [tuple(e[key] for key in keys) for e in self.events if e["event"] == event]

    def refused(self) -> dict[str, str]:
        """Who was refused for content, with the last reason."""
        return dict(self.told("excluded", "party", "reason"))

    def left_out(self, round: int) -> dict[str, str]:
        """Who did not count in a round: the reason of a refusal, or "missing"."""
        told = self.told("missing", "round", "party")
        out = {name: "missing" for at, name in told if at == round}
        told = self.told("excluded", "round", "party", "reason")
        return out | {name: reason for at, name, reason in told if at == round}

    def missing(self) -> set[str]:
        """Who was missing in some round."""
        return {name for (name,) in self.told("missing", "party")}

    def of_kind(self, kind: str, sender: str | None = None, to: str | None = None) -> list[Sent]:
        """All frames of a kind, in the order in which they were sent."""
        return [
            s
            for s in self.sent
            if s.kind == kind and sender in (None, s.sender) and to in (None, s.to)
        ]

    # --- programs -------------------------------------------------------------------------------

    def _server_0(self, net: Net) -> Any:
        return two_server.server_0(
            net,
            self.plan,
            self.stored_0[-1],
            own=self.fresh_key(S0),
            commit=lambda state: self._keep(S0, self.stored_0, state),
            trace=self.trace(S0),
            map=self.map,
        )

    def _server_1(self, net: Net) -> Any:
        return two_server.server_1(
            net,
            self.plan,
            self.stored_1[-1],
            own=self.fresh_key(S1),
            commit=lambda state: self._keep(S1, self.stored_1, state),
            trace=self.trace(S1),
            map=self.map,
        )

    def _dealer(self, net: Net) -> Any:
        own = self.fresh_key(DEALER)
        return two_server.dealer(net, self.plan, self.boots[DEALER], own=own, map=self.map)

    def _worker(self, net: Net) -> Any:
        return two_server.worker(
            net,
            self.plan,
            self.train(net.me),
            own=self.fresh_key(net.me),
            sign=identity(net.me)[0],
            trace=self.trace(net.me),
        )

    def _cheater(self, cheat: Cheat) -> Program:
        return lambda net: self._cheat(net, cheat)

    async def _cheat(self, net: Net, cheat: Cheat) -> None:
        """Follow the turns as an honest worker would; send what the cheat sends."""
        plan, own, shown = self.plan, self.fresh_key(net.me), None
        while True:
            shown = await next_shown(net, S0, S1, shown, plan.fixed.d)
            if shown.model.final:
                return
            at = (shown.turn[0], shown.turn[1])
            words = encoded(plan, self.train(net.me)(at[0], shown.model.vector))
            fresh = own.derive("turn", *at)
            seed_part, share_part = make_parts(
                plan.context(at), net.me, words, fresh, identity(net.me)[0]
            )
            cheat(Upload(self, net, at, words, fresh, seed_part, share_part))

    def _keep(self, party: str, stored: list[Any], state: Any) -> None:
        stored.append(state)
        self.on_commit(party, state)


@dataclass
class _Recorder:
    """Writes down every frame as it is sent, then asks the world's adversary, if there is one."""

    world: World

    @property
    def corrupt(self) -> frozenset[str]:
        """See sim.Adversary."""
        adversary = self.world.adversary
        return frozenset() if adversary is None else adversary.corrupt

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        """See sim.Adversary."""
        self.world.sent.append(Sent(now, sender, to, frame))
        if self.world.adversary is None:
            return (Delivery(sender, to, frame),)
        return self.world.adversary.on_send(now, sender, to, frame)

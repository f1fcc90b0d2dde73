"""One simulated round without servers: peers that are honest, cheat, crash, have slow links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from ostraka.algebra.field import Field
from ostraka.algebra.image_sets import Submission
from ostraka.attacks.peers import Liar, LyingNet, PeerAttack, deals
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import Sign, signer_from
from ostraka.crypto.transcript import digest
from ostraka.drivers.sim import Adversary, Crash, Delivery, Links, Outcome, Partition, Simulation
from ostraka.mailbox import Limits
from ostraka.net import Label, Net
from ostraka.party import Frame
from ostraka.protocols.accepted_set import Charges
from ostraka.protocols.ballots import Stored
from ostraka.protocols.checking import Trial
from ostraka.protocols.image_equations import Statement
from ostraka.protocols.votes import Instance
from ostraka.protocols.votes import Plan as Voters
from ostraka.rules import RSA
from ostraka.rules.image import ImageRule, Public, combine
from ostraka.sharing.shamir import Packing
from ostraka.trust.serverless.rounds import Opened, Seat, Table, play_round

SESSION = digest("a session of a test without servers")
LATENCY_S, PHASE_S, PATIENCE_S = 0.01, 5.0, 600.0


@cache
def pair(name: str) -> tuple[Sign, bytes]:
    return signer_from(digest("a peer of a test", name.encode()))


class Memory:
    """A disk."""

    def __init__(self) -> None:
        self.begun = 0
        self.opening: Field | None = None
        self.kept: dict[Instance, list[Stored]] = {}

    def store(self, instance: Instance, stored: Stored) -> None:
        self.kept.setdefault(instance, []).append(stored)

    def restored(self, instance: Instance) -> Sequence[Stored]:
        return tuple(self.kept.get(instance, ()))

    def begin(self, attempt: int) -> None:
        self.begun = attempt + 1

    def open(self, share: Field) -> None:
        assert self.opening is None
        self.opening = share


@dataclass
class Slow:
    """Frames on these links are late; ``steps``: only those of labels in which one is named."""

    links: frozenset[tuple[str, str]]
    delay_s: float = 1e5
    steps: tuple[str, ...] = ()
    corrupt: frozenset[str] = frozenset()

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        hit = (sender, to) in self.links and (not self.steps or self._named(frame.label))
        return (Delivery(sender, to, frame, self.delay_s if hit else 0.0),)

    def _named(self, label: Label) -> bool:
        return any(name in self.steps for name, _ in label)


@dataclass
class World:
    """``cheats`` by the number of a peer; ``away``: peers that crash, or that nothing reaches."""

    cheats: Mapping[int, PeerAttack] = field(default_factory=dict)
    n: int = 7
    t: int = 1
    dropouts: int = 1
    d: int = 20
    rule: ImageRule = field(default_factory=lambda: RSA(0.1))
    seed: int = 0
    round: int = 3
    links: Links = field(default_factory=lambda: Links(latency_s=LATENCY_S))
    crashes: Sequence[Crash] = ()
    partitions: Sequence[Partition] = ()
    adversary: Adversary | None = None
    patience_s: float = PATIENCE_S
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = [f"p{i:02d}" for i in range(self.n)]
        keys = {name: pair(name)[1] for name in self.names}
        self.voters = Voters(keys, SESSION, self.t, self.dropouts)
        self.packing = Packing.fitting(self.n, self.t, self.dropouts)
        rng = np.random.default_rng(self.seed)
        self.public = Public(rng.standard_normal(self.d).astype(np.float32))
        image = self.rule.image(self.public)
        self.statement = Statement.of(image, self.packing, self.dropouts)
        self.submissions = {i: self._submission(i) for i in range(self.n)}
        self.liars = frozenset(self.names[i] for i in self.cheats)
        self.away = frozenset(crash.party for crash in self.crashes)
        self.outcomes: dict[str, Outcome] = {}
        self.ended: set[str] = set()

    @property
    def honest(self) -> list[str]:
        """All that neither cheat nor are away."""
        return [name for name in self.names if name not in self.liars | self.away]

    def run(self, until_s: float = 1e5) -> World:
        table = Table(self.voters, self.round, self.statement, PHASE_S, self.patience_s)
        self.simulation = Simulation(
            {name: self._program(i, table) for i, name in enumerate(self.names)},
            seed=self.seed,
            links=self.links,
            crashes=self.crashes,
            partitions=self.partitions,
            adversary=self.adversary,
            trace=self._trace,
            limits=Limits(unread_frames=4096),
        )
        self.outcomes = self.simulation.run(
            until_s=until_s, stop=lambda: self.ended >= set(self.honest)
        )
        return self

    def check(
        self, *, out: Iterable[int] = (), blamed: Iterable[int] = (), least: int | None = None
    ) -> World:
        """Every honest peer has the plaintext rule's sums; none is blamed.

        ``out``: these do not count. ``blamed``: exactly these are, and are evicted.
        """
        results = {name: self.result(name) for name in self.honest}
        first = results[self.honest[0]]
        for found in results.values():
            assert found.accepted == first.accepted
            assert found.evicted == first.evicted
            assert all(np.array_equal(a, b) for a, b in zip(found.sums, first.sums, strict=True))
            assert self.charges(found).blamed() <= self.liars
        left = {self.names[i] for i in out}
        assert not left & set(first.accepted), (left, first.accepted)
        assert set(self.honest) <= set(first.accepted)
        counted = {i: self.dealt(i) for i, n in enumerate(self.names) if n in first.accepted}
        want = combine(self.rule, counted, self.public)
        assert want.accepted == tuple(counted)
        for a, b in zip(first.sums, want.opened.values(), strict=True):
            assert np.array_equal(a, b)
        assert set(first.evicted) == {self.names[i] for i in blamed}
        return self

    def result(self, name: str) -> Opened:
        outcome = self.outcomes[name]
        assert outcome.status == "done", (name, outcome)
        found: Opened = outcome.result
        return found

    def charges(self, found: Opened) -> Charges:
        return found.ended.charges

    def trial(self, found: Opened) -> Trial:
        assert found.ended.trial is not None
        return found.ended.trial

    def said(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]

    def dealt(self, number: int) -> Submission:
        """What a peer deals: honest peers their own submission."""
        own = self.submissions[number]
        cheat = self.cheats.get(number)
        return own if cheat is None else cheat.submission(self.statement, own)

    def _submission(self, number: int) -> Submission:
        rng = np.random.default_rng([self.seed, number])
        update = self.public.reference + rng.standard_normal(self.d).astype(np.float32)
        return self.rule.submit(update, self.public, number)

    def _program(self, number: int, table: Table) -> Any:
        name = self.names[number]
        cheat = self.cheats.get(number)

        async def run(net: Net) -> Opened:
            seat = Seat(pair(name)[0], self._keys(number), Memory(), self._trace)
            if cheat is not None:
                first, second = deals(cheat)
                seat = replace(seat, first=first, second=second)
                net = LyingNet(net, cheat, Liar(self.voters, seat.sign, name))
            try:
                return await play_round(net, table, seat, self.submissions[number])
            finally:
                self.ended.add(name)

        return run

    def _keys(self, number: int) -> Any:
        own = Key(digest("secrets of a test", bytes([number, self.seed])))
        count = iter(range(1 << 62))
        return lambda: own.derive("fresh", next(count))

    def _trace(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, "now": self.simulation.now, **fields})


def told(world: World) -> str:
    """What every peer ended with, for messages."""
    lines = []
    for name, one in world.outcomes.items():
        waits = "; ".join(f"{w.label} {w.kind}" for w in one.waiting)
        lines.append(f"{name} {one.status} {one.error or ''} {waits}")
    return "\n".join(lines)


def late_links(pairs: Iterable[tuple[str, str]], **changes: Any) -> Slow:
    return Slow(frozenset(pairs), **changes)

"""One simulated agreement on a set of items: honest voters that are killed, liars that conspire.

Items stand for receipts and reveals: anybody may pass them on, nobody can make another's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

import pytest

from ostraka.crypto.sign import Sign, signer_from
from ostraka.crypto.transcript import digest
from ostraka.drivers.sim import Crash, Delivery, Links, Simulation
from ostraka.net import Abort, Arrival, Inbox, Malformed, Net
from ostraka.party import Frame, Party
from ostraka.protocols import tally, views, votes
from ostraka.protocols.agreement import agree, remain
from ostraka.protocols.ballots import (
    ASK,
    DECIDED,
    UNSIGNED,
    VIEW,
    VOID,
    Change,
    Decided,
    Decision,
    Have,
    Locked,
    Precommit,
    Prevote,
    Proposal,
    Stored,
    Verdict,
    dims,
)
from ostraka.protocols.votes import Instance, Phase, Plan, Slot, pack, stated, unpack, value_hash
from ostraka.wire import Exactly, Message

SESSION = digest("a session of a test")
INSTANCE = Instance(7, "reveals", 1)
LATENCY_S = 0.05
ITEM = ("item",)


@cache
def pair(name: str) -> tuple[Sign, bytes]:
    return signer_from(digest("a voter of a test", name.encode()))


def quick_sign(name: str) -> Sign:
    """Stands in for Ed25519 in mass schedules; liars of the world do not look at keys."""
    key = pair(name)[1]
    return lambda message: digest("quick", key, message) * 2


def quick_verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    return signature == digest("quick", public, message) * 2


def make_plan(n: int, t: int | None = None, **changes: Any) -> Plan:
    names = [f"p{i:02d}" for i in range(n)]
    keys = {name: pair(name)[1] for name in names}
    return Plan(keys, SESSION, (n - 1) // 3 if t is None else t, **changes)


@dataclass(frozen=True)
class Item(Message):
    """What one voter has made and others hold."""

    content: Annotated[bytes, Exactly(32)]


def content(index: int) -> bytes:
    return digest("an item of a test", index.to_bytes(8, "little"))


def bits(indices: Iterable[int], n: int) -> bytes:
    return sum(1 << i for i in indices).to_bytes(-(-n // 8), "little")


def members(value: bytes) -> frozenset[int]:
    number = int.from_bytes(value, "little")
    return frozenset(i for i in range(number.bit_length()) if number >> i & 1)


class Items:
    """A Subject as of a reveal set: none omitted that was held at first, voted for when all are.

    ``asked`` and ``gave`` count, for tests of what forwarding costs.
    """

    def __init__(self, plan: Plan, held: Iterable[int], *, voids: bool = False) -> None:
        self.plan, self.voids = plan, voids
        self.held = set(held)
        self.first = frozenset(self.held)
        self.least = plan.n - plan.t - plan.dropouts
        self.value_bytes = self.have_bytes = -(-plan.n // 8)
        self.inboxes: Sequence[Inbox[Any]] = (Inbox(ITEM, Item.form(), frozenset(plan.voters)),)
        self.judged: list[bytes] = []
        self.gave = 0

    def propose(self) -> bytes | None:
        return bits(self.held, self.plan.n) if len(self.held) >= self.least else None

    def judge(self, value: bytes) -> Verdict:
        self.judged.append(value)
        of = members(value)
        if len(value) != self.value_bytes or len(of) < self.least or not self.first <= of:
            return Verdict.REFUSE
        if max(of) >= self.plan.n:
            return Verdict.REFUSE
        return Verdict.ACCEPT if of <= self.held else Verdict.NOT_YET

    def holds(self, value: bytes) -> bool:
        assert value != VOID
        return members(value) <= self.held

    def upon(self, got: Arrival) -> None:
        if got.index[0] < self.plan.n and got.message.content == content(got.index[0]):
            self.held.add(got.index[0])

    def have(self) -> bytes:
        return bits(self.held, self.plan.n)

    def give(self, net: Net, to: str, have: bytes) -> None:
        for index in sorted(self.held - members(have)):
            self.gave += 1
            net.sub(ITEM[0], index).send(to, Item(content(index)))


class Tagged(Items):
    """Items, with one more byte that is the proposer's: any two leaders propose two values."""

    def __init__(self, plan: Plan, held: Iterable[int], tag: int) -> None:
        super().__init__(plan, held)
        self.tag = bytes([tag])
        self.value_bytes += 1

    def propose(self) -> bytes | None:
        value = super().propose()
        return None if value is None else value + self.tag

    def judge(self, value: bytes) -> Verdict:
        self.value_bytes -= 1
        try:
            return super().judge(value[:-1])
        finally:
            self.value_bytes += 1

    def holds(self, value: bytes) -> bool:
        return super().holds(value[:-1])


class Killed(Abort):
    """A process ends where it stands."""

    def __init__(self) -> None:
        super().__init__("killed")


Kill = Callable[[str, Stored], bool]
"""Whether a voter dies as it stores this; asked before (and after) it is on disk."""


@dataclass
class World:
    """``programs``: liars, or other programs, by voter. ``held``: items at the start, by voter.

    ``kills``: seconds after which a voter's processes are ended, one after the other, with what
    they had read; nothing is sent again. After one of the ``crashes`` links send all of it again.
    """

    plan: Plan
    held: Mapping[str, Iterable[int]] = field(default_factory=dict)
    programs: Mapping[str, Callable[[Net], Any]] = field(default_factory=dict)
    seed: int = 0
    voids: bool = False
    quick: bool = False
    adversary: Any = None
    links: Links = field(default_factory=lambda: Links(latency_s=LATENCY_S))
    kills: Mapping[str, Sequence[float]] = field(default_factory=dict)
    crashes: Sequence[Crash] = ()
    before_store: Kill = lambda name, stored: False
    after_store: Kill = lambda name, stored: False
    starts_s: Mapping[str, float] = field(default_factory=dict)
    subject: Callable[[str], Items] | None = None
    instance: Instance = INSTANCE
    plot: Plot | None = None
    stored: dict[str, list[Stored]] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    subjects: dict[str, Items] = field(default_factory=dict)
    lives: dict[str, int] = field(default_factory=dict)
    entered: list[tuple[float, str, int]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def honest(self) -> list[str]:
        return [name for name in self.plan.voters if name not in self.programs]

    def sign(self, name: str) -> Sign:
        return quick_sign(name) if self.quick else pair(name)[0]

    def run(self, until_s: float = 1e4, *, all_of: Sequence[str] | None = None) -> World:
        names = self.honest if all_of is None else list(all_of)
        programs = {name: self._program(name) for name in self.honest} | dict(self.programs)
        self.simulation = Simulation(
            {name: programs[name] for name in self.plan.voters},
            seed=self.seed,
            links=self.links,
            adversary=self.adversary,
            crashes=self.crashes,
            trace=self._trace,
        )
        with self._watched():
            self.simulation.run(
                until_s=until_s,
                stop=lambda: all(name in self.decisions for name in names),
            )
        return self

    def values(self) -> set[bytes]:
        return {decision.value for decision in self.decisions.values()}

    def last_view(self, at_s: float = math.inf) -> int:
        """The greatest view that an honest voter had entered by a time."""
        return max(
            (v for s, name, v in self.entered if s <= at_s and name in self.honest), default=0
        )

    def decided_views(self) -> list[int]:
        return [decision.certificate.slot.view for decision in self.decisions.values()]

    def restarts_s(self) -> list[float]:
        """When the last processes of those that die begin, at the latest."""
        kills = [sum(times) + 2 * len(times) * LATENCY_S for times in self.kills.values()]
        return kills + [crash.restart_s or math.inf for crash in self.crashes]

    def _trace(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def _program(self, name: str) -> Callable[[Net], Any]:
        async def program(net: Net) -> None:
            await net.sleep(self.starts_s.get(name, 0.0))
            for seconds in (*self.kills.get(name, ()), None):
                while True:
                    try:
                        if seconds is None:
                            await self._process(net, name)
                        else:
                            await net.race(self._process(net, name), net.sleep(seconds))
                            break
                    except Killed:
                        await net.sleep(LATENCY_S)
                await net.sleep(LATENCY_S)

        return program

    async def _process(self, net: Net, name: str) -> None:
        """One process of a voter: what it stored is all that it knows of earlier ones."""
        life = self.lives[name] = self.lives.get(name, 0) + 1
        subject = self.subjects.get(name)
        if subject is None:
            held = self.held.get(name, range(self.plan.n))
            make = self.subject or (lambda _: Items(self.plan, held, voids=self.voids))
            subject = self.subjects[name] = make(name)
        if name not in self.decisions:
            decision = await agree(
                net,
                self.plan,
                self.instance,
                subject,
                sign=self.sign(name),
                store=lambda stored: self._store(name, stored),
                restored=list(self.stored.get(name, [])),
                life=life,
                trace=self._trace,
            )
            self.decisions[name] = decision
        await remain(net, self.plan, self.decisions[name], subject, self._trace)

    def _store(self, name: str, stored: Stored) -> None:
        if self.before_store(name, stored):
            raise Killed
        self.stored.setdefault(name, []).append(stored)
        if self.after_store(name, stored):
            raise Killed

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Note which views begin; with ``quick``, other signatures."""
        begin, entered = views.Views.begin, self.entered

        def noted(self: views.Views, view: int) -> None:
            entered.append((self._net.now, self._net.me, view))
            begin(self, view)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(views.Views, "begin", noted)
            if self.quick:
                patch.setattr(votes, "verifies", quick_verifies)
                patch.setattr(tally, "verifies", quick_verifies)
            yield


NOBODY = "nobody"


@dataclass
class Storm:
    """Until it is calm, frames are late: whole kinds of them, of one view, to some receivers.

    Liars' frames travel as they like. ``hermit``: it alone hears of decisions, and from the first
    on nobody hears it, so that it and the leader (NOBODY: the leader alone) have decided what the
    others do not know of; ``outcast`` hears of no certificates until then, so it is not locked.
    """

    seed: int
    calm_s: float
    share: float = 0.3
    corrupt: frozenset[str] = frozenset()
    seconds: float = 4.0
    hermit: str = ""
    outcast: str = ""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._alone = False
        self._late: dict[tuple[str, int, str], bool] = {}

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        honest = sender not in self.corrupt
        late = now < self.calm_s and honest and self._held(now, sender, to, frame)
        yield Delivery(sender, to, frame, self.calm_s - now if late else 0.0)

    def _held(self, now: float, sender: str, to: str, frame: Frame) -> bool:
        (name, index), time = frame.label[-1], int(now / self.seconds)
        if self.hermit and frame.kind == "Decided":
            self._alone = True
            return to != self.hermit
        if self._alone and sender == self.hermit:
            return True
        if frame.kind == "Locked" and to == self.outcast and not self._alone:
            return True
        key = frame.kind, index if name == VIEW[0] else time, to
        if key not in self._late:
            self._late[key] = self._random.random() < self.share
        return self._late[key] and self._random.random() < 0.9


class Plot:
    """What conspiring liars know together: every vote that one of them has seen, every value."""

    def __init__(
        self, plan: Plan, instance: Instance, signs: Mapping[str, Sign], seed: int
    ) -> None:
        self.plan, self.instance, self.signs = plan, instance, dict(signs)
        self.random = random.Random(seed)
        self.values: dict[bytes, bytes] = {}
        self.seen: dict[tuple[int, Phase, bytes], dict[str, bytes]] = {}
        self.leaders: dict[tuple[int, bytes], bytes] = {}
        self.proofs: list[tuple[int, bytes, bytes]] = []
        self.view = 0
        self.last_s = 0.0
        self.acts = 0

    def vote(self, name: str, view: int, phase: Phase, what: bytes) -> bytes:
        slot = Slot(self.instance, view, phase)
        signature = self.signs[name](stated(self.plan.session, slot, what))
        self.seen.setdefault((view, phase, what), {})[name] = signature
        return signature

    def learn(self, sender: str, view: int, message: Any) -> None:
        match message:
            case Proposal():
                what = value_hash(message.value)
                self.values[what] = message.value
                self.leaders[view, what] = message.signature
                if message.proof:
                    self.proofs.append((message.proof_view, message.value, message.proof))
            case Prevote():
                self._saw(view, Phase.PREVOTE, message.what, {sender: message.signature})
            case Precommit():
                self._saw(view, Phase.PRECOMMIT, message.what, {sender: message.signature})
            case Locked():
                votes = unpack(self.plan, message.proof) or {}
                self._saw(view, Phase.PREVOTE, message.what, votes)
                if message.what in self.values:
                    self.proofs.append((view, self.values[message.what], message.proof))
            case Decided():
                votes = unpack(self.plan, message.proof) or {}
                self._saw(message.view, Phase.PRECOMMIT, value_hash(message.value), votes)
            case Change():
                view = 0 if sender in self.signs else message.view
                if message.of_leader != UNSIGNED:
                    self.leaders[message.seen_view, message.seen] = message.of_leader
                if message.proof:
                    self.values[value_hash(message.value)] = message.value
                    self.proofs.append((message.proof_view, message.value, message.proof))
        self.view = max(self.view, view)

    def _saw(self, view: int, phase: Phase, what: bytes, votes: Mapping[str, bytes]) -> None:
        self.seen.setdefault((view, phase, what), {}).update(votes)

    def proof(self, view: int, phase: Phase, value: bytes) -> bytes | None:
        """A certificate with what was seen and what the liars add to it, if that is enough."""
        what = value_hash(value)
        for name in self.signs:
            self.vote(name, view, phase, what)
        signatures = self.seen[view, phase, what]
        return pack(self.plan, signatures) if len(signatures) >= self.plan.quorum else None


class Liar:
    """One of the conspirators: at random, whatever may hurt, each time to some of the others.

    It stops after ``budget`` acts; ``plot.last_s`` says when.
    """

    def __init__(self, plot: Plot, budget: int) -> None:
        self.plot, self.budget = plot, budget

    async def __call__(self, net: Net) -> None:
        plot = self.plot
        others = frozenset(plan_others(plot.plan, net.me))
        sizes = dims(plot.plan, -(-plot.plan.n // 8) + 1, -(-plot.plan.n // 8))
        inboxes = [
            *(Inbox(VIEW, m.form(**sizes), others) for m in (Proposal, Prevote, Locked, Precommit)),
            *(Inbox(ASK, m.form(**sizes), others) for m in (Change, Have)),
            Inbox(DECIDED, Decided.form(**sizes), others),
            Inbox(ITEM, Item.form(), others),
        ]
        self.number = 0
        self.proposed, self.changed = -1, 0
        self.voted: set[tuple[int, bytes]] = set()
        self.shown: set[tuple[int, Phase, bytes]] = set()
        while True:
            wait_s = plot.random.random() if self.budget else None
            got = await net.arrival(*inboxes, timeout_s=wait_s)
            if got is not None and not isinstance(got.message, Malformed):
                plot.learn(got.sender, got.index[0], got.message)
            if self.budget and self.proposed < plot.view and self._leads(net, plot.view):
                self.proposed = plot.view
                self._propose(net, plot.view)
            elif self.budget and self._leads(net, plot.view) and self._show(net, plot.view):
                pass
            elif self.budget and plot.random.random() < 0.1:
                self._act(net)
            if self.budget and self.changed < plot.view:
                self._follow(net, plot.view)
            for view, what in [at for at in plot.leaders if at not in self.voted]:
                self.voted.add((view, what))
                if self.budget:
                    self._help(net, view, what)

    def _help(self, net: Net, view: int, what: bytes) -> None:
        """Vote for a value: its leader, some of whose frames are late, goes on with it."""
        plot = self.plot
        self.budget -= 1
        plot.last_s, plot.acts = net.now, plot.acts + 1
        here = net.sub(VIEW[0], view)
        leader = {plot.plan.leader(plot.instance, view)} - {net.me}
        vote = plot.vote(net.me, view, Phase.PREVOTE, what)
        here.broadcast(sorted(leader | set(self._some(net))), Prevote(what, vote))
        vote = plot.vote(net.me, view, Phase.PRECOMMIT, what)
        here.broadcast(sorted(leader | set(self._some(net))), Precommit(what, vote))

    def _show(self, net: Net, view: int) -> bool:
        """Show some what q would have, or have decided, once; or keep it for later."""
        plot = self.plot
        for phase in (Phase.PREVOTE, Phase.PRECOMMIT):
            for what, value in list(plot.values.items()):
                if (view, phase, what) in self.shown or (view, what) not in plot.leaders:
                    continue
                proof = plot.proof(view, phase, value)
                if proof is None:
                    continue
                self.shown.add((view, phase, what))
                plot.last_s = net.now
                if phase == Phase.PREVOTE:
                    plot.proofs.append((view, value, proof))
                if plot.random.random() < 0.2:
                    continue
                some, here = self._some(net), net.sub(VIEW[0], view)
                if phase == Phase.PREVOTE:
                    here.broadcast(some, Locked(what, proof))
                else:
                    decided = Decided(view, value, proof, plot.leaders[view, what])
                    net.sub(DECIDED[0]).broadcast(some, decided)
                return True
        return False

    def _follow(self, net: Net, view: int) -> None:
        """Come to a view with the honest, who are too few without those that have decided."""
        self.changed, self.plot.last_s = view, net.now
        if self.plot.random.random() < 0.7:
            message = Change(view, False, b"", 0, b"", 0, bytes(32), UNSIGNED)
            self._ask(net).broadcast(plan_others(self.plot.plan, net.me), message)

    def _leads(self, net: Net, view: int) -> bool:
        return self.plot.plan.leader(self.plot.instance, view) == net.me

    def _act(self, net: Net) -> None:
        plot, draw = self.plot, self.plot.random
        self.budget -= 1
        plot.last_s, plot.acts = net.now, plot.acts + 1
        view = max(0, plot.view + draw.choice([-1, 0, 0, 0, 1]))
        votes = [self._prevote, self._precommit, self._locked]
        act = draw.choice([*votes, *votes, self._change, self._item, self._decided])
        act(net, view)

    def _some(self, net: Net) -> list[str]:
        others, draw = plan_others(self.plot.plan, net.me), self.plot.random
        return draw.sample(others, draw.choice([draw.randint(1, len(others)), len(others)]))

    def _propose(self, net: Net, view: int) -> None:
        """Two values, or a value and a lock, to two parts; or nothing to anybody."""
        plot, draw, n = self.plot, self.plot.random, self.plot.plan.n
        plot.last_s = net.now
        if draw.random() < 0.25:
            return
        others = plan_others(plot.plan, net.me)
        draw.shuffle(others)
        cut = draw.choice([0, draw.randint(0, len(others))])
        for part in (others[:cut], others[cut:]):
            value, proof_view, proof = self._value(n), 0, b""
            if plot.proofs and draw.random() < 0.4:
                proof_view, value, proof = draw.choice(plot.proofs)
            elif view and plot.values and draw.random() < 0.4:
                proof_view = draw.randrange(view)
                value = draw.choice(list(plot.values.values()))
                proof = plot.proof(proof_view, Phase.PREVOTE, value) or b""
            what = value_hash(value)
            plot.values[what] = value
            plot.leaders[view, what] = plot.vote(net.me, view, Phase.PROPOSE, what)
            message = Proposal(value, proof_view, proof, plot.leaders[view, what])
            net.sub(VIEW[0], view).broadcast(part, message)

    def _value(self, n: int) -> bytes:
        """All items, or all but some that liars may have withheld, and one of a few tags."""
        draw, names = self.plot.random, list(self.plot.plan.voters)
        own = [names.index(name) for name in self.plot.signs]
        out = draw.sample(own, draw.choice([0, 0, draw.randint(0, len(own))]))
        return bits(set(range(n)) - set(out), n) + bytes([draw.randrange(200, 203)])

    def _prevote(self, net: Net, view: int) -> None:
        for at, what in list(self.plot.leaders):
            if at == view and self.plot.random.random() < 0.7:
                signature = self.plot.vote(net.me, view, Phase.PREVOTE, what)
                net.sub(VIEW[0], view).broadcast(self._some(net), Prevote(what, signature))

    def _locked(self, net: Net, view: int) -> None:
        """A certificate of another view or value, or of too few, as if it were this view's."""
        plot, draw = self.plot, self.plot.random
        value = draw.choice([*plot.values.values(), self._value(plot.plan.n)])
        known = plot.seen.get((view, Phase.PREVOTE, value_hash(value)), {})
        proof = pack(plot.plan, dict.fromkeys(plot.plan.voters, UNSIGNED) | dict(known))
        if plot.proofs and draw.random() < 0.5:
            _, _, proof = draw.choice(plot.proofs)
        net.sub(VIEW[0], view).broadcast(self._some(net), Locked(value_hash(value), proof))

    def _precommit(self, net: Net, view: int) -> None:
        for what in list(self.plot.values):
            if self.plot.random.random() < 0.5:
                signature = self.plot.vote(net.me, view, Phase.PRECOMMIT, what)
                net.sub(VIEW[0], view).broadcast(self._some(net), Precommit(what, signature))

    def _change(self, net: Net, view: int) -> None:
        """Come to a view, perhaps far ahead, with an old lock, another's or none."""
        plot, draw = self.plot, self.plot.random
        value, proof_view, proof = b"", 0, b""
        if plot.proofs and draw.random() < 0.5:
            proof_view, value, proof = draw.choice(plot.proofs)
        view = draw.choice([view, view + 1, view + 2, view + 1000])
        asks, (seen_view, seen) = draw.random() < 0.5, (max(0, plot.view - 1), value_hash(value))
        of_leader = plot.signs[net.me](seen)
        if plot.leaders and draw.random() < 0.7:
            (seen_view, seen), of_leader = draw.choice(list(plot.leaders.items()))
        message = Change(view, asks, value, proof_view, proof, seen_view, seen, of_leader)
        self._ask(net).broadcast(self._some(net), message)

    def _ask(self, net: Net) -> Net:
        self.number += 1
        return net.sub(ASK[0], 1).sub(ASK[1], self.number)

    def _item(self, net: Net, view: int) -> None:
        """Show the items that liars have withheld, to some only."""
        index = list(self.plot.plan.voters).index(self.plot.random.choice(list(self.plot.signs)))
        net.sub(ITEM[0], index).broadcast(self._some(net), Item(content(index)))

    def _decided(self, net: Net, view: int) -> None:
        """Decisions of what too few have precommitted, with whatever else fills the bytes."""
        plot = self.plot
        for what, value in list(plot.values.items()):
            known = dict(plot.seen.get((view, Phase.PRECOMMIT, what), {}))
            known |= plot.seen.get((view, Phase.PREVOTE, what), {})
            forged = dict.fromkeys(plot.plan.voters, UNSIGNED) | known
            proof = plot.proof(view, Phase.PRECOMMIT, value) or pack(plot.plan, forged)
            of_leader = plot.leaders.get((view, what), UNSIGNED)
            message = Decided(view, value, proof, plot.random.choice([of_leader, UNSIGNED]))
            net.sub(DECIDED[0]).broadcast(self._some(net), message)


def plan_others(plan: Plan, me: str) -> list[str]:
    return [name for name in plan.voters if name != me]


class Puppets:
    """One honest voter, run by hand: a test signs for all the others and reads what it sends."""

    def __init__(self, me: str, plan: Plan, subject: Items | None = None, **given: Any) -> None:
        self.me, self.plan = me, plan
        self.subject = subject or Items(plan, range(plan.n), voids=given.pop("voids", False))
        self.stored: list[Stored] = list(given.get("restored", ()))
        self.order: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.now = 0.0
        self.sent: list[tuple[str, Frame]] = []
        self.asks: dict[str, int] = {}
        store = given.pop("store", self.stored.append)

        def noted_store(stored: Stored) -> None:
            self.order.append(f"store {stored.view} {stored.phase}")
            store(stored)

        def noted_sign(message: bytes) -> bytes:
            self.order.append("sign")
            return pair(me)[0](message)

        def trace(event: str, **fields: Any) -> None:
            self.events.append({"event": event, **fields})

        async def program(net: Net) -> None:
            self.decision = await agree(
                net,
                plan,
                INSTANCE,
                self.subject,
                sign=noted_sign,
                store=noted_store,
                trace=trace,
                **given,
            )
            await remain(net, plan, self.decision, self.subject, trace)

        self.decision: Decision | None = None
        self.party = Party(me, program, trace=trace)
        self.party.start(0.0)
        self._drain()

    def _drain(self) -> None:
        self.sent += [(out.to, out.frame) for out in self.party.drain()]

    def said(self, cls: type[Message], to: str | None = None) -> list[tuple[int, Any]]:
        """Messages of a kind with the last index of their label, to one or (each once) to all."""
        form = cls.form(**dims(self.plan, self.subject.value_bytes, self.subject.have_bytes))
        frames = [f for name, f in self.sent if f.kind == cls.__name__ and to in (None, name)]
        return [(frame.label[-1][1], form.decode(frame.body)) for frame in dict.fromkeys(frames)]

    def gives(self, sender: str, label: Any, message: Message) -> None:
        self.party.deliver(sender, Frame(label, message.kind, message.encode()), self.now)
        self._drain()

    def at(self, sender: str, view: int, message: Message) -> None:
        self.gives(sender, ((VIEW[0], view),), message)

    def waits(self, seconds: float) -> None:
        self.now += seconds
        self.party.tick(self.now)
        self._drain()

    # --- what others say ----------------------------------------------------------------------

    def others(self) -> list[str]:
        return plan_others(self.plan, self.me)

    def leader(self, view: int) -> str:
        return self.plan.leader(INSTANCE, view)

    def vote(self, who: str, /, view: int, phase: Phase, value: bytes, **slot: Any) -> bytes:
        session = slot.pop("session", self.plan.session)
        place = Slot(INSTANCE._replace(**slot), view, phase)
        return pair(who)[0](stated(session, place, value_hash(value)))

    def proof(self, view: int, phase: Phase, value: bytes, names: Any = None, **slot: Any) -> bytes:
        names = list(self.plan.voters)[: self.plan.quorum] if names is None else names
        return pack(self.plan, {n: self.vote(n, view, phase, value, **slot) for n in names})

    def propose(self, view: int, value: bytes, proof: tuple[int, bytes] = (0, b"")) -> None:
        leader = self.leader(view)
        signature = self.vote(leader, view, Phase.PROPOSE, value)
        self.at(leader, view, Proposal(value, *proof, signature))

    def prevote(self, names: Iterable[str], view: int, value: bytes) -> None:
        for name in names:
            signature = self.vote(name, view, Phase.PREVOTE, value)
            self.at(name, view, Prevote(value_hash(value), signature))

    def lock(self, view: int, value: bytes, proof: bytes | None = None) -> None:
        """The leader shows a certificate."""
        proof = self.proof(view, Phase.PREVOTE, value) if proof is None else proof
        self.at(self.leader(view), view, Locked(value_hash(value), proof))

    def precommit(self, names: Iterable[str], view: int, value: bytes) -> None:
        for name in names:
            signature = self.vote(name, view, Phase.PRECOMMIT, value)
            self.at(name, view, Precommit(value_hash(value), signature))

    def change(
        self,
        names: Iterable[str],
        view: int,
        lock: tuple[bytes, int, bytes] = (b"", 0, b""),
        *,
        asks: bool = False,
        number: int | None = None,
        seen: tuple[int, bytes, bytes] = (0, bytes(32), UNSIGNED),
    ) -> None:
        for name in names:
            self.asks[name] = self.asks.get(name, 0) + 1 if number is None else number
            label = ((ASK[0], 1), (ASK[1], self.asks[name]))
            self.gives(name, label, Change(view, asks, *lock, *seen))

    def decided(self, view: int, value: bytes, sender: str | None = None, **wrong: Any) -> None:
        """Somebody, or the leader, shows a decision, of which something may be wrong."""
        made = {
            "view": view,
            "value": value,
            "proof": self.proof(view, Phase.PRECOMMIT, value),
            "of_leader": self.vote(self.leader(view), view, Phase.PROPOSE, value),
        }
        message = Decided(**(made | wrong))
        self.gives(self.leader(view) if sender is None else sender, ((DECIDED[0], 0),), message)

    def locked(self, value: bytes, view: int = 0) -> None:
        """Have the voter, who does not lead, locked in a view, and go on to the next."""
        self.propose(view, value)
        self.lock(view, value)
        self.change(self.others(), view + 1)

"""Rounds of `serverless`: the plaintext rule's model, bit for bit, and a chain that verifies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from ostraka.crypto.prg import Key
from ostraka.crypto.sign import signer_from
from ostraka.crypto.transcript import digest
from ostraka.drivers.sim import Crash, Links, Outcome, Simulation
from ostraka.mailbox import Limits
from ostraka.net import Net
from ostraka.protocols.certificate import Certificate, Record, Signed, certify, verify_chain
from ostraka.protocols.consistent_broadcast import vector_hash
from ostraka.protocols.votes import Instance
from ostraka.rules import RSA, ClippedMean, FLTrust, SignMean
from ostraka.rules.image import ImageRule, combine
from ostraka.trust.public_step import step
from ostraka.trust.serverless.catch_up import Way, followed
from ostraka.trust.serverless.peer import Self, peer
from ostraka.trust.serverless.plan import Plan, State
from tests.protocols.serverless_world import Memory

D, ROUNDS = 23, 2
RULES = [
    RSA(0.01),
    ClippedMean(1.0, centred=True),
    FLTrust(),
    ClippedMean(2.0),
    SignMean(),
    SignMean(majority=True),
]


@dataclass
class Disk:
    kept: dict[int, Memory] = field(default_factory=dict)
    chain: list[Certificate] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    lives: int = 0

    def round(self, number: int) -> Memory:
        return self.kept.setdefault(number, Memory())

    def commit(self, state: State, certificates: Sequence[Certificate]) -> None:
        self.states.append(state)
        self.chain += certificates

    def certificates(self, start: int) -> list[Certificate]:
        return self.chain[start:]


@dataclass
class World:
    """N peers that train on made updates."""

    rule: ImageRule
    n: int = 9
    t: int = 1
    dropouts: int = 1
    disks: dict[str, Disk] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    absent: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.names = [f"p{i:02d}" for i in range(self.n)]
        self.pairs = {name: signer_from(digest("peer", name.encode())) for name in self.names}
        self.plan = Plan(
            {name: public for name, (_, public) in self.pairs.items()},
            digest("a run of a test"),
            self.t,
            ROUNDS,
            self.rule,
            D,
            lambda round: 0.5,
            self.dropouts,
            phase_s=2.0,
        )
        self.plan.check()
        self.first = State.initial(self.plan, self.vector(0, 99))

    def vector(self, *numbers: int) -> np.ndarray:
        rng = np.random.default_rng([7, *numbers])
        return rng.standard_normal(D).astype(np.float32)

    def update(self, name: str, round: int) -> np.ndarray:
        return self.vector(round, self.names.index(name))

    def root(self, name: str) -> Any:
        """Another last bit at every peer."""

        def compute(round: int, model: np.ndarray) -> np.ndarray:
            found = self.vector(round, 99)
            found[self.names.index(name)] *= np.float32(1 + 1e-6)
            return found

        return compute

    def program(self, name: str) -> Any:
        async def run(net: Net) -> State:
            disk = self.disks.setdefault(name, Disk())
            disk.lives += 1
            drawn = iter(range(1 << 30))

            def fresh() -> Key:
                numbers = (disk.lives, next(drawn))
                return Key(digest("fresh", name.encode(), repr(numbers).encode()))

            def trace(event: str, **told: Any) -> None:
                self.events.append((event, told))

            own = Self(self.pairs[name][0], fresh, disk, trace, disk.lives, self.root(name))
            state = disk.states[-1] if disk.states else self.first
            return await peer(net, self.plan, state, lambda r, m: self.update(name, r), own)

        return run

    def run(self, *crashes: Crash, until_s: float = 1e4) -> dict[str, Outcome]:
        simulation = Simulation(
            {name: self.program(name) for name in self.names if name not in self.absent}
            | dict.fromkeys(self.absent, _nobody),
            seed=1,
            links=Links(latency_s=0.02, jitter_s=0.02),
            crashes=crashes,
            limits=Limits(unread_frames=1 << 12),
        )
        return simulation.run(until_s=until_s)


async def _nobody(net: Net) -> None:
    """A peer that never comes."""


def expected(world: World, present: list[list[str]]) -> list[np.ndarray]:
    """The model after each round in which these peers' updates count."""
    state, models = world.first, []
    for round, names in enumerate(present):
        if world.rule.reads == "root":  # the leader's
            leader = world.plan.voters(state).leader(Instance(round, "root"), 0)
            state = replace(state, root=world.root(leader)(round, state.model))
        public = world.plan.public(state)
        submissions = {
            world.names.index(n): world.rule.submit(
                world.update(n, round), public, world.names.index(n)
            )
            for n in names
        }
        found = combine(world.rule, submissions, public).vector
        model = step(state.model, found, 0.5)
        models.append(model)
        chain = next(iter(world.disks.values())).states[round].chain
        root = np.zeros_like(model)
        state = replace(
            state, round=round + 1, model=model, aggregate=found, root=root, chain=chain
        )
    return models


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}-{rule.reads}")
def test_every_rule_gives_the_plaintext_model_bit_for_bit(rule: ImageRule) -> None:
    world = World(rule)
    outcomes = world.run()
    models = expected(world, [world.names] * ROUNDS)
    for name in world.names:
        assert outcomes[name].status == "done", outcomes[name]
        for got, want in zip(world.disks[name].states, models, strict=True):
            assert got.model.tobytes() == want.tobytes()
    certificates = world.disks["p00"].chain
    assert [c.record.digest for c in certificates] == [
        c.record.digest for c in world.disks["p05"].chain
    ]
    verify_chain(certificates, world.plan.peers, world.plan.session, world.t)
    assert certificates[-1].record.model == vector_hash(models[-1]).hex()
    assert not world.events


def test_who_is_away_is_listed_as_missing_and_the_others_go_on() -> None:
    world = World(ClippedMean(1.0), n=7, absent=frozenset({"p03"}))
    outcomes = world.run()
    others = [name for name in world.names if name != "p03"]
    models = expected(world, [others] * ROUNDS)
    assert {outcomes[name].status for name in others} == {"done"}
    assert world.disks["p00"].states[-1].model.tobytes() == models[-1].tobytes()
    assert {(event, told["party"]) for event, told in world.events} == {("missing", "p03")}


def test_certificates_of_a_chain_hold_only_in_their_places() -> None:
    world = World(SignMean(), n=7)
    world.run()
    certificates = world.disks["p00"].chain
    keys, session, t = world.plan.peers, world.plan.session, world.t
    verify_chain(certificates, keys, session, t)
    assert [Certificate.of(one.told()) for one in certificates] == certificates
    one = certificates[0]
    forged = replace(one.record, model="00" * 32)
    few = dict(list(one.signatures.items())[: world.plan.voters(world.first).quorum - 1])
    for wrong, why in (
        (certificates[1:], "is of round 1"),
        ([certificates[0], certificates[0]], "is of round 0"),
        ([replace(one, record=forged)], "fewer than"),
        ([replace(one, signatures=few)], "fewer than"),
        ([replace(one, record=replace(one.record, session="11" * 32))], "another session"),
        ([replace(one, record=replace(one.record, previous="11" * 32))], "the one before"),
        ([replace(one, record=replace(one.record, peers=one.record.peers[1:]))], "other peers"),
    ):
        with pytest.raises(ValueError, match=why):
            verify_chain(wrong, keys, session, t)


def test_a_round_without_enough_peers_opens_nothing() -> None:
    world = World(SignMean(), absent=frozenset({"p03", "p04", "p05", "p06"}))
    outcomes = world.run(until_s=200.0)
    assert all(not disk.states for disk in world.disks.values())
    assert all(not kept.opening for disk in world.disks.values() for kept in disk.kept.values())
    assert {outcomes[name].status for name in world.names} <= {"stuck", "done"}


@pytest.mark.parametrize("at_s", [0.1, 0.9, 1.3])
def test_a_killed_peer_comes_back_by_the_certificates_of_the_others(at_s: float) -> None:
    world = World(ClippedMean(1.0, centred=True), n=7)
    outcomes = world.run(Crash("p04", at_s, at_s + 0.3))
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    last = world.disks["p00"].states[-1].model
    for name in world.names:
        assert world.disks[name].states[-1].model.tobytes() == last.tobytes()
    verify_chain(world.disks["p04"].chain, world.plan.peers, world.plan.session, world.t)
    assert len(world.disks["p04"].chain) == ROUNDS
    assert not [told for event, told in world.events if event in ("evicted", "void")]


def test_all_peers_at_once_are_killed_and_the_round_is_tried_again() -> None:
    world = World(SignMean(), n=7)
    crashes = [Crash(name, 0.35, 1.0 + 0.1 * at) for at, name in enumerate(world.names)]
    outcomes = world.run(*crashes)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert len({world.disks[name].states[-1].model.tobytes() for name in world.names}) == 1
    assert {event for event, _ in world.events} >= {"void"}
    assert not [told for event, told in world.events if event == "evicted"]


def test_a_way_back_that_does_not_hold_is_notfollowed() -> None:
    world = World(SignMean(), n=7)
    world.run()
    disk, plan, first = world.disks["p00"], world.plan, world.first
    last = disk.states[-1]
    told = [one.told() for one in disk.chain]
    right = Way(json.dumps(told).encode(), last.model, last.aggregate)
    found = followed(plan, first, right)
    assert found is not None
    assert found[0].model.tobytes() == last.model.tobytes()
    assert (found[0].round, found[0].chain) == (last.round, last.chain)
    signatures = told[0]["signatures"]
    for text in (
        *(b"", b"[]", b"5", b"{}", b"[5]", b"[" * 100_000, b"\xff", b'[{"record": 5}]'),
        json.dumps(told[1:]).encode(),
        json.dumps([told[0] | {"record": told[0]["record"] + " "}]).encode(),
        json.dumps([told[0] | {"signatures": {}}]).encode(),
        json.dumps([told[0] | {"signatures": dict.fromkeys(signatures, "zz")}]).encode(),
        json.dumps([told[0] | {"signatures": [*signatures]}]).encode(),
    ):
        assert followed(plan, first, replace(right, certificates=text)) is None, text[:60]
    assert followed(plan, first, replace(right, model=last.model + 1)) is None
    assert followed(plan, first, replace(right, aggregate=last.aggregate + 1)) is None
    assert followed(plan, disk.states[0], right) is None


def test_signatures_under_another_record_do_not_count() -> None:
    world = World(SignMean(), n=7)
    voters = world.plan.voters(world.first)
    record = Record(*("00", 0, 0, "00", "00", "00", "00"), tuple(world.names), (), ())
    other = replace(record, model="11")

    def program(name: str) -> Any:
        sign = world.pairs[name][0]
        said = other if name in ("p05", "p06") else record

        async def run(net: Net) -> Certificate:
            if name == "p06":  # the right digest, and a signature that does not hold
                net.broadcast(
                    [n for n in world.names if n != name], Signed(record.digest, bytes(64))
                )
                await net.sleep(50.0)
            return await certify(net, voters, said, sign=sign, timeout_s=20.0)

        return run

    found = Simulation({name: program(name) for name in world.names}, seed=1).run()
    for name in world.names[:5]:
        certificate = found[name].result
        assert certificate.holds(voters)
        assert not {"p05", "p06"} & certificate.signatures.keys()
    assert "signed another record" in found["p05"].error.reason

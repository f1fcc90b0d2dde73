"""One vector for all, though each computes it with rounding of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ostraka.crypto.sign import signer_from
from ostraka.crypto.transcript import digest
from ostraka.drivers.sim import Links, Simulation
from ostraka.net import Arrival, Net
from ostraka.protocols.ballots import Verdict
from ostraka.protocols.consistent_broadcast import vector_hash
from ostraka.protocols.public_vector import VECTOR, Computed, NearVector, settle
from ostraka.protocols.scene import Assembly, Scene
from ostraka.protocols.votes import Plan

NAMES = ("a", "b", "c", "d")
PAIRS = {name: signer_from(digest("voter", name.encode())) for name in NAMES}
PLAN = Plan({name: PAIRS[name][1] for name in NAMES}, bytes(32), 1, view_s=1.0)
SCENE = Scene(PLAN, 0, 0, 1.0)
LEADER = PLAN.leader(SCENE.instance("root"), 0)
TRUE = np.random.default_rng(3).standard_normal(40).astype(np.float32)


class NoDisk:
    def store(self, instance: Any, stored: Any) -> None:
        pass

    def restored(self, instance: Any) -> list[Any]:
        return []


def rounded(name: str) -> np.ndarray:
    """Another last bit for everybody."""
    own = TRUE.copy()
    own[NAMES.index(name)] = np.nextafter(own[NAMES.index(name)], np.float32(9))
    return own


@dataclass
class World:
    own: dict[str, np.ndarray] = field(default_factory=dict)
    liars: dict[str, Any] = field(default_factory=dict)

    def run(self) -> dict[str, bytes]:
        async def honest(net: Net) -> Any:
            assembly = Assembly(net, SCENE, PAIRS[net.me][0], NoDisk(), lambda *a, **k: None)
            own = self.own.get(net.me, rounded(net.me))
            found = await settle(assembly, "root", own, 1e-4)
            await net.sleep(20.0)  # who is behind is answered for as long
            return found

        programs = {name: self.liars.get(name, honest) for name in NAMES}
        found = Simulation(programs, seed=1, links=Links(latency_s=0.01)).run(until_s=60.0)
        honest_ones = [name for name in NAMES if name not in self.liars]
        assert {found[name].status for name in honest_ones} == {"done"}
        return {name: found[name].result.tobytes() for name in honest_ones}


def test_all_end_with_the_leaders_bits() -> None:
    assert set(World().run().values()) == {rounded(LEADER).tobytes()}


@pytest.mark.parametrize("wrong", [1.001, -1.0, 0.0, np.nan, np.inf])
def test_a_leader_whose_vector_is_far_away_is_passed_over_and_takes_the_others(
    wrong: float,
) -> None:
    with np.errstate(invalid="ignore"):
        bent = (TRUE * np.float32(wrong)).astype(np.float32)
    (found,) = set(World(own={LEADER: bent}).run().values())
    assert found in {rounded(name).tobytes() for name in NAMES if name != LEADER}


async def _silent(net: Net) -> None:
    await net.sleep(1000.0)


async def _shows_one(net: Net) -> None:
    """Shows its vector to one voter alone, and votes for nothing."""
    other = next(name for name in NAMES if name != net.me)
    net.sub("root").sub(VECTOR[0], 7).send(other, Computed(rounded(net.me)))
    await net.sleep(1000.0)


@pytest.mark.parametrize("liar", [_silent, _shows_one])
def test_a_leader_that_says_nothing_costs_a_view(liar: Any) -> None:
    found = World(liars={LEADER: liar}).run()
    assert len(set(found.values())) == 1
    assert rounded(LEADER).tobytes() not in found.values()


def test_what_was_accepted_once_is_kept_whatever_its_sender_shows_later() -> None:
    async def program(net: Net) -> list[Any]:
        subject = NearVector(net.sub("root"), rounded("b"), ("a", "c"), 1e-4)
        shown = [rounded(name) for name in ("a", "c", "d")]
        verdicts = []
        for number, vector in enumerate(shown):
            subject.upon(Arrival(0, (number,), "a", Computed(vector)))
            verdicts.append(subject.judge(vector_hash(vector)))
        subject.upon(Arrival(0, (9,), "a", Computed(shown[2])))
        return [
            *verdicts,
            subject.judge(vector_hash(shown[2])),
            subject.holds(vector_hash(shown[0])),
        ]

    (found,) = Simulation({"b": program}, seed=1).run().values()
    # The first of a sender is kept, another one once it is proposed, and none is forgotten.
    first, *others = found.result
    assert first is Verdict.ACCEPT
    assert others == [Verdict.NOT_YET, Verdict.NOT_YET, Verdict.ACCEPT, True]

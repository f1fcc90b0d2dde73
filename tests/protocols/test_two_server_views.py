"""Views: what each party of `two_server` receives is uniform, or follows from what it may learn."""

import ast
import os
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostraka.protocols.gram_sharing
import ostraka.protocols.upload
import ostraka.trust.two_server.dealer
import ostraka.trust.two_server.plan
import ostraka.trust.two_server.server_1
import ostraka.trust.two_server.worker
from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.crypto.transcript import digest
from ostraka.protocols.linear_image import NOTHING
from ostraka.protocols.upload import make_parts
from ostraka.rules import (
    MDA,
    NNM,
    RULES,
    CenteredClipping,
    GeometricMedian,
    GramRule,
    Krum,
    Mean,
    MultiKrum,
    PreAggregation,
)
from ostraka.sharing.additive import Masks
from tests.protocols.two_server_simulators import WRAPS, Leak, Simulator, ideal, simulated
from tests.protocols.two_server_views import (
    Z_LIMIT,
    balance,
    derived_0,
    derived_1,
    facts_0,
    facts_1,
    facts_dealer,
    hidden_words,
    same_histogram,
    structure,
    suspicious,
    verdict_bits,
    view,
)
from tests.protocols.two_server_world import (
    DEALER,
    OPERATORS,
    S0,
    S1,
    Upload,
    World,
    given,
    make_plan,
    random_updates,
)

N, D, ROUNDS = 14, 24, 40
ROWS = np.random.default_rng(3).normal(scale=0.2, size=(N, D)).astype(np.float32)
SOURCE = Path(ostraka.protocols.upload.__file__).parents[1]


def world_of(rule: GramRule, pre: tuple[PreAggregation, ...] = (), **changes: Any) -> World:
    """Many rounds with the same secrets in each; the public row is not zero."""
    changes = {"rounds": ROUNDS, "f": 2, "min_contributors": 3, "rate": lambda r: 0.0} | changes
    world = World(make_plan(N, D, rule, pre, **changes), updates=given(list(ROWS)))
    previous = 0.1 * np.cos(np.arange(D))
    world.stored_0[0] = replace(world.stored_0[0], previous=previous)
    world.stored_1[0] = replace(world.stored_1[0], previous=previous)
    return world


def words_of(world: World) -> Ring:
    """The true rows."""
    return np.stack([world.plan.fixed.encode(row) for row in ROWS])


# --- uniformity ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [GeometricMedian(), CenteredClipping(tau=0.5), Mean()],
    ids=["distances", "norms-and-products", "nothing"],
)
def test_received_words_look_uniform_over_many_rounds_of_the_same_secrets(rule: GramRule) -> None:
    world = world_of(rule)
    world.finish()
    for party in OPERATORS:
        assert suspicious(hidden_words(view(world, party))) == {}, party
    assert suspicious(derived_0(world)) == {}
    assert suspicious(derived_1(world, words_of(world))) == {}
    assert abs(balance(verdict_bits(view(world, S0)))) < Z_LIMIT
    assert abs(balance(verdict_bits(view(world, S1)))) < Z_LIMIT


class NoStream:
    """A stream of zeros in place of a key's."""

    def __init__(self, *_: object) -> None: ...

    def stream(self, start: int = 0) -> "NoStream":
        return self

    def fill(self, out: Ring) -> None:
        out[:] = 0


def mask_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ostraka.protocols.upload.Context, "mask", NoStream)


def mask_reused(patch: pytest.MonkeyPatch) -> None:
    def mask(context: Any, worker: str, seed: bytes) -> Key:
        return Key(digest("one mask for all rounds", worker.encode()))

    patch.setattr(ostraka.protocols.upload.Context, "mask", mask)


def seed_of_16_bits(patch: pytest.MonkeyPatch) -> None:
    def weak(context: Any, worker: str, words: Ring, own: Key, sign: Any) -> Any:
        poor = Key(digest("poor", own.derive("two bytes").reveal()[:2]))
        return make_parts(context, worker, words, poor, sign)

    patch.setattr(ostraka.trust.two_server.worker, "make_parts", weak)


def patch_gram_mask(patch: pytest.MonkeyPatch, mask: Callable[..., Any]) -> None:
    for module in (ostraka.trust.two_server.server_1, ostraka.trust.two_server.dealer):
        patch.setattr(module, "gram_mask", mask)


def b_reused(patch: pytest.MonkeyPatch) -> None:
    def mask(key: Key, workers: tuple[str, ...], d: int) -> Masks:
        return Masks([Key(digest("one B", name.encode())) for name in workers], d)

    patch_gram_mask(patch, mask)


def f_unmasked(patch: pytest.MonkeyPatch) -> None:
    def mask(key: Key, workers: tuple[str, ...], d: int) -> Masks:
        nothing: Any = NoStream()
        return Masks([nothing] * len(workers), d)

    patch_gram_mask(patch, mask)


def r_dropped(patch: pytest.MonkeyPatch) -> None:
    def blinding(key: Key, n: int, full: bool) -> Ring:
        return np.zeros(n * (n + 1) // 2 if full else n, np.uint64)

    patch.setattr(ostraka.protocols.gram_sharing, "_blinding", blinding)


FAULTS = [
    (mask_dropped, S1, {"share from workers"}),
    (mask_reused, S1, {"share from workers"}),
    (seed_of_16_bits, S0, {"seed from workers"}),
    (seed_of_16_bits, S1, {"salt from workers", "seed hash from workers"}),
    (seed_of_16_bits, DEALER, {"seed from workers"}),
    (b_reused, S0, {"X - B"}),
    (f_unmasked, S0, {"X - B"}),
    (r_dropped, S1, {"R"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "party", "seen"), FAULTS, ids=[f"{f.__name__}-{p}" for f, p, _ in FAULTS]
)
def test_the_same_tests_see_planted_faults(
    fault: Callable[[pytest.MonkeyPatch], None],
    party: str,
    seen: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)
    monkeypatch.setattr(ostraka.trust.two_server.plan, "projections", lambda n, rounds: 4)
    world = world_of(GeometricMedian())
    world.finish()
    sources = hidden_words(view(world, party))
    sources |= derived_0(world) if party == S0 else {}
    sources |= derived_1(world, words_of(world)) if party == S1 else {}
    assert seen <= suspicious(sources).keys()


# --- simulators ---------------------------------------------------------------------------------


def wraps(upload: Upload) -> None:
    """A hostile worker, so that not every check bit is 1."""
    upload.send_all(upload.parts(np.full(D, WRAPS)))


@dataclass(frozen=True)
class Pair:
    """A real world, in which w13 is hostile and w12 silent, and what may be learnt of it."""

    real: World
    leaks: list[Leak]
    x: Ring
    public: Ring


@cache
def pair(which: str) -> Pair:
    """A real world and its leaks; run once for all tests that look at it."""
    rule, pre = CHAINS[which]
    world = world_of(rule, pre, rounds=6)
    cheats = {"w13": wraps, "w12": lambda upload: None}
    previous = world.stored_0[0].previous
    world.cheats = cheats
    world.finish()
    leaks = ideal(world, frozenset({"w12"}), Key(digest("chance", which.encode())))
    x = words_of(world)[:12]
    return Pair(world, leaks, x, world.plan.fixed.encode(previous))


CHAINS: dict[str, tuple[GramRule, tuple[PreAggregation, ...]]] = {
    "geometric-median": (GeometricMedian(), ()),
    "centered-clipping": (CenteredClipping(tau=0.5), ()),
    "mean": (Mean(), ()),
    "nnm-multi-krum": (MultiKrum(f=2), (NNM(f=2),)),
    "nnm-centered-clipping": (CenteredClipping(tau=0.5, steps=2), (NNM(f=2),)),
}


@cache
def imitation(which: str, party: str) -> World:
    """The simulated world around one real party."""
    known = pair(which)
    return simulated(seeded(known.real), party, known.leaks, 1)


def seeded(real: World) -> World:
    """A world with the same plan and first states that has not run."""
    fresh = world_of(real.plan.rule, real.plan.pre, rounds=real.plan.rounds)
    return replace(fresh, plan=real.plan)


@pytest.mark.slow
@pytest.mark.parametrize("party", OPERATORS)
@pytest.mark.parametrize("which", CHAINS)
def test_a_simulator_gives_the_same_frames_without_any_update(which: str, party: str) -> None:
    known, made = pair(which), imitation(which, party)
    assert made.outcomes[party].status == "done", made.outcomes[party]
    assert structure(view(made, party)) == structure(view(known.real, party))


@pytest.mark.slow
@pytest.mark.parametrize("party", OPERATORS)
@pytest.mark.parametrize("which", CHAINS)
def test_simulated_and_real_words_have_the_same_distribution(which: str, party: str) -> None:
    real = hidden_words(view(pair(which).real, party))
    made = hidden_words(view(imitation(which, party), party))
    assert made.keys() == real.keys()
    assert suspicious(real) == {}
    assert suspicious(made) == {}
    for source, words in real.items():
        assert abs(same_histogram(words, made[source])) < Z_LIMIT, source


@pytest.mark.slow
@pytest.mark.parametrize("which", ["geometric-median", "mean", "nnm-multi-krum"])
def test_what_the_parties_can_check_holds_in_both_worlds(which: str) -> None:
    known = pair(which)
    real, made = known.real, {party: imitation(which, party) for party in OPERATORS}
    facts = facts_0(real, known.x)
    assert facts == facts_0(made[S0], known.x)
    assert all(f["signed"] and f["coin"] and f["dithered sum"] for f in facts)
    assert {f["wrap"] for f in facts} == {(1,) * 12 + (0,)}
    facts = facts_1(real, known.x, known.public)
    assert facts == facts_1(made[S1], known.x, known.public)
    assert all(f["signed"] and f["coin"] and f["image"] and f["rounded sum"] for f in facts)
    assert facts_dealer(real) == facts_dealer(made[DEALER])
    assert {f["active"] for f in facts_dealer(real)} == {(1,) * 12 + (0, 1)}


@pytest.mark.slow
def test_a_simulator_that_does_not_tie_its_words_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = pair("geometric-median")

    def loose(simulator: Simulator, turn: Any, f: Ring | None = None) -> Ring:
        m = len(known.x)
        return simulator.words(D if f is None else simulator.plan.image.count(m))

    monkeypatch.setattr(Simulator, "own_sum", loose)
    made = simulated(seeded(known.real), S0, known.leaks, 2)
    sums = [f["dithered sum"] for f in facts_0(made, known.x)] if len(made.sent) > 100 else [False]
    assert not any(sums)

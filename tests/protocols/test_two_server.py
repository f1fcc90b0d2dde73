"""two_server is exact: it opens what the plaintext rule gives on the quantised rows, bit for bit.

Invariant: whatever honest or hostile rows come, the aggregate of a round equals that of a plaintext
twin with the same dither, and all parties end with the same model.
"""

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka.net import Abort
from ostraka.rules import (
    MDA,
    NNM,
    PRE_AGGREGATIONS,
    RULES,
    CenteredClipping,
    GeometricMedian,
    GramRule,
    Krum,
    Mean,
    MultiKrum,
    PreAggregation,
)
from ostraka.rules.guard import TooFewContributors
from ostraka.sharing.additive import block_width
from ostraka.trust.two_server import Plan
from tests.protocols import two_server_twin as twin
from tests.protocols.two_server_world import DEALER, S0, S1, Vector, World, make_plan, place

SEVERAL_STEPS = CenteredClipping(0.5, steps=3)
UNIT = 2.0**-20


def made(kind: type[Any], f: int) -> Any:
    """A rule or pre-aggregation of this class; a KeyError here asks for a value for a new field."""
    known = {"f": f, "tau": 0.5}
    return kind(**{x.name: known[x.name] for x in fields(kind) if x.default is MISSING})


def gram_rules(f: int) -> Iterator[GramRule]:
    for kind in RULES.values():
        if issubclass(kind, GramRule):
            yield made(kind, f)
    yield SEVERAL_STEPS


def chains(f: int) -> list[tuple[GramRule, tuple[PreAggregation, ...]]]:
    """Every Gram rule alone and behind every pre-aggregation."""
    before: list[tuple[PreAggregation, ...]] = [()]
    before += [(made(kind, f),) for kind in PRE_AGGREGATIONS.values()]
    return [(rule, pre) for rule in gram_rules(f) for pre in before]


def plan_or_none(n: int, d: int, rule: GramRule, pre: Any, **changes: Any) -> Plan | None:
    """The plan, or None where its bounds do not hold."""
    try:
        return make_plan(n, d, rule, pre, **changes)
    except ValueError:
        return None


def agrees(world: World, story: list[twin.Round]) -> None:
    """Both servers and all workers of a world that was run have ended where the twin has."""
    assert world.outcomes[S0].status == "done", world.outcomes
    state = world.outcomes[S0].result
    assert world.refused() == {}
    assert state.previous.tobytes() == story[-1].aggregate.tobytes()
    assert state.model.tobytes() == story[-1].model.tobytes()
    other = world.outcomes[S1].result
    assert other.committed.values.tolist() == story[-1].weights.values.tolist()
    assert other.previous.tobytes() == state.previous.tobytes()
    assert other.model.tobytes() == state.model.tobytes()
    for name in world.plan.workers:
        assert world.outcomes[name].result.tobytes() == state.model.tobytes()


def near(world: World, story: list[twin.Round]) -> None:
    """Every round is within a grid unit of `ostraka.aggregate` on the same quantised rows.

    A weight of 24 fractional bits is off by up to 2^-24 and moves the sum by that much of a row.
    """
    previous = world.stored_0[0].previous
    for one in story:
        slack = 0.0 if one.weights.count else len(one.rows) * np.abs(one.rows).max() / (1 << 24)
        if not one.capped:
            plain = twin.plain(world.plan, one, previous)
            assert np.abs(plain - one.aggregate).max() <= UNIT + slack
        previous = one.aggregate


def twin_or_refusal(world: World) -> list[twin.Round] | TooFewContributors:
    try:
        return twin.played(world)
    except TooFewContributors as refusal:
        return refusal


# --- hostile rows ---------------------------------------------------------------------------


def row(kind: str, rng: np.random.Generator, rows: list[Vector], d: int) -> Vector:
    """One row that some rule might stumble over; the clip is 4."""
    at = int(rng.integers(d))
    axis = np.zeros(d)
    axis[at] = 1.0
    drawn = rng.standard_normal(d)
    made = {
        "zero": np.zeros(d),
        "plain": drawn / np.sqrt(d),
        "twin": rows[-1] if rows else axis,
        "opposite": -rows[-1] if rows else -axis,
        "axis at the clip": 4.0 * axis,
        "dense at the clip": 4.0 * drawn / np.linalg.norm(drawn),
        "beyond the clip": 1e4 * drawn,
        "lattice": rng.integers(-1, 2, d) / np.sqrt(d),
        "one unit": UNIT * axis,
        "less than a unit": 1e-30 * drawn,
        "shifted": 1.0 / np.sqrt(d) + 1e-3 * drawn / np.sqrt(d),
    }
    return made[kind].astype(np.float32)


KINDS = (
    *("zero", "plain", "plain", "twin", "opposite", "axis at the clip", "dense at the clip"),
    *("beyond the clip", "lattice", "one unit", "less than a unit", "shifted"),
)


@st.composite
def federations(draw: st.DrawFn) -> World:
    n = draw(st.integers(3, 12))
    f = draw(st.integers(0, (n - 1) // 2))
    d = draw(st.one_of(st.integers(1, 8), st.integers(9, 200)))
    seed = draw(st.integers(0, 2**32))
    few = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    kinds = draw(st.lists(st.sampled_from(few), min_size=n, max_size=n))
    rng = np.random.default_rng(seed)
    rows: list[Vector] = []
    for kind in kinds:
        rows.append(row(kind, rng, rows, d))
    possible = []
    for rule, pre in chains(f):
        for least in (1, 2, 3):
            plan = plan_or_none(n, d, rule, pre, f=f, rounds=2, min_contributors=least)
            possible += [] if plan is None else [plan]
    plan = draw(st.sampled_from(possible))
    return World(plan, lambda name, round, model: rows[place(name)], seed=seed)


@pytest.mark.slow
@settings(max_examples=50)
@given(federations())
def test_hostile_rows_give_what_the_twin_gives(world: World) -> None:
    ends_as_the_twin_says(world)


@pytest.mark.soak
@settings(max_examples=2000)
@given(federations())
def test_hostile_rows_give_what_the_twin_gives_again_and_again(world: World) -> None:
    ends_as_the_twin_says(world)


def ends_as_the_twin_says(world: World) -> None:
    """Right to the bit, or ended by the guard, where the twin's guard ends it too."""
    world.run()
    story = twin_or_refusal(world)
    if isinstance(story, TooFewContributors):
        error = world.outcomes[S1].error
        assert isinstance(error, Abort)
        assert str(story) in error.reason
        rounds = world.stored_0[-1].round
        assert len(world.of_kind("Words")) == rounds, "nothing was opened in the round that ended"
        return
    agrees(world, story)
    near(world, story)


@pytest.mark.parametrize(
    ("rule", "pre"), chains(2), ids=lambda part: getattr(part, "name", None) or str(len(part))
)
def test_every_chain_over_three_rounds(rule: GramRule, pre: tuple[PreAggregation, ...]) -> None:
    plan = plan_or_none(9, 21, rule, pre, rounds=3, min_contributors=3)
    world = World(plan or make_plan(9, 21, rule, pre, rounds=3))
    world.run()
    story = twin.played(world)
    agrees(world, story)
    near(world, story)
    assert len({one.model.tobytes() for one in story}) == 3, "the model moves in every round"


@pytest.mark.slow
@pytest.mark.parametrize("rule", [Mean(), MultiKrum(3), GeometricMedian(), CenteredClipping(0.5)])
def test_more_columns_than_one_block(rule: GramRule) -> None:
    n = 12
    d = block_width(n) + 1001
    world = World(make_plan(n, d, rule, f=3, min_contributors=3))
    world.run()
    agrees(world, twin.played(world))
    assert len(world.of_kind("MaskedBlock")) == 2


def test_the_reference_of_centered_clipping_is_the_last_aggregate() -> None:
    world = World(make_plan(7, 30, CenteredClipping(0.05), f=2, rounds=4, min_contributors=3))
    world.run()
    story = twin.played(world)
    agrees(world, story)
    vector = np.zeros(30)
    for one in story:
        shifts = one.rows - vector
        pull = np.minimum(1.0, 0.05 / np.linalg.norm(shifts, axis=1))
        expected = vector + (pull[:, None] * shifts).mean(axis=0)
        np.testing.assert_allclose(one.aggregate, expected, atol=3 * UNIT)
        vector = one.aggregate


def test_one_row_far_ahead_is_capped_as_the_twin_caps_it() -> None:
    """The geometric median stands on a row that lies in the middle: the round goes on, and says so.

    The other rows stand around it in opposite pairs, so that it is the median exactly.
    """
    rng = np.random.default_rng(3)
    half = [0.1 * rng.standard_normal(12) for _ in range(4)]
    rows = [np.zeros(12), *half, *(-row for row in half)]
    middle = [(row + 0.5).astype(np.float32) for row in rows]
    plan = make_plan(9, 12, GeometricMedian(), f=2, min_contributors=3)
    world = World(plan, lambda name, round, model: middle[place(name)])
    world.run()
    story = twin.played(world)
    assert story[0].capped
    agrees(world, story)
    assert world.told("capped", "round", "least") == [(0, 3)]
    (weights,) = world.told("aggregated", "influence")[0]
    assert weights["w00"] < 0.5


def test_krum_opens_one_row_only_where_that_is_written() -> None:
    with pytest.raises(ValueError, match="one worker's update"):
        make_plan(9, 4, Krum(2), min_contributors=3)
    world = World(make_plan(9, 4, Krum(2)))
    world.run()
    story = twin.played(world)
    agrees(world, story)
    assert story[0].weights.count == 1


def test_a_guard_that_cannot_be_met_ends_the_round_before_anything_is_opened() -> None:
    """All but two rows stand on the public centre, where a row contributes nothing."""
    rows = [np.zeros(6, np.float32)] * 7 + [np.full(6, k, np.float32) for k in (0.3, 0.4)]
    plan = make_plan(9, 6, CenteredClipping(0.5), f=2, min_contributors=3)
    world = World(plan, lambda name, round, model: rows[place(name)])
    error = world.run().error
    assert isinstance(world.outcomes[S1].error, Abort)
    assert "2 workers contribute to the result" in str(world.outcomes[S1].error)
    assert isinstance(error, Abort), "server 0 is told at once, and does not wait for a deadline"
    assert "round 0 ended: too few updates would cover for one another" in error.reason
    assert not world.of_kind("Words")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_the_same_model() -> None:
    """The masks change with the seed, the mean does not; a dithered sum only by a grid unit."""
    plan = make_plan(6, 9, Mean(), f=1, rounds=2, min_contributors=3)
    first, again, other = World(plan), World(plan), World(plan, seed=1)
    models = [world.finish().model.tobytes() for world in (first, again, other)]
    assert models[0] == models[1] == models[2]
    assert [s.frame for s in first.sent] == [s.frame for s in again.sent]
    parts = [w.of_kind("SharePart")[0].frame.body for w in (first, other)]
    assert parts[0] != parts[1]
    robust = make_plan(6, 90, GeometricMedian(), f=1, min_contributors=3)
    sums = [World(robust, seed=seed).finish().previous for seed in (0, 1)]
    assert 0 < np.abs(sums[0] - sums[1]).max() <= UNIT


def test_operators_say_what_they_opened_to_whom() -> None:
    plan = make_plan(9, 5, MDA(2), (NNM(2),), min_contributors=3)
    world = World(plan)
    world.finish()
    assert world.told("opened", "by", "label", "to", "words") == [
        (S0, "distances", S1, 36),
        (S0, "rounded aggregate", "both servers", 5),
    ]
    assert world.outcomes[DEALER].status == "done"

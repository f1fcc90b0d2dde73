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
    """Both servers and all workers have ended where the twin has."""
    state = world.finish()
    assert world.refused() == {}
    assert state.previous.tobytes() == story[-1].aggregate.tobytes()
    assert state.model.tobytes() == story[-1].model.tobytes()
    other = world.outcomes[S1].result
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
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=n, max_size=n))
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
@settings(max_examples=150)
@given(federations())
def test_hostile_rows_give_what_the_twin_gives(world: World) -> None:
    try:
        # The twin reads the attempts from what server 1 has stored: it comes second.
        ended = world.run()
        story = twin.played(world)
    except TooFewContributors as refusal:
        assert isinstance(ended.error, Abort)
        assert str(refusal) in ended.error.reason
        return
    assert ended.status == "done", ended
    agrees(world_again(world), story)
    near(world, story)


def world_again(world: World) -> World:
    return World(world.plan, world.updates, seed=world.seed)

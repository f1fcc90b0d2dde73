"""The plaintext twin of a `two_server` round: the same steps on bare integers, in one place.

It reads no share and no message. Norms, distances, products and the weighted sum are plain int64
numbers, which the bound on a row's norm keeps exact; the rule, the guard and the integer weights
are those of `rules`; the dither is made again from the key of the process that drew it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ostraka.algebra.fixed import FixedPoint
from ostraka.crypto.prg import Key
from ostraka.protocols.linear_image import Opened
from ostraka.rules import aggregate, coefficients, remaining
from ostraka.rules.gram import Geometry
from ostraka.rules.guard import guarded
from ostraka.rules.integer_weights import IntegerWeights, quantise
from ostraka.trust.public_step import step
from ostraka.trust.two_server import Plan
from ostraka.trust.two_server.decide import PublicRow, geometry_of
from tests.protocols.two_server_world import S1, Vector, World

Exact = npt.NDArray[np.int64]
"""Whole numbers that fit."""


@dataclass(frozen=True, eq=False)
class Round:
    """What the twin makes of one round; ``rows`` are the quantised rows (m, d) that took part."""

    rows: npt.NDArray[np.float64]
    weights: IntegerWeights
    capped: bool
    aggregate: npt.NDArray[np.float64]
    model: Vector
    f: int


def quantised(fixed: FixedPoint, rows: Sequence[Vector]) -> Exact:
    """The rows on the servers' grid, (m, d), none so long that a sum of products might wrap."""
    x = np.stack([fixed.encode(row).view(np.int64) for row in rows])
    assert (np.linalg.norm(x.astype(np.float64), axis=1) < 2.0**27).all()
    return x


def played(
    world: World,
    left_out: Callable[[int], Mapping[str, str]] = lambda round: {},
    rounds: int | None = None,
) -> list[Round]:
    """The first ``rounds`` of a world that was run; all but the ``left_out`` of a round take part.

    It maps a round to workers, each with the reason of its refusal or "missing".
    """
    plan = world.plan
    model = world.stored_0[0].model
    previous = world.stored_0[0].previous
    story: list[Round] = []
    for number in range(plan.rounds if rounds is None else rounds):
        if (number,) in world.told("passed-over", "round"):
            nothing = IntegerWeights(np.zeros(0, np.int64), 0)
            story.append(Round(np.zeros((0, 0)), nothing, False, previous, model, plan.f))
            continue
        out = left_out(number)
        rows = [world.updates(w, number, model) for w in plan.workers if w not in out]
        dither = _dither(world, number)
        story.append(one_round(plan, number, rows, out, model, previous, dither))
        model, previous = story[-1].model, story[-1].aggregate
    return story


def _dither(world: World, number: int) -> Key:
    """The key of a round's dither: of the process and attempt in which server 1 committed to it."""
    process, attempt = 1, 1
    for state in world.stored_1:
        if state.committed is not None and state.committed.round == number == state.round:
            process, attempt = state.boot, state.committed.attempt
            break
    return world.key(S1, process).derive("dither", number, attempt)


def one_round(
    plan: Plan,
    number: int,
    rows: Sequence[Vector],
    out: Mapping[str, str],
    model: Vector,
    previous: npt.NDArray[np.float64],
    dither: Key,
) -> Round:
    """One round of these surviving rows, from the public state before it."""
    refused = sum(why != "missing" for why in out.values())
    m, f = remaining(plan.n, plan.f, refused, len(out) - refused, plan.dropouts)
    x = quantised(plan.fixed, rows)
    assert len(x) == m
    public = PublicRow.of(plan, previous) if plan.rule.uses_reference else None
    geometry = _geometry(plan, x, public)
    rule = plan.rule.with_f(f)
    exact = coefficients(geometry, rule, [part.with_f(f) for part in plan.pre], f=f)
    safe = guarded(exact, geometry, rule, max(0, plan.f - refused), plan.min_contributors)
    weights = quantise(safe.coefficients, m, rule.centre is None, rule.weight_bound)
    opened = _opened(x, weights, dither)
    vector = _aggregate(plan, opened, weights, public)
    moved = step(model, vector, plan.rate(number))
    return Round(x.astype(np.float64) * plan.fixed.unit, weights, safe.capped, vector, moved, f)


def _geometry(plan: Plan, x: Exact, public: PublicRow | None) -> Geometry:
    """The geometry from exact integers, of which the rule is shown what it needs."""
    gram = x @ x.T
    norms = np.diagonal(gram)
    image = plan.image
    products = None
    if public is not None:
        products = x @ public.words.view(np.int64)
    opened = Opened(
        norms[:, None] + norms[None, :] - 2 * gram if image.distances else None,
        norms if image.norms else None,
        products if image.products else None,
    )
    if not image.labels:
        return Geometry.blank(len(x))
    return geometry_of(plan, opened, len(x), public)


def _opened(x: Exact, weights: IntegerWeights, dither: Key) -> Exact:
    """The exact sum for equal weights; else rounded by 24 bits after the dither, in units."""
    total: Exact = weights.values @ x
    if weights.count:
        return total
    # 24 random bits of every word of the stream, less half of their range: [-2^23, 2^23).
    drawn = (dither.stream().words(x.shape[1]) // (1 << 40)).astype(np.int64) - (1 << 23)
    return np.floor_divide(total + drawn + (1 << 23), 1 << 24)


def _aggregate(
    plan: Plan, opened: Exact, weights: IntegerWeights, public: PublicRow | None
) -> npt.NDArray[np.float64]:
    whole = opened.astype(np.float64)
    if weights.count:
        return np.asarray(whole / weights.count * plan.fixed.unit)
    vector = whole * plan.fixed.unit
    if public is not None:
        lacking = ((1 << 24) - int(weights.values.sum())) / (1 << 24)
        vector += lacking * (public.words.view(np.int64) * plan.fixed.unit)
    return np.asarray(vector)


def plain(plan: Plan, story: Round, previous: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What `ostraka.aggregate` gives on the same quantised rows, float64 (d,)."""
    public = PublicRow.of(plan, previous) if plan.rule.uses_reference else None
    reference = None if public is None else plan.fixed.decode(public.words)
    rule, pre = plan.rule.with_f(story.f), [part.with_f(story.f) for part in plan.pre]
    return np.asarray(aggregate(story.rows, rule, pre, reference=reference, f=story.f).vector)

"""Screening, bounds, one pass of measurement and one weighted sum: a rule run on plain rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ostraka.algebra.ops import NUMPY, Array, Float, Ops, fill, spans
from ostraka.rules.api import (
    CoordinateRule,
    GramRule,
    Needs,
    PreAggregation,
    Rule,
    chain,
    check_chain,
    coefficients,
    needs,
    own_f,
)
from ostraka.rules.bounds import BoundError, remaining
from ostraka.rules.gram import Geometry

NORM_LIMIT = 1e150
"""Largest norm whose squared distances float64 can represent with room for sums."""

_QUICK = 1 << 20
_UNDERFLOWN = 1e-25
"""More than the squares that float32 takes for 0 sum up to, of 10^9 entries."""


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a rule made of the rows.

    `vector` (d,) has the dtype and array type of the rows. `weights` (n,) float64 are the worker
    rows' coefficients, 0 for dropped rows; None for coordinate rules. What they lack of 1 is the
    weight of the reference. `dropped` maps a row to its reason. `influence` (n,) float64 says how
    much each row counted: the weights of a Gram rule, the column means of the mixing matrix for a
    coordinate rule behind pre-aggregations, else None.
    """

    vector: Array
    weights: Float | None
    dropped: dict[int, str]
    influence: Float | None


def aggregate(
    rows: object,
    rule: Rule,
    pre: Sequence[PreAggregation] = (),
    *,
    reference: object = None,
    f: int | None = None,
    max_norm: float | None = None,
    ops: Ops = NUMPY,
) -> Aggregate:
    """Aggregate n rows of d numbers, at most f of them Byzantine, by a rule.

    `rows` is an (n, d) array of float32 or float64, or a list of equal vectors; it is not modified.
    `pre` are applied in order before the rule. `reference` (d,) is the public row of the rules that
    have one, and ignored by the others. `f` is taken from the rule and its pre-aggregations, or
    from the argument, or is floor((n-1)/2).

    Before anything else rows are dropped with a reason: "non-finite" (a NaN or infinity),
    "overflow" (a float64 norm above 1e150: squared distances to it are not representable), "norm"
    (above `max_norm`, where given). Each counts as one of the f: the rest is, bit for bit, this
    call on the remaining rows with f lowered by as many. All sums are in float64.

    ValueError for unusable input, for parts that disagree about f, for more than f dropped rows
    (a BoundError) and for a bound that does not hold at the (n, f) that remain.
    """
    x = ops.rows(rows)
    n = int(x.shape[0])
    _check_parts(rule, pre)
    public = None if reference is None else _reference(reference, x, ops)
    force = common_f(rule, pre, f, n)
    dropped = screen(x, max_norm, ops)
    if len(dropped) > force:
        listed = ", ".join(f"row {row} ({reason})" for row, reason in dropped.items())
        many = f"{len(dropped)} rows were refused, more than f={force}: {listed}"
        raise BoundError(many, dropped)
    left, force = remaining(n, force, len(dropped), 0)
    keep = [row for row in range(n) if row not in dropped]
    rule, pre = rule.with_f(force), [part.with_f(force) for part in pre]
    check_chain(rule, pre, left, force)
    kept = ops.take(x, keep) if dropped else x
    if isinstance(rule, GramRule):
        vector, weights = _by_gram(kept, rule, pre, public, force, ops)
        weights = _spread(weights, keep, n)
        return Aggregate(vector, weights, dropped, weights)
    vector, influence = by_coordinate(kept, rule, pre, force, ops)
    if influence is not None:
        influence = _spread(influence, keep, n)
    return Aggregate(vector, None, dropped, influence)


def _check_parts(rule: object, pre: object) -> None:
    """Refuse classes, names and a lone pre-aggregation: what callers write by mistake."""
    if not isinstance(rule, (GramRule, CoordinateRule)):
        raise ValueError(f"rule must be a rule such as Mean(), got {rule!r}")
    if not isinstance(pre, (list, tuple)):
        raise ValueError(f"pre must be a list of pre-aggregations, got {pre!r}")
    for part in pre:
        if not isinstance(part, PreAggregation):
            raise ValueError(f"pre must hold pre-aggregations such as NNM(f), got {part!r}")


def _reference(data: object, x: Array, ops: Ops) -> Array:
    public = ops.row(data, x)
    if screen(public[None, :], None, ops):
        raise ValueError(f"the norm of reference must be at most {NORM_LIMIT:g}")
    return public


def common_f(rule: Rule, pre: Sequence[PreAggregation], f: int | None, n: int) -> int:
    """Give the f in force; ValueError when two parts, or a part and the argument, disagree."""
    known = [(part.name, own_f(part)) for part in (rule, *pre)]
    if f is not None:
        if isinstance(f, bool) or not isinstance(f, int) or f < 0:
            raise ValueError(f"f must be a whole number >= 0, got {f!r}")
        known.append(("the argument", f))
    stated = [(name, value) for name, value in known if value is not None]
    for name, value in stated[1:]:
        if value != stated[0][1]:
            raise ValueError(
                f"{stated[0][0]} has f={stated[0][1]} but {name} has f={value}: "
                "one f holds for the whole chain"
            )
    return stated[0][1] if stated else (n - 1) // 2


def surely_within(row: Array, limit: float, ops: Ops = NUMPY) -> bool:
    """Whether a quick look shows that a vector (d,) is finite and its norm is at most `limit`.

    False says nothing. In whatever order, a float32 sum of 2^20 squares is at least e^(-1/16) of
    what it should be, and infinite or NaN with any of its terms.
    """
    square = 0.0
    for low, high in spans(int(row.shape[0]), _QUICK):
        square += float(ops.squares(row[None, low:high])[0])
    return square + _UNDERFLOWN <= 0.9 * min(limit, NORM_LIMIT) ** 2


def screen(x: Array, max_norm: float | None = None, ops: Ops = NUMPY) -> dict[int, str]:
    """Name the rows that no rule may see, each with its reason; see `aggregate`."""
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm!r}")
    limit = NORM_LIMIT if max_norm is None else max_norm
    if all(surely_within(x[row], limit, ops) for row in range(int(x.shape[0]))):
        return {}
    squares = np.zeros(int(x.shape[0]))
    for low, high in spans(int(x.shape[1])):
        squares += ops.squares(ops.wide(x[:, low:high]))
    dropped: dict[int, str] = {}
    for row, square in enumerate(squares.tolist()):
        norm = math.sqrt(square) if square >= 0 else math.nan
        if not math.isfinite(square) and not ops.finite(x[row]):
            dropped[row] = "non-finite"
        elif not norm <= NORM_LIMIT:
            dropped[row] = "overflow"
        elif max_norm is not None and norm > max_norm:
            dropped[row] = "norm"
    return dropped


def _by_gram(
    x: Array,
    rule: GramRule,
    pre: Sequence[PreAggregation],
    reference: Array | None,
    f: int,
    ops: Ops,
) -> tuple[Array, Float]:
    n = int(x.shape[0])
    if needs(rule, pre) == Needs.NOTHING:
        geometry = Geometry.blank(n)
    else:
        geometry = Geometry.from_rows(x, ops, reference if rule.uses_reference else None)
    weights = coefficients(geometry, rule, pre, f=f)
    public = 0.0
    if reference is not None and rule.uses_reference:
        public = float(weights[geometry.index("reference")])
    return _combine(weights[:n], x, public, reference, ops), weights[:n]


def _combine(weights: Float, x: Array, public: float, reference: Array | None, ops: Ops) -> Array:
    """Sum of the weighted rows and the weighted reference, in float64 and then the rows' dtype."""
    out = ops.vector(x)
    used = np.flatnonzero(weights).tolist()
    matrix, rows = weights[used][None, :], [x[row] for row in used]
    with ops.scratch(x, len(used), wide=True) as blocks:
        for low, high in spans(int(x.shape[1])):
            block = blocks[:, : high - low]
            fill(block, rows, low, high)
            total = ops.mix(matrix, block)[0]
            if reference is not None and public != 0.0:
                pulled = ops.wide(reference[low:high])
                pulled *= public
                total += pulled
            out[low:high] = total
    return out


def by_coordinate(
    x: Array, rule: CoordinateRule, pre: Sequence[PreAggregation], f: int, ops: Ops
) -> tuple[Array, Float | None]:
    """`aggregate` by a coordinate rule, of rows that were screened and a chain that was checked."""
    matrix: Float | None = None
    if pre:
        most = needs(rule, pre)
        blank = Geometry.blank(int(x.shape[0]))
        geometry = blank if most == Needs.NOTHING else Geometry.from_rows(x, ops)
        _, matrix = chain(geometry, pre, f)
    out = ops.vector(x)
    with ops.scratch(x, int(x.shape[0]), wide=matrix is not None) as blocks:
        for low, high in spans(int(x.shape[1])):
            block = blocks[:, : high - low]
            fill(block, x, low, high)
            mixed = block if matrix is None else ops.mix(matrix, block)
            out[low:high] = rule.columns(mixed, f, ops)
    return out, None if matrix is None else matrix.mean(axis=0)


def _spread(values: Float, keep: list[int], n: int) -> Float:
    """Values of the kept rows at their places among all n, 0 elsewhere."""
    whole = np.zeros(n)
    whole[keep] = values
    return whole

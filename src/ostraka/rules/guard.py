"""A guard against an aggregate that is nearly one worker's update.

Step 6 of a two-server round. Whoever sees the aggregate may know the updates of f colluding
workers and subtract them; what is left must still mix the updates of several workers. Row i
contributes c_i, its weight, times its distance to the centre for rules that start from a public
row (what stands at the centre adds nothing). Of c_1 >= c_2 >= ... row 1 is the victim, rows 2 to
f + 1 are the colluders that hide it least, and the others cover it:

    contributors = (c_1^2 + sum over j > f + 1 of c_j^2) / c_1^2   must be >= min_contributors.

Only worker rows count: a public row covers nobody. f is the federation file's, lowered only by
rows refused for content and never by missing ones, or four colluders around a victim would pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ostraka.algebra.ops import Float
from ostraka.rules.api import GramRule, PreAggregation, whole_number
from ostraka.rules.gram import Geometry
from ostraka.rules.integer_weights import quantise

MARGIN = 2.0**-16
"""The cap aims this much, relatively, above min_contributors, because integer weights round."""

SLACK = 2.0**-6
"""What integer weights may be short of min_contributors by, relatively, where no margin is had."""

_WORTH = 0.9


class TooFewContributors(ValueError):  # noqa: N818
    """The aggregate would show too much of one worker's update: the round opens nothing."""


@dataclass(frozen=True, eq=False)
class Guarded:
    """Coefficients (n + publics,) whose integer weights pass the guard; whether it lowered any."""

    coefficients: Float
    capped: bool


def contributions(coefficients: Float, geometry: Geometry, rule: GramRule) -> Float:
    """How much each worker row adds to the output (n,), in units of no meaning but their ratios.

    |p_i|, times the distance to the centre for rules with a public centre.
    """
    sizes: Float = np.abs(coefficients[: geometry.n])
    if rule.centre is not None:
        sizes *= np.sqrt(geometry.squared[: geometry.n, geometry.centre])
    return sizes


def contributors(c: Float, f: int) -> float:
    """Give the number of equal rows that would cover the largest one of `c` (n,) as well.

    At least 1. Infinite when all are zero: the output is then the public centre, which everybody
    knows, whatever the rows are, so nothing of anybody is opened and nobody needs cover.
    ValueError when some are negative or not finite.
    """
    if not (np.isfinite(c).all() and (c >= 0).all()):
        raise ValueError("contributions must be finite and not negative")
    if not c.any():
        return math.inf
    ordered = np.sort(c)[::-1]
    # Divided first, so that tiny contributions do not underflow and equal ones count exactly.
    return 1.0 + float(((ordered[f + 1 :] / ordered[0]) ** 2).sum())


def guarded(
    coefficients: Float, geometry: Geometry, rule: GramRule, f: int, min_contributors: int
) -> Guarded:
    """Give the coefficients as they are, or with the largest contributions lowered to a cap.

    When there are too few contributors, all contributions are lowered to the largest common cap at
    which there are min_contributors (1 + 2^-16) of them: otherwise one worker placed at the
    geometric median would end every round. Weights are scaled up again only for rules whose
    weights sum to 1; else the weight of the public centre takes what is missing. Signs stay.

    The integer weights that the coefficients become (`quantise`) pass the guard too: while they do
    not, the margin above min_contributors doubles. With no more than f + min_contributors
    contributions of any size a margin cannot be had, or only at a cap so low that the rule's output
    is lost: f colluders who contribute almost nothing could ask for that. Where the margin would
    take over a tenth of the cap it is dropped: the cap is the one for min_contributors, and the
    integers may be short of it by 1/64 (2.95 for 3), no more.

    TooFewContributors when fewer than f + min_contributors contributions are above zero, and when
    integers of 24 bits are too coarse for these weights.
    """
    if _passes(coefficients, geometry, rule, f, min_contributors):
        return Guarded(coefficients, False)
    c = contributions(coefficients, geometry, rule)
    for cap, least in _caps(c, f, min_contributors):
        lowered = _lower(coefficients, c, cap, geometry, rule)
        if _passes(lowered, geometry, rule, f, least):
            return Guarded(lowered, lowered is not coefficients)
    raise TooFewContributors(
        "the weights are too small for integers of 24 bits: rounded, they cover the largest "
        f"contribution with fewer than min_contributors={min_contributors} at f={f}. Nothing was "
        "opened. Give the rule a larger radius"
    )


def check_start(
    rule: GramRule,
    n: int,
    f: int,
    dropouts: int | None,
    min_contributors: int,
    pre: Sequence[PreAggregation] = (),
) -> None:
    """ValueError when the guard would end rounds in which nobody misbehaves more than promised.

    Needs n - dropouts >= 2f + min_contributors (f rows may contribute nothing, f more collude);
    `dropouts` None counts as 0. A rule that publishes one worker's row, or averages too few, needs
    min_contributors = 1, unless a pre-aggregation mixed the rows.
    """
    whole_number("the guard", "min_contributors", min_contributors, 1)
    left = n - (dropouts or 0)
    if left < 2 * f + min_contributors:
        raise ValueError(
            f"a round needs n - dropouts >= 2f + min_contributors, got n={n}, "
            f"dropouts={dropouts or 0}, f={f}, min_contributors={min_contributors}. "
            "Add workers, or lower one of the others"
        )
    most = rule.most_rows(left)
    if pre or max(1, most - f) >= min_contributors:
        return
    opens = "one worker's update" if most == 1 else f"the mean of {most} updates"
    raise ValueError(
        f"{rule.name} opens {opens}, too few for min_contributors={min_contributors} at f={f}. "
        f"Choose another rule, or write min_contributors = {max(1, most - f)} to accept that "
        f"{opens} is opened"
    )


def _passes(coefficients: Float, geometry: Geometry, rule: GramRule, f: int, least: float) -> bool:
    """Whether both the coefficients and the integers made of them have enough contributors."""
    whole = quantise(coefficients, geometry.n, rule.centre is None, rule.weight_bound)
    return all(
        contributors(contributions(weights, geometry, rule), f) >= least
        for weights in (coefficients, whole.reals)
    )


def _caps(c: Float, f: int, min_contributors: int) -> Iterator[tuple[float, float]]:
    """Caps to try in turn, each with the contributors that must be left at it."""
    highest = _cap(c, f, min_contributors)
    if highest is None:
        raise TooFewContributors(_too_few(c, f, min_contributors))
    margin = MARGIN
    cap = _cap(c, f, min_contributors * (1.0 + margin))
    while cap is not None and cap >= _WORTH * highest:
        yield cap, min_contributors
        margin *= 2.0
        cap = _cap(c, f, min_contributors * (1.0 + margin))
    yield highest, min_contributors * (1.0 - SLACK)


def _cap(c: Float, f: int, target: float) -> float | None:
    """Largest t with 1 + sum over j > f + 1 of min(c_j / t, 1)^2 >= target; None if there is none.

    Between two neighbouring c_j the sum is k + (what lies below t) / t^2: one equation a piece.
    """
    rest = np.sort(c)[::-1][f + 1 :]
    rest = rest[rest > 0]
    for k, edge in enumerate(rest.tolist()):
        covered = float(((rest[k:] / edge) ** 2).sum())
        if covered >= target - 1.0 - k:
            return float(edge * math.sqrt(covered / (target - 1.0 - k)))
    return None


def _lower(coefficients: Float, c: Float, cap: float, geometry: Geometry, rule: GramRule) -> Float:
    """Coefficients with every contribution above the cap lowered to it; the same if none is."""
    high = np.flatnonzero(c > cap)
    if not len(high):
        return coefficients
    lowered = coefficients.copy()
    if rule.centre is None:
        # Not scaled by cap / c, so that what was lowered is equal to the last bit.
        lowered[high] = np.copysign(cap, coefficients[high])
        total = float(lowered.sum())
        if total < float(np.abs(lowered).max()) / rule.weight_bound:
            raise TooFewContributors(
                f"weights of both signs, lowered to {cap:.3g}, sum to {total:.3g}: scaled to sum 1 "
                f"they would exceed {rule.name}'s bound {rule.weight_bound:g}. Nothing was opened"
            )
        return lowered / total
    lowered[high] *= cap / c[high]
    lowered[geometry.centre] = 0.0
    lowered[geometry.centre] = 1.0 - lowered.sum()
    return lowered


def _too_few(c: Float, f: int, min_contributors: int) -> str:
    return (
        f"{np.count_nonzero(c)} workers contribute to the result, which needs "
        f"f + min_contributors = {f} + {min_contributors}: with f colluders subtracted it would be "
        "nearly one worker's update. Nothing was opened in this round. If this comes often, use a "
        "rule that mixes more updates"
    )

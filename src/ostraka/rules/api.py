"""What a rule is, what a pre-aggregation is, and how a chain of them becomes coefficients.

A `GramRule` gives affine coefficients over worker rows and public rows from the small `Geometry`
alone; a rule has this form exactly when it commutes with every rotation of its input. A
`CoordinateRule` works on each column by itself. A `PreAggregation` gives a mixing matrix; chained
before a Gram rule it only changes the coefficients, so mixed rows are never materialised.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, replace
from enum import IntEnum
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar, cast

import numpy as np

from ostraka.algebra.ops import Array, Float, Ops
from ostraka.rules.gram import ORIGIN, REFERENCE, Geometry

T = TypeVar("T")


class Needs(IntEnum):
    """What a rule reads of the rows, from least to most.

    A server that sees only a small matrix is sent this and nothing else (see `measured`):

    - NOTHING: `Geometry.blank`
    - NORMS: `Geometry.from_publics` with the origin alone
    - PUBLIC_PRODUCTS: `Geometry.from_publics` with the origin and, where one is given, the
      reference
    - DISTANCES: `Geometry.from_distances` of the worker rows alone, so no norms
    - GRAM: `Geometry.from_distances` with the public rows: everything above
    """

    NOTHING = 0
    NORMS = 1
    PUBLIC_PRODUCTS = 2
    DISTANCES = 3
    GRAM = 4


class Measured(NamedTuple):
    """What a `Needs` asks for: distances between workers or not, and which public rows."""

    pairs: bool
    publics: tuple[str, ...]


def measured(needs: Needs, reference: bool) -> Measured:
    """Give what is measured for a `Needs`; `reference`: the rule uses one and one is given."""
    public = (ORIGIN, REFERENCE) if reference else (ORIGIN,)
    return {
        Needs.NOTHING: Measured(False, ()),
        Needs.NORMS: Measured(False, (ORIGIN,)),
        Needs.PUBLIC_PRODUCTS: Measured(False, public),
        Needs.DISTANCES: Measured(True, ()),
        Needs.GRAM: Measured(True, public),
    }[needs]


class GramRule(ABC):
    """Output = sum of w_i x_i + w_reference * reference, the weights from the geometry alone.

    What a trust model that opens only a weighted sum must know of the weights beforehand:

    - `centre`: None when the worker coefficients sum to 1. "public" when the output is the centre
      plus the sum of p_i (x_i - centre): the centre is the reference if one is given, else the
      origin, and its own weight is 1 minus the sum of the others, whatever that sum is.
    - `weight_bound`: no worker's coefficient is larger than this in absolute value, on any input,
      behind any pre-aggregation. A constant of the rule, never taken from the data.
    - `sum_bound`: the sum of |p_i| ||x_i|| over the workers is at most this times the largest norm
      among all rows, public ones included.
    - `publishes_one_row`: the output is one worker's row, unless a pre-aggregation mixed the rows.
    """

    name: ClassVar[str]
    uses_reference: ClassVar[bool] = False
    centre: ClassVar[Literal["public"] | None] = None
    weight_bound: ClassVar[float] = 1.0
    sum_bound: ClassVar[float] = 1.0
    publishes_one_row: ClassVar[bool] = False

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What the coefficients are computed from."""

    @abstractmethod
    def check(self, n: int, f: int | None = None) -> None:
        """ValueError with the rule and the numbers when its promise does not hold at (n, f).

        A rule with an f of its own may be asked with n alone; the others use the f in force.
        """

    @abstractmethod
    def coefficients(self, geometry: Geometry, f: int) -> Float:
        """Affine coefficients (n + publics,) float64, sum 1, in the order of the geometry."""

    def most_rows(self, n: int) -> int:
        """Give the largest number of the n rows that have a weight in the output; n if unknown."""
        return 1 if self.publishes_one_row else n

    def with_f(self, f: int) -> Self:
        """Give the same rule for another f; itself when it has no f."""
        return _with_f(self, f)


class CoordinateRule(ABC):
    """Output computed for every coordinate from its column alone."""

    name: ClassVar[str]
    uses_reference: ClassVar[bool] = False

    @abstractmethod
    def check(self, n: int, f: int | None = None) -> None:
        """See `GramRule.check`."""

    @abstractmethod
    def columns(self, block: Array, f: int, ops: Ops) -> Array:
        """Float64 vector (w,) from a finite block (n, w), which it may use as scratch memory."""

    def with_f(self, f: int) -> Self:
        """Give the same rule for another f; itself when it has no f."""
        return _with_f(self, f)


class PreAggregation(ABC):
    """Replaces the n rows by k mixtures of them, for the rule or pre-aggregation that follows."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What the mixing matrix is computed from."""

    @abstractmethod
    def check(self, n: int, f: int | None = None) -> None:
        """See `GramRule.check`."""

    @abstractmethod
    def matrix(self, geometry: Geometry, f: int) -> Float:
        """Mixing matrix (k, n) float64 with row sums 1."""

    def with_f(self, f: int) -> Self:
        """Give the same pre-aggregation for another f; itself when it has no f."""
        return _with_f(self, f)


Rule = GramRule | CoordinateRule


def own_f(part: Rule | PreAggregation) -> int | None:
    """Give the f a rule or pre-aggregation was made for; None when it has none of its own."""
    value: int | None = getattr(part, "f", None)
    return value


def needs(rule: Rule, pre: Sequence[PreAggregation] = ()) -> Needs:
    """Give the least that covers what every part of the chain reads.

    Norms of mixtures, and products of mixtures with public rows, follow only from the whole Gram
    matrix of the rows; so do norms and distances together.
    """
    parts = [part.needs for part in pre]
    parts.append(rule.needs if isinstance(rule, GramRule) else Needs.NOTHING)
    most = max(parts)
    public = [need in (Needs.NORMS, Needs.PUBLIC_PRODUCTS) for need in parts]
    mixed = any(public[1:]) or (public[0] and most == Needs.DISTANCES)
    return Needs.GRAM if mixed else most


def chain(
    geometry: Geometry, pre: Sequence[PreAggregation], f: int
) -> tuple[Geometry, Float | None]:
    """Geometry after all pre-aggregations, and their product as one matrix (k, n); None if none."""
    total: Float | None = None
    for part in pre:
        matrix = part.matrix(geometry, f)
        geometry = geometry.mix(matrix)
        total = matrix if total is None else matrix @ total
    return geometry, total


def coefficients(
    geometry: Geometry, rule: GramRule, pre: Sequence[PreAggregation] = (), *, f: int
) -> Float:
    """Affine coefficients (n + publics,) of a whole chain over the original rows, sum 1.

    `f` is the f in force; the parts must already carry it (`with_f`). For callers that hold only
    the geometry, such as a server that never sees a row. ValueError from the parts' checks, and
    when a part read what was not measured.
    """
    check_chain(rule, pre, geometry.n, f)
    mixed, matrix = chain(geometry, pre, f)
    weights = rule.coefficients(mixed, f)
    if not np.isfinite(weights).all():
        raise ValueError(
            f"{rule.name} gave a weight that is no finite number: the rule, or a pre-aggregation "
            "before it, read more than it declares. Let its `needs` say so"
        )
    if matrix is None:
        return weights
    return np.concatenate([weights[: mixed.n] @ matrix, weights[mixed.n :]])


def check_chain(rule: Rule, pre: Sequence[PreAggregation], n: int, f: int) -> None:
    """ValueError when some part's promise does not hold at (n, f)."""
    for part in pre:
        part.check(n, f)
    rule.check(n, f)


def whole_number(owner: str, field: str, value: Any, least: int) -> None:
    """ValueError unless `value` is an int, not a bool, of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{owner} needs a whole {field} >= {least}, got {value!r}")


def positive(owner: str, field: str, value: Any, *, zero: bool = False) -> None:
    """ValueError unless `value` is a finite real number above 0, or 0 itself where allowed."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        bound = ">= 0" if zero else "> 0"
        raise ValueError(f"{owner} needs a finite {field} {bound}, got {value!r}")


def check_minority(owner: str, n: int, f: int | None, own: int | None = None) -> None:
    """ValueError unless 2f < n; `own` is the f of the rule itself, which `f` must not contradict.

    Without either f nothing but n >= 1 is asked.
    """
    f = _agreed(owner, f, own)
    if not 0 <= 2 * f < n:
        raise ValueError(f"{owner} needs 2f < n, got f={f}, n={n}")


def check_krum(owner: str, n: int, f: int | None, own: int) -> None:
    """ValueError unless n >= 2f + 3 (Blanchard et al. 2017, where it reads 2f + 2 < n)."""
    f = _agreed(owner, f, own)
    if n < 2 * f + 3:
        raise ValueError(f"{owner} needs n >= 2f + 3, got f={f}, n={n}")


def _agreed(owner: str, f: int | None, own: int | None) -> int:
    if f is not None and own is not None and f != own:
        raise ValueError(f"{owner} has f={own}, but the f in force is {f}")
    return own if own is not None else (f or 0)


def _with_f(part: T, f: int) -> T:
    # Any: that a part is a frozen dataclass is a promise of its class, not of its base.
    value: Any = part
    if any(field.name == "f" for field in fields(value)):
        value = replace(value, f=f)
    return cast(T, value)

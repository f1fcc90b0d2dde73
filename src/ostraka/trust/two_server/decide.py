"""What the two servers compute in the clear: who is left, the rule on the small matrix, the step.

Pure functions of public values and of what was opened, so that server 0, server 1 and a plaintext
twin give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ostraka.algebra.fixed import squared_norm
from ostraka.algebra.ops import Float
from ostraka.algebra.ring import Ring
from ostraka.net import Abort, Timeout
from ostraka.protocols.linear_image import Opened
from ostraka.protocols.opening import Weights
from ostraka.protocols.upload import Roster, SeedPart
from ostraka.rules.api import check_chain, coefficients
from ostraka.rules.bounds import remaining
from ostraka.rules.gram import ORIGIN, REFERENCE, Geometry
from ostraka.rules.guard import SLACK, contributors, guarded
from ostraka.rules.integer_weights import (
    WEIGHT_BITS,
    IntegerWeights,
    combine,
    quantise,
    round_off,
    shift_bits,
)
from ostraka.trust.two_server.budget import largest_word
from ostraka.trust.two_server.plan import Plan


class RoundEndsError(Abort):
    """Too few are left for the rule, the cohort or the guard: this round opens no aggregate."""


class NobodyThereError(Timeout):
    """No worker sent anything."""


ENDINGS = (RoundEndsError, NobodyThereError)


@dataclass
class Standing:
    """Whose vectors take part, and who fell out for what, while the checks of a round go on.

    ``dropped`` maps a worker to its reason code. `require` ends the round when too few are left.
    """

    plan: Plan
    round: int
    roster: Roster
    dropped: dict[str, str] = field(default_factory=dict)

    def drop(self, passed: npt.NDArray[np.bool_], reason: str) -> None:
        """Take out the active workers that failed a check; the first reason stays."""
        for name, good in zip(self.roster.active, passed.tolist(), strict=True):
            if not good:
                self.dropped.setdefault(name, reason)

    @property
    def survivors(self) -> list[int]:
        """Positions, among the active workers, of those that passed every check so far."""
        return [i for i, name in enumerate(self.roster.active) if name not in self.dropped]

    @property
    def names(self) -> tuple[str, ...]:
        """The survivors' names."""
        return tuple(self.roster.active[i] for i in self.survivors)

    @property
    def refused(self) -> dict[str, tuple[str, str]]:
        """Everybody refused for content: reason code and detail."""
        return {**self.roster.refused, **{name: (why, "") for name, why in self.dropped.items()}}

    @property
    def f(self) -> int:
        """The rule's f in force: lowered by refused workers, and by missing ones where agreed."""
        return self._remaining()[1]

    @property
    def guard_f(self) -> int:
        """The f of the guard: the file's, lowered only by workers refused for content."""
        return max(0, self.plan.f - len(self.refused))

    def require(self) -> None:
        """RoundEndsError unless rule and cohort have enough; NobodyThereError when nobody sent."""
        plan = self.plan
        if not self.roster.active and not self.roster.refused:
            where = (("round", self.round),)
            raise NobodyThereError(where, SeedPart.kind, self.roster.missing)
        try:
            n, f = self._remaining()
            check_chain(plan.rule.with_f(f), [part.with_f(f) for part in plan.pre], n, f)
            if n < plan.min_cohort:
                raise ValueError(f"{n} vectors are left, fewer than min_cohort = {plan.min_cohort}")
        except ValueError as refusal:
            raise RoundEndsError(self.ending(refusal)) from refusal

    def ending(self, why: object) -> str:
        """Why the round ended, with the workers' names."""
        told = {name: reason for name, (reason, _) in self.refused.items()}
        told |= dict.fromkeys(self.roster.missing, "missing")
        who = ", ".join(f"{name} {reason}" for name, reason in told.items())
        return f"round {self.round} ended: {why}" + (f" ({who})" if who else "")

    def _remaining(self) -> tuple[int, int]:
        plan = self.plan
        missing = len(self.roster.missing)
        return remaining(plan.n, plan.f, len(self.refused), missing, plan.dropouts)


@dataclass(frozen=True)
class PublicRow:
    """The last aggregate as a row on the workers' grid: words uint64 (d,) and squared norm."""

    words: Ring
    squared_norm: int

    @classmethod
    def of(cls, plan: Plan, previous: npt.NDArray[np.float64]) -> PublicRow:
        """The nearest row that is no longer than the workers' bound."""
        words = plan.fixed.encode(previous)
        return cls(words, squared_norm(words))


def geometry_of(plan: Plan, opened: Opened, n: int, public: PublicRow | None) -> Geometry:
    """The geometry of the n surviving rows, exact, from the opened integers."""
    unit = plan.fixed.unit
    to_publics = _to_publics(opened, public)
    if to_publics is None:
        if opened.distances is None:
            return Geometry.blank(n)
        return Geometry.from_distances(opened.distances, unit=unit)
    names = (ORIGIN, REFERENCE)[: to_publics.shape[1]]
    own = 0 if public is None else public.squared_norm
    between = np.array([[0, own], [own, 0]])[: len(names), : len(names)]
    if opened.distances is None:
        return Geometry.from_publics(to_publics, between, names, unit)
    whole = np.block([[opened.distances, to_publics], [to_publics.T, between]])
    return Geometry.from_distances(whole, names, unit)


def _to_publics(opened: Opened, public: PublicRow | None) -> npt.NDArray[np.int64] | None:
    """Squared distances (n, 1 or 2) to the origin and to the public row."""
    if opened.norms is None:
        return None
    columns = [opened.norms]
    if opened.products is not None and public is not None:
        columns.append(opened.norms - 2 * opened.products + public.squared_norm)
    return np.stack(columns, axis=1)


def decide(plan: Plan, standing: Standing, geometry: Geometry) -> Weights:
    """The rule, the guard, and integer weights of the survivors. RoundEndsError by the guard."""
    f = standing.f
    rule = plan.rule.with_f(f)
    try:
        exact = coefficients(geometry, rule, [part.with_f(f) for part in plan.pre], f=f)
        safe = guarded(exact, geometry, rule, standing.guard_f, plan.min_contributors)
        chosen = quantise(safe.coefficients, geometry.n, rule.centre is None, rule.weight_bound)
        plan.budget.require(chosen.values, chosen.count)
    except ValueError as refusal:
        raise RoundEndsError(standing.ending(refusal)) from refusal
    return Weights(chosen.values, chosen.count, safe.capped, True)


def check_weights(plan: Plan, standing: Standing, weights: Weights) -> None:
    """Server 0's own look at what server 1 has decided, before anything of it is opened.

    Abort when these are no integer weights of any rule, or when too few rows cover for one another
    in their sum, where that can be seen from the weights alone (not around a public centre).
    """
    try:
        IntegerWeights(weights.values, weights.count)
        plan.budget.require(weights.values, weights.count)
    except ValueError as refusal:
        raise Abort(f"{plan.server_1} sent weights that no rule gives: {refusal}") from refusal
    if plan.rule.centre is not None:
        return
    covered = contributors(np.abs(weights.values).astype(np.float64), standing.guard_f)
    if covered < plan.min_contributors * (1.0 - SLACK):
        raise Abort(
            f"{plan.server_1} sent weights under which only {covered:.2f} updates cover for one "
            f"another, fewer than min_contributors = {plan.min_contributors}: nothing was opened"
        )


def dither_bits(plan: Plan, count: int) -> int | None:
    """The bits s that the dither covers, or None where equal weights need none."""
    return None if count else shift_bits(plan.rule.weight_bound)


def settled(plan: Plan, total: Ring, count: int) -> npt.NDArray[np.int64]:
    """The aggregate's words, int64 (d,), from the opened sum, which is overwritten."""
    bits = dither_bits(plan, count)
    return total.view(np.int64) if bits is None else round_off(total, bits)


def aggregate_of(
    plan: Plan,
    words: npt.NDArray[np.int64],
    values: npt.NDArray[np.int64],
    count: int,
    previous: npt.NDArray[np.float64],
    sender: str,
) -> Float:
    """The aggregate float64 (d,) that both servers go on from.

    Abort when a word is larger than any honest aggregate's: then ``sender``, the other one, lied.
    """
    limit = largest_word(values, count, plan.fixed.norm_limit, dither_bits(plan, count))
    if words.max(initial=0) > limit or words.min(initial=0) < -limit:
        raise Abort(f"{sender} sent a sum out of range: a word beyond {limit}")
    centre = None
    if plan.rule.centre is not None and plan.rule.uses_reference:
        centre = plan.fixed.decode(PublicRow.of(plan, previous).words)
    return combine(words, IntegerWeights(values, count), plan.fixed.unit, centre)


def influence(names: tuple[str, ...], values: npt.NDArray[np.int64], count: int) -> dict[str, Any]:
    """Every survivor's weight, by name."""
    whole = count or 1 << WEIGHT_BITS
    return {name: value / whole for name, value in zip(names, values.tolist(), strict=True)}


def told(standing: Standing, weights: Weights) -> Mapping[str, Any]:
    """What is to be said of a round, as JSON."""
    return {
        "refused": {name: list(why) for name, why in standing.refused.items()},
        "missing": list(standing.roster.missing),
        "capped": weights.capped,
    }

"""What the parties of `two_server` agree on beforehand, and what its two servers keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ostraka.algebra.fixed import FixedPoint
from ostraka.algebra.ring import Ring
from ostraka.protocols.compare import triples_needed
from ostraka.protocols.gram_sharing import AHEAD, BATCH
from ostraka.protocols.linear_image import Image
from ostraka.protocols.public_model import model_hash
from ostraka.protocols.upload import Context, Turn
from ostraka.protocols.wrap_check import projections
from ostraka.rules import RULES
from ostraka.rules.api import GramRule, PreAggregation, Rule, check_chain, measured, needs
from ostraka.rules.gram import ORIGIN, REFERENCE
from ostraka.rules.guard import check_start
from ostraka.sharing.additive import largest_block
from ostraka.trust.public_step import Vector
from ostraka.trust.two_server.budget import Budget

MOST_ATTEMPTS = 3
"""Attempts of one round in which the rule may have read something of the updates."""


_HEADER_BYTES = 4096


@dataclass(frozen=True)
class Plan:
    """What all parties agree on; `check` refuses what cannot hold.

    ``keys`` maps the workers, in order, to their raw public keys (32 bytes); ``session`` names the
    run (32 bytes); ``f``, ``dropouts``, ``rate``, ``deadline_s`` and ``max_norm`` as in `trusted`;
    ``patience_s``: how long operators wait for one another; ``min_cohort``: fewest workers of a
    round that opens anything; ``min_contributors``: see rules.guard; ``initial``: the hash of the
    first model (public_model.model_hash), where the parties know it beforehand.
    """

    keys: Mapping[str, bytes]
    server_0: str
    server_1: str
    dealer: str
    session: bytes
    rounds: int
    rule: GramRule
    pre: tuple[PreAggregation, ...]
    f: int
    dropouts: int | None
    rate: Callable[[int], float]
    deadline_s: float
    patience_s: float
    max_norm: float
    fixed: FixedPoint
    min_contributors: int
    min_cohort: int
    initial: bytes | None = None

    @property
    def workers(self) -> tuple[str, ...]:
        """All workers in order."""
        return tuple(self.keys)

    @property
    def n(self) -> int:
        """How many workers there are."""
        return len(self.keys)

    @property
    def projections(self) -> int:
        """K of the wraparound check."""
        return projections(self.n, self.rounds * MOST_ATTEMPTS)

    @property
    def image(self) -> Image:
        """What the rule and its pre-aggregations are shown."""
        return image_of(self.rule, self.pre)

    @property
    def budget(self) -> Budget:
        """The room that the rule's weights need in what is opened."""
        return Budget.of(self.rule, self.n)

    def context(self, turn: Turn) -> Context:
        """What the uploads of a turn are bound to."""
        return Context(self.session, turn, self.keys)

    def check(self) -> None:
        """ValueError with a sentence for numbers with which a promise cannot hold."""
        check_chain(self.rule, self.pre, self.n, self.f)
        check_start(self.rule, self.n, self.f, self.dropouts, self.min_contributors, self.pre)
        if self.fixed.sigma and self.max_norm < self.fixed.bound:
            raise ValueError(
                f"max_norm = {self.max_norm:g} is less than bound = {self.fixed.bound:g}, which "
                "honest updates reach with their noise: all would be refused; raise max_norm"
            )
        least = self.f + self.min_contributors
        if not least <= self.min_cohort <= self.n:
            raise ValueError(
                f"min_cohort must be at least f + min_contributors = {least} and at most "
                f"n = {self.n}, got {self.min_cohort}"
            )
        self.budget.check(self.fixed)

    def most_bytes(self) -> int:
        """No message of this trust model is longer."""
        n, d, tests = self.n, self.fixed.d, 2 * self.projections
        words = (
            d,  # a share, a sum, an aggregate
            largest_block(n, d),
            4 * n * tests,  # the masked operands of two layers of ANDs
            triples_needed(n, tests),
            n * (n + 3) // 2,  # cross terms, or an image with norms and products
        )
        return 8 * max(words) + _HEADER_BYTES

    def most_unread(self) -> int:
        """Bytes of one sender's unread mail that an honest one may come to."""
        ahead = (AHEAD + 1) * BATCH * (8 * largest_block(self.n, self.fixed.d) + _HEADER_BYTES)
        return ahead + 2 * self.most_bytes()


def image_of(rule: Rule, pre: tuple[PreAggregation, ...] = ()) -> Image:
    """The least that a chain reads. ValueError for a rule that works coordinate by coordinate."""
    seen = measured(needs(gram_rule(rule), pre), rule.uses_reference)
    return Image(
        distances=seen.pairs, norms=ORIGIN in seen.publics, products=REFERENCE in seen.publics
    )


def _fitting() -> list[str]:
    """The names of the rules that this trust model runs."""
    return sorted(name for name, rule in RULES.items() if issubclass(rule, GramRule))


def gram_rule(rule: Rule) -> GramRule:
    """The rule, if this trust model can run it. ValueError with the reason where it cannot."""
    if not isinstance(rule, GramRule):
        raise ValueError(
            f"{rule.name} works on each coordinate by itself, and two-server runs only rules that "
            "commute with rotations, since nobody there sees a coordinate: use it under trusted "
            f"(or, later, replicated), or choose one of {', '.join(_fitting())}"
        )
    return rule


@dataclass(frozen=True)
class Prepared:
    """Server 0's record before the commit point: its part of the sum, and what it is a sum of.

    ``values`` int64, one for each of ``names``; ``count`` as in rules.integer_weights; ``own``
    uint64 (d,); ``told``: what is to be said of the round, as JSON.
    """

    attempt: int
    names: tuple[str, ...]
    values: npt.NDArray[np.int64]
    count: int
    own: Ring
    told: Mapping[str, Any]


@dataclass(frozen=True)
class Lost:
    """A newest model that was stored and is damaged, though its state's small facts are not.

    ``model``: its hash (public_model.model_hash). ``prepared``: server 0's part of the sum that it
    follows from, where that record is still the newest one.
    """

    model: bytes
    prepared: Prepared | None


@dataclass(frozen=True)
class State0:
    """All that server 0 must keep; ``round`` is the next one to finish.

    ``attempt``: the last one opened; ``opened``: those of this round in which the rule may have
    read something; ``previous`` float64 (d,): the last aggregate; ``words`` int64 (d,): those that
    it follows from, for server 1, where that has fallen behind, empty where they are not known;
    ``passed_over``: the round before this one opened no aggregate; ``received``: server 1 has sent
    its words for ``prepared``, so it has committed to that attempt; ``lost``: ``model``,
    ``previous`` and ``words`` are those of the round before, and server 1 must help.
    """

    round: int
    attempt: int
    opened: int
    model: Vector
    previous: npt.NDArray[np.float64]
    words: npt.NDArray[np.int64]
    prepared: Prepared | None = None
    passed_over: bool = False
    received: bool = False
    lost: Lost | None = None

    @property
    def model_round(self) -> int:
        """The round that ``model`` is shown in."""
        return self.round - (self.lost is not None)

    @property
    def model_hash(self) -> bytes:
        """The hash of this round's model, also of one that is lost."""
        return model_hash(self.model) if self.lost is None else self.lost.model

    @classmethod
    def initial(cls, model: Vector) -> State0:
        """Before the first round."""
        d = model.size
        return cls(0, 0, 0, model, np.zeros(d), np.zeros(d, np.int64))


@dataclass(frozen=True)
class Committed:
    """Server 1's record of the commit point: the very words that it sends, and their weights."""

    round: int
    attempt: int
    names: tuple[str, ...]
    values: npt.NDArray[np.int64]
    count: int
    words: Ring


@dataclass(frozen=True)
class State1:
    """All that server 1 must keep; ``round`` is the next one to finish, ``boot`` counts processes.

    ``committed`` may be of this round (its aggregate is still to come) or of the last one.
    """

    boot: int
    round: int
    model: Vector
    previous: npt.NDArray[np.float64]
    committed: Committed | None = None

    @classmethod
    def initial(cls, model: Vector) -> State1:
        """Before the first round."""
        return cls(0, 0, model, np.zeros(model.size))

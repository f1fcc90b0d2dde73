"""Invariant: what start-up accepts never wraps, up to the last unit; one unit more is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka.algebra.fixed import FixedPoint
from ostraka.algebra.ops import Float
from ostraka.algebra.ring import Ring
from ostraka.net import Abort
from ostraka.rules import RULES, GeometricMedian, GramRule
from ostraka.rules.api import Needs
from ostraka.rules.gram import Geometry
from ostraka.rules.integer_weights import round_off
from ostraka.trust.two_server import Budget
from ostraka.trust.two_server.budget import largest_word
from ostraka.trust.two_server.decide import aggregate_of
from tests.protocols.two_server_world import Cheat, Upload, World, make_plan, names

ONE = 1 << 24


def grid(power: int) -> FixedPoint:
    """A grid whose longest row has exactly 2^power units: (2^power - 1 + sqrt(4) / 2)^2."""
    fixed = FixedPoint(4, 0, float((1 << power) - 1))
    assert fixed.norm_limit == 1 << 2 * power
    return fixed


def brimful(power: int, n: int, extra: int = 0) -> Budget:
    """What leaves no unit free: (2^24 S + n) 2^power + 2^s = 2^63, with weights of at most W."""
    weight_bits = 39 - power - (n.bit_length() - 1) + extra
    whole = (1 << 63 - power) - (1 << 24 + weight_bits - power)
    return Budget("a rule", n, float(1 << weight_bits), (whole - n) / ONE, True)


cases = st.tuples(st.integers(11, 26), st.integers(2, 40), st.integers(0, 1))


@settings(max_examples=40)
@given(cases)
def test_start_up_goes_to_the_last_unit_and_no_further(case: tuple[int, int, int]) -> None:
    fixed, full = grid(case[0]), brimful(*case)
    assert full.needed(fixed.norm_limit) == 1 << 63
    full.check(fixed)
    for more in (
        replace(full, sum_bound=full.sum_bound + 1 / ONE),
        replace(full, n=full.n + 1),
        replace(full, weight_bound=full.weight_bound * 1.001),
    ):
        with pytest.raises(ValueError, match=r"may not fit in 64 bits: .* more than 2\^63: "):
            more.check(fixed)
    if case[0] < 26:  # else a longer bound is no grid at all
        assert not full.holds(replace(fixed, clip=fixed.clip * (1 + 1e-6)))


@settings(max_examples=60)
@given(cases, st.integers(0, 2**32), st.sampled_from([-1, 1]))
def test_just_inside_every_dither_gives_the_exact_result(
    case: tuple[int, int, int], seed: int, sign: int
) -> None:
    """The largest weights on the longest rows, by words modulo 2^64 and by whole numbers."""
    power, n, _ = case
    full = brimful(*case)
    share, rest = divmod(round(full.sum_bound * ONE) + n, n)
    weights = np.array([share + (i < rest) for i in range(n)])
    full.require(weights, 0)
    rng = np.random.default_rng(seed)
    shares = rng.integers(0, 1 << 64, n, dtype=np.uint64)
    rows = np.full(n, sign * (1 << power), np.int64).view(np.uint64) - shares
    of_0 = (weights.view(np.uint64) * shares).sum(dtype=np.uint64, keepdims=True)
    of_1 = (weights.view(np.uint64) * rows).sum(dtype=np.uint64, keepdims=True)

    s = full.shift
    half = 1 << s - 1
    exact = sign * sum(weights.tolist()) << power
    assert abs(exact) == full.largest(1 << 2 * power)
    for u in (-half, -1, 0, half - 1, int(rng.integers(-half, half))):
        z = of_0 + of_1 + np.array([u], np.int64).view(np.uint64)
        (got,) = round_off(z, s).tolist()
        assert got == (exact + u + half >> s) << s - 24
        assert abs(got) <= largest_word(weights, 0, 1 << 2 * power, s)


def test_one_unit_more_would_wrap() -> None:
    """The limit is that of the arithmetic: 2^63 - 2^s is rounded well, one more is not."""
    for s in (24, 30, 50):
        top, u = (1 << 63) - (1 << s), (1 << s - 1) - 1
        for value, right in ((top, True), (top + 1, False)):
            z = np.array([(value + u) % (1 << 64)], np.uint64)
            assert (round_off(z, s)[0] == (value + u + (1 << s - 1) >> s) << s - 24) == right


def test_the_sentence_names_the_numbers_and_the_frac_bits_that_fit() -> None:
    budget, fixed = Budget("far", 9, 16.0, 2.0**14, True), FixedPoint(100, 20, 63.0)
    with pytest.raises(ValueError, match="the largest frac_bits that fits is 19") as refusal:
        budget.check(fixed)
    told = str(refusal.value)
    for part in ("what far opens", "up to 16 ", "16384 times", "6.606e+07 units", "n = 9", "2^28"):
        assert part in told
    fits = budget.fitting(fixed)
    assert fits == replace(fixed, frac_bits=19)
    assert budget.holds(fits)
    with pytest.raises(ValueError, match="no frac_bits from 0 on fits: lower clip"):
        Budget("far", 9, 16.0, 2.0**60, True).check(fixed)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_bounds_that_are_no_bounds_are_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="amplifier declares sum_bound"):
        Budget.of(amplifier(5, bound, 1.0), 5)
    with pytest.raises(ValueError, match="weight bound must be finite and above 0"):
        Budget.of(amplifier(5, 1.0, bound), 5)


def test_every_rule_of_this_version_fits_on_every_grid() -> None:
    largest = FixedPoint(1 << 32, 26, 1.0)
    for rule in RULES.values():
        if issubclass(rule, GramRule):
            Budget(rule.name, 1 << 20, rule.weight_bound, rule.sum_bound, True).check(largest)


@pytest.mark.parametrize("values", [[ONE * 16 + 2], [-ONE * 16 - 2, 5], [-(2**63)]])
def test_weights_beyond_the_rules_own_bound_are_refused(values: list[int]) -> None:
    budget = Budget("r", 2, 16.0, 1.0, True)
    budget.require(np.array([ONE * 16, -ONE * 16]), 0)
    with pytest.raises(ValueError, match="above r's bound 16"):
        budget.require(np.array(values), 0)


def test_weights_that_sum_to_more_than_declared_are_refused_where_they_must_sum_to_1() -> None:
    mixed, around = Budget("r", 2, 4.0, 3.0, False), Budget("r", 2, 4.0, 3.0, True)
    mixed.require(np.array([2 * ONE, -ONE]), 0)
    around.require(np.array([3 * ONE, -2 * ONE]), 0)  # the rows may be short
    with pytest.raises(ValueError, match="sum to 5 are above r's bound 3"):
        mixed.require(np.array([3 * ONE, -2 * ONE]), 0)


# --- in a whole round -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled() -> None:
    """Load the kernels before the clock of any test runs."""
    World(make_plan(3, 4, GeometricMedian())).finish()


def amplifier(n: int, total: float, bound: float) -> GramRule:
    """Every row times total / n: no rule that anybody wants, but one that fills the words."""

    @dataclass(frozen=True)
    class Amplifier(GramRule):
        name = "amplifier"
        centre = "public"
        weight_bound = bound
        sum_bound = total
        needs = Needs.NORMS

        def check(self, n: int, f: int | None = None) -> None:
            """Any n."""

        def coefficients(self, geometry: Geometry, f: int) -> Float:
            """Equal weights; the origin takes the rest."""
            weights = np.full(geometry.n, total / n)
            return np.append(weights, 1.0 - weights.sum())

    return Amplifier()


def longest(sign: int) -> Cheat:
    """Uploads the longest row that the norm check lets pass."""

    def cheat(upload: Upload) -> None:
        words: Ring = np.zeros(4, np.uint64)
        words[1] = (sign << 20) % (1 << 64)
        upload.send_all(upload.parts(words))

    return cheat


def opened(total: float, sign: int, bound: float = 2.0**16) -> World:
    """A round of eight rows of 2^20 units under weights that sum to ``total``."""
    plan = make_plan(8, 4, amplifier(8, total, bound), fixed=grid(20))
    return World(plan, cheats=dict.fromkeys(names(8), longest(sign)))


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.usefixtures("compiled")
def test_a_round_at_the_limit_opens_the_exact_aggregate(sign: int) -> None:
    total = brimful(20, 8).sum_bound
    state = opened(total, sign).finish()
    step = 1 << 16  # of the dither, in units of the grid
    assert state.words[1] % step == 0
    assert abs(state.words[1] - sign * total * (1 << 20)) <= step
    assert (np.abs(state.words[[0, 2, 3]]) <= step).all()
    assert state.previous[1] == state.words[1]
    with pytest.raises(ValueError, match="what amplifier opens may not fit in 64 bits"):
        opened(total + 2.0**-23, sign)


@pytest.mark.usefixtures("compiled")
def test_without_the_start_up_check_such_a_round_ends_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sum has wrapped: a large positive aggregate is opened as a negative one."""
    monkeypatch.setattr(Budget, "check", lambda *args: None)
    total = brimful(20, 8).sum_bound
    state = opened(1.1 * total, 1, 2.0**17).finish()
    assert state.words[1] < 0


def test_a_sum_is_refused_from_the_first_word_that_no_rows_give() -> None:
    plan = make_plan(8, 4, GeometricMedian(), fixed=grid(20))
    weights = np.array([ONE // 2, -ONE, 3])
    most = largest_word(weights, 0, plan.fixed.norm_limit, 24)
    assert most == -(-(ONE * 3 // 2 + 3 << 20) // ONE)
    assert largest_word(np.array([1, 1, 0]), 2, plan.fixed.norm_limit, None) == 2 << 20
    for sign in (-1, 1):
        words = np.array([0, sign * most, 0, 0])
        aggregate_of(plan, words, weights, 0, np.zeros(4), "server-1")
        with pytest.raises(Abort, match="server-1 sent a sum out of range"):
            aggregate_of(plan, words + sign, weights, 0, np.zeros(4), "server-1")

"""No aggregate is nearly one worker's update, before or after its weights become integers."""

import math

import numpy as np
import pytest
import rule_twins as twins
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka import rules
from ostraka.rules.gram import Geometry
from ostraka.rules.guard import (
    MARGIN,
    SLACK,
    TooFewContributors,
    check_start,
    contributions,
    contributors,
    guarded,
)
from ostraka.rules.integer_weights import quantise

MEAN = rules.Mean()
CLIP = rules.CenteredClipping(1.0)


class Signed(rules.Mean):
    """A rule whose weights have both signs and reach 4."""

    weight_bound = 4.0


def twin_contributors(c, f):
    """Literally the page: sort, skip the f after the first, sum of squares over the largest one."""
    ordered = sorted((float(v) for v in c), reverse=True)
    total = ordered[0] ** 2 + sum(v**2 for v in ordered[f + 1 :])
    return total / ordered[0] ** 2


def whole(coefficients, n, rule):
    return quantise(coefficients, n, rule.centre is None, rule.weight_bound)


def opened(coefficients, geometry, rule, f):
    """Contributors of the integer weights: of what is really opened."""
    reals = whole(coefficients, geometry.n, rule).reals
    return contributors(contributions(reals, geometry, rule), f)


def plain(weights):
    """Weights, scaled to sum 1, of a rule without a public row."""
    weights = np.asarray(weights, dtype=np.float64)
    return weights / weights.sum(), Geometry.blank(len(weights))


def around(weights, distances):
    """Weights around the origin of rows at the given distances from it."""
    weights, distances = np.asarray(weights, float), np.asarray(distances, float)
    geometry = Geometry.from_publics(distances[:, None] ** 2, np.zeros((1, 1)), ("origin",))
    return np.append(weights, 1.0 - weights.sum()), geometry


@settings(max_examples=100)
@given(c=st.lists(st.floats(0, 1e3), min_size=1, max_size=12), f=st.integers(0, 5))
def test_contributors_are_those_of_the_definition(c, f):
    c = np.round(np.array(c), 6)
    if not c.any():
        assert contributors(c, f) == math.inf
        return
    assert contributors(c, f) == pytest.approx(twin_contributors(c, f), rel=1e-12)
    assert contributors(c[::-1] * 2.0**-900, f) == contributors(c, f)


@pytest.mark.parametrize("n", [3, 7, 10, 49])
def test_equal_rows_count_exactly(n):
    for f in range((n - 1) // 2 + 1):
        assert contributors(np.full(n, 1.0 / n), f) == n - f
        assert contributors(np.append(np.full(n, 0.1), 0.0), f) == n - f


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_contributions_must_be_lengths(bad):
    with pytest.raises(ValueError, match="finite and not negative"):
        contributors(np.array([1.0, bad]), 0)


def test_contributions_are_weights_times_the_distance_to_a_public_centre():
    x = np.random.default_rng(0).standard_normal((5, 3))
    v = np.ones(3)
    weights = np.array([0.1, -0.2, 0.0, 0.3, 0.2, 0.0, 0.6])
    geometry = Geometry.from_rows(x, reference=v)
    want = np.abs(weights[:5]) * np.linalg.norm(x - v, axis=1)
    np.testing.assert_allclose(contributions(weights, geometry, CLIP), want)
    want = np.abs(weights[:5]) * np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(contributions(weights, Geometry.from_rows(x), CLIP), want)
    np.testing.assert_array_equal(contributions(weights, geometry, MEAN), np.abs(weights[:5]))
    assert weights[1] == -0.2


@pytest.mark.parametrize(
    ("weights", "f", "least"),
    [
        ([0.3, *[0.7 / 99] * 99], 10, 3),
        ([0.3, *[0.7 / 99] * 99], 0, 3),
        ([0.5, *[0.05] * 10], 2, 3),
        ([0.4, 0.4, 0.4, *[0.01] * 7], 2, 3),
        ([1.0 - 9e-7, *[1e-7] * 9], 2, 3),
        ([1.0, *[1e-200] * 9], 3, 3),
        ([5, 4, 3, 2, 1], 1, 3),
        ([1.0, 1.0, 1.0, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9], 2, 3),
        ([0.9, 0.05, 0.03, 0.02], 0, 2),
        ([100.0, *range(1, 40)], 12, 20),
    ],
)
def test_a_dominant_contribution_is_lowered_to_the_largest_cap(weights, f, least):
    weights, geometry = plain(weights)
    before = weights.copy()
    assert contributors(weights, f) < least
    result = guarded(weights, geometry, MEAN, f, least)
    assert result.capped
    np.testing.assert_array_equal(weights, before)
    assert result.coefficients.sum() == pytest.approx(1.0, abs=1e-12)
    assert opened(result.coefficients, geometry, MEAN, f) >= least
    ratio = result.coefficients / weights
    lowered = ratio < ratio.max() * (1 - 1e-12)
    top = result.coefficients[lowered]
    assert (top == top[0]).all()
    assert (top[0] >= result.coefficients).all()
    higher = np.where(lowered, np.minimum(weights, top[0] / ratio.max() * 1.01), weights)
    assert contributors(higher, f) < least * (1 + 2 * MARGIN)


def test_the_cap_solves_its_equation():
    weights, geometry = plain([0.3, *[0.7 / 99] * 99])
    for f in (0, 5, 20):
        result = guarded(weights, geometry, MEAN, f, 3)
        got = contributors(result.coefficients, f)
        assert got == pytest.approx(3 * (1 + MARGIN), rel=1e-12)


def test_one_worker_at_the_geometric_median_does_not_end_the_round():
    rng = np.random.default_rng(0)
    honest = rng.standard_normal((9, 6))
    rule = rules.GeometricMedian()
    middle = rules.aggregate(honest, rule, f=2).vector
    geometry = Geometry.from_rows(np.vstack([honest, middle]))
    weights = rules.coefficients(geometry, rule, f=2)
    assert weights[9] > 0.99
    result = guarded(weights, geometry, rule, 2, 3)
    assert result.capped
    assert opened(result.coefficients, geometry, rule, 2) >= 3
    bare = Geometry.from_distances(geometry.distances)
    again = guarded(weights, bare, rule, 2, 3).coefficients
    np.testing.assert_array_equal(result.coefficients, again)


def test_two_silent_colluders_neither_end_the_round_nor_empty_it():
    """n = 2f + min_contributors and f rows of almost no weight: no margin can be had."""
    for tiny in (0.0, 1e-12, 1e-6, 1e-3):
        weights, geometry = plain([0.3, 0.25, 0.2, 0.15, 0.1, tiny, tiny])
        result = guarded(weights, geometry, MEAN, 2, 3)
        assert result.capped
        np.testing.assert_allclose(result.coefficients[:5], 0.2, atol=0.02)
        assert (result.coefficients[5:] <= 2.1 * tiny).all()
        assert opened(result.coefficients, geometry, MEAN, 2) >= 3 * (1 - SLACK)
        weights, geometry = around(
            [1e-2, 2e-2, 3e-2, 5e-2, 0.1, tiny, tiny], [4, 3, 2.5, 2, 1.5, 1, 1]
        )
        result = guarded(weights, geometry, CLIP, 2, 3)
        assert result.capped
        c = contributions(result.coefficients, geometry, CLIP)
        np.testing.assert_allclose(c[:5], c[0], rtol=0.02)
        assert c[0] >= 0.035
        assert opened(result.coefficients, geometry, CLIP, 2) >= 3 * (1 - SLACK)


@pytest.mark.parametrize("used", range(1, 6))
def test_too_few_contributors_end_the_round(used):
    weights, geometry = plain([5.0, 1.0, 1.0, 1.0, 1.0][:used] + [0.0] * (10 - used))
    if used >= 2 + 3:
        assert guarded(weights, geometry, MEAN, 2, 3).capped
        return
    with pytest.raises(TooFewContributors, match=rf"^{used} workers .* = 2 \+ 3:") as error:
        guarded(weights, geometry, MEAN, 2, 3)
    assert isinstance(error.value, ValueError)


def test_krum_needs_min_contributors_of_one():
    geometry = Geometry.from_rows(np.random.default_rng(0).standard_normal((9, 4)))
    weights = rules.coefficients(geometry, rules.Krum(2), f=2)
    with pytest.raises(TooFewContributors, match="1 workers contribute"):
        guarded(weights, geometry, rules.Krum(2), 2, 2)
    result = guarded(weights, geometry, rules.Krum(2), 2, 1)
    assert result.coefficients is weights
    assert not result.capped
    mixed = rules.coefficients(geometry, rules.Krum(2), [rules.NNM(2)], f=2)
    assert not guarded(mixed, geometry, rules.Krum(2), 2, 3).capped


def test_the_public_centre_takes_what_the_cap_leaves():
    weights, geometry = around([0.5, 0.1, -0.1, 0.1, 0.05], [8.0, 1.0, 2.0, 2.0, 1.0])
    result = guarded(weights, geometry, CLIP, 0, 3)
    assert result.capped
    got = result.coefficients
    np.testing.assert_array_equal(got[1:5], weights[1:5])
    assert 0 < got[0] < 0.5
    assert got[5] == pytest.approx(1 - got[:5].sum(), abs=1e-15)
    assert contributors(contributions(got, geometry, CLIP), 0) >= 3
    assert got[0] * 8 > 0.2


def test_a_capped_negative_weight_stays_negative():
    weights, geometry = around([-0.5, 0.1, -0.1, 0.1, 0.05], [8.0, 1.0, 2.0, 2.0, 1.0])
    got = guarded(weights, geometry, CLIP, 0, 3).coefficients
    assert -0.5 < got[0] < 0
    assert got.sum() == pytest.approx(1.0)
    weights = np.array([1.0, 0.6, 0.4, 0.3, -1.3])
    got = guarded(weights, Geometry.blank(5), Signed(), 0, 3).coefficients
    assert got[4] < 0
    assert -got[4] == got[0] > got[1]
    assert got.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("weights", "least"),
    [
        ([3.0, -1.4, -0.6], 3),
        ([3.0, -1.0, -1.0, -1.0, 1.0], 5),
        ([2.0, 0.5, 0.5, -1.0, -0.5, -0.5], 6),
        ([2.0, -1.05, 0.05], 2),
    ],
)
def test_capped_weights_that_cannot_be_scaled_to_one_end_the_round(weights, least):
    with pytest.raises(TooFewContributors, match="both signs"):
        guarded(np.array(weights), Geometry.blank(len(weights)), Signed(), 0, least)


def test_weights_are_judged_before_rounding_too():
    coefficients, geometry = around([0.1 + 1e-10, 0.1, 0.1], [1.0, 1.0, 1.0])
    assert opened(coefficients, geometry, CLIP, 0) == 3
    assert guarded(coefficients, geometry, CLIP, 0, 3).capped


def test_an_output_that_is_the_public_centre_opens_nothing():
    for weights in ([0.0] * 5, [0.2] * 5):
        coefficients, geometry = around(weights, [0.0] * 5)
        result = guarded(coefficients, geometry, CLIP, 1, 3)
        assert result.coefficients is coefficients
    coefficients, geometry = around([0.2] * 5, [1.0, 0.0, 0.0, 0.0, 0.0])
    with pytest.raises(TooFewContributors, match="1 workers contribute"):
        guarded(coefficients, geometry, CLIP, 0, 3)


def test_weights_too_small_for_integers_end_the_round():
    coefficients, geometry = around([4e-8, 4e-8, 4e-8, 4e-8, 1e-7], [1.0, 1.0, 1.0, 1.0, 1.1])
    with pytest.raises(TooFewContributors, match="24 bits"):
        guarded(np.array(coefficients), geometry, CLIP, 1, 4)
    coefficients, geometry = around([1e-9] * 5, [1.0, 1.0, 1.0, 1.0, 9.0])
    result = guarded(coefficients, geometry, CLIP, 0, 3)
    assert not whole(result.coefficients, 5, CLIP).values.any()


@st.composite
def weighings(draw):
    """(coefficients, geometry, rule, f, min_contributors): random, extreme and dominated ones."""
    n = draw(st.integers(3, 24))
    f = draw(st.integers(0, (n - 1) // 2))
    least = draw(st.integers(1, max(1, min(6, n - 2 * f))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["even", "wide", "top", "colluders", "zeros", "tiny", "geometric"]))
    weights = rng.uniform(0.1, 1.0, n)
    if kind == "wide":
        weights = 10.0 ** rng.uniform(-12, 0, n)
    elif kind == "top":
        weights[0] = 10.0 ** rng.uniform(0, 6)
    elif kind == "colluders":
        weights[: f + 1] = 50.0
    elif kind == "zeros":
        weights[rng.random(n) < 0.4] = 0.0
        weights[0] = 1.0
    elif kind == "tiny":
        weights[: n // 2] *= 1e-9
    elif kind == "geometric":
        weights = 0.5 ** np.arange(n)
    if draw(st.booleans()):
        return *plain(rng.permutation(weights)), MEAN, f, least
    distances = rng.permutation(10.0 ** rng.uniform(-1, 1, n))
    shrunk = rng.permutation(weights) / weights.max() / n
    return *around(shrunk * rng.choice([-1.0, 1.0, 1.0], n), distances), CLIP, f, least


@pytest.mark.slow
@settings(max_examples=600)
@given(case=weighings())
def test_the_guard_holds_for_the_integers_that_are_opened(case):
    coefficients, geometry, rule, f, least = case
    c = contributions(coefficients, geometry, rule)
    used = np.count_nonzero(c)
    before = contributors(c, f)
    try:
        result = guarded(coefficients, geometry, rule, f, least)
    except TooFewContributors:
        assert before < least or opened(coefficients, geometry, rule, f) < least
        assert used < f + least or whole(coefficients, geometry.n, rule).values.any()
        return
    got = contributions(result.coefficients, geometry, rule)
    considerable = np.sort(c)[::-1][f + least :]
    margin = (considerable**2).sum() > 1e-3 * np.sort(c)[::-1][f + least - 1] ** 2
    values = whole(result.coefficients, geometry.n, rule)
    fine = rule is MEAN or np.abs(values.values[coefficients[: geometry.n] != 0]).min() >= 2**10
    floor = least if margin and fine else least * (1 - SLACK)
    assert opened(result.coefficients, geometry, rule, f) >= floor
    assert contributors(got, f) >= floor
    assert result.coefficients.sum() == pytest.approx(1.0, abs=1e-9)
    assert ((result.coefficients == 0) == (coefficients == 0))[: geometry.n].all()
    assert (np.sign(result.coefficients) == np.sign(coefficients))[: geometry.n].all()
    assert result.capped == (result.coefficients is not coefficients)
    assert not (result.capped and before >= least * (1 + 2.0**-8) and rule is MEAN)


@pytest.mark.parametrize("name", ["mean", "multi-krum", "mda", "geometric-median"])
def test_the_integers_of_every_rule_pass_with_ties_and_outliers(name):
    rng = np.random.default_rng(1)
    for n, f in ((7, 2), (13, 4), (20, 0)):
        x = twins.make_rows(int(rng.integers(1000)), n, 6, "gauss")
        x[:f] *= 1e6
        rule = twins.one_of_each(f)[name]
        for pre in ((), (rules.NNM(f),)):
            geometry = Geometry.from_rows(x)
            weights = rules.coefficients(geometry, rule, pre, f=f)
            result = guarded(weights, geometry, rule, f, 3)
            assert opened(result.coefficients, geometry, rule, f) >= 3 * (1 - SLACK)


@pytest.mark.parametrize(
    ("rule", "n", "f", "dropouts", "least", "pre"),
    [
        (MEAN, 7, 2, None, 3, ()),
        (MEAN, 8, 2, 1, 3, ()),
        (MEAN, 3, 0, 0, 3, ()),
        (rules.Krum(2), 7, 2, None, 1, ()),
        (rules.Krum(2), 7, 2, None, 3, (rules.NNM(2),)),
        (rules.MultiKrum(2), 7, 2, 0, 3, ()),
        (rules.MultiKrum(2, 5), 9, 2, 0, 3, ()),
        (rules.MDA(3), 10, 3, 1, 3, ()),
    ],
)
def test_a_federation_that_can_hold_the_guard_may_start(rule, n, f, dropouts, least, pre):
    check_start(rule, n, f, dropouts, least, pre)
    with pytest.raises(ValueError, match=r"n - dropouts >= 2f \+ min_contributors, got"):
        check_start(rule, 2 * f + least - 1 + (dropouts or 0), f, dropouts, least, pre)


@pytest.mark.parametrize(
    ("rule", "least", "match"),
    [
        (rules.Krum(2), 2, "krum opens one worker's update.*write min_contributors = 1 to accept"),
        (rules.Krum(2), 3, "min_contributors=3 at f=2.*min_contributors = 1"),
        (rules.MultiKrum(2, 1), 3, "one worker's update"),
        (rules.MultiKrum(2, 4), 3, "mean of 4 updates.*write min_contributors = 2 to accept"),
        (MEAN, 0, "whole min_contributors >= 1"),
        (MEAN, 2.5, "whole min_contributors >= 1"),
    ],
)
def test_a_rule_that_opens_too_few_rows_is_refused_at_start(rule, least, match):
    with pytest.raises(ValueError, match=match):
        check_start(rule, 11, 2, None, least)

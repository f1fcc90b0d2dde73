"""Every rule equals its slow twin, on float32 and float64, with ties, offsets and all scales."""

import numpy as np
import pytest
import rule_twins as twins
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize

from ostraka import rules

SIMPLE = {
    "mean": twins.mean,
    "median": twins.median,
    "trimmed-mean": twins.trimmed_mean,
}
BY_DISTANCE = {
    "krum": (twins.krum, twins.krum_scores),
    "multi-krum": (twins.multi_krum, twins.krum_scores),
    "mda": (twins.mda, None),
}


def clear_gaps(values, f, unit):
    """Whether no two values are so near that rounding decides their order; exact ties are fine."""
    gaps = np.diff(np.sort(np.asarray(values).reshape(-1)))
    return bool(((gaps == 0) | (gaps > 1e-9 * unit)).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMPLE)
@settings(max_examples=200)
@given(case=twins.inputs())
def test_column_rules(name, case):
    x, f = case
    got = rules.aggregate(x, twins.one_of_each(f)[name], f=f).vector
    twins.agree(got, SIMPLE[name](x, f), x)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_DISTANCE)
@settings(max_examples=200)
@given(case=twins.inputs())
def test_distance_rules(name, case):
    x, f = case
    if name != "mda":
        f = min(f, (len(x) - 3) // 2)
    twin, scores = BY_DISTANCE[name]
    squared = twins.squared_distances(x)
    decided = squared if scores is None else scores(x, f)
    assume(clear_gaps(decided, f, squared.max()))
    got = rules.aggregate(x, twins.one_of_each(f)[name], f=f)
    twins.agree(got.vector, twin(x, f), x)
    assert abs(got.weights.sum() - 1) < 1e-12


@pytest.mark.slow
@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 9), d=st.integers(1, 3))
def test_distance_rules_on_integer_grids_break_ties_as_their_twins(seed, n, d):
    x = np.random.default_rng(seed).integers(0, 3, (n, d)).astype(np.float32)
    f = (n - 3) // 2
    for name, (twin, _) in BY_DISTANCE.items():
        got = rules.aggregate(x, twins.one_of_each(f)[name]).vector
        np.testing.assert_allclose(got, twin(x, f), rtol=0, atol=1e-6)


@pytest.mark.slow
@settings(max_examples=150)
@given(case=twins.inputs(), tau=st.sampled_from([0.1, 1.0, 30.0]), steps=st.integers(1, 4))
def test_centered_clipping(case, tau, steps):
    x, f = case
    tau *= twins.spread(x) + 1e-3
    rule = rules.CenteredClipping(tau, steps)
    twins.agree(rules.aggregate(x, rule, f=f).vector, twins.centered_clipping(x, f, tau, steps), x)
    reference = x[0] + x[-1] / 2
    got = rules.aggregate(x, rule, f=f, reference=reference).vector
    twins.agree(got, twins.centered_clipping(x, f, tau, steps, reference), x)


@pytest.mark.slow
@settings(max_examples=200)
@given(case=twins.inputs())
def test_nnm_before_other_rules(case):
    x, f = case
    squared = twins.squared_distances(x)
    assume(clear_gaps(squared, f, squared.max()))
    mixed = twins.nnm(x, f)
    for rule, want in (
        (rules.Mean(), twins.mean(mixed, f)),
        (rules.Median(), twins.median(mixed, f)),
        (rules.TrimmedMean(f), twins.trimmed_mean(mixed, f)),
        (rules.CenteredClipping(1.0), twins.centered_clipping(mixed, f)),
    ):
        twins.agree(rules.aggregate(x, rule, [rules.NNM(f)], f=f).vector, want, x)


def reference_median(x, nu):
    """Optimum of the smoothed objective by another method: Newton-like descent from many starts."""
    x = x.astype(np.float64)
    centre, size = np.median(x, axis=0), max(twins.spread(x), 1e-300)
    y = (x - centre) / size

    def objective(z):
        shift = z - y
        r = np.linalg.norm(shift, axis=1)
        small = nu / size
        value = np.where(r > small, r, r**2 / (2 * small) + small / 2).sum()
        return value, (shift / np.maximum(r, small)[:, None]).sum(axis=0)

    starts = [y.mean(axis=0), *y]
    tries = [
        optimize.minimize(objective, s, jac=True, method="BFGS", options={"gtol": 1e-13})
        for s in starts
    ]
    return centre + size * min(tries, key=lambda t: t.fun).x


@pytest.mark.slow
@settings(max_examples=150)
@given(case=twins.inputs(n_max=8), nu=st.sampled_from([1e-6, 1e-1]))
def test_geometric_median_reaches_the_least_sum(case, nu):
    x, f = case
    nu *= max(twins.spread(x), 1e-3)
    rule = rules.GeometricMedian(nu=nu, max_iterations=20000, tolerance=1e-14)
    weights = rules.aggregate(x, rule, f=f).weights
    got = weights @ x.astype(np.float64)
    want = twins.smoothed_sum(x, reference_median(x, nu), nu)
    have = twins.smoothed_sum(x, got, nu)
    rounding = 1e-15 * len(x) * float(np.abs(x).max())
    assert have <= want * (1 + 1e-9) + rounding
    assert (weights >= 0).all()


@pytest.mark.slow
@settings(max_examples=150)
@given(case=twins.inputs(n_min=5), nu=st.just(1e-6))
def test_geometric_median_at_its_defaults_is_near_the_least_sum(case, nu):
    x, f = case
    got = rules.aggregate(x, rules.GeometricMedian(), f=f).weights @ x.astype(np.float64)
    want = twins.smoothed_sum(x, reference_median(x, nu), nu)
    rounding = 1e-15 * len(x) * float(np.abs(x).max())
    assert twins.smoothed_sum(x, got, nu) <= want * (1 + 1e-3) + rounding


@pytest.mark.slow
def test_geometric_median_leaves_a_row_that_is_not_optimal():
    x = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.1], [0.3, -1.0]])
    x = np.vstack([x, [[1.0, 1.0]]]) * 1e3
    for row in range(len(x)):
        moved = x - x.mean(axis=0)
        moved[row] = 0.0  # the mean then lies near or on this row
        moved -= (moved.sum(axis=0) / (len(x) - 1))[None, :] * (np.arange(len(x)) != row)[:, None]
        assert np.abs(moved.mean(axis=0) - moved[row]).max() < 1e-9
        rule = rules.GeometricMedian(max_iterations=5000, tolerance=1e-13)
        got = rules.aggregate(moved, rule).vector
        want = twins.smoothed_sum(moved, reference_median(moved, 1e-6), 1e-6)
        assert twins.smoothed_sum(moved, got, 1e-6) <= want * (1 + 1e-10)
        hasty = rules.aggregate(moved, rules.GeometricMedian()).vector
        assert twins.smoothed_sum(moved, hasty, 1e-6) <= want * (1 + 1e-4)


def test_geometric_median_leaves_a_mean_that_lies_on_a_row():
    """The mean is row 0, better than every other row and yet not the optimum."""
    x = 1e3 * np.array([[0, 0], [4, 0], [-1, 1], [-1, -1], [-1, 1.125], [-1, -1.125]])
    got = rules.aggregate(x, rules.GeometricMedian()).vector
    want = twins.smoothed_sum(x, reference_median(x, 1e-6), 1e-6)
    assert want < 0.995 * twins.smoothed_sum(x, x[0], 1e-6)
    assert twins.smoothed_sum(x, got, 1e-6) <= want * (1 + 1e-6)


@pytest.mark.parametrize("m", [1, 3, 5])
def test_multi_krum_with_m(m):
    x = twins.make_rows(5, 9, 4, "gauss")
    got = rules.aggregate(x, rules.MultiKrum(3, m)).vector
    twins.agree(got, twins.multi_krum(x, 3, m), x)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 31, 64, 127, 128, 129, 160])
def test_wide_column_rules_over_several_blocks(n):
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, 8192 + 5)).astype(np.float32)
    f = (n - 1) // 3
    np.testing.assert_allclose(
        rules.aggregate(x, rules.Median()).vector, np.median(x, axis=0), rtol=1e-6, atol=1e-7
    )
    kept = np.sort(x.astype(np.float64), axis=0)[f : n - f].mean(axis=0)
    got = rules.aggregate(x, rules.TrimmedMean(f)).vector
    np.testing.assert_allclose(got, kept, rtol=1e-6, atol=1e-7)

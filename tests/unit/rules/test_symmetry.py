"""Gram rules commute with rotations and coordinate rules do not; all with shifts and renaming."""

import numpy as np
import pytest
import rule_twins as twins

from ostraka import rules

COORDINATE = {"median", "trimmed-mean"}
N, D, F = 11, 24, 3


def rotation(rng, d):
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(np.diagonal(r))


def chains():
    return [(name, pre) for name in rules.RULES for pre in ((), (rules.NNM(F),))]


def run(x, name, pre, **more):
    return rules.aggregate(x, twins.one_of_each(F)[name], pre, f=F, **more).vector


def hard_rows(rng):
    x = rng.standard_normal((N, D)) * rng.gamma(0.3, size=(1, D))
    x[:F] += 3.0 * rng.standard_normal(D)
    return x


@pytest.mark.parametrize(("name", "pre"), chains())
@pytest.mark.parametrize("seed", range(3))
def test_rotation_decides_the_family(name, pre, seed):
    rng = np.random.default_rng(seed)
    x, q = hard_rows(rng), rotation(rng, D)
    a, b = run(x, name, pre) @ q, run(x @ q, name, pre)
    residual = float(np.linalg.norm(a - b) / twins.spread(x))
    if name in COORDINATE and not pre:
        assert residual > 1e-3
    elif name not in COORDINATE:
        assert residual <= 1e-12


def test_coordinate_rules_are_far_from_commuting_on_sparse_rows():
    """Rows that are each large in a coordinate of their own: medians are 0, rotated ones not."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((N, 2)) @ np.ones((2, D)) + 5 * np.eye(N, D)
    x = np.abs(x)
    q = rotation(rng, D)
    for name in COORDINATE:
        a, b = run(x, name, ()) @ q, run(x @ q, name, ())
        assert np.linalg.norm(a - b) > 0.1 * np.linalg.norm(a)


@pytest.mark.parametrize(("name", "pre"), chains())
def test_order_of_rows_does_not_matter(name, pre):
    rng = np.random.default_rng(4)
    x = hard_rows(rng)
    for _ in range(3):
        order = rng.permutation(N)
        np.testing.assert_allclose(
            run(x[order], name, pre), run(x, name, pre), rtol=0, atol=1e-12 * twins.spread(x)
        )


@pytest.mark.parametrize(("name", "pre"), chains())
def test_a_common_shift_is_followed(name, pre):
    rng = np.random.default_rng(5)
    x, shift = hard_rows(rng), 1000 * rng.standard_normal(D)
    reference = np.zeros(D)
    a = run(x, name, pre, reference=reference) + shift
    b = run(x + shift, name, pre, reference=reference + shift)
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * twins.spread(x))


@pytest.mark.parametrize("name", sorted(rules.RULES.keys() - COORDINATE))
def test_weights_reproduce_the_vector(name):
    rng = np.random.default_rng(6)
    x, reference = hard_rows(rng), rng.standard_normal(D)
    got = rules.aggregate(x, twins.one_of_each(F)[name], f=F, reference=reference)
    rest = 1 - got.weights.sum()
    np.testing.assert_allclose(got.weights @ x + rest * reference, got.vector, atol=1e-12)
    assert got.influence is got.weights


@pytest.mark.parametrize("name", sorted(COORDINATE))
def test_influence_of_coordinate_rules_is_that_of_the_mixing(name):
    x = hard_rows(np.random.default_rng(7))
    plain = rules.aggregate(x, twins.one_of_each(F)[name], f=F)
    assert plain.weights is None
    assert plain.influence is None
    mixed = rules.aggregate(x, twins.one_of_each(F)[name], [rules.NNM(F)])
    assert mixed.weights is None
    assert mixed.influence.sum() == pytest.approx(1)
    assert mixed.influence.shape == (N,)

"""The geometry holds the same distances however it was built, and equal rows are equal in it."""

import tracemalloc

import numpy as np
import pytest
import rule_twins as twins
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka import rules
from ostraka.rules.gram import ORIGIN, REFERENCE, Geometry


@pytest.mark.slow
@settings(max_examples=150)
@given(case=twins.inputs())
def test_distances_and_norms_are_those_of_the_rows(case):
    x, _ = case
    reference = x[0] * 2
    geometry = Geometry.from_rows(x, reference=reference)
    wide = x.astype(np.float64)
    every = np.vstack([wide, np.zeros(x.shape[1]), reference.astype(np.float64)])
    want = ((every[:, None] - every[None]) ** 2).sum(axis=2)
    size = np.array([((row - np.median(wide, axis=0)) ** 2).sum() for row in every])
    allowed = 1e-12 * (size[:, None] + size[None]) + 1e-300
    assert (np.abs(geometry.squared - want) <= allowed).all()
    assert geometry.publics == (ORIGIN, REFERENCE)
    np.testing.assert_array_equal(geometry.norms, geometry.squared[: len(x), -2])
    assert (np.diagonal(geometry.squared) == 0).all()
    assert (geometry.squared == geometry.squared.T).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_equal_rows_have_equal_entries_bit_for_bit(dtype, offset):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((23, 3001)) + offset).astype(dtype)
    x[[5, 11, 22]] = x[2]
    x[20] = x[3]
    geometry = Geometry.from_rows(x)
    assert geometry.first.tolist() == [*range(5), 2, *range(6, 11), 2, *range(12, 20), 3, 21, 2]
    for i, j in ((2, 5), (2, 11), (2, 22), (3, 20)):
        assert geometry.squared[i, j] == 0
        assert geometry.squared[i].tobytes() == geometry.squared[j].tobytes()
        assert geometry.gram[i].tobytes() == geometry.gram[j].tobytes()


def test_rows_that_differ_in_the_last_bit_are_not_equal():
    x = np.ones((4, 70000), dtype=np.float32)
    x[3, -1] = np.nextafter(np.float32(1), np.float32(2))
    assert Geometry.from_rows(x).first.tolist() == [0, 0, 0, 3]


@pytest.mark.slow
@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8), far=st.sampled_from([1.0, 1e6]))
def test_from_distances_decides_as_from_rows(seed, n, far):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 5))
    f = (n - 1) // 2
    x[:f] *= far
    whole = Geometry.from_rows(x)
    bare = Geometry.from_distances(whole.distances)
    for name, rule in twins.one_of_each(min(f, max(0, (n - 3) // 2))).items():
        if name in ("centered-clipping", "median", "trimmed-mean"):
            continue
        own = rules.own_f(rule)
        force = f if own is None else own
        if name in ("krum", "multi-krum") and n < 2 * force + 3:
            continue
        for pre in ((), (rules.NNM(force),)):
            a = rules.coefficients(whole, rule, pre, f=force)[:n]
            b = rules.coefficients(bare, rule, pre, f=force)
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 0)),
        np.zeros((2, 3)),
        np.zeros(4),
        np.array([[0.0, 1.0], [2.0, 0.0]]),
        np.array([[1.0, 1.0], [1.0, 0.0]]),
        np.array([[0.0, -1.0], [-1.0, 0.0]]),
        np.array([[0.0, np.inf], [np.inf, 0.0]]),
        np.array([[0.0, np.nan], [np.nan, 0.0]]),
    ],
)
def test_from_distances_refuses_what_are_none(bad):
    with pytest.raises(ValueError, match="squared distances"):
        Geometry.from_distances(bad)


def test_from_distances_with_public_rows():
    x = np.random.default_rng(0).standard_normal((7, 3))
    whole = Geometry.from_rows(x, reference=np.ones(3))
    bare = Geometry.from_distances(whole.squared, whole.publics)
    rule = rules.CenteredClipping(0.5, 3)
    a = rules.coefficients(whole, rule, [rules.NNM(2)], f=2)
    np.testing.assert_allclose(rules.coefficients(bare, rule, [rules.NNM(2)], f=2), a, atol=1e-12)


@settings(max_examples=100)
@given(case=twins.inputs())
def test_mixing_the_geometry_is_mixing_the_rows(case):
    x, f = case
    geometry = Geometry.from_rows(x, reference=x[0])
    matrix = rules.NNM(f).matrix(geometry, f)
    mixed = geometry.mix(matrix)
    rows = matrix @ x.astype(np.float64)
    every = np.vstack([rows, np.zeros(x.shape[1]), x[0].astype(np.float64)])
    want = ((every[:, None] - every[None]) ** 2).sum(axis=2)
    size = max(((every - np.median(x, axis=0)) ** 2).sum(axis=1).max(), 1e-300)
    np.testing.assert_allclose(mixed.squared, want, rtol=0, atol=1e-10 * size)


def test_mixing_knows_equal_mixtures():
    x = np.random.default_rng(0).standard_normal((6, 4))
    x[3] = x[0]
    geometry = Geometry.from_rows(x)
    matrix = np.zeros((3, 6))
    matrix[0, [0, 1]] = matrix[1, [1, 3]] = matrix[2, [1, 2]] = 0.5
    mixed = geometry.mix(matrix)
    assert mixed.first.tolist() == [0, 0, 2]
    assert mixed.distances[0, 1] == 0


def test_a_point_close_to_a_row_keeps_its_digits():
    x = np.random.default_rng(0).standard_normal((6, 4))
    geometry = Geometry.from_rows(x)
    for power in (-3, -9, -13):
        point = np.zeros(7)
        point[1] = 1.0 - 10.0**power
        point[4] = 10.0**power
        want = 10.0 ** (2 * power) * ((x[4] - x[1]) ** 2).sum()
        assert geometry.from_point(point)[1] == pytest.approx(want, rel=1e-9, abs=0)


def test_public_rows_are_asked_for_by_name():
    with pytest.raises(ValueError, match="no public row 'reference'"):
        Geometry.from_rows(np.ones((2, 2))).index(REFERENCE)


def test_first_index_really_is_first_among_equal_rows():
    rng = np.random.default_rng(8)
    for _ in range(20):
        x = rng.standard_normal((9, 1000)).astype(np.float32)
        i, j = sorted(rng.choice(9, 2, replace=False))
        x[j] = x[i] = x.mean(axis=0)
        assert rules.aggregate(x, rules.Krum(2)).weights[i] == 1
        assert rules.aggregate(x, rules.MultiKrum(2, 1)).weights[i] == 1


@pytest.mark.parametrize("pre", [(), (rules.NNM(3),)])
@pytest.mark.parametrize("name", sorted(rules.RULES))
def test_extra_memory_is_a_few_blocks(name, pre):
    """Peak extra memory stays far below a float64 copy of the rows (n d 8 bytes)."""
    n, d = 12, 300_000
    x = np.zeros((n, d), dtype=np.float32)
    x[:, :50] = np.random.default_rng(0).standard_normal((n, 50))
    tracemalloc.start()
    try:
        rules.aggregate(x, twins.one_of_each(3)[name], pre, f=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * d + 6 * n * (1 << 14) * 8
    assert peak < 0.5 * n * d * 8

"""The geometry holds the same distances however it was built, and equal rows are equal in it."""

import tracemalloc

import numpy as np
import pytest
import rule_twins as twins
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka import rules
from ostraka.rules.api import measured
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
    bare = Geometry.from_distances(whole.squared[:n, :n])
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


@pytest.mark.parametrize("seed", range(30))
def test_ties_are_decided_alike_however_the_rows_were_measured(seed):
    """Mixtures around 4 e_i and 4 e_j are equally far from all the others but for rounding."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.standard_normal((6, 9)) / 3, 4 * np.eye(9)[[6, 3, 4, 0]]])
    x = np.rint(x[rng.permutation(10)] * 2**20) / 2**20
    units = (x * 2**20).astype(np.int64)
    whole = ((units[:, None] - units) ** 2).sum(axis=-1)
    measured = Geometry.from_rows(x), Geometry.from_distances(whole, unit=2.0**-20)
    for f in (1, 2, 3):
        for rule in (rules.Krum(f), rules.MultiKrum(f), rules.MDA(f)):
            a, b = (rules.coefficients(one, rule, (rules.NNM(f),), f=f)[:10] for one in measured)
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_a_median_that_is_not_unique_seldom_depends_on_how_the_rows_were_measured():
    """An even number of points on a line, as floats and on a grid of 2^-20.

    With distances cut to 32 bits every second one of these came out elsewhere.
    """
    rng, elsewhere = np.random.default_rng(0), 0
    for n in 50 * (4, 6, 8, 12):
        x = rng.standard_normal((n, 1))
        units = np.rint(x * 2**20).astype(np.int64)
        whole = ((units[:, None] - units) ** 2).sum(axis=-1)
        a, b = (
            rules.coefficients(one, rules.GeometricMedian(), f=1)[:n] @ x
            for one in (Geometry.from_rows(x), Geometry.from_distances(whole, unit=2.0**-20))
        )
        elsewhere += abs(float(a[0] - b[0])) > 0.01 * np.ptp(x)
    assert elsewhere <= 10


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


def on_a_grid(seed, n, bits=26):
    """Integer rows and their exact squared distances, origin and reference last, as Python ints."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-(1 << bits), 1 << bits, (n + 2, 3))
    rows[n] = 0
    every = [[int(v) for v in row] for row in rows]
    exact = [[sum((u - v) ** 2 for u, v in zip(a, b, strict=True)) for b in every] for a in every]
    return rows, exact


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_from_distances_subtracts_integers_exactly(dtype):
    n, unit = 7, 2.0**-20
    _, exact = on_a_grid(3, n)
    assert 2**54 < max(map(max, exact)) < 2**56
    squared = np.array(exact, dtype=dtype)
    geometry = Geometry.from_distances(squared, (ORIGIN, REFERENCE), unit)
    medians = [sorted(row[:n])[n // 2] for row in exact[:n]]
    centre = medians.index(min(medians))
    for i in range(n + 2):
        for j in range(n + 2):
            doubled = exact[i][centre] + exact[j][centre] - exact[i][j]
            assert geometry.gram[i, j] == doubled / 2
            assert geometry.squared[i, j] == float(exact[i][j])
    again = Geometry.from_distances(squared, (ORIGIN, REFERENCE), unit)
    assert again.gram.tobytes() == geometry.gram.tobytes()
    rounded = Geometry.from_distances(squared.astype(np.float64), (ORIGIN, REFERENCE), unit)
    assert (rounded.gram != geometry.gram).any()


def test_a_near_pair_beside_a_far_row_keeps_its_inner_products():
    x = np.array([[0, 0], [3, 1], [1, 2], [2**27, 5]])
    squared = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    geometry = Geometry.from_distances(squared)
    centre = x[int(np.flatnonzero(np.diagonal(geometry.gram) == 0)[0])]
    np.testing.assert_array_equal(geometry.gram, (x - centre) @ (x - centre).T)


@pytest.mark.parametrize("bad", [[[0, 2**62], [2**62, 0]], [[0, -1], [-1, 0]], [[0, 1], [2, 0]]])
def test_from_distances_refuses_integers_that_are_none(bad):
    with pytest.raises(ValueError, match="squared distances"):
        Geometry.from_distances(np.array(bad))


def publics_of(squared, n, names):
    """What a server opens for the cheap rules: no distance between two workers."""
    p = len(names)
    return Geometry.from_publics(squared[:n, n : n + p], squared[n : n + p, n : n + p], names)


@pytest.mark.parametrize("reference", [False, True])
def test_from_publics_serves_one_step_of_centered_clipping(reference):
    x = np.random.default_rng(1).standard_normal((9, 4))
    whole = Geometry.from_rows(x, reference=np.ones(4) if reference else None)
    bare = publics_of(whole.squared, 9, whole.publics)
    for tau in (1e-3, 1.0, 1e3):
        rule = rules.CenteredClipping(tau)
        want = rules.coefficients(whole, rule, f=3)
        assert rules.coefficients(bare, rule, f=3).tobytes() == want.tobytes()
    assert bare.norms.tobytes() == whole.norms.tobytes()
    np.testing.assert_allclose(bare.norms, (x**2).sum(axis=1), rtol=1e-12)
    assert np.isnan(bare.squared[:9, :9][~np.eye(9, dtype=bool)]).all()


def test_from_publics_holds_inner_products_with_public_rows():
    rows, exact = on_a_grid(5, 4, bits=10)
    geometry = publics_of(np.array(exact), 4, (ORIGIN, REFERENCE))
    np.testing.assert_array_equal(geometry.gram[5, :4], rows[:4] @ rows[5])
    np.testing.assert_array_equal(np.diagonal(geometry.gram), (rows**2).sum(axis=1))


@pytest.mark.parametrize(
    ("to", "between", "names"),
    [
        (np.ones((2, 1)), np.zeros((1, 1)), (REFERENCE,)),
        (np.ones((2, 1)), np.zeros((1, 1)), ()),
        (np.ones((2, 2)), np.zeros((1, 1)), (ORIGIN,)),
        (np.ones((2, 1)), np.zeros((2, 2)), (ORIGIN,)),
        (np.ones((0, 1)), np.zeros((1, 1)), (ORIGIN,)),
        (np.ones(2), np.zeros((1, 1)), (ORIGIN,)),
        (np.full((2, 1), np.nan), np.zeros((1, 1)), (ORIGIN,)),
        (np.full((2, 1), -1.0), np.zeros((1, 1)), (ORIGIN,)),
        (np.ones((2, 1)), np.ones((1, 1)), (ORIGIN,)),
        (np.ones((2, 2)), np.array([[0.0, 1.0], [2.0, 0.0]]), (ORIGIN, REFERENCE)),
    ],
)
def test_from_publics_refuses_what_are_none(to, between, names):
    with pytest.raises(ValueError, match=r"squared distances|origin must be the first"):
        Geometry.from_publics(to, between, names)


class Greedy(rules.Mean):
    """Says that it needs nothing, and reads what `read` reads of the geometry."""

    name = "greedy"

    def __init__(self, read):
        self.read = read

    def with_f(self, f):
        return self

    def coefficients(self, geometry, f):
        return super().coefficients(geometry, f) + 0.0 * self.read(geometry)


@pytest.mark.parametrize(
    "read",
    [
        lambda g: g.distances.sum(),
        lambda g: g.squared[0, 1],
        lambda g: g.gram[0, 1],
        lambda g: g.from_point(np.eye(len(g.squared))[0]).sum(),
        lambda g: g.length(np.eye(len(g.squared))[0] - np.eye(len(g.squared))[1]),
        lambda g: g.mix(np.eye(g.n)).squared[0, 1],
        lambda g: g.mix(np.eye(g.n)).distances[0, 1],
    ],
)
@pytest.mark.parametrize("p", [0, 1])
def test_a_rule_that_reads_more_than_it_declares_is_refused(read, p):
    whole = Geometry.from_rows(np.random.default_rng(0).standard_normal((4, 3)))
    assert np.isfinite(rules.coefficients(whole, Greedy(read), f=0)).all()
    bare = publics_of(whole.squared, 4, (ORIGIN,)) if p else Geometry.blank(4)
    with pytest.raises(ValueError, match="more than it declares"):
        rules.coefficients(bare, Greedy(read), f=0)


@pytest.mark.parametrize("name", ["krum", "multi-krum", "mda", "geometric-median"])
def test_distance_rules_refuse_a_geometry_without_distances(name):
    rule = twins.one_of_each(2)[name]
    with pytest.raises(ValueError, match="more than it declares"):
        rules.coefficients(Geometry.blank(7), rule, f=2)
    with pytest.raises(ValueError, match="more than it declares"):
        rules.coefficients(Geometry.blank(7), rules.Mean(), [rules.NNM(2)], f=2)


class Pairs(rules.PreAggregation):
    """Means of neighbours in order: needs nothing but n."""

    name = "pairs"
    needs = rules.Needs.NOTHING

    def check(self, n, f=None):
        pass

    def with_f(self, f):
        return self

    def matrix(self, geometry, f):
        return np.repeat(np.eye(geometry.n // 2), 2, axis=1) / 2


def test_mixtures_of_unmeasured_rows_are_unknown():
    weights = rules.coefficients(Geometry.blank(6), rules.Mean(), [Pairs()], f=0)
    np.testing.assert_allclose(weights, np.full(6, 1 / 6))
    whole = Geometry.from_rows(np.random.default_rng(0).standard_normal((6, 3)))
    bare = publics_of(whole.squared, 6, (ORIGIN,))
    for rule in (rules.CenteredClipping(0.1), rules.CenteredClipping(0.1, 2)):
        with pytest.raises(ValueError, match="more than it declares"):
            rules.coefficients(bare, rule, [Pairs()], f=0)
    assert rules.needs(rules.CenteredClipping(0.1), [Pairs()]) == rules.Needs.GRAM
    assert rules.needs(rules.Mean(), [Pairs()]) == rules.Needs.NOTHING


GRAM_RULES = sorted(name for name, kind in rules.RULES.items() if issubclass(kind, rules.GramRule))


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("name", GRAM_RULES)
@pytest.mark.parametrize("pre", [(), (rules.NNM(2),)])
def test_what_is_measured_is_enough_for_every_rule(name, pre, reference):
    """A server that opens exactly what `measured` says reaches the weights of the whole rows."""
    rule = twins.one_of_each(2)[name]
    x = np.random.default_rng(4).standard_normal((8, 5))
    given = reference and rule.uses_reference
    whole = Geometry.from_rows(x, reference=np.ones(5) if given else None)
    pairs, names = measured(rules.needs(rule, pre), given)
    m = 8 + len(names)
    assert names == whole.publics[: len(names)]
    if pairs:
        bare = Geometry.from_distances(whole.squared[:m, :m], names)
    else:
        bare = publics_of(whole.squared, 8, names) if names else Geometry.blank(8)
    got = rules.coefficients(bare, rule, pre, f=2)
    want = rules.coefficients(whole, rule, pre, f=2)
    np.testing.assert_allclose(got[:8], want[:8], atol=1e-7)
    assert np.abs(got[:8]).max() <= rule.weight_bound
    assert rule.centre == "public" or got[:8].sum() == pytest.approx(1.0, abs=1e-12)
    assert np.count_nonzero(got[:8]) <= (8 if pre else rule.most_rows(8))

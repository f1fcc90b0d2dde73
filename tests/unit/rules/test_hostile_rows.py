"""Whatever f rows hold, a rule answers with the honest result or refuses in a sentence."""

import numpy as np
import pytest
import rule_twins as twins

from ostraka import rules

F, N, D = 2, 9, 12
NAMES = sorted(rules.RULES)
PRES = ((), (rules.NNM(F),))
CHAINS = [(name, pre) for name in NAMES for pre in PRES]
ROBUST = [(name, pre) for name, pre in CHAINS if name != "mean"]
BOTH = [np.float32, np.float64]


def rows(dtype, seed=0, n=N):
    return twins.make_rows(seed, n, D, "gauss", dtype=dtype)


def run(x, name, pre=(), f=F, **more):
    pre = [part.with_f(f) for part in pre]
    return rules.aggregate(x, twins.one_of_each(f)[name], pre, f=f, **more)


BAD = {
    "nan row": (lambda x: x.fill(np.nan), "non-finite"),
    "one nan": (lambda x: x.__setitem__(-1, np.nan), "non-finite"),
    "inf": (lambda x: x.__setitem__(3, np.inf), "non-finite"),
    "minus inf": (lambda x: x.fill(-np.inf), "non-finite"),
    "inf beside huge": (lambda x: x.__setitem__(slice(0, 2), [1e38, np.inf]), "non-finite"),
}


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize(("name", "pre"), CHAINS)
@pytest.mark.parametrize("how", BAD)
def test_a_bad_row_is_named_and_leaves_no_trace(name, pre, dtype, how):
    spoil, reason = BAD[how]
    x = rows(dtype)
    spoil(x[4])
    got = run(x, name, pre)
    rest = run(np.delete(x, 4, axis=0), name, pre, f=F - 1)
    assert got.dropped == {4: reason}
    assert got.vector.tobytes() == rest.vector.tobytes()
    if got.weights is not None:
        assert got.weights[4] == 0
        assert np.delete(got.weights, 4).tobytes() == rest.weights.tobytes()


@pytest.mark.parametrize(("name", "pre"), CHAINS)
def test_rows_whose_distances_overflow_are_named(name, pre):
    x = rows(np.float64)
    x[0, 0], x[8, 1] = 1e200, -1.7e308
    got = run(x, name, pre)
    assert got.dropped == {0: "overflow", 8: "overflow"}
    assert got.vector.tobytes() == run(x[1:8], name, pre, f=0).vector.tobytes()


def test_the_largest_norm_is_a_bound():
    x = rows(np.float64)
    x[0] = 0
    x[0, 0] = 9.9e149
    assert run(x, "median").dropped == {}
    x[0, 0] = 1.1e150
    assert run(x, "median").dropped == {0: "overflow"}


@pytest.mark.parametrize("dtype", BOTH)
def test_max_norm(dtype):
    x = rows(dtype)
    x[2] *= 100
    got = run(x, "trimmed-mean", max_norm=50.0)
    assert got.dropped == {2: "norm"}
    rest = run(np.delete(x, 2, axis=0), "trimmed-mean", f=1)
    assert got.vector.tobytes() == rest.vector.tobytes()
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_norm"):
            run(x, "mean", max_norm=bad)


@pytest.mark.parametrize("name", NAMES)
def test_more_bad_rows_than_f_are_refused_by_name(name):
    x = rows(np.float32)
    x[1, 0], x[5, 0], x[6] = np.nan, np.inf, -np.inf
    with pytest.raises(rules.BoundError, match=r"3 rows.*f=2.*row 1 \(non-finite\)"):
        run(x, name)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("size", [1e3, 1e8, -1e20, 1e30, 1e38, 3e38])
@pytest.mark.parametrize(("name", "pre"), ROBUST)
def test_huge_rows_do_not_move_a_robust_rule(name, pre, size, dtype):
    x = rows(dtype)
    honest = x[F:].astype(np.float64)
    for attack in (np.full(D, size), np.eye(D)[0] * size):
        x[:F] = attack * np.array([[1.0], [0.5]])
        got = run(x, name, pre).vector
        assert np.isfinite(got).all()
        far = np.linalg.norm(got - honest.mean(axis=0))
        assert far <= 2 * np.linalg.norm(honest - honest.mean(axis=0), axis=1).max()


@pytest.mark.parametrize(("name", "pre"), CHAINS)
@pytest.mark.parametrize("dtype", BOTH)
def test_rows_all_of_the_largest_size_stay_finite(name, pre, dtype):
    top = 3.4e38 if dtype == np.float32 else 1e149
    x = (np.sign(rows(dtype)) * top).astype(dtype)
    got = run(x, name, pre).vector
    assert np.isfinite(got).all()
    same = np.full((N, D), np.finfo(np.float32).max, dtype=dtype)
    if name != "centered-clipping":
        np.testing.assert_allclose(run(same, name, pre).vector, same[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["krum", "multi-krum", "mda", "geometric-median"])
@pytest.mark.parametrize("tiny", [(np.float32, 1e-44), (np.float64, 1e-160), (np.float64, 1e-318)])
def test_denormals_are_ordinary_numbers(name, tiny):
    dtype, scale = tiny
    whole = np.random.default_rng(3).integers(-6, 7, (N, D)).astype(np.float64)
    step = float(np.array(scale, dtype=dtype))
    rule = twins.one_of_each(F)[name]
    if name == "geometric-median":
        rule = rules.GeometricMedian(nu=5e-324, max_iterations=200)
    small = rules.aggregate((whole * step).astype(dtype), rule, f=F)
    large = rules.aggregate(whole, rule, f=F)
    np.testing.assert_allclose(small.weights, large.weights, atol=1e-6)
    assert small.dropped == {}


@pytest.mark.parametrize("tiny", [1e-160, 1e-310])
def test_centered_clipping_radius_of_denormal_size(tiny):
    x = np.random.default_rng(3).standard_normal((N, D))
    small = rules.aggregate(x * tiny, rules.CenteredClipping(2 * tiny, 3))
    large = rules.aggregate(x, rules.CenteredClipping(2.0, 3))
    np.testing.assert_allclose(small.weights, large.weights, rtol=1e-6)


def test_a_far_row_does_not_end_the_geometric_median_at_once():
    x = rows(np.float64)
    x[0] = 1e38
    hasty = run(x, "geometric-median").vector
    patient = rules.GeometricMedian(max_iterations=5000, tolerance=0.0)
    np.testing.assert_allclose(hasty, rules.aggregate(x, patient).vector, atol=1e-6)


@pytest.mark.parametrize(("name", "pre"), CHAINS)
def test_equal_rows_give_that_row(name, pre):
    for value in (0.0, 1.0, 1e-42, -7e37):
        x = np.full((N, D), value, dtype=np.float32)
        reference = x[0].copy()
        got = run(x, name, pre, reference=reference).vector
        np.testing.assert_allclose(got, reference, rtol=1e-6, atol=1e-45)


@pytest.mark.parametrize(("name", "pre"), CHAINS)
@pytest.mark.parametrize("dtype", BOTH)
def test_input_is_not_modified_and_any_layout_will_do(name, pre, dtype):
    x = rows(dtype)
    x[0, 0] = np.nan
    x.setflags(write=False)
    before = x.tobytes()
    want = run(x, name, pre).vector
    assert x.tobytes() == before
    wide = np.zeros((2 * N, 3 * D), dtype=dtype)
    wide[::2, ::3] = x
    for same in (np.asfortranarray(x), wide[::2, ::3], list(x), tuple(x), x[::-1][::-1]):
        assert run(same, name, pre).vector.tobytes() == want.tobytes()


UNUSABLE = {
    "float16": (np.ones((3, 2), np.float16), "float16"),
    "longdouble": (np.ones((3, 2), np.longdouble), "float32 or float64"),
    "int": (np.ones((3, 2), np.int64), "int64"),
    "bool": (np.ones((3, 2), bool), "bool"),
    "complex": (np.ones((3, 2), complex), "complex128"),
    "object": (np.ones((3, 2), object), "object"),
    "bytes swapped": (np.ones((3, 2), ">f4"), "float32 or float64"),
    "vector": (np.ones(3), "matrix"),
    "cube": (np.ones((3, 2, 2)), "matrix"),
    "no rows": (np.ones((0, 2)), "n >= 1"),
    "no columns": (np.ones((2, 0)), "d >= 1"),
    "empty list": ([], "empty list"),
    "numbers": ([[1.0, 2.0]], "numpy array"),
    "ragged": ([np.ones(2), np.ones(3)], "row 1 has d=3"),
    "mixed": ([np.ones(2), np.ones(2, np.float32)], "dtype float32"),
    "matrices": ([np.ones((2, 2))], "row 0"),
    "scalars": ([np.array(1.0)], "row 0"),
    "ints in a list": ([np.ones(2, int)], "int64"),
    "text": ("rows", "numpy array"),
    "none": (None, "numpy array"),
    "masked": (np.ma.masked_invalid(np.ones((3, 2))), "masked"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_unusable_rows_are_refused_in_a_sentence(what):
    data, words = UNUSABLE[what]
    with pytest.raises(ValueError, match=words):
        rules.aggregate(data, rules.Mean())


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (np.zeros(D + 1), "shape"),
        (np.zeros((1, D)), "shape"),
        (np.zeros(D, np.float32), "float64"),
        (np.full(D, np.nan), "finite"),
        (np.full(D, 1e160), "norm of reference"),
        ([0.0] * D, "numpy array"),
    ],
)
def test_unusable_references_are_refused(reference, words):
    with pytest.raises(ValueError, match=words):
        run(rows(np.float64), "centered-clipping", reference=reference)


def test_parts_are_checked():
    x = rows(np.float32)
    for rule, pre in ((rules.Mean, ()), ("mean", ()), (rules.Mean(), rules.NNM(1))):
        with pytest.raises(ValueError, match="must be"):
            rules.aggregate(x, rule, pre)
    with pytest.raises(ValueError, match="must hold"):
        rules.aggregate(x, rules.Mean(), [rules.Krum(1)])


@pytest.mark.parametrize("dtype", BOTH)
def test_one_row(dtype):
    x = rows(dtype, n=1)
    for name in sorted(set(NAMES) - {"krum", "multi-krum", "centered-clipping"}):
        for pre in ((), (rules.NNM(0),)):
            np.testing.assert_array_equal(run(x, name, pre, f=0).vector, x[0])
    with pytest.raises(ValueError, match="needs n >= 2f"):
        run(x, "krum", f=0)
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="row 0"):
        rules.aggregate(x, rules.Mean())


@pytest.mark.parametrize(("name", "pre"), CHAINS)
def test_no_byzantine_rows(name, pre):
    x = rows(np.float64)
    got = run(x, name, pre, f=0)
    assert np.isfinite(got.vector).all()
    assert got.dropped == {}


def test_honest_distances_survive_f_huge_rows():
    rng = np.random.default_rng(2)
    for offset in (0.0, 1e3):
        honest = (rng.standard_normal((7, 40000)) + offset).astype(np.float32)
        alone = rules.Geometry.from_rows(honest).distances
        direct = ((honest[:, None].astype(np.float64) - honest[None]) ** 2).sum(axis=2)
        np.testing.assert_allclose(alone, direct, rtol=1e-9)
        for power in (3, 6, 15, 20, 30, 38):
            x = np.vstack([honest, np.full((3, 40000), 10.0**power, dtype=np.float32)])
            x[8] *= -1
            x[9, ::2] = 0
            beside = rules.Geometry.from_rows(x).distances
            np.testing.assert_allclose(beside[:7, :7], alone, rtol=1e-5)
            assert np.isfinite(beside).all()

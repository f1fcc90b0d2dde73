"""Each attack is its plain formula, keeps dtype and shape, and leaves the honest rows alone."""

import dataclasses
import statistics
import warnings

import numpy as np
import pytest

from ostraka import attacks

F = 3
UPDATES = sorted(name for name, kind in attacks.ATTACKS.items() if name != "label-flip")
BOTH = [np.float32, np.float64]


def honest(dtype=np.float64, h=8, d=50, seed=0):
    x = np.random.default_rng(seed).standard_normal((h, d)) + 2.0
    return x.astype(dtype)


def run(attack, x, f=F, seed=1):
    return attack(x, f, np.random.default_rng(seed))


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("name", UPDATES)
def test_shape_dtype_and_input(name, dtype):
    attack, x = attacks.ATTACKS[name](), honest(dtype)
    x.setflags(write=False)
    before = x.tobytes()
    for f in (0, 1, F):
        got = run(attack, x, f)
        assert got.shape == (f, 50)
        assert got.dtype == dtype
    assert x.tobytes() == before
    assert run(attack, np.asfortranarray(x)).tobytes() == run(attack, x).tobytes()


@pytest.mark.parametrize("dtype", BOTH)
def test_formulas(dtype):
    x = honest(dtype)
    wide = x.astype(np.float64)
    mu, sigma = wide.mean(axis=0), wide.std(axis=0, ddof=1)
    tight = {"rtol": 1e-6 if dtype == np.float32 else 1e-12, "atol": 1e-7}
    for attack, want in (
        (attacks.SignFlip(), -mu),
        (attacks.ALIE(), mu - 1.5 * sigma),
        (attacks.ALIE(z=0.5), mu - 0.5 * sigma),
        (attacks.IPM(), -0.1 * mu),
        (attacks.IPM(eps=3.0), -3.0 * mu),
        (attacks.Zero(), np.zeros(50)),
        (attacks.Inf(), np.full(50, np.inf)),
        (attacks.NaN(), np.full(50, np.nan)),
        (attacks.Huge(), np.concatenate([[1e38], mu[1:]])),
    ):
        np.testing.assert_allclose(run(attack, x), np.tile(want, (F, 1)), **tight)


def test_gaussian():
    x = honest(np.float32, d=20000)
    got = run(attacks.Gaussian(), x)
    assert not np.array_equal(got[0], got[1])
    for row in got:
        noise = row - x.mean(axis=0)
        assert abs(noise.mean()) < 5 * 200 / np.sqrt(20000)
        assert noise.std() == pytest.approx(200, rel=0.03)
    np.testing.assert_array_equal(run(attacks.Gaussian(), x), got)
    assert not np.array_equal(run(attacks.Gaussian(), x, seed=2), got)
    np.testing.assert_allclose(run(attacks.Gaussian(s=0), x)[0], x.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("n", [10, 12, 20])
def test_the_papers_alie_is_no_attack_at_small_sizes(n):
    x = honest(h=n - 2)
    with pytest.warns(UserWarning, match=f"z is 0 at n={n}, f=2"):
        got = run(attacks.ALIE(z="paper"), x, f=2)
    np.testing.assert_allclose(got, np.tile(x.mean(axis=0), (2, 1)), rtol=1e-12)


def test_the_papers_alie_at_its_own_size():
    """n = 50, f = 12: s = 14, z = Phi^-1(24/38)."""
    x = honest(h=38)
    z = statistics.NormalDist().inv_cdf(24 / 38)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = run(attacks.ALIE(z="paper"), x, f=12)
    np.testing.assert_allclose(got[0], x.mean(axis=0) - z * x.std(axis=0, ddof=1), rtol=1e-12)


def test_the_papers_alie_needs_a_minority():
    with pytest.raises(ValueError, match="paper z needs"):
        run(attacks.ALIE(z="paper"), honest(h=3), f=5)


def test_one_honest_row_has_no_deviation():
    x = honest(h=1)
    np.testing.assert_array_equal(run(attacks.ALIE(), x)[0], x[0])


@pytest.mark.parametrize("dtype", BOTH)
def test_mimic_copies_the_row_along_the_widest_direction(dtype):
    rng = np.random.default_rng(3)
    axis = rng.standard_normal(40)
    axis /= np.linalg.norm(axis)
    reach = np.array([0.5, -1.0, 2.0, -9.0, 1.0, 0.0])
    x = (reach[:, None] * axis + 0.01 * rng.standard_normal((6, 40))).astype(dtype)
    got = run(attacks.Mimic(), x)
    assert got.tobytes() == np.tile(x[3], (F, 1)).tobytes()


@pytest.mark.slow
def test_mimic_is_its_definition_on_vectors():
    """Oja's direction is the first principal one; the victim has the largest product, uncentred."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((7, 12)) * np.array([6.0] + [1.0] * 11) + 3 * rng.standard_normal(
            12
        )
        centred = x - x.mean(axis=0)
        z = np.linalg.svd(centred)[2][0]
        products = np.abs(x @ z)
        got = attacks.Mimic(passes=3000).victim(x, rng)
        assert got == int(np.argmax(products))


def test_mimic_on_equal_rows_and_one_row():
    for x in (np.ones((5, 4)), np.zeros((5, 4), np.float32), np.ones((1, 3)), honest() * 1e-300):
        assert run(attacks.Mimic(), x).tobytes() in {np.tile(row, (F, 1)).tobytes() for row in x}


@pytest.mark.parametrize("name", UPDATES)
def test_values_beyond_the_dtype_stay_finite(name):
    x = np.full((4, 6), np.finfo(np.float32).max, dtype=np.float32)
    x[:2] *= -1
    x[3] *= -0.5
    attack = attacks.IPM(eps=1e6) if name == "ipm" else attacks.ATTACKS[name]()
    got = run(attack, x)
    assert name in ("inf", "nan") or np.isfinite(got).all()


@pytest.mark.parametrize("name", UPDATES)
def test_unusable_arguments_are_refused(name):
    attack = attacks.ATTACKS[name]()
    for bad in (np.ones(3), np.ones((0, 3)), np.ones((3, 0)), [[1.0]], np.ones((3, 2), int)):
        with pytest.raises(ValueError, match="honest rows"):
            run(attack, bad)
    for bad in (-1, 1.0, True):
        with pytest.raises(ValueError, match="whole f"):
            run(attack, honest(), f=bad)


def test_parameters_are_checked():
    for make in (
        lambda bad: attacks.Gaussian(s=bad),
        lambda bad: attacks.ALIE(z=bad),
        lambda bad: attacks.IPM(eps=bad),
    ):
        for bad in (-1.0, float("nan"), float("inf"), "much", True):
            with pytest.raises(ValueError, match="finite"):
                make(bad)
    with pytest.raises(ValueError, match="passes"):
        attacks.Mimic(passes=0)


def test_the_table_of_attacks():
    for name, kind in attacks.ATTACKS.items():
        assert kind.name == name
        assert dataclasses.is_dataclass(kind)
        assert kind.knows
        assert kind.controls
        assert kind() == kind()

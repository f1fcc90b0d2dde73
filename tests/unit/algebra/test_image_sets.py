"""Images hold exactly what they say, in integers of any size; roundings to a sphere stay on it."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka.algebra.fixed import squared_norm
from ostraka.algebra.image_sets import (
    LONGEST,
    PROJECTION,
    PROJECTION_LIMIT,
    Ball,
    Bits,
    Part,
    Product,
    Range,
    Sphere,
)
from ostraka.algebra.lattice import inner, round_to_sphere

P = (1 << 61) - 1
K = 12
HUGE = [0, 1, -1, 1 << 25, 1 << 31, 1 << 32, -(1 << 32), 1 << 62, (1 << 63) - 1, -(1 << 63)]


def whole(*values):
    return np.array(values, dtype=np.int64)


def dot(a, b):
    """In Python integers."""
    return sum(int(x) * int(y) for x, y in zip(a, b, strict=True))


def diameter(seed, d, length=2.0e7):
    """A vector of about this many units, int64."""
    g = np.random.default_rng(seed).standard_normal(d)
    return np.rint(g * (length / np.linalg.norm(g))).astype(np.int64)


def point(g, direction):
    """The point of the sphere with diameter g in this direction, float64."""
    return direction * (direction @ g) / (direction @ direction)


# Bits and balls


@pytest.mark.parametrize("bad", [2, -1, 1 << 62, P, P - 1, -(1 << 63)])
def test_bits_are_bits(bad):
    assert Bits(4).contains((whole(0, 1, 1, 0),))
    for at in range(4):
        y = whole(0, 1, 1, 0)
        y[at] = bad
        assert not Bits(4).contains((y,))


@pytest.mark.slow
@settings(max_examples=120)
@given(
    y=st.lists(st.integers(-1100, 1100) | st.sampled_from(HUGE), min_size=1, max_size=9),
    radius=st.sampled_from([1.0, 0.3, 2.5]),
)
def test_a_ball_is_its_norm_in_integers_of_any_size(y, radius):
    ball = Ball(len(y), radius, 9)
    assert ball.contains((whole(*y),)) == (dot(y, y) <= ball.norm_limit)


@pytest.mark.parametrize("d", [1, 2, 7, 1000, 10**6])
@pytest.mark.parametrize(("radius", "bits"), [(1.0, 20), (0.1, 16), (28.0, 20), (3e-5, 30)])
def test_the_slack_of_a_ball_is_what_rounding_adds_to_a_norm(d, radius, bits):
    limit = Ball(d, radius, bits).norm_limit
    # B <= (r + sqrt(d)/2)^2 < B + 1, where r = radius 2^bits; that is s <= sqrt(d) r < s + 1.
    r = Fraction(radius) * 2**bits
    below, above = (limit + k - r * r - Fraction(d, 4) for k in (0, 1))
    assert below <= 0 or below**2 <= d * r**2
    assert above > 0
    assert above**2 > d * r**2


def test_points_just_outside_a_ball_are_refused():
    for d in (1, 4, 9):
        ball = Ball(d, 2.0, 10)
        y = np.zeros(d, np.int64)
        y[-1] = -math.isqrt(ball.norm_limit)
        assert ball.contains((y,))
        y[-1] -= 1
        assert not ball.contains((y,))


@pytest.mark.parametrize("wrapped", [[1 << 32], [1 << 31] * 4, [1 << 30] * 16, [-(1 << 63)]])
def test_norms_that_wrap_in_64_bits_are_refused(wrapped):
    y = whole(*wrapped)
    assert np.dot(y, y) == 0
    assert not Ball(len(wrapped), 1.0, 20).contains((y,))


@pytest.mark.parametrize("tau", [28.61, 30.0, 471.0, 2e7, 3e7, 1e300])
@pytest.mark.parametrize("d", [1, 10**6])
@pytest.mark.parametrize("bits", [16, 20, 60])
def test_a_ball_beyond_the_budget_says_what_fits(tau, d, bits):
    try:
        ball = Ball(d, tau, bits)
    except ValueError as error:
        text = str(error)
        assert f"got tau = {tau:g}, frac_bits = {bits}" in text
        assert math.isqrt(Ball(d, float(text.rpartition(" ")[2]), bits).norm_limit) <= LONGEST
        if "write frac_bits" in text:
            fits = int(text.partition("write frac_bits = ")[2].partition(",")[0])
            assert fits < bits
            Ball(d, tau, fits)
            with pytest.raises(ValueError, match=r"at most 3\.0e7"):
                Ball(d, tau, fits + 1)
        else:
            with pytest.raises(ValueError, match=r"at most 3\.0e7"):
                Ball(d, tau, 0)
    else:
        assert math.isqrt(ball.norm_limit) <= LONGEST


def test_the_budgets_of_the_specification():
    Ball(10**6, 28.6, 20), Ball(10**6, 457.0, 16)
    for tau, bits in ((28.7, 20), (458.0, 16)):
        with pytest.raises(ValueError, match=r"at most 3\.0e7"):
            Ball(10**6, tau, bits)
    for bad in (0.0, -1.0, math.nan, math.inf, 1e-9):
        with pytest.raises(ValueError):  # noqa: PT011  (the sentences are FixedPoint's)
            Ball(10, bad, 20)
    # Honest projections pass but for 2^-100, and none of these numbers wraps in the field.
    assert 8.7 * LONGEST <= PROJECTION_LIMIT
    assert PROJECTION_LIMIT**2 <= (P + 1) // 32
    assert (PROJECTION.low, PROJECTION.high) == (-(1 << 28), 1 << 28)
    assert PROJECTION.bits == 30


@pytest.mark.parametrize(
    "bad",
    [
        (),
        (whole(0, 1),),
        (whole(0, 1, 0), whole(1)),
        (np.zeros(3, np.int32),),
        (np.zeros(3),),
        (np.zeros((3, 1), np.int64),),
        ([0, 1, 0],),
    ],
)
def test_submissions_of_another_form_are_the_callers_mistake(bad):
    for image in (Bits(3), Ball(3, 1.0, 9), Product((Bits(2), Bits(1)))):
        with pytest.raises(ValueError, match="a submission is int64"):
            image.contains(bad)


# Spheres


def sphere_twin(g, z, score):
    """The definition, in Python integers."""
    squared = dot(g, g)
    eps, kappa = squared // 2**32, math.ceil(Fraction(squared, 2 ** (2 * K)))
    product = dot(z, g)
    match = score * score * kappa - product
    on = abs(dot(z, z) - product) <= eps
    return on and 0 <= score <= 2**K and 0 <= match <= 2 ** (K + 1) * kappa


@pytest.mark.slow
@settings(max_examples=150)
@given(
    seed=st.integers(0, 999),
    d=st.integers(2, 12),
    push=st.lists(st.integers(-2, 2) | st.sampled_from(HUGE), min_size=12, max_size=12),
    off=st.sampled_from([0, 0, 0, 1, -1, 2, 4096, -4096, 1 << 40]),
    length=st.sampled_from([1 << 18, 1 << 20, 2.9e7]),
    pushed=st.booleans(),
)
def test_a_sphere_is_its_definition(seed, d, push, off, length, pushed):
    g = diameter(seed, d, 1.01 * length)
    sphere = Sphere(g)
    target = point(g.astype(float), np.random.default_rng(seed + 1).standard_normal(d))
    z = round_to_sphere(target, g, sphere.eps)
    z = np.zeros(d, np.int64) if z is None else z
    with np.errstate(over="ignore"):
        z = z + whole(*push[:d]) * pushed
    score = sphere.score(np.clip(z, -LONGEST, LONGEST)) + off
    assert sphere.contains((z, whole(score))) == sphere_twin(g, z, score)


def test_a_vector_with_a_residual_beyond_eps_is_refused():
    """On the axis of G the residual is m (2 z - G + m), and every value near eps is met."""
    g = np.zeros(5, np.int64)
    g[0] = 1 << 24
    sphere = Sphere(g)
    assert sphere.eps == 1 << 16
    for length, inside in ((256, True), (257, False)):  # ||z||^2 = 256^2 = eps, and beyond
        z = np.zeros(5, np.int64)
        z[1] = length
        assert sphere.contains((z, whole(0))) == inside
    assert sphere.contains((g, whole(1 << K)))
    assert not sphere.contains((g + whole(1, 0, 0, 0, 0), whole(1 << K)))
    near = g.copy()
    near[1] = 256
    assert sphere.contains((near, whole(1 << K)))
    near[1] = 257
    assert not sphere.contains((near, whole(1 << K)))
    far_inside = g // 2
    assert not sphere.contains((far_inside, whole(sphere.score(far_inside))))


@pytest.mark.parametrize("d", [2, 30, 1000])
def test_scores_are_rounded_up_and_nothing_else_passes(d):
    g = diameter(d, d)
    sphere = Sphere(g)
    rng = np.random.default_rng(d)
    for _ in range(4):
        z = round_to_sphere(point(g.astype(float), rng.standard_normal(d)), g, sphere.eps)
        assert z is not None
        score, true = sphere.score(z), 2**K * np.linalg.norm(z) / np.linalg.norm(g)
        assert true - 0.01 <= score <= true + 1.01
        near = [*range(-score - 3, 3 - score), *range(score - 200, score + 200)]
        accepted = [u for u in near if sphere.holds((z, whole(u)))]
        assert accepted[0] == score  # rounded down is refused
        # Above u the slack 2^(k+1) kappa may hide w extra with w (2 U + w) <= 2^(k+1), nearly.
        assert len(accepted) - 1 <= math.sqrt(score**2 + 2 ** (K + 1)) - score + 2
        for bad in (-1, 0, -score, 2 * 2**K, 2**K + 1, -(1 << 63), (1 << 63) - 1):
            assert not sphere.contains((z, whole(bad)))


def test_a_score_beside_no_vector_is_at_most_two_percent():
    sphere = Sphere(diameter(3, 10))
    none = np.zeros(10, np.int64)
    accepted = [u for u in range(-100, 2**K + 1) if sphere.holds((none, whole(u)))]
    assert accepted == list(range(math.isqrt(2 ** (K + 1)) + 1))
    assert accepted[-1] / 2**K < 0.023
    assert sphere.score(none) == 0


@pytest.mark.slow
@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), grow=st.integers(-300, 300))
def test_how_far_a_cheater_can_be_off(seed, grow):
    """No accepted z is longer than U sqrt(kappa) + sqrt(eps), or further than this off the sphere.

    With U = 0 that is 2^-16 of G, which is reached: see the axis above.
    """
    g = diameter(seed, 6)
    sphere, rng = Sphere(g), np.random.default_rng(seed)
    radius = math.sqrt(sphere.squared)
    z = round_to_sphere(point(g.astype(float), rng.standard_normal(6)), g, sphere.eps)
    z = np.zeros(6, np.int64) if z is None else z
    z[seed % 6] += grow
    score = sphere.score(z)
    if sphere.contains((z, whole(score))):
        assert dot(z, z) <= score**2 * sphere.kappa + sphere.eps <= sphere.norm_limit
        off = abs(np.linalg.norm(z - g / 2) - radius / 2)
        assert off <= 1.01 * sphere.eps / radius


def test_the_public_bounds_of_a_sphere():
    g = np.zeros(3, np.int64)
    g[1] = 1 << 24
    sphere = Sphere(g)
    assert sphere.parts == (Part("open-sum", 3), Part("open-scores", 1))
    assert sphere.ranges == (
        Range("sphere", -(1 << 16), 1 << 16),
        Range("score", 0, 1 << 12),
        Range("match", 0, 1 << 37),
        PROJECTION,
    )
    assert [r.bits for r in sphere.ranges] == [18, 13, 38, 30]
    assert sphere.kappa == 1 << 24
    assert sphere.norm_limit == (1 << 48) + (1 << 16)
    g[1] += 1
    assert Sphere(g).kappa == (1 << 24) + 3  # rounded up


@pytest.mark.parametrize("length", [(1 << 18) - 1, LONGEST + 1, 1 << 40])
def test_a_sphere_of_the_wrong_size_is_refused(length):
    with pytest.raises(ValueError, match=r"needs a diameter of at least|must be within"):
        Sphere(whole(length, 0))
    Sphere(whole(1 << 18, 0)), Sphere(whole(LONGEST - 8, 0))


def test_a_sphere_without_a_diameter_is_a_point():
    sphere = Sphere(np.zeros(4, np.int64))
    assert sphere.norm_limit == 0
    assert sphere.contains((np.zeros(4, np.int64), whole(0)))
    for at in range(4):
        z = np.zeros(4, np.int64)
        z[at] = 1
        assert not sphere.contains((z, whole(0)))


# Products


def test_a_product_holds_what_each_of_its_images_holds():
    image = Product((Ball(2, 1.0, 4), Bits(3), Sphere(whole(1 << 20, 0))))
    good = (whole(16, 0), whole(1, 0, 1), whole(1 << 20, 0), whole(1 << K))
    labels = ["open-sum-0", "open-counts-1", "open-sum-2", "open-scores-2"]
    assert [p.label for p in image.parts] == labels
    assert [r.name for r in image.ranges] == [
        *("norm-0", "projection-0"),
        *("sphere-2", "score-2", "match-2", "projection-2"),
    ]
    assert image.norm_limit == image.images[0].norm_limit + image.images[2].norm_limit
    assert Product((Bits(1),)).norm_limit is None
    assert image.contains(good)
    bad = (whole(18, 0), whole(1, 2, 1), whole((1 << 20) - 9, 0), whole(0))
    for at in range(4):
        one = (*good[:at], bad[at], *good[at + 1 :])
        assert not image.contains(one)


# Rounding to a sphere


@pytest.mark.parametrize("d", [1, 4096, 3 * 4096 + 1])
def test_inner_products_do_not_overflow(d):
    a, b = np.full(d, 1 << 25), np.full(d, -(1 << 25))
    assert inner(a, b) == -d * 2**50
    rng = np.random.default_rng(d)
    a, b = rng.integers(-(1 << 25), 1 << 25, (2, d))
    assert inner(a, b) == dot(a, b)


def check_rounding(target, g, eps):
    """In the sphere, next to the target but for two coordinates; the same twice; or None."""
    before = target.copy(), g.copy()
    z = round_to_sphere(target, g, eps)
    again = round_to_sphere(target, g, eps)
    assert (target == before[0]).all()
    assert (g == before[1]).all()
    if z is None:
        assert again is None
        return False
    assert (z == again).all()
    assert abs(dot(z, z) - dot(z, g)) <= eps
    off = np.sort(np.abs(z - target))
    assert (off[:-2] <= 1).all()
    assert off[-2:].sum() <= (1 << 13) + 2
    return True


@pytest.mark.slow
@settings(max_examples=120)
@given(
    seed=st.integers(0, 10**6),
    d=st.integers(1, 80),
    kind=st.sampled_from(["dense", "sparse", "signs", "near", "far", "same"]),
)
def test_rounding_to_a_sphere(seed, d, kind):
    rng = np.random.default_rng(seed)
    g = diameter(seed, d)
    direction = {
        "dense": rng.standard_normal(d),
        "sparse": np.eye(d)[seed % d],
        "signs": np.sign(rng.standard_normal(d)),
        "near": g + 1e-3 * rng.standard_normal(d) * np.abs(g).max(),
        "far": g * 1e-6 + rng.standard_normal(d),
        "same": g.astype(float),
    }[kind]
    found = check_rounding(point(g.astype(float), direction), g, Sphere(g).eps)
    assert found or (d > 1 and kind != "same")


@pytest.mark.slow
def test_peers_that_find_no_rounding_are_one_in_a_thousand_at_most():
    for d in (2, 3, 10, 100):
        failed = 0
        for seed in range(250):
            g = diameter(seed, d)
            direction = np.random.default_rng(seed + 5000).standard_normal(d)
            failed += round_to_sphere(point(g.astype(float), direction), g, Sphere(g).eps) is None
        assert failed <= 1, d


@pytest.mark.parametrize("length", [3e5, 2.0e7])
def test_roundings_that_all_err_alike_are_turned(length):
    """Updates of signs: plain rounding errs by the same in every coordinate, and by 1000 eps."""
    d = 20_000
    for seed in range(50):
        g = diameter(seed, d, length)
        signs = np.sign(np.random.default_rng(seed + 900).standard_normal(d) * 1e-2 * length + g)
        target = point(g.astype(float), signs)
        if 0.4 < abs(target[0]) % 1 < 0.6:
            break
    eps = Sphere(g).eps
    plain = np.rint(target).astype(np.int64)
    assert abs(squared_norm(plain) - inner(plain, g)) > 1000 * eps
    assert check_rounding(target, g, eps)


def test_two_coordinates_that_count_alike_are_not_the_pair():
    """Of two equal steps only a few differences come about; the second is another one."""
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        radius = np.concatenate([[0.6, 0.6001, 0.37], 0.03 * rng.standard_normal(9)])
        g = diameter(seed, 12)
        target = g / 2 + radius * (np.linalg.norm(g) / 2 / np.linalg.norm(radius))
        found += check_rounding(target, g, Sphere(g).eps)
    assert found >= 59


def test_targets_off_the_sphere_are_brought_to_it_only_from_nearby():
    g = whole(1 << 24, 0)
    assert round_to_sphere(g + np.array([1.0, 0.0]), g, 100).tolist() == [1 << 24, 0]
    for off, found in ((1500.0, True), (15000.0, False)):
        target = np.array([1.8, 0.6]) * (1 << 23) + np.array([0.8, 0.6]) * off
        assert (round_to_sphere(target, g, 1 << 16) is not None) == found
    assert round_to_sphere(np.array([3.0]), whole(1 << 24), 100) is None


@pytest.mark.slow
def test_a_million_coordinates_end_within_eps_and_cost_no_accuracy():
    d = 10**6
    g = diameter(1, d, 1.6e7)
    rng = np.random.default_rng(2)
    for direction, most in ((rng.standard_normal(d) + g, 0.51), (np.sign(g).astype(float), 1.0)):
        target = point(g.astype(float), direction)
        z = round_to_sphere(target, g, Sphere(g).eps)
        assert z is not None
        assert abs(squared_norm(z) - inner(z, g)) <= Sphere(g).eps
        off = np.abs(z - target)
        assert np.linalg.norm(off) <= 0.5 * math.sqrt(d)
        assert np.partition(off, -3)[-3] <= most  # the nearest calls are turned first

"""Honest vectors are always accepted, whatever they hold; the limits are exact integers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ostraka.algebra.fixed import (
    COORDINATES_MAX,
    DEFAULT_FRAC_BITS,
    FixedPoint,
    squared_norm,
    unusable,
)


def integers(words):
    return [int(x) for x in words.view(np.int64)]


def test_numbers_that_make_no_sense_are_refused():
    for given_, said in (
        ({"d": 0}, "1 to 2\\^32 coordinates"),
        ({"d": COORDINATES_MAX + 1}, "1 to 2\\^32 coordinates"),
        ({"clip": 0.0}, "clip must be a positive"),
        ({"clip": math.nan}, "clip must be a positive"),
        ({"clip": math.inf}, "clip must be a positive"),
        ({"sigma": -1.0}, "sigma must be 0 or"),
        ({"sigma": math.inf}, "sigma must be 0 or"),
        ({"frac_bits": -1}, "frac_bits must be 0 to 60"),
        ({"frac_bits": 61}, "frac_bits must be 0 to 60"),
    ):
        numbers = {"d": 10, "frac_bits": 20, "clip": 1.0, "sigma": 0.0} | given_
        with pytest.raises(ValueError, match=said):
            FixedPoint(**numbers)


@pytest.mark.parametrize(
    ("clip", "sigma", "fits"),
    [(64.0, 0.0, 20), (64.001, 0.0, 19), (1.0, 0.0, 26), (2.0**26, 0.0, 0), (1.0, 1.0, 16)],
)
def test_the_largest_bits_that_fit_are_named_and_fit(clip, sigma, fits):
    d = 10**6
    with pytest.raises(ValueError, match=f"the largest frac_bits that fits is {fits}$"):
        FixedPoint(d, fits + 1, clip, sigma)
    fixed = FixedPoint(d, fits, clip, sigma)
    assert fixed.bound * 2**fits <= 2**26 < fixed.bound * 2 ** (fits + 1)
    assert FixedPoint.fitting(d, clip, sigma).frac_bits == min(fits, DEFAULT_FRAC_BITS)


def test_what_cannot_fit_or_says_nothing_is_refused():
    for sigma in (0.0, 1e300, 1e308):
        for make in (FixedPoint.fitting, lambda d, clip, sigma: FixedPoint(d, 0, clip, sigma)):
            with pytest.raises(ValueError, match="no frac_bits from 0 on fits"):
                make(10, 2.0**26 + 1, sigma)
    with pytest.raises(ValueError, match="every update would be sent as zero"):
        FixedPoint(10, 20, 1e-7)
    with pytest.raises(ValueError, match="clip must be"):
        FixedPoint.fitting(10, math.nan)
    assert FixedPoint.fitting(10, 1.0, frac_bits=7).frac_bits == 7


def test_the_bound_has_room_for_the_noise():
    assert FixedPoint(100, 20, 2.0).bound == 2
    assert FixedPoint(100, 20, 2.0, 0.5).bound == 2 + 0.5 * 18
    assert FixedPoint(1, 3, 2.0).unit == 1 / 8


@pytest.mark.slow
@given(
    d=st.integers(1, COORDINATES_MAX),
    clip=st.floats(1e-3, 2.0**26),
    bits=st.integers(0, DEFAULT_FRAC_BITS),
)
def test_limits_are_exact_and_fit(d, clip, bits):
    if not 1 <= clip * 2**bits <= 2**26:
        bits = FixedPoint.fitting(d, clip).frac_bits
    fixed = FixedPoint(d, bits, clip)
    scaled = Fraction(clip) * 2**bits

    def below(limit):
        """limit <= (scaled + sqrt(d) / 2)^2, without a root."""
        rest = limit - scaled**2 - Fraction(d, 4)
        return rest <= 0 or rest**2 <= scaled**2 * d

    assert below(fixed.norm_limit)
    assert not below(fixed.norm_limit + 1)
    limit = fixed.projection_limit
    assert 8 * scaled <= limit <= 2**29
    assert limit**2 > 64 * fixed.norm_limit or limit == 2**29
    assert limit**2 / fixed.norm_limit >= 63.9
    assert fixed.norm_limit.bit_length() < fixed.gram_bits <= 54
    assert fixed.distance_bits <= 56
    assert 4 * fixed.norm_limit < 2 ** (fixed.distance_bits - 1)


@pytest.mark.slow
@given(
    data=st.data(),
    d=st.integers(1, 40),
    dtype=st.sampled_from([np.float32, np.float64]),
    clip=st.floats(1e-3, 1e5),
    sigma=st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_whatever_is_finite_is_accepted(data, d, dtype, clip, sigma):
    finite = {"allow_nan": False, "allow_infinity": False, "width": np.dtype(dtype).itemsize * 8}
    x = data.draw(arrays(dtype, d, elements=st.floats(**finite)))
    fixed = FixedPoint.fitting(d, clip, sigma * clip)
    words = fixed.encode(x)
    assert fixed.accepts(words)
    norm = math.hypot(*x.astype(np.float64).tolist())
    wide = x.astype(np.float64)
    if norm <= fixed.bound:
        scaled = wide
    else:
        biggest = np.abs(wide).max()
        scaled = wide / biggest
        scaled *= fixed.bound / math.hypot(*scaled.tolist())
    off = np.abs(fixed.decode(words) - scaled).max() / fixed.unit
    assert off <= 0.5 + 2**-20


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", [0.0, 0.01, 1.0])
@pytest.mark.parametrize(("d", "times"), [(1, 1000), (2, 1000), (10, 1000), (100, 1000)])
@pytest.mark.slow
def test_honest_vectors_exactly_at_the_bound_are_accepted(d, times, dtype, sigma):
    at_the_bound(d, times, dtype, sigma)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.slow
def test_long_honest_vectors_exactly_at_the_bound_are_accepted(dtype, sigma):
    at_the_bound(10**5, 20, dtype, sigma)


def at_the_bound(d, times, dtype, sigma):
    rng = np.random.default_rng(d)
    for clip in (1.0, 0.37):
        fixed = FixedPoint.fitting(d, clip, sigma * clip)
        for _ in range(times // 2):
            x = rng.standard_normal(d).astype(dtype)
            x *= dtype(fixed.bound / np.linalg.norm(x))
            words = fixed.encode(x)
            assert fixed.accepts(words)
            assert abs(fixed.decode(words) - x).max() <= (0.5 + 1e-6 * fixed.bound / fixed.unit) * (
                fixed.unit
            )


def test_without_the_rounding_slack_honest_vectors_would_be_refused():
    fixed = FixedPoint(100, 10, 1.0)
    rng = np.random.default_rng(0)
    longer = 0
    for _ in range(100):
        x = rng.standard_normal(100)
        longer += squared_norm(fixed.encode(x / np.linalg.norm(x))) > (fixed.bound * 2**10) ** 2
    assert longer > 25


@pytest.mark.parametrize(
    "x",
    [
        np.full(4, 3e38, np.float32),
        np.array([1e300, -1e300, 1e-300, 0]),
        np.array([np.finfo(float).max, np.finfo(float).min, 0, 0]),
        np.array([5e-324, -5e-324, 0, 0]),
        np.array([1e-40, 0, 0, 0], np.float32),
        np.zeros(4),
        np.array([-0.0, 0.0, -0.0, 0.0]),
        np.array([0, 0, -64.0, 0]),
        np.array([0, 0, math.nextafter(64.0, 65), 0]),
    ],
)
def test_extreme_vectors_are_accepted_without_a_warning(x):
    fixed = FixedPoint(4, 20, 64.0)
    with np.errstate(all="raise"):
        words = fixed.encode(x)
    assert fixed.accepts(words)
    clipped = np.linalg.norm(np.clip(x.astype(float), -1e9, 1e9)) >= 64
    expected = 64.0 if clipped else 0.0
    assert np.linalg.norm(fixed.decode(words)) == pytest.approx(expected, abs=1e-5)


def test_a_vector_that_rounds_to_too_long_is_scaled_down_until_it_passes():
    for d in (1, 2, 50):
        for limit in (10**6, 123, 1, 0):
            fixed = FixedPoint(d, 10, 1.0)
            fixed.__dict__["norm_limit"] = limit
            words = fixed.encode(np.full(d, d**-0.5))
            assert squared_norm(words) <= limit
            assert squared_norm(words) >= limit - 4 * d * math.isqrt(limit) - d


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize("d", [1, 7, 3000, (1 << 16) + 5])
def test_a_clearly_short_vector_takes_one_pass_and_gives_the_same(d, sigma, dtype):
    fixed = FixedPoint(d, 16, 2.0, sigma)
    direction = np.random.default_rng(d).standard_normal(d)
    direction /= np.linalg.norm(direction)
    for size in (0.0, 1e-9, 0.3, 0.9):
        x = (size * fixed.bound * direction).astype(dtype)
        np.testing.assert_array_equal(fixed.encode_short(x), fixed.encode(x))


@pytest.mark.parametrize("d", [1, 5, 400, (1 << 16) + 5])
def test_a_vector_that_is_not_clearly_short_takes_the_long_way(d):
    """Nothing beyond the bound gets through unclipped, whatever rounding does to it."""
    fixed = FixedPoint(d, 6, 1.5)
    direction = np.random.default_rng(d).standard_normal(d)
    direction /= np.linalg.norm(direction)
    for size in (1 - 1e-9, 1.0, 1 + 1e-9, 1.01, 3.0, 1e10, 1e30):
        assert fixed.encode_short(size * 1.5 * direction) is None
    for bad in (math.nan, math.inf, -math.inf, 1e308, 2.0**62, -(2.0**63), 2.0**64):
        for at in {0, d - 1}:
            x = np.zeros(d)
            x[at] = bad
            assert fixed.encode_short(x) is None
    for other in (np.zeros(d, np.int64), np.zeros(d, np.float16), np.zeros(d + 1)):
        assert fixed.encode_short(other) is None


def test_where_a_grid_hides_more_than_the_bound_no_vector_is_clearly_short():
    fixed = FixedPoint(10**4, 4, 3.0)  # 48 units, and rounding can move the norm by 50
    x = np.full(10**4, 0.4 / 16)  # norm 2.5, all of it rounded away
    assert fixed.encode_short(x) is None
    assert fixed.encode_short(np.full(10**4, 0.49 / 16)) is None  # norm 3.06: it must be clipped


def test_the_input_is_left_alone():
    for x in (np.full(3, 5.0), np.full(3, 5e30)):
        before = x.copy()
        FixedPoint(3, 20, 1.0).encode(x)
        FixedPoint(3, 20, 1.0).encode_exactly(np.minimum(x, 7))
        np.testing.assert_array_equal(x, before)


def test_what_is_no_vector_of_numbers_is_refused():
    fixed = FixedPoint(3, 20, 1.0)
    for bad in (np.zeros(2), np.zeros((3, 1)), np.zeros(3, int), np.zeros(3, np.float16)):
        for encode in (fixed.encode, fixed.encode_exactly):
            with pytest.raises(ValueError, match=r"float32 or float64 \(3,\)"):
                encode(bad)
    for value in (np.nan, np.inf, -np.inf):
        for encode in (fixed.encode, fixed.encode_exactly):
            with pytest.raises(ValueError, match="must be finite"):
                encode(np.array([0, value, 0]))


def test_what_does_not_obey_is_sent_as_it_is():
    fixed = FixedPoint(3, 20, 1.0)
    words = fixed.encode_exactly(np.array([100.25, -7.0, 2.0**-22]))
    assert integers(words) == [100.25 * 2**20, -7 * 2**20, 0]
    assert not fixed.accepts(words)
    largest = math.nextafter(2.0**43, 0)
    assert integers(fixed.encode_exactly(np.array([largest, -largest, 0.0])))[0] == 2**63 - 1024
    for x in (2.0**43, -(2.0**43), 1e308):
        with pytest.raises(ValueError, match="does not fit in 64 bits"):
            fixed.encode_exactly(np.array([0, x, 0]))
    with pytest.raises(ValueError, match="does not fit"):
        fixed.encode_exactly(np.full(3, 1e38, np.float32))


def test_decoding_reads_signed_numbers():
    fixed = FixedPoint(3, 2, 1.0)
    words = np.array([5, 2**64 - 5, 2**63], np.uint64)
    for form in (words, words.view(np.int64)):
        np.testing.assert_array_equal(fixed.decode(form), [1.25, -1.25, -(2.0**61)])
    with pytest.raises(ValueError, match="uint64 or int64"):
        fixed.decode(np.zeros(3))


def test_an_unusable_vector_has_norm_0_in_the_ring_and_is_far_beyond_the_limit():
    words = unusable(7)
    assert integers(words) == [2**62, 0, 0, 0, 0, 0, 0]
    assert squared_norm(words) % 2**64 == 0
    fixed = FixedPoint(7, 20, 64.0)
    assert fixed.projection_limit < 2**62
    assert not fixed.accepts(words)


@pytest.mark.slow
@given(arrays(np.uint64, st.integers(0, 30)))
def test_the_squared_norm_equals_python_integers(words):
    expected = sum(x * x for x in integers(words))
    assert squared_norm(words) == squared_norm(words.view(np.int64)) == expected


@pytest.mark.slow
def test_long_extreme_vectors_have_the_right_squared_norm():
    d = (1 << 19) + 7
    for word in (2**63, 2**63 - 1, 2**44 - 1, 2**22 - 1):
        assert squared_norm(np.full(d, word, np.uint64)) == d * word * word


def test_only_ring_vectors_have_a_squared_norm():
    for bad in (np.zeros(3), np.zeros((3, 1), np.uint64)):
        with pytest.raises(ValueError, match="a ring vector is uint64"):
            squared_norm(bad)


@pytest.mark.parametrize("size", [0, 1, 1 << 25, (1 << 25) + 1, (1 << 31) - 1, 1 << 40, 1 << 62])
@pytest.mark.parametrize("d", [0, 1, 4096, 9000])
def test_squared_norms_are_exact_on_both_sides_of_the_quick_way(size, d):
    signs = np.where(np.arange(d) % 3, 1, -1)
    words = signs * np.int64(size)
    assert squared_norm(words) == d * size**2
    assert squared_norm(words.view(np.uint64)) == d * size**2

"""Integer weights sum to what they must, stay within one step, and are rounded before opening."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka.rules.integer_weights import (
    WEIGHT_BITS,
    IntegerWeights,
    combine,
    quantise,
    round_off,
    shift_bits,
)

ONE = 2**24
SIGNED = st.lists(
    st.floats(-1.0, 1.0, allow_subnormal=True) | st.sampled_from([0.0, 1e-300, -5e-324, 2.0**-25]),
    min_size=2,
    max_size=12,
)


def twin(weights):
    """Largest remainders in fractions: a spare unit goes to the first row that lacks most."""
    exact = [Fraction(float(w)) * ONE for w in weights]
    values = [e.numerator // e.denominator for e in exact]
    while sum(values) < ONE:
        lacks = [
            e - v if e and v <= e else Fraction(-1) for e, v in zip(exact, values, strict=True)
        ]
        values[lacks.index(max(lacks))] += 1
    return values


@settings(max_examples=60)
@given(
    parts=st.lists(st.integers(0, 10**6) | st.just(1), min_size=1, max_size=40),
    seed=st.integers(0, 99),
)
def test_convex_weights_sum_to_two_to_the_24(parts, seed):
    weights = np.array([*parts, 1 + seed], dtype=np.float64)
    weights /= weights.sum()
    whole = quantise(weights, len(weights), True)
    if whole.count:
        assert whole.values.tolist() == [int(w != 0) for w in weights]
        return
    assert whole.values.tolist() == twin(weights)
    assert int(whole.values.sum()) == ONE
    assert whole.centre_weight == 0.0
    assert np.abs(whole.reals - weights).max() <= 2.0**-24
    assert (whole.values[weights == 0] == 0).all()


@settings(max_examples=60)
@given(parts=SIGNED)
def test_signed_weights_and_weights_above_one_survive(parts):
    weights = np.array([*parts, 0.0])
    weights[-1] = 1.0 - math.fsum(parts)
    whole = quantise(weights, len(weights), True, 16.0)
    if whole.count:
        return
    assert whole.values.tolist() == twin(weights)
    assert int(whole.values.sum()) == ONE
    assert all(
        abs(Fraction(int(v)) - Fraction(float(w)) * ONE) <= 1
        for v, w in zip(whole.values, weights, strict=True)
    )


@settings(max_examples=50)
@given(parts=SIGNED)
def test_weights_around_a_public_row_are_rounded_each(parts):
    weights = np.array([*parts, 1.0 - math.fsum(parts)])
    whole = quantise(weights, len(parts), False)
    if whole.count:
        assert abs(weights[-1]) <= 1e-9
        return
    want = [round(Fraction(w) * ONE) for w in parts]
    assert whole.values.tolist() == want
    assert whole.centre_weight == float(1 - Fraction(sum(want), ONE))
    assert np.abs(whole.reals - parts).max() <= 2.0**-25


@pytest.mark.parametrize("m", [1, 3, 5, 7, 9, 10, 13, 100])
def test_equal_weights_are_sent_as_one(m):
    weights = np.zeros(m + 3)
    weights[1 : m + 1] = 1.0 / m
    for sums_to_one in (True, False):
        whole = quantise(weights, m + 2, sums_to_one)
        assert whole.count == m
        assert whole.values.tolist() == [0, *[1] * m, 0]
        assert whole.values.dtype == np.int64
        assert whole.centre_weight == 0.0


@pytest.mark.parametrize(
    "weights",
    [
        [1 / 3, 1 / 3, np.nextafter(1 / 3, 1)],
        [0.5, 0.25, 0.25],
        [0.3, *[0.7 / 99] * 99],
        [0.5, *[0.05] * 10],
    ],
)
def test_weights_that_are_nearly_equal_are_not_equal(weights):
    whole = quantise(np.array(weights), len(weights), True)
    assert whole.count == 0
    assert int(whole.values.sum()) == ONE


def test_equal_weights_beside_a_public_row_are_not_equal():
    around = quantise(np.array([0.25, 0.25, 0.5]), 2, False)
    assert (around.count, around.values.tolist()) == (0, [ONE // 4, ONE // 4])
    assert around.centre_weight == 0.5
    alone = quantise(np.array([0.0, 0.0, 1.0]), 2, False)
    assert (alone.count, alone.values.tolist(), alone.centre_weight) == (0, [0, 0], 1.0)


def test_ties_go_to_the_first_rows():
    weights = np.array([0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1])
    assert abs(weights.sum() - 1) < 1e-12
    low, high = math.floor(0.1 * ONE), math.floor(0.2 * ONE)
    spare = ONE - 4 * low - 3 * high
    assert 0 < spare < 4
    values = quantise(weights, 7, True).values
    ups = [i for i in range(7) if values[i] > (high if i % 2 else low)]
    remainders = [0.2 * ONE - high if i % 2 else 0.1 * ONE - low for i in range(7)]
    assert ups == sorted(sorted(range(7), key=lambda i: (-remainders[i], i))[:spare])
    assert quantise(weights, 7, True).values.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("weights", "n", "sums", "bound", "match"),
    [
        ([1.5, -0.5], 2, True, 1.0, "above the rule's bound 1"),
        ([-1.0000001, 0.0], 2, False, 1.0, "above the rule's bound 1"),
        ([17.0, -16.0], 2, True, 16.0, "above the rule's bound 16"),
        ([np.nan, 1.0], 2, True, 1.0, "no finite number"),
        ([1.0, np.inf], 1, False, 1.0, "no finite number"),
        ([0.5, 0.4], 2, True, 1.0, "must sum to 1"),
        ([0.0, 0.0], 2, True, 1.0, "must sum to 1"),
        ([0.5], 2, False, 1.0, "do not cover"),
        ([], 0, False, 1.0, "do not cover"),
    ],
)
def test_unusable_coefficients_are_refused(weights, n, sums, bound, match):
    with pytest.raises(ValueError, match=match):
        quantise(np.array(weights), n, sums, bound)


def test_a_weight_at_the_bound_is_allowed():
    whole = quantise(np.array([16.0, -15.0]), 2, True, 16.0)
    assert whole.values.tolist() == [16 * ONE, -15 * ONE]
    whole = quantise(np.array([np.nextafter(1, 2), 1e-18]), 2, True)
    assert whole.values.tolist() == [ONE, 0]


@pytest.mark.parametrize(
    ("values", "count"), [([1, 2], 3), ([1, 1], 3), ([0, 0], -1), ([1, -1], 2), ([1, 1], -2)]
)
def test_equal_weights_must_be_ones(values, count):
    with pytest.raises(ValueError, match="equal weights"):
        IntegerWeights(np.array(values), count)


@pytest.mark.parametrize("values", [np.zeros(2), np.zeros((2, 2), dtype=np.int64)])
def test_integer_weights_are_one_vector_of_int64(values):
    with pytest.raises(ValueError, match="int64 vector"):
        IntegerWeights(values, 0)


def test_shift_bits_grow_with_the_bound():
    bounds = {2.0**-9: 24, 0.75: 24, 1.0: 24, 1.0001: 25, 2.0: 25, 3.0: 26, 16.0: 28, 17.0: 29}
    assert {bound: shift_bits(bound) for bound in bounds} == bounds
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="weight bound"):
            shift_bits(bad)


@settings(max_examples=50)
@given(
    words=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20),
    s=st.integers(24, 62),
    unsigned=st.booleans(),
)
def test_round_off_is_that_of_integers(words, s, unsigned):
    z = np.array(words, dtype=np.int64)
    z = z.view(np.uint64) if unsigned else z
    want = []
    for word in words:
        moved = (word + 2 ** (s - 1) + 2**63) % 2**64 - 2**63
        want.append((moved >> s) << (s - 24))
    got = round_off(z, s)
    assert got.dtype == np.int64
    assert np.shares_memory(got, z)
    assert got.tolist() == want


def test_round_off_refuses_other_words_and_shifts():
    for s in (23, 63):
        with pytest.raises(ValueError, match="rounded by"):
            round_off(np.zeros(2, dtype=np.int64), s)
    with pytest.raises(ValueError, match="int64 or uint64"):
        round_off(np.zeros(2), 24)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), bound=st.sampled_from([1.0, 16.0]), around=st.booleans())
def test_the_aggregate_is_the_rule_at_the_integer_weights(seed, bound, around):
    """Exact sum, dithered and rounded: within half a step of 2^(s-24) plus the dither's half."""
    rng = np.random.default_rng(seed)
    n, d, unit, s = 9, 5, 2.0**-20, shift_bits(bound)
    rows = rng.integers(-(2**26), 2**26, (n, d))
    weights = rng.uniform(-bound / n, bound / n, n + 1)
    weights[n] = 1.0 - weights[:n].sum()
    whole = quantise(weights, n, False, bound)
    dither = rng.integers(-(2 ** (s - 1)), 2 ** (s - 1), d)
    opened = round_off(whole.values @ rows + dither, s)
    centre = rng.standard_normal(d) if around else None
    got = combine(opened, whole, unit, centre)
    assert (opened % 2 ** (s - 24) == 0).all()
    assert got.dtype == np.float64
    for j in range(d):
        exact = sum(
            Fraction(int(p)) * int(x) for p, x in zip(whole.values, rows[:, j], strict=True)
        )
        exact = exact / ONE * Fraction(unit)
        if around:
            exact += Fraction(whole.centre_weight) * Fraction(float(centre[j]))
        assert abs(Fraction(float(got[j])) - exact) <= Fraction(unit) * 2 ** (s - 24)


def test_the_sum_of_equal_weights_is_divided_after_opening():
    rows = np.array([[3, -7], [5, 1], [2, 2]])
    whole = quantise(np.array([0.5, 0.0, 0.5, 0.0]), 3, False)
    opened = whole.values @ rows
    got = combine(opened, whole, 2.0**-20, np.full(2, 1e9))
    assert got.tolist() == [2.5 * 2.0**-20, -2.5 * 2.0**-20]
    assert opened.tolist() == [5, -5]


def test_the_centre_counts_with_what_the_weights_lack_of_one():
    whole = quantise(np.array([0.5, 0.125, 0.375]), 2, False)
    opened = np.array([4, 8])
    assert combine(opened, whole, 0.25, np.array([8.0, -16.0])).tolist() == [4.0, -4.0]
    assert combine(opened, whole, 0.25).tolist() == [1.0, 2.0]
    for centre in (np.zeros(3), np.zeros(2, dtype=np.float32)):
        with pytest.raises(ValueError, match="centre must be"):
            combine(opened, whole, 0.25, centre)
    with pytest.raises(ValueError, match="must be int64"):
        combine(opened.astype(np.float64), whole, 0.25)


def low_bits(total, step):
    """What a sum leaves beyond a multiple of the common weight, signed."""
    return (total + step // 2) % step - step // 2


@pytest.mark.parametrize("m", [3, 5, 7, 9, 10, 13])
def test_an_exact_sum_of_24_bit_weights_shows_one_row_and_a_rounded_one_does_not(m):
    """m nearly equal integers that sum to 2^24: the low bits are the row with the spare units."""
    rng = np.random.default_rng(m)
    d = 2000
    rows = rng.integers(-(2**16), 2**16, (m, d))
    weights = np.full(m, 1.0 / m)
    weights[0] = 1.0 - weights[1:].sum() + 2.0**-50
    values = quantise(weights, m, True).values
    step = int(values[-1])
    spare = values - step
    assert values.sum() == ONE
    assert 1 <= spare.sum() < m
    exact = values @ rows
    np.testing.assert_array_equal(low_bits(exact, step), spare @ rows)
    rounded = round_off(exact + rng.integers(-(2**23), 2**23, d), 24) << WEIGHT_BITS
    guessed = low_bits(rounded, step) == spare @ rows
    assert guessed.mean() < 0.01

"""Secret draws have the distributions that are accounted for, and leave no gaps to look through.

All statistics are of fixed keys: a failure is a change of the code, never bad luck.
"""

import math

import numpy as np
import pytest
import torch

from ostraka.crypto.prg import Prg
from ostraka.learn import noise, seeds
from ostraka.learn.noise import SecretDraws, SeededDraws

D = 40_000


def secret(key=1):
    return SecretDraws(Prg(bytes([key]) * 32))


def normal(size=D, deviation=1.0, key=1, draws=None):
    vector = np.zeros(size, np.float32)
    (draws or secret(key)).add_noise(vector, deviation)
    return vector


def ks(values):
    """The Kolmogorov-Smirnov distance to the standard normal, times sqrt(count)."""
    cdf = torch.special.ndtr(torch.from_numpy(np.sort(values).astype(np.float64))).numpy()
    steps = np.arange(len(cdf) + 1) / len(cdf)
    return max((steps[1:] - cdf).max(), (cdf - steps[:-1]).max()) * math.sqrt(len(cdf))


KS_LIMIT = 1.95  # exceeded with probability 0.001


@pytest.mark.parametrize("key", range(5))
@pytest.mark.parametrize("deviation", [1.0, 0.37, 3e4, 1e-7])
def test_the_noise_is_normal(key, deviation):
    values = normal(deviation=deviation, key=key) / deviation
    assert values.dtype == np.float32
    assert ks(values) < KS_LIMIT
    assert ks(values * 1.05) > KS_LIMIT  # the test would see five percent


@pytest.mark.slow
def test_moments_and_tails():
    values = normal(1_000_000).astype(np.float64)
    for power, want in enumerate([0, 1, 0, 3, 0, 15], start=1):
        spread = math.sqrt(math.prod(range(1, 2 * power, 2)) / 1e6)
        assert abs((values**power).mean() - want) < 4 * spread
    for bound in (2.0, 3.0, 4.0):
        chance = math.erfc(bound / math.sqrt(2))
        seen = (abs(values) > bound).sum()
        assert abs(seen - 1e6 * chance) < 4 * math.sqrt(1e6 * chance)
    assert 4.2 < abs(values).max() < 6.5


def test_halves_calls_and_keys_are_independent():
    """The cosine and the sine of one pair lie half a chunk apart; sums there must not agree."""
    draws = secret()
    first, second = normal(draws=draws), normal(draws=draws)
    size = 2 * noise._PAIRS
    lags = [(first[:-1], first[1:]), (first, second), (first, normal(key=2))]
    lags += [(first[: size // 2], first[size // 2 : size])]
    lags += [(first[:size], first[size : 2 * size])]
    for one, two in lags:
        for f in (np.asarray, np.abs, np.square):
            assert abs(np.corrcoef(f(one), f(two))[0, 1]) < 4 / math.sqrt(len(one))
        assert ks((one + two) / math.sqrt(2)) < KS_LIMIT
    assert len(set(first.tolist())) > 0.8 * D  # a grid of 2^17 points a deviation: few twins


def test_the_same_key_gives_the_same_noise_in_chunks_of_any_size():
    assert np.array_equal(normal(), normal())
    for size in (0, 1, 2, 3, noise._PAIRS, 2 * noise._PAIRS, 2 * noise._PAIRS + 1):
        values = normal(size)
        assert values.shape == (size,)
        assert np.count_nonzero(values) >= size - 1


def test_four_normals_make_one_draw():
    """By hand from the stream, in math's functions: radius and angle of four pairs."""
    words = [int(w) >> 11 for w in Prg(bytes([1]) * 32).words(8)]
    pairs = [((r + 1) / 2**53, a / 2**53) for r, a in zip(words[:4], words[4:], strict=True)]
    want = [
        sum(math.sqrt(-2 * math.log(r)) * turn(2 * math.pi * a) for r, a in pairs) / 2
        for turn in (math.cos, math.sin)
    ]
    np.testing.assert_allclose(secret()._normal(2), want, rtol=1e-12)


@pytest.mark.parametrize("deviation", [1.0, 0.7, 1.999, 1e-20, 3e20])
def test_results_lie_on_a_public_grid(deviation):
    """Whatever the value: a sum near zero would else show the value's last bits (Mironov 2012)."""
    grid = noise._grid(deviation)
    assert 2**-17 <= grid / deviation <= 2**-16
    for value in (0.0, 1 / 3, 1e-6, 50 / 7):
        vector = np.full(D, value * deviation, np.float32)
        secret().add_noise(vector, deviation)
        assert np.array_equal(np.rint(vector / grid) * grid, vector)
        assert abs(vector.mean() / deviation - value) < 4 / math.sqrt(D)


def test_neighbouring_values_reach_the_same_results():
    """Around zero every point of the grid is reached from 0 and from a value with many bits."""
    reached = []
    for value in (0.0, np.float32(1 / 3)):
        vector = np.full(200_000, value * 2**-8, np.float32)
        secret().add_noise(vector, 2**-8)
        points = vector / noise._grid(2**-8)
        reached.append(set(points[abs(points) < 2**12] % 16))
    assert reached[0] == reached[1] == set(range(16))


def test_the_edges_of_deviations():
    vector = np.array([1e-40, -0.0, 3e38], np.float32)
    before = vector.copy()
    secret().add_noise(vector, 0.0)
    assert np.array_equal(vector.view(np.uint32), before.view(np.uint32))
    tiny = normal(deviation=1e-43)  # 71 of float32's least steps
    assert (tiny == 0).any()
    assert not np.signbit(tiny[tiny == 0]).any()
    assert 0.9e-43 < float(tiny.astype(np.float64).std()) < 1.1e-43
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="finite number >= 0"):
            secret().add_noise(vector, bad)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.999])
def test_every_index_is_a_member_with_the_same_chance(rate):
    count = 150_000  # more than two chunks
    chosen = secret().members(count, rate)
    assert chosen.dtype == np.int64
    assert np.all(np.diff(chosen) > 0)
    assert 0 <= chosen[0] <= chosen[-1] < count
    parts = np.bincount(chosen * 10 // count, minlength=10)
    mean, spread = rate * count / 10, math.sqrt(rate * (1 - rate) * count / 10)
    assert np.all(abs(parts - mean) < 4 * spread)


def test_the_chance_is_exact_to_53_bits():
    count = 1000
    numbers = [int(w) >> 11 for w in Prg(bytes([1]) * 32).words(count)]
    least = min(numbers)
    for bound, want in ((least, []), (least + 1, [numbers.index(least)])):
        assert secret().members(count, bound / 2**53).tolist() == want
    assert secret().members(count, 1.0).tolist() == list(range(count))
    assert secret().members(0, 1.0).tolist() == []


def test_samples_differ_from_call_to_call():
    draws = secret()
    one, two = (set(draws.members(10_000, 0.5).tolist()) for _ in range(2))
    assert abs(len(one & two) - 2500) < 4 * math.sqrt(10_000 * 3 / 16)


def test_seeded_draws_are_those_of_the_named_streams():
    """One generator for all samples of a round, one for all its noise."""
    draws = SeededDraws(5, 2, 7)
    sampling, loud = (seeds.stream(5, 2, 7, p) for p in (seeds.SAMPLING, seeds.NOISE))
    for _ in range(2):
        assert np.array_equal(draws.members(50, 0.3), np.flatnonzero(sampling.random(50) < 0.3))
        vector = np.full(9, 2, np.float32)
        want = vector + loud.standard_normal(9, dtype=np.float32) * np.float32(0.3)
        draws.add_noise(vector, 0.3)
        assert np.array_equal(vector, want)

"""The pruned network puts the asked ranks on their wires, whatever the order of the input."""

import itertools

import numpy as np
import pytest

from ostraka.algebra import ops
from ostraka.algebra.ops import NUMPY, spans
from ostraka.algebra.selection import median, merge_exchange, network, window_mean


@pytest.mark.parametrize("n", range(1, 13))
def test_merge_exchange_sorts_every_zero_one_input(n):
    bits = np.array(list(itertools.product([0, 1], repeat=n)), dtype=np.int8).T.copy()
    for i, j in merge_exchange(n):
        bits[[i, j]] = np.minimum(bits[i], bits[j]), np.maximum(bits[i], bits[j])
    assert (np.diff(bits, axis=0) >= 0).all()


@pytest.mark.parametrize("n", range(1, 10))
def test_every_window_of_every_zero_one_input(n):
    bits = np.array(list(itertools.product([0, 1], repeat=n)), dtype=np.float32).T.copy()
    ordered = np.sort(bits, axis=0)
    for low in range(n):
        for high in range(low + 1, n + 1):
            got = window_mean(bits.copy(), low, high, NUMPY)
            np.testing.assert_allclose(got, ordered[low:high].mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("n", [17, 33, 50, 100, 127, 128, 129, 200])
def test_large_networks_on_random_columns(n):
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, 301))
    np.testing.assert_array_equal(median(x.copy(), NUMPY), np.median(x, axis=0))
    low, high = n // 5, n - n // 5
    want = np.sort(x, axis=0)[low:high].mean(axis=0)
    np.testing.assert_allclose(window_mean(x.copy(), low, high, NUMPY), want, rtol=1e-12)


def test_pruning_drops_what_nobody_reads():
    whole = len(merge_exchange(25))
    assert len(network(25, 12, 13)) < whole
    assert all(need_min or need_max for _, _, need_min, need_max in network(25, 12, 13))
    assert len(network(9, 0, 9)) == len(merge_exchange(9))
    assert network(1, 0, 1) == ()


def test_medians_of_the_largest_float32_do_not_overflow():
    x = np.full((4, 3), np.finfo(np.float32).max, dtype=np.float32)
    np.testing.assert_array_equal(median(x, NUMPY), np.float64(np.finfo(np.float32).max))


def test_spans_cover_the_range():
    assert list(spans(10, 4)) == [(0, 4), (4, 8), (8, 10)]
    assert list(spans(0, 4)) == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [2, 3, 8, 25, 128])
def test_compiled_networks_give_the_same_bits(n, dtype, monkeypatch):
    rng = np.random.default_rng(n)
    x = rng.integers(-3, 4, (n, 3 * 128 + 77)).astype(dtype)
    x[:, ::3] = rng.standard_normal((n, len(x[0, ::3])))
    x[x == 0] *= rng.choice([-1, 1], np.count_nonzero(x == 0))
    windows = [((n - 1) // 2, n // 2 + 1), (0, n), (n // 4, n - n // 4), (n - 1, n)]
    plain = [window_mean(x.copy(), low, high, NUMPY) for low, high in windows]
    monkeypatch.setattr(ops, "_COMPILED", 0)
    for want, (low, high) in zip(plain, windows, strict=True):
        kept = x.copy()
        got = window_mean(kept, low, high, NUMPY)
        assert got.tobytes() == want.tobytes()
        np.testing.assert_array_equal(kept, x)  # compiled code works on its own tile
        assert window_mean(x[:, 5:99], low, high, NUMPY).tobytes() == want[5:99].tobytes()

"""The numpy form of the array interface copies where it says so and nowhere else."""

import numpy as np
import pytest

from ostraka.algebra.ops import BLOCK, NUMPY, NumpyOps


def test_a_matrix_is_passed_on_and_a_list_is_stacked():
    x = np.ones((3, 2))
    assert np.shares_memory(NUMPY.rows(x), x)
    assert not np.shares_memory(NUMPY.rows(list(x)), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies_are_contiguous_and_new(dtype):
    x = np.asfortranarray(np.arange(12, dtype=dtype).reshape(3, 4))
    for made in (NUMPY.copy(x), NUMPY.wide(x), NUMPY.take(x, [0, 1, 2])):
        assert made.flags.c_contiguous
        assert not np.shares_memory(made, x)
        np.testing.assert_array_equal(made, x)
    assert NUMPY.wide(x).dtype == np.float64
    assert NUMPY.copy(x).dtype == dtype


def test_squares_may_overflow_quietly():
    with np.errstate(all="raise"):
        got = NUMPY.squares(np.array([[1e200, 0.0], [np.nan, 1.0], [np.inf, -np.inf], [3.0, 4.0]]))
    assert got[0] == np.inf
    assert np.isnan(got[1])
    assert got[3] == 25


def test_biggest_and_equal():
    x = np.array([[1.0, -3.0], [2.0, 0.0]])
    assert NUMPY.biggest(x) == 3
    assert NUMPY.equal(x[0], np.array([1.0, -3.0]))
    assert not NUMPY.equal(x[0], x[1])
    assert NUMPY.equal(np.array([0.0]), np.array([-0.0]))


def test_signalling_nans_are_screened_without_a_warning() -> None:
    rows = np.ones((3, 2), np.float32)
    rows[1] = np.array([0x7FA00001, 0xFFA00001], np.uint32).view(np.float32)
    assert np.isnan(NUMPY.wide(rows)[1]).all()


def test_scratch_is_lent_to_one_at_a_time():
    x = np.ones((3, 50), np.float32)
    with NUMPY.scratch(x, 4) as narrow, NUMPY.scratch(x, 5, wide=True) as wide:
        assert (narrow.shape, narrow.dtype) == ((4, 50), np.float32)
        assert (wide.shape, wide.dtype) == ((5, 50), np.float64)
        assert not np.shares_memory(narrow, wide)
    lent = NumpyOps()
    with lent.scratch(x, 4) as first:
        pass
    with lent.scratch(x, 3, wide=False) as again, lent.scratch(x, 4) as other:
        assert np.shares_memory(again, first)
        assert not np.shares_memory(other, first)


def test_large_scratch_is_not_kept():
    x = np.ones((1, BLOCK))
    n = (4 << 20) // (8 * BLOCK) + 1
    with NUMPY.scratch(x, n) as first:
        pass
    with NUMPY.scratch(x, n - 1) as second:
        assert second.shape == (n - 1, BLOCK)
        assert not np.shares_memory(first, second)

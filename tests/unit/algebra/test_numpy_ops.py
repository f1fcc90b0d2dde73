"""The numpy form of the array interface copies where it says so and nowhere else."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ostraka.algebra.ops import BLOCK, NUMPY


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


@pytest.mark.parametrize("ops_dtype", [np.float32, np.float64])
def test_scratch_is_kept_for_one_use_of_one_thread(ops_dtype):
    x = np.ones((3, 50), ops_dtype)
    narrow, wide = NUMPY.scratch("rows", x, 4), NUMPY.scratch("wide", x, 5, wide=True)
    assert (narrow.shape, narrow.dtype) == ((4, 50), ops_dtype)
    assert (wide.shape, wide.dtype) == ((5, 50), np.float64)
    assert not np.shares_memory(narrow, wide)
    assert np.shares_memory(narrow, NUMPY.scratch("rows", x, 4))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(NUMPY.scratch, "rows", x, 4).result()
    assert not np.shares_memory(narrow, other)


def test_large_scratch_is_not_kept():
    x = np.ones((1, BLOCK))
    n = (4 << 20) // (8 * BLOCK) + 1
    assert not np.shares_memory(NUMPY.scratch("rows", x, n), NUMPY.scratch("rows", x, n))
    kept = NUMPY.scratch("rows", x, n - 1)
    assert kept.shape == (n - 1, BLOCK)
    assert np.shares_memory(kept, NUMPY.scratch("rows", x, n - 1))


def test_scratch_of_another_type_and_size_is_laid_over_the_same_memory():
    x = np.ones((1, 10))
    one = NUMPY.scratch("rows", x, 8)
    two = NUMPY.scratch("rows", x.astype(np.float32), 3)
    assert two.shape == (3, 10)
    assert two.dtype == np.float32
    assert np.shares_memory(one, two)

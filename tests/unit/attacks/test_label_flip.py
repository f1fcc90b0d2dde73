"""Label flip turns y into C - 1 - y and refuses what are no labels."""

import numpy as np
import pytest

from ostraka import attacks


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int8, np.int32])
def test_flip(dtype):
    y = np.array([0, 1, 9, 5], dtype=dtype)
    before = y.copy()
    got = attacks.LabelFlip().labels(y, 10)
    assert got.dtype == dtype
    assert got.tolist() == [9, 8, 0, 4]
    np.testing.assert_array_equal(y, before)
    np.testing.assert_array_equal(attacks.LabelFlip().labels(got, 10), y)


def test_unusual_but_legal():
    assert attacks.LabelFlip().labels(np.zeros(0, np.int64), 3).shape == (0,)
    assert attacks.LabelFlip().labels(np.array([[0, 1]]), 2).tolist() == [[1, 0]]
    assert attacks.LabelFlip().labels(np.array([255], np.uint8), 256).tolist() == [0]


@pytest.mark.parametrize(
    ("y", "classes", "words"),
    [
        (np.array([0.0, 1.0]), 2, "integer"),
        ([0, 1], 2, "integer"),
        (np.array([0, 2]), 2, "range"),
        (np.array([-1, 0]), 2, "range"),
        (np.array([0]), 0, "classes"),
        (np.array([0]), True, "classes"),
        (np.array([True]), 2, "integer"),
    ],
)
def test_refusals(y, classes, words):
    with pytest.raises(ValueError, match=words):
        attacks.LabelFlip().labels(y, classes)

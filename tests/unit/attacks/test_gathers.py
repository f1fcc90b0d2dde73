"""Contraction against the worst gather that a search finds: who must shrink, and who need not."""

import numpy as np
import pytest

from ostraka.attacks.gathers import splits, worst_gather
from ostraka.rules.contraction import CONTRACTIONS


def worst_ratio(n: int, f: int, q: int, rule: str, *, equivocates: bool) -> float:
    """The largest honest range after one gather, of a range of 1 before it."""
    contract = CONTRACTIONS[rule]
    return max(
        float(np.ptp(worst_gather(start, f, q, contract, equivocates=equivocates)))
        for start in splits(n - f)
    )


@pytest.mark.parametrize(("n", "f", "q"), [(6, 1, 5), (8, 1, 7), (7, 1, 6)])
def test_the_trimmed_mean_shrinks_to_its_bound_and_the_bound_is_reached(n, f, q) -> None:
    ratio = worst_ratio(n, f, q, "trimmed-mean", equivocates=True)
    assert ratio == pytest.approx(2 * f / (n - 3 * f), abs=1e-5)


@pytest.mark.slow
def test_the_trimmed_mean_shrinks_with_two_liars_too() -> None:
    assert worst_ratio(11, 2, 9, "trimmed-mean", equivocates=True) <= 4 / 5 + 1e-5


@pytest.mark.parametrize(("n", "f", "q"), [(5, 1, 4), (6, 1, 5), (8, 2, 6)])
def test_the_median_need_not_shrink(n, f, q) -> None:
    assert worst_ratio(n, f, q, "median", equivocates=True) >= 1.0


@pytest.mark.parametrize(("n", "f", "q"), [(8, 1, 7), (9, 1, 8)])
def test_the_nearest_neighbours_shrink_beyond_seven_f(n, f, q) -> None:
    assert worst_ratio(n, f, q, "nearest-neighbour", equivocates=True) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("n", "f", "q"), [(6, 1, 5), (7, 1, 6), (11, 2, 9)])
def test_the_nearest_neighbours_shrink_beyond_five_f_if_nobody_equivocates(n, f, q) -> None:
    assert worst_ratio(n, f, q, "nearest-neighbour", equivocates=False) < 0.9


@pytest.mark.parametrize(("n", "f", "q"), [(5, 1, 4), (6, 1, 5)])
def test_the_nearest_neighbours_can_be_driven_apart_below_that(n, f, q) -> None:
    """The worst lie lies just inside each receiver's cut, beyond its own value."""
    assert worst_ratio(n, f, q, "nearest-neighbour", equivocates=True) > 1.2


def test_servers_that_agree_cannot_be_parted_and_the_next_gather_has_as_many_of_them() -> None:
    together = np.zeros(4, np.float32)
    for equivocates in (True, False):
        for contract in CONTRACTIONS.values():
            after = worst_gather(together, 1, 4, contract, equivocates=equivocates)
            assert after.shape == together.shape

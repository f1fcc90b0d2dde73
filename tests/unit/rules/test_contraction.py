"""Contraction rules: what they give, and that honest servers come together whatever liars say."""

from __future__ import annotations

import numpy as np
import pytest

from ostraka.rules.contraction import (
    CONTRACTIONS,
    default_contraction,
    median,
    nearest_neighbour,
    trimmed_mean,
)


def test_each_gives_what_its_definition_says() -> None:
    rows = np.array([[0, 5], [1, 6], [2, 7], [3, 8], [100, -100]], np.float32)
    assert median(rows, 0, 1).tolist() == [2.0, 6.0]
    assert median(rows[:4], 0, 1).tolist() == [1.5, 6.5], "the mean of the two middle values"
    assert trimmed_mean(rows, 0, 1).tolist() == [2.0, 6.0]
    assert nearest_neighbour(rows, 0, 1).tolist() == [1.5, 6.5]
    assert nearest_neighbour(rows, 3, 2).tolist() == [2.0, 7.0]
    for contract in CONTRACTIONS.values():
        assert contract(rows, 0, 1).dtype == np.float32


def test_ones_own_row_always_counts_and_ties_go_to_the_first() -> None:
    rows = np.array([[1], [1], [1], [1], [1]], np.float32)
    rows[4] = 1.0
    spread = np.array([[-1], [1], [0], [0]], np.float32)
    assert nearest_neighbour(spread, 3, 2).tolist() == [0.0]
    assert nearest_neighbour(spread, 2, 1).tolist() == [-np.float32(1) / 3]
    alone = np.array([[5], [0], [0], [0]], np.float32)
    assert nearest_neighbour(alone, 0, 3).tolist() == [5.0]


@pytest.mark.parametrize("contract", CONTRACTIONS.values(), ids=CONTRACTIONS)
def test_huge_liars_do_no_harm_and_the_input_is_left_alone(contract) -> None:
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)
    rows[[2, 5]] = [[3e38, -3e38], [-3e38, 3e38]]
    before = rows.copy()
    found = contract(rows, 0, 2)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found <= 15).all()
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize(
    ("n", "f", "name"),
    [
        (5, 1, "median"),
        (6, 1, "trimmed-mean"),
        (10, 2, "median"),
        (11, 2, "trimmed-mean"),
        (5, 0, "trimmed-mean"),
    ],
)
def test_the_default_is_the_trimmed_mean_where_it_is_sure_to_contract(n, f, name) -> None:
    assert default_contraction(n, f) == name


@pytest.mark.parametrize(("n", "f"), [(6, 1), (11, 2), (16, 3)])
@pytest.mark.parametrize("seed", range(20))
def test_the_trimmed_mean_shrinks_the_honest_range_of_every_coordinate(n, f, seed) -> None:
    """To at most 2f / (n - 3f), though each receiver is told other things and misses other rows."""
    rng = np.random.default_rng(seed)
    honest = rng.standard_normal((n - f, 50)).astype(np.float32)
    received = []
    for own in range(n - f):
        lies = rng.choice([-1e9, 1e9, honest.min(), honest.max()], (f, 50)).astype(np.float32)
        present = rng.choice([i for i in range(n - f) if i != own], n - 2 * f - 1, replace=False)
        received.append(trimmed_mean(np.concatenate([honest[[own, *present]], lies]), 0, f))
    after, before = np.ptp(np.stack(received), axis=0), np.ptp(honest, axis=0)
    assert (after <= 2 * f / (n - 3 * f) * before * (1 + 1e-6)).all()

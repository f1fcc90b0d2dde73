"""MDA is exact, breaks ties like trying all subsets in order, and does little work at n = 50."""

import numpy as np
import pytest
import rule_twins as twins
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka.rules.mda import smallest_diameter


def squared(x):
    return ((x[:, None] - x[None]) ** 2).sum(axis=2)


def two_values(adjacent):
    """Distances 2 along the edges of a graph and 1 elsewhere: any graph is a threshold graph."""
    both = np.where(adjacent | adjacent.T, 4.0, 1.0)
    np.fill_diagonal(both, 0.0)
    return both


@pytest.mark.slow
@settings(max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 9),
    kind=st.sampled_from(["grid", "gauss", "graph"]),
    share=st.floats(0.05, 0.95),
)
def test_equals_trying_every_subset(seed, n, kind, share):
    rng = np.random.default_rng(seed)
    if kind == "graph":
        distances = two_values(np.triu(rng.random((n, n)) < share, 1))
    else:
        x = rng.integers(0, 3, (n, 2)) if kind == "grid" else rng.standard_normal((n, 2))
        distances = squared(x.astype(np.float64))
    for f in range((n - 1) // 2 + 1):
        assert smallest_diameter(distances, f)[0] == twins.mda_subset(distances, f)


def cases(n, seed):
    rng = np.random.default_rng(seed)
    angle = np.arange(n) / n * 2 * np.pi
    half = (np.arange(n) % 2)[:, None]
    yield "gauss", squared(rng.standard_normal((n, 3)))
    yield "wide gauss", squared(rng.standard_normal((n, 1000)))
    yield "simplex", squared(np.eye(n))
    yield "equal rows", np.zeros((n, n))
    yield "two points", squared(100.0 * half)
    yield "two clusters", squared(rng.standard_normal((n, 20)) + 100.0 * half)
    yield "circle", squared(np.c_[np.cos(angle), np.sin(angle)])
    yield "line", squared(np.arange(n, dtype=np.float64)[:, None])
    yield "grid", squared(rng.integers(0, 3, (n, 3)).astype(np.float64))
    yield "cube", squared(rng.integers(0, 2, (n, 8)).astype(np.float64))
    yield (
        "outliers",
        squared(rng.standard_normal((n, 9)) * np.where(np.arange(n) < 12, 50, 1)[:, None]),
    )
    for degree in (2.0, 2.5, 3.0, 4.0, 8.0):
        yield f"graph {degree}", two_values(np.triu(rng.random((n, n)) < degree / n, 1))
    cubic = np.zeros((n, n), dtype=bool)
    for _ in range(3):
        order = rng.permutation(n)
        cubic[order[::2], order[1::2]] = True
    yield "cubic", two_values(cubic)


@pytest.mark.parametrize("f", [12, 16, 20, 24])
@pytest.mark.parametrize("seed", range(5))
def test_work_at_fifty_rows_is_bounded(f, seed):
    for name, distances in cases(50, seed):
        kept, nodes = smallest_diameter(distances, f)
        assert nodes <= 1000, f"{name}: {nodes} search nodes"
        assert len(kept) == 50 - f
        assert kept == sorted(set(kept))


def test_finds_the_honest_rows():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 30))
    liars = rng.choice(50, 12, replace=False)
    x[liars] += 40
    kept, nodes = smallest_diameter(squared(x), 12)
    assert kept == sorted(set(range(50)) - set(liars.tolist()))
    assert nodes < 200

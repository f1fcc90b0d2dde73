"""A vertex cover of k vertices is found exactly when trying all sets of k finds one."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka.algebra.cover import CoverSearch, members


def graph(n, edges):
    near = [0] * n
    for a, b in edges:
        near[a] |= 1 << b
        near[b] |= 1 << a
    return near


def smallest_cover(n, edges):
    for k in range(n + 1):
        for chosen in itertools.combinations(range(n), k):
            if all(a in chosen or b in chosen for a, b in edges):
                return k
    raise AssertionError


@pytest.mark.slow
@settings(max_examples=300)
@given(n=st.integers(1, 9), data=st.data())
def test_equals_trying_all_sets(n, data):
    pairs = list(itertools.combinations(range(n), 2))
    edges = data.draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    least = smallest_cover(n, edges)
    search = CoverSearch(graph(n, edges))
    for k in range(-1, n + 1):
        assert search.exists((1 << n) - 1, k) == (k >= least)


def test_only_the_living_vertices_count():
    search = CoverSearch(graph(4, [(0, 1), (1, 2), (2, 3)]))
    assert not search.exists(0b1111, 1)
    assert search.exists(0b0111, 1)
    assert search.exists(0b0101, 0)


def test_cycles_and_petersen():
    for n in range(3, 12):
        search = CoverSearch(graph(n, [(i, (i + 1) % n) for i in range(n)]))
        assert search.exists((1 << n) - 1, (n + 1) // 2)
        assert not search.exists((1 << n) - 1, (n + 1) // 2 - 1)
    outer = [(i, (i + 1) % 5) for i in range(5)]
    inner = [(5 + i, 5 + (i + 2) % 5) for i in range(5)]
    search = CoverSearch(graph(10, outer + inner + [(i, 5 + i) for i in range(5)]))
    assert search.exists((1 << 10) - 1, 6)
    assert not search.exists((1 << 10) - 1, 5)


def test_many_odd_cycles():
    """Each pentagon costs 3, though 5 edges at 2 a vertex would allow for less."""
    for count in range(1, 5):
        edges = [(5 * c + i, 5 * c + (i + 1) % 5) for c in range(count) for i in range(5)]
        search = CoverSearch(graph(5 * count, edges))
        assert search.exists((1 << 5 * count) - 1, 3 * count)
        assert not search.exists((1 << 5 * count) - 1, 3 * count - 1)


def test_members():
    assert list(members(0b101001)) == [0, 3, 5]
    assert list(members(0)) == []

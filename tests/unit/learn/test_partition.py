"""Partitions are disjoint, cover every example, leave no party without examples, and repeat."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka.learn.partition import KINDS, LEAST, split


@st.composite
def cases(draw):
    count = draw(st.integers(1, 400))
    labels = np.random.default_rng(draw(st.integers(0, 99))).integers(
        0, draw(st.integers(1, 12)), count
    )
    return labels, draw(st.integers(1, count)), draw(st.integers(0, 2**64 - 1))


@pytest.mark.slow
@settings(max_examples=150)
@given(case=cases(), kind=st.sampled_from(KINDS), alpha=st.sampled_from([1e-6, 0.01, 0.5, 1e6]))
def test_parts_are_disjoint_and_cover(case, kind, alpha):
    labels, parties, seed = case
    parts = split(labels, parties, kind, alpha=alpha, shards_per_party=1, seed=seed)
    assert len(parts) == parties
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    least = min(LEAST, len(labels) // parties) if kind == "dirichlet" else len(labels) // parties
    assert min(map(len, parts)) >= least >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_follows_from_the_seed(kind):
    labels = np.arange(500) % 10
    first, again, other = (split(labels, 7, kind, seed=s) for s in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_iid_sizes_differ_by_one():
    sizes = [len(p) for p in split(np.zeros(103, int), 10, "iid", seed=0)]
    assert sorted(set(sizes)) == [10, 11]


def test_dirichlet_grows_even_with_alpha():
    labels = np.arange(5000) % 10

    def skew(alpha):
        parts = split(labels, 10, "dirichlet", alpha=alpha, seed=5)
        counts = np.array([np.bincount(labels[p], minlength=10) for p in parts])
        return float((counts / counts.sum(axis=1, keepdims=True)).max(axis=1).mean())

    assert skew(0.05) > 0.6 > 0.3 > skew(10.0) > skew(1e5) > 0.09


def test_a_party_has_few_classes_under_shards():
    labels = np.arange(1000) % 10
    for part in split(labels, 10, "shards", shards_per_party=2, seed=1):
        assert len(np.unique(labels[part])) <= 3


@pytest.mark.parametrize(
    ("parties", "kind", "more", "words"),
    [
        (11, "iid", {}, "11 parties cannot share 10 examples"),
        (0, "iid", {}, "at least 1"),
        (6, "shards", {}, "12 shards"),
        (2, "shards", {"shards_per_party": 0}, "shards_per_party"),
        (2, "dirichlet", {"alpha": 0.0}, "alpha"),
        (2, "dirichlet", {"alpha": float("nan")}, "alpha"),
        (2, "sorted", {}, "iid, dirichlet, shards"),
    ],
)
def test_refusals(parties, kind, more, words):
    with pytest.raises(ValueError, match=words):
        split(np.zeros(10, int), parties, kind, seed=0, **more)


def test_labels_must_be_integers():
    with pytest.raises(ValueError, match="integers"):
        split(np.zeros(10), 2, "iid", seed=0)

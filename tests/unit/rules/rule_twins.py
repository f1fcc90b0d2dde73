"""Slow, obvious twins of the rules, in float64, and the inputs both sides are compared on."""

import itertools
import math

import numpy as np
from hypothesis import strategies as st

from ostraka import rules

KINDS = ("gauss", "grid", "duplicates", "clusters", "line")


def make_rows(seed, n, d, kind, scale=1.0, offset=0.0, dtype=np.float64):
    """Rows of one of the kinds, times a scale, around a common offset in spreads."""
    rng = np.random.default_rng(seed)
    if kind == "gauss":
        x = rng.standard_normal((n, d))
    elif kind == "grid":
        x = rng.integers(-2, 3, (n, d)).astype(np.float64)
    elif kind == "duplicates":
        x = rng.standard_normal((max(1, n // 2), d))[rng.integers(0, max(1, n // 2), n)]
    elif kind == "clusters":
        x = rng.standard_normal((n, d)) + 30.0 * (np.arange(n) % 2)[:, None]
    else:
        x = np.arange(n, dtype=np.float64)[:, None] * np.ones(d)
    shift = np.round(offset * rng.standard_normal(d))
    return (scale * (x + shift)).astype(dtype)


@st.composite
def inputs(draw, n_min=3, n_max=9):
    """(rows, f) with 2f < n: float32 or float64, ties, offsets and scales."""
    n = draw(st.integers(n_min, n_max))
    x = make_rows(
        draw(st.integers(0, 2**32 - 1)),
        n,
        draw(st.integers(1, 6)),
        draw(st.sampled_from(KINDS)),
        draw(st.sampled_from([2.0**-10, 1e-3, 1.0, 1e3])),
        draw(st.sampled_from([0.0, 1.0, 1000.0])),
        draw(st.sampled_from([np.float32, np.float64])),
    )
    return x, draw(st.integers(0, (n - 1) // 2))


def spread(x):
    """Largest distance of a row to the coordinate-wise median."""
    x = x.astype(np.float64)
    return float(np.linalg.norm(x - np.median(x, axis=0), axis=1).max())


def tolerance(x):
    """Agreement asked of a rule: relative to the spread, and a few units in the last place."""
    relative = 1e-9 if x.dtype == np.float64 else 2e-4
    return relative * spread(x) + 4 * float(np.finfo(x.dtype).eps) * float(np.abs(x).max())


def agree(got, want, x):
    assert got.dtype == x.dtype
    assert got.shape == (x.shape[1],)
    error = float(np.abs(got.astype(np.float64) - want).max())
    assert error <= tolerance(x), f"error {error:.3g}, allowed {tolerance(x):.3g}"


def squared_distances(x):
    x = x.astype(np.float64)
    return np.array([[sum((a - b) ** 2) for b in x] for a in x])


def mean(x, f):
    return sum(row.astype(np.float64) for row in x) / len(x)


def median(x, f):
    return np.median(x.astype(np.float64), axis=0)


def trimmed_mean(x, f):
    out = []
    for column in x.astype(np.float64).T:
        kept = sorted(column)[f : len(column) - f]
        out.append(math.fsum(kept) / len(kept))
    return np.array(out)


def krum_scores(x, f):
    squared = squared_distances(x)
    n = len(x)
    return [sum(sorted(squared[i, j] for j in range(n) if j != i)[: n - f - 2]) for i in range(n)]


def krum(x, f):
    scores = krum_scores(x, f)
    return x[scores.index(min(scores))].astype(np.float64)


def multi_krum(x, f, m=None):
    scores = krum_scores(x, f)
    order = sorted(range(len(x)), key=lambda i: (scores[i], i))
    return mean(x[order[: len(x) - f if m is None else m]], f)


def mda_subset(squared, f):
    best, kept = math.inf, None
    for subset in itertools.combinations(range(len(squared)), len(squared) - f):
        diameter = max(squared[i, j] for i in subset for j in subset)
        if diameter < best:
            best, kept = diameter, subset
    return list(kept)


def mda(x, f):
    return mean(x[mda_subset(squared_distances(x), f)], f)


def centered_clipping(x, f, tau=1.0, steps=1, reference=None):
    x = x.astype(np.float64)
    v = np.zeros(x.shape[1]) if reference is None else reference.astype(np.float64)
    for _ in range(steps):
        pulls = []
        for row in x:
            length = np.linalg.norm(row - v)
            pulls.append((row - v) * (1.0 if length <= tau else tau / length))
        v = v + sum(pulls) / len(x)
    return v


def nnm(x, f):
    squared = squared_distances(x)
    n = len(x)
    out = []
    for i in range(n):
        order = sorted(range(n), key=lambda j: (squared[i, j], j))
        out.append(mean(x[order[: n - f]], f))
    return np.array(out)


def smoothed_sum(x, z, nu):
    """Objective of the smoothed geometric median at z."""
    r = np.linalg.norm(x.astype(np.float64) - z, axis=1)
    return float(np.where(r > nu, r, r**2 / (2 * nu) + nu / 2).sum())


def one_of_each(f):
    """An instance of every rule, keyed by its name."""
    made = {
        "mean": rules.Mean(),
        "median": rules.Median(),
        "trimmed-mean": rules.TrimmedMean(f),
        "krum": rules.Krum(f),
        "multi-krum": rules.MultiKrum(f),
        "mda": rules.MDA(f),
        "geometric-median": rules.GeometricMedian(),
        "centered-clipping": rules.CenteredClipping(tau=1.0),
    }
    assert made.keys() == rules.RULES.keys()
    return made

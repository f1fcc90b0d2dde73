"""Who gets which examples: deterministic partitions of one data set among the parties."""

from __future__ import annotations

import math

import numpy as np

from ostraka.learn.seeds import NO_ROUND, NOBODY, PARTITION, stream

KINDS = ("iid", "dirichlet", "shards")
LEAST = 10
"""No party gets fewer examples under ``dirichlet``, or a fair share where that is less."""


def split(
    labels: np.ndarray,
    parties: int,
    kind: str,
    *,
    alpha: float = 0.5,
    shards_per_party: int = 2,
    seed: int,
) -> list[np.ndarray]:
    """One sorted int64 array of example indices per party; disjoint, together all examples.

    ``labels`` is (N,), integers. iid: a random permutation cut into equal parts (sizes differ by
    at most 1). dirichlet: each class is cut in proportions drawn from Dirichlet(alpha, .., alpha)
    (Hsu, Qi, Brown 2019); then, while a party has fewer than min(10, N // parties) examples, the
    largest party gives it examples at random. One draw and this repair, never a redraw, so it ends
    for every alpha. shards: examples sorted by label, ties in random order, are cut into
    parties * shards_per_party equal shards and dealt at random (McMahan et al. 2017).
    Raises ValueError for more parties (or shards) than examples and for senseless parameters.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be (N,) integers, got {labels.dtype} {labels.shape}")
    if parties < 1:
        raise ValueError(f"parties must be at least 1, got {parties}")
    if parties > len(labels):
        raise ValueError(f"{parties} parties cannot share {len(labels)} examples")
    rng = stream(seed, NOBODY, NO_ROUND, PARTITION)
    if kind == "iid":
        parts = np.array_split(rng.permutation(len(labels)), parties)
    elif kind == "dirichlet":
        parts = _dirichlet(labels, parties, alpha, rng)
    elif kind == "shards":
        parts = _shards(labels, parties, shards_per_party, rng)
    else:
        raise ValueError(f"unknown partition {kind!r}, known are: {', '.join(KINDS)}")
    return [np.sort(part).astype(np.int64) for part in parts]


def _dirichlet(
    labels: np.ndarray, parties: int, alpha: float, rng: np.random.Generator
) -> list[np.ndarray]:
    if not (math.isfinite(alpha) and 1e-6 <= alpha <= 1e6):
        raise ValueError(f"alpha must be in [1e-6, 1e6], got {alpha}")
    pieces: list[list[np.ndarray]] = [[] for _ in range(parties)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(parties, alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for piece, part in zip(pieces, np.split(members, cuts), strict=True):
            piece.append(part)
    parts = [rng.permutation(np.concatenate(piece)) for piece in pieces]
    return _repair(parts, min(LEAST, len(labels) // parties))


def _repair(parts: list[np.ndarray], least: int) -> list[np.ndarray]:
    """Fill every part up to ``least``, each time from the end of the part that is largest then."""
    sizes = np.array([len(part) for part in parts])
    for poor in np.flatnonzero(sizes < least):
        while len(parts[poor]) < least:
            rich = int(np.argmax([len(part) for part in parts]))
            given = min(least - len(parts[poor]), len(parts[rich]) - least)
            parts[poor] = np.concatenate([parts[poor], parts[rich][-given:]])
            parts[rich] = parts[rich][:-given]
    return parts


def _shards(
    labels: np.ndarray, parties: int, shards_per_party: int, rng: np.random.Generator
) -> list[np.ndarray]:
    if shards_per_party < 1:
        raise ValueError(f"shards_per_party must be at least 1, got {shards_per_party}")
    shards = parties * shards_per_party
    if shards > len(labels):
        raise ValueError(
            f"{parties} parties x {shards_per_party} shards = {shards} shards, "
            f"but there are {len(labels)} examples"
        )
    shuffled = rng.permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    pieces = np.array_split(ordered, shards)
    dealt = rng.permutation(shards).reshape(parties, shards_per_party)
    return [np.concatenate([pieces[shard] for shard in hand]) for hand in dealt]

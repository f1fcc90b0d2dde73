"""Randomness of training and simulation: every stream follows from (seed, party, round, purpose).

The seed is public, so nothing here is ever a secret: masks, keys and shares come from a
cryptographic generator elsewhere.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

import numpy as np

NOBODY = -1
"""The party index of what belongs to the whole federation."""
NO_ROUND = -1
"""The round of what happens before the first round."""

PARTITION = "partition"
INITIAL = "initial model"
BATCH = "minibatch"
FORWARD = "forward pass"
SAMPLING = "poisson sampling"
NOISE = "privacy noise"


def _check(seed: int, party: int, round: int) -> None:
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2^64), got {seed}")
    if not (NOBODY <= party < 2**31 and NO_ROUND <= round < 2**63):
        raise ValueError(f"party and round start at -1, got {party} and {round}")


@lru_cache(maxsize=256)
def _word(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")


def stream(seed: int, party: int, round: int, purpose: str) -> np.random.Generator:
    """The generator (PCG64) of one purpose of one party in one round.

    For training and simulation only, never for secrets: the seed stands in the federation file.
    ``party`` and ``round`` may be -1 (``NOBODY``, ``NO_ROUND``). Raises ValueError for a seed
    outside [0, 2^64).
    """
    _check(seed, party, round)
    sequence = np.random.SeedSequence((seed, party + 1, round + 1, _word(purpose)))
    return np.random.Generator(np.random.PCG64(sequence))


def torch_seed(seed: int, party: int, round: int, purpose: str) -> int:
    """An int in [0, 2^63) for ``torch.Generator.manual_seed``, from the same four values.

    By SHA-256, which costs a tenth of a ``SeedSequence``: it is drawn in every round.
    """
    _check(seed, party, round)
    packed = struct.pack("<QqqQ", seed, party, round, _word(purpose))
    return int.from_bytes(hashlib.sha256(packed).digest()[:8], "big") >> 1

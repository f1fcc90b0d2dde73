"""Where Poisson samples and privacy noise come from: the public seed, or a secret stream.

`SeededDraws` is for simulations, which anybody can repeat; it protects nobody. `SecretDraws` is
for a real party: its generator's key comes from the operating system.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Protocol

import numpy as np

from ostraka.crypto.prg import Prg
from ostraka.learn.seeds import NOISE, SAMPLING, stream

PARTS = 4
"""Independent normals in one secret draw."""
GRID_BITS = 16
"""A secret draw is rounded to a power of two about 2^-16 of its deviation."""
_PAIRS = 1 << 13  # columns of Box-Muller pairs computed at once: about 2 MB of memory in all
_SAMPLES = 1 << 16  # membership words drawn at once
_FLOAT32_TINIEST = 2.0**-149


class Draws(Protocol):
    """The two kinds of random choice that differential privacy rests on."""

    def members(self, count: int, rate: float) -> np.ndarray:
        """A Poisson sample: indices below ``count``, int64, each there with chance ``rate``."""

    def add_noise(self, vector: np.ndarray, deviation: float) -> None:
        """Add normal noise of this standard deviation, in place, to ``vector``, float32 (size,)."""


class SeededDraws:
    """One party's draws of one round, from the public seed: the same in every run.

    For simulations only: whoever reads the federation file can subtract the noise and knows the
    samples.
    """

    def __init__(self, seed: int, party: int, round: int) -> None:
        self._place = (seed, party, round)

    @cached_property
    def _sampling(self) -> np.random.Generator:
        return stream(*self._place, SAMPLING)

    @cached_property
    def _noise(self) -> np.random.Generator:
        return stream(*self._place, NOISE)

    def members(self, count: int, rate: float) -> np.ndarray:
        """See `Draws`."""
        return np.flatnonzero(self._sampling.random(count) < rate)

    def add_noise(self, vector: np.ndarray, deviation: float) -> None:
        """See `Draws`."""
        noise = self._noise.standard_normal(len(vector), dtype=np.float32)
        noise *= np.float32(deviation)
        vector += noise


class SecretDraws:
    """Draws from a secret stream, which nobody can repeat without its key.

    Floating-point numbers are not the reals that the proofs speak of. Noise that is made or added
    carelessly leaves gaps between the results that a value can give, and the gaps tell values apart
    (Mironov 2012; Jin et al. 2022). Two measures against it:

    - One draw is the sum of four independent Box-Muller normals over its root, in float64 from
      53-bit uniforms (Holohan & Braghin 2021): its possible values are far too many to be searched.
    - Noise is added in float64 and the sum is rounded to a public grid, a power of two about
      2^-16 of the deviation. While values stay within 1,000 deviations, a point of the grid stands
      for 2^26 sums or more: every value can give every point near it, and its low bits are gone.

    Not done: an exactly discrete normal distribution, and constant time. Draws end at 17.1
    deviations, beyond which the true weight is below 2^-200.
    """

    def __init__(self, prg: Prg) -> None:
        self._prg = prg

    def members(self, count: int, rate: float) -> np.ndarray:
        """See `Draws`: a 53-bit uniform below ``rate``, one for every index."""
        found = [
            start + np.flatnonzero(self._uniform(min(_SAMPLES, count - start)) < rate)
            for start in range(0, count, _SAMPLES)
        ]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def add_noise(self, vector: np.ndarray, deviation: float) -> None:
        """See `Draws`. A deviation of 0 leaves the vector as it is; ValueError for a negative or
        infinite one.
        """
        if not 0.0 <= deviation < math.inf:
            raise ValueError(f"a deviation must be a finite number >= 0, got {deviation}")
        if deviation == 0.0:
            return
        grid = _grid(deviation)
        for start in range(0, len(vector), 2 * _PAIRS):
            part = vector[start : start + 2 * _PAIRS]
            noisy = self._normal(len(part))
            noisy *= deviation
            noisy += part
            noisy /= grid
            np.rint(noisy, out=noisy)
            noisy *= grid
            noisy += 0.0  # one zero, whichever side it was rounded from
            part[:] = noisy

    def _uniform(self, count: int) -> np.ndarray:
        """float64 (count,): multiples of 2^-53 in [0, 1)."""
        return (self._prg.words(count) >> np.uint64(11)) * 2.0**-53

    def _normal(self, count: int) -> np.ndarray:
        """Standard normals, float64 (count,).

        The cosine and the sine of one pair go to different draws, which are independent then.
        """
        columns = (count + 1) // 2
        radius, angle = self._uniform(2 * PARTS * columns).reshape(2, PARTS, columns)
        radius = np.sqrt(-2.0 * np.log(radius + 2.0**-53))  # (0, 1]: no logarithm of zero
        angle = angle * (2.0 * math.pi)
        both = ((radius * turn(angle)).sum(axis=0) for turn in (np.cos, np.sin))
        return np.concatenate(list(both))[:count] / math.sqrt(PARTS)


def _grid(deviation: float) -> float:
    """The power of two between 2^-17 and 2^-16 of the deviation, or float32's least number."""
    _, exponent = math.frexp(deviation)
    return max(math.ldexp(1.0, exponent - 1 - GRID_BITS), _FLOAT32_TINIEST)

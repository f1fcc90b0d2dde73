"""Attacks on updates: Byzantine rows computed from the honest rows of the round.

mu is the honest mean and sigma the honest standard deviation per coordinate, with h - 1 in the
denominator (0 when there is one honest row), both accumulated in float64.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Literal

import numpy as np

from ostraka.algebra.ops import Float
from ostraka.attacks.api import Rows, UpdateAttack
from ostraka.rules.api import positive
from ostraka.rules.gram import ORIGIN, Geometry

_ALL = "all honest updates of the round"
_NOTHING = "nothing but the length of an update"
_NO_SPREAD = 1e-280


def mean(honest: Rows) -> Float:
    """Honest mean (d,) in float64, added row after row: the same bits for every memory layout."""
    total = np.zeros(honest.shape[1])
    for row in honest:
        total += row
    return total / len(honest)


def deviation(honest: Rows) -> Float:
    """Honest standard deviation (d,) in float64, ddof 1, added row after row."""
    centre, total = mean(honest), np.zeros(honest.shape[1])
    for row in honest:
        total += (row - centre) ** 2
    return np.sqrt(total / max(1, len(honest) - 1))


def _same(row: Float, f: int, like: Rows) -> Rows:
    """Give f copies of a float64 row in the dtype of the honest rows, within its range."""
    top = float(np.finfo(like.dtype).max)
    return np.tile(np.clip(row, -top, top).astype(like.dtype), (f, 1))


@dataclass(frozen=True)
class SignFlip(UpdateAttack):
    """-mu (Allen-Zhu et al. 2020; libraries also flip each worker's own update instead)."""

    name: ClassVar[str] = "sign-flip"
    knows: ClassVar[str] = _ALL

    def rows(self, honest: Rows, f: int, rng: np.random.Generator) -> Rows:
        """-mu in every row."""
        return _same(-mean(honest), f, honest)


@dataclass(frozen=True)
class Gaussian(UpdateAttack):
    """Independent draws from N(mu, s^2 I); s = 200 as in Blanchard et al. 2017."""

    s: float = 200.0
    name: ClassVar[str] = "gaussian"
    knows: ClassVar[str] = _ALL

    def __post_init__(self) -> None:
        positive("gaussian", "s", self.s, zero=True)

    def rows(self, honest: Rows, f: int, rng: np.random.Generator) -> Rows:
        """One draw per row, row after row."""
        centre, d = mean(honest), honest.shape[1]
        out = np.empty((f, d), dtype=honest.dtype)
        for row in out:
            row[:] = _same(centre + self.s * rng.standard_normal(d), 1, honest)[0]
        return out


@dataclass(frozen=True)
class ALIE(UpdateAttack):
    """A little is enough: mu - z sigma (Baruch et al. 2019).

    z = 1.5 by default. `z="paper"` computes the paper's z for n = h + f workers, of which
    s = floor(n/2) + 1 - f must be won over: Phi^-1((n - f - s) / (n - f)). That is 0, no attack at
    all, for (n, f) = (10, 2), (12, 2) and (20, 2); a z below 0.3 warns.
    """

    z: float | Literal["paper"] = 1.5
    name: ClassVar[str] = "alie"
    knows: ClassVar[str] = _ALL

    def __post_init__(self) -> None:
        if self.z != "paper":
            positive("alie", "z", self.z, zero=True)

    def rows(self, honest: Rows, f: int, rng: np.random.Generator) -> Rows:
        """mu - z sigma in every row."""
        z = paper_z(len(honest) + f, f) if isinstance(self.z, str) else float(self.z)
        return _same(mean(honest) - z * deviation(honest), f, honest)


def paper_z(n: int, f: int) -> float:
    """Largest z at which s honest workers lie beyond the attackers, by Baruch et al. 2019.

    Warns (UserWarning) below 0.3. ValueError when the attackers have a majority by themselves or
    would need every honest worker: the formula has no answer there.
    """
    supporters = n // 2 + 1 - f
    if not 0 < supporters < n - f:
        raise ValueError(f"alie's paper z needs 0 < floor(n/2)+1-f < n-f, got f={f}, n={n}")
    z = NormalDist().inv_cdf((n - f - supporters) / (n - f))
    if z < 0.3:
        warnings.warn(
            f"alie: the paper's z is {z:.3g} at n={n}, f={f}: hardly an attack", stacklevel=4
        )
    return z


@dataclass(frozen=True)
class IPM(UpdateAttack):
    """Inner product manipulation, -eps mu (Xie et al. 2020, fall of empires); eps = 0.1."""

    eps: float = 0.1
    name: ClassVar[str] = "ipm"
    knows: ClassVar[str] = _ALL

    def __post_init__(self) -> None:
        positive("ipm", "eps", self.eps, zero=True)

    def rows(self, honest: Rows, f: int, rng: np.random.Generator) -> Rows:
        """-eps mu in every row."""
        return _same(-self.eps * mean(honest), f, honest)


@dataclass(frozen=True)
class Mimic(UpdateAttack):
    """Copies the honest row with the largest |<x_i, z>|, z the direction the rows vary in most.

    Source: Karimireddy, He and Jaggi 2022. There z is learnt by Oja's rule
    over warm-up rounds and the victim then stays the same. Here Oja's rule makes `passes` passes
    over the honest rows of this round, centred on their mean, from a start drawn from the
    generator: the attack keeps no state, so nothing has to be checkpointed and every party can
    recompute it; the victim may change between rounds. Runs on the inner products of the rows.
    """

    passes: int = 20
    name: ClassVar[str] = "mimic"
    knows: ClassVar[str] = _ALL

    def __post_init__(self) -> None:
        if isinstance(self.passes, bool) or not isinstance(self.passes, int) or self.passes < 1:
            raise ValueError(f"mimic needs a whole passes >= 1, got {self.passes!r}")

    def rows(self, honest: Rows, f: int, rng: np.random.Generator) -> Rows:
        """Give copies of the victim, bit for bit."""
        return np.tile(honest[self.victim(honest, rng)], (f, 1))

    def victim(self, honest: Rows, rng: np.random.Generator) -> int:
        """Index of the honest row that is copied; the first among equals."""
        geometry = Geometry.from_rows(honest)
        h, origin = geometry.n, geometry.index(ORIGIN)
        gram = geometry.gram[:h, :h]
        centred = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
        trace = max(0.0, float(np.trace(centred)))
        along = rng.standard_normal(h)
        for _ in range(self.passes if trace > _NO_SPREAD else 0):
            along = along + h / trace * (centred @ along)
            along /= np.abs(along).max()
        along = along - along.mean()
        products = gram @ along - float(geometry.gram[origin, :h] @ along)
        return int(np.argmax(np.abs(products)))


@dataclass(frozen=True)
class Zero(UpdateAttack):
    """All zeros: a worker that contributes nothing."""

    name: ClassVar[str] = "zero"
    knows: ClassVar[str] = _NOTHING

    def rows(self, honest: Rows, f: int, rng: np.random.Generator) -> Rows:
        """0 in every entry."""
        return np.zeros((f, honest.shape[1]), dtype=honest.dtype)


@dataclass(frozen=True)
class Inf(UpdateAttack):
    """Infinity in every entry: screening must refuse it."""

    name: ClassVar[str] = "inf"
    knows: ClassVar[str] = _NOTHING

    def rows(self, honest: Rows, f: int, rng: np.random.Generator) -> Rows:
        """Infinity in every entry."""
        return np.full((f, honest.shape[1]), np.inf, dtype=honest.dtype)


@dataclass(frozen=True)
class NaN(UpdateAttack):
    """Not a number in every entry: screening must refuse it."""

    name: ClassVar[str] = "nan"
    knows: ClassVar[str] = _NOTHING

    def rows(self, honest: Rows, f: int, rng: np.random.Generator) -> Rows:
        """NaN in every entry."""
        return np.full((f, honest.shape[1]), np.nan, dtype=honest.dtype)


@dataclass(frozen=True)
class Huge(UpdateAttack):
    """10^38 in the first coordinate, mu elsewhere: finite, but its square overflows float32."""

    name: ClassVar[str] = "huge"
    knows: ClassVar[str] = _ALL

    def rows(self, honest: Rows, f: int, rng: np.random.Generator) -> Rows:
        """mu with 10^38 in the first coordinate."""
        row = mean(honest)
        row[0] = 1e38
        return _same(row, f, honest)

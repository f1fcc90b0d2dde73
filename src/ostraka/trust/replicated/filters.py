"""What a worker of the synchronous variant asks of the one model that it pulled.

Source: El-Mhamdi et al. 2020, section 5. Both formulas were recovered second-hand (the design page
says so) and are implemented as stated there; what they save and reject is measured.
"""

from __future__ import annotations

import bisect
import math

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


def distance(a: Vector, b: Vector) -> float:
    """Euclidean distance in float64; inf where it overflows, nan where a coordinate is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64)))


class LipschitzFilter:
    """Whether the gradient changes no faster on the way to a model than it mostly did before.

    k = ||g' - g|| / ||theta~ - theta||, with g the worker's gradient at theta, theta~ = theta -
    rate * g its own next guess and g' the gradient at the pulled model, on the minibatch of g: on
    another one k would measure the noise of minibatches over the rate. Accepted when k is at most
    the ceil(m (n - f) / n)-th smallest of the m coefficients so far, itself included; every finite
    one enters the history, accepted or not. A guess that does not move rejects.
    """

    def __init__(self, n_servers: int, f_servers: int) -> None:
        self._n, self._f = n_servers, f_servers
        self._history: list[float] = []

    def admits(self, model: Vector, guess: Vector, gradient: Vector, there: Vector) -> bool:
        """``gradient`` at ``model``, ``there`` at the pulled model, all (d,) float32."""
        moved, changed = distance(guess, model), distance(there, gradient)
        if moved == 0 or not math.isfinite(moved) or not math.isfinite(changed):
            return False
        k = changed / moved
        if not math.isfinite(k):
            return False
        bisect.insort(self._history, k)
        rank = math.ceil(len(self._history) * (self._n - self._f) / self._n)
        return k <= self._history[rank - 1]


def outlier_limit(
    step: int, rate: float, norm: float, gather_every: int, workers: int, f: int
) -> float:
    """How far from a worker's own guess the model of a step may lie.

    ``rate`` and ``norm``: learning rate and length of the worker's gradient at the last gather (or
    step 0). Infinite for f = 0, which the formula divides by.
    """
    if f == 0:
        return math.inf
    spread = (3 * gather_every + 2) * (workers - f) / (4 * f)
    return rate * norm * (spread + 2 * ((step - 1) % gather_every))

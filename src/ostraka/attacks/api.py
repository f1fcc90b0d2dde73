"""What an attack is: who knows what, who controls what, and the rows that come of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]


class UpdateAttack(ABC):
    """Makes the f Byzantine updates of a round from the honest ones.

    `knows` and `controls` state the adversary in a sentence each. All randomness comes from the
    generator that is handed in.
    """

    name: ClassVar[str]
    knows: ClassVar[str]
    controls: ClassVar[str] = "the updates of the f Byzantine workers"

    def __call__(self, honest: Rows, f: int, rng: np.random.Generator) -> Rows:
        """Give (f, d) Byzantine rows for (h, d) honest ones, in their dtype.

        `honest` is float32 or float64 with h >= 1 and is not modified; ValueError otherwise.
        Values beyond the range of the dtype become its largest finite ones.
        """
        _check(honest, f)
        if f == 0:
            return np.empty((0, honest.shape[1]), dtype=honest.dtype)
        return self.rows(honest, f, rng)

    @abstractmethod
    def rows(self, honest: Rows, f: int, rng: np.random.Generator) -> Rows:
        """Make the rows; the arguments are checked, f >= 1."""


class DataAttack(ABC):
    """Changes what the Byzantine workers train on; they follow the protocol otherwise."""

    name: ClassVar[str]
    knows: ClassVar[str]
    controls: ClassVar[str]

    @abstractmethod
    def labels(self, y: npt.NDArray[Any], classes: int) -> npt.NDArray[Any]:
        """Give the poisoned labels for integer labels in range(classes), in their dtype."""


def _check(honest: Rows, f: int) -> None:
    if not isinstance(honest, np.ndarray) or honest.ndim != 2 or 0 in honest.shape:
        shape = getattr(honest, "shape", type(honest).__name__)
        raise ValueError(f"an attack needs honest rows (h, d) with h >= 1 and d >= 1, got {shape}")
    if honest.dtype not in (np.float32, np.float64):
        raise ValueError(f"honest rows must be float32 or float64, got {honest.dtype}")
    if isinstance(f, bool) or not isinstance(f, int) or f < 0:
        raise ValueError(f"an attack needs a whole f >= 0, got {f!r}")

"""The step of the public model, the same in every trust model and on every machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


def step(model: Vector, update: npt.NDArray[np.floating], rate: float) -> Vector:
    """theta <- float32(float64(theta) - rate * update): the same bits on every machine."""
    with np.errstate(over="ignore", invalid="ignore"):  # an absurd rate ends in infinity, silently
        return (model.astype(np.float64) - rate * update.astype(np.float64)).astype(np.float32)

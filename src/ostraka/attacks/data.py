"""Attacks on the training data of the Byzantine workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ostraka.attacks.api import DataAttack


@dataclass(frozen=True)
class LabelFlip(DataAttack):
    """Every label y becomes C - 1 - y, for C classes (used by Allouah et al. 2023)."""

    name: ClassVar[str] = "label-flip"
    knows: ClassVar[str] = "its own training data and the number of classes"
    controls: ClassVar[str] = "the training labels of the f Byzantine workers"

    def labels(self, y: npt.NDArray[Any], classes: int) -> npt.NDArray[Any]:
        """C - 1 - y in the dtype of y; ValueError unless y holds integers in range(classes)."""
        if not isinstance(y, np.ndarray) or not np.issubdtype(y.dtype, np.integer):
            kind = y.dtype if isinstance(y, np.ndarray) else type(y).__name__
            raise ValueError(f"labels must be an integer array, got {kind}")
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
            raise ValueError(f"label flip needs a whole number of classes >= 1, got {classes!r}")
        if y.size and not 0 <= int(y.min()) <= int(y.max()) < classes:
            raise ValueError(f"labels must lie in range({classes}), got {y.min()}..{y.max()}")
        flipped: npt.NDArray[Any] = (classes - 1 - y.astype(np.int64)).astype(y.dtype)
        return flipped

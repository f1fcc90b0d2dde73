"""What the federation file says about training and privacy, checked once, here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ostraka.learn.catalogue import MODELS

SCHEDULES = ("constant", "linear", "cosine", "inverse-sqrt")
UNITS = ("example", "participant")
Unit = Literal["example", "participant"]


def _number(name: str, value: float, low: float, *, open_low: bool, high: float = math.inf) -> None:
    """Refuse what is no finite number above ``low`` (or equal to it) and at most ``high``."""
    bound = f"{'>' if open_low else '>='} {low:g}" + (f" and < {high:g}" if high < math.inf else "")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (
        not number
        or not math.isfinite(value)
        or value < low
        or (open_low and value == low)
        or value >= high
    ):
        raise ValueError(f"{name} must be a number {bound}, got {value!r}")


def _count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _cosine(y: float) -> float:
    """cos(y) for 0 <= y <= pi/2 by its Taylor series.

    Only IEEE additions, multiplications and divisions, so every machine gets the same bits; the
    C library's cosine may differ in the last one, and the rate moves the public model.
    """
    square = y * y
    total = 1.0
    for k in range(14, 0, -1):
        total = 1.0 - total * square / ((2 * k - 1) * (2 * k))
    return total


@dataclass(frozen=True)
class Training:
    """The [training] table; ``rounds`` is the federation's.

    ``clip`` bounds the L2 norm of what is sent (None: no bound). ``momentum`` is beta of
    m <- beta m + g, m_0 = 0. Raises ValueError for values without meaning.
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    batch_size: int = 32
    local_steps: int = 1
    model: str = "mlp"
    schedule: str = "constant"
    weight_decay: float = 0.0
    clip: float | None = None
    rounds: int = 200

    def __post_init__(self) -> None:
        _number("learning_rate", self.learning_rate, 0.0, open_low=True)
        _number("momentum", self.momentum, 0.0, open_low=False, high=1.0)
        _number("weight_decay", self.weight_decay, 0.0, open_low=False)
        if self.clip is not None:
            _number("clip", self.clip, 0.0, open_low=True)
        for name in ("batch_size", "local_steps", "rounds"):
            _count(name, getattr(self, name))
        _choice("model", self.model, MODELS)
        _choice("schedule", self.schedule, SCHEDULES)

    def rate(self, round: int) -> float:
        """The learning rate of a round (0 .. rounds-1), the same bits on every IEEE machine.

        constant: lr; linear: lr (1 - r/R); cosine: lr cos^2(pi r / 2R), which is the usual
        lr (1 + cos(pi r / R)) / 2; inverse-sqrt: lr / sqrt(r + 1). Never zero. Raises ValueError
        for a round that the schedule does not have.
        """
        if not 0 <= round < self.rounds:
            raise ValueError(f"round must be in 0 .. {self.rounds - 1}, got {round}")
        if self.schedule == "linear":
            return self.learning_rate * ((self.rounds - round) / self.rounds)
        if self.schedule == "cosine":
            root = _cosine(math.pi * round / (2 * self.rounds))
            return self.learning_rate * (root * root)
        if self.schedule == "inverse-sqrt":
            return self.learning_rate / math.sqrt(round + 1)
        return self.learning_rate


@dataclass(frozen=True)
class Privacy:
    """The [privacy] table: what is protected, the L2 bound, the noise and delta.

    The noise has standard deviation ``noise_multiplier * clip`` in every coordinate. Raises
    ValueError for values without meaning; a multiplier of 0 is allowed and protects nothing.
    """

    unit: Unit
    clip: float
    noise_multiplier: float
    delta: float

    def __post_init__(self) -> None:
        _choice("unit", self.unit, UNITS)
        _number("clip", self.clip, 0.0, open_low=True, high=1e18)
        _number("noise_multiplier", self.noise_multiplier, 0.0, open_low=False, high=1e6)
        _number("delta", self.delta, 0.0, open_low=True, high=1.0)

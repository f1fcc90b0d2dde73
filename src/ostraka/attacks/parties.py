"""Workers that break the protocol itself: wrong shapes, types and rounds, silence, repetition.

Such a worker computes the honest update and then sends something else. The update attacks
(updates.py) and data attacks (data.py) keep to the protocol and lie about its content.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ostraka.net import Net
from ostraka.protocols.central_round import BEFORE_ALL, Turn, Update, next_model
from ostraka.rules.api import whole_number

Vector = npt.NDArray[np.float32]
Train = Callable[[int, Vector], Vector]
Lies = Sequence[tuple[Turn, Update]]


class PartyAttack(ABC):
    """What a corrupt worker sends in place of its honest update: messages and their labels."""

    name: ClassVar[str]
    knows: ClassVar[str] = "the model and its own data"
    controls: ClassVar[str] = "the messages of its workers"

    @abstractmethod
    def answer(self, turn: Turn, update: Vector) -> Lies:
        """The messages for this turn, each with the turn that labels it."""


async def corrupt_worker(net: Net, server: str, attack: PartyAttack, train: Train, d: int) -> None:
    """Follow the rounds as an honest worker would, answering with the attack's messages."""
    after = BEFORE_ALL
    while True:
        after, model = await next_model(net, server, after, d)
        if model.final:
            return
        for turn, message in attack.answer(after, train(model.round, model.vector)):
            net.sub("epoch", turn[0]).sub("round", turn[1]).send(server, message)


@dataclass(frozen=True)
class Silent(PartyAttack):
    """Never answers."""

    name: ClassVar[str] = "silent"

    def answer(self, turn: Turn, update: Vector) -> Lies:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class WrongShape(PartyAttack):
    """Sends one coordinate too few."""

    name: ClassVar[str] = "wrong-shape"

    def answer(self, turn: Turn, update: Vector) -> Lies:
        """The update without its last coordinate."""
        return ((turn, Update(turn[1], update[:-1])),)


@dataclass(frozen=True)
class WrongDtype(PartyAttack):
    """Sends float64 where float32 is expected."""

    name: ClassVar[str] = "wrong-dtype"

    def answer(self, turn: Turn, update: Vector) -> Lies:
        """The same numbers, twice as wide."""
        return ((turn, Update(turn[1], update.astype(np.float64))),)


@dataclass(frozen=True)
class WrongRound(PartyAttack):
    """Claims another round: in the message itself, or (``label``) where it is delivered."""

    shift: int = 1
    label: bool = False
    name: ClassVar[str] = "wrong-round"

    def __post_init__(self) -> None:
        if isinstance(self.shift, bool) or not isinstance(self.shift, int):
            raise ValueError(f"wrong-round needs a whole shift, got {self.shift!r}")
        if not isinstance(self.label, bool):
            raise ValueError(f"wrong-round needs label true or false, got {self.label!r}")

    def answer(self, turn: Turn, update: Vector) -> Lies:
        """The update under a round that is ``shift`` away, at least 0."""
        round = max(0, turn[1] + self.shift)
        return (((turn[0], round) if self.label else turn, Update(round, update)),)


@dataclass(frozen=True)
class Duplicate(PartyAttack):
    """Sends its honest update several times over."""

    copies: int = 3
    name: ClassVar[str] = "duplicate"

    def __post_init__(self) -> None:
        whole_number("duplicate", "copies", self.copies, 1)

    def answer(self, turn: Turn, update: Vector) -> Lies:
        """Identical messages; one counts."""
        return tuple((turn, Update(turn[1], update)) for _ in range(self.copies))


@dataclass(frozen=True)
class Conflict(PartyAttack):
    """Sends its honest update and then another one for the same round."""

    factor: float = -10.0
    name: ClassVar[str] = "conflict"

    def __post_init__(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, int | float):
            raise ValueError(f"conflict needs a number as factor, got {self.factor!r}")

    def answer(self, turn: Turn, update: Vector) -> Lies:
        """Two different messages for one slot; the first counts."""
        second = np.float32(self.factor) * update
        return ((turn, Update(turn[1], update)), (turn, Update(turn[1], second)))


PARTY_ATTACKS: dict[str, type[PartyAttack]] = {
    attack.name: attack
    for attack in (Silent, WrongShape, WrongDtype, WrongRound, Duplicate, Conflict)
}

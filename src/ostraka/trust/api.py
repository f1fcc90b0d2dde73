"""What every trust model states about itself: who may lie, who may look, what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """What a trust model promises for given numbers; all texts are whole sentences.

    ``sees`` maps a role to what it learns. ``tolerates`` maps a kind of fault to how many.
    """

    trust: str
    may_lie: str
    may_look: str
    sees: Mapping[str, str]
    tolerates: Mapping[str, int]
    not_promised: str


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes that one party of a role sends in one round, with the formula they come from."""

    formula: str
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class Terms:
    """A trust model's promise and its cost per role, in one value."""

    promise: Promise
    cost: Mapping[str, Cost]
    families: tuple[str, ...]

"""Events that strangers can cause are told seldom, however often they happen."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from ostraka.net import Trace

NAMES_TOLD = 1000
REASONS_TOLD = 8
QUIET_AFTER_S = 60.0


class Teller:
    """Says an event the first, second, fourth, eighth... time: nobody may fill our records.

    An event that was quiet for a minute counts from one again. Beyond eight reasons all further
    ones of a name are one (strangers choose the words), beyond a thousand names all further names.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._told: dict[tuple[str, ...], tuple[int, float]] = {}
        self._reasons: Counter[tuple[str, str]] = Counter()

    def __call__(self, event: str, peer: str, why: str, **fields: Any) -> None:
        """Say it, or only count it."""
        key = self._key(event, peer.rpartition(":")[0] or peer, why)
        now = asyncio.get_running_loop().time()
        count, last = self._told.get(key, (0, now))
        count = 1 if now - last > QUIET_AFTER_S else count + 1
        self._told[key] = (count, now)
        if count & (count - 1) == 0:
            self._trace(event, peer=peer, why=why, count=count, **fields)

    def _key(self, event: str, name: str, why: str) -> tuple[str, ...]:
        if (event, name, why) in self._told:
            return event, name, why
        if (event, name) not in self._reasons and len(self._reasons) >= NAMES_TOLD:
            return (event,)
        if self._reasons[event, name] >= REASONS_TOLD:
            return event, name
        self._reasons[event, name] += 1
        return event, name, why

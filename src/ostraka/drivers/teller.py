"""Events that strangers can cause are told seldom, however often they happen."""

from __future__ import annotations

import asyncio
from typing import Any

from ostraka.net import Trace

KEYS_TOLD = 1000
QUIET_AFTER_S = 60.0


class Teller:
    """Says an event the first, second, fourth, eighth... time: nobody may fill our records.

    An event that was quiet for a minute counts from one again; beyond a thousand different ones
    all further ones of a name are one.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._told: dict[tuple[str, ...], tuple[int, float]] = {}

    def __call__(self, event: str, peer: str, why: str, **fields: Any) -> None:
        """Say it, or only count it."""
        key: tuple[str, ...] = (event, peer.rpartition(":")[0] or peer, why)
        if key not in self._told and len(self._told) >= KEYS_TOLD:
            key = (event,)
        now = asyncio.get_running_loop().time()
        count, last = self._told.get(key, (0, now))
        count = 1 if now - last > QUIET_AFTER_S else count + 1
        self._told[key] = (count, now)
        if count & (count - 1) == 0:
            self._trace(event, peer=peer, why=why, count=count, **fields)

"""Says whom a program has waited for in one place for some time; blames nobody."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ostraka.net import Trace
from ostraka.party import Waiting

STALL_S, STALL_AGAIN_S = 5.0, 60.0


class Stalls:
    """Tells ``stalled`` after STALL_S in one place, and again every STALL_AGAIN_S.

    ``step`` puts into words what is waited for in a label (as text), by kind.
    """

    def __init__(self, trace: Trace, step: Callable[[str, str], str]) -> None:
        self._trace, self._step = trace, step
        self._at: tuple[str, str, float | None, int] | None = None
        self._since = self._tell_at = 0.0

    def look(
        self, waits: Sequence[Waiting], now: float, away: Callable[[], Sequence[str]], *, sent: int
    ) -> None:
        """What the program waits for now, after so many messages that it has ``sent``.

        ``away`` gives the peers that are not connected. Who waits in the same place again, for the
        next round's news, has sent something or waits until another time: that is a new wait.
        """
        place = place_of(waits)
        at = None if place is None else (place.label, place.kind, place.until, sent)
        if at != self._at:
            self._at, self._since, self._tell_at = at, now, now + STALL_S
        elif place is not None and now >= self._tell_at:
            self._tell_at = now + STALL_AGAIN_S
            self._trace(
                "stalled",
                step=self._step(place.label, place.kind),
                at=place.label,
                missing=list(place.senders),
                waited_s=round(now - self._since, 1),
                left_s=None if place.until is None else round(max(0.0, place.until - now), 1),
                unreachable=list(away()),
            )


def place_of(waits: Sequence[Waiting]) -> Waiting | None:
    """Where a program stands: of the waits for somebody, the one that ends first.

    What has no deadline stands beside it, for news that would begin something else, unless nothing
    else is waited for.
    """
    places = [wait for wait in waits if wait.senders]
    return min(places, key=lambda w: math.inf if w.until is None else w.until, default=None)

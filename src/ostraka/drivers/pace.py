"""A token bucket: how long somebody who is too quick has to rest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tempo:
    """How quick somebody may be: so many at once, and so many a second in the long run."""

    a_second: float
    at_once: float

    def pace(self) -> Pace:
        """A bucket that is full."""
        return Pace(self.a_second, self.at_once)


@dataclass
class Pace:
    """At most ``burst`` at once and ``rate`` a second in the long run."""

    rate: float
    burst: float
    _debt: float = 0.0
    _at: float = 0.0

    def rest_s(self, count: int, now: float) -> float:
        """Take ``count`` more; gives the seconds to rest before the next ones.

        Who takes without resting owes no more for it: a storm leaves no long shadow.
        """
        paid = max(0.0, self._debt - (now - self._at) * self.rate)
        self._debt = min(paid, self.burst) + count
        self._at = now
        return max(0.0, self._debt - self.burst) / self.rate

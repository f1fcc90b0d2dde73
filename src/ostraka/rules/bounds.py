"""The n and f that a rule still faces when some rows were refused or are missing."""

from __future__ import annotations

from collections.abc import Mapping


class BoundError(ValueError):
    """More faults than f allows: the round cannot keep its promise.

    ``dropped`` maps the rows that were refused for content, where that is why, to their reasons.
    """

    def __init__(self, message: str, dropped: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.dropped = dict(dropped or {})


def remaining(
    n: int, f: int, refused: int, missing: int, dropouts: int | None = None
) -> tuple[int, int]:
    """Give (n, f) for the rule when `refused` rows were dropped and `missing` never came.

    A refused row is one of the f: n and f fall by one. A missing row may be honest: only n falls.
    Where the federation file states `dropouts`, at most that many honest parties may be missing in
    a round, so each further missing one is counted among the f as well.
    BoundError when more than f are refused, when f would fall below 0, or when no row is left.
    """
    for name, value in (("n", n), ("f", f), ("refused", refused), ("missing", missing)):
        _count(name, value)
    if dropouts is not None:
        _count("dropouts", dropouts)
    if refused > f:
        raise BoundError(f"{refused} rows were refused, more than f={f}, of n={n}")
    late = 0 if dropouts is None else max(0, missing - dropouts)
    left, faults = n - refused - missing, f - refused - late
    if faults < 0:
        raise BoundError(
            f"{refused} refused and {late} missing beyond dropouts={dropouts} are more than f={f}"
        )
    if left < 1:
        raise BoundError(f"no row is left: n={n}, {refused} refused, {missing} missing")
    return left, faults


def _count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a whole number >= 0, got {value!r}")

"""The map over all cores: the builtin one's results, a few items at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ostraka.drivers.cores import all_cores


@pytest.mark.parametrize("threads", [1, 2, 3, None])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_results_come_in_the_order_of_the_items(threads: int | None, count: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.003 * (item % 3))
        return item * item

    with all_cores(threads) as spread:
        assert list(spread(work, range(count))) == [item * item for item in range(count)]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_few_items_are_ahead_of_the_results(threads: int) -> None:
    """And they are made by the thread that asks."""
    made: list[int] = []
    makers = set()

    def items() -> Iterator[int]:
        for item in range(40):
            made.append(item)
            makers.add(threading.get_ident())
            yield item

    with all_cores(threads) as spread:
        for result in spread(lambda item: item, items()):
            assert len(made) <= result + 2 * threads + 1
    assert makers == {threading.get_ident()}


def test_who_asks_works_as_well_and_no_more_threads_than_were_allowed() -> None:
    """While the only other thread is held, all the other items are worked on here."""
    here, gate = threading.get_ident(), threading.Event()
    taken: dict[int, int] = {}

    def work(item: int) -> int:
        taken[item] = threading.get_ident()
        if taken[item] != here:
            gate.wait(20)
        elif sum(1 for who in taken.values() if who == here) == 3:
            gate.set()
        return item

    with all_cores(2) as spread:
        assert list(spread(work, range(8))) == list(range(8))
    assert gate.is_set()
    assert len(set(taken.values())) == 2


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_error_is_raised_and_nothing_behind_it_is_given(threads: int) -> None:
    def work(item: int) -> int:
        if item % 4 == 3:
            raise ValueError(f"item {item}")
        return item

    with all_cores(threads) as spread:
        seen: list[int] = []
        with pytest.raises(ValueError, match="item"):
            seen.extend(spread(work, range(20)))
        assert seen == list(range(len(seen)))
        assert len(seen) <= 3
        assert list(spread(abs, [-1, -2])) == [1, 2], "the next map works again"


def test_who_stops_early_leaves_nothing_undone_behind() -> None:
    """Items that nobody began with are dropped, so that the pool can end."""
    started = []

    def work(item: int) -> int:
        started.append(item)
        time.sleep(0.02)
        return item

    with all_cores(2) as spread:
        results = spread(work, range(1000))
        assert next(results) == 0
        del results
    assert len(started) <= 6

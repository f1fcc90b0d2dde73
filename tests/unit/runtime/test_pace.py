"""What a peer may do at once and in the long run, and how much of it may wait to be read."""

import pytest

from ostraka.drivers.node import Inbox
from ostraka.drivers.pace import Pace
from ostraka.party import Frame

EMPTY = Frame((("round", 0),), "Word", b"")
LARGE = Frame((("round", 0),), "Word", bytes(100))


def test_a_burst_costs_no_rest_and_one_more_does() -> None:
    pace = Pace(rate=10.0, burst=5.0)
    assert [pace.rest_s(1, 100.0) for _ in range(5)] == [0.0] * 5
    assert pace.rest_s(1, 100.0) == pytest.approx(0.1)
    assert pace.rest_s(4, 100.0) == pytest.approx(0.4)


def test_a_storm_leaves_no_long_shadow() -> None:
    pace = Pace(rate=1.0, burst=30.0)
    for tick in range(6000):  # a hundred tries a second for a minute
        pace.rest_s(1, 100.0 + tick / 100)
    assert pace.rest_s(1, 162.0) == 0.0, "two seconds later it may come again"


def test_many_at_once_count_like_one_after_the_other() -> None:
    assert Pace(rate=10.0, burst=5.0).rest_s(25, 100.0) == pytest.approx(2.0)


def test_who_rests_as_told_gets_the_rate_in_the_long_run() -> None:
    pace, now = Pace(rate=10.0, burst=5.0), 100.0
    for _ in range(1000):
        now += pace.rest_s(1, now)
    assert now - 100.0 == pytest.approx((1000 - 5) / 10.0)


def test_it_recovers_with_time_and_never_beyond_the_burst() -> None:
    pace = Pace(rate=10.0, burst=5.0)
    assert pace.rest_s(5, 100.0) == 0.0
    assert pace.rest_s(2, 100.2) == 0.0, "0.2 s are worth two"
    assert pace.rest_s(1, 100.2) == pytest.approx(0.1)
    assert pace.rest_s(0, 1000.0) == 0.0
    assert pace.rest_s(6, 1000.0) == pytest.approx(0.1), "a long silence is no larger burst"


def test_who_keeps_to_the_rate_never_rests() -> None:
    pace = Pace(rate=10.0, burst=1.0)
    assert [pace.rest_s(1, 100.0 + tick / 8) for tick in range(100)] == [0.0] * 100


def test_empty_frames_fill_an_inbox_too() -> None:
    inbox = Inbox(most_frames=10, most_bytes=1 << 30)
    assert [inbox.put("b", EMPTY) for _ in range(11)] == [False] * 10 + [True]
    assert not inbox.put("c", EMPTY), "each peer has room of its own"
    assert [inbox.taken("b", EMPTY) for _ in range(6)] == [False] * 5 + [True], "at half"
    assert not inbox.taken("b", EMPTY), "and once"
    assert not inbox.taken("c", EMPTY), "which was never paused"


def test_bytes_fill_an_inbox_however_few_the_frames() -> None:
    inbox = Inbox(most_frames=1000, most_bytes=400)
    assert [inbox.put("b", LARGE) for _ in range(5)] == [False] * 4 + [True]
    assert [inbox.taken("b", LARGE) for _ in range(3)] == [False, False, True]


def test_the_fuller_measure_decides() -> None:
    """Few bytes among many frames: resumed when both are at half."""
    inbox = Inbox(most_frames=10, most_bytes=400)
    for frame in (*[EMPTY] * 9, LARGE, LARGE):
        full = inbox.put("b", frame)
    assert full
    assert [inbox.taken("b", LARGE) for _ in range(2)] == [False, False]
    assert [inbox.taken("b", EMPTY) for _ in range(4)] == [False] * 3 + [True]

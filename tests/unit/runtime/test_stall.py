"""Who waits long is said with the place where the program really stands, and seldom."""

from typing import Any

from ostraka.drivers.stall import STALL_AGAIN_S, STALL_S, Stalls, place_of
from ostraka.party import Waiting

BESIDE = Waiting("boot.?", "Boot", ("server-1",), None)
HERE = Waiting("round.4", "Ready", ("dealer",), 600.0)
LATER = Waiting("round.4", "Held", ("server-1",), 700.0)
TIME = Waiting("", "time", (), 1.0)


def test_a_wait_with_a_deadline_comes_before_one_that_stands_beside_it() -> None:
    assert place_of([BESIDE, HERE]) == HERE
    assert place_of([BESIDE, LATER, HERE]) == HERE
    assert place_of([TIME, BESIDE]) == BESIDE, "time alone is nobody's fault"
    assert place_of([TIME]) is None
    assert place_of([]) is None


class Told:
    """What was told of a party that waits for these, looked at every second."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.now = 0.0
        self.sent = 0
        self.stalls = Stalls(self._trace, lambda label, kind: f"{kind} in {label}")

    def _trace(self, event: str, **fields: Any) -> None:
        assert event == "stalled"
        self.records.append(fields)

    def wait(self, seconds: float, *waits: Waiting) -> list[dict[str, Any]]:
        """The new records."""
        known, until = len(self.records), self.now + seconds
        while self.now < until:
            self.stalls.look(waits, self.now, lambda: ["dealer"], sent=self.sent)
            self.now += 1.0
        return self.records[known:]


def test_a_long_wait_is_told_with_its_length_and_who_is_away() -> None:
    told = Told()
    assert told.wait(STALL_S, BESIDE, HERE) == []
    assert told.wait(1, BESIDE, HERE) == [
        {
            "step": "Ready in round.4",
            "at": "round.4",
            "missing": ["dealer"],
            "waited_s": 5.0,
            "left_s": 595.0,
            "unreachable": ["dealer"],
        }
    ]


def test_the_same_wait_is_told_seldom_and_another_one_anew() -> None:
    told = Told()
    again = told.wait(STALL_S + STALL_AGAIN_S + 1, HERE)
    assert [record["waited_s"] for record in again] == [5.0, 65.0]
    assert told.wait(STALL_S, LATER) == []
    [other] = told.wait(1, LATER)
    assert (other["missing"], other["waited_s"]) == (["server-1"], 5.0)


def test_news_that_changes_no_place_changes_nothing() -> None:
    """Somebody of those waited for has spoken; the wait is as old as before."""
    told = Told()
    both = Waiting("round.4", "Update", ("a", "b"), 30.0)
    assert told.wait(3, both, BESIDE) == []
    [record] = told.wait(3, Waiting("round.4", "Update", ("b",), 30.0))
    assert (record["missing"], record["waited_s"]) == (["b"], 5.0)


def test_the_same_place_in_the_next_round_is_another_wait() -> None:
    """A worker waits for every model in one place, and has sent something in between."""
    told = Told()
    model = Waiting("round.?", "PublicModel", ("server-0",), None)
    for _ in range(20):
        assert told.wait(3, model) == []
        told.sent += 1
    assert told.wait(STALL_S, model) == []
    [record] = told.wait(1, model)
    assert record["waited_s"] == 5.0
    for until in range(20):
        assert told.wait(3, Waiting("round.4", "Ready", ("dealer",), until)) == []


def test_who_has_all_is_not_said_to_wait() -> None:
    told = Told()
    assert told.wait(2 * STALL_AGAIN_S, TIME) == []
    assert told.wait(2 * STALL_AGAIN_S) == []


def test_no_deadline_has_no_time_left() -> None:
    [first, _] = Told().wait(STALL_S + STALL_AGAIN_S + 1, BESIDE)
    assert first["left_s"] is None

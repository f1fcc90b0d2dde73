"""The interpreter: every way of waiting ends as it says, and no frame can upset a party."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest

from ostraka.mailbox import Limits
from ostraka.net import Abort, Arrival, Inbox, Malformed, Net, Timeout
from ostraka.party import Frame, Party, Waiting
from ostraka.wire import Array, Index, Message, Tensor


@dataclass(frozen=True)
class Number(Message):
    value: Index


@dataclass(frozen=True)
class Vector(Message):
    values: Annotated[Array, Tensor("float32", ("d",))]


class Bench:
    """A party under test and what it traced."""

    def __init__(self, program: Any, **options: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.party = Party("me", program, trace=lambda event, **f: self.events.append(f), **options)
        self.party.start(0.0)

    def give(self, sender: str, value: int, *, at: Any = (), now: float = 0.0) -> None:
        self.raw(sender, "Number", Number(value).encode(), at=at, now=now)

    def raw(self, sender: str, kind: str, body: bytes, *, at: Any = (), now: float = 0.0) -> None:
        self.party.deliver(sender, Frame(at, kind, body), now)

    @property
    def dropped(self) -> list[str]:
        return [e["why"] for e in self.events]


def test_recv_takes_mail_that_came_before_or_after() -> None:
    async def program(net: Net) -> list[int]:
        first = await net.recv(Number.form(), "a")
        second = await net.recv(Number.form(), "b")
        return [first.value, second.value]

    bench = Bench(program)
    bench.give("b", 2)
    assert bench.party.status == "running"
    bench.give("a", 1)
    assert bench.party.result == [1, 2]


def upon(*inboxes: tuple[str, str], timeout_s: float | None = None) -> Any:
    """A program that takes three arrivals of numbers; an inbox is a label's name and a sender."""

    async def program(net: Net) -> list[Any]:
        got = []
        made = [Inbox((name,), Number.form(), frozenset(who)) for name, who in inboxes]
        for _ in range(3):
            one = await net.arrival(*made, timeout_s=timeout_s)
            value = None if one is None else getattr(one.message, "value", one.message)
            got.append(one and (one.place, one.index, one.sender, value))
        return got

    return program


def test_arrivals_come_once_each_in_the_order_in_which_they_came() -> None:
    bench = Bench(upon(("step", "ab"), ("echo", "a")))
    bench.give("a", 7, at=(("echo", 2),))
    bench.give("b", 8, at=(("step", 5),))
    bench.give("b", 8, at=(("step", 5),))
    assert bench.party.status == "running"
    bench.give("a", 9, at=(("step", 1),))
    assert bench.party.result == [(1, (2,), "a", 7), (0, (5,), "b", 8), (0, (1,), "a", 9)]
    assert bench.dropped == ["duplicate"]


def test_mail_that_waited_arrives_and_other_mail_stays() -> None:
    async def program(net: Net) -> Any:
        await net.recv(Number.form(), "z")
        one = await net.arrival(Inbox(("step",), Number.form(), frozenset("ab")))
        stranger = await net.sub("step", 4).recv(Number.form(), "c")
        return one, stranger.value

    bench = Bench(program)
    bench.give("c", 1, at=(("step", 4),))
    bench.give("a", 2, at=(("other", 4),))
    bench.give("a", 3, at=(("step", 4), ("deep", 0)))
    bench.give("b", 4, at=(("step", 9),))
    bench.give("z", 0)
    assert bench.party.result == (Arrival(0, (9,), "b", Number(4)), 1)


def test_a_malformed_arrival_says_so_and_none_is_nothing() -> None:
    bench = Bench(upon(("step", "a"), timeout_s=2.0))
    bench.raw("a", "Number", b"short", at=(("step", 0),))
    bench.party.tick(2.0)
    bench.give("a", 5, at=(("step", 1),), now=2.5)
    first, second, third = bench.party.result
    assert isinstance(first[3], Malformed)
    assert second is None
    assert third == (0, (1,), "a", 5)


def test_mail_that_a_window_forgot_does_not_arrive() -> None:
    async def program(net: Net) -> Any:
        await net.recv(Number.form(), "z")
        net.window(("step",), (3,), (4,))
        return await net.arrival(Inbox(("step",), Number.form(), frozenset("a")))

    bench = Bench(program)
    bench.give("a", 1, at=(("step", 2),))
    bench.give("z", 0)
    bench.give("a", 2, at=(("step", 5),))
    bench.give("a", 3, at=(("step", 3),))
    assert bench.party.result == Arrival(0, (3,), "a", Number(3))
    assert bench.dropped == ["early"]


def test_what_a_lost_race_was_to_get_comes_again() -> None:
    async def side(net: Net, name: str) -> Any:
        return await net.arrival(Inbox((name,), Number.form(), frozenset("a")))

    async def program(net: Net) -> Any:
        await net.recv(Number.form(), "z")
        first = await net.race(side(net, "x"), side(net, "y"))
        return first, await side(net, "y")

    bench = Bench(program)
    bench.give("a", 1, at=(("x", 0),))
    bench.give("a", 2, at=(("y", 0),))
    bench.give("z", 0)
    first, second = bench.party.result
    assert (first[1].message.value, second.message.value) == (1, 2)


def test_bodies_that_were_taken_do_not_pile_up_and_old_places_are_forgotten() -> None:
    async def program(net: Net) -> None:
        while True:
            await net.arrival(Inbox(("any",), Number.form(), frozenset("a")))

    bench = Bench(program, limits=Limits(unread_frames=4, taken=10))
    for k in range(200):
        bench.raw("a", "Number", bytes([k]) * 5000, at=(("any", k),))
    bench.raw("a", "Number", b"again", at=(("any", 199),))
    assert bench.dropped == ["duplicate"]
    slots = bench.party._mail._slots
    assert len(slots) == 10
    assert sum(mail.size for slot in slots.values() for mail in slot.values()) == 0


def test_one_message_ends_one_of_two_waits() -> None:
    async def one(net: Net) -> Any:
        return await net.arrival(Inbox(("step",), Number.form(), frozenset("a")))

    async def program(net: Net) -> Any:
        return await net.par(one(net), one(net))

    bench = Bench(program)
    bench.give("a", 1, at=(("step", 0),))
    assert bench.party.status == "running"
    assert bench.party.where() == [Waiting("", "Number", (), None)], "whom it lacks it knows alone"
    bench.give("a", 2, at=(("step", 1),))
    assert [got.message.value for got in bench.party.result] == [1, 2]


def test_mail_for_two_inboxes_comes_to_the_first() -> None:
    for waits in (True, False):

        async def program(net: Net) -> Any:
            await net.recv(Number.form(), "z")
            inboxes = [Inbox(("step",), Number.form(), frozenset(who)) for who in ("b", "ab", "a")]
            return (await net.arrival(*inboxes)).place

        bench = Bench(program)
        mail = [("z", ()), ("a", (("step", 0),))]
        for sender, label in mail if waits else mail[::-1]:
            bench.give(sender, 1, at=label)
        assert bench.party.result == 1


def test_mail_that_a_receive_wants_too_is_the_receives() -> None:
    """An arrival behind it keeps its turn: mail that another arrival wants too is the elder's."""

    async def arrives(net: Net, *who: str) -> Any:
        return (await net.arrival(Inbox(("step",), Number.form(), frozenset(who)))).message.value

    async def receives(net: Net) -> Any:
        return (await net.sub("step", 0).recv(Number.form(), "a")).value

    async def receive_first(net: Net) -> Any:
        return await net.par(receives(net), arrives(net, "a", "b"), arrives(net, "b"))

    async def receive_last(net: Net) -> Any:
        return await net.par(arrives(net, "a"), receives(net))

    for program, expected in ((receive_first, (7, 8, 9)), (receive_last, (8, 7))):
        bench = Bench(program)
        for sender, value in (("a", 7), ("b", 8), ("b", 9), ("a", 8)):
            bench.give(sender, value, at=(("step", value - 7),))
        assert bench.party.result == expected


def test_what_was_found_for_a_task_may_be_gone_when_its_turn_comes() -> None:
    """Taken by another task, or behind a window: then the next mail is its own, or it waits on."""

    async def arrives(net: Net, closes: int) -> Any:
        got = await net.arrival(Inbox(("step",), Number.form(), frozenset("a")))
        if closes:
            net.window(("step",), (closes,))
        return got.message.value

    async def program(net: Net) -> Any:
        await net.recv(Number.form(), "z")
        return await net.par(arrives(net, 3), arrives(net, 0), arrives(net, 0))

    for waits in (True, False):
        bench = Bench(program)
        if waits:
            bench.give("z", 0)
        for step in range(3):
            bench.give("a", 10 + step, at=(("step", step),))
        if not waits:
            bench.give("z", 0)
        assert len(bench.party.where()) == 2
        for step in (4, 3):
            bench.give("a", 20 + step, at=(("step", step),))
        assert bench.party.result == (10, 24, 23)


def test_waits_in_many_labels_see_their_own_mail_only() -> None:
    async def reads(net: Net, depth: int) -> Any:
        for above in range(depth):
            net = net.sub("part", above)
        got = await net.arrival(
            Inbox(("step",), Vector.form(d=1), frozenset("a")),
            Inbox(("step",), Number.form(), frozenset("a")),
            timeout_s=9.0 - depth,
        )
        return got and (got.place, got.message.value)

    async def program(net: Net) -> Any:
        return await net.par(net.sleep(1.0), *[reads(net, depth) for depth in range(4)])

    bench = Bench(program)
    assert bench.party.deadline == 1.0
    bench.party.tick(1.0)
    assert bench.party.deadline == 6.0
    for depth in (3, 1, 0):
        label = (*[("part", above) for above in range(depth)], ("step", 5))
        bench.give("a", depth, at=label)
    bench.give("a", 9, at=(("part", 0), ("part", 2), ("step", 5)))
    assert bench.party.deadline == 7.0
    bench.party.tick(7.0)
    assert bench.party.result == (None, (1, 0), (1, 1), None, (1, 3))
    assert bench.party.deadline is None


def test_recv_of_malformed_aborts_and_blames_nobody() -> None:
    async def program(net: Net) -> None:
        await net.recv(Number.form(), "a")

    bench = Bench(program)
    bench.raw("a", "Number", b"short")
    assert isinstance(bench.party.error, Abort)
    assert bench.party.error.blamed == ()
    assert "a sent a malformed Number" in str(bench.party.error)


def test_recv_times_out_naming_who_is_missing() -> None:
    async def program(net: Net) -> None:
        await net.sub("round", 3).recv(Number.form(), "a", timeout_s=2.0)

    bench = Bench(program)
    assert bench.party.deadline == 2.0
    bench.party.tick(1.9)
    assert bench.party.status == "running"
    bench.party.tick(2.0)
    assert isinstance(bench.party.error, Timeout)
    assert str(bench.party.error) == "no Number in round.3 from a"


def test_gather_keeps_the_order_of_names_whatever_the_order_of_arrival() -> None:
    async def program(net: Net) -> Any:
        return await net.gather(Number.form(), ["a", "b", "c"], timeout_s=1.0)

    bench = Bench(program)
    bench.give("c", 3)
    bench.raw("b", "Number", b"")
    bench.give("a", 1)
    got = bench.party.result
    assert list(got.messages) == ["a", "c"]
    assert list(got.malformed) == ["b"]
    assert got.missing == ()


def test_gather_ends_at_its_deadline_and_what_comes_then_is_late() -> None:
    async def program(net: Net) -> Any:
        got = await net.gather(Number.form(), ["a", "b"], timeout_s=1.0)
        await net.recv(Number.form(), "c")
        return got

    bench = Bench(program)
    bench.give("a", 1)
    bench.party.tick(1.0)
    bench.give("b", 2, now=1.1)
    bench.give("c", 3, now=1.2)
    assert bench.party.result.missing == ("b",)
    assert bench.dropped == ["late"]


def test_quorum_waits_for_q_valid_and_then_for_the_grace_window() -> None:
    async def program(net: Net) -> Any:
        return await net.quorum(Number.form(), list("abcd"), 2, grace_s=0.5, timeout_s=9.0)

    bench = Bench(program)
    bench.raw("a", "Number", b"junk")
    bench.give("b", 2, now=1.0)
    assert bench.party.status == "running"
    bench.give("c", 3, now=2.0)
    assert bench.party.deadline == 2.5
    bench.give("d", 4, now=2.4)
    assert list(bench.party.result.messages) == ["b", "c", "d"]


def test_quorum_without_enough_is_a_timeout() -> None:
    async def program(net: Net) -> Any:
        return await net.quorum(Number.form(), list("abc"), 2, timeout_s=1.0)

    bench = Bench(program)
    bench.give("a", 1)
    bench.party.tick(1.0)
    assert isinstance(bench.party.error, Timeout)
    assert bench.party.error.missing == ("b", "c")


def test_newest_skips_what_was_slept_through_and_forgets_it() -> None:
    async def program(net: Net) -> list[Any]:
        seen = []
        after: tuple[int, ...] = ()
        while len(seen) < 2:
            after, got = await net.newest(Number.form(), "s", ("epoch", "round"), after=after)
            seen.append((after, got.value))
            await net.sub("go", len(seen)).recv(Number.form(), "g")
        return seen

    def at(epoch: int, round: int) -> tuple[tuple[str, int], ...]:
        return (("epoch", epoch), ("round", round))

    bench = Bench(program)
    bench.give("s", 10, at=at(1, 0))
    for label, value in ((at(1, 4), 14), (at(1, 2), 12), (at(0, 9), 9)):
        bench.give("s", value, at=label)
    bench.give("x", 99, at=at(9, 9))
    bench.give("g", 0, at=(("go", 1),))
    bench.give("s", 13, at=at(1, 3))
    bench.give("g", 0, at=(("go", 2),))
    assert bench.party.result == [((1, 0), 10), ((1, 4), 14)]
    assert bench.dropped == ["late", "late"]


def test_windows_drop_the_past_refuse_the_future_and_name_who_is_ahead() -> None:
    async def program(net: Net) -> Any:
        net.window(("round",), (5,), (5,))
        got = await net.sub("round", 5).gather(Number.form(), ["a", "b", "c"], timeout_s=1.0)
        return got, net.ahead(("round",))

    bench = Bench(program)
    bench.give("a", 1, at=(("round", 4),))
    bench.give("b", 1, at=(("round", 6),))
    bench.give("c", 1, at=(("round", 5),))
    bench.party.tick(1.0)
    got, ahead = bench.party.result
    assert list(got.messages) == ["c"]
    assert ahead == ("b",)
    assert bench.dropped == ["late", "early"]


def test_duplicates_count_once_and_conflicts_are_told_apart() -> None:
    async def program(net: Net) -> Any:
        return await net.gather(Number.form(), ["a", "b"])

    bench = Bench(program)
    bench.give("a", 1)
    bench.give("a", 1)
    bench.give("a", 2)
    bench.give("b", 5)
    assert bench.party.result.messages["a"].value == 1
    assert bench.dropped == ["duplicate", "conflict"]


def test_a_flood_is_bounded_in_frames_and_reading_makes_room() -> None:
    async def program(net: Net) -> None:
        for k in range(1000):
            await net.sub("x", k).recv(Number.form(), "a")

    bench = Bench(program, limits=Limits(unread_frames=4, frame_bytes=100))
    for k in range(1, 9):
        bench.give("a", k, at=(("x", k),))
    assert [e["count"] for e in bench.events] == [1, 2, 4], "told at powers of two"
    assert set(bench.dropped) == {"flood"}


def test_a_frame_that_is_too_long_is_not_kept_but_its_sender_has_spoken() -> None:
    async def program(net: Net) -> Any:
        return await net.gather(Number.form(), ["a", "b"])

    bench = Bench(program, limits=Limits(unread_bytes=200, frame_bytes=100))
    bench.raw("a", "Number", bytes(10**6))
    bench.give("b", 1)
    got = bench.party.result
    assert got.malformed["a"].detail == "more than 100 bytes"
    assert list(got.messages) == ["b"]


def test_unread_mail_is_bounded_in_bytes_per_sender() -> None:
    async def program(net: Net) -> None:
        await net.recv(Number.form(), "nobody")

    bench = Bench(program, limits=Limits(unread_bytes=250))
    for k in range(3):
        bench.raw("a", "Junk", bytes(100), at=(("y", k),))
    assert bench.dropped == ["flood"]
    bench.raw("b", "Junk", bytes(100))
    assert bench.dropped == ["flood"], "another sender has room of its own"


def test_room_comes_back_when_mail_is_read() -> None:
    async def program(net: Net) -> int:
        total = 0
        for k in range(50):
            total += (await net.sub("x", k).recv(Number.form(), "a")).value
        return total

    bench = Bench(program, limits=Limits(unread_frames=2))
    for k in range(50):
        bench.give("a", k, at=(("x", k),))
    assert bench.party.result == sum(range(50))
    assert bench.dropped == []


def test_par_runs_side_by_side_and_gives_results_in_order() -> None:
    async def one(net: Net, who: str) -> int:
        return (await net.recv(Number.form(), who)).value

    async def program(net: Net) -> tuple[int, ...]:
        return await net.par(one(net, "a"), one(net, "b"), one(net, "c"))

    bench = Bench(program)
    for who in "cab":
        bench.give(who, ord(who))
    assert bench.party.result == (97, 98, 99)


def test_par_of_nothing() -> None:
    async def program(net: Net) -> tuple[int, ...]:
        return await net.par()

    assert Bench(program).party.result == ()


def test_a_failure_inside_par_cancels_the_others_and_can_be_caught() -> None:
    cleaned: list[str] = []

    async def waits(net: Net, who: str) -> None:
        try:
            await net.par(net.recv(Number.form(), who), net.sleep(9.0))
        finally:
            cleaned.append(who)

    async def program(net: Net) -> str:
        try:
            await net.par(
                waits(net, "a"), waits(net, "b"), net.recv(Number.form(), "c", timeout_s=1.0)
            )
        except Timeout as timeout:
            return f"caught {timeout.missing}"
        return "not reached"

    bench = Bench(program)
    bench.party.tick(1.0)
    assert bench.party.result == "caught ('c',)"
    assert sorted(cleaned) == ["a", "b"]
    assert bench.party.where() == []


def test_where_tells_what_a_stuck_party_waits_for() -> None:
    async def program(net: Net) -> None:
        scope = net.sub("epoch", 1).sub("round", 7)
        await net.par(
            scope.gather(Number.form(), ["a", "b"], timeout_s=30.0),
            net.newest(Number.form(), "s", ("epoch", "round"), after=()),
        )

    bench = Bench(program)
    bench.give("a", 1, at=(("epoch", 1), ("round", 7)))
    assert bench.party.where() == [
        Waiting("epoch.1/round.7", "Number", ("b",), 30.0),
        Waiting("epoch.?/round.?", "Number", ("s",), None),
    ]


def test_bodies_longer_than_the_form_are_refused_undecoded() -> None:
    async def program(net: Net) -> Any:
        return await net.gather(Vector.form(d=2), ["a"])

    bench = Bench(program)
    bench.raw("a", "Vector", bytes(10**6))
    assert "at most" in bench.party.result.malformed["a"].detail


def test_mail_of_the_wrong_kind_or_label_changes_nothing() -> None:
    async def program(net: Net) -> int:
        return (await net.sub("round", 1).recv(Number.form(), "a")).value

    bench = Bench(program)
    bench.raw("a", "Numbers", Number(1).encode(), at=(("round", 1),))
    bench.give("a", 2, at=(("round", 2),))
    bench.give("a", 3)
    bench.give("b", 4, at=(("round", 1),))
    assert bench.party.status == "running"
    bench.give("a", 5, at=(("round", 1),))
    assert bench.party.result == 5


def test_memory_is_flat_over_many_rounds() -> None:
    async def program(net: Net) -> None:
        for r in range(300):
            net.window(("round",), (r,), (r,))
            await net.sub("round", r).gather(Vector.form(d=4), ["a"])

    bench = Bench(program)
    for r in range(299):
        body = Vector(np.zeros(4, np.float32)).encode()
        bench.raw("a", "Vector", body, at=(("round", r),))
    assert len(bench.party._mail._slots) <= 1


def test_our_own_mistakes_are_value_errors() -> None:
    async def to_myself(net: Net) -> None:
        net.send("me", Number(1))

    async def twice(net: Net) -> None:
        await net.gather(Number.form(), ["a", "a"])

    async def alien(net: Net) -> None:
        class Odd:
            def __await__(self) -> Any:
                yield "something else"

        await Odd()

    for program, error in ((to_myself, ValueError), (twice, ValueError), (alien, TypeError)):
        with pytest.raises(error):
            Bench(program)
    with pytest.raises(ValueError, match="evidence"):
        Abort("because", blamed=["a"])


def test_closing_a_party_lets_its_program_clean_up_and_ends_delivery() -> None:
    cleaned = []

    async def program(net: Net) -> None:
        try:
            await net.recv(Number.form(), "a")
        finally:
            cleaned.append(True)

    bench = Bench(program)
    bench.party.close()
    bench.give("a", 1)
    assert cleaned == [True]
    assert bench.party.status == "closed"


def test_a_race_ends_with_the_first_and_ends_the_others():
    ended = []

    async def slow(net):
        try:
            await net.sleep(5.0)
            return "slow"
        finally:
            ended.append(net.now)

    async def quick(net):
        await net.sleep(1.0)
        return "quick"

    async def program(net):
        return await net.race(slow(net), quick(net), slow(net))

    party = Party("a", program, trace=lambda *a, **k: None)
    party.start(0.0)
    party.tick(1.0)
    assert (party.status, party.result) == ("done", (1, "quick"))
    assert ended == [1.0, 1.0]
    assert party.deadline is None


def test_a_race_that_fails_ends_the_others_and_the_failure_is_the_callers():
    async def broken(net):
        await net.sleep(1.0)
        raise Abort("no")

    async def forever(net):
        await net.par(net.sleep(100.0), net.sleep(200.0))

    async def program(net):
        try:
            await net.race(forever(net), broken(net))
        except Abort as abort:
            return abort.reason

    party = Party("a", program, trace=lambda *a, **k: None)
    party.start(0.0)
    party.tick(1.0)
    assert (party.status, party.result, party.deadline) == ("done", "no", None)


def test_a_race_may_be_over_at_once():
    async def ready():
        return 7

    async def program(net):
        return await net.race(net.sleep(1.0), ready())

    party = Party("a", program, trace=lambda *a, **k: None)
    party.start(0.0)
    assert (party.status, party.result) == ("done", (1, 7))


def test_one_sender_may_be_allowed_less_mail_than_others():
    async def program(net):
        await net.sleep(1.0)

    events = []
    party = Party(
        "a",
        program,
        trace=lambda event, **f: events.append((event, f["peer"], f["why"])),
        limits=Limits(unread_bytes=100, of={"b": 10}),
    )
    party.start(0.0)
    for sender in ("b", "c"):
        for place in range(3):
            party.deliver(sender, Frame((("x", place),), "Number", bytes(8)), 0.0)
    assert events == [("dropped", "b", "flood"), ("dropped", "b", "flood")]


def test_what_runs_beside_ends_with_its_caller_and_not_before():
    ended = []

    async def serve(net):
        inbox = Inbox(("ask",), Number.form(), frozenset("a"))
        try:
            while True:
                got = await net.arrival(inbox)
                net.send("a", got.message)
        finally:
            ended.append(net.me)

    async def program(net):
        await net.beside(serve(net))
        first = await net.recv(Number.form(), "b")
        second = await net.recv(Number.form(), "c")
        return first.value + second.value

    bench = Bench(program)
    bench.give("a", 7, at=(("ask", 1),))
    bench.give("b", 1)
    bench.give("a", 8, at=(("ask", 2),))
    assert [out.frame.body for out in bench.party.drain()] == [
        Number(7).encode(),
        Number(8).encode(),
    ]
    assert ended == []
    bench.give("c", 2)
    assert bench.party.result == 3
    assert ended == ["me"]


def test_what_runs_beside_a_task_that_is_ended_ends_with_it():
    ended = []

    async def serve(net):
        try:
            await net.sleep(100.0)
        finally:
            ended.append("serve")

    async def slow(net):
        await net.beside(serve(net))
        await net.sleep(50.0)

    async def program(net):
        await net.race(slow(net), net.sleep(1.0))
        ended.append("race")
        await net.sleep(1.0)

    bench = Bench(program)
    bench.party.tick(1.0)
    assert ended == ["serve", "race"]
    bench.party.tick(2.0)
    assert bench.party.status == "done"


def test_what_ends_beside_its_caller_disturbs_nobody():
    async def program(net):
        await net.beside(net.sleep(1.0))
        await net.beside(net.sleep(0.0))
        got = await net.recv(Number.form(), "b")
        await net.sleep(5.0)
        return got.value

    bench = Bench(program)
    bench.party.tick(1.0)
    bench.give("b", 4, now=2.0)
    bench.party.tick(7.0)
    assert bench.party.result == 4


def test_a_failure_beside_is_the_callers_wherever_it_waits():
    async def broken(net):
        await net.sleep(1.0)
        raise Abort("broken")

    async def inner(net):
        await net.sleep(100.0)

    async def program(net):
        try:
            await net.beside(broken(net))
            await net.par(inner(net), inner(net))
        except Abort as abort:
            return abort.reason

    bench = Bench(program)
    bench.party.tick(1.0)
    assert bench.party.result == "broken"
    assert bench.party.where() == []


def test_what_runs_beside_survives_a_failure_that_its_caller_catches():
    async def broken(net):
        raise Abort("broken")

    async def serve(net):
        await net.recv(Number.form(), "a")
        net.send("a", Number(5))

    async def program(net):
        await net.beside(serve(net))
        try:
            await net.par(broken(net))
        except Abort:
            await net.sleep(1.0)

    bench = Bench(program)
    bench.give("a", 1)
    assert len(bench.party.drain()) == 1
    bench.party.tick(1.0)
    assert bench.party.status == "done"

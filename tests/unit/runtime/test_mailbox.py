"""The mailbox against a slow twin, and what it costs to move a window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka.mailbox import Limits, Mailbox, Waiter, Waiters
from ostraka.net import Inbox, Label, Receive, Sleep, Upon, indices, names
from ostraka.wire import Index, Message


@dataclass(frozen=True)
class Note(Message):
    number: Index


LIMITS = Limits(unread_frames=6, taken=3)
FORM: Any = Note.form()
SENDERS = ("a", "b")
BODIES = Note(1).encode(), Note(2).encode()
labels = st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 2)), min_size=1, max_size=2).map(
    tuple
)
bases = st.one_of(st.just(()), labels)


@dataclass
class Twin:
    """The same promises, kept by looking through everything at every call."""

    slots: dict[tuple[Label, str], bytes | None] = field(default_factory=dict)
    unread: list[tuple[Label, str]] = field(default_factory=list)
    taken: list[tuple[Label, str]] = field(default_factory=list)
    windows: dict[tuple[Label, Any], tuple[Any, Any]] = field(default_factory=dict)

    @staticmethod
    def place(at: tuple[Label, Any], edges: tuple[Any, Any], label: Label) -> str:
        (base, path), (low, high) = at, edges
        inner = label[len(base) : len(base) + len(path)]
        if label[: len(base)] != base or names(inner) != path:
            return "in"
        if indices(inner) < low:
            return "late"
        return "early" if high is not None and indices(inner) > high else "in"

    def put(self, sender: str, label: Label, body: bytes) -> str | None:
        outside = {self.place(at, edges, label) for at, edges in self.windows.items()} - {"in"}
        if outside:
            return "outside"
        if (label, sender) in self.slots:
            kept = self.slots[label, sender]
            if kept is None and (label, sender) not in self.taken:
                return "late"
            return "duplicate" if kept in (None, body) else "conflict"
        if sum(by == sender for _, by in self.unread) >= LIMITS.unread_frames:
            return "flood"
        self.slots[label, sender] = body
        self.unread.append((label, sender))
        return None

    def take(self, sender: str, label: Label) -> bytes | None:
        body = self.slots.get((label, sender))
        if body is not None:
            self.slots[label, sender] = None
            self.unread.remove((label, sender))
            self.taken.append((label, sender))
            own = [at for at in self.taken if at[1] == sender]
            if len(own) > LIMITS.taken:
                self.forget(own[0])
        return body

    def oldest(self, base: Label, inboxes: list[Inbox[Any]]) -> tuple[int, Label, str] | None:
        for label, sender in self.unread:  # it is kept in the order in which things came
            below = label[len(base) :] if label[: len(base)] == base else None
            for place, inbox in enumerate(inboxes):
                if below is not None and names(below) == inbox.path and sender in inbox.senders:
                    return place, label, sender
        return None

    def give_up(self, sender: str, label: Label) -> bool:
        if (label, sender) in self.slots:
            kept = self.slots[label, sender]
            return kept is None and (label, sender) not in self.taken
        self.slots[label, sender] = None
        return True

    def window(self, at: tuple[Label, Any], low: Any, high: Any) -> None:
        self.windows[at] = low, high
        for other in [o for o in self.windows if self.place(at, (low, high), o[0]) == "late"]:
            del self.windows[other]
        for key in [k for k in self.slots if self.place(at, (low, high), k[0]) != "in"]:
            self.forget(key)

    def forget(self, key: tuple[Label, str]) -> None:
        self.slots.pop(key)
        for rest in (self.unread, self.taken):
            if key in rest:
                rest.remove(key)


@st.composite
def windows(draw: Any) -> tuple[Any, ...]:
    base = draw(bases)
    path = draw(st.lists(st.sampled_from(("x", "y")), min_size=1, max_size=2).map(tuple))
    index = st.tuples(*[st.integers(0, 2)] * len(path))
    return "window", (base, path), draw(index), draw(st.none() | index)


inboxes = st.builds(
    Inbox,
    st.lists(st.sampled_from("xy"), max_size=2).map(tuple),
    st.just(FORM),
    st.frozensets(st.sampled_from(SENDERS)),
)
calls = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(SENDERS), labels, st.sampled_from(BODIES)),
    st.tuples(st.just("take"), st.sampled_from(SENDERS), labels),
    st.tuples(st.just("give_up"), st.sampled_from(SENDERS), labels),
    st.tuples(st.just("oldest"), bases, st.lists(inboxes, max_size=3)),
    windows(),
)


@given(st.lists(calls, max_size=60))
@settings(max_examples=300)
def test_the_mailbox_keeps_what_a_slow_twin_keeps(script: list[tuple[Any, ...]]) -> None:
    mail, twin = Mailbox(LIMITS), Twin()
    for step in script:
        match step:
            case ("put", sender, label, body):
                refused = mail.put(sender, label, FORM.kind, body)
                ours = "outside" if outside(twin, label) else refused
                assert ours == twin.put(sender, label, body)
                assert (refused is None) == (ours is None)
            case ("take", sender, label):
                expected = twin.take(sender, label)
                if expected is not None:
                    waiting = mail.find(label, FORM.kind, sender)
                    assert mail.take(FORM, waiting).encode() == expected
            case ("give_up", sender, label):
                assert mail.give_up(label, FORM.kind, sender) == twin.give_up(sender, label)
            case ("oldest", base, boxes):
                found = mail.oldest(base, boxes)
                seen = None if found is None else (found[0], found[1].label, found[1].sender)
                assert seen == twin.oldest(base, boxes)
                assert found is None or found[1].place_in(boxes, len(base)) == found[0]
            case ("window", (base, path), low, high):
                mail.window(base, path, low, high)
                twin.window((base, path), low, high)
    left = {label for label, _ in twin.slots}
    assert {label for label, _ in mail._slots} == left
    for (base, path), window in mail._windows.items():
        known = [key[0] for _, key in window.slots]
        assert sorted(known) == sorted(filter(window.speaks_of, left)), (base, path)


def waiter(request: Any) -> Waiter:
    return Waiter(None, request, None)


requests = st.one_of(
    st.builds(Upon, bases, st.just(()), st.none()),
    st.builds(Receive, bases, st.just(FORM), st.just(("a",)), st.just(1), st.none(), st.just(0.0)),
    st.builds(Sleep, st.just(1.0)),
)


@given(st.lists(st.one_of(requests.map(waiter), st.integers(0, 9)), max_size=30), labels)
def test_mail_is_shown_to_those_above_it_in_the_order_in_which_they_began(
    script: list[Any], label: Label
) -> None:
    """A number ends the wait of one that waits, or lets it wait again, behind the others."""
    waiters, twin, ended = Waiters(), [], []
    for step in script:
        if isinstance(step, Waiter):
            waiters.add(step)
            twin.append(step)
        elif step % 2 and ended:
            waiters.add(ended[0])
            twin.append(ended.pop(0))
        elif step < len(twin):
            waiters.remove(twin[step])
            ended.append(twin.pop(step))
    assert list(waiters) == twin
    reads = [(one, one.request) for one in twin if not isinstance(one.request, Sleep)]
    expected = [one for one, request in reads if label[: len(request.label)] == request.label]
    assert waiters.above(label) == expected


def test_what_is_kept_of_mail_that_was_read_or_forgotten_is_nothing() -> None:
    mail = Mailbox(LIMITS)
    inbox = Inbox(("x",), FORM, frozenset(SENDERS))
    mail.window((), ("x",), (0,), None)
    for sender in SENDERS:
        for number in range(3):
            assert mail.put(sender, (("x", number),), FORM.kind, BODIES[0]) is None
    for _ in range(2):
        place, one = mail.oldest((), [inbox]) or (None, None)
        assert (place, one.sender) == (0, "a")
        assert mail.take(FORM, one) == Note(1)
        assert not one.unread
    assert mail.read_as(FORM, (("x", 2),), "a") == Note(1)
    place, one = mail.oldest((), [inbox]) or (None, None)
    assert (place, one.sender, one.label) == (0, "b", (("x", 0),))
    mail.window((), ("x",), (3,), None)
    assert not one.unread
    assert mail.oldest((), [inbox]) is None
    assert not mail._slots
    assert not mail._order
    assert set(mail._unread.values()) == {(0, 0)}


def test_a_label_that_ends_early_lies_in_one_window_once() -> None:
    """Windows below it, or of longer paths, may come and go between its coming and its going."""
    mail = Mailbox(LIMITS)
    mail.window((), ("x",), (0,), None)
    assert mail.put("a", (("x", 1),), FORM.kind, BODIES[0]) is None
    assert mail.put("a", (("x", 2),), FORM.kind, BODIES[0]) is None
    mail.window((), ("x", "y"), (0, 0), None)
    mail.window((), ("x",), (2,), None)
    assert [label for label, _ in mail._slots] == [(("x", 2),)]
    mail.window((), ("x",), (3,), None)
    assert not mail._slots


def outside(twin: Twin, label: Label) -> bool:
    return any(twin.place(at, edges, label) != "in" for at, edges in twin.windows.items())


class Counted(dict[Any, Any]):
    """Counts how often somebody looks through all of it."""

    looked = 0

    def __iter__(self) -> Iterator[Any]:
        self.looked += 1
        return super().__iter__()


def test_a_window_that_moves_does_not_look_at_what_stays() -> None:
    """Others choose how many messages that is: each of their questions would cost so much."""
    mail = Mailbox(Limits(unread_frames=2000))
    mail._slots = slots = Counted()
    base, path = (("asker", 3),), ("number",)
    mail.window(base, path, (0,), None)
    for number in range(1000):
        assert mail.put("a", (*base, ("number", number)), FORM.kind, b"x") is None
    looked = slots.looked
    for number in range(1000):
        mail.window(base, path, (number + 1,), None)
        assert len(slots) == 999 - number
    assert slots.looked == looked

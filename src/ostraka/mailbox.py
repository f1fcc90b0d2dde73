"""A party's unread mail: one message per slot, bounded per sender, only within the open windows.

A slot is (label, kind, sender). The first message of a slot counts; the same bytes again are a
duplicate, other bytes a conflict, and whatever lies below a window or comes after its reader gave
up is late. Bodies are kept until their window closes, so that duplicates are recognised. Of a body
that is too long nothing is kept, but its sender has spoken, and badly.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

from ostraka.net import Body, Form, Inbox, Label, Malformed, Path, Sleep, Wait, indices, names

Place = Literal["late", "early", "in"]
Refusal = Literal["late", "early", "duplicate", "conflict", "flood"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of one sender's unread mail a party keeps, and how large one body may be.

    ``of``: fewer unread bytes for these senders. ``taken``: of how many messages that were taken
    out (`Mailbox.take`) a party remembers for each sender that they came.
    """

    unread_frames: int = 64
    unread_bytes: int = 1 << 28
    frame_bytes: int = 1 << 28
    of: Mapping[str, int] = field(default_factory=dict)
    taken: int = 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """One message on its way: where it belongs, what it claims to be, its bytes.

    Malformed stands for a body that a driver refused to take in, before any of it was read.
    """

    label: Label
    kind: str
    body: Body | Malformed

    @property
    def size(self) -> int:
        """Bytes of its body."""
        return _size(self.body)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A frame and the party that it is for."""

    to: str
    frame: Frame


@dataclass(slots=True, eq=False)
class Mail:
    """One sender's message in a slot. ``path``: the label's names; ``arrival``: counts all mail."""

    label: Label
    kind: str
    sender: str
    body: Body | Malformed | None
    path: Path
    arrival: int
    unread: bool = True

    @property
    def size(self) -> int:
        """Bytes that it takes up."""
        return 0 if self.body is None else _size(self.body)

    def place_in(self, inboxes: Sequence[Inbox[Any]], depth: int) -> int | None:
        """The first inbox that it is for, of those below the first ``depth`` parts of its label."""
        for place, inbox in enumerate(inboxes):
            of_kind = inbox.form.kind == self.kind and self.sender in inbox.senders
            if of_kind and self.path[depth:] == inbox.path:
                return place
        return None


def _size(body: Body | Malformed) -> int:
    return 0 if isinstance(body, Malformed) else len(body)


Key = tuple[Label, str]
"""A slot of all senders: its label and kind of message."""


@dataclass(slots=True, eq=False)
class _Window:
    """``slots``: what lies where this window speaks of, in the order of its indices."""

    base: Label
    path: Path
    low: tuple[int, ...]
    high: tuple[int, ...] | None
    ahead: set[str] = field(default_factory=set)
    slots: list[tuple[tuple[int, ...], Key]] = field(default_factory=list)

    def speaks_of(self, label: Label) -> bool:
        """Whether a label has a place in this window."""
        depth = len(self.base)
        if label[:depth] != self.base:
            return False
        return names(label[depth : depth + len(self.path)]) == self.path

    def at(self, label: Label) -> tuple[int, ...]:
        """The indices by which a label that it speaks of has its place."""
        depth = len(self.base)
        return indices(label[depth : depth + len(self.path)])

    def place(self, label: Label) -> Place:
        """Where a label that it speaks of lies."""
        at = self.at(label)
        if at < self.low:
            return "late"
        return "early" if self.high is not None and at > self.high else "in"

    def outside(self) -> list[Key]:
        """The slots that are to be forgotten."""
        first, last = bisect_left(self.slots, (self.low,)), len(self.slots)
        if self.high is not None:
            last = bisect_right(self.slots, self.high, key=itemgetter(0))
        return [key for _, key in (*self.slots[:first], *self.slots[max(first, last) :])]


@dataclass(slots=True, eq=False)
class Waiter:
    """A task that waits for mail or for time, and what it has got so far.

    ``found``: what an Upon was answered for, the place of an inbox and its mail.
    """

    task: Any
    request: Wait
    deadline: float | None
    messages: dict[str, Any] = field(default_factory=dict)
    malformed: dict[str, Malformed] = field(default_factory=dict)
    found: tuple[int, Mail] | None = None


class Waiters:
    """All that wait, in the order in which they began; those for mail also by their labels."""

    def __init__(self) -> None:
        self._number: dict[Waiter, int] = {}
        self._by_depth: dict[int, dict[Label, dict[Waiter, None]]] = {}
        self._count = 0

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._number)

    def add(self, waiter: Waiter) -> None:
        """Let it wait, behind all others."""
        self._count += 1
        self._number[waiter] = self._count
        if not isinstance(waiter.request, Sleep):
            label = waiter.request.label
            self._by_depth.setdefault(len(label), {}).setdefault(label, {})[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """Let it wait no more."""
        del self._number[waiter]
        if not isinstance(waiter.request, Sleep):
            label = waiter.request.label
            at_depth = self._by_depth[len(label)]
            del at_depth[label][waiter]
            if not at_depth[label]:
                del at_depth[label]

    def above(self, label: Label) -> list[Waiter]:
        """Those that mail of this label may be for: they wait there, or in a label above it."""
        found: list[Waiter] = []
        for depth, waiters in self._by_depth.items():
            found.extend(waiters.get(label[:depth], ()))
        found.sort(key=self._number.__getitem__)
        return found


class Mailbox:
    """Stores admitted bodies; ``None`` in a slot means that its reader has given up on it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._slots: dict[Key, dict[str, Mail | None]] = {}
        self._windows: dict[tuple[Label, Path], _Window] = {}
        self._depths: set[tuple[int, int]] = set()  # how long base and path of windows have been
        self._unread: dict[str, tuple[int, int]] = {}
        self._order: dict[str, dict[Path, dict[int, Mail]]] = {}  # unread: kind, names, arrival
        self._arrivals = 0
        self._taken: dict[str, dict[int, Mail]] = {}

    def put(self, sender: str, label: Label, kind: str, body: Body | Malformed) -> Refusal | None:
        """Keep one message, or say why not; Malformed: its driver did not take its bytes in."""
        if not isinstance(body, Malformed) and len(body) > self._limits.frame_bytes:
            body = Malformed(f"more than {self._limits.frame_bytes} bytes")
        key, windows = (label, kind), self._speaking_of(label)
        slot = self._slots.get(key, {})
        refusal = self._outside(sender, label, windows) or self._crowded(sender, slot, body)
        if refusal is None:
            if not slot:
                self._begin(key, slot, windows)
            path = names(label)
            self._arrivals += 1
            mail = slot[sender] = Mail(label, kind, sender, body, path, self._arrivals)
            self._order.setdefault(kind, {}).setdefault(path, {})[mail.arrival] = mail
            frames, size = self._unread.get(sender, (0, 0))
            self._unread[sender] = (frames + 1, size + _size(body))
        return refusal

    def find(self, label: Label, kind: str, sender: str) -> Mail | None:
        """What lies in a slot, read or not."""
        return self._slots.get((label, kind), {}).get(sender)

    def read_as(self, form: Form[Any], label: Label, sender: str) -> Any:
        """What the form gives of the slot's body; Malformed also of a long one, None of nothing."""
        mail = self.find(label, form.kind, sender)
        return None if mail is None else self._read(form, mail)

    def take(self, form: Form[Any], mail: Mail) -> Any:
        """What the form gives of unread mail, whose body does not stay.

        Who says something there again is a duplicate. A reader who takes whatever comes lets
        senders choose labels: no bodies must pile up in them, and of each sender's oldest ones
        even the place is forgotten.
        """
        message = self._read(form, mail)
        mail.body = None
        taken = self._taken.setdefault(mail.sender, {})
        taken[mail.arrival] = mail
        if len(taken) > self._limits.taken:
            oldest = next(iter(taken.values()))
            self._drop((oldest.label, oldest.kind), oldest.sender)
        return message

    def oldest(self, base: Label, inboxes: Sequence[Inbox[Any]]) -> tuple[int, Mail] | None:
        """What has waited longest below ``base``, and the first inbox that it is for."""
        found: tuple[int, Mail] | None = None
        depth = len(base)
        for place, inbox in enumerate(inboxes):
            of_kind = self._order.get(inbox.form.kind)
            if of_kind is None:
                continue
            for mail in of_kind.get(names(base) + inbox.path, {}).values():
                if found is not None and found[1].arrival <= mail.arrival:
                    break
                if mail.label[:depth] == base and mail.sender in inbox.senders:
                    found = place, mail
                    break
        return found

    def give_up(self, label: Label, kind: str, sender: str) -> bool:
        """Close an empty slot for good; true if it was empty."""
        slot = self._slots.get((label, kind), {})
        if sender in slot:
            return slot[sender] is None
        if not slot:
            self._begin((label, kind), slot, self._speaking_of(label))
        slot[sender] = None
        return True

    def newest(self, base: Label, path: Path, kind: str, sender: str) -> Label | None:
        """The label below ``base`` with the greatest indices in which the sender's mail lies."""
        depth = len(base)
        found = (
            label
            for (label, at_kind), slot in self._slots.items()
            if at_kind == kind
            and slot.get(sender) is not None
            and label[:depth] == base
            and names(label[depth:]) == path
        )
        return max(found, key=indices, default=None)

    def window(
        self, base: Label, path: Path, low: tuple[int, ...], high: tuple[int, ...] | None
    ) -> None:
        """Move a window and forget every slot outside it.

        That takes time for what is forgotten, not for what stays: others choose how much that is.
        """
        window = self._windows.get((base, path))
        if window is None:
            window = self._open(base, path, low, high)
        window.low, window.high = low, high
        window.ahead.clear()
        for at in list(self._windows):  # windows below a label that is over would only pile up
            if window.speaks_of(at[0]) and window.place(at[0]) == "late":
                del self._windows[at]
        for key in window.outside():
            for sender in list(self._slots[key]):
                self._drop(key, sender)

    def raise_floor(self, base: Label, path: Path, low: tuple[int, ...]) -> None:
        """Move only the lower edge of a window."""
        present = self._windows.get((base, path))
        self.window(base, path, low, present.high if present else None)

    def ahead(self, base: Label, path: Path) -> tuple[str, ...]:
        """Who has sent something above the window since it last moved."""
        window = self._windows.get((base, path))
        return tuple(sorted(window.ahead)) if window else ()

    def over(self, label: Label) -> bool:
        """Whether some window has moved beyond this label."""
        return any(window.place(label) == "late" for window in self._speaking_of(label))

    def _outside(self, sender: str, label: Label, windows: list[_Window]) -> Refusal | None:
        """Where a label lies that one of the windows keeps out."""
        for window in windows:
            place = window.place(label)
            if place == "early":
                window.ahead.add(sender)
            if place != "in":
                return place
        return None

    def _crowded(
        self, sender: str, slot: Mapping[str, Mail | None], body: Body | Malformed
    ) -> Refusal | None:
        """Why there is no room for it, in the slot or for its sender."""
        if sender in slot:
            mail = slot[sender]
            if mail is None:
                return "late"
            return "duplicate" if mail.body in (None, body) else "conflict"
        frames, size = self._unread.get(sender, (0, 0))
        crowded = frames >= self._limits.unread_frames
        most = self._limits.of.get(sender, self._limits.unread_bytes)
        return "flood" if crowded or size + _size(body) > most else None

    def _speaking_of(self, label: Label) -> list[_Window]:
        """The windows that have a place for a label."""
        found = []
        path = names(label)
        for depth, length in self._depths:
            if depth + length <= len(label):
                window = self._windows.get((label[:depth], path[depth : depth + length]))
                if window is not None:
                    found.append(window)
        return found

    def _open(
        self, base: Label, path: Path, low: tuple[int, ...], high: tuple[int, ...] | None
    ) -> _Window:
        """A new window, which knows what lies in it already."""
        window = self._windows[base, path] = _Window(base, path, low, high)
        self._depths.add((len(base), len(path)))
        of = (key for key in self._slots if window.speaks_of(key[0]))
        window.slots = sorted((window.at(key[0]), key) for key in of)
        return window

    def _begin(self, key: Key, slot: dict[str, Mail | None], windows: list[_Window]) -> None:
        """Let a slot be there, empty; the windows that speak of it know."""
        self._slots[key] = slot
        for window in windows:
            insort(window.slots, (window.at(key[0]), key))

    def _drop(self, key: Key, sender: str) -> None:
        """Forget one sender's place in a slot."""
        slot = self._slots[key]
        mail = slot.pop(sender)
        if mail is not None:
            self._count_read(mail)
            self._taken.get(sender, {}).pop(mail.arrival, None)
        if not slot:
            del self._slots[key]
            for window in self._speaking_of(key[0]):
                del window.slots[bisect_left(window.slots, (window.at(key[0]), key))]

    def _read(self, form: Form[Any], mail: Mail) -> Any:
        """What the form gives of a body, which no longer counts as unread."""
        self._count_read(mail)
        body = mail.body
        if body is None or isinstance(body, Malformed):
            return body
        if len(body) > form.max_bytes:
            return Malformed(f"{len(body)} bytes, at most {form.max_bytes} expected")
        return form.decode(body)

    def _count_read(self, mail: Mail) -> None:
        if mail.unread:
            mail.unread = False
            frames, size = self._unread[mail.sender]
            self._unread[mail.sender] = (frames - 1, size - mail.size)
            of_kind = self._order[mail.kind]
            waiting = of_kind[mail.path]
            del waiting[mail.arrival]
            if not waiting:
                del of_kind[mail.path]
            if not of_kind:
                del self._order[mail.kind]

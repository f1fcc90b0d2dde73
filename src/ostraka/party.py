"""A protocol coroutine as a pure state machine: start, deliver and tick in; an outbox out.

The simulator and the socket drivers are thin loops around this one interpreter, so that aborts,
cancellation and timeouts cannot drift apart between them. It reads no clock: whoever drives it
says what time it is. It trusts no peer: what may be kept is the mailbox's business, and nothing
is decoded before its length is checked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ostraka.mailbox import Frame as Frame
from ostraka.mailbox import Limits, Mail, Mailbox, Waiter, Waiters
from ostraka.mailbox import Outgoing as Outgoing
from ostraka.net import (
    Abort,
    Arrival,
    Gathered,
    Join,
    Label,
    Malformed,
    Net,
    Newest,
    Path,
    Program,
    Receive,
    Request,
    Sleep,
    Timeout,
    Trace,
    Upon,
    Wait,
    describe,
    indices,
    label_text,
)

Failure = Abort | Timeout


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a stuck party waits for: senders are those that have not spoken yet."""

    label: str
    kind: str
    senders: tuple[str, ...]
    until: float | None


@dataclass(eq=False, slots=True)
class _Task:
    coroutine: Coroutine[Any, Any, Any]
    join: _Join | None = None


@dataclass(eq=False, slots=True)
class _Join:
    """A task that waits for its children, or for the first of them, or works beside them."""

    parent: _Task
    first: bool = False
    aside: bool = False
    children: list[_Task] = field(default_factory=list)
    results: dict[int, Any] = field(default_factory=dict)


class Party:
    """Runs one program: new, running, then done (``result``), failed (``error``) or closed."""

    def __init__(
        self, me: str, program: Program, *, trace: Trace, limits: Limits | None = None
    ) -> None:
        self.me = me
        self.now = 0.0
        self.status: Literal["new", "running", "done", "failed", "closed"] = "new"
        self.result: Any = None
        self.error: Failure | None = None
        self._trace = trace
        self._program = program
        self._mail = Mailbox(limits or Limits())
        self._outbox: list[Outgoing] = []
        self._drops: dict[tuple[str, str], int] = {}
        self._waits = Waiters()
        self._joins: list[_Join] = []
        self._ready: deque[tuple[_Task, Any, Failure | None]] = deque()

    # --- what a driver calls ---------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin the program."""
        self.now = now
        self.status = "running"
        self._ready.append((_Task(self._program(Net(self))), None, None))
        self._run()

    def deliver(self, sender: str, frame: Frame, now: float) -> None:
        """Take one frame from an authenticated peer; any content is safe."""
        self.now = now
        if self.status != "running":
            return
        refusal = self._mail.put(sender, frame.label, frame.kind, frame.body)
        if refusal is None:
            mail = self._mail.find(frame.label, frame.kind, sender)
            assert mail is not None, "it was put there a moment ago"
            self._offer(mail)
            self._run()
        else:
            self._dropped(sender, refusal, frame)

    def _dropped(self, sender: str, why: str, frame: Frame) -> None:
        """Say it the first, second, fourth, eighth... time: a peer must not fill our records."""
        count = self._drops[sender, why] = self._drops.get((sender, why), 0) + 1
        if count & (count - 1) == 0:
            at = label_text(frame.label)
            self._trace(
                "dropped", party=self.me, peer=sender, why=why, count=count, kind=frame.kind, at=at
            )

    def tick(self, now: float) -> None:
        """Let deadlines up to ``now`` pass."""
        self.now = now
        while self.status == "running":
            due = (w for w in self._waits if self._due(w))
            first = min(due, key=lambda w: w.deadline or 0.0, default=None)
            if first is None:
                return
            self._answer(first)
            self._run()

    def drain(self) -> list[Outgoing]:
        """What must be sent now, in order; each frame is given once."""
        out, self._outbox = self._outbox, []
        return out

    @property
    def deadline(self) -> float | None:
        """When ``tick`` is needed next."""
        first = None
        for wait in self._waits:
            if wait.deadline is not None and (first is None or wait.deadline < first):
                first = wait.deadline
        return first

    def where(self) -> list[Waiting]:
        """What this party waits for, for people who ask why nothing happens."""
        spoken = (frozenset({**wait.messages, **wait.malformed}) for wait in self._waits)
        return [
            Waiting(*describe(wait.request, done), wait.deadline)
            for wait, done in zip(self._waits, spoken, strict=True)
        ]

    def over(self, label: Label) -> bool:
        """Whether a window has closed behind this label: nothing in it matters here any more."""
        return self._mail.over(label)

    def close(self) -> None:
        """Drop the program, as a crash would."""
        if self.status in ("new", "running"):
            self.status = "closed"
        for task in list(self._tasks()):
            task.coroutine.close()
        self._waits = Waiters()
        self._joins.clear()
        self._ready.clear()

    # --- what Net calls ---------------------------------------------------------------------

    def post(self, to: str, label: Label, kind: str, body: bytes) -> None:
        """Put one frame into the outbox."""
        if to == self.me:
            raise ValueError(f"{self.me} sends {kind} to itself")
        self._outbox.append(Outgoing(to, Frame(label, kind, body)))

    def window(
        self, label: Label, path: Path, low: tuple[int, ...], high: tuple[int, ...] | None
    ) -> None:
        """Move a window of the mailbox."""
        self._mail.window(label, path, low, high)

    def ahead(self, label: Label, path: Path) -> tuple[str, ...]:
        """Who has sent something above the window since it last moved."""
        return self._mail.ahead(label, path)

    # --- waits ------------------------------------------------------------------------------

    def _offer(self, mail: Mail) -> None:
        """Show new mail to the waits that it may end; there is no other that they wait for."""
        for wait in self._waits.above(mail.label):
            match wait.request:
                case Receive(label=label, form=form) as request:
                    if label == mail.label and form.kind == mail.kind:
                        self._take(wait, request, mail.sender)
                        self._settle(wait, request)
                case Newest() as request:
                    if request.form.kind == mail.kind and self._found(request):
                        self._answer(wait)
                case Upon() as request:
                    place = mail.place_in(request.inboxes, len(request.label))
                    if place is not None and mail.unread:
                        wait.found = place, mail
                        self._answer(wait)

    def _take(self, wait: Waiter, request: Receive, sender: str) -> None:
        """Decode one sender's message of the slot for a waiting task, once."""
        if sender in wait.messages or sender in wait.malformed or sender not in request.senders:
            return
        message = self._mail.read_as(request.form, request.label, sender)
        if message is None:
            return
        if isinstance(message, Malformed):
            wait.malformed[sender] = message
        else:
            wait.messages[sender] = message

    def _settle(self, wait: Waiter, request: Receive) -> None:
        """End a receive that has all that it can or need have."""
        if len(wait.messages) + len(wait.malformed) == len(request.senders):
            self._answer(wait)
        elif len(wait.messages) == request.need:
            if request.grace_s <= 0.0:
                self._answer(wait)
            else:
                grace = self.now + request.grace_s
                wait.deadline = grace if wait.deadline is None else min(wait.deadline, grace)

    def _found(self, request: Newest) -> Label | None:
        label = self._mail.newest(request.label, request.path, request.form.kind, request.sender)
        if label is None or indices(label[len(request.label) :]) <= request.after:
            return None
        return label

    def _answer(self, wait: Waiter) -> None:
        """Hand the task what its wait has come to."""
        self._waits.remove(wait)
        match wait.request:
            case Receive() as request:
                self._ready.append((wait.task, self._gathered(wait, request), None))
            case Newest() as request:
                self._ready.append((wait.task, self._pick(request), None))
            case Upon():
                self._ready.append((wait.task, wait, None))
            case Sleep():
                self._ready.append((wait.task, None, None))

    def _gathered(self, wait: Waiter, request: Receive) -> Gathered[Any]:
        give_up = self._mail.give_up
        silent = (s for s in request.senders if give_up(request.label, request.form.kind, s))
        return Gathered(
            {s: wait.messages[s] for s in request.senders if s in wait.messages},
            {s: wait.malformed[s] for s in request.senders if s in wait.malformed},
            tuple(silent),
        )

    def _pick(self, request: Newest) -> tuple[tuple[int, ...], Any] | None:
        label = self._found(request)
        if label is None:
            return None
        message = self._mail.read_as(request.form, label, request.sender)
        assert message is not None, "what was found a moment ago is still there"
        index = indices(label[len(request.label) :])
        self._mail.raise_floor(request.label, request.path, index)
        return index, message

    def _due(self, wait: Waiter) -> bool:
        return wait.deadline is not None and wait.deadline <= self.now

    def _arrived(self, wait: Waiter, request: Any) -> Arrival | None:
        """What has waited longest in one of the inboxes, or nothing."""
        if wait.found is None or not wait.found[1].unread:  # another task took it, or forgot it
            wait.found = self._mail.oldest(request.label, request.inboxes)
        if wait.found is None:
            return None
        place, mail = wait.found
        message = self._mail.take(request.inboxes[place].form, mail)
        return Arrival(place, indices(mail.label[len(request.label) :]), mail.sender, message)

    # --- the interpreter --------------------------------------------------------------------

    def _run(self) -> None:
        while self._ready:
            task, value, error = self._ready.popleft()
            if isinstance(value, Waiter):  # it takes its mail only now: it might have been ended
                wait, value = value, self._arrived(value, value.request)
                if value is None and not self._due(wait):  # another task was quicker
                    self._waits.add(wait)
                    continue
            try:
                if error is None:
                    request = task.coroutine.send(value)
                else:
                    request = task.coroutine.throw(error)
            except StopIteration as stop:
                self._finished(task, stop.value)
            except (Abort, Timeout) as failure:
                self._failed(task, failure)
            else:
                self._register(task, request)

    def _register(self, task: _Task, request: Request) -> None:
        match request:
            case Receive(timeout_s=timeout_s):
                wait = self._wait(task, request, timeout_s)
                for sender in request.senders:
                    self._take(wait, request, sender)
                self._settle(wait, request)
            case Newest(timeout_s=timeout_s):
                wait = self._wait(task, request, timeout_s)
                if self._found(request):
                    self._answer(wait)
            case Upon(timeout_s=timeout_s):
                wait = self._wait(task, request, timeout_s)
                wait.found = self._mail.oldest(request.label, request.inboxes)
                if wait.found is not None:
                    self._answer(wait)
            case Sleep(seconds):
                self._wait(task, request, seconds)
            case Join(coroutines, first, aside):
                join = _Join(task, first, aside)
                join.children = [_Task(coroutine, join) for coroutine in coroutines]
                self._joins.append(join)
                self._ready.extend((child, None, None) for child in join.children)
                if aside:
                    self._ready.append((task, None, None))
                else:
                    self._joined(join)
            case _:
                raise TypeError(f"a protocol awaited {request!r}, which is no request to Net")

    def _wait(self, task: _Task, request: Wait, timeout_s: float | None) -> Waiter:
        wait = Waiter(task, request, None if timeout_s is None else self.now + timeout_s)
        self._waits.add(wait)
        return wait

    def _finished(self, task: _Task, value: Any) -> None:
        if task.join is None:
            self.status, self.result = "done", value
            self.close()
            return
        self._leave(task)
        task.join.results[id(task)] = value
        if not task.join.aside:
            self._joined(task.join)
        elif len(task.join.results) == len(task.join.children):
            self._joins.remove(task.join)

    def _joined(self, join: _Join) -> None:
        ended = [i for i, child in enumerate(join.children) if id(child) in join.results]
        if len(ended) < (1 if join.first else len(join.children)):
            return
        self._end(join)
        results = tuple(join.results[id(join.children[i])] for i in ended)
        answer = (ended[0], results[0]) if join.first else results
        self._ready.append((join.parent, answer, None))

    def _end(self, join: _Join, but: _Task | None = None) -> None:
        """Close a join and end those of its children that still run."""
        self._joins.remove(join)
        for child in join.children:
            if child is not but and id(child) not in join.results:
                self._cancel(child)

    def _failed(self, task: _Task, failure: Failure) -> None:
        join = task.join
        if join is None:
            self.status, self.error = "failed", failure
            self.close()
            return
        self._leave(task)
        self._end(join, but=task)
        if join.aside:
            self._leave(join.parent)
        self._ready.append((join.parent, None, failure))

    def _cancel(self, task: _Task) -> None:
        """End a task and all that runs below it."""
        self._leave(task)
        task.coroutine.close()

    def _leave(self, task: _Task) -> None:
        """Let a task wait for nothing any more, and end all that runs below it."""
        for join in [j for j in self._joins if j.parent is task]:
            self._end(join)
        for wait in [w for w in self._waits if w.task is task]:
            self._waits.remove(wait)
        self._ready = deque(r for r in self._ready if r[0] is not task)

    def _tasks(self) -> Iterator[_Task]:
        """Every task that has not ended, children before the parents that wait for them."""
        yield from (wait.task for wait in self._waits)
        yield from (task for task, _, _ in self._ready)
        yield from (join.parent for join in reversed(self._joins))

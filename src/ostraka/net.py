"""Net: the only thing a protocol may await.

A protocol is ``async def name(net, ...) -> result``. It sends with ``net.send`` (which never blocks
and never gives up control) and waits with ``recv``, ``gather``, ``quorum``, ``newest``,
``arrival``, ``par``, ``race`` and ``beside``.
Every message belongs to a label, a path of (name, index) pairs made explicitly with ``net.sub``:
two parties meet in a label, there is no hidden counter. A slot is (label, kind, sender) and holds
one message: the first.

This module only describes what a protocol may ask; ``party.py`` is the one interpreter that
answers. Three kinds of bad end, never mixed: ``Abort`` (the protocol cannot go on; blame needs
evidence), ``Timeout`` (blames nobody) and ``ValueError`` (our bug or our caller's).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

Label = tuple[tuple[str, int], ...]
Path = tuple[str, ...]
Body = bytes | memoryview
"""A message's bytes; what came from a socket is a read-only view of the memory it came into."""
Trace = Callable[..., None]
M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
T = TypeVar("T")


def label_text(label: Label) -> str:
    """The label as people read it: ``epoch.0/round.7``."""
    return "/".join(f"{name}.{index}" for name, index in label)


def names(label: Label) -> Path:
    """The names of a label without their indices."""
    return tuple([name for name, _ in label])


def indices(label: Label) -> tuple[int, ...]:
    """The indices of a label; labels of equal names are ordered by them."""
    return tuple([index for _, index in label])


class Abort(Exception):  # noqa: N818
    """The protocol cannot go on; ``blamed`` is empty unless ``evidence`` convinces others."""

    def __init__(
        self, reason: str, *, blamed: Sequence[str] = (), evidence: Sequence[bytes] = ()
    ) -> None:
        if blamed and not evidence:
            raise ValueError("blame needs evidence")
        super().__init__(reason)
        self.reason = reason
        self.blamed = tuple(blamed)
        self.evidence = tuple(evidence)


class Timeout(Exception):  # noqa: N818
    """Too little arrived in time. Names who is missing, blames nobody."""

    def __init__(self, label: Label, kind: str, missing: Sequence[str]) -> None:
        super().__init__(f"no {kind} in {label_text(label)} from {', '.join(missing)}")
        self.label = label
        self.kind = kind
        self.missing = tuple(missing)


@dataclass(frozen=True, slots=True)
class Malformed:
    """What decoding gives for bytes that are not the expected message; says why, never the data."""

    detail: str


class Form(Protocol[M_co]):
    """What a receiver expects: a message type with all its sizes fixed."""

    @property
    def kind(self) -> str:
        """The message type's name, as it stands in frames."""

    @property
    def max_bytes(self) -> int:
        """No valid body is longer; checked before anything is allocated or decoded."""

    def decode(self, body: Body) -> M_co | Malformed:
        """Total: any bytes give a message or ``Malformed``."""


class Sendable(Protocol):
    """A message that knows its kind and its canonical bytes."""

    @property
    def kind(self) -> str:
        """The message type's name, as it stands in frames."""

    def encode(self) -> bytes:
        """The canonical body."""


@dataclass(frozen=True, slots=True)
class Gathered(Generic[M]):
    """What came of a gather or quorum, each part in the order in which the senders were named."""

    messages: Mapping[str, M]
    malformed: Mapping[str, Malformed]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Receive:
    """Request: ``need`` valid messages of one slot kind, or whatever came by the deadline."""

    label: Label
    form: Form[Any]
    senders: tuple[str, ...]
    need: int
    timeout_s: float | None
    grace_s: float


@dataclass(frozen=True, slots=True)
class Newest:
    """Request: the message of the greatest index below ``label`` + ``path``, above ``after``."""

    label: Label
    path: Path
    after: tuple[int, ...]
    form: Form[Any]
    sender: str
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Inbox(Generic[M_co]):
    """Messages of one form, from these senders, in labels of the given names."""

    path: Path
    form: Form[M_co]
    senders: frozenset[str]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that came to one of several inboxes; ``place`` says which, in their order."""

    place: int
    index: tuple[int, ...]
    sender: str
    message: Any
    """What the inbox's form gives, or Malformed."""


@dataclass(frozen=True, slots=True)
class Upon:
    """Request: the message that has waited longest in one of the inboxes below ``label``."""

    label: Label
    inboxes: tuple[Inbox[Any], ...]
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Join:
    """Request: run these coroutines side by side and give all their results.

    With ``first`` the one that ends first ends the others; the answer is its place and result.
    With ``aside`` the answer comes at once, and who asks ends them when it ends.
    """

    coroutines: tuple[Coroutine[Any, Any, Any], ...]
    first: bool = False
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Sleep:
    """Request: go on after this many seconds of the party's time."""

    seconds: float


Wait = Receive | Newest | Upon | Sleep
Request = Wait | Join


def describe(request: Wait, spoken: frozenset[str]) -> tuple[str, str, tuple[str, ...]]:
    """What a request waits for: label, kind, and the senders that have not spoken yet."""
    match request:
        case Receive(label=label, form=form, senders=senders):
            return label_text(label), form.kind, tuple(s for s in senders if s not in spoken)
        case Newest(label=label, path=path, form=form, sender=sender):
            inner = "/".join(f"{name}.?" for name in path)
            return "/".join(p for p in (label_text(label), inner) if p), form.kind, (sender,)
        case Upon(label=label, inboxes=inboxes):
            kinds = "/".join(dict.fromkeys(inbox.form.kind for inbox in inboxes))
            return label_text(label), kinds, ()  # whom it lacks, only the program knows
        case Sleep():
            return "", "time", ()


class Port(Protocol):
    """What the interpreter offers to Net: sending, its present time, and windows."""

    @property
    def me(self) -> str:
        """This party's name."""

    @property
    def now(self) -> float:
        """Seconds on the party's own monotonic (or virtual) clock."""

    def post(self, to: str, label: Label, kind: str, body: bytes) -> None:
        """Put one frame into the outbox."""

    def window(
        self, label: Label, path: Path, low: tuple[int, ...], high: tuple[int, ...] | None
    ) -> None:
        """Forget everything below ``low`` and refuse what lies above ``high``."""

    def ahead(self, label: Label, path: Path) -> tuple[str, ...]:
        """Who has sent something above the window since it last moved."""


class _Await(Generic[T]):
    """Hands one request to the interpreter and gives its answer."""

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request = request

    def __await__(self) -> Generator[Request, T, T]:
        answer = yield self._request
        return answer


class Net:
    """One party's view of the network within one label."""

    __slots__ = ("_port", "label")

    def __init__(self, port: Port, label: Label = ()) -> None:
        self._port = port
        self.label = label

    @property
    def me(self) -> str:
        """This party's name."""
        return self._port.me

    @property
    def now(self) -> float:
        """Seconds on the party's own monotonic (or virtual) clock."""
        return self._port.now

    def sub(self, name: str, index: int = 0) -> Net:
        """The same network one label deeper."""
        if index < 0:
            raise ValueError(f"label index must not be negative, got {index}")
        return Net(self._port, (*self.label, (name, index)))

    def send(self, to: str, message: Sendable) -> None:
        """Queue one message; never blocks, never a schedule point."""
        self._port.post(to, self.label, message.kind, message.encode())

    def broadcast(self, to: Sequence[str], message: Sendable) -> None:
        """Queue the same message for several parties; encoded once."""
        body = message.encode()
        for name in to:
            self._port.post(name, self.label, message.kind, body)

    async def recv(self, form: Form[M], sender: str, *, timeout_s: float | None = None) -> M:
        """The sender's message in this label.

        Raises Timeout when nothing came, Abort (nobody blamed: a single link proves nothing to
        others) when what came is malformed.
        """
        got = await self._receive(form, (sender,), 1, timeout_s, 0.0)
        if sender in got.malformed:
            detail = got.malformed[sender].detail
            raise Abort(f"{sender} sent a malformed {form.kind}: {detail}")
        if got.missing:
            raise Timeout(self.label, form.kind, got.missing)
        return got.messages[sender]

    async def gather(
        self, form: Form[M], senders: Sequence[str], *, timeout_s: float | None = None
    ) -> Gathered[M]:
        """Wait until every sender has spoken (well or badly) or the deadline has passed."""
        return await self._receive(form, tuple(senders), len(senders), timeout_s, 0.0)

    async def quorum(
        self,
        form: Form[M],
        senders: Sequence[str],
        q: int,
        *,
        grace_s: float = 0.0,
        timeout_s: float | None = None,
    ) -> Gathered[M]:
        """The first q valid messages and those that follow within the grace window.

        Raises Timeout when the deadline passes with fewer than q. Malformed messages never count.
        """
        if not 1 <= q <= len(senders):
            raise ValueError(f"a quorum of {q} among {len(senders)} senders cannot be")
        got = await self._receive(form, tuple(senders), q, timeout_s, grace_s)
        if len(got.messages) < q:
            raise Timeout(self.label, form.kind, got.missing)
        return got

    async def newest(
        self,
        form: Form[M],
        sender: str,
        path: Path,
        *,
        after: tuple[int, ...],
        timeout_s: float | None = None,
    ) -> tuple[tuple[int, ...], M]:
        """The sender's message with the greatest indices in labels ``self.label`` + ``path``.

        Waits until one is above ``after``. Older ones are forgotten: who fell behind jumps ahead.
        Raises Timeout, or Abort when the newest message is malformed.
        """
        request = Newest(self.label, path, after, form, sender, timeout_s)
        answer: tuple[tuple[int, ...], M | Malformed] | None = await _Await(request)
        if answer is None:
            raise Timeout(self.label, form.kind, (sender,))
        index, message = answer
        if isinstance(message, Malformed):
            raise Abort(f"{sender} sent a malformed {form.kind}: {message.detail}")
        return index, message

    async def arrival(self, *inboxes: Inbox[Any], timeout_s: float | None = None) -> Arrival | None:
        """The next message of any of the inboxes, each once, in order of arrival; None in time.

        For asynchronous protocols, which read "upon receiving ... do ...".
        """
        answer: Arrival | None = await _Await(Upon(self.label, inboxes, timeout_s))
        return answer

    async def par(self, *coroutines: Coroutine[Any, Any, Any]) -> tuple[Any, ...]:
        """Run coroutines side by side; the first that fails ends all the others."""
        answer: tuple[Any, ...] = await _Await(Join(coroutines))
        return answer

    async def race(self, *coroutines: Coroutine[Any, Any, Any]) -> tuple[int, Any]:
        """Run coroutines side by side until one ends or fails, which ends all the others.

        Gives the place of the one that ended, and its result.
        """
        answer: tuple[int, Any] = await _Await(Join(coroutines, first=True))
        return answer

    async def beside(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Start a coroutine that runs until the caller's ends; where it fails, the caller fails."""
        await _Await[None](Join((coroutine,), aside=True))

    async def sleep(self, seconds: float) -> None:
        """Wait on the party's own clock."""
        await _Await[None](Sleep(seconds))

    def window(self, path: Path, low: tuple[int, ...], high: tuple[int, ...] | None = None) -> None:
        """From now on only labels ``self.label`` + ``path`` with low <= indices <= high matter.

        Lower ones are forgotten and counted as late, higher ones refused: a peer cannot fill this
        party's memory with the future, nor replay the past.
        """
        self._port.window(self.label, path, low, high)

    def ahead(self, path: Path) -> tuple[str, ...]:
        """Who has sent something above the window since it last moved, in order of names."""
        return self._port.ahead(self.label, path)

    async def _receive(
        self,
        form: Form[M],
        senders: tuple[str, ...],
        need: int,
        timeout_s: float | None,
        grace_s: float,
    ) -> Gathered[M]:
        if len(set(senders)) != len(senders):
            raise ValueError("a sender is named twice")
        request = Receive(self.label, form, senders, need, timeout_s, grace_s)
        answer: Gathered[M] = await _Await(request)
        return answer


Program = Callable[[Net], Coroutine[Any, Any, Any]]
"""A party's whole life, before it is given its network."""

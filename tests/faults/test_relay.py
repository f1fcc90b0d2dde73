"""Two parties that can only dial out, and a relay that sees nothing and can only break things.

Invariant: whatever the relay does with the bytes, what arrives is what was sent, or nothing.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from ostraka.drivers import relay
from ostraka.drivers.frames import Type
from ostraka.drivers.node import Ended, Node, Patience, Talker
from ostraka.drivers.relay import Bridge, Relay, through
from ostraka.drivers.security import Plain
from ostraka.drivers.tcp import Peer, Transport, to_address
from ostraka.drivers.tls import PinnedTls
from ostraka.net import Net, Program, Timeout
from tests.conformance.messages import WORD, Block, Word
from tests.conformance.worlds import CONTEXT, LIMITS, QUICK, identity
from tests.faults.host import WAIT_S, Raw

D = 50_000
EXPECTS = {"Word": WORD.max_bytes, "Block": Block.form(d=D).max_bytes}
SENT = np.arange(D, dtype=np.float32)
ROUNDS = 6


async def asks(net: Net, deadline_s: float = 4.0) -> Any:
    """Like a server's round: it waits until a deadline."""
    total = 0
    for index in range(ROUNDS):
        scope = net.sub("round", index)
        scope.send("b", Block(SENT + index))
        total += (await scope.recv(WORD, "b", timeout_s=deadline_s)).value
    return total


async def answers(net: Net) -> Any:
    seen = []
    for index in range(ROUNDS):
        scope = net.sub("round", index)
        block = await scope.recv(Block.form(d=D), "a")
        seen.append(bool(np.array_equal(block.data, SENT + index)))
        scope.send("a", Word(index))
    return seen


class Bench:
    """A relay in a thread, and two nodes that know only its address."""

    def __init__(self, folder: Path, copied: Callable[[str, str, bytes], bytes]) -> None:
        self.folder = folder
        self.events: list[dict[str, Any]] = []
        self.own = {name: identity(folder, name) for name in ("a", "b", "r", "x")}
        self.relay = Relay(
            frozenset({frozenset("ab")}),
            PinnedTls(self.own["r"], self.pins("a", "b")),
            context=CONTEXT,
            details=b"",
            trace=self.trace("r"),
            copied=copied,
        )

    def trace(self, of: str) -> Any:
        return lambda event, **fields: self.events.append({"event": event, "of": of, **fields})

    def pins(self, *names: str) -> dict[str, bytes]:
        return {name: self.own[name].public for name in names}

    def node(self, me: str, other: str, program: Any, port: int, wait_s: float = 20.0) -> Node:
        security = PinnedTls(self.own[me], self.pins("r"))
        reach = through(to_address(("127.0.0.1", port)), security, "r", other, CONTEXT)
        peers = {other: Peer(other, EXPECTS, reach, accepting=me < other)}
        return Node(
            me,
            program,
            lambda handlers: Transport(
                me,
                peers,
                PinnedTls(self.own[me], self.pins(other)),
                handlers,
                context=CONTEXT,
                times=QUICK,
            ),
            patience=Patience(needs=1, join_s=wait_s, give_up_s=wait_s, linger_s=2.0),
            trace=self.trace(me),
            limits=LIMITS,
        )

    def run(self, wait_s: float = 20.0, asks: Program = asks) -> dict[str, Ended]:
        ended: dict[str, Ended] = {}
        with Talker(lambda error: self.events.append({"event": "bug", "why": error})) as talker:
            port = talker.run(self.relay.start(("127.0.0.1", 0)))
            nodes = [
                self.node("a", "b", asks, port, wait_s),
                self.node("b", "a", answers, port, wait_s),
            ]

            def live(node: Node, name: str) -> None:
                ended[name] = node.run()

            threads = [
                threading.Thread(target=live, args=(node, name))
                for node, name in zip(nodes, "ab", strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            talker.run(self.relay.stop())
        self.heard = [node.heard for node in nodes]
        return ended


@pytest.mark.slow
def test_the_relay_carries_everything_and_sees_nothing(tmp_path: Path) -> None:
    passed: list[bytes] = []

    def listen(sender: str, to: str, chunk: bytes) -> bytes:
        passed.append(chunk)
        return chunk

    bench = Bench(tmp_path, listen)
    ended = bench.run()
    assert ended["a"].result == sum(range(ROUNDS))
    assert ended["b"].result == [True] * ROUNDS
    last = (("round", ROUNDS - 1),)
    assert bench.heard == [{"b": last}, {"a": last}]

    seen = b"".join(passed)
    assert len(seen) > ROUNDS * SENT.nbytes
    for plain in (b"OSTK", b"round", b"Block", SENT[1000:1008].tobytes(), CONTEXT):
        assert plain not in seen


def alter(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


class Liar:
    """Does something to the third large chunk from a, or to every one after it."""

    def __init__(self, lie: str, always: bool) -> None:
        self.lie, self.always = lie, always
        self.count = 0
        self.before = b""

    def __call__(self, sender: str, to: str, chunk: bytes) -> bytes:
        if sender != "a" or len(chunk) < 10_000:
            return chunk
        self.count += 1
        before, self.before = self.before, chunk
        if self.count < 3 or (self.count > 3 and not self.always):
            return chunk
        match self.lie:
            case "drop":
                return b""
            case "replay":
                return chunk + chunk
            case "old":
                return before
            case "reorder":
                half = len(chunk) // 2
                return chunk[half:] + chunk[:half]
            case _:
                return alter(chunk)


@pytest.mark.slow
@pytest.mark.parametrize("lie", ["drop", "replay", "old", "reorder", "alter"])
def test_a_lie_is_noticed_and_mended_by_a_new_connection(tmp_path: Path, lie: str) -> None:
    bench = Bench(tmp_path, Liar(lie, always=False))
    ended = bench.run()
    assert ended["a"].result == sum(range(ROUNDS))
    assert ended["b"].result == [True] * ROUNDS
    told = [e for e in bench.events if e["event"] == "disconnected" and e["of"] in "ab"]
    assert told, "somebody must have noticed"
    assert not [e for e in bench.events if e["event"] == "bug"]


@pytest.mark.slow
def test_a_relay_that_always_lies_ends_at_the_deadline_and_changes_nothing(tmp_path: Path) -> None:
    impatient = partial(asks, deadline_s=1.5)
    ended = Bench(tmp_path, Liar("alter", always=True)).run(1.5, impatient)
    assert ended["a"].status == "failed"
    assert isinstance(ended["a"].error, Timeout)
    assert ended["b"].status == "alone"


@pytest.mark.slow
def test_a_stranger_gets_no_bridge(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda sender, to, chunk: chunk)
    with Talker(lambda error: None) as talker:
        port = talker.run(bench.relay.start(("127.0.0.1", 0)))
        ended = bench.node("x", "b", asks, port, wait_s=1.5).run()
        talker.run(bench.relay.stop())
    assert ended.status in ("alone", "refused")
    assert any("certificate refused" in e.get("why", "") for e in bench.events if e["of"] == "r")


def test_no_session_is_resumed(tmp_path: Path) -> None:
    """Every connection proves its key anew: the accepting side gives no tickets."""
    own = {name: identity(tmp_path, name) for name in "ab"}
    ends = socket.socketpair()
    secured: list[ssl.SSLSocket] = []

    async def accept() -> None:
        ends[0].setblocking(False)
        found, name = await PinnedTls(own["a"], {"b": own["b"].public}).accept(ends[0])
        found.send(b"x" if name == "b" else b"?")
        secured.append(found)  # type: ignore[arg-type]

    async def dial() -> None:
        ends[1].setblocking(False)
        found = await PinnedTls(own["b"], {"a": own["a"].public}).dial(ends[1], "a")
        secured.append(found)  # type: ignore[arg-type]

    with Talker(lambda error: None) as one, Talker(lambda error: None) as two:
        thread = threading.Thread(target=one.run, args=(accept(),))
        thread.start()
        two.run(dial())
        thread.join(WAIT_S)
    with secured[0] as first, secured[1] as second:
        client = second if first.server_side else first
        client.setblocking(True)
        assert client.recv(1) == b"x", "a ticket would have come before it"
        assert client.session is None or not client.session.has_ticket


# --- who gets a bridge: names are believed here, so that the parties are played by hand -----------


class Known(Plain):
    """Whose connection it is stands in a list of their ports, as if its key had been shown."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}

    async def accept(self, sock: socket.socket) -> tuple[socket.socket, str | None]:
        return sock, self.names[sock.getpeername()[1]]


class Crossing:
    """A relay for a-b and a-c, where anybody can be played."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._bugs: list[BaseException] = []
        self._security = Known()
        self._stack = ExitStack()
        self.relay = Relay(
            frozenset({frozenset("ab"), frozenset("ac")}),
            self._security,
            context=CONTEXT,
            details=b"of the relay",
            trace=lambda event, **fields: self.events.append({"event": event, **fields}),
        )

    def __enter__(self) -> Self:
        self._talker = self._stack.enter_context(Talker(self._bugs.append))
        self._port = self._talker.run(self.relay.start(("127.0.0.1", 0)))
        self._stack.callback(lambda: self._talker.run(self.relay.stop()))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        assert self._bugs == []

    def connect(self, me: str) -> Raw:
        """A connection of this party, which says nothing yet."""
        sock = self._stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        self._security.names[sock.getsockname()[1]] = me
        sock.connect(("127.0.0.1", self._port))
        return Raw(sock, me)

    def ask(self, me: str, to: str, context: bytes = CONTEXT) -> Raw:
        raw = self.connect(me)
        raw.say(Type.HELLO, body=Bridge(to, context).encode())
        return raw

    def wait_in_line(self, me: str, to: str) -> Raw:
        """Ask, and be the one who waits for the other."""
        before = self.relay._waiting.get((me, to))
        raw = self.ask(me, to)
        self.until(lambda: self.relay._waiting.get((me, to)) not in (None, before))
        return raw

    def bridge(self, me: str, to: str) -> tuple[Raw, Raw]:
        first = self.wait_in_line(me, to)
        return first, self.welcomed(first, self.ask(to, me))

    def welcomed(self, first: Raw, second: Raw) -> Raw:
        """Both have their bridge, and it carries what one of them says; gives the second."""
        first.hear(Type.WELCOME)
        second.hear(Type.WELCOME)
        first.sock.sendall(b"hello")
        assert second.sock.recv(5, socket.MSG_WAITALL) == b"hello"
        return second

    def until(self, happened: Callable[[], bool]) -> None:
        for _ in range(int(WAIT_S / 0.005)):
            if happened():
                return
            time.sleep(0.005)
        raise AssertionError(f"it did not happen: {self.events[-10:]}")


@pytest.fixture
def crossing() -> Iterator[Crossing]:
    with Crossing() as running:
        yield running


@pytest.mark.parametrize(("me", "to"), [("b", "c"), ("a", "a"), ("a", "x"), ("x", "a"), ("a", "")])
def test_who_has_no_business_with_another_gets_no_bridge(
    crossing: Crossing, me: str, to: str
) -> None:
    refusal = crossing.ask(me, to).refusal()
    assert (refusal.code, refusal.details) == ("policy", b"")
    assert refusal.text == f"{me} has nobody of that name to meet here"
    crossing.until(lambda: bool(crossing.events))
    assert crossing.events[0]["why"] == refusal.text
    assert crossing.relay._waiting == {}


def test_another_federation_file_gets_no_bridge_and_hears_the_relay_s(crossing: Crossing) -> None:
    refusal = crossing.ask("a", "b", context=b"x" * 32).refusal()
    assert (refusal.code, refusal.details) == ("configuration", b"of the relay")
    assert refusal.text == "the federation files differ"
    crossing.bridge("a", "b")


def test_a_pair_s_newer_bridge_ends_the_older_and_no_other(crossing: Crossing) -> None:
    old = crossing.bridge("a", "b")
    others = crossing.bridge("a", "c")
    new = crossing.bridge("b", "a")
    assert all(raw.sock.recv(1) == b"" for raw in old)
    for first, second in (others, new):
        second.sock.sendall(b"still")
        assert first.sock.recv(5, socket.MSG_WAITALL) == b"still"


def test_who_asks_too_often_is_refused_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "BRIDGES_AT_ONCE", 3.0)
    monkeypatch.setattr(relay, "BRIDGES_A_SECOND", 0.001)
    with Crossing() as crossing:
        for _ in range(3):
            crossing.wait_in_line("a", "b")
        refusal = crossing.ask("a", "b").refusal()
        assert (refusal.code, refusal.text) == ("busy", "a asks for bridges too often")
        assert crossing.ask("b", "a").refusal().code == "busy", "a pair has one pace"
        crossing.bridge("a", "c")


def test_who_waits_for_the_other_is_no_stranger(crossing: Crossing) -> None:
    """Those who come later and say nothing cannot push it out."""
    crossing.relay._door._most = 2
    waiting = crossing.wait_in_line("a", "b")
    silent = [crossing.connect("c") for _ in range(4)]
    for raw in silent[:2]:
        assert raw.ended(), "the oldest stranger goes first"
    crossing.welcomed(waiting, crossing.ask("b", "a"))

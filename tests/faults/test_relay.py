"""Two parties that can only dial out, and a relay that sees nothing and can only break things.

Invariant: whatever the relay does with the bytes, what arrives is what was sent, or nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ostraka.drivers.node import Ended, Node, Patience, Talker
from ostraka.drivers.relay import Relay, through
from ostraka.drivers.tcp import Peer, Transport, to_address
from ostraka.drivers.tls import PinnedTls
from ostraka.net import Net, Timeout
from tests.conformance.test_transports import WORD, Block, Word
from tests.conformance.worlds import CONTEXT, LIMITS, QUICK, identity

D = 50_000
EXPECTS = {"Word": WORD.max_bytes, "Block": Block.form(d=D).max_bytes}
SENT = np.arange(D, dtype=np.float32)
ROUNDS = 6


async def asks(net: Net) -> Any:
    """Like a server's round: it waits until a deadline."""
    total = 0
    for index in range(ROUNDS):
        scope = net.sub("round", index)
        scope.send("b", Block(SENT + index))
        total += (await scope.recv(WORD, "b", timeout_s=4.0)).value
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

    def run(self, wait_s: float = 20.0) -> dict[str, Ended]:
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
        return ended


@pytest.mark.slow
def test_the_relay_carries_everything_and_sees_nothing(tmp_path: Path) -> None:
    passed: list[bytes] = []

    def listen(sender: str, to: str, chunk: bytes) -> bytes:
        passed.append(chunk)
        return chunk

    ended = Bench(tmp_path, listen).run()
    assert ended["a"].result == sum(range(ROUNDS))
    assert ended["b"].result == [True] * ROUNDS

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
    ended = Bench(tmp_path, Liar("alter", always=True)).run(wait_s=2.0)
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

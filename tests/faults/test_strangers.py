"""However many strangers knock, honest parties are served within 3 s and go on undisturbed."""

import json
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ostraka.drivers.door import CROWDED, Door, _stranger_cap
from ostraka.drivers.frames import Type, pack
from ostraka.drivers.identity import Identity, create
from ostraka.drivers.security import Plain, Security
from ostraka.drivers.tcp import Peer, Times, to_address
from ostraka.drivers.teller import NAMES_TOLD, REASONS_TOLD, Teller
from ostraka.drivers.tls import PinnedTls
from tests.faults.host import EXPECTS, LOOPS, QUICK, Host, Raw, descriptors

ROOT = Path(__file__).parents[2]
SERVED_WITHIN_S = 3.0  # what is promised


@pytest.fixture(params=sorted(LOOPS))
def loop(request: Any) -> str:
    return request.param


@dataclass
class Town:
    """a is besieged; b and c are honest."""

    identities: dict[str, Identity]

    def security(self, me: str) -> Security:
        if not self.identities:
            return Plain()
        pins = {name: own.public for name, own in self.identities.items() if name != me}
        return PinnedTls(self.identities[me], pins)

    def guest(self, me: str, port: int, loop: str) -> Host:
        peers = {"a": Peer("a", EXPECTS, to_address(("127.0.0.1", port)))}
        return Host(me, peers, security=self.security(me), loop=loop, listen=None)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Town:
    folder = tmp_path_factory.mktemp("identities")
    return Town({name: create(name, folder / f"{name}.pem") for name in "abc"})


@contextmanager
def process(module: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", f"tests.faults.{module}", *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            if running.stdin and not running.stdin.closed:
                running.stdin.close()
            try:
                running.wait(10)
            finally:
                running.kill()


@contextmanager
def flood(port: int, kind: str, count: int = 0) -> Iterator[None]:
    with process("flood", port, kind, count) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        yield


def exchange(a: Host, guest: Host) -> None:
    """A frame each way."""
    index = 1 + max(a.rounds(guest.me), default=0)
    guest.post("a", index, b"update")
    a.post(guest.me, index, b"model")
    a.wait(lambda: index in a.rounds(guest.me) and index in guest.rounds("a"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count", "plain"),
    [
        ("silent", 1500, False),
        ("half", 600, False),
        ("slow", 300, False),
        ("garbage", 0, False),
        ("frames", 0, True),
        ("silent", 1500, True),
    ],
)
def test_honest_parties_are_served_under_a_flood(
    tls: Town, loop: str, kind: str, count: int, plain: bool
) -> None:
    town = Town({}) if plain else tls
    peers = {name: Peer(name, EXPECTS) for name in "bc"}
    with (
        Host("a", peers, security=town.security("a"), loop=loop) as a,
        town.guest("c", a.port, loop) as c,
    ):
        exchange(a, c)
        before = descriptors()
        with flood(a.port, kind, count):
            begin = time.monotonic()
            with town.guest("b", a.port, loop) as b:
                exchange(a, b)
                served_s = time.monotonic() - begin
                for _ in range(5):
                    exchange(a, c)
            time.sleep(0.5)
            exchange(a, c)
        assert served_s < SERVED_WITHIN_S
        assert c.told("disconnected") == []
        assert a.refusals == []
        refused = sum(
            max(e["count"] for e in a.told("refused") if e["why"] == why)
            for why in set(a.why("refused"))
        )
        assert refused >= (100 if kind != "slow" else 20), "the flood was one"
        lines = len(a.told("refused")) + len(a.told("refused-by"))
        assert lines < 100, "what strangers do fills no log"
        a.wait(lambda: descriptors() <= before, "every stranger's descriptor is closed")


@pytest.mark.slow
def test_descriptors_run_out_and_honest_parties_are_served(tls: Town, loop: str) -> None:
    """The limit is reached before there are too many strangers; those who wait longest go."""
    keys = [f"{name}={tls.identities[name].public.hex()}" for name in "bc"]
    with process("cramped", tls.identities["a"].path, 16, *keys) as cramped:
        assert cramped.stdout is not None
        assert cramped.stdin is not None
        port = int(cramped.stdout.readline())
        with tls.guest("c", port, loop) as c, flood(port, "silent", 300):
            c.post("a", 1)
            c.wait(lambda: c.rounds("a") == [1])
            begin = time.monotonic()
            with tls.guest("b", port, loop) as b:
                b.post("a", 1)
                b.wait(lambda: b.rounds("a") == [1])
                assert time.monotonic() - begin < SERVED_WITHIN_S
            c.post("a", 2)
            c.wait(lambda: c.rounds("a") == [1, 2])
            assert c.told("disconnected") == []
        cramped.stdin.close()
        told = json.loads(cramped.stdout.readline())
        why = {event["why"] for event in told if event["event"] == "refused"}
        assert {"cannot accept: Too many open files", CROWDED} <= why
        assert len(told) < 100
        assert cramped.wait(10) == 0


@pytest.mark.slow
def test_the_oldest_stranger_goes_first(loop: str) -> None:
    with Host("a", {"b": Peer("b", EXPECTS)}, loop=loop, times=Times(handshake_s=30)) as a:
        door = a.transport._door
        door._most = 3
        first = Raw.to_port(a.port)
        a.wait(lambda: len(door._strangers) == 1)
        honest = Raw.to_port(a.port).greet()
        a.wait(lambda: a.transport.connected)
        others = [Raw.to_port(a.port) for _ in range(3)]
        assert first.ended()
        a.wait(lambda: a.why("refused") == [CROWDED])
        honest.data(1)
        a.wait(lambda: a.rounds("b") == [1])
        others[0].greet()
        assert honest.ended(), "the oldest that is left is no stranger any more, but the same party"
        for raw in (first, honest, *others):
            raw.sock.close()


@pytest.mark.slow
def test_who_stops_in_the_middle_of_the_greeting_is_closed_in_time(loop: str) -> None:
    times = Times(handshake_s=0.3)
    with Host("a", {"b": Peer("b", EXPECTS)}, loop=loop, times=times) as a:
        stream = b"".join(pack(Type.HELLO, body=bytes(100)))
        begin = time.monotonic()
        raws = [Raw.to_port(a.port) for _ in range(4)]
        for raw, count in zip(raws, (0, 3, 60, len(stream) - 1), strict=True):
            raw.sock.sendall(stream[:count])
        for raw in raws:
            assert raw.ended()
            raw.sock.close()
        assert time.monotonic() - begin < 2
        assert set(a.why("refused")) == {"it did not say who it is in time"}


@pytest.mark.slow
def test_a_known_peer_that_stops_in_the_middle_of_a_frame_holds_nobody(loop: str) -> None:
    with Host("a", {name: Peer(name, EXPECTS) for name in "bc"}, loop=loop) as a:
        with Raw.to_port(a.port).greet() as b, Raw.to_port(a.port, me="c").greet() as c:
            stream = b"".join(pack(Type.DATA, **b.fields(1, bytes(10_000_000), kind="Block")))
            b.sock.sendall(stream[:1_000_000])
            c.data(1)
            a.wait(lambda: a.rounds("c") == [1])
            a.wait(lambda: a.told("disconnected"))
            assert a.why("disconnected")[0] == "nothing was heard for too long"
        assert a.rounds("b") == []


@pytest.mark.slow
def test_a_known_peer_that_floods_costs_no_memory_and_holds_nobody(loop: str) -> None:
    """Repeated and empty frames without end: c still gets its turn."""
    with Host("a", {name: Peer(name, EXPECTS) for name in "bc"}, loop=loop) as a:
        with Raw.to_port(a.port).greet() as b, Raw.to_port(a.port, me="c").greet() as c:
            b.data(1)
            again = b"".join(pack(Type.DATA, **b.fields(1))) * 500
            b.sock.settimeout(0.01)
            for index in range(1, 20):
                for _ in range(20):
                    try:
                        b.sock.sendall(again)
                    except TimeoutError:
                        break
                c.data(index)
            a.wait(lambda: a.rounds("c") == list(range(1, 20)))
        assert a.rounds("b") == [1]


def test_what_is_told_is_bounded_whatever_the_names(loop: str) -> None:
    """A million strangers from as many addresses are some lines, and some kilobytes."""
    lines: list[dict[str, Any]] = []
    rng = random.Random(3)

    async def tell() -> None:
        teller = Teller(lambda event, **fields: lines.append(fields))
        for _ in range(10_000):
            teller("refused", f"2001:db8::{rng.getrandbits(32):x}:{rng.randrange(65536)}", "why")
        assert len(teller._told) <= NAMES_TOLD + 1
        before = len(lines)
        for number in range(1000):
            teller("refused", "10.0.0.1:9", f"'{number}' is no party")
        assert len(lines) - before < 20

    made = LOOPS[loop]()
    made.run_until_complete(tell())
    made.close()
    assert len(lines) < NAMES_TOLD + 40


def test_what_is_told_of_one_name_is_bounded_whatever_the_reasons(loop: str) -> None:
    lines: list[str] = []

    async def tell() -> None:
        teller = Teller(lambda event, **fields: lines.append(fields["why"]))
        for number in range(1000):
            teller("refused", "10.0.0.1:9", f"'{number}' is no party")
            teller("refused", "b", "the same reason")

    made = LOOPS[loop]()
    made.run_until_complete(tell())
    made.close()
    assert lines.count("the same reason") == 10
    assert len(lines) == 10 + REASONS_TOLD + 10


def test_an_event_that_was_quiet_for_long_is_told_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[int] = []

    async def tell(gap_s: float) -> None:
        monkeypatch.setattr("ostraka.drivers.teller.QUIET_AFTER_S", gap_s)
        teller = Teller(lambda event, **fields: lines.append(fields["count"]))
        for _ in range(9):
            teller("refused", "b", "why")

    made = LOOPS["asyncio"]()
    made.run_until_complete(tell(60.0))
    assert lines == [1, 2, 4, 8]
    made.run_until_complete(tell(-1.0))
    made.close()
    assert lines[4:] == [1] * 9


@pytest.mark.parametrize(("limit", "known"), [(1024, 200), (1024, 10), (256, 40), (20_000, 200)])
def test_everybody_known_may_come_back_at_once(
    monkeypatch: pytest.MonkeyPatch, limit: int, known: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert known <= _stranger_cap(known) <= 256
    assert _stranger_cap(known) + 2 * known < limit
    assert _stranger_cap(10 * limit) == 16, "some must be, however few descriptors there are"


def test_a_door_that_cannot_open_says_so() -> None:
    async def answer(sock: socket.socket, address: str) -> None:
        sock.close()

    with socket.create_server(("127.0.0.1", 0)) as taken:
        door = Door(answer, lambda address, why: None, 1)
        made = LOOPS["asyncio"]()
        with pytest.raises(OSError, match="in use"):
            door.open(*taken.getsockname()[:2])
        made.run_until_complete(door.close())
        made.close()
    assert QUICK.quiet_s < SERVED_WITHIN_S

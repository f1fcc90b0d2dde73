"""Known parties that do too much of what is allowed: they wait, and nobody else does.

Invariant: what one pinned peer costs is bounded by a pace, in frames and in connections, whatever
it sends; the others are served meanwhile.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from ostraka.drivers import channel, tcp
from ostraka.drivers.frames import FrameReader, Packet, Type, pack
from ostraka.drivers.pace import Tempo
from ostraka.drivers.security import Plain
from ostraka.drivers.tcp import Peer, to_address
from tests.faults.host import EXPECTS, LOOPS, WAIT_S, Host, Raw

AT_ONCE, A_SECOND = 50, 100
FLOOD = 4000
BLOCK = bytes(4_000_000)


@pytest.fixture(params=sorted(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_turn_reads_few_frames_however_many_are_there(loop: str) -> None:
    """What is there already is read in turns, so that others get theirs between."""
    came: list[Packet] = []
    ends = socket.socketpair()
    ends[1].sendall(b"".join(pack(Type.ALIVE)) * 100)

    async def read() -> int:
        ends[0].setblocking(False)
        reader = channel.Channel(
            ends[0],
            FrameReader(lambda type, kind: 0),
            source=list,
            on_packet=came.append,
            on_violation=lambda violation: None,
            on_end=lambda error: None,
        )
        reader._readable()
        first = len(came)
        async with asyncio.timeout(WAIT_S):
            while len(came) < 100:
                await asyncio.sleep(0)
        reader.close()
        return first

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner, ends[1]:
        assert runner.run(read()) == channel.TURN_PACKETS < 100


@contextmanager
def flooding(raw: Raw) -> Iterator[None]:
    """Thousands of tiny new frames, as fast as they are read; ends when the connection does."""
    stream = b"".join(b"".join(pack(Type.DATA, **raw.fields(i))) for i in range(1, FLOOD + 1))

    def send() -> None:
        with suppress(OSError):  # it is closed at the end of the test
            raw.sock.sendall(stream)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        raw.sock.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.slow
def test_tiny_frames_are_read_no_faster_than_the_pace(loop: str) -> None:
    tempo = Tempo(A_SECOND, AT_ONCE)
    peers = {"b": Peer("b", EXPECTS, tempo=tempo), "c": Peer("c", EXPECTS)}
    with (
        Host("a", peers, loop=loop) as a,
        Raw.to_port(a.port).greet() as b,
        Raw.to_port(a.port, me="c").greet() as c,
    ):
        begin = time.monotonic()
        with flooding(b):
            blocks = 0
            while time.monotonic() - begin < 0.6:
                blocks += 1
                c.data(blocks, BLOCK, kind="Block")
                a.wait(lambda blocks=blocks: len(a.rounds("c")) == blocks, "a large frame")
            came = a.rounds("b")
            elapsed_s = time.monotonic() - begin
            most = AT_ONCE + A_SECOND * elapsed_s + channel.TURN_PACKETS
            assert len(came) <= most
            a.wait(lambda: len(a.rounds("b")) > most, "reading on after the rest")
            assert came == list(range(1, len(came) + 1)), "late, and none is lost"
            assert a.told("disconnected") == []


class Believing(Plain):
    """Whoever connects is b, as if b's key had been shown."""

    async def accept(self, sock: socket.socket) -> tuple[socket.socket, str | None]:
        return sock, "b"


def refused(port: int) -> bool:
    """Whether a further connection of b is closed before anything is said."""
    with Raw.to_port(port) as raw:
        try:
            raw.greet()
        except (AssertionError, ConnectionError):
            return True
        return False


@pytest.mark.slow
def test_a_peer_that_connects_again_and_again_is_refused_and_may_come_later(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "CONNECTIONS_AT_ONCE", 3.0)
    monkeypatch.setattr(tcp, "CONNECTIONS_A_SECOND", 10.0)
    own = {"b": Peer("b", EXPECTS)}
    with Host("a", own, loop=loop, security=Believing()) as a:
        assert not any(refused(a.port) for _ in range(3))
        assert any(refused(a.port) for _ in range(200))
        a.wait(lambda: "b connects too often" in a.why("refused"))
        peers = {"a": Peer("a", EXPECTS, to_address(("127.0.0.1", a.port)))}
        with Host("b", peers, loop=loop, listen=None) as b:
            b.wait(lambda: b.transport.connected, "coming back")
            b.post("a", 1)
            a.wait(lambda: a.rounds("b") == [1])

"""What only real sockets can show: deaths, cut connections, long silence, slow readers."""

import time
from typing import Any

import numpy as np
import pytest

from ostraka.drivers.link import Bounds
from ostraka.drivers.proxy import Faults
from ostraka.drivers.tcp import Times
from ostraka.mailbox import Limits
from ostraka.net import Net
from tests.conformance.messages import EXPECTS, TRIO, WORD, Block, Word, others
from tests.conformance.worlds import SOCKETS, Killed, Sockets


@pytest.fixture(params=sorted(SOCKETS))
def sockets(request: Any, tmp_path: Any) -> Any:
    """Makes a world of real sockets, with faults or other times."""
    return lambda **options: SOCKETS[request.param](tmp_path, **options)


@pytest.mark.slow
def test_a_party_that_restarts_gets_what_still_matters(sockets: Any) -> None:
    """b dies after round 2, knowing nothing but what it stored: that rounds 0 and 1 are over."""
    lives: list[int] = []

    async def server(net: Net) -> Any:
        total = 0
        for index in range(6):
            net.window(("round",), (index,), None)
            scope = net.sub("round", index)
            scope.broadcast(others(net), Word(index))
            got = await scope.gather(WORD, others(net))
            total += sum(m.value for m in got.messages.values())
        return total

    async def worker(net: Net) -> Any:
        if net.me == "b":
            lives.append(len(lives))
        begin = 2 if net.me == "b" and len(lives) > 1 else 0
        seen = []
        for index in range(begin, 6):
            scope = net.sub("round", index)
            seen.append((await scope.recv(WORD, "a")).value)
            if index == 2 and lives == [0] and net.me == "b":
                raise Killed
            scope.send("a", Word(index))
        return seen

    came = sockets().run({"a": server, "b": worker, "c": worker}, EXPECTS)
    assert came.result == {"a": 2 * 15, "b": [2, 3, 4, 5], "c": [0, 1, 2, 3, 4, 5]}
    assert lives == [0, 1]


@pytest.mark.slow
def test_connections_that_are_cut_again_and_again_lose_nothing(sockets: Any) -> None:
    """Nor is anything doubled or out of order; a cut comes in the middle of frames too."""
    d = 30_000

    async def program(net: Net) -> Any:
        sums = []
        for index in range(40):
            scope = net.sub("round", index)
            value = np.full(d, 100 * index + TRIO.index(net.me), np.float32)
            scope.broadcast(others(net), Block(value))
            got = await scope.gather(Block.form(d=d), others(net))
            sums.append([int(m.data.min()) for m in got.messages.values()])
            assert all(m.data.min() == m.data.max() for m in got.messages.values())
        return sums

    world: Sockets = sockets(
        faults=Faults(cut_chance=0.03), times=Times(retry_s=0.01, retry_most_s=0.05)
    )
    came = world.run(dict.fromkeys(TRIO, program), EXPECTS)
    for me, name in enumerate(TRIO):
        rest = [i for i in range(3) if i != me]
        assert came.result[name] == [[100 * index + i for i in rest] for index in range(40)]
    assert world.cuts > 10
    assert came.told("dropped") == []
    assert came.told("overflow") == []


@pytest.mark.slow
def test_a_program_that_computes_for_long_keeps_its_connections(sockets: Any) -> None:
    async def busy(net: Net) -> Any:
        net.send("b", Word(1))
        time.sleep(1.2)  # a training step: nothing of this thread runs meanwhile
        return (await net.recv(WORD, "b")).value

    async def waiting(net: Net) -> Any:
        value = (await net.recv(WORD, "a")).value
        net.send("a", Word(value + 1))
        await net.sleep(0.8)
        return value

    world = sockets(times=Times(heartbeat_s=0.1, quiet_s=0.5))
    came = world.run({"a": busy, "b": waiting}, EXPECTS)
    assert came.result == {"a": 2, "b": 1}
    lost = [e["why"] for e in came.told("disconnected")]
    assert set(lost) <= {"this side has left", "the other side has left"}


@pytest.mark.slow
def test_who_reads_slowly_slows_its_sender_and_loses_nothing(sockets: Any) -> None:
    """20 MB against an inbox of 2 MB: the rest waits at the sender, on the same connection."""
    d, count = 125_000, 40

    async def sender(net: Net) -> Any:
        for index in range(count):
            net.sub("round", index).send("b", Block(np.full(d, index, np.float32)))
        return (await net.recv(WORD, "b")).value

    async def receiver(net: Net) -> Any:
        time.sleep(1.0)
        found = [
            int((await net.sub("round", index).recv(Block.form(d=d), "a")).data[-1])
            for index in range(count)
        ]
        net.send("a", Word(1))
        return found

    world = sockets(
        times=Times(heartbeat_s=0.1, quiet_s=0.5), bounds=Bounds(frames=count, bytes=1 << 25)
    )
    limits = Limits(unread_frames=4, unread_bytes=1 << 20, frame_bytes=1 << 20)
    came = world.run({"a": sender, "b": receiver}, EXPECTS, limits)
    assert came.result == {"a": 1, "b": list(range(count))}
    assert came.told("dropped") == []
    assert world.pauses >= 1

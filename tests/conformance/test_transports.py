"""One suite that every network passes: what a protocol may rely on, whoever carries its frames."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest

from ostraka.net import Abort, Net, Timeout
from ostraka.wire import Array, Index, Message, Tensor
from tests.conformance.worlds import WORLDS, World


@dataclass(frozen=True)
class Word(Message):
    value: Index


@dataclass(frozen=True)
class Block(Message):
    data: Annotated[Array, Tensor("float32", ("d",))]


WORD = Word.form()
EXPECTS = {"Word": WORD.max_bytes, "Block": Block.form(d=2_000_000).max_bytes}
TRIO = ("a", "b", "c")


@pytest.fixture(params=sorted(WORLDS))
def world(request: Any, tmp_path: Any) -> World:
    return WORLDS[request.param](tmp_path)


def others(net: Net) -> tuple[str, ...]:
    return tuple(name for name in TRIO if name != net.me)


@pytest.mark.slow
def test_everybody_hears_everybody(world: World) -> None:
    async def program(net: Net) -> Any:
        total = 0
        for index in range(20):
            scope = net.sub("round", index)
            scope.broadcast(others(net), Word(TRIO.index(net.me) + 10 * index))
            got = await scope.gather(WORD, others(net))
            total += sum(m.value for m in got.messages.values())
        return total

    came = world.run(dict.fromkeys(TRIO, program), EXPECTS)
    assert came.result == {"a": 3 * 20 + 3800, "b": 2 * 20 + 3800, "c": 1 * 20 + 3800}
    assert set(came.status.values()) == {"done"}


@pytest.mark.slow
def test_a_large_array_arrives_as_it_was_sent(world: World) -> None:
    d = 2_000_000
    sent = np.random.default_rng(5).standard_normal(d).astype(np.float32)

    async def sender(net: Net) -> Any:
        net.send("b", Block(sent))
        return (await net.recv(WORD, "b")).value

    async def receiver(net: Net) -> Any:
        block = await net.recv(Block.form(d=d), "a")
        net.send("a", Word(7))
        return block.data

    came = world.run({"a": sender, "b": receiver}, EXPECTS)
    assert came.result["a"] == 7
    assert np.array_equal(came.result["b"], sent)
    assert not came.result["b"].flags.writeable

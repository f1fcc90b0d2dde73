"""One suite that every network passes: what a protocol may rely on, whoever carries its frames."""

from typing import Any

import numpy as np
import pytest

from ostraka.net import Abort, Malformed, Net, Timeout
from tests.conformance.messages import EXPECTS, SMALL, TRIO, WORD, Block, Word, others
from tests.conformance.worlds import WORLDS, World


@pytest.fixture(params=sorted(WORLDS))
def world(request: Any, tmp_path: Any) -> World:
    return WORLDS[request.param](tmp_path)


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


@pytest.mark.slow
def test_frames_of_one_sender_arrive_in_its_order(world: World) -> None:
    """Once the last is here, all the others are, though nobody waited for them."""

    async def sender(net: Net) -> Any:
        for index in range(50):
            net.sub("round", index).send("b", Word(index))
        net.send("b", Word(99))
        await net.recv(WORD, "b")

    async def receiver(net: Net) -> Any:
        await net.recv(WORD, "a")
        net.send("a", Word(0))
        values = []
        for index in range(50):
            got = await net.sub("round", index).gather(WORD, ["a"], timeout_s=0.0)
            values += [m.value for m in got.messages.values()]
        return values

    assert world.run({"a": sender, "b": receiver}, EXPECTS).result["b"] == list(range(50))


@pytest.mark.slow
def test_the_last_words_of_a_program_arrive_though_it_ends_at_once(world: World) -> None:
    d = 1_000_000

    async def sender(net: Net) -> Any:
        await net.recv(WORD, "b")
        net.send("b", Block(np.ones(d, np.float32)))

    async def receiver(net: Net) -> Any:
        net.send("a", Word(0))
        return (await net.recv(Block.form(d=d), "a")).data.sum()

    assert world.run({"a": sender, "b": receiver}, EXPECTS).result["b"] == d


@pytest.mark.slow
def test_a_slot_holds_its_first_message(world: World) -> None:
    async def sender(net: Net) -> Any:
        for value in (1, 1, 2):
            net.send("b", Word(value))
        net.sub("end").send("b", Word(0))
        await net.sub("end").recv(WORD, "b")

    async def receiver(net: Net) -> Any:
        await net.sub("end").recv(WORD, "a")
        net.sub("end").send("a", Word(0))
        return (await net.recv(WORD, "a")).value

    came = world.run({"a": sender, "b": receiver}, EXPECTS)
    assert came.result["b"] == 1
    assert [e["why"] for e in came.told("dropped")] == ["duplicate", "conflict"]


@pytest.mark.slow
def test_a_gather_ends_at_its_deadline_and_names_who_is_missing(world: World) -> None:
    async def speaker(net: Net) -> Any:
        net.send("b", Word(5))
        await net.sub("end").recv(WORD, "b")

    async def silent(net: Net) -> Any:
        await net.sub("end").recv(WORD, "b")
        net.send("b", Word(6))

    async def receiver(net: Net) -> Any:
        got = await net.gather(WORD, others(net), timeout_s=0.5)
        net.sub("end").broadcast(others(net), Word(0))
        late = await net.gather(WORD, ["c"], timeout_s=0.2)
        return [{name: m.value for name, m in got.messages.items()}, got.missing, late.missing]

    came = world.run({"a": speaker, "b": receiver, "c": silent}, EXPECTS)
    assert came.result["b"] == [{"a": 5}, ("c",), ("c",)]


@pytest.mark.slow
def test_a_quorum_takes_those_who_come_within_its_grace(world: World) -> None:
    async def speaker(net: Net) -> Any:
        if net.me == "a":
            net.send("b", Word(1))
            await net.sub("end").recv(WORD, "b")
        else:
            net.send("b", Word(2))
            await net.sub("end").recv(WORD, "b")

    async def receiver(net: Net) -> Any:
        both = await net.quorum(WORD, others(net), 1, grace_s=1.0)
        net.sub("end").broadcast(others(net), Word(0))
        try:
            await net.sub("never").quorum(WORD, others(net), 1, timeout_s=0.1)
        except Timeout as timeout:
            return sorted(both.messages), both.missing, timeout.missing

    came = world.run({"a": speaker, "b": receiver, "c": speaker}, EXPECTS)
    assert came.result["b"] == (["a", "c"], (), ("a", "c"))


@pytest.mark.slow
def test_who_fell_behind_jumps_to_the_newest(world: World) -> None:
    async def sender(net: Net) -> Any:
        for index in range(6):
            net.sub("round", index).send("b", Word(index))
        net.send("b", Word(0))
        await net.sub("end").recv(WORD, "b")

    async def receiver(net: Net) -> Any:
        await net.recv(WORD, "a")
        at, word = await net.newest(WORD, "a", ("round",), after=(-1,))
        old = await net.sub("round", 2).gather(WORD, ["a"], timeout_s=0.0)
        net.sub("end").send("a", Word(0))
        return at, word.value, old.missing

    came = world.run({"a": sender, "b": receiver}, EXPECTS)
    assert came.result["b"] == ((5,), 5, ("a",))


@pytest.mark.slow
def test_what_lies_outside_a_window_is_dropped_and_told(world: World) -> None:
    async def sender(net: Net) -> Any:
        await net.sub("begin").recv(WORD, "b")
        for index in (1, 9, 4):
            net.sub("round", index).send("b", Word(index))
        net.sub("end").send("b", Word(0))
        await net.sub("end").recv(WORD, "b")

    async def receiver(net: Net) -> Any:
        net.window(("round",), (3,), (5,))
        net.sub("begin").send("a", Word(0))
        await net.sub("end").recv(WORD, "a")
        net.sub("end").send("a", Word(0))
        got = [
            sorted((await net.sub("round", index).gather(WORD, ["a"], timeout_s=0.0)).messages)
            for index in (1, 4, 9)
        ]
        return got, net.ahead(("round",))

    came = world.run({"a": sender, "b": receiver}, EXPECTS)
    assert came.result["b"] == ([[], ["a"], []], ("a",))
    assert [e["why"] for e in came.told("dropped")] == ["late", "early"]


@pytest.mark.slow
def test_an_abort_ends_one_party_and_no_other(world: World) -> None:
    async def aborts(net: Net) -> Any:
        await net.gather(WORD, others(net))
        raise Abort("a rule's bound failed")

    async def goes_on(net: Net) -> Any:
        net.send("a", Word(1))
        rest = tuple(name for name in ("b", "c") if name != net.me)
        net.sub("after").send(rest[0], Word(2))
        got = await net.sub("after").gather(WORD, ("a", *rest), timeout_s=0.5)
        return sorted(got.messages), got.missing

    came = world.run({"a": aborts, "b": goes_on, "c": goes_on}, EXPECTS)
    assert came.status == {"a": "failed", "b": "done", "c": "done"}
    assert came.error["a"].reason == "a rule's bound failed"
    assert came.result["b"] == (["c"], ("a",))
    assert came.result["c"] == (["b"], ("a",))


@pytest.mark.slow
def test_branches_of_a_protocol_meet_in_their_own_labels(world: World) -> None:
    async def branch(net: Net, value: int) -> int:
        net.broadcast(others(net), Word(value))
        got = await net.gather(WORD, others(net))
        return sum(m.value for m in got.messages.values())

    async def program(net: Net) -> Any:
        mine = TRIO.index(net.me)
        inner = net.sub("epoch", 1)
        return await net.par(
            branch(inner.sub("left"), mine), branch(inner.sub("right", 3), 10 * mine)
        )

    came = world.run(dict.fromkeys(TRIO, program), EXPECTS)
    assert came.result == {"a": (3, 30), "b": (2, 20), "c": (1, 10)}


@pytest.mark.slow
def test_a_body_that_is_too_long_is_malformed_and_the_run_goes_on(world: World) -> None:
    async def boaster(net: Net) -> Any:
        net.send("b", Block(np.zeros(50_000, np.float32)))
        net.sub("next").send("b", Block(np.ones(4, np.float32)))
        await net.sub("end").recv(WORD, "b")

    async def honest(net: Net) -> Any:
        net.send("b", Block(np.zeros(4, np.float32)))
        await net.sub("end").recv(WORD, "b")

    async def receiver(net: Net) -> Any:
        got = await net.gather(SMALL, others(net))
        after = await net.sub("next").recv(SMALL, "a")
        net.sub("end").broadcast(others(net), Word(0))
        return got.malformed, sorted(got.messages), after.data.sum()

    expects = EXPECTS | {"Block": SMALL.max_bytes}
    came = world.run({"a": boaster, "b": receiver, "c": honest}, expects)
    malformed, heard, total = came.result["b"]
    assert set(came.status.values()) == {"done"}
    assert isinstance(malformed["a"], Malformed)
    assert f"at most {SMALL.max_bytes} expected" in malformed["a"].detail
    assert (heard, total) == (["c"], 4.0)

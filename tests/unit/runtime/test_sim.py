"""The simulator: the seed is the schedule, links resume, and nobody speaks for the honest."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from ostraka.drivers.sim import Crash, Delivery, Links, Partition, Simulation
from ostraka.net import Abort, Net, Timeout
from ostraka.party import Frame
from ostraka.wire import Index, Message

PEERS = ("a", "b", "c")


@dataclass(frozen=True)
class Number(Message):
    value: Index


async def exchange(net: Net, rounds: int = 3) -> list[int]:
    """Everybody tells everybody a number, round after round; gives the sums."""
    others = [p for p in PEERS if p != net.me]
    sums = []
    for r in range(rounds):
        scope = net.sub("round", r)
        scope.broadcast(others, Number(10 * r + PEERS.index(net.me)))
        got = await scope.gather(Number.form(), others)
        sums.append(sum(m.value for m in got.messages.values()))
    return sums


def programs() -> dict[str, Any]:
    return dict.fromkeys(PEERS, exchange)


ROUGH = Links(0.05, 0.1, 0.2, 0.2, 0.2, 0.5, 2.0, shuffle=True)


@pytest.mark.parametrize("seed", range(20))
def test_results_do_not_depend_on_the_schedule(seed: int) -> None:
    outcomes = Simulation(programs(), seed=seed, links=ROUGH).run()
    assert [outcomes[p].result for p in PEERS] == [[3, 23, 43], [2, 22, 42], [1, 21, 41]]


def schedule(seed: int, links: Links) -> list[tuple[float, str, str]]:
    seen: list[tuple[float, str, str]] = []

    class Watch:
        corrupt: frozenset[str] = frozenset()

        def on_send(self, now: float, sender: str, to: str, frame: Frame) -> list[Delivery]:
            seen.append((now, sender, to))
            return [Delivery(sender, to, frame)]

    Simulation(programs(), seed=seed, links=links, adversary=Watch()).run()
    return seen


def test_the_seed_is_the_schedule() -> None:
    assert schedule(5, ROUGH) == schedule(5, ROUGH)
    assert schedule(5, ROUGH) != schedule(6, ROUGH)


def test_latency_and_loss_cost_time_but_lose_nothing() -> None:
    quick = Simulation(programs(), seed=1, links=Links(latency_s=1.0))
    quick.run()
    assert quick.now == 3.0
    lossy = Simulation(programs(), seed=1, links=Links(latency_s=1.0, loss=0.9))
    outcomes = lossy.run()
    assert all(o.status == "done" for o in outcomes.values())
    assert lossy.now > 3.0


def test_a_partition_holds_frames_until_it_heals() -> None:
    simulation = Simulation(
        programs(), seed=1, partitions=[Partition(frozenset("a"), 0.0, 7.0)], links=Links(0.5)
    )
    outcomes = simulation.run()
    assert all(o.status == "done" for o in outcomes.values())
    assert simulation.now >= 7.0


def test_a_cut_that_never_ends_leaves_parties_stuck_and_says_on_what() -> None:
    cut = Partition(frozenset("c"), 0.0, float("inf"))
    simulation = Simulation(programs(), seed=1, partitions=[cut])
    outcomes = simulation.run()
    assert outcomes["a"].status == "stuck"
    (waiting,) = outcomes["a"].waiting
    assert (waiting.label, waiting.kind, waiting.senders) == ("round.0", "Number", ("c",))


def test_a_crash_loses_the_program_and_a_restart_begins_it_anew() -> None:
    lives: list[float] = []

    async def mortal(net: Net) -> str:
        lives.append(net.now)
        await net.sleep(10.0)
        return "lived"

    simulation = Simulation({"a": mortal}, seed=0, crashes=[Crash("a", 4.0, 6.0)])
    assert simulation.run()["a"].result == "lived"
    assert lives == [0.0, 6.0]
    assert simulation.now == 16.0
    dead = Simulation({"a": mortal}, seed=0, crashes=[Crash("a", 4.0)])
    assert dead.run()["a"].status == "crashed"


@dataclass
class Forger:
    """Speaks in a name that is not its own."""

    corrupt: frozenset[str]
    victim: str
    sent: list[str] = field(default_factory=list)

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> list[Delivery]:
        forged = Frame(frame.label, frame.kind, Number(99).encode())
        return [Delivery(self.victim, to, forged)]


def test_the_adversary_may_bend_corrupt_traffic_but_not_honest() -> None:
    with pytest.raises(ValueError, match="cannot speak for a"):
        Simulation(programs(), seed=0, adversary=Forger(frozenset("c"), "a")).run()

    class Bend(Forger):
        def on_send(self, now: float, sender: str, to: str, frame: Frame) -> list[Delivery]:
            if sender != "c":
                return [Delivery(sender, to, frame)]
            return super().on_send(now, sender, to, frame)

    outcomes = Simulation(programs(), seed=0, adversary=Bend(frozenset("c"), "c")).run()
    assert outcomes["a"].result == [1 + 99, 11 + 99, 21 + 99]


def test_errors_of_protocols_are_outcomes_and_bugs_are_raised() -> None:
    async def aborts(net: Net) -> None:
        raise Abort("because")

    async def waits(net: Net) -> None:
        await net.recv(Number.form(), "a", timeout_s=3.0)

    async def buggy(net: Net) -> None:
        raise ValueError("ours")

    outcomes = Simulation({"a": aborts, "b": waits}, seed=0).run()
    assert (outcomes["a"].status, str(outcomes["a"].error)) == ("failed", "because")
    assert isinstance(outcomes["b"].error, Timeout)
    with pytest.raises(ValueError, match="ours"):
        Simulation({"a": buggy}, seed=0).run()


def test_limits_end_a_run_that_would_not() -> None:
    async def forever(net: Net) -> None:
        while True:
            await net.sleep(1.0)

    simulation = Simulation({"a": forever}, seed=0)
    assert simulation.run(until_s=50.5)["a"].status == "stuck"
    assert simulation.now == 50.0
    assert Simulation({"a": forever}, seed=0).run(max_events=10)["a"].status == "stuck"
    asked = iter([False, False, True])
    assert Simulation({"a": forever}, seed=0).run(stop=lambda: next(asked))["a"].status == "stuck"


def test_frames_to_strangers_are_our_mistake() -> None:
    async def lost(net: Net) -> None:
        net.send("nobody", Number(1))

    with pytest.raises(ValueError, match="not in this federation"):
        Simulation({"a": lost}, seed=0).run()


def test_bytes_are_counted_once_per_frame_sent() -> None:
    simulation = Simulation(programs(), seed=0, links=Links(duplicate=0.5, loss=0.5))
    simulation.run()
    assert simulation.frames == 18
    assert simulation.bytes_sent == dict.fromkeys(PEERS, 3 * 2 * 8)

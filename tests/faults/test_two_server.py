"""Federations of two-server with a stand-in for training: real processes, TLS, journals, deaths.

Invariant: whichever operators are killed, and whenever, started again the run ends with the model
of the undisturbed run; the servers never acknowledge two models for a round; nobody answers a round
that an earlier process of its may have answered.
"""

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.parties import Light, Nursery

pytestmark = pytest.mark.slow
ROUNDS = 8
SERVERS = ("server-0", "server-1")
MEAN = '[rule]\nname = "mean"\n'
PRIVATE = '[privacy]\nunit = "participant"\nclip = 4.0\nnoise_multiplier = 0.01\n'


def federation(nursery: Nursery, place: Path, more: str = MEAN, **given: Any) -> Light:
    return Light(nursery, place, rounds=ROUNDS, more=more, trust="two-server", **given)


@pytest.fixture(scope="module")
def models(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Every round's model when nobody dies."""
    light = federation(nursery, tmp_path_factory.mktemp("undisturbed"))
    light.start()
    ends = light.finish()
    assert set(ends.values()) == {0}, {name: light.log(name)[-500:] for name in light.names}
    check(light, light.journal("server-0"))
    return light.journal("server-0")


def check(light: Light, models: dict[int, str]) -> None:
    """All that have a model have the last one, and the servers acknowledged these and no others."""
    with_model = [name for name in light.names if name != "dealer"]
    assert {light.digest(name) for name in with_model} == {models[light.rounds]}
    for name in SERVERS:
        assert light.journal(name) == models


def finish(light: Light) -> None:
    ends = light.finish(120)
    assert set(ends.values()) == {0}, (ends, {n: light.log(n)[-800:] for n in light.names})


@pytest.mark.parametrize("victim", ["server-0", "server-1", "dealer"])
def test_an_operator_killed_at_two_moments_changes_nothing(
    nursery: Nursery, tmp_path: Path, models: dict[int, str], victim: str
) -> None:
    light = federation(nursery, tmp_path)
    light.start()
    for round in (2, 5):
        light.reach(round)
        light.kill(victim)
        light.start(victim)
    finish(light)
    check(light, models)


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 40))]
)
def test_operators_killed_at_random_change_nothing(
    nursery: Nursery, tmp_path: Path, models: dict[int, str], seed: int
) -> None:
    rng = random.Random(seed)
    light = federation(nursery, tmp_path)
    light.start()
    for round in sorted(rng.sample(range(1, ROUNDS + 1), 3)):
        while light.newest("server-0") < round and light.running("server-0"):
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.1))
        victims = rng.sample(light.operators, rng.choice([1, 2]))
        light.kill(*(name for name in victims if light.running(name)))
        light.start(*victims)
    finish(light)
    check(light, models)


@pytest.mark.parametrize("victim", SERVERS)
@pytest.mark.parametrize("at", range(8, 60, 9))
def test_a_server_that_dies_at_a_storage_call_goes_on(
    nursery: Nursery, tmp_path: Path, models: dict[int, str], victim: str, at: int
) -> None:
    light = federation(nursery, tmp_path)
    light.start(*(name for name in light.names if name != victim))
    light.start(victim, fault={"kind": "kill", "at": at, "how": "half"})
    assert light.end(victim) == -9
    light.start(victim)
    finish(light)
    check(light, models)


def test_a_worker_that_restarts_stays_out_of_the_round(nursery: Nursery, tmp_path: Path) -> None:
    light = federation(nursery, tmp_path, n=5, f=1, deadline_s=3.0)
    light.start()
    for round in (2, 4):
        light.reach(round, "w1")
        light.kill("w1")
        light.start("w1")
    finish(light)
    trained = [e["round"] for e in light.events("w1") if e["event"] == "trained"]
    assert len(trained) == len(set(trained))
    assert light.digest("w1") == light.digest()
    missing = [e["party"] for e in light.events("server-0") if e["event"] == "missing"]
    assert set(missing) <= {"w1"}
    assert len(missing) <= 2, "one round for each death, at most"


def test_a_private_worker_refuses_an_old_copy_of_its_state(
    nursery: Nursery, tmp_path: Path
) -> None:
    light = federation(nursery, tmp_path, MEAN + PRIVATE, n=5, f=1, deadline_s=3.0)
    light.start()
    light.reach(1, "w1")
    light.kill("w1")
    old = tmp_path / "copy"
    shutil.copytree(light.state("w1"), old)
    light.start("w1")
    light.reach(5)
    light.kill("w1")
    newest = tmp_path / "newest"
    light.state("w1").rename(newest)
    shutil.copytree(old, light.state("w1"))
    light.start("w1")
    assert light.end("w1", 60) == 74
    assert "is an old copy: " in light.log("w1")
    assert "fresh noise on the same data" in light.log("w1")
    shutil.rmtree(light.state("w1"))
    newest.rename(light.state("w1"))
    light.start("w1")
    finish(light)


@pytest.mark.parametrize("victim", SERVERS)
def test_an_old_copy_of_a_servers_state_is_refused(
    nursery: Nursery, tmp_path: Path, victim: str
) -> None:
    light = federation(nursery, tmp_path)
    light.start()
    light.reach(2)
    light.kill(victim)
    old = tmp_path / "copy"
    shutil.copytree(light.state(victim), old)
    light.start(victim)
    light.reach(5)
    light.kill(victim)
    shutil.rmtree(light.state(victim))
    shutil.copytree(old, light.state(victim))
    light.start(victim)
    assert light.end(victim, 60) == 74
    assert "is an old copy: w0, w1, w2, w3 have answered later than" in light.log(victim)
    light.stop()


def test_a_dealer_that_is_gone_for_good_ends_everybody_with_69(
    nursery: Nursery, tmp_path: Path
) -> None:
    light = Light(
        nursery, tmp_path, rounds=40, give_up_s=3.0, more=MEAN, trust="two-server", pause_s=0.05
    )
    light.start()
    light.reach(2)
    light.kill("dealer")
    ends = {name: light.end(name, 60) for name in light.names if name != "dealer"}
    assert set(ends.values()) == {69}, (ends, {n: light.log(n)[-400:] for n in light.names})
    assert "dealer" in light.log("server-0").splitlines()[-1]
    light.start()
    finish(light)

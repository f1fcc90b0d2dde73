"""Real parties are killed with kill -9; the run ends as if nobody had been.

Every case is a seed, in the test's name and printed: it gives who dies and when; how far the
others have come by then is the machine's business.
"""

import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from ostraka.drivers.identity import create
from tests.faults.kill_campaign import check, federation, play
from tests.faults.parties import SERVER, Light, Nursery

pytestmark = pytest.mark.slow
CALLS = {SERVER: range(20, 42, 2), "w1": range(21, 43, 2)}  # here lie a life's first rounds


def at_name(name: str, how: str) -> dict[str, str]:
    return {"kind": "kill-at-name", "name": name, "how": how}


@pytest.mark.parametrize("seed", range(6))
def test_random_kills(nursery: Nursery, tmp_path: Path, models: dict[int, str], seed: int) -> None:
    play(nursery, tmp_path, seed, models)


@pytest.mark.parametrize("victims", [("w0", "w3"), (SERVER, "w2")], ids="+".join)
def test_two_at_once(
    nursery: Nursery, tmp_path: Path, models: dict[int, str], victims: tuple[str, ...]
) -> None:
    light = federation(nursery, tmp_path)
    light.start()
    light.reach(7)
    light.kill(*victims)
    light.start(*victims)
    assert set(light.finish().values()) == {0}
    check(light, models)


def test_everybody_at_once(nursery: Nursery, tmp_path: Path, models: dict[int, str]) -> None:
    light = federation(nursery, tmp_path)
    light.start()
    light.reach(11)
    light.kill(*light.names)
    light.start()
    assert set(light.finish().values()) == {0}
    assert light.epochs() == 2
    check(light, models)


@pytest.mark.parametrize("victim", [SERVER, "w1"])
def test_at_every_file_system_call(
    nursery: Nursery, tmp_path: Path, models: dict[int, str], victim: str
) -> None:
    """One federation: the victim dies one call of its storage later in every life."""
    light = federation(nursery, tmp_path)
    light.pause_s = 0.0
    light.start(*(name for name in light.names if name != victim))
    died = 0
    for at in CALLS[victim]:
        how = ("before", "half", "after")[at % 3]
        light.start(victim, fault={"kind": "kill", "at": at, "how": how})
        if light.end(victim) != -9:
            break
        died += 1
    light.start(victim)
    assert set(light.finish().values()) == {0}
    assert died > len(CALLS[victim]) // 2
    check(light, models)


def test_a_worker_that_dies_with_the_last_model_in_its_hands_gets_it_again(
    nursery: Nursery, tmp_path: Path, models: dict[int, str]
) -> None:
    """Acknowledged by its socket is not stored: the server stays until everybody has left."""
    light = federation(nursery, tmp_path)
    light.start(SERVER, "w0", "w1", "w2")
    light.start("w3", fault=at_name("model.safetensors", "before"))
    assert light.end("w3") == -9
    assert light.running(SERVER)
    assert not (light.state("w3") / "summary.json").exists()
    light.start("w3")
    assert set(light.finish().values()) == {0}
    check(light, models)


def test_a_server_that_dies_after_the_last_round_dismisses_when_it_is_back(
    nursery: Nursery, tmp_path: Path, models: dict[int, str]
) -> None:
    light = federation(nursery, tmp_path)
    light.start(*light.workers)
    last = light.rounds
    light.start(SERVER, fault=at_name(f"round-{last:08d}.safetensors", "after"))
    assert light.end(SERVER) == -9
    assert light.intact(SERVER) == last
    assert last not in light.journal(SERVER)
    assert all(light.running(name) for name in light.workers)
    light.start(SERVER)
    assert set(light.finish().values()) == {0}
    check(light, models)


def test_a_server_whose_workers_have_all_left_needs_nobody_to_finish(
    nursery: Nursery, tmp_path: Path
) -> None:
    light = Light(nursery, tmp_path, n=3, rounds=4, deadline_s=1.5)
    light.start("w0", "w1", "w2")
    light.start(SERVER, fault=at_name("summary.json", "before"))
    assert light.end(SERVER) == -9
    assert [light.end(name) for name in light.workers] == [0, 0, 0]
    assert not (light.state(SERVER) / "summary.json").exists()
    light.start(SERVER)
    assert light.end(SERVER, 10) == 0
    assert light.digest() == light.digest("w0")


def test_a_finished_party_started_again_says_its_summary(nursery: Nursery, tmp_path: Path) -> None:
    light = Light(nursery, tmp_path, n=3, rounds=2)
    light.start()
    assert set(light.finish().values()) == {0}
    before = {name: light.records(name) for name in light.names}
    for name in light.names:
        (light.home(name) / "log").unlink()
        light.start(name)
        assert light.end(name, 10) == 0
        assert light.digest() in light.log(name)
    assert {name: light.records(name) for name in light.names} == before


# --- told to stop, left alone, refused ----------------------------------------------------------


def stopped(light: Light, name: str, number: int) -> float:
    """Send a signal and await the end, which keeps the state; gives the seconds that it took."""
    begin = time.monotonic()
    light.signal(name, number)
    assert light.end(name, 10) == 75
    seconds = time.monotonic() - begin
    assert "state is kept" in light.log(name).splitlines()[-1]
    return seconds


def heard(light: Light, name: str, event: str) -> None:
    """Return when a party has told of such an event."""
    until = time.monotonic() + 30
    while not (light.state(name) / "events.jsonl").exists() or event not in light.log(name):
        assert time.monotonic() < until, light.log(name)
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", [SERVER, "w1"])
def test_stop_before_the_peers_are_there(
    nursery: Nursery, tmp_path: Path, name: str, number: int
) -> None:
    light = federation(nursery, tmp_path)
    light.start(name)
    heard(light, name, "listening" if name == SERVER else "unreachable")
    assert stopped(light, name, number) < 5


def test_stop_in_a_round_and_in_training(
    nursery: Nursery, tmp_path: Path, models: dict[int, str]
) -> None:
    """Everybody waits for one that trains for ever; all stop, and go on to the same end."""
    light = federation(nursery, tmp_path)
    light.start(SERVER, "w0", "w1", "w2")
    light.pause_s = 60.0
    light.start("w3")
    light.reach(0, "w0")
    light.pause_s = 0.01
    for name in ("w3", "w1", SERVER):
        assert stopped(light, name, signal.SIGINT) < 5, name
    light.kill("w0", "w2")
    light.start()
    assert set(light.finish().values()) == {0}
    check(light, models)


def test_stop_while_lingering(nursery: Nursery, tmp_path: Path, models: dict[int, str]) -> None:
    light = federation(nursery, tmp_path, deadline_s=3.0)
    light.start(SERVER, "w0", "w1", "w2")
    light.start("w3", fault=at_name("model.safetensors", "before"))
    assert [light.end(name) for name in light.workers] == [0, 0, 0, -9]
    assert stopped(light, SERVER, signal.SIGTERM) < 5
    light.start(SERVER, "w3")
    assert light.end("w3") == 0
    assert light.end(SERVER) == 0
    check(light, models)


def test_a_party_left_alone_gives_up(nursery: Nursery, tmp_path: Path) -> None:
    light = Light(nursery, tmp_path, n=3, rounds=1000, give_up_s=0.5, deadline_s=20.0)
    light.start()
    light.reach(3)
    light.kill("w0", "w1", "w2")
    assert light.end(SERVER, 10) == 69
    assert "w0, w1, w2 could not be reached in time" in light.log(SERVER)


def test_who_waits_in_vain_says_for_whom(nursery: Nursery, tmp_path: Path) -> None:
    light = Light(nursery, tmp_path, n=3, deadline_s=0.5)
    light.start(SERVER, "w1")
    assert light.end(SERVER, 10) == 69
    assert "w0, w2 could not be reached in time" in light.log(SERVER)


def test_another_file_ends_with_78_and_the_others_go_on(nursery: Nursery, tmp_path: Path) -> None:
    light = Light(nursery, tmp_path, n=3, rounds=3)
    other = tmp_path / "other.toml"
    other.write_text(light.federation.read_text().replace("rounds = 3", "rounds = 4"))
    light.start(SERVER, "w0", "w1")
    light.start("w2", federation=other)
    assert light.end("w2") == 78
    assert "federation.rounds differs" in light.log("w2")
    shutil.rmtree(light.state("w2"))
    light.start("w2")
    assert set(light.finish().values()) == {0}


def test_a_key_that_the_others_do_not_know_ends_with_77(nursery: Nursery, tmp_path: Path) -> None:
    light = Light(nursery, tmp_path, n=3, rounds=3)
    text = light.federation.read_text()
    home = tmp_path / "elsewhere"
    home.mkdir()
    stranger = create("w2", home / "w2.pem")
    known = re.findall(r'"(ed25519:[^"]+)"', text)[-1]
    other = tmp_path / "other.toml"
    other.write_text(text.replace(known, stranger.text))
    shutil.copy(home / "w2.pem", light.home("w2") / "w2.pem")
    light.start(SERVER, "w0", "w1")
    light.start("w2", federation=other)
    assert light.end("w2") == 77
    assert "is not in its federation file" in light.log("w2")
    assert light.running(SERVER)
    assert "certificate refused" in light.log(SERVER)
    light.kill(SERVER, "w0", "w1")

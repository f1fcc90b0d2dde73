"""Storage that fails or lies under a real party: exit 74 with the file's name, nothing lost."""

import errno
import shutil
from pathlib import Path

import pytest

from tests.faults.kill_campaign import check, federation
from tests.faults.parties import SERVER, Light, Nursery

pytestmark = pytest.mark.slow
STORAGE = 74
PRIVATE = '[privacy]\nunit = "participant"\nnoise_multiplier = 1.0\n'


def complaint(light: Light, name: str) -> str:
    return light.log(name).splitlines()[-1]


@pytest.mark.parametrize(
    ("victim", "at", "how", "code"),
    [
        (SERVER, 90, "lasting", errno.ENOSPC),
        (SERVER, 117, "half", errno.EIO),
        ("w1", 90, "lasting", errno.ENOSPC),
        ("w1", 117, "once", errno.EIO),
    ],
)
def test_a_full_or_broken_disk(
    nursery: Nursery,
    tmp_path: Path,
    models: dict[int, str],
    victim: str,
    at: int,
    how: str,
    code: int,
) -> None:
    light = federation(nursery, tmp_path)
    light.start(*(name for name in light.names if name != victim))
    light.start(victim, fault={"kind": "fail", "at": at, "how": how, "code": code})
    assert light.end(victim) == STORAGE
    assert str(light.state(victim)) in complaint(light, victim)
    assert "Traceback" not in light.log(victim)
    before = light.journal(victim)
    assert light.intact(victim) >= max(before) > 0
    light.start(victim)
    assert set(light.finish().values()) == {0}
    assert before.items() <= light.journal(victim).items()
    check(light, models)


def tear(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def test_a_torn_checkpoint_of_the_server(
    nursery: Nursery, tmp_path: Path, models: dict[int, str]
) -> None:
    light = federation(nursery, tmp_path)
    light.start()
    light.reach(8)
    light.kill(SERVER)
    newest = light.checkpoints(SERVER)[-1]
    tear(newest)
    light.start(SERVER)
    assert set(light.finish().values()) == {0}
    assert f"{newest} is damaged" in light.warnings(SERVER)
    check(light, models)


def test_a_torn_checkpoint_of_a_worker(
    nursery: Nursery, tmp_path: Path, models: dict[int, str]
) -> None:
    """Torn when the worker died, before its update was on its way: it makes the same one again."""
    light = federation(nursery, tmp_path)
    light.start(SERVER, "w0", "w2", "w3")
    fault = {"kind": "kill-at-name", "name": "round-00000007.safetensors", "how": "after"}
    light.start("w1", fault=fault)
    assert light.end("w1") == -9
    newest = light.checkpoints("w1")[-1]
    assert newest.name == "round-00000007.safetensors"
    tear(newest)
    light.start("w1")
    assert set(light.finish().values()) == {0}
    assert f"{newest} is damaged" in light.warnings("w1")
    check(light, models)


@pytest.mark.parametrize("victim", [SERVER, "w1"])
def test_two_torn_checkpoints_are_too_many(nursery: Nursery, tmp_path: Path, victim: str) -> None:
    light = federation(nursery, tmp_path)
    light.start()
    light.reach(5, victim)
    light.kill(*light.names)
    for path in light.checkpoints(victim):
        tear(path)
    light.start(victim)
    assert light.end(victim) == STORAGE
    assert "newest sound one is none" in complaint(light, victim)


@pytest.mark.parametrize("victim", [SERVER, "w1"])
def test_a_damaged_journal(nursery: Nursery, tmp_path: Path, victim: str) -> None:
    light = federation(nursery, tmp_path)
    light.start()
    light.reach(5, victim)
    light.kill(*light.names)
    tear(light.state(victim) / "journal")
    light.start(victim)
    assert light.end(victim) == STORAGE
    assert f"of {light.state(victim) / 'journal'} is damaged" in complaint(light, victim)


def put_back(light: Light, name: str, copy: Path) -> Path:
    """Replace a party's state by a copy; gives the place of what was there."""
    kept = copy.with_name(f"{name}-newest")
    light.state(name).rename(kept)
    shutil.copytree(copy, light.state(name))
    return kept


def test_an_old_copy_of_the_servers_state_is_refused(
    nursery: Nursery, tmp_path: Path, models: dict[int, str]
) -> None:
    light = federation(nursery, tmp_path)
    light.start()
    light.reach(3)
    light.kill(SERVER)
    old = tmp_path / "copy"
    shutil.copytree(light.state(SERVER), old)
    light.start(SERVER)
    light.reach(8)
    light.kill(SERVER)
    newest = put_back(light, SERVER, old)
    before = light.records(SERVER)
    light.start(SERVER)
    assert light.end(SERVER) == STORAGE
    assert "is an old copy: w0, w1, w2, w3 have seen later rounds" in complaint(light, SERVER)
    assert light.records(SERVER) == before, "it began nothing"
    shutil.rmtree(light.state(SERVER))
    newest.rename(light.state(SERVER))
    light.start(SERVER)
    assert set(light.finish().values()) == {0}
    check(light, models)


def test_an_old_journal_beside_new_checkpoints_is_refused(nursery: Nursery, tmp_path: Path) -> None:
    light = federation(nursery, tmp_path)
    light.start()
    light.reach(3)
    light.kill(SERVER)
    old = (light.state(SERVER) / "journal").read_bytes()
    light.start(SERVER)
    light.reach(8)
    light.kill(*light.names)
    (light.state(SERVER) / "journal").write_bytes(old)
    light.start(SERVER)
    assert light.end(SERVER) == STORAGE
    assert "the journal is an old copy" in complaint(light, SERVER)


def test_a_worker_with_privacy_refuses_an_old_copy_of_its_state(
    nursery: Nursery, tmp_path: Path
) -> None:
    light = Light(nursery, tmp_path, n=5, f=1, rounds=14, deadline_s=3.0, more=PRIVATE)
    light.start()
    light.reach(2, "w1")
    light.kill("w1")
    old = tmp_path / "copy"
    shutil.copytree(light.state("w1"), old)
    light.start("w1")
    light.reach(8)
    light.kill("w1")
    newest = put_back(light, "w1", old)
    light.start("w1")
    assert light.end("w1") == STORAGE
    assert "is an old copy" in complaint(light, "w1")
    assert "w1.spent" in complaint(light, "w1"), "its own ledger says so, without asking anybody"

    ledger = light.home("w1") / "w1.spent"
    ledger.rename(tmp_path / "kept")  # a whole machine that was put back has an old ledger too
    light.start("w1")
    assert light.end("w1") == STORAGE
    assert "is an old copy: server has an update of w1" in complaint(light, "w1")
    (tmp_path / "kept").rename(ledger)
    assert light.journal("w1") == {r: m for r, m in light.journal("w1").items() if r <= 3}
    shutil.rmtree(light.state("w1"))
    newest.rename(light.state("w1"))
    light.start("w1")
    assert set(light.finish().values()) == {0}


def test_a_worker_with_privacy_answers_no_round_twice(nursery: Nursery, tmp_path: Path) -> None:
    """Killed and started again it stays out of the round that it may have answered."""
    light = Light(nursery, tmp_path, n=5, f=1, rounds=10, deadline_s=2.0, more=PRIVATE)
    light.start()
    for round in (2, 5):
        light.reach(round, "w1")
        light.kill("w1")
        light.start("w1")
    light.kill(SERVER)
    light.start(SERVER)
    assert set(light.finish().values()) == {0}
    trained = [e["round"] for e in light.events("w1") if e["event"] == "trained"]
    assert len(trained) == len(set(trained))
    assert light.digest() == light.digest("w1")


def test_one_state_folder_serves_one_process(nursery: Nursery, tmp_path: Path) -> None:
    light = federation(nursery, tmp_path)
    light.start("w1")
    light.pids["first"] = light.pids["w1"]
    while not (light.state("w1") / "events.jsonl").exists():
        assert light.nursery.code(light.pids["first"]) is None
    light.start("w1")
    assert light.end("w1") == 64
    assert "another process is at work" in light.log("w1")
    light.kill("first")

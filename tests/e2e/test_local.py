"""`ostraka local`: the same federation as `ostraka run`, as real processes, ends alike.

Every party is a process that imports torch, so the runs are few and show several things each.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import Ended, ostraka, process

pytestmark = pytest.mark.slow
ROUNDS = 12


def rehearse(*arguments: object) -> Ended:
    """In a process of its own, with JSON."""
    running = process("local", *arguments, "--json")
    out, err = running.communicate(timeout=200)
    return Ended(running.returncode, out, err)


def simulated(*arguments: object) -> Any:
    ended = ostraka("run", *arguments, "--json")
    assert ended.code == 0, ended.err
    return ended.summary


def test_an_attack_and_two_deaths_end_as_the_simulation_does(tmp_path: Path) -> None:
    given = ("--n", 4, "--rounds", ROUNDS, "--seed", 3, "--attack", "alie", "--f", 1)
    expected = simulated(*given, "--out", tmp_path / "run")
    place = tmp_path / "local"
    ended = rehearse(*given, "--kill", "server@4", "--kill", "worker-1@7", "--out", place)
    assert ended.code == 0, ended.err
    assert ended.summary["model_digest"] == expected["model_digest"]
    assert ended.summary["accuracy"] == expected["accuracy"]
    assert ended.summary["failed"] == {}
    told = [(e["of"], e["event"]) for e in ended.lines[:-1]]
    assert told.count(("server", "killed")) == told.count(("worker-1", "killed")) == 1
    assert ("server", "resumed") in told
    assert ("worker-1", "resumed") in told
    for name in ("server", "worker-0", "worker-1", "worker-2"):
        found = json.loads(next((place / "parties" / name).rglob("summary.json")).read_text())
        assert found["model_digest"] == expected["model_digest"]


def test_a_bad_network_changes_nothing(tmp_path: Path) -> None:
    """Cut connections, delay and a partition, with a deadline that nothing passes."""
    given = ("--n", 8, "--rounds", 30, "--seed", 5)
    expected = simulated(*given, "--out", tmp_path / "run")
    begin = time.monotonic()
    faults = ("--cut", 0.05, "--delay", "50ms", "--partition", "worker-2,worker-5@2s-7s")
    ended = rehearse(*given, *faults, "--round-deadline-s", 30, "--out", tmp_path / "local")
    assert ended.code == 0, ended.err
    assert ended.summary["model_digest"] == expected["model_digest"]
    assert ended.summary["excluded"] == {}
    told = [(e["of"], e["event"]) for e in ended.lines[:-1]]
    for name in ("worker-2", "worker-5"):
        assert (name, "partitioned") in told
        assert (name, "healed") in told
    assert sum(event == "disconnected" for _, event in told) > 8, "connections were cut"
    assert time.monotonic() - begin > 7


def test_a_liar_is_excluded_as_in_the_simulation(tmp_path: Path) -> None:
    """And the honest workers' model is the simulation's, where the last one lies as well."""
    given = ("--n", 4, "--rounds", 5, "--f", 1, "--rule", "median", "--pre", "none")
    expected = simulated(*given, "--attack", "wrong-dtype", "--out", tmp_path / "run")
    ended = rehearse(
        *given, "--attack", "none", "--lie", "worker-3:wrong-dtype", "--out", tmp_path / "local"
    )
    assert ended.code == 0, ended.err
    assert ended.summary["excluded"] == expected["excluded"] == {"worker-3": "malformed"}
    assert ended.summary["model_digest"] == expected["model_digest"]


def parties(place: Path) -> list[int]:
    """The processes that run a party of this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:  # it has just ended
            continue
        if "join" in words and any(word.startswith(str(place)) for word in words):
            found.append(int(path.parent.name))
    return found


def test_ctrl_c_leaves_nothing_running_and_resume_goes_on(tmp_path: Path) -> None:
    given = ("--n", 3, "--rounds", 150, "--seed", 4, "--attack", "alie", "--f", 1)
    given = (*given, "--rule", "median", "--pre", "none")
    expected = simulated(*given, "--out", tmp_path / "run")
    place = tmp_path / "local"
    running = process("local", *given, "--out", place, "--json", start_new_session=True)
    assert running.stdout is not None
    for line in running.stdout:
        record = json.loads(line)
        if record["event"] == "round" and record["round"] >= 10:
            break
    assert len(parties(place)) == 4
    begin = time.monotonic()
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 75, err
    assert time.monotonic() - begin < 8
    assert "--resume" in json.loads(out.splitlines()[-1])["message"]
    assert parties(place) == []
    ended = rehearse("--resume", "--out", place)
    assert ended.code == 0, ended.err
    assert ended.summary["model_digest"] == expected["model_digest"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--kill", "nobody@3"),
        ("--kill", "server"),
        ("--delay", "50"),
        ("--cut", "1.5"),
        ("--partition", "worker-1@5s"),
        ("--lie", "server:alie"),
        ("--lie", "worker-1:nothing-known"),
        ("--resume",),
    ],
    ids=" ".join,
)
def test_what_cannot_be_rehearsed_is_refused(tmp_path: Path, flags: tuple[str, ...]) -> None:
    ended = ostraka("local", "--n", 4, "--rounds", 2, "--out", tmp_path / "local", *flags)
    assert ended.code == (66 if flags == ("--resume",) else 64), ended.err
    assert not (tmp_path / "local").exists(), "nothing was written"

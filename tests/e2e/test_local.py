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
    """In this process, which has torch already; the parties are processes all the same."""
    return ostraka("local", *arguments, "--json")


def simulated(*arguments: object) -> Any:
    ended = ostraka("run", *arguments, "--json")
    assert ended.code == 0, ended.err
    return ended.summary


def test_a_liar_and_two_deaths_end_as_the_simulation_does(tmp_path: Path) -> None:
    """The liar is excluded as in the simulation, where the last worker lies as well."""
    given = ("--n", 3, "--rounds", ROUNDS, "--seed", 3, "--f", 1)
    given = (*given, "--rule", "median", "--pre", "none")
    expected = simulated(*given, "--attack", "wrong-dtype", "--out", tmp_path / "run")
    place = tmp_path / "local"
    faults = ("--lie", "worker-2:wrong-dtype", "--kill", "server@4", "--kill", "worker-1@7")
    ended = rehearse(*given, "--attack", "none", *faults, "--out", place)
    assert ended.code == 0, ended.err
    assert ended.summary["model_digest"] == expected["model_digest"]
    assert ended.summary["accuracy"] == expected["accuracy"]
    assert ended.summary["failed"] == {}
    assert ended.summary["excluded"] == expected["excluded"] == {"worker-2": "malformed"}
    told = [(e["of"], e["event"]) for e in ended.lines[:-1]]
    assert told.count(("server", "killed")) == told.count(("worker-1", "killed")) == 1
    assert ("server", "resumed") in told
    assert ("worker-1", "resumed") in told
    for name in ("server", "worker-0", "worker-1"):
        found = json.loads(next((place / "parties" / name).rglob("summary.json")).read_text())
        assert found["model_digest"] == expected["model_digest"]


def test_a_bad_network_changes_nothing(tmp_path: Path) -> None:
    """Cut connections, delay and a partition, with a deadline that nothing passes."""
    given = ("--n", 5, "--rounds", 20, "--seed", 5)
    expected = simulated(*given, "--out", tmp_path / "run")
    begin = time.monotonic()
    faults = ("--cut", 0.05, "--delay", "50ms", "--partition", "worker-1,worker-3@1s-4s")
    ended = rehearse(*given, *faults, "--round-deadline-s", 30, "--out", tmp_path / "local")
    assert ended.code == 0, ended.err
    assert ended.summary["model_digest"] == expected["model_digest"]
    assert ended.summary["excluded"] == {}
    told = [(e["of"], e["event"]) for e in ended.lines[:-1]]
    for name in ("worker-1", "worker-3"):
        assert (name, "partitioned") in told
        assert (name, "healed") in told
    assert sum(event == "disconnected" for _, event in told) > 8, "connections were cut"
    assert time.monotonic() - begin > 4


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
    given = ("--n", 3, "--rounds", 100, "--seed", 4, "--attack", "alie", "--f", 1)
    expected = simulated(*given, "--out", tmp_path / "run")
    place = tmp_path / "local"
    running = process("local", *given, "--out", place, "--json", start_new_session=True)
    assert running.stdout is not None
    for line in running.stdout:
        record = json.loads(line)
        if record["event"] == "round" and record["round"] >= 5:
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

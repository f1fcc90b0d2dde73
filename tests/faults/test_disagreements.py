"""Parties that hold different app files, and two processes that hold one identity."""

import hashlib
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.parties import SERVER, Light, Nursery

SITE = """[allow]
min_workers = 1
app = {allowed}
[place]
state_dir = "state"
"""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Parties with an app file import torch before they know what it says."""
    with Nursery("ostraka.learn.app") as running:
        yield running


def diary(light: Light, name: str) -> list[dict[str, object]]:
    """What happened between this party and the others."""
    lines = (light.state(name) / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_another_app_file_is_refused_by_name_and_may_be_mended(
    nursery: Nursery, tmp_path: Path
) -> None:
    light = Light(nursery, tmp_path, n=3, rounds=3, more='[training]\napp = "mine:app"\n')
    other = tmp_path / "other" / "federation.toml"
    other.parent.mkdir()
    shutil.copy(light.federation, other)
    files = {tmp_path / "mine.py": b"app = 1\n", other.with_name("mine.py"): b"app = 2\n"}
    for path, body in files.items():
        path.write_bytes(body)
    allowed = [f"sha256:{hashlib.sha256(body).hexdigest()}" for body in files.values()]
    for name in light.names:
        (light.home(name) / "site.toml").write_text(SITE.format(allowed=json.dumps(allowed)))
    light.start(SERVER, "w0", "w1")
    light.start("w2", federation=other)
    assert light.end("w2") == 78
    assert "the app file differs" in light.log("w2")
    assert light.running(SERVER)
    light.start("w2")
    assert set(light.finish().values()) == {0}, light.log("w2")
    (told,) = [e for e in diary(light, "w2") if e["event"] == "differs"]
    assert (told["peer"], told["keys"]) == (SERVER, ["the app file"])


@pytest.mark.slow
def test_of_two_processes_with_one_identity_the_older_ends_with_77(
    nursery: Nursery, tmp_path: Path
) -> None:
    light = Light(nursery, tmp_path, n=3, rounds=100_000, pause_s=0.02)
    light.start()
    light.reach(3)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in ("w0.pem", "site.toml"):
        shutil.copy(light.home("w0") / file, copy / file)
    argv = ["join", str(light.federation), "--identity", str(copy / "w0.pem")]
    order = {"argv": argv, "log": str(copy / "log"), "pause_s": 0.02, "fault": None}
    double = nursery.fork(order)
    assert light.end("w0") == 77
    assert "somebody has a copy of the key" in light.log("w0")
    assert "docs/identities.md" in light.log("w0")
    assert "w0: another process with the same identity" in light.log(SERVER)
    assert [e["peer"] for e in diary(light, SERVER) if e["event"] == "replaced"] == ["w0"]
    light.reach(light.newest(SERVER) + 3)
    assert nursery.code(double) is None
    light.pids["double"] = double
    light.signal("double", signal.SIGKILL)
    light.stop(light.names)

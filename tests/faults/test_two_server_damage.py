"""Damaged and old states of two-server's parties, in real processes.

Invariant: a run goes on with the model that it would have had anyway, or ends with a sentence.
"""

import shutil
from pathlib import Path

import pytest

from tests.faults.parties import Light, Nursery
from tests.faults.test_two_server import MEAN, PRIVATE, check, federation, finish, models

__all__ = ["models"]

pytestmark = pytest.mark.slow


def tear_newest(light: Light, name: str) -> None:
    newest = sorted((light.state(name) / "checkpoints").iterdir())[-1]
    body = bytearray(newest.read_bytes())
    body[len(body) // 2] ^= 1
    newest.write_bytes(body)


def test_server_1_helps_a_server_0_with_a_damaged_model(
    nursery: Nursery, tmp_path: Path, models: dict[int, str]
) -> None:
    light = federation(nursery, tmp_path)
    light.start()
    for round in (2, 5):
        light.reach(round)
        light.kill("server-0")
        tear_newest(light, "server-0")
        light.start("server-0")
    finish(light)
    check(light, models)
    said = [e["text"] for e in light.events("server-0") if e["event"] == "warning"]
    assert any("it is computed again from what server 1 has stored" in text for text in said)


def test_private_workers_refuse_a_second_run_of_the_same_file(
    nursery: Nursery, tmp_path: Path
) -> None:
    """All folders emptied, nobody else can tell that these rounds were answered before."""
    light = federation(nursery, tmp_path, MEAN + PRIVATE, n=5, f=1, deadline_s=3.0)
    light.start()
    light.reach(3)
    light.kill(*light.names)
    for name in light.names:
        shutil.rmtree(light.state(name))
    light.start()
    for name in light.workers:
        assert light.end(name, 60) == 74
        assert "is an old copy: " in light.log(name)
        assert "of this run has been answered with this identity" in light.log(name)
    light.stop()

"""Checkpoints: whole or not there, checked, two generations."""

from pathlib import Path

import numpy as np
import pytest

from ostraka.drivers.checkpoint import Checkpoints

ARRAYS = {"a": np.arange(5, dtype=np.float32), "b": np.array(3, np.int64), "c": np.zeros((0, 2))}
FACTS = {"epoch": 1, "text": "é"}


def test_round_trip_and_only_two_generations_stay(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "c")
    assert store.load() == (None, [])
    for round in range(4):
        store.save(round, ARRAYS, FACTS)
    assert len(list((tmp_path / "c").iterdir())) == 2
    found, passed = store.load()
    assert found is not None
    assert (found.round, found.facts, passed) == (3, FACTS, [])
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("at", [0, 8, 40, 200, -1])
def test_any_damage_gives_the_generation_before_and_is_said(tmp_path: Path, at: int) -> None:
    store = Checkpoints(tmp_path)
    store.save(1, ARRAYS, FACTS)
    store.save(2, ARRAYS, FACTS)
    newest = tmp_path / "round-00000002.safetensors"
    body = bytearray(newest.read_bytes())
    body[at] ^= 0x40
    newest.write_bytes(bytes(body))
    found, passed = store.load()
    assert found is not None
    assert found.round == 1
    assert len(passed) == 1
    assert str(newest) in passed[0]


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(7, ARRAYS, FACTS)
    path = tmp_path / "round-00000007.safetensors"
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert store.load()[0] is None


def test_a_draft_that_was_never_put_in_place_is_ignored(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(1, ARRAYS, FACTS)
    (tmp_path / "round-00000002.safetensors.part").write_bytes(b"torn")
    found, passed = store.load()
    assert found is not None
    assert (found.round, passed) == (1, [])

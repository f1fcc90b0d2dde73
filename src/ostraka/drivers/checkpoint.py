"""Checkpoints that survive a crash at any moment: whole or not there, checked, two generations.

A checkpoint is one safetensors file: arrays by name, facts as JSON in its metadata, and a SHA-256
over both. It is written beside its place, synced, and renamed; a torn or altered one is passed
over for the generation before it, which the reader is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

Arrays = Mapping[str, npt.NDArray[Any]]
KEPT = 2
PATTERN = re.compile(r"round-(\d{8})\.safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was stored after so many rounds."""

    round: int
    arrays: Arrays
    facts: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, round: int, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Store one checkpoint durably, then forget all but the newest two."""
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(facts, sort_keys=True)
        meta = {"facts": text, "round": str(round), "sha256": _digest(round, arrays, text)}
        path = self._folder / f"round-{round:08d}.safetensors"
        whole = {k: np.array(v, order="C") for k, v in arrays.items()}  # shape () stays ()
        write_durably(path, save(whole, metadata=meta))
        for old in self._generations()[KEPT:]:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()

    def load(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest sound checkpoint, and a sentence for every damaged one passed over."""
        passed: list[str] = []
        for path in self._generations():
            try:
                return self._read(path), passed
            except (SafetensorError, KeyError, ValueError) as damage:
                passed.append(f"{path} is damaged ({damage}); using the generation before it")
        return None, passed

    def _generations(self) -> list[Path]:
        """Newest first."""
        if not self._folder.is_dir():
            return []
        found = (p for p in self._folder.iterdir() if PATTERN.fullmatch(p.name))
        return sorted(found, reverse=True)

    def _read(self, path: Path) -> Checkpoint:
        with safe_open(path, framework="numpy") as file:
            meta = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        round, text = int(meta["round"]), meta["facts"]
        if _digest(round, arrays, text) != meta["sha256"]:
            raise ValueError("its checksum does not match")
        return Checkpoint(round, arrays, json.loads(text))


def _digest(round: int, arrays: Arrays, facts: str) -> str:
    digest = hashlib.sha256(b"ostraka checkpoint 1\0")
    for part in (str(round).encode(), facts.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        head = f"{name}|{array.dtype.str}|{np.shape(arrays[name])}".encode()
        digest.update(len(head).to_bytes(8, "little") + head)
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write_durably(path: Path, content: bytes) -> None:
    """Put a file in place whole or not at all, on disk when this returns."""
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

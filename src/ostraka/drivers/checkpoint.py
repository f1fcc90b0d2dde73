"""Checkpoints that survive a crash at any moment: whole or not there, checked, two generations.

A checkpoint is one safetensors file: arrays by name, facts as JSON in its metadata, and a SHA-256
over both. It is written beside its place, synced, and renamed; a torn or altered one is passed
over for the generation before it, which the reader is told. Every OSError names its file; one
from a save means "unknown, may have happened": what is found later is whole, the old or the new.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
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
DRAFT = ".part"  # what a name ends in while its file is being written


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was stored after so many rounds."""

    round: int
    arrays: Arrays
    facts: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run, in one folder; one writer.

    ``mode`` is that of new files, less the umask: 0o600 for what only their owner may read.
    """

    def __init__(self, folder: Path, *, mode: int = 0o666) -> None:
        self._folder = folder
        self._mode = mode
        self._made = False

    def save(self, round: int, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Store one checkpoint durably, then forget all but it and the newest one before it.

        A later round found in the folder is forgotten too: whoever saves round 8 after round 10
        went back to 8, and ``load`` must give what was saved last. Raises OSError with its file;
        the older generations are then as they were.
        """
        if not self._made:
            make_folder(self._folder)
            self._made = True
        text = json.dumps(facts, sort_keys=True)
        meta = {"facts": text, "round": str(round), "sha256": _digest(round, arrays, text)}
        path = self._folder / f"round-{round:08d}.safetensors"
        whole = {k: np.array(v, order="C") for k, v in arrays.items()}  # shape () stays ()
        write_durably(path, save(whole, metadata=meta), self._mode)
        self._forget_all_but(path)

    def load(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest sound checkpoint, and a sentence for every damaged one passed over."""
        passed: list[str] = []
        for path in self._generations():
            try:
                found = self._read(path)
            except (SafetensorError, KeyError, ValueError) as damage:
                passed.append(f"{path} is damaged ({damage}); using the generation before it")
            else:
                sync_folder(self._folder)  # its name may not be on disk yet, if its writer died
                return found, passed
        return None, passed

    def _generations(self) -> list[Path]:
        """Newest first."""
        return sorted((p for p in self._files() if PATTERN.fullmatch(p.name)), reverse=True)

    def _files(self) -> list[Path]:
        return list(self._folder.iterdir()) if self._folder.is_dir() else []

    def _forget_all_but(self, newest: Path) -> None:
        generations = self._generations()
        later = [p for p in generations if p.name > newest.name]
        older = [p for p in generations if p.name < newest.name]
        drafts = [p for p in self._files() if p.suffix == DRAFT and PATTERN.fullmatch(p.stem)]
        for path in (*later, *older[KEPT - 1 :], *drafts):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        if later:  # come back after a power cut, one of these would be taken for the newest
            sync_folder(self._folder)

    def _read(self, path: Path) -> Checkpoint:
        with naming(path), safe_open(path, framework="numpy") as file:
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


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError from inside name this file, where the system call knew only its number."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_durably(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Put a file in place whole or not at all, on disk when this returns.

    ``mode`` is the new file's, less the umask. Raises OSError with its file name; what stood there
    before still does, unless only the last step failed, the one that makes the new name durable.
    """
    draft = path.with_name(path.name + DRAFT)
    try:
        _fill(draft, content, mode)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):  # a full disk needs the space; the first error matters
            os.unlink(draft)
        raise
    sync_folder(path.parent)


def _fill(draft: Path, content: bytes, mode: int) -> None:
    with contextlib.suppress(FileNotFoundError):  # left by a writer that died, with any mode
        os.unlink(draft)
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with naming(draft):
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(file, view) :]
            os.fsync(file)
        finally:
            os.close(file)


def make_folder(folder: Path) -> None:
    """Make a folder and those missing above it, on disk when this returns.

    Raises OSError with its file, as when a file stands in the way.
    """
    if not folder.is_dir():
        if not folder.parent.is_dir():
            make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: what was put there, replaced or removed."""
    with naming(folder):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(number)
        finally:
            os.close(number)

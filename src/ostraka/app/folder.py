"""A run's folder: what is in it, when it may be written, and how a run is read back."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ostraka.app.config import Config, as_toml, load
from ostraka.app.errors import Exit, UserError
from ostraka.drivers.checkpoint import Checkpoints, write_durably
from ostraka.drivers.trace import Record, read_events


class Folder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.federation = path / "federation.toml"
        self.events = path / "events.jsonl"
        self.metrics = path / "metrics.csv"
        self.model = path / "model.safetensors"
        self.report = path / "report.html"
        self.about = path / "run.json"
        self.checkpoints = Checkpoints(path / "checkpoints")

    @classmethod
    def new(cls, path: Path | None, config: Config, base: Path) -> Folder:
        """A fresh folder: the given one (absent or empty), or runs/NAME-STAMP."""
        if path is None:
            path = _stamped(config.federation.name)
        folder = cls(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            run = folder.federation.exists()
            raise UserError(
                f"{path} holds a run already: add --resume to go on with it, or name another --out"
                if run
                else f"{path} is not empty: name a new or empty folder with --out"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_durably(folder.federation, as_toml(config).encode())
            about = {"base": str(base.resolve()), "versions": versions()}
            write_durably(folder.about, json.dumps(about, indent=1).encode())
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}", Exit.STORAGE) from None
        return folder

    @classmethod
    def existing(cls, path: Path) -> Folder:
        """A folder that holds a run. Raises UserError (66) where there is none."""
        folder = cls(path)
        if not folder.federation.exists():
            raise UserError(f"there is no run in {path}", Exit.MISSING)
        return folder

    def config(self) -> Config:
        """The configuration as run."""
        return load(self.federation)

    def base(self) -> Path:
        """Where the user's app file lies."""
        return Path(json.loads(self.about.read_text())["base"])

    def records(self) -> Iterator[Record]:
        """All events so far."""
        return read_events(self.events) if self.events.exists() else iter(())

    def cut_events(self, size: int) -> None:
        """Forget the events behind a checkpoint; they will happen again."""
        if self.events.exists():
            os.truncate(self.events, size)


def _stamped(name: str) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = Path("runs") / f"{name}-{stamp}"
    number = 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{stamp}-{number}"
    return path


def versions() -> dict[str, Any]:
    """What this run was made with."""
    found: dict[str, Any] = {"python": sys.version.split()[0], "platform": platform.platform()}
    for package in ("ostraka", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found

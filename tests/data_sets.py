"""The MNIST-like data sets where this machine has them, else small ones of the same form."""

from __future__ import annotations

import gzip
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Found:
    """A --data-dir that holds the data set, and how many examples are in it."""

    folder: Path
    train: int
    test: int


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file."""
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def find(name: str, tmp_path: Path) -> Found:
    """The real files of OSTRAKA_DATA or ../shared/data, else 1,200 + 200 made ones; says which."""
    folder = Path(os.environ.get("OSTRAKA_DATA") or SHARED)
    if (folder / name).is_dir():
        print(f"{name}: the real files in {folder}")
        return Found(folder, 60_000, 10_000)
    print(f"{name}: none in {folder}; small files of our own stand in")
    make(tmp_path / name)
    return Found(tmp_path, 1200, 200)


def make(folder: Path) -> None:
    """IDX files that can be learnt: each class lights its own band of rows, under noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    for part, count in (("train", 1200), ("t10k", 200)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 100, (count, 28, 28))
        for row, label in enumerate(labels):
            images[row, 2 * label : 2 * label + 4] += 150
        images[0, 0, :2] = (0, 255)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(idx(array), 1))

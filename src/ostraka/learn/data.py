"""The data sets that are built in: the UCI digits from the package, others from a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from ostraka.learn.catalogue import facts
from ostraka.learn.formats import DataError, read_cifar, read_idx

__all__ = ["DataError", "DataMissing", "Dataset", "load"]

_IDX = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}
_CIFAR_TRAIN = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
_CIFAR_TEST = ("test_batch.bin",)


class DataMissing(FileNotFoundError):  # noqa: N818
    """Data files are not where they were looked for; names the folders and the files."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images float32 (N, channels, height, width) in [0, 1], labels int64 (N,) in [0, classes)."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int
    name: str


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """A data set by name: digits, mnist, fashion-mnist, cifar-10 (snake_case accepted).

    All but digits are read from ``data_dir/<name>/`` or ``data_dir`` itself, under their official
    file names, the IDX files gzipped or not. Nothing is downloaded. Raises ValueError for an
    unknown name, DataMissing when files are not there, DataError when they are broken.
    """
    found = facts(name)
    name = name.replace("_", "-")
    if name == "digits":
        return _digits()
    if name == "cifar-10":
        train, test = _cifar(name, data_dir)
    else:
        train, test = _idx(name, data_dir)
    return Dataset(*train, *test, classes=found.classes, name=name)


def _digits() -> Dataset:
    """The digits of the package, split 80/20 within each class.

    The order within a class is that of SHA-256 over the example's index, so that the test set is
    the same for ever, whatever NumPy's generators become.
    """
    source = resources.files("ostraka.learn") / "datasets" / "digits.npz"
    with source.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    pixels = (images.astype(np.float32) / np.float32(16))[:, None]
    keys = [
        hashlib.sha256(f"ostraka digits split, seed 0: {k}".encode()).digest()
        for k in range(len(labels))
    ]
    order = np.array(sorted(range(len(labels)), key=keys.__getitem__))
    test = np.zeros(len(labels), bool)
    for label in range(10):
        members = order[labels[order] == label]
        test[members[: round(len(members) / 5)]] = True
    return Dataset(pixels[~test], labels[~test], pixels[test], labels[test], 10, "digits")


def _missing(name: str, data_dir: Path | None, files: tuple[str, ...]) -> DataMissing:
    looked = "no folder was given"
    if data_dir is not None:
        looked = f"looked in {data_dir / name} and {data_dir}"
    return DataMissing(
        f"the files of {name} are missing: {looked}; expected {', '.join(files)}. "
        "Name their folder with --data-dir DIR or OSTRAKA_DATA"
    )


def _find(
    name: str, data_dir: Path | None, wanted: Sequence[tuple[str, ...]], sub: str
) -> list[Path]:
    """One path per entry of ``wanted`` (a file's possible names), all in one folder."""
    if data_dir is not None:
        base = Path(data_dir)
        for folder in (base / name / sub, base / name, base / sub, base):
            paths = [[folder / n for n in names if (folder / n).is_file()] for names in wanted]
            if all(paths):
                return [path[0] for path in paths]
    raise _missing(name, data_dir, tuple(names[0] for names in wanted))


def _labels(path: Path, labels: np.ndarray, images: int, classes: int) -> np.ndarray:
    if len(labels) != images:
        raise DataError(path, f"{images} labels, one per image", f"{len(labels)}")
    if int(labels.max()) >= classes:
        raise DataError(path, f"labels 0..{classes - 1}", f"label {int(labels.max())}")
    return labels.astype(np.int64)


def _idx(name: str, data_dir: Path | None) -> list[tuple[np.ndarray, np.ndarray]]:
    found = facts(name)
    paths = _find(name, data_dir, [(f"{file}.gz", file) for file in _IDX.values()], "")
    parts = []
    for x_path, y_path in (paths[:2], paths[2:]):
        images = read_idx(x_path, found.shape[1:])
        labels = _labels(y_path, read_idx(y_path, ()), len(images), found.classes)
        parts.append((_pixels(images)[:, None], labels))
    return parts


def _cifar(name: str, data_dir: Path | None) -> list[tuple[np.ndarray, np.ndarray]]:
    wanted = [(file,) for file in _CIFAR_TRAIN + _CIFAR_TEST]
    paths = _find(name, data_dir, wanted, "cifar-10-batches-bin")
    parts = []
    for group in (paths[: len(_CIFAR_TRAIN)], paths[len(_CIFAR_TRAIN) :]):
        read = [(path, *read_cifar(path)) for path in group]
        labels = [_labels(path, y, len(x), facts(name).classes) for path, x, y in read]
        parts.append((_pixels(np.concatenate([x for _, x, _ in read])), np.concatenate(labels)))
    return parts


def _pixels(images: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [0, 1], with one array of the result's size."""
    pixels = images.astype(np.float32)
    pixels /= np.float32(255)
    return pixels

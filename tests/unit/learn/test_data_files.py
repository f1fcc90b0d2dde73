"""Data files: good ones load exactly; broken or hostile ones are refused by name and cheaply."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data_sets import find, idx

from ostraka.learn.catalogue import DATASETS
from ostraka.learn.data import DataError, DataMissing, load
from ostraka.learn.formats import CIFAR_RECORD, read_cifar, read_idx

NAMES = {
    "train-images-idx3-ubyte": 7,
    "train-labels-idx1-ubyte": 7,
    "t10k-images-idx3-ubyte": 3,
    "t10k-labels-idx1-ubyte": 3,
}


def small(name, count, rng):
    shape = (count, 28, 28) if "images" in name else (count,)
    return rng.integers(0, 256 if "images" in name else 10, shape)


def write_mnist(folder, zipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    arrays = {name: small(name, count, rng) for name, count in NAMES.items()}
    for name, array in arrays.items():
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return arrays


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("sub", ["mnist", ""])
def test_small_idx_files_of_our_own(tmp_path, zipped, sub):
    arrays = write_mnist(tmp_path / sub, zipped)
    found = load("mnist", tmp_path)
    assert found.train_x.shape == (7, 1, 28, 28)
    assert found.train_x.dtype == np.float32
    want = arrays["train-images-idx3-ubyte"][:, None].astype(np.float32) / np.float32(255)
    assert np.array_equal(found.train_x, want)
    assert np.array_equal(found.test_y, arrays["t10k-labels-idx1-ubyte"])
    assert (found.test_y.dtype, found.classes, found.name) == (np.int64, 10, "mnist")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_whole_data_sets(name, tmp_path):
    files = find(name, tmp_path)
    found = load(name, files.folder)
    assert found.train_x.shape == (files.train, 1, 28, 28)
    assert found.test_x.shape == (files.test, 1, 28, 28)
    assert (float(found.train_x.min()), float(found.train_x.max())) == (0.0, 1.0)
    assert set(np.unique(found.test_y)) == set(range(10))


def test_digits_are_in_the_package():
    found = load("digits")
    facts = DATASETS["digits"]
    assert found.train_x.shape == (facts.train, *facts.shape)
    assert found.test_x.shape == (facts.test, *facts.shape)
    assert (float(found.train_x.min()), float(found.train_x.max())) == (0.0, 1.0)
    train, test = np.bincount(found.train_y), np.bincount(found.test_y)
    assert np.all(np.abs(test / (train + test) - 0.2) < 0.003)
    assert found.test_y[:12].tolist() == load("digits").test_y[:12].tolist()
    both = np.concatenate([found.train_x, found.test_x])
    assert len(both) == 1797


def test_missing_files_say_where_and_what(tmp_path):
    with pytest.raises(DataMissing, match=r"train-images-idx3-ubyte\.gz.*--data-dir.*OSTRAKA_DATA"):
        load("mnist", tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "cifar-10")):
        load("cifar-10", tmp_path)
    with pytest.raises(DataMissing, match="no folder was given"):
        load("fashion-mnist")
    with pytest.raises(ValueError, match="known are: digits"):
        load("imagenet", tmp_path)
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataMissing):
        load("mnist", tmp_path)


GOOD = idx(np.arange(2 * 28 * 28).reshape(2, 28, 28) % 256)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "magic"),
        (GOOD[:3], "magic"),
        (GOOD[:9], "header of 16 bytes"),
        (b"\0\0\x0d\x03" + GOOD[4:], "magic"),
        (b"\0\0\x08\x01" + GOOD[4:], "magic"),
        (GOOD[:-1], "1568 bytes"),
        (GOOD + b"\0", "more"),
        (GOOD[:4] + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1), "sizes"),
        (GOOD[:4] + struct.pack(">3I", 2**32 - 1, 28, 28), "sizes"),
        (GOOD[:4] + struct.pack(">3I", 0, 28, 28), "sizes"),
        (GOOD[:4] + struct.pack(">3I", 2, 28, 29), "sizes"),
        (b"\x80\x04\x95pickle", "magic"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_broken_idx(tmp_path, body, words, zipped):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(body) if zipped else body)
    with pytest.raises(DataError, match=words) as error:
        read_idx(path, (28, 28))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("cut", [2, 5, 12, 30, -9, -4, -1])
def test_cut_gzip(tmp_path, cut):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(GOOD)[:cut])
    with pytest.raises(DataError, match="images"):
        read_idx(path, (28, 28))


def test_wrong_checksum(tmp_path):
    body = bytearray(gzip.compress(GOOD))
    body[-8] ^= 1
    path = tmp_path / "images.gz"
    path.write_bytes(bytes(body))
    with pytest.raises(DataError, match="CRC"):
        read_idx(path, (28, 28))


def test_a_bomb_costs_no_memory(tmp_path):
    """32 MiB of zeros behind an honest header, and a header that promises 784 MB of nothing."""
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(GOOD + bytes(1 << 25), 1))
    tracemalloc.start()
    with pytest.raises(DataError, match="more"):
        read_idx(path, (28, 28))
    path.write_bytes(gzip.compress(GOOD[:4] + struct.pack(">3I", 10**6, 28, 28)))
    with pytest.raises(DataError, match="784000000 bytes"):
        read_idx(path, (28, 28))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.slow
@settings(max_examples=300)
@given(where=st.integers(0, 1 << 30), bits=st.integers(1, 255), zipped=st.booleans())
def test_one_altered_byte(tmp_path_factory, where, bits, zipped):
    """Any byte of the file altered: the same sizes with other pixels, or DataError."""
    body = bytearray(gzip.compress(GOOD, mtime=0) if zipped else GOOD)
    body[where % len(body)] ^= bits
    path = tmp_path_factory.getbasetemp() / "altered"
    path.write_bytes(bytes(body))
    try:
        found = read_idx(path, (28, 28))
    except DataError:
        return
    assert found.shape == (2, 28, 28)


@pytest.mark.slow
@settings(max_examples=200)
@given(body=st.binary(max_size=64))
def test_any_bytes(tmp_path_factory, body):
    path = tmp_path_factory.getbasetemp() / "any"
    for prefix in (b"", b"\x1f\x8b", GOOD[:4]):
        path.write_bytes(prefix + body)
        with pytest.raises(DataError):
            read_idx(path, (28, 28))
        with pytest.raises(DataError):
            read_cifar(path)


def test_labels_must_fit(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.full(7, 10))))
    with pytest.raises(DataError, match=r"labels 0\.\.9, saw label 10"):
        load("mnist", tmp_path)
    path.write_bytes(gzip.compress(idx(np.zeros(6))))
    with pytest.raises(DataError, match="7 labels"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("sub", ["", "cifar-10", "cifar-10/cifar-10-batches-bin"])
def test_cifar(tmp_path, sub):
    folder = tmp_path / sub
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    records = rng.integers(0, 256, (6, 2, CIFAR_RECORD), dtype=np.uint8)
    records[:, :, 0] %= 10
    files = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    for name, record in zip(files, records, strict=True):
        (folder / name).write_bytes(record.tobytes())
    found = load("cifar_10", tmp_path)
    assert found.train_x.shape == (10, 3, 32, 32)
    assert np.array_equal(found.test_y, records[5, :, 0])
    want = records[1, 0, 1:].reshape(3, 32, 32).astype(np.float32) / np.float32(255)
    assert np.array_equal(found.train_x[2], want)
    bad = records[2].copy()
    bad[1, 0] = 10
    (folder / "data_batch_3.bin").write_bytes(bad.tobytes())
    with pytest.raises(DataError, match="data_batch_3"):
        load("cifar-10", tmp_path)


@pytest.mark.parametrize("size", [0, 1, CIFAR_RECORD - 1, CIFAR_RECORD + 1, 10_001 * CIFAR_RECORD])
def test_broken_cifar(tmp_path, size):
    path = tmp_path / "data_batch_1.bin"
    with path.open("wb") as stream:
        stream.truncate(size)
    with pytest.raises(DataError, match="whole records of 3073 bytes"):
        read_cifar(path)

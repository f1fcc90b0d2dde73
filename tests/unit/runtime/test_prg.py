"""The secret stream is AES-256 in counter mode, whatever the sizes of the calls."""

import copy
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ostraka.crypto.prg import Prg, fill_rows

KEY = bytes(range(32))


def blocks(key, count):
    """The stream by its definition: the cipher of 0, 1, 2, ... one block after the other."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return b"".join(block.update(k.to_bytes(16, "big")) for k in range(count))


def test_the_first_block_is_the_published_one():
    """AES-256 of a zero block under a zero key (NIST's GFSbox and KeySbox tables start from it)."""
    assert Prg(bytes(32)).read(16).hex() == "dc95c078a2408989ad48a21492842087"


def test_the_stream_is_the_cipher_of_the_counter():
    assert Prg(KEY).read(5000) == blocks(KEY, 313)[:5000]


@pytest.mark.parametrize("size", [1, 15, 16, 4097, 65536, 100_000])
def test_calls_go_on_where_the_last_one_ended(size):
    prg, whole = Prg(KEY), Prg(KEY).read(200_000)
    got = b"".join(prg.read(min(size, 200_000 - at)) for at in range(0, 200_000, max(size, 5000)))
    assert got == whole[: len(got)]
    assert len({whole[at : at + 16] for at in range(0, 200_000, 16)}) == 12_500


def test_words_are_little_endian_and_share_the_stream():
    prg, whole = Prg(KEY), blocks(KEY, 20_000)
    assert prg.read(3) == whole[:3]
    words = prg.words(30_000)
    assert words.dtype == np.uint64
    assert words.dtype.isnative
    assert np.array_equal(words, np.frombuffer(whole[3:240_003], "<u8"))
    assert prg.read(5) == whole[240_003:240_008]


def test_nothing_asked_nothing_taken():
    prg = Prg(KEY)
    assert prg.read(0) == b""
    assert prg.words(0).shape == (0,)
    assert prg.read(16) == blocks(KEY, 1)
    for ask in (prg.read, prg.words):
        with pytest.raises(ValueError, match="negative, got -1"):
            ask(-1)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_has_32_bytes(size):
    with pytest.raises(ValueError, match=f"32 bytes, got {size}"):
        Prg(bytes(size))


def test_the_key_shows_nowhere_and_no_copy_repeats_the_stream():
    prg = Prg(b"correct horse battery staple 32b")
    assert repr(prg) == str(prg) == "Prg(secret)"
    assert not hasattr(prg, "__dict__")
    for again in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor stored"):
            again(prg)


@pytest.mark.parametrize("width", [0, 1, 8191, 8192, 8193, 20_000])
def test_rows_are_filled_as_one_by_one(width):
    keys = [bytes([k]) * 32 for k in range(3)]
    together, alone = (np.empty((3, 2 * width), np.uint64) for _ in range(2))
    streams = [Prg(key) for key in keys]
    for part in (slice(0, width), slice(width, 2 * width)):
        block = np.empty((3, width), np.uint64)
        fill_rows(streams, block)
        together[:, part] = block
    for key, row in zip(keys, alone, strict=True):
        Prg(key).fill(row)
    assert np.array_equal(together, alone)


def test_rows_of_another_kind_are_refused():
    for out in (np.empty((2, 4), np.int64), np.empty((3, 4), np.uint64), np.empty((4, 2)).T):
        with pytest.raises(ValueError, match="2 rows of uint64 words"):
            fill_rows([Prg(KEY), Prg(KEY)], out)

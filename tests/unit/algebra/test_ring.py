"""Every ring function equals Python integers, whatever the sizes, the map and the words."""

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from ostraka.algebra import ring
from ostraka.crypto.prg import Prg

SIZES = [(1, 1), (1, 0), (2, 1), (3, 31), (4, 33), (5, 1025), (10, 97), (13, 2048), (17, 2500)]
EXTREMES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2**31, 2**64 - 1]


@pytest.fixture(scope="module", autouse=True)
def _kernels():
    """Loaded or compiled once, before the first test's time is taken."""
    importlib.import_module("ostraka.algebra.kernels.ring")


def words(n, w, key=0):
    """Random words with extreme ones strewn in."""
    out = Prg(bytes([key] * 32)).words(n * w).reshape(n, w).copy()
    flat = out.reshape(-1)
    flat[::7] = np.resize(np.array(EXTREMES, np.uint64), flat[::7].shape)
    return out


def sign_words(count, w, key=9):
    return Prg(bytes([key] * 32)).words(count * ring.sign_words(w)).reshape(count, -1)


def signs(drawn, w):
    """The signs int8 (K, w) that words stand for: a slow twin of the definition."""
    octets = drawn.astype("<u8").view(np.uint8).reshape(len(drawn), -1)
    bits = np.unpackbits(octets, axis=1, bitorder="little").reshape(len(drawn), -1, 8)
    three = bits[:, :, 0:6:2].astype(np.int8) - bits[:, :, 1:6:2].astype(np.int8)
    return three.reshape(len(drawn), -1)[:, :w]


def exact(left, right):
    """left @ right.T mod 2^64 in Python integers."""
    product = left.astype(object) @ right.astype(object).T
    return np.array(product % 2**64, dtype=np.uint64).reshape(len(left), len(right))


def started(*shape):
    """Sums that were not zero before."""
    return np.full(shape, 2**64 - 5, np.uint64)


@pytest.mark.parametrize(("n", "w"), SIZES)
def test_gram_equals_python_integers(n, w):
    block, out = words(n, w), started(n, n)
    ring.add_gram(block, out)
    np.testing.assert_array_equal(out, exact(block, block) + started(n, n))


@pytest.mark.parametrize(("n", "w"), SIZES)
@pytest.mark.parametrize("m", [1, 4, 7])
def test_products_equal_python_integers(n, w, m):
    a, b, out = words(n, w), words(m, w, key=1), started(n, m)
    ring.add_products(a, b, out)
    np.testing.assert_array_equal(out, exact(a, b) + started(n, m))


@pytest.mark.parametrize(("n", "w"), SIZES)
def test_rowwise_products_equal_python_integers(n, w):
    a, b = words(n, w), words(n, w, key=1)
    dots, squares = started(n), started(n)
    ring.add_dots(a, b, dots)
    ring.add_squares(a, squares)
    np.testing.assert_array_equal(dots, exact(a, b).diagonal() + started(n))
    np.testing.assert_array_equal(squares, exact(a, a).diagonal() + started(n))


@pytest.mark.parametrize(("n", "w"), SIZES)
@pytest.mark.parametrize("count", [1, 5, 40])
def test_projections_equal_python_integers(n, w, count):
    block, drawn, out = words(n, w), sign_words(count, w), started(n, count)
    ring.add_signed(block, drawn, out)
    np.testing.assert_array_equal(out, exact(block, signs(drawn, w)) + started(n, count))


@pytest.mark.parametrize(("n", "w"), SIZES)
def test_weighted_sums_equal_python_integers(n, w):
    block = words(n, w)
    for weights in (words(1, n, key=3)[0], -np.arange(n, dtype=np.int64) * 2**40):
        out = started(w)
        ring.add_weighted(weights, block, out)
        expected = weights.astype(object) @ block.astype(object) % 2**64
        np.testing.assert_array_equal(out, np.array(expected, dtype=np.uint64) + started(w))


def test_no_rows_give_no_sums():
    none, some = np.empty((0, 5), np.uint64), words(3, 5)
    ring.add_gram(none, np.empty((0, 0), np.uint64))
    ring.add_products(none, some, np.empty((0, 3), np.uint64))
    ring.add_signed(some, np.empty((0, 1), np.uint64), np.empty((3, 0), np.uint64))
    out = started(5)
    ring.add_weighted(np.empty(0, np.uint64), none, out)
    np.testing.assert_array_equal(out, started(5))


@pytest.mark.parametrize("w", [1, 15, 4095, 4097, 9000])
def test_any_cut_into_blocks_on_any_thread_gives_the_same(w):
    a, b, drawn = words(9, w), words(4, w, key=1), sign_words(6, w)
    cuts = [(low, min(low + 792, w)) for low in range(0, w, 792)]  # 33 whole words of signs
    of_signs = signs(drawn, w).astype(np.int64).view(np.uint64)
    with ThreadPoolExecutor(3) as pool:
        for add, right, each, numbers in (
            (ring.add_products, b, 1, b),
            (ring.add_signed, drawn, ring.SIGNS_PER_WORD, of_signs),
        ):
            whole, cut = (np.zeros((9, len(right)), np.uint64) for _ in range(2))
            add(a, right, whole)
            for part in pool.map(partial(of_columns, add, a, right, each), cuts):
                cut += part
            np.testing.assert_array_equal(whole, cut)
            np.testing.assert_array_equal(whole, a @ numbers.T)
    alone = np.zeros((9, 9), np.uint64)
    ring.add_gram(a, alone)
    np.testing.assert_array_equal(alone, a @ a.T)


def of_columns(add, a, right, each, columns):
    low, high = columns
    out = np.zeros((len(a), len(right)), np.uint64)
    add(a[:, low:high].copy(), right[:, low // each : -(-high // each)].copy(), out)
    return out


def test_read_only_and_unaligned_blocks_are_read():
    block = words(3, 40)
    shifted = np.frombuffer(b"\0" + block.tobytes(), np.uint64, offset=1).reshape(3, 40)
    out = np.zeros((3, 3), np.uint64)
    ring.add_gram(shifted, out)
    np.testing.assert_array_equal(out, exact(block, block))


def good():
    return words(3, 8), np.zeros((3, 3), np.uint64)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x, out: (x.view(np.int64), out), "block must be a C-contiguous uint64 matrix"),
        (lambda x, out: (x.astype(">u8"), out), "block must be"),
        (lambda x, out: (x[0], out), "block must be"),
        (lambda x, out: (x[:, ::2], out), "not C-contiguous"),
        (lambda x, out: (np.asfortranarray(x), out), "not C-contiguous"),
        (lambda x, out: (x, out[:2]), r"out must be a C-contiguous uint64 array \(3, 3\)"),
        (lambda x, out: (x, out.astype(np.int64)), "out must be"),
        (lambda x, out: (x, np.asfortranarray(np.zeros((3, 6), np.uint64)[:, ::2])), "out must be"),
        (lambda x, out: (x, np.broadcast_to(np.uint64(0), (3, 3))), "out must be"),
        (lambda x, out: (x, x.reshape(-1)[:9].reshape(3, 3)), "share memory"),
    ],
)
def test_wrong_arrays_are_refused(spoil, said):
    block, out = spoil(*good())
    with pytest.raises(ValueError, match=said):
        ring.add_gram(block, out)


def test_arrays_that_do_not_fit_together_are_refused():
    block, out = good()
    narrow, few, line = words(3, 7), words(2, 8), np.zeros(3, np.uint64)
    with pytest.raises(ValueError, match="b must be"):
        ring.add_products(block, narrow, out)
    with pytest.raises(ValueError, match="b must be"):
        ring.add_dots(block, narrow, line)
    with pytest.raises(ValueError, match="as many rows"):
        ring.add_dots(block, few, line)
    for bad in (np.zeros((3, 1), np.int8), words(3, 2), words(1, 1)[0], words(3, 0)):
        with pytest.raises(
            ValueError, match=r"words must be a C-contiguous uint64 matrix \(rows, 1"
        ):
            ring.add_signed(block, bad, out)
    for weights in (np.ones(3, np.int32), np.ones(2, np.uint64), np.ones((3, 1), np.int64)):
        with pytest.raises(ValueError, match="weights must be int64 or uint64"):
            ring.add_weighted(weights, block, np.zeros(8, np.uint64))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        ring.add_gram(block, out)


@pytest.mark.parametrize(
    ("w", "count"), [(0, 0), (1, 1), (23, 1), (24, 1), (25, 2), (100, 5), (8192, 342)]
)
def test_a_word_stands_for_24_signs(w, count):
    assert ring.sign_words(w) == count


def test_every_byte_at_every_place_stands_for_its_three_signs():
    """All 256 bytes in each of the eight places, each sign seen through a unit vector."""
    unit = np.eye(24, dtype=np.uint64)
    for place in range(8):
        drawn = (np.arange(256, dtype=np.uint64) << np.uint64(8 * place)).reshape(256, 1)
        seen = np.zeros((24, 256), np.uint64)
        ring.add_signed(unit, drawn, seen)
        for byte in range(256):
            bit = [byte >> at & 1 for at in range(6)]
            expected = [bit[0] - bit[1], bit[2] - bit[3], bit[4] - bit[5]]
            column = seen[:, byte].view(np.int64).tolist()
            assert column == [0] * 3 * place + expected + [0] * (21 - 3 * place)


def test_bits_beyond_the_width_count_for_nothing():
    block = words(3, 25)
    one, other = (np.zeros((3, 1), np.uint64) for _ in range(2))
    drawn = np.array([[0x1624_0912_3F2A_1506, 0b01]], np.uint64)
    ring.add_signed(block, drawn, one)
    ring.add_signed(block, drawn | np.array([[0xC0C0 << 48, 2**64 - 4]], np.uint64), other)
    np.testing.assert_array_equal(one, other)


def test_signs_are_a_quarter_a_half_and_a_quarter_alone_and_in_pairs():
    """Chi-square with 8 degrees of freedom on neighbouring signs: 26.1 is the 0.999 quantile."""
    drawn = signs(sign_words(100, 2048), 2048)
    share = np.array([1, 2, 1]) / 4
    for first, second in ((drawn[:, :-1:2], drawn[:, 1::2]), (drawn[:-1:2], drawn[1::2])):
        seen = np.bincount((3 * (first + 1) + second + 1).reshape(-1), minlength=9)
        wanted = np.outer(share, share).reshape(-1) * first.size
        assert ((seen - wanted) ** 2 / wanted).sum() < 26.1


@pytest.mark.slow
def test_importing_the_ring_does_not_load_the_compiler():
    code = (
        "import sys, ostraka.algebra.ring, ostraka.algebra.fixed; sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_a_folder_for_machine_code_kernels_are_compiled_in_every_process(monkeypatch):
    kernels = importlib.import_module("ostraka.algebra.kernels")
    asked = []

    def njit(signature, **options):
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")
        return lambda function: function

    monkeypatch.setattr(kernels, "njit", njit)
    assert kernels.kernel("int64")(abs) is abs
    assert asked == [{"nogil": True, "cache": True}, {"nogil": True}]

    def broken(signature, **options):
        raise RuntimeError("something else")

    monkeypatch.setattr(kernels, "njit", broken)
    with pytest.raises(RuntimeError, match="something else"):
        kernels.kernel("int64")(abs)

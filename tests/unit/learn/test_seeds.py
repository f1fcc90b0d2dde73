"""Streams depend on each of the four values and on nothing else."""

import numpy as np
import pytest

from ostraka.learn import seeds

BASE = (7, 3, 5, "minibatch")
OTHERS = [(8, 3, 5, "minibatch"), (7, 4, 5, "minibatch"), (7, 3, 6, "minibatch"), (7, 3, 5, "x")]


def draws(values):
    return seeds.stream(*values).integers(2**63, size=4).tolist()


def test_same_values_same_stream():
    assert draws(BASE) == draws(BASE)
    assert seeds.torch_seed(*BASE) == seeds.torch_seed(*BASE)


@pytest.mark.parametrize("other", OTHERS)
def test_each_value_matters(other):
    assert draws(BASE) != draws(other)
    assert seeds.torch_seed(*BASE) != seeds.torch_seed(*other)


def test_is_the_stated_derivation():
    import hashlib

    word = int.from_bytes(hashlib.sha256(b"minibatch").digest()[:8], "big")
    twin = np.random.Generator(np.random.PCG64(np.random.SeedSequence((7, 4, 6, word))))
    assert draws(BASE) == twin.integers(2**63, size=4).tolist()


def test_global_state_is_not_touched():
    before = np.random.get_state()[1].copy()
    draws(BASE)
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("values", [(-1, 0, 0), (2**64, 0, 0), (0, -2, 0), (0, 0, -2)])
def test_out_of_range(values):
    for make in (seeds.stream, seeds.torch_seed):
        with pytest.raises(ValueError, match=r"must be in|start at"):
            make(*values, "x")


def test_the_ends_are_allowed():
    assert seeds.torch_seed(2**64 - 1, -1, -1, "x") < 2**63
    seeds.stream(2**64 - 1, -1, -1, "x")

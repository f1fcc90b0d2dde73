"""The first vector follows from the seed; its digest and file are exact; torch comes late."""

import hashlib
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from ostraka.learn.app import App
from ostraka.learn.initial import (
    build,
    initial_vector,
    load_vector,
    model_digest,
    save_vector,
)
from ostraka.learn.threads import one_thread

APP = App(lambda: nn.Linear(3, 2), lambda site: None)


def test_follows_from_the_seed_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    first = initial_vector(APP, 1)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    assert np.array_equal(initial_vector(APP, 1), first)
    assert not np.array_equal(initial_vector(APP, 2), first)


def test_frozen_parts_agree_between_parties():
    def model():
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
        module[0].requires_grad_(False)
        return module

    app = App(model, lambda site: None)
    one, two = build(app, 4), build(app, 4)
    assert one.dimension == 8
    assert torch.equal(one.module[0].weight, two.module[0].weight)


def test_digest_is_of_little_endian_float32():
    theta = np.array([1.0, -0.0, 1e-42, np.inf], np.float32)
    want = hashlib.sha256(b"".join(struct.pack("<f", v) for v in theta)).hexdigest()
    assert model_digest(theta) == f"sha256:{want}"
    assert model_digest(np.stack([theta, theta], 1)[:, 0]) == f"sha256:{want}"
    assert model_digest(theta.astype(">f4").astype("<f4")) == f"sha256:{want}"
    for bad in (theta.astype(float), theta[None]):
        with pytest.raises(ValueError, match="float32 vector"):
            model_digest(bad)


def test_file_round_trip(tmp_path):
    path = tmp_path / "model.safetensors"
    theta = np.random.default_rng(0).normal(size=1001).astype(np.float32)
    save_vector(path, theta[::-1])
    assert np.array_equal(load_vector(path, 1001), theta[::-1])
    assert load_vector(path).dtype == np.float32
    with pytest.raises(ValueError, match=r"expected float32 \(7,\)"):
        load_vector(path, 7)
    with pytest.raises(ValueError, match="float32 vector"):
        save_vector(path, theta.astype(float))


def test_broken_files(tmp_path):
    from safetensors.numpy import save

    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError):
        load_vector(path)
    good = save({"vector": np.zeros(4, np.float32)})
    for body in (b"", good[:-1], b"\xff" * 8 + good[8:], good + b"x", b"\x80\x04pickle"):
        path.write_bytes(body)
        with pytest.raises(ValueError, match="safetensors"):
            load_vector(path)
    for arrays in (
        {"theta": np.zeros(4, np.float32)},
        {"vector": np.zeros(4)},
        {"vector": np.zeros((2, 2), np.float32)},
        {"vector": np.zeros(4, np.float32), "more": np.zeros(1)},
    ):
        path.write_bytes(save(arrays))
        with pytest.raises(ValueError, match=r"must hold one|expected float32"):
            load_vector(path)


def test_one_thread():
    one_thread()
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_what_needs_no_torch_imports_none():
    modules = "settings seeds data formats partition catalogue privacy initial"
    code = "import sys; sys.modules['torch'] = None\n" + "".join(
        f"import ostraka.learn.{name}\n" for name in modules.split()
    )
    code += "from ostraka.learn.data import load; load('digits')\n"
    code += "assert 'dp_accounting' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

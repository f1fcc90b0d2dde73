"""A module and its flat vector are the same numbers, and what cannot travel is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from ostraka.learn.vectors import FlatModel


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def test_vector_is_the_parameters_in_order():
    module = net()
    want = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    flat = FlatModel(module)
    assert np.array_equal(flat.vector(), want)
    assert flat.dimension == flat.parameters == want.size


def test_round_trip_and_views():
    flat = FlatModel(net())
    theta = np.random.default_rng(1).normal(size=flat.dimension).astype(np.float32)
    kept = theta.copy()
    flat.load(theta)
    theta[:] = 0
    assert np.array_equal(flat.vector(), kept)
    found = torch.cat([p.detach().reshape(-1) for p in flat.module.parameters()]).numpy()
    assert np.array_equal(found, kept)
    frozen = kept.copy()
    frozen.setflags(write=False)
    flat.load(frozen)


def test_gradient_is_autograds():
    flat, twin = FlatModel(net()), net()
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    for _ in range(2):
        flat.zero_gradient()
        flat.module(x).square().mean().backward()
    twin(x).square().mean().backward()
    want = torch.cat([p.grad.reshape(-1) for p in twin.parameters()]).numpy()
    assert np.array_equal(flat.gradient(), want)


def test_wrong_vectors():
    flat = FlatModel(net())
    for bad in (np.zeros(flat.dimension), np.zeros(3, np.float32), np.zeros((1, 3), np.float32)):
        with pytest.raises(ValueError, match="expected a float32 vector"):
            flat.load(bad)


def test_batchnorm_is_refused_and_groupnorm_named():
    with pytest.raises(ValueError, match=r"'1\.running_mean'.*GroupNorm"):
        FlatModel(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


def test_listed_buffers_travel_at_the_end():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    flat = FlatModel(module, ("1.running_var", "1.running_mean"))
    assert (flat.parameters, flat.dimension) == (12, 16)
    assert flat.vector()[12:].tolist() == [1, 1, 0, 0]
    theta = np.arange(16, dtype=np.float32)
    flat.load(theta)
    assert module[1].running_mean.tolist() == [14, 15]
    module(torch.randn(8, 3))
    assert flat.vector()[12:].tolist() == [
        *module[1].running_var.tolist(),
        *module[1].running_mean.tolist(),
    ]
    assert int(module[1].num_batches_tracked) == 1
    flat.load(theta)
    assert int(module[1].num_batches_tracked) == 0


def test_constants_that_are_not_saved_do_not_travel():
    module = nn.Linear(2, 2)
    module.register_buffer("table", torch.ones(3), persistent=False)
    assert FlatModel(module).dimension == 6
    module.register_buffer("mean", torch.ones(3))
    with pytest.raises(ValueError, match="'mean'"):
        FlatModel(module)


def test_frozen_and_tied_parameters():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    module[0].weight.requires_grad_(False)
    module[1].weight = module[2].weight = nn.Parameter(torch.ones(3, 3))
    assert FlatModel(module).dimension == 3 + 9 + 3 + 2


def test_other_layouts():
    module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    want = module.weight.detach().clone()
    flat = FlatModel(module)
    assert torch.equal(module.weight, want)
    assert np.array_equal(flat.vector()[:108], want.reshape(-1).numpy())


@pytest.mark.parametrize(
    ("make", "buffers", "words"),
    [
        (lambda: nn.Linear(2, 2).double(), (), r"float32 on the CPU, got torch\.float64"),
        (lambda: nn.Linear(2, 2).bfloat16(), (), "bfloat16"),
        (lambda: nn.LazyLinear(2), (), "no shape yet"),
        (nn.Flatten, (), "no trainable parameters"),
        (lambda: nn.Linear(2, 2), ("running_mean",), "does not have"),
        (lambda: nn.BatchNorm1d(2), ("running_mean", "running_mean"), "twice"),
        (lambda: nn.BatchNorm1d(2), ("running_mean",), "running_var"),
        (
            lambda: nn.BatchNorm1d(2),
            ("running_mean", "running_var", "num_batches_tracked"),
            "int64",
        ),
    ],
)
def test_refusals(make, buffers, words):
    with pytest.raises(ValueError, match=words):
        FlatModel(make(), buffers)

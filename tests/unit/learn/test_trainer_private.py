"""Clipping per example, noise, sampling: the mechanisms are those that are accounted for."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from ostraka.learn import per_example, seeds
from ostraka.learn.app import App, Examples
from ostraka.learn.per_example import PerExample, clip_factor, norm64
from ostraka.learn.settings import Privacy, Training
from ostraka.learn.vectors import FlatModel
from ostraka.learn.worker import Trainer


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 4))


def conv():
    return nn.Sequential(
        nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4)
    )


class Branching(nn.Module):
    """Control flow that depends on the data, which vmap cannot map."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x):
        out = self.layer(x.flatten(1))
        return -out if bool(x.sum() > 0) else out


def examples(count=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Examples(
        torch.randn(count, 1, 3, 4, generator=g), torch.randint(0, 4, (count,), generator=g)
    )


def twin_sum(module, x, y, clip):
    total = 0.0
    for k in range(len(x)):
        module.zero_grad()
        functional.cross_entropy(module(x[k : k + 1]), y[k : k + 1]).backward()
        g = torch.cat([p.grad.reshape(-1) for p in module.parameters()]).double()
        total = total + g * min(1.0, clip / float(g.norm()))
    return total.numpy()


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(("make", "mapped"), [(mlp, True), (conv, True), (Branching, False)])
def test_clipped_sum_is_the_loops(make, mapped, chunk):
    torch.manual_seed(3)
    module = make()
    x, y = examples()
    want = twin_sum(module, x, y, 0.7)
    each = PerExample(FlatModel(module), functional.cross_entropy)
    each.chunk = chunk
    got = each.clipped_sum(x, y, 0.7)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 if mapped else 1e-5)
    assert each.mapped == mapped


def test_no_examples_sum_to_zero():
    flat = FlatModel(mlp())
    x, y = examples()
    got = PerExample(flat, functional.cross_entropy).clipped_sum(x[:0], y[:0], 1.0)
    assert got.shape == (flat.parameters,)
    assert not got.any()


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 1e30])
def test_one_example_moves_the_sum_by_clip_at_most(bad):
    """Also one that gives infinite gradients, which counts as zero."""
    each = PerExample(FlatModel(mlp()), lambda out, y: out.square().sum())
    x, y = examples()
    rest = each.clipped_sum(x[1:], y[1:], 0.5)
    x = x.clone()
    x[0] = bad
    assert norm64(each.clipped_sum(x, y, 0.5) - rest) <= 0.5 * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_clipped_rows_never_exceed_the_bound(seed):
    rng = np.random.default_rng(seed)
    row = (rng.normal(size=1000) * 10.0 ** rng.integers(-3, 30)).astype(np.float32)
    bound = norm64(row) * rng.uniform(1e-6, 1.5)
    assert norm64(row * np.float32(clip_factor(norm64(row), bound))) <= bound


def private(unit="example", count=40, sigma=0.0, clip=0.7, model=mlp, **settings):
    training = Training(**{"batch_size": 10, "momentum": 0.0, **settings})
    privacy = Privacy(unit, clip, sigma, 1e-5)
    app = App(model, lambda site: None)
    return Trainer(app, examples(count), training, privacy, 5, 2)


def poisson(round, count, rate, steps=1):
    rng = seeds.stream(5, 2, round, seeds.SAMPLING)
    return [np.flatnonzero(rng.random(count) < rate) for _ in range(steps)]


def test_without_noise_it_is_the_clipped_poisson_mean():
    party = private(momentum=0.5, weight_decay=0.1)
    theta = party.model.vector()
    twin = FlatModel(mlp())
    twin.load(theta)
    x, y = examples()
    momentum = 0.0
    for round in range(4):
        (batch,) = poisson(round, 40, 0.25)
        g = twin_sum(twin.module, x[batch], y[batch], 0.7) / 10 + 0.1 * theta
        momentum = 0.5 * momentum + g
        np.testing.assert_allclose(party.update(round, theta), momentum, rtol=0, atol=1e-5)


def test_every_local_step_is_one_mechanism():
    party = private(local_steps=3, learning_rate=0.2)
    theta = party.model.vector()
    sent = party.update(0, theta)
    twin = FlatModel(mlp())
    twin.load(theta)
    x, y = examples()
    total = 0.0
    for batch in poisson(0, 40, 0.25, 3):
        g = twin_sum(twin.module, x[batch], y[batch], 0.7) / 10
        twin.load((twin.vector() - 0.2 * g).astype(np.float32))
        total = total + g
    np.testing.assert_allclose(sent, total, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "steps", "scale"), [("example", 1, 0.1), ("example", 4, 0.2)])
def test_noise_of_examples(unit, steps, scale):
    """sigma * clip per coordinate over the expected batch; independent between local steps."""
    loud = private(unit, sigma=3.0, local_steps=steps, learning_rate=1e-9)
    quiet = private(unit, sigma=0.0, local_steps=steps, learning_rate=1e-9)
    theta = loud.model.vector()
    noise = np.concatenate([loud.update(r, theta) - quiet.update(r, theta) for r in range(30)])
    assert stats.kstest(noise / (3.0 * 0.7 * scale), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.05


def test_noise_of_participants():
    loud, quiet = (private("participant", sigma=s, clip=0.2) for s in (2.0, 0.0))
    theta = loud.model.vector()
    pairs = [(loud.update(r, theta), quiet.update(r, theta)) for r in range(60)]
    assert all(norm64(q) <= 0.2 for _, q in pairs)
    assert any(norm64(q) > 0.199 for _, q in pairs)
    noise = np.concatenate([a - b for a, b in pairs])
    assert stats.kstest(noise / (2.0 * 0.2), "norm").pvalue > 1e-3


def test_momentum_of_a_participant_has_no_noise():
    loud, quiet = (private("participant", sigma=s, momentum=0.9) for s in (5.0, 0.0))
    theta = loud.model.vector()
    for round in range(3):
        loud.update(round, theta), quiet.update(round, theta)
    assert np.array_equal(loud.state()["momentum"], quiet.state()["momentum"])


def test_a_participant_whose_training_diverged_sends_noise_only():
    party = private("participant", sigma=1.0, clip=0.2)
    sent = party.update(0, party.model.vector() * np.float32(1e38))
    assert np.isfinite(sent).all()
    assert sent.any()


@pytest.mark.slow
def test_inclusion_is_poisson():
    """Each example is in with probability q, independently; empty batches happen and are legal."""
    party = private(count=40, batch_size=1, sigma=1.0)
    assert party.sampling_rate == 1 / 40
    theta = party.model.vector()
    sizes = np.array([len(b) for r in range(3000) for b in poisson(r, 40, party.sampling_rate)])
    observed = np.bincount(np.minimum(sizes, 4), minlength=5)
    expected = stats.binom.pmf(range(4), 40, 1 / 40) * len(sizes)
    expected = np.append(expected, len(sizes) - expected.sum())
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    empty = int(np.flatnonzero(sizes == 0)[0])
    sent = party.update(empty, theta)
    noise = seeds.stream(5, 2, empty, seeds.NOISE).standard_normal(len(sent), dtype=np.float32)
    assert np.array_equal(sent, noise * np.float32(0.7))


@pytest.mark.parametrize("unit", ["example", "participant"])
def test_private_training_repeats_and_resumes(unit):
    one, two = (private(unit, sigma=1.0, momentum=0.9) for _ in range(2))
    theta = one.model.vector()
    first = one.update(0, theta)
    assert np.array_equal(two.peek(0, theta), first)
    two.restore(one.state())
    assert np.array_equal(one.update(1, theta), two.update(1, theta))


def test_dropout_differs_between_examples():
    """Under vmap every example has its own mask; the result still follows from the seed."""

    def dropout():
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 30), nn.Dropout(0.5), nn.Linear(30, 4))

    one, two = private(model=dropout), private(model=dropout)
    theta = one.model.vector()
    assert np.array_equal(one.update(0, theta), two.update(0, theta))
    assert one._per_example.mapped


def test_a_model_that_cannot_be_mapped_resumes_bit_for_bit():
    """The attempt to map draws dropout masks; they must not count."""

    class Both(Branching):
        def forward(self, x):
            return super().forward(functional.dropout(x, 0.5))

    one, two = private(model=Both), private(model=Both)
    theta = one.model.vector()
    one.update(0, theta)
    two.restore(one.state())
    assert np.array_equal(one.update(1, theta), two.update(1, theta))
    assert not one._per_example.mapped


@pytest.mark.parametrize("unit", ["example", "participant"])
def test_listed_buffers_are_refused(unit):
    app = App(
        lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12)),
        lambda site: None,
        buffers=("1.running_mean", "1.running_var"),
    )
    with pytest.raises(ValueError, match=r"1\.running_mean.*GroupNorm"):
        Trainer(app, examples(), Training(), Privacy(unit, 1.0, 1.0, 1e-5))


def test_chunks_bound_the_memory(monkeypatch):
    flat = FlatModel(nn.Linear(10, 10))
    for floats, chunk in ((1, 1), (1099, 9), (1100, 10)):
        monkeypatch.setattr(per_example, "CHUNK_FLOATS", floats)
        assert PerExample(flat, functional.cross_entropy).chunk == chunk

"""A real party's samples and noise come from its secret stream; no round is answered twice."""

import numpy as np
import pytest
import torch
from torch import nn

from ostraka.crypto.prg import Prg
from ostraka.learn.app import App, Examples
from ostraka.learn.noise import SecretDraws
from ostraka.learn.settings import Privacy, Training
from ostraka.learn.worker import AlreadySent, Trainer

UNITS = pytest.mark.parametrize("unit", ["example", "participant"])


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 4))


def examples(count=40):
    g = torch.Generator().manual_seed(0)
    return Examples(
        torch.randn(count, 1, 3, 4, generator=g), torch.randint(0, 4, (count,), generator=g)
    )


def secret(key):
    return None if key is None else Prg(bytes([key]) * 32)


def party(unit="example", key=1, sigma=1.0, model=mlp, undo=2, **settings):
    training = Training(**{"batch_size": 10, "momentum": 0.0, **settings})
    privacy = None if unit is None else Privacy(unit, 0.7, sigma, 1e-5)
    app = App(model, lambda site: None)
    return Trainer(app, examples(), training, privacy, 5, 2, secret=secret(key), undo=undo)


@UNITS
def test_the_stream_decides_and_not_the_seed(unit):
    one, again, other, simulated = (party(unit, key) for key in (1, 1, 2, None))
    theta = one.model.vector()
    first = one.update(0, theta)
    assert np.array_equal(again.update(0, theta), first)
    for stranger in (other, simulated):
        assert np.linalg.norm(stranger.update(0, theta) - first) > 0.1
    assert not np.array_equal(one.update(1, theta) - first, np.zeros_like(first))


def test_an_examples_noise_and_samples_are_the_streams_in_order():
    """Per step: the sample, then the noise on the clipped sum, over the expected size."""
    loud, quiet = party(sigma=3.0, local_steps=2, learning_rate=1e-9), party(sigma=0.0)
    theta = loud.model.vector()
    draws, total = SecretDraws(secret(1)), np.zeros_like(theta)
    x, y = examples()
    for _ in range(2):
        chosen = torch.from_numpy(draws.members(40, 0.25))
        assert 0 < len(chosen) < 40
        step = quiet._per_example.clipped_sum(x[chosen], y[chosen], 0.7)
        draws.add_noise(step, 3.0 * np.float32(0.7))
        total += step / np.float32(10)
    np.testing.assert_allclose(loud.update(0, theta), total, rtol=0, atol=1e-5)


def test_a_participants_noise_comes_after_the_clip():
    loud, quiet = party("participant", sigma=2.0), party("participant", key=None, sigma=0.0)
    theta = loud.model.vector()
    want = quiet.update(0, theta).copy()
    SecretDraws(secret(1)).add_noise(want, 1.4)
    assert np.array_equal(loud.update(0, theta), want)


def test_minibatches_and_dropout_stay_on_the_seed():
    def dropout():
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 30), nn.Dropout(0.5), nn.Linear(30, 4))

    for unit in (None, "participant"):
        keyed, public = (party(unit, key, sigma=0.0, model=dropout) for key in (1, None))
        theta = keyed.model.vector()
        assert np.array_equal(keyed.update(0, theta), public.update(0, theta))


@UNITS
def test_the_same_question_has_the_same_answer_and_no_other_is_answered(unit):
    one = party(unit, momentum=0.9)
    theta = one.model.vector()
    one.update(0, theta)
    first = one.update(1, theta)
    assert np.array_equal(one.update(1, theta.copy()), first)
    with pytest.raises(ValueError, match="float32 vector"):
        one.update(2, theta[1:])
    assert one.update(1, theta) is first  # a question that fails costs no answer
    for round, vector in ((1, theta + np.float32(1)), (0, theta)):
        with pytest.raises(AlreadySent, match=f"round {round} may have been answered"):
            one.update(round, vector)
    assert one.update(1, theta) is first
    assert not np.array_equal(one.update(2, theta), first)


@UNITS
def test_a_restored_party_stays_out_of_what_it_may_have_sent(unit):
    one = party(unit, momentum=0.9)
    theta = one.model.vector()
    for round in range(3):
        one.update(round, theta)
    history, state = one.history(), one.state()
    assert history["rounds"].tolist() == [2]
    restored, other = party(unit, key=2, momentum=0.9), party(unit, key=2, momentum=0.9)
    restored.restore_history(history)
    other.restore(state)
    for again in (restored, other):
        for round in (0, 1, 2):
            with pytest.raises(AlreadySent, match="the last one was 2"):
                again.update(round, theta)
    assert np.array_equal(restored.update(3, theta), other.update(3, theta))


def test_no_older_state_makes_a_round_new():
    one = party(momentum=0.9)
    theta = one.model.vector()
    one.update(0, theta)
    old = one.state()
    one.update(1, theta)
    with pytest.raises(AlreadySent):
        one.state(before=1)
    one.restore(old)
    with pytest.raises(AlreadySent, match="the last one was 1"):
        one.update(1, theta)
    assert one.update(2, theta).shape == theta.shape


def test_without_privacy_a_secret_changes_nothing():
    keyed, public = party(None, momentum=0.9), party(None, key=None, momentum=0.9)
    theta = keyed.model.vector()
    for round in (0, 1, 0, 1):
        assert np.array_equal(keyed.update(round, theta), public.update(round, theta))
    assert keyed.history()["rounds"].tolist() == [1, 0, -1]

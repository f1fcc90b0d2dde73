"""Settings refuse nonsense; schedules are what their formulas say, in pure IEEE arithmetic."""

import math

import pytest

from ostraka.learn.settings import SCHEDULES, Privacy, Training


def test_defaults_are_the_page():
    t = Training()
    assert (t.learning_rate, t.momentum, t.batch_size, t.local_steps) == (0.1, 0.9, 32, 1)
    assert (t.model, t.schedule, t.weight_decay, t.clip) == ("mlp", "constant", 0.0, None)


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        ("constant", lambda r, R: 1.0),
        ("linear", lambda r, R: 1 - r / R),
        ("cosine", lambda r, R: (1 + math.cos(math.pi * r / R)) / 2),
        ("inverse-sqrt", lambda r, R: 1 / math.sqrt(r + 1)),
    ],
)
@pytest.mark.parametrize("rounds", [1, 2, 200, 999])
def test_schedules(schedule, formula, rounds):
    training = Training(learning_rate=0.3, schedule=schedule, rounds=rounds)
    rates = [training.rate(r) for r in range(rounds)]
    assert rates[0] == 0.3
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0
    for r, rate in enumerate(rates):
        assert rate == pytest.approx(0.3 * formula(r, rounds), rel=1e-9, abs=1e-15)


def test_cosine_has_fixed_bits():
    """Nothing of the C library may enter: these are the bits that every machine must get."""
    training = Training(learning_rate=0.1, schedule="cosine", rounds=200)
    assert [training.rate(r).hex() for r in (1, 77, 150, 199)] == [
        "0x1.999321ca08e07p-4",
        "0x1.15310fd7fe143p-4",
        "0x1.dfe051e68da3dp-7",
        "0x1.9df3e42e496cfp-18",
    ]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("round", [-1, 10])
def test_rounds_outside_the_schedule(schedule, round):
    with pytest.raises(ValueError, match=r"0 \.\. 9"):
        Training(schedule=schedule, rounds=10).rate(round)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", "0.1"),
        ("learning_rate", True),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("batch_size", True),
        ("local_steps", 0),
        ("rounds", 0),
        ("weight_decay", -1e-9),
        ("clip", 0.0),
        ("model", "resnet"),
        ("schedule", "step"),
    ],
)
def test_training_refuses(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        Training(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unit", "site"),
        ("clip", 0.0),
        ("clip", float("inf")),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", 1e6),
        ("delta", 0.0),
        ("delta", 1.0),
    ],
)
def test_privacy_refuses(field, value):
    right = {"unit": "example", "clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-5}
    Privacy(**right)
    with pytest.raises(ValueError, match=f"{field} must be"):
        Privacy(**{**right, field: value})

"""The user's app file: what it may give, and clear words for everything that is wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from ostraka.learn import initial
from ostraka.learn.app import (
    App,
    AppError,
    AppMissing,
    Examples,
    Site,
    accuracy,
    app_file,
    as_examples,
    builtin,
    load_app,
)
from ostraka.learn.data import load
from ostraka.learn.evaluate import evaluate
from ostraka.learn.partition import split
from ostraka.learn.settings import Training
from ostraka.learn.worker import Trainer

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "own_model"
GOOD = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from ostraka.learn.app import App, Examples
@dataclass
class Own:
    size: int
app = App(lambda: torch.nn.Linear(2, Own(3).size), lambda site: (torch.ones(4, 2), torch.ones(4)))
number = 3
"""


def test_loads_a_file_and_leaves_the_path_alone(tmp_path):
    (tmp_path / "my_app.py").write_text(GOOD)
    before = list(sys.path)
    app = load_app("my_app:app", tmp_path)
    assert isinstance(app, App)
    assert app.model().out_features == 3
    assert sys.path == before
    assert "my_app" not in sys.modules
    assert app_file("my_app:app", tmp_path) == tmp_path / "my_app.py"


def test_loads_again_after_an_edit(tmp_path):
    for sub, size in (("a", 3), ("b", 4)):
        (tmp_path / sub).mkdir()
        (tmp_path / sub / "my_app.py").write_text(GOOD.replace("Own(3)", f"Own({size})"))
        assert load_app("my_app:app", tmp_path / sub).model().out_features == size


@pytest.mark.parametrize(
    "spec", ["my_app", "my_app.py:app", "../x:app", "a/b:app", ":app", "my_app:", "a:b:c", ""]
)
def test_spec_must_be_file_and_name(tmp_path, spec):
    with pytest.raises(AppError, match="my_app:app"):
        load_app(spec, tmp_path)


def test_missing_file(tmp_path):
    with pytest.raises(AppMissing, match=r"my_app\.py does not exist") as error:
        load_app("my_app:app", tmp_path)
    assert isinstance(error.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (GOOD, "application", "has no 'application'"),
        (GOOD, "number", "has a int, not an App"),
        ("def (", "app", "cannot be imported"),
        ("import no_such_package_at_all", "app", "no_such_package_at_all"),
    ],
)
def test_wrong_files(tmp_path, text, name, words):
    (tmp_path / "my_app.py").write_text(text)
    with pytest.raises(AppError, match=words):
        load_app(f"my_app:{name}", tmp_path)


def test_what_the_file_itself_raises_is_passed_on(tmp_path):
    (tmp_path / "my_app.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        load_app("my_app:app", tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": nn.Linear}, None),
        ({"model": 3}, "model must be a function, got int"),
        ({"train_data": None}, "train_data must be a function"),
        ({"test_data": 3}, "test_data must be a function"),
        ({"loss": None}, "loss must be a function"),
        ({"buffers": ["a"]}, "buffers must be a tuple"),
        ({"buffers": (1,)}, "buffers must be a tuple"),
    ],
)
def test_app_checks_its_fields(fields, words):
    given = {"model": lambda: None, "train_data": lambda site: None, **fields}
    if words is None:
        assert App(**given).test_data is None
        return
    with pytest.raises(AppError, match=words):
        App(**given)


def test_model_must_give_a_module():
    with pytest.raises(AppError, match=r"torch\.nn\.Module, got int"):
        initial.build(App(lambda: 3, lambda site: None), 0)


def test_examples_in_every_form():
    x, y = torch.randn(5, 2), torch.arange(5)
    pairs = [(x[k].numpy(), k) for k in range(5)]
    for found in (Examples(x, y), (x, y), (x.numpy(), y.numpy()), TensorDataset(x, y), pairs):
        inputs, targets = as_examples(found)
        assert torch.equal(inputs, x)
        assert torch.equal(targets, y)
        assert targets.dtype == torch.int64
    assert as_examples((x.double(), y)).inputs.dtype == torch.float32
    assert as_examples((y[:, None], y)).inputs.dtype == torch.int64


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "got NoneType"),
        (iter([]), "__len__"),
        ((torch.ones(3),), "1 parts"),
        ((torch.ones(3), torch.ones(2)), "same positive length"),
        ((torch.ones(0, 2), torch.ones(0)), "same positive length"),
        ((torch.tensor(1.0), torch.tensor(1)), "same positive length"),
        (("a", "b"), "got str"),
        ([], "no examples"),
        ([torch.ones(2)], "example 0"),
        ([(torch.ones(2), 1), (torch.ones(3), 1)], "differ in shape"),
        (TensorDataset(torch.ones(2, 2)), "example 0"),
    ],
)
def test_examples_that_are_none(found, words):
    with pytest.raises(AppError, match=words):
        as_examples(found)


def test_a_dataset_is_stacked_once():
    class Counting(TensorDataset):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

    app = App(lambda: nn.Linear(2, 3), lambda site: None)
    data = Counting(torch.randn(9, 2), torch.arange(9) % 3)
    party = Trainer(app, data, Training(batch_size=4))
    for round in range(3):
        party.update(round, party.model.vector())
    assert Counting.reads == 9


def federate(app, parties, rounds, **settings):
    """Plain averaging of all parties; the accuracy at the end."""
    training = Training(rounds=rounds, **settings)
    sites = [Site(p, parties, f"site-{p}", 1) for p in range(parties)]
    trainers = [Trainer(app, app.train_data(s), training, None, 1, s.party) for s in sites]
    theta = initial.initial_vector(app, 1)
    for round in range(rounds):
        mean = np.mean([t.update(round, theta) for t in trainers], axis=0, dtype=np.float64)
        theta = (theta.astype(np.float64) - training.rate(round) * mean).astype(np.float32)
    model = initial.build(app, 1)
    model.load(theta)
    return evaluate(model, app, as_examples(app.test_data(None)))


@pytest.mark.slow
def test_the_example_learns():
    app = load_app("app:app", EXAMPLE)
    assert len((EXAMPLE / "app.py").read_text().splitlines()) <= 25
    assert federate(app, 4, 60).accuracy > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("model", ["logistic", "mlp", "cnn"])
def test_the_built_ins_learn(model):
    digits = load("digits")
    parts = split(digits.train_y, 4, "iid", seed=1)
    found = federate(builtin(model, digits, parts), 4, 40)
    assert found.accuracy > 0.88
    assert found.loss < 0.6


def test_builtin_gives_each_party_its_part():
    digits = load("digits")
    parts = split(digits.train_y, 4, "dirichlet", seed=1)
    app = builtin("mlp", digits, parts)
    for party, part in enumerate(parts):
        found = app.train_data(Site(party, 4, "x", 1))
        assert torch.equal(found.targets, torch.from_numpy(digits.train_y[part]))
        assert found.inputs.shape == (len(part), 1, 8, 8)


def test_evaluate_is_the_whole_sets_metric():
    app = App(lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)), lambda site: None)
    model = initial.build(app, 3)
    g = torch.Generator().manual_seed(0)
    data = Examples(torch.randn(101, 4, generator=g), torch.randint(0, 3, (101,), generator=g))
    model.module.train()
    found = evaluate(model, app, data, batch=7)
    assert model.module.training
    outputs = model.module.eval()(data.inputs)
    assert found.accuracy == accuracy(outputs, data.targets)
    assert found.accuracy == int((outputs.argmax(1) == data.targets).sum()) / 101
    assert found.loss == pytest.approx(float(app.loss(outputs, data.targets).detach()), rel=1e-6)
    assert evaluate(model, app, data, batch=7) == found
    with pytest.raises(ValueError, match="batch"):
        evaluate(model, app, data, batch=0)

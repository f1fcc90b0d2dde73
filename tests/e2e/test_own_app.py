"""The user's own app file: it runs, its initial model is checked, its mistakes are its own."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import ostraka
from ostraka.app.assemble import assemble
from ostraka.app.build import build
from ostraka.app.config import load
from tests.e2e.command import ostraka as command


@pytest.mark.slow
def test_users_app_runs_and_the_initial_model_is_checked(tmp_path: Path) -> None:
    assert command("init", tmp_path / "fed").code == 0
    toml = tmp_path / "fed" / "federation.toml"
    ended = command("run", toml, "--rounds", 40, "--json", "--out", tmp_path / "r")
    assert ended.code == 0, ended.err
    assert ended.summary["accuracy"] > 0.8
    assert command("init", tmp_path / "fed").code == 64
    text = toml.read_text()
    digest = text[text.index("sha256:") :][:71]
    toml.write_text(text.replace(digest, "sha256:" + "0" * 64))
    ended = command("run", toml, "--out", tmp_path / "r2")
    assert ended.code == 78
    assert "initial.safetensors" in ended.err


FROZEN = """
import torch
from torch import nn
from ostraka import App, Examples
def model():
    first, last = nn.Linear(4, 6), nn.Linear(6, 3)
    first.requires_grad_(False)
    return nn.Sequential(first, last)
def train(site):
    return Examples(torch.arange(40.0 * 4).reshape(40, 4) / 160, torch.arange(40) % 3)
app = App(model=model, train_data=train, test_data=lambda data_dir: train(None))
"""


@pytest.mark.slow
def test_the_saved_model_is_the_one_that_was_evaluated_frozen_parts_included(
    tmp_path: Path,
) -> None:
    toml = tmp_path / "f.toml"
    toml.write_text(
        '[federation]\nname = "x"\nrounds = 3\nseed = 11\n[training]\napp = "frozen:app"\n'
        "[simulation]\nparties = 5\n"
    )
    (tmp_path / "frozen.py").write_text(FROZEN)
    result = ostraka.run(toml, out=tmp_path / "r", report=False)
    state = load_file(tmp_path / "r" / "model.safetensors")
    rows = np.arange(160, dtype=np.float32).reshape(40, 4) / 160
    hidden = rows @ state["0.weight"].T + state["0.bias"]
    outputs = hidden @ state["1.weight"].T + state["1.bias"]
    spread = np.log(np.exp(outputs).sum(axis=1)) - outputs[np.arange(40), np.arange(40) % 3]
    assert spread.mean() == pytest.approx(result.summary["loss"], abs=1e-4)


@pytest.mark.slow
def test_label_flip_counts_all_classes_though_an_attacker_holds_few(tmp_path: Path) -> None:
    """Class C-1-y, with C of the whole federation, whatever the attacker's own share holds."""
    config = load(None, {"data": {"partition": "shards"}, "simulation": {"attack": "label-flip"}})
    assembly = assemble(config, build(config), tmp_path, None)
    peaceful = load(None, {"data": {"partition": "shards"}})
    honest = assemble(peaceful, build(peaceful), tmp_path, None)
    for name in assembly.attackers:
        flipped = assembly.trainers[name]._targets.numpy()
        before = honest.trainers[name]._targets.numpy()
        assert len(np.unique(before)) < 10
        assert (flipped == 9 - before).all()


APP = """
import torch
from torch import nn
from ostraka import App, Examples
def train(site):
    return Examples(torch.randn(40, 4), torch.arange(40) % 3)
app = App(model=lambda: nn.Linear(4, {outputs}), train_data=train)
"""


@pytest.mark.slow
def test_a_changed_app_and_a_faulty_app_are_refused_with_their_place(tmp_path: Path) -> None:
    toml = tmp_path / "f.toml"
    toml.write_text(
        '[federation]\nname = "x"\nrounds = 2\n[training]\napp = "mine:app"\n'
        "[simulation]\nparties = 5\n"
    )
    app = tmp_path / "mine.py"
    app.write_text(APP.format(outputs=3))
    assert command("run", toml, "--out", tmp_path / "r").code == 0
    app.write_text(APP.format(outputs=3) + "# changed\n")
    ended = command("run", "--resume", "--out", tmp_path / "r")
    assert ended.code == 78
    assert "the app has changed" in ended.err
    faults = {
        "raise SystemExit(0)": "SystemExit",
        "nonsense": "line 1",
        APP.format(outputs=2): "mine:app",
        APP.format(outputs=3).replace("Linear(4", "Linear(5"): "RuntimeError",
    }
    for number, (text, told) in enumerate(faults.items()):
        app.write_text(text)
        ended = command("run", toml, "--out", tmp_path / f"bad{number}")
        assert ended.code == 64, (text, ended.err)
        assert told in ended.err
        assert "Traceback" not in ended.err

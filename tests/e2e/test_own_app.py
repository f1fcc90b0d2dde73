"""The user's own app file: it runs, its initial model is checked, its mistakes are its own."""

from pathlib import Path

import pytest

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

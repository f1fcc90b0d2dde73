"""`ostraka init-model`: where the digest of the initial model is written in somebody's own file."""

import tomllib
from pathlib import Path

import pytest
from tests.e2e.command import ostraka

from ostraka.app.errors import UserError
from ostraka.app.init import _with_key, write_initial_model

DIGEST = "sha256:" + "a" * 64
OLD = "sha256:" + "b" * 64
LINE = f'initial_model = "{DIGEST}"'
HEAD = '[federation]\nname = "x"\nrounds = 2\nseed = 4\n'
TAIL = "[simulation]\nparties = 3\n"
APP = """
import torch
from ostraka import App, Examples
def data(site):
    return Examples(torch.arange(40.0 * 4).reshape(40, 4) / 160, torch.arange(40) % 3)
app = App(model=lambda: torch.nn.Linear(4, 3), train_data=data)
"""


def file(tmp_path: Path, training: str) -> Path:
    path = tmp_path / "federation.toml"
    path.write_text(HEAD + training + TAIL)
    return path


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            f'[training]\nclip = 1.0\ninitial_model = "{OLD}"  # old\n',
            f"[training]\nclip = 1.0\n{LINE}\n",
        ),
        ('[training]\n# initial_model = "..."\nclip = 1.0\n', f"[training]\n{LINE}\nclip = 1.0\n"),
        ("[training]  # mine\nclip = 1.0\n", f"[training]  # mine\n{LINE}\nclip = 1.0\n"),
        (
            f'# initial_model = "sha256:..."\n[training]\ninitial_model = "{OLD}"\n',
            f'# initial_model = "sha256:..."\n[training]\n{LINE}\n',
        ),
        (
            "# initial_model = what all begin with\n[training]\nclip = 1.0\n",
            f"# initial_model = what all begin with\n[training]\n{LINE}\nclip = 1.0\n",
        ),
        (
            f'[training]\n  initial-model = "{OLD}"\n  local-steps = 2\n',
            f"[training]\n{LINE}\n  local-steps = 2\n",
        ),
        ("[ training ]\n", f"[ training ]\n{LINE}\n"),
    ],
)  # fmt: skip
def test_the_digest_is_written_where_the_key_belongs(
    tmp_path: Path, before: str, after: str
) -> None:
    assert _with_key(file(tmp_path, before), LINE) == HEAD + after + TAIL


@pytest.mark.parametrize("text", ["", "training.clip = 1.0\n", "[data]\nalpha = 0.7\n"])
def test_without_the_table_it_is_refused_and_nothing_is_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "federation.toml"
    path.write_text(text + HEAD + TAIL if "." in text.split("=")[0] else HEAD + text + TAIL)
    before = path.read_text()
    with pytest.raises(UserError, match=r"no line \[training\]") as refusal:
        write_initial_model(path)
    assert refusal.value.code == 64
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["federation.toml"]


@pytest.mark.slow
def test_the_command_makes_a_model_that_a_run_accepts(tmp_path: Path) -> None:
    path = file(tmp_path, f'[training]\napp = "mine:app"\ninitial_model = "{OLD}"\n')
    (tmp_path / "mine.py").write_text(APP)
    assert ostraka("run", path, "--out", tmp_path / "r").code == 66
    ended = ostraka("init-model", path, "--json")
    assert ended.code == 0, ended.err
    written = tomllib.loads(path.read_text())["training"]["initial_model"]
    assert ended.summary["initial_model"] == written != OLD
    assert ended.summary["file"] == str(tmp_path / "initial.safetensors")
    ended = ostraka("run", path, "--out", tmp_path / "r2")
    assert ended.code == 0, ended.err
    (tmp_path / "mine.py").write_text(APP.replace("Linear(4, 3)", "Linear(4, 3, bias=False)"))
    assert "ostraka init-model" in ostraka("run", path, "--out", tmp_path / "r3").err
    assert ostraka("init-model", path).code == 0
    assert ostraka("run", path, "--out", tmp_path / "r4").code == 0

"""`ostraka init` for every trust model, and `init-model` in somebody's own file."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.command import ostraka

from ostraka.app.build import TRUST_MODELS, build
from ostraka.app.cast import OPERATORS, WORKER
from ostraka.app.config import Config, check, load
from ostraka.app.errors import UserError
from ostraka.app.flags import Trust
from ostraka.app.init import _with_key, template, write_federation, write_initial_model
from ostraka.app.site import app_digest, clashes, load_site
from ostraka.app.tables import normal

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


# --- init --------------------------------------------------------------------------------------


def written(trust: str) -> str:
    place = files("ostraka.app") / "templates" / template(trust)
    return place.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("trust", TRUST_MODELS)
def test_init_writes_files_of_the_asked_trust_model_that_run_as_they_are(
    tmp_path: Path, trust: str
) -> None:
    fed = tmp_path / "fed"
    ended = ostraka("init", fed, "--trust", trust.replace("-", "_"))
    assert ended.code == 0, ended.err
    names = ("federation.toml", "my_app.py", "site.toml", "initial.safetensors")
    assert [line.split()[1] for line in ended.out.splitlines()[:4]] == [str(fed / n) for n in names]
    config, site = load(fed / "federation.toml"), load_site(fed / "site.toml")
    assert (config.federation.trust, config.federation.name) == (trust, "fed")
    assert build(config).warnings == ()
    assert site.allow.trust == (trust,)
    digest = app_digest(config, fed)
    (unread,) = clashes(site, config, fed / "federation.toml", epsilon=None, app_digest=digest)
    assert "app" in unread, "all but the app file, which somebody must read first"
    ran = ostraka("run", fed / "federation.toml", "--rounds", 2, "--out", tmp_path / "r", "--json")
    assert (ran.code, ran.summary["trust"]) == (0, trust), ran.err


@pytest.mark.parametrize("trust", TRUST_MODELS)
def test_the_commented_parties_of_a_template_are_those_that_its_trust_model_needs(
    trust: str,
) -> None:
    text = written(trust)
    parties = re.sub("^# ?", "", text[text.index("# [[party]]") :], flags=re.MULTILINE)
    parties = parties.replace('identity = "ed25519:..."\n', "")
    workers = "".join(f'[[party]]\nname = "w{k}"\n' for k in range(11))
    text = re.sub(r"^parties = .*\n", "", text, flags=re.MULTILINE) + parties + workers
    config = check(normal(tomllib.loads(text)), "template")
    assert {entry.role for entry in config.party} == {WORKER, *OPERATORS[trust]}
    without = [p.name for p in config.party if p.role != WORKER and p.address is None]
    assert without == []
    build(config)


def keys(text: str, table: str) -> set[str]:
    """Keys of a table, commented ones too."""
    found = re.search(rf"^#? ?\[{table}\].*\n((?:(?!#? ?\[|\n).*\n)*)", text, re.MULTILINE)
    assert found is not None, table
    return set(re.findall(r"^#? ?([a-z_]+) = ", found[1], re.MULTILINE))


@pytest.mark.parametrize("trust", TRUST_MODELS)
def test_a_template_shows_every_key_of_faults_network_privacy_and_its_own_trust_model(
    trust: str,
) -> None:
    text, own = written(trust), trust.replace("-", "_")
    sections: dict[str, Any] = dict(Config.model_fields)
    for table in ("faults", "network", *([own] if own in sections else [])):
        wanted = set(sections[table].annotation.model_fields)
        assert keys(text, table.replace("_", "-")) == wanted, table
    assert {"unit", "clip", "noise_multiplier", "delta"} <= keys(text, "privacy")


def test_init_of_another_trust_model_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    ended = ostraka("init", tmp_path / "fed", "--trust", "two-serve")
    assert ended.code == 64
    assert "trust model 'two-serve' is not in this version: did you mean 'two-server'?" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_federation(tmp_path, "two-server")
    assert [p.name for p in tmp_path.iterdir()] == ["site.toml"]


def test_the_flags_help_names_every_trust_model() -> None:
    told = Trust.__metadata__[0].help  # type: ignore[attr-defined]
    for trust in TRUST_MODELS:
        assert trust in told

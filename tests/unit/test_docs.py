"""The documentation names what the code has."""

import ast
import configparser
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ostraka.app.config import Config, PartyEntry, Privacy, check
from ostraka.app.errors import Exit
from ostraka.app.site import Allow, Place, load_site
from ostraka.attacks import ATTACKS
from ostraka.attacks.parties import PARTY_ATTACKS
from ostraka.attacks.uploads import UPLOAD_ATTACKS
from ostraka.rules import PRE_AGGREGATIONS, RULES

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = DOCS.parent / "src" / "ostraka"
TEMPLATES = SOURCE / "app" / "templates"
TELLS = {"trace", "_trace", "_tell", "tell", "_told"}
"""What publishes an event, by the last part of its name; its first argument is the event."""


def test_every_key_of_the_federation_file_is_documented() -> None:
    text = (DOCS / "federation-file.md").read_text()
    sections = {
        name: type(getattr(Config.model_validate({"federation": {"name": "x"}}), name))
        for name in Config.model_fields
        if name not in ("privacy", "party")
    }
    sections |= {"privacy": Privacy, "party": PartyEntry}
    for section, cls in sections.items():
        assert f"[{section.replace('_', '-')}]" in text
        for key in cls.model_fields:
            assert key in text, f"{section}.{key}"


def test_every_key_of_the_site_file_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| (\w+) \| (.*?) \|", (DOCS / "site-file.md").read_text(), re.MULTILINE)
    documented = dict(rows)
    assert documented.keys() - {"key"} == {*Allow.model_fields, *Place.model_fields}
    for cls in (Allow, Place):
        for key, field in cls.model_fields.items():
            default = field.default
            shown = {True: "true", False: "false"}.get(default, str(default)) if default else ""
            assert shown.strip("()',") in documented[key].replace('"', ""), key


def told_events() -> Iterator[tuple[str, str]]:
    """Every event that the package publishes by a constant name, with the file that does."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in TELLS and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, path.name


def test_every_event_is_documented() -> None:
    text = (DOCS / "events.md").read_text()
    rows = re.findall(r"^\| ([\w-]+(?:, [\w-]+)*) \|", text, re.MULTILINE)
    documented = {event for row in rows for event in row.split(", ")} - {"event"}
    # The ones that are no call of trace: the command line's own, and those of `local`.
    direct = {"summary", "error", "killed", "partitioned", "healed", "ended", "said"}
    told = {event for event, file in told_events() if event and file != "progress.py"}
    assert {"connected", "refused-by", "differs", "trained", "round", "bridged"} <= told
    assert told - {"crashed"} == documented - direct
    local = (SOURCE / "app" / "local.py").read_text()
    assert all(f'"{event}"' in local for event in direct - {"summary", "error"})


def test_every_metric_is_documented_as_what_it_is() -> None:
    from ostraka.drivers.metrics import Metrics

    page = (DOCS / "deploy" / "operations.md").read_text()
    rows = re.findall(r"^\| `ostraka_(\w+?)` \| (\w+) \|", page, re.MULTILINE)
    documented = {name.removesuffix("_info").removesuffix("_total"): kind for name, kind in rows}
    metrics = Metrics("a", "worker")
    found = {m.name.removeprefix("ostraka_"): m.type for m in metrics._registry.collect()}
    assert found == documented


def test_the_templates_are_valid_and_so_are_their_commented_parties(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    text = (TEMPLATES / "site.toml").read_text()
    site.write_text(text)
    assert load_site(site).allow == Allow()
    for key in (*Allow.model_fields, *Place.model_fields):
        assert re.search(rf"^#? ?{key} = ", text, re.MULTILINE), key
    text = (TEMPLATES / "federation.toml").read_text()
    for key in Config.model_fields["network"].annotation.model_fields:
        assert re.search(rf"^#? ?{key} = ", text, re.MULTILINE), key
    parties = re.sub("^# ?", "", text[text.index("# [[party]]") :], flags=re.MULTILINE)
    parties = parties.replace('identity = "ed25519:..."\n', "")
    text = re.sub(r"^parties = .*\n", "", text, flags=re.MULTILINE) + parties
    config = check(tomllib.loads(text.replace("attackers = 2", "attackers = 1")), "template")
    assert (config.cast.leader, config.workers) == ("server", ("hospital-a",))


def unit() -> configparser.ConfigParser:
    page = (DOCS / "deploy" / "systemd.md").read_text()
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str
    parser.read_string(page.split("```ini\n")[1].split("```")[0])
    return parser


def test_the_unit_restarts_only_what_may_go_on_by_itself() -> None:
    service = unit()["Service"]
    final = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert service["Restart"] == "on-failure"
    assert set(Exit) - final == {Exit.DONE, Exit.UNAVAILABLE, Exit.STOPPED}
    assert final <= set(Exit)
    assert float(service["TimeoutStopSec"]) > 5.0
    for key, value in {"NoNewPrivileges": "yes", "ProtectSystem": "strict"}.items():
        assert service[key] == value
    assert service["ReadWritePaths"] == "/var/lib/ostraka"
    assert "join federation.toml --identity %i.pem" in service["ExecStart"]


def test_the_containerfile_installs_pins_and_runs_as_somebody_without_rights() -> None:
    lines = (DOCS / "deploy" / "Containerfile").read_text().splitlines()
    text = "\n".join(lines)
    assert "-c constraints.txt" in text
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000:1000"]
    for copied in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((DOCS.parent / name).exists() for name in copied.split()), copied
    assert "ADD " not in text
    assert "latest" not in text


def commands() -> Iterator[tuple[str, str]]:
    """Every `ostraka COMMAND --flag` that a page shows, with the page's name."""
    root = DOCS.parent
    for page in [*root.glob("*.md"), *DOCS.rglob("*.md")]:
        for line in re.findall(r"ostraka ((?:identity )?[a-z]+[^`\n|&#]*)", page.read_text()):
            yield page.name, line


@pytest.mark.slow
def test_every_command_and_flag_that_a_page_shows_exists() -> None:
    from typer.main import get_command

    from ostraka.app.cli import app

    known: dict[str, set[str]] = {}
    for name, command in get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        for word, one in (
            {f"{name} {w}": c for w, c in inner.items()} if inner else {name: command}
        ).items():
            known[word] = {flag for parameter in one.params for flag in parameter.opts} | {"--help"}
    shown = 0
    for page, line in commands():
        words = line.split()
        word = " ".join(words[:2]) if words[0] == "identity" else words[0]
        for flag in re.findall(r"(?<=\s)--[a-z][a-z-]*", line):
            if word in known:
                assert flag in known[word], f"{page}: ostraka {line}"
                shown += 1
    assert shown > 20


@pytest.mark.parametrize("name", {**ATTACKS, **PARTY_ATTACKS, **UPLOAD_ATTACKS})
def test_every_attack_is_documented(name: str) -> None:
    rows = re.findall(r"^\| ([^|(]*)", (DOCS / "attacks.md").read_text(), re.MULTILINE)
    assert name in ", ".join(row.strip() for row in rows).split(", ")


def test_every_rule_and_exit_code_is_documented() -> None:
    rules = (DOCS / "rules.md").read_text()
    for cls in (*RULES.values(), *PRE_AGGREGATIONS.values()):
        assert f"`{cls.__name__}(" in rules
    codes = (DOCS / "exit-codes.md").read_text()
    for code in Exit:
        assert f"**{int(code)}, " in codes


def test_every_link_of_the_pages_leads_somewhere() -> None:
    root = DOCS.parent
    for page in [*root.glob("*.md"), *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_rule_of_the_how_to_works_as_it_is_printed(tmp_path: Path) -> None:
    import sys
    import textwrap
    from importlib.util import module_from_spec, spec_from_file_location

    import numpy as np

    import ostraka

    page = (DOCS / "how-to-add-a-rule.md").read_text()
    code = textwrap.dedent(page.split("```python\n")[1].split("```")[0])
    file = tmp_path / "medoid.py"
    file.write_text(code)
    spec = spec_from_file_location("medoid_of_the_page", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.9, 0.1], [50.0, 50.0], [1.1, 0.0]])
    result = ostraka.aggregate(rows, module.Medoid())
    assert np.flatnonzero(result.weights).tolist() == [1]


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    """The snippet for arrays, pasted."""
    page = (DOCS.parent / "README.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    file = tmp_path / "pasted.py"
    file.write_text(code)
    import subprocess
    import sys

    done = subprocess.run([sys.executable, file], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "non-finite" in done.stdout


@pytest.mark.slow
def test_the_commands_for_three_operators_make_a_federation_file(tmp_path: Path) -> None:
    """The blocks of the page, pasted, with five hospitals beside them."""
    import os
    import subprocess
    import sys

    page = (DOCS / "trust" / "two-server.md").read_text()
    *operators, whole = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    (tmp_path / "hospital-a.party").write_text(
        "".join(f'[[party]]\nname = "hospital-{n}"\nrole = "worker"\n' for n in range(5))
    )
    paths = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = "\n".join(["set -e", *operators, whole])
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env=paths, check=True, capture_output=True)
    config = check(tomllib.loads((tmp_path / "federation.toml").read_text()), "pasted")
    assert [party.role for party in config.party[:3]] == ["server-0", "server-1", "dealer"]
    assert all(party.address is not None for party in config.party[:3])
    assert len({party.identity for party in config.party[:3]}) == 3
    assert (config.n, config.f) == (5, 1)

"""The documentation names what the code has."""

from pathlib import Path

import pytest

from ostraka.app.config import Config, PartyEntry, Privacy
from ostraka.app.errors import Exit
from ostraka.attacks import ATTACKS
from ostraka.attacks.parties import PARTY_ATTACKS
from ostraka.rules import PRE_AGGREGATIONS, RULES

DOCS = Path(__file__).parents[2] / "docs"


def test_every_key_of_the_federation_file_is_documented() -> None:
    text = (DOCS / "federation-file.md").read_text()
    sections = {
        name: type(getattr(Config.model_validate({"federation": {"name": "x"}}), name))
        for name in ("federation", "faults", "rule", "training", "data", "simulation", "network")
    }
    sections |= {"privacy": Privacy, "party": PartyEntry}
    for section, cls in sections.items():
        assert f"[{section}]" in text
        for key in cls.model_fields:
            assert key in text, f"{section}.{key}"


@pytest.mark.parametrize("name", [*ATTACKS, *PARTY_ATTACKS])
def test_every_attack_is_documented(name: str) -> None:
    assert name in (DOCS / "attacks.md").read_text()


def test_every_rule_and_exit_code_is_documented() -> None:
    rules = (DOCS / "rules.md").read_text()
    for cls in (*RULES.values(), *PRE_AGGREGATIONS.values()):
        assert f"`{cls.__name__}(" in rules
    codes = (DOCS / "exit-codes.md").read_text()
    for code in Exit:
        assert f"**{int(code)}, " in codes


def test_every_link_of_the_pages_leads_somewhere() -> None:
    import re

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

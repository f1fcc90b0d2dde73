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

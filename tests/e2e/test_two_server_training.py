"""The same training under `trusted` and `two-server`: accuracy and excluded parties agree."""

from __future__ import annotations

from pathlib import Path

import pytest

import ostraka

pytestmark = pytest.mark.slow
CASES = [
    ("multi-krum", ["nnm"], "alie"),
    ("mda", [], "sign-flip"),
    ("geometric-median", [], "mimic"),
    ("centered-clipping", [], "ipm"),
    ("multi-krum", [], "nan"),
]


@pytest.mark.parametrize(("rule", "pre", "attack"), CASES)
def test_nobody_could_tell_from_the_results(
    tmp_path: Path, rule: str, pre: list[str], attack: str
) -> None:
    found = {}
    for trust in ("trusted", "two-server"):
        found[trust] = ostraka.run(
            trust=trust,
            rule=rule,
            pre=pre,
            attack=attack,
            n=10,
            f=2,
            rounds=25,
            out=tmp_path / trust,
            report=False,
        ).summary
    ours, theirs = found["two-server"], found["trusted"]
    assert abs(ours["accuracy"] - theirs["accuracy"]) <= 0.002
    assert ours["excluded"].keys() == theirs["excluded"].keys()
    if attack == "nan":
        assert set(ours["excluded"].values()) == {"overflow"}, "such an update cannot be shared"
    assert ours["accuracy"] > 0.8


def test_a_stopped_run_goes_on_to_the_same_model(tmp_path: Path) -> None:
    flags = {"trust": "two-server", "rule": "geometric-median", "n": 6, "f": 1, "rounds": 8}
    whole = ostraka.run(out=tmp_path / "whole", report=False, **flags)
    seen = []

    def stopping() -> bool:
        return len(seen) >= 4

    def reader(record: dict[str, object]) -> None:
        seen.extend([record] if record["event"] == "round" else [])

    with pytest.raises(ostraka.UserError, match="resume"):
        ostraka.run(
            out=tmp_path / "cut", report=False, readers=[reader], stopping=stopping, **flags
        )
    resumed = ostraka.run(out=tmp_path / "cut", resume=True, report=False, **flags)
    assert [r["round"] for r in resumed.history] == list(range(1, 9))
    assert resumed.summary["model_digest"] == whole.summary["model_digest"]

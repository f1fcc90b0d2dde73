"""`ostraka local` counts the bytes of all links as `ostraka explain` foretells them."""

import json
from pathlib import Path
from typing import Any

import pytest

from ostraka.drivers.trace import Record
from tests.e2e.command import Ended, ostraka, process

pytestmark = pytest.mark.slow
N, ROUNDS = 5, 4
ROLES = ("server-0", "server-1", "dealer", "workers")
GIVEN = ("--trust", "two-server", "--n", N, "--f", 1, "--rounds", ROUNDS)


def foretold() -> tuple[Record, int]:
    """What `explain` says that one party of each role sends in a round, and the model's size."""
    ended = ostraka("explain", *GIVEN, "--json")
    assert ended.code == 0, ended.err
    found: Any = ended.summary
    cost = {role: entry["bytes_per_round"] for role, entry in found["cost"].items()}
    return cost, found["parameters"]


def rehearsed(place: Path) -> Ended:
    """One worker is a liar, whose bytes count like any other's."""
    given = (*GIVEN, "--seed", 3, "--attack", "sign-flip", "--out", place, "--json")
    running = process("local", *given)
    out, err = running.communicate(timeout=200)
    return Ended(running.returncode, out, err)


def own_links(told: Record) -> Record:
    return {key: told[key] for key in ("sent", "received")}


def test_the_sum_over_all_links_is_what_explain_says(tmp_path: Path) -> None:
    """Within 1 per cent: the last model goes out once more, headers are small."""
    cost, d = foretold()
    ended = rehearsed(tmp_path / "local")
    assert ended.code == 0, ended.err
    summary, sent = ended.summary, ended.summary["bytes_sent"]
    last_model = N * 4 * d
    expected = {role: ROUNDS * cost[role] for role in ROLES[:3]}
    expected["server-0"] += last_model
    expected["workers"] = ROUNDS * N * cost["worker"]
    assert sent == pytest.approx(expected, rel=0.01)

    links = summary["links"]
    assert sum(links.values()) == sum(sent.values()), "every link is counted once"
    assert len(links) == 11, "both ways between all who talk, but nothing from dealer to workers"
    assert links["workers to server-1"] == pytest.approx(ROUNDS * N * 8 * d, rel=0.01)
    assert links["server-0 to workers"] == pytest.approx((ROUNDS + 1) * last_model, rel=0.01)
    assert set(summary["sent"]) == {"server-1", "dealer", "workers"}, "the leader's own"

    rounds = [e for e in ended.lines if e["event"] == "round"]
    assert len(rounds) == ROUNDS
    assert sorted(rounds[-1]["bytes_sent"]) == sorted(ROLES), "all have told something by then"
    check_own_reports(tmp_path / "local", links)


def check_own_reports(place: Path, links: Record) -> None:
    """What every party has kept of its own links adds up to the same, from both ends."""
    both: dict[str, dict[str, int]] = {"sent": {}, "received": {}}
    for home in (place / "parties").iterdir():
        told = json.loads(next(home.rglob("summary.json")).read_text())
        own = "workers" if home.name.startswith("worker") else home.name
        for way, by_role in own_links(told).items():
            for other, count in by_role.items():
                link = f"{own} to {other}" if way == "sent" else f"{other} to {own}"
                both[way][link] = both[way].get(link, 0) + count
    assert both["sent"] == links
    assert both["received"] == pytest.approx(links, rel=0.02), "but for last words"

"""`ostraka local` and `ostraka join` with trust model two-server: real processes, one model.

Sums with equal weights are opened exactly, so that all ways of running give the same bits.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import Ended, ostraka, process
from tests.ports import free_port

pytestmark = pytest.mark.slow
OPERATORS = ("server-0", "server-1", "dealer")


def simulated(*arguments: object) -> Any:
    ended = ostraka("run", *arguments, "--json")
    assert ended.code == 0, ended.err
    return ended.summary


def test_an_attack_and_four_deaths_end_as_the_simulation_does(tmp_path: Path) -> None:
    given = ("--trust", "two-server", "--n", 6, "--f", 1, "--rounds", 10, "--seed", 3)
    given = (*given, "--attack", "alie")
    expected = simulated(*given, "--out", tmp_path / "run")
    place = tmp_path / "local"
    kills = ("--kill", "server-0@2", "--kill", "server-1@4", "--kill", "dealer@6")
    ended = ostraka("local", *given, *kills, "--kill", "server-0@8", "--out", place, "--json")
    assert ended.code == 0, ended.err
    assert ended.summary["model_digest"] == expected["model_digest"]
    assert ended.summary["accuracy"] == expected["accuracy"]
    assert (ended.summary["failed"], ended.summary["excluded"]) == ({}, {})
    told = [(e["of"], e["event"]) for e in ended.lines[:-1]]
    assert [told.count((name, "killed")) for name in OPERATORS] == [2, 1, 1]
    opened = {
        (e["label"], e["to"])
        for e in ended.lines
        if (e["event"], e.get("of")) == ("opened", "server-0")
    }
    assert opened == {("distances", "server-1"), ("sum", "both servers")}
    for name in ("server-1", "worker-0", "worker-4"):
        found = json.loads(next((place / "parties" / name).rglob("summary.json")).read_text())
        assert found["model_digest"] == expected["model_digest"]
    dealer = json.loads(next((place / "parties" / "dealer").rglob("summary.json")).read_text())
    assert "model_digest" not in dealer
    assert list((place / "parties" / "dealer").rglob("*.safetensors")) == []


PARTIES = {"mid": "relay", "s": "server-0", "t": "server-1", "d": "dealer"}
PARTIES |= dict.fromkeys(("ann", "bob", "cem"), "worker")


def federation(folder: Path, port: int) -> Path:
    lines = ['[federation]\nname = "secure"\nrounds = 3\ntrust = "two-server"\n']
    lines.append('[faults]\nbyzantine = 0\n[rule]\nname = "mean"\n[training]\nmodel = "logistic"\n')
    for name, role in PARTIES.items():
        (folder / name).mkdir()
        made = ostraka("identity", "new", name, "--out", folder / name / f"{name}.pem", "--json")
        identity = made.lines[0]["identity"]
        lines.append(f'[[party]]\nname = "{name}"\nrole = "{role}"\nidentity = "{identity}"\n')
        if role == "relay":
            lines.append(f'address = "127.0.0.1:{port}"\n')
    path = folder / "federation.toml"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_it_runs_through_a_relay_once_every_site_allows_it(tmp_path: Path) -> None:
    path = federation(tmp_path, free_port())
    expected = simulated(path, "--out", tmp_path / "simulated")
    refused = ostraka("join", path, "--identity", tmp_path / "ann" / "ann.pem", "--json")
    assert refused.code == 64
    assert "forbids what" in refused.err
    assert 'trust = "two-server"' in refused.err

    started = {}
    for name in PARTIES:
        (tmp_path / name / "site.toml").write_text('[allow]\ntrust = "two-server"\n')
        key = tmp_path / name / f"{name}.pem"
        started[name] = process("join", path, "--identity", key, "--json")
    ended = {}
    for name in PARTIES:
        if name != "mid":
            out, err = started[name].communicate(timeout=200)
            ended[name] = Ended(started[name].returncode, out, err)
    started["mid"].send_signal(signal.SIGTERM)
    out, err = started["mid"].communicate(timeout=20)
    relay = Ended(started["mid"].returncode, out, err)

    assert {name: e.code for name, e in ended.items()} == dict.fromkeys(ended, 0), relay.err
    digests = {e.summary["model_digest"] for name, e in ended.items() if name != "d"}
    assert digests == {expected["model_digest"]}
    bridges = {frozenset((e["peer"], e["other"])) for e in relay.lines if e["event"] == "bridged"}
    assert len(bridges) == 3 + 9, "all operators with one another and with every worker"
    assert frozenset(("ann", "bob")) not in bridges

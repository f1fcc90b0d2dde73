"""A federation in which nobody but the relay can be dialled: processes and the command line."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.command import Ended, ostraka, process
from tests.ports import free_port

PARTIES = {"mid": "relay", "hub": "server", "ann": "worker", "bob": "worker", "cem": "worker"}


def federation(folder: Path, port: int) -> Path:
    lines = ['[federation]\nname = "tunnel"\nrounds = 3\n[faults]\nbyzantine = 0\n']
    lines.append('[rule]\nname = "mean"\n[training]\nmodel = "logistic"\n')
    for name, role in PARTIES.items():
        made = ostraka("identity", "new", name, "--out", folder / f"{name}.pem", "--json")
        identity = made.lines[0]["identity"]
        lines.append(f'[[party]]\nname = "{name}"\nrole = "{role}"\nidentity = "{identity}"\n')
        if role == "relay":
            lines.append(f'address = "127.0.0.1:{port}"\n')
    path = folder / "federation.toml"
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_federation_runs_through_a_relay_and_ends_with_the_simulation_s_model(
    tmp_path: Path,
) -> None:
    path = federation(tmp_path, free_port())
    simulated = ostraka("run", path, "--out", tmp_path / "simulated", "--json")
    assert simulated.code == 0, simulated.err

    started = {
        name: process("join", path, "--identity", tmp_path / f"{name}.pem", "--json")
        for name in PARTIES
    }
    ended = {}
    for name in ("hub", "ann", "bob", "cem"):
        out, err = started[name].communicate(timeout=120)
        ended[name] = Ended(started[name].returncode, out, err)
    started["mid"].send_signal(signal.SIGTERM)
    out, err = started["mid"].communicate(timeout=20)
    relay = Ended(started["mid"].returncode, out, err)

    assert {name: e.code for name, e in ended.items()} == dict.fromkeys(ended, 0)
    digests = {e.summary["model_digest"] for e in ended.values()}
    assert digests == {simulated.summary["model_digest"]}
    assert relay.code == 0, relay.err
    assert {e["peer"] for e in relay.lines if e["event"] == "bridged"} <= set(PARTIES)
    assert len([e for e in relay.lines if e["event"] == "bridged"]) >= 3

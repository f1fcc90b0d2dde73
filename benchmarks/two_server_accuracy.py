"""Claim: `two-server` as real processes trains to within 1 point of `trusted` under attack.

Fashion-MNIST, the CNN, 10 workers of whom 2 attack, two servers and a dealer as 13 processes over
TLS (`ostraka local`), beside the same federation under `trusted` in the simulator. Needs the data:

    python benchmarks/two_server_accuracy.py --data-dir DIR

Writes docs/results/two-server-accuracy.md. About a minute and a half per row on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import ostraka

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "results" / "two-server-accuracy.md"
RULES = {
    "NNM + Multi-Krum": ("multi-krum", ["nnm"]),
    "MDA": ("mda", []),
}
ATTACKS = ("alie", "ipm", "sign-flip")
FEDERATION = """[federation]
name = "fashion"
rounds = {rounds}
seed = {seed}
[faults]
byzantine = 2
[rule]
name = "{rule}"
pre = {pre}
[training]
model = "cnn"
evaluate_every = {rounds}
[data]
name = "fashion-mnist"
[simulation]
parties = 10
attack = "{attack}"
"""


def trained(folder: Path, trust: str, data_dir: Path, **values: object) -> dict[str, object]:
    """The summary of one run: `trusted` simulated, `two-server` as processes over TLS."""
    path = folder / f"{trust}.toml"
    path.write_text(FEDERATION.format(**values), encoding="utf-8")
    if trust == "trusted":
        run = ostraka.run(path, trust=trust, out=folder / trust, data_dir=data_dir, report=False)
        return run.summary
    command = [sys.executable, "-m", "ostraka.app.cli", "local", str(path), "--trust", trust]
    command += ["--data-dir", str(data_dir), "--out", str(folder / trust), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    summary: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return summary


def row(name: str, attack: str, rounds: int, seed: int, data_dir: Path) -> str:
    """One line of the table."""
    rule, pre = RULES[name]
    values = {"rule": rule, "pre": json.dumps(pre), "attack": attack}
    found = {}
    for trust in ("trusted", "two-server"):
        with tempfile.TemporaryDirectory() as folder:
            found[trust] = trained(
                Path(folder), trust, data_dir, rounds=rounds, seed=seed, **values
            )
    ours, theirs = (100 * float(str(found[t]["accuracy"])) for t in ("two-server", "trusted"))
    same = found["two-server"]["excluded"] == found["trusted"]["excluded"]
    return (
        f"| {name} | {attack} | {theirs:.2f} % | {ours:.2f} % | {ours - theirs:+.2f} | "
        f"{'the same' if same else 'another'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    lines = [
        "# `two-server` as processes beside `trusted`",
        "",
        "Fashion-MNIST, the CNN, 10 workers of whom 2 attack, "
        f"{given.rounds} rounds, seed {given.seed}. `two-server` runs as 13 processes over TLS "
        "(`ostraka local`), `trusted` in the simulator; everything else has its default.",
        "`python benchmarks/two_server_accuracy.py --data-dir DIR` writes this page.",
        "",
        "| rule | attack | trusted | two-server | points | excluded |",
        "|---|---|---|---|---|---|",
    ]
    for name in RULES:
        for attack in ATTACKS:
            lines.append(row(name, attack, given.rounds, given.seed, given.data_dir))
            print(lines[-1], flush=True)
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

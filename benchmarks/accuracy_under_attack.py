"""Claim: with NNM before a robust rule, accuracy under every listed attack stays near peace time.

Runs the grid of docs/results/accuracy-under-attack.md: Fashion-MNIST, 15 workers of whom 3 attack,
every first-set rule behind NNM and the plain mean, three seeds, one partition a call:

    python benchmarks/accuracy_under_attack.py --data-dir DIR --partition iid --out runs/grid
    python benchmarks/accuracy_under_attack.py --data-dir DIR --partition dirichlet --out runs/grid
    python benchmarks/accuracy_under_attack.py --write --out runs/grid

A stopped grid goes on with the same command. `--write` makes the page from both finished grids.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

from ostraka.app.compare import compare, grid, table
from ostraka.app.folder import versions
from ostraka.app.plots import grid_plot

ROBUST = ["median", "trimmed-mean", "multi-krum", "mda", "geometric-median", "centered-clipping"]
ATTACKS = [
    "none",
    "gaussian",
    "sign-flip",
    "alie",
    "ipm:eps=0.1",
    "ipm:eps=3.0",
    "mimic",
    "label-flip",
]
SEEDS = [0, 1, 2]
ROUNDS = 200
FLAGS = {
    "data": "fashion-mnist",
    "n": 15,
    "f": 3,
    "rounds": ROUNDS,
    "model": "mlp",
    "evaluate_every": ROUNDS,
}
PARTITIONS = {"iid": {}, "dirichlet": {"alpha": 0.5}}
PAGE = Path(__file__).parents[1] / "docs" / "results" / "accuracy-under-attack.md"


def run_grid(partition: str, out: Path, data_dir: Path) -> None:
    flags = {**FLAGS, "partition": partition, **PARTITIONS[partition]}
    plain = {"rule": ["mean"], "attack": ATTACKS, "seed": SEEDS}
    mixed = {"rule": ["mean", *ROBUST], "attack": ATTACKS, "seed": SEEDS}
    never = lambda: False  # noqa: E731
    compare(None, plain, flags, out / partition / "plain", data_dir, False, never)
    compare(None, mixed, {**flags, "pre": ["nnm"]}, out / partition / "nnm", data_dir, False, never)


def load_results(out: Path) -> dict[str, list[dict]]:
    return {
        partition: [
            result
            for part in ("plain", "nnm")
            for result in json.loads((out / partition / part / "results.json").read_text())
        ]
        for partition in PARTITIONS
    }


def page(out: Path) -> str:
    results = load_results(out)
    made = versions()
    lines = [
        "# Accuracy under attack: Fashion-MNIST, 15 workers, 3 attackers",
        "",
        "Final test accuracy in percent, mean ± standard deviation over the seeds",
        f"{', '.join(map(str, SEEDS))}. Model `mlp` (79,510 parameters), {ROUNDS} rounds,",
        "batch 32 a worker, learning rate 0.1, cosine schedule, momentum 0.9 at the worker,",
        "f = 3 of n = 15; the attackers know every honest update. `centered-clipping` has its",
        "default tau = 10. Made by `benchmarks/accuracy_under_attack.py`; every cell is a whole",
        "`ostraka run`.",
        "",
        "## Every worker holds an iid share",
        "",
        "![iid](accuracy-under-attack-iid.svg)",
        "",
        table(results["iid"]),
        "## Dirichlet(0.5): the workers' classes differ",
        "",
        "![dirichlet](accuracy-under-attack-dirichlet.svg)",
        "",
        table(results["dirichlet"]),
        *_reading(results),
        "",
        f"Python {made['python']}, torch {made['torch']}, numpy {made['numpy']}, "
        f"{platform.machine()}.",
    ]
    return "\n".join(lines) + "\n"


def _reading(results: dict[str, list[dict]]) -> list[str]:
    """What the iid table says of the rule that is the default, computed from it."""
    means: dict[tuple[str, str], float] = {}
    for result in results["iid"]:
        row = " + ".join([*result["pre"], result["rule"]])
        key = (row, result["attack"])
        means[key] = means.get(key, 0.0) + 100 * result["accuracy"] / len(SEEDS)
    peace = means["mean", "none"]
    lines = ["## How far below the mean at peace", ""]
    lines += ["| rule (iid) | worst attack | points below the mean at peace |", "|---|---|---|"]
    for row in dict.fromkeys(row for row, _ in means):
        attack = min(ATTACKS, key=lambda a: means[row, a])
        lines.append(f"| {row} | {attack} | {peace - means[row, attack]:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--partition", choices=PARTITIONS)
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy-under-attack"))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.partition:
        run_grid(arguments.partition, arguments.out, arguments.data_dir)
    if arguments.write:
        PAGE.write_text(page(arguments.out), encoding="utf-8")
        for partition, results in load_results(arguments.out).items():
            plot = grid_plot(*grid(results))
            PAGE.with_name(f"{PAGE.stem}-{partition}.svg").write_text(plot, encoding="utf-8")
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()

"""Claim: in the worst gather the trimmed mean shrinks the honest range to 2f / (n - 3f), and the
mean of nearest neighbours shrinks it where n > 7f, with the equivocation check where n > 5f; the
median need not shrink it at all.

A scheduler and liars that know everything choose, by search, who is late and what each receiver is
told (`ostraka.attacks.gathers`). The honest servers start in two or three groups of any sizes or
evenly spread, a range of 1; the worst start is then played for several gathers.

    python benchmarks/contraction.py --json FILE --page docs/results/contraction.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from in_memory import machine
from ostraka.attacks.gathers import splits, worst_gather
from ostraka.rules.contraction import CONTRACTIONS

SIZES = [
    (5, 1, 4),
    (6, 1, 5),
    (8, 1, 7),
    (8, 2, 6),
    (11, 2, 9),
    (11, 3, 8),
    (15, 2, 13),
    (16, 3, 13),
]
FEW_STARTS = 12
GATHERS = 6


def played(n: int, f: int, q: int, rule: str, equivocates: bool) -> list[float]:
    """The honest range after 0, 1, ... gathers, from the start that is worst in the end."""
    contract = CONTRACTIONS[rule]

    def after(values: np.ndarray) -> np.ndarray:
        return worst_gather(values, f, q, contract, equivocates=equivocates)

    def ranges(values: np.ndarray) -> list[float]:
        told = [float(np.ptp(values))]
        for _ in range(GATHERS):
            values = after(values)
            told.append(float(np.ptp(values)))
        return told

    starts = list(splits(n - f))[: n - f if n > FEW_STARTS else None]
    return max((ranges(start) for start in starts), key=lambda told: (told[-1], told))


def page(rows: list[dict[str, Any]]) -> str:
    """docs/results/contraction.md."""
    head = "| n | f | q | contraction | equivocation check | 2f/(n-3f) | "
    head += " | ".join(f"gather {k}" for k in range(1, GATHERS + 1)) + " |"
    lines = [head, "|" + " --- |" * (6 + GATHERS)]
    for row in rows:
        told = " | ".join(f"{value:.3g}" for value in row["ranges"][1:])
        check = "off" if row["equivocates"] else "on"
        bound = f"{2 * row['f'] / (row['n'] - 3 * row['f']):.2f}"
        lines.append(
            f"| {row['n']} | {row['f']} | {row['q']} | {row['rule']} | {check} | {bound} | {told} |"
        )
    table = "\n".join(lines)
    return f"""# What gathers do in the worst case

The honest servers' range (it was 1) after each of {GATHERS} gathers, n servers of which f lie, q
vectors received. A scheduler and liars that know everything choose, by search, who is late and what
each receiver is told: numbers far away, at the honest ends, and just inside each receiver's cut,
beyond its own value. Check off: a liar tells each receiver what it likes; on: the same to all. One
coordinate, from the start (groups of any sizes, or evenly spread) that is worst in the end; the
adversary looks one gather ahead. A search finds lower bounds on the worst; for the trimmed mean it
reaches the proven upper bound. Made by `benchmarks/contraction.py`.

{table}

The median need not shrink anything. The trimmed mean shrinks to 2f/(n-3f) at most where n > 5f, and
never widens where it does not. The nearest neighbours can be driven apart where n <= 7f, unless the
check is on and n > 5f.
"""


def main() -> None:
    """Run all cells; write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    rows = []
    for n, f, q in SIZES:
        for rule in CONTRACTIONS:
            for equivocates in (True, False):
                ranges = [round(value, 5) for value in played(n, f, q, rule, equivocates)]
                rows.append(
                    {
                        "n": n,
                        "f": f,
                        "q": q,
                        "rule": rule,
                        "equivocates": equivocates,
                        "ranges": ranges,
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=1) + "\n")
    if arguments.page:
        arguments.page.write_text(page(rows))


if __name__ == "__main__":
    main()

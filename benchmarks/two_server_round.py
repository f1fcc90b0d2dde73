"""Claim: in a `two_server` round of 100 workers and 10^6 parameters the servers send one another at
least 20 times fewer bytes than the paper's pairwise triples, all parties together need at most 5 s
on two cores and 2.5 GB, and a Gram matrix of words takes about 3 times float32 BLAS. With AVX2 5 s
are just reached; with AVX-512 it was not measured.

All parties run in one process on the simulated network, the very programs that run over TLS; the
first round compiles and is left out. The rule is Multi-Krum with f = n // 5 workers that send -3
times the honest direction. Every cell is a fresh process, so that its peak memory is its own. Bytes
are counted on every link and compared with closed forms; the aggregate is compared with the sum of
the chosen workers' quantised updates, word for word. Beside it: the plaintext rule, BLAS and numpy
products of the same shape, the paper's scheme (pairwise_triples.py) and MPyC (mpyc_gram.py).

    pip install 'ostraka[bench]'
    python benchmarks/two_server_round.py --quick
    python benchmarks/two_server_round.py --json FILE --page docs/results/two-server-round.md
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import mpyc_gram
import pairwise_triples
from in_memory import CLOCKS, machine
from two_server_cell import GRAMS, PHASES, measure

CELLS = [(n, d) for d in (10**5, 10**6) for n in (10, 50, 100)]
QUICK = [(10, 10**5)]
BASELINE = (25, 10**5)
QUICK_BASELINE = (25, 10**4)
ROUNDS, ROUNDS_OF_LARGE = 6, 8
LARGE = 5 * 10**7


def in_fresh_process(*arguments: object) -> dict[str, Any]:
    """This script's own answer to these arguments, from a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All cells and both comparisons."""
    cells = []
    print("".join(f"{title:>{width}}" for title, width, _ in COLUMNS))
    for n, d in QUICK if arguments.quick else CELLS:
        cells.append(middle_of(n, d, arguments))
        print("".join(f"{show(cells[-1]):>{width}}" for _, width, show in COLUMNS), flush=True)
    n, d = QUICK_BASELINE if arguments.quick else BASELINE
    return {
        "claim": "n=100, d=10^6, all parties in one process on two cores: <= 5 s, 2.5 GB a round; "
        "a Gram matrix 3 x float32 BLAS; pairwise triples send >= 20 x the bytes",
        "clock": arguments.clock,
        "cells": cells,
        "pairwise_triples": in_fresh_process("--clock", arguments.clock, "--pairwise", n, d),
        "mpyc": mpyc_gram.compare(n, d),
        "machine": machine(),
    }


def middle_of(n: int, d: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The process of median time among several, with the largest peak of all."""
    rounds = ROUNDS_OF_LARGE if n * d >= LARGE else ROUNDS
    cell = ("--clock", arguments.clock, "--threads", arguments.threads, "--cell", n, d, rounds)
    runs = [in_fresh_process(*cell) for _ in range(arguments.repeat)]
    middle = sorted(runs, key=lambda one: one["round_s"])[len(runs) // 2]
    return {
        **middle,
        "round_s_all": [seconds for one in runs for seconds in one["round_s_all"]],
        "peak_gb": max(one["peak_gb"] for one in runs),
        "gram_per_blas": median(one["gram_per_blas"] for one in runs),
        "one_thread_ratio": median(
            round(one["one_thread_ring_s"] / one["one_thread_blas_s"], 2) for one in runs
        ),
    }


# --- what is shown --------------------------------------------------------------------------


def megabytes(cell: Mapping[str, Any], link: str) -> str:
    return f"{cell['links'][link]['bytes'] / 1e6:.1f}"


COLUMNS = [
    ("n", 5, lambda c: c["n"]),
    ("d", 11, lambda c: f"{c['d']:,}"),
    ("round s", 9, lambda c: f"{c['round_s']:.2f}"),
    ("peak GB", 9, lambda c: f"{c['peak_gb']:.2f}"),
    ("Gram s", 9, lambda c: f"{c['gram_s']:.3f}"),
    ("BLAS s", 9, lambda c: f"{c['blas_float32_gram_s']:.3f}"),
    ("Gram / BLAS", 13, lambda c: f"{c['gram_per_blas']:.1f}"),
    ("kernel / BLAS", 15, lambda c: f"{c['one_thread_ratio']:.1f}"),
    ("plain rule s", 14, lambda c: f"{c['plaintext_rule_s']:.3f}"),
    ("S1 to S0 MB", 13, lambda c: megabytes(c, "server-1 -> server-0")),
    ("S0 to S1 MB", 13, lambda c: megabytes(c, "server-0 -> server-1")),
]


def markdown(titles: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


CLOCK_MEANS = {
    "wall": "Seconds are those that passed.",
    "cpu": "Seconds are the processor's, of all threads, on a\n"
    "machine that had other work as well: read ratios, not sums.",
}


def round_seconds(cell: Mapping[str, Any]) -> str:
    """How long each round of a cell took, in a sentence."""
    seconds = ", ".join(f"{one:.2f}" for one in sorted(cell["round_s_all"]))
    return f"The rounds at n = {cell['n']}, d = {cell['d']:,} took {seconds} s."


def page(result: Mapping[str, Any]) -> str:
    """docs/results/two-server-round.md."""
    cells, of = result["cells"], result["machine"]
    largest = cells[-1]
    n, d, threads = largest["n"], largest["d"], largest["threads"]
    return f"""# A round of two_server: time, memory, bytes

All parties (workers, two servers, dealer) in one process on the simulated network, the operators'
arithmetic on {threads} thread{"s" if threads > 1 else ""}. Multi-Krum, f = n / 5 liars. Rounds
after the first, without the workers' training. {CLOCK_MEANS[result["clock"]]}
The peak is the whole process's. Made by `benchmarks/two_server_round.py`, which also checks each
aggregate against the sum of the chosen workers' quantised updates, word for word, and the bytes of
each link against closed forms.

{markdown([title for title, *_ in COLUMNS], [[show(c) for *_, show in COLUMNS] for c in cells])}

- Gram: everything that S0, S1 and D do for it, streams and messages included. BLAS: a float32 Gram
  matrix of the same shape on as many threads. Gram / BLAS divides by {GRAMS} of them, since S0, S1
  and D take one Gram matrix of words each. kernel / BLAS: one of words against one of float32, one
  thread each. numpy's own product of 64-bit words takes {numpy_ratio(largest):.0f} times ours.
- {round_seconds(largest)}
  The aim at n = 100, d = 10^6 is 5 s on two cores. With vectors of 512 bits it was not measured.
- plain rule: `ostraka.aggregate` on the same rows in the clear, float32.

## Where the time goes

{phases_table(cells)}

## Bytes at n = {n}, d = {d:,}

A = {ands(largest):,} words of AND gates (n K + n two-sided comparisons).
The server link carries one vector for each worker in one direction, and the aggregate once each
way; all else does not depend on d.

{links_table(largest)}

{baselines(result)}

Python {of["python"]}, numpy {of["numpy"]}, numba {of["numba"]}, BLAS {of["blas"]},
{of["processor"]}, {of["cores"]} cores.
"""


def numpy_ratio(cell: Mapping[str, Any]) -> float:
    return float(cell["one_thread_numpy_uint64_s"] / cell["one_thread_ring_s"])


def ands(cell: Mapping[str, Any]) -> int:
    return int(cell["links"]["server-1 -> server-0"]["by_kind"]["Masked"]) // 16


def phases_table(cells: Sequence[Mapping[str, Any]]) -> str:
    titles = ["seconds", *(f"n = {c['n']}, d = {c['d']:,}" for c in cells)]
    rows = [[phase, *(f"{c['phases_s'][phase]:.3f}" for c in cells)] for phase in PHASES]
    return markdown(titles, rows)


FORMS = {
    "worker -> server-0": "128 n",
    "worker -> dealer": "128 n",
    "worker -> server-1": "8 n d + 128 n",
    "server-0 -> worker": "4 n d + n",
    "server-1 -> worker": "33 n",
    "server-1 -> server-0": "8 n d + 8 d + 16 A + 2 n",
    "server-0 -> server-1": "8 d + 16 A + 4 n (n - 1) + 2 n",
    "dealer -> server-1": "8 A + 4 n (n + 1)",
}


def links_table(cell: Mapping[str, Any]) -> str:
    rows = [
        [link, FORMS.get(link, "0"), f"{of['closed_form']:,}", f"{of['bytes']:,}", of["frames"]]
        for link, of in cell["links"].items()
    ]
    return markdown(["link", "closed form", "that is", "counted", "frames"], rows)


def baselines(result: Mapping[str, Any]) -> str:
    """The paper's scheme and MPyC, each on the same rows as ours."""
    pairs, mpyc = result["pairwise_triples"], result["mpyc"]
    rows = [
        [name, f"{of['seconds']:.2f}", f"{(of['bytes_0_to_1'] + of['bytes_1_to_0']) / 1e6:,.1f}"]
        for name, of in ((name, pairs[name]) for name in ("pairwise triples", "ours"))
    ]
    if "seconds" in mpyc:
        name, sent = f"{mpyc['library']}, three processes", 3 * mpyc["bytes_sent_by_party_0"] / 1e6
        rows.append([name, f"{mpyc['seconds']:.2f}", f"{sent:,.1f}"])
    table = markdown(["distances of shared rows", "seconds", "MB between servers"], rows)
    uploads = 8 * pairs["n"] * pairs["d"] / 1e6
    return f"""## Beside other schemes, n = {pairs["n"]}, d = {pairs["d"]:,}

{table}

Pairwise triples (He, Karimireddy and Jaggi 2020, section 3.3) send {pairs["bytes_ratio"]:g} times
our bytes and take {pairs["seconds_ratio"]:g} times our seconds, with the same kernels, generator
and network, one thread. One triple of matrices in place of pairs would send a vector for each
worker each way, twice ours. MPyC is general: Shamir shares over a 61-bit field among three parties,
one of them curious, in Python integers, over sockets. Its bytes (three times party 0's) are the
sharing of the inputs, which ours gets as uploads ({uploads:g} MB); its seconds are those that
passed. Not run: SPU 0.9.5, which needs a numpy below 2, and CrypTen 0.4.1, which asks for the
package `sklearn`, a name that PyPI no longer installs."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only n = 10, d = 10^5")
    parser.add_argument("--repeat", type=int, default=1, help="processes per cell; median of them")
    parser.add_argument("--threads", type=int, default=2, help="that the operators' work is on")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write them as Markdown")
    parser.add_argument("--cell", type=int, nargs=3, metavar=("N", "D", "ROUNDS"))
    parser.add_argument("--pairwise", type=int, nargs=2, metavar=("N", "D"))
    arguments = parser.parse_args()
    clock = CLOCKS[arguments.clock]
    if arguments.cell:
        print(json.dumps(measure(*arguments.cell, arguments.threads, clock)))
        return
    if arguments.pairwise:
        print(json.dumps(pairwise_triples.compare(*arguments.pairwise, clock)))
        return
    result = run(arguments)
    print("\n" + baselines(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.page:
        arguments.page.write_text(page(result))


if __name__ == "__main__":
    main()

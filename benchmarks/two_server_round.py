"""Claim: a `two_server` round of 100 workers and 10^6 parameters costs all parties together at
most 5 s and 2.5 GB on two cores, and its Gram matrix at most 3 times float32 BLAS per product.

All parties run in one process on the simulated network, the very programs that run over TLS; the
second round is measured. The rule is Multi-Krum with f = n // 5 workers that send -3 times the
honest direction. Every cell is a fresh process, so that its peak memory is its own. Bytes are
counted on every link and compared with closed forms; the aggregate is compared, bit for bit, with
the sum of the chosen workers' quantised updates. Beside it: the plaintext rule, plain BLAS products
of the same shape, the paper's pairwise triples (pairwise_triples.py) and MPyC (mpyc_gram.py).

    pip install 'ostraka[bench]'
    python benchmarks/two_server_round.py
    python benchmarks/two_server_round.py --quick
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from statistics import median
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import in_memory
import mpyc_gram
import ostraka
import pairwise_triples
from in_memory import CLOCKS, Clock, LinkCounter, Stopwatch, best_of, key, peak_gb, simulate
from ostraka.algebra.fixed import FixedPoint
from ostraka.algebra.ring import add_products
from ostraka.crypto import prg
from ostraka.crypto.sign import signer_from
from ostraka.crypto.transcript import digest
from ostraka.protocols import (
    compare,
    gram_sharing,
    norm_check,
    opening,
    public_model,
    upload,
    wrap_check,
)
from ostraka.rules import MultiKrum
from ostraka.trust import two_server
from ostraka.wire import Message

WORKER = import_module("ostraka.trust.two_server.worker")  # the package has a function of this name

CELLS = [(n, d) for d in (10**5, 10**6) for n in (10, 50, 100)]
QUICK = [(10, 10**5)]
RESULTS = Path(__file__).parent / "results"
GENERAL_PRODUCTS = 2.5
"""Of n x n x d multiplications: a symmetric product needs half. Server 0 one symmetric product,
server 1 two, the dealer a general one."""
HEADER_MOST = 33
"""Bytes of dtype, shape and padding of a matrix in a message."""
SMALL_MOST = 64
"""Bytes of a link's small messages, for each worker and each kind."""
PHASE_OF = {
    "protocols.public_model": "model out",
    "protocols.upload": "hash and verify",
    "protocols.wrap_check": "wraparound check",
    "protocols.norm_check": "comparison",
    "protocols.compare": "comparison",
    "protocols.linear_image": "rule",
    "trust.two_server.decide": "rule",
    "protocols.opening": "opening and step",
    "trust.public_step": "opening and step",
}
PHASE_OF_PARTY = {
    "server_0": {"protocols.gram_sharing": "Gram, server 0"},
    "server_1": {"protocols.gram_sharing": "Gram, server 1"},
    "dealer": {"protocols.gram_sharing": "Gram, dealer"},
    "worker": {"protocols.upload": "encode and upload"},
}
PARTIES = tuple(PHASE_OF_PARTY)
PHASES = (
    "model out",
    "encode and upload",
    "hash and verify",
    "wraparound check",
    "comparison",
    "Gram, server 0",
    "Gram, server 1",
    "Gram, dealer",
    "rule",
    "opening and step",
    "rest",
)
UNCOUNTED = "training (a stand-in, not counted)"


# --- one cell, in its own process -----------------------------------------------------------


class Federation:
    """Plan, programs and stand-in updates of n workers with d parameters."""

    def __init__(self, n: int, d: int, rounds: int) -> None:
        self.n, self.d, self.f = n, d, n // 5
        self.names = [f"worker-{i:03d}" for i in range(n)]
        pairs = [signer_from(digest("benchmark identity", name.encode())) for name in self.names]
        self.signs = [sign for sign, _ in pairs]
        rng = np.random.default_rng(0)
        self.common = (rng.standard_normal(d) / d**0.5).astype(np.float32)
        self.noise = (rng.standard_normal(d) / d**0.5).astype(np.float32)
        self.plan = two_server.Plan(
            keys={name: pair[1] for name, pair in zip(self.names, pairs, strict=True)},
            server_0="server-0",
            server_1="server-1",
            dealer="dealer",
            session=digest("benchmark"),
            rounds=rounds,
            rule=MultiKrum(f=self.f),
            pre=(),
            f=self.f,
            dropouts=None,
            rate=lambda round: 1.0,
            deadline_s=60.0,
            patience_s=60.0,
            max_norm=1e6,
            fixed=FixedPoint(d, frac_bits=20, clip=4.0),
            min_contributors=3,
            min_cohort=self.f + 3,
        )
        self.plan.check()

    def update(self, i: int) -> np.ndarray:
        """What worker i would have trained: float32 (d,); the last f are liars."""
        out = np.roll(self.noise, 977 * i)
        out += self.common if i < self.n - self.f else np.float32(-3) * self.common
        return out

    def programs(
        self, commit_1: Callable[[two_server.State1], None], trace: Callable[..., None]
    ) -> dict[str, Any]:
        """The real programs of all parties; what would be stored is dropped."""
        plan, start = self.plan, np.zeros(self.d, np.float32)
        programs: dict[str, Any] = {
            "server-0": lambda net: two_server.server_0(
                net,
                plan,
                two_server.State0.initial(start),
                own=key("server-0"),
                commit=lambda state: None,
                trace=trace,
            ),
            "server-1": lambda net: two_server.server_1(
                net,
                plan,
                two_server.State1.initial(start),
                own=key("server-1"),
                commit=commit_1,
                trace=trace,
            ),
            "dealer": lambda net: two_server.dealer(net, plan, 1, own=key("dealer")),
        }
        for i, name in enumerate(self.names):
            programs[name] = lambda net, i=i, name=name: two_server.worker(
                net,
                plan,
                lambda round, model: self.update(i),
                own=key(name),
                sign=self.signs[i],
                encode=WORKER.encoded,
                trace=trace,
            )
        return programs

    def check_aggregate(self, aggregate: np.ndarray, influence: Mapping[str, float]) -> None:
        """The liars are out, and the aggregate is the mean of the others' quantised updates."""
        chosen = [i for i, name in enumerate(self.names) if influence[name]]
        assert chosen == list(range(self.n - self.f)), "another choice than the plaintext rule's"
        total = np.zeros(self.d, np.uint64)
        for i in chosen:
            total += self.plan.fixed.encode(self.update(i))
        expected = total.view(np.int64) * self.plan.fixed.unit / len(chosen)
        assert np.abs(aggregate - expected).max() <= 1e-15, "another sum than the plaintext rule's"


def timers(clock: Clock) -> Stopwatch:
    """The phases of a round, by the module that a called function stands in, and kinds of work."""
    watch = Stopwatch(clock)
    watch.phase(UNCOUNTED, (Federation, "update"))
    for party in PARTIES:
        module = import_module(f"ostraka.trust.two_server.{party}")
        for place, phase in {**PHASE_OF, **PHASE_OF_PARTY.get(party, {})}.items():
            watch.phase(phase, *functions(module, f"ostraka.{place}"))
    watch.phase("encode and upload", (WORKER, "encoded"), (WORKER, "_upload"))
    for module in (wrap_check, norm_check):
        watch.phase("comparison", *functions(module, "ostraka.protocols.compare"))

    watch.kind("stream", (prg.Prg, "fill"), (prg.Prg, "words"))
    watch.kind("ring products", *functions(gram_sharing, "ostraka.algebra.ring"))
    watch.kind("projections", *functions(wrap_check, "ostraka.algebra.ring"))
    watch.kind("weighted sum", *functions(opening, "ostraka.algebra.ring"))
    for module in (upload, public_model):
        watch.kind("hash", *functions(module, "ostraka.crypto.transcript"))
    watch.kind("encode message", (Message, "encode"))
    return watch


def functions(user: ModuleType, source: str) -> list[tuple[ModuleType, str]]:
    """The functions that one module takes from another."""
    return [
        (user, name)
        for name, value in vars(user).items()
        if isinstance(value, FunctionType) and value.__module__ == source
    ]


def measure(n: int, d: int, rounds: int, clock: Clock) -> dict[str, Any]:
    """One cell: rounds 2 and later, each by itself; then what stands beside."""
    federation, counter, watch = Federation(n, d, rounds), LinkCounter(), timers(clock)
    seen: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    idle_gb = peak_gb()

    def on_commit(state: two_server.State1) -> None:
        if state.round == last.get("round", 0):
            return
        last["round"] = state.round
        phases = watch.phases()
        left_out = phases.pop(UNCOUNTED, 0.0)
        work = {f"{phase} / {kind}": s for (phase, kind), s in watch.seconds.items()}
        seen.append(
            {
                "round_s": clock() - last["since"] - left_out,
                "phases": phases,
                "work": work,
                "bytes": dict(counter.bytes),
                "frames": dict(counter.frames),
            }
        )
        watch.reset()
        counter.reset()
        last["since"] = clock()

    def trace(event: str, **fields: Any) -> None:
        if event == "aggregated":
            last["influence"] = fields["influence"]
        elif event != "opened":
            raise RuntimeError(f"an undisturbed round said {event}: {fields}")

    last["since"] = clock()
    try:
        results = simulate(federation.programs(on_commit, trace), counter)
    finally:
        watch.restore()
    peak = peak_gb()

    federation.check_aggregate(results["server-0"].previous, last["influence"])
    measured = seen[1:]
    middle = sorted(measured, key=lambda one: one["round_s"])[len(measured) // 2]
    phases = {name: round(middle["phases"].get(name, 0.0), 4) for name in PHASES}
    assert set(middle["phases"]) <= set(PHASES)
    return {
        "n": n,
        "d": d,
        "rounds_measured": len(measured),
        "round_s": round(middle["round_s"], 3),
        "round_s_all": [round(one["round_s"], 3) for one in measured],
        "phases_s": phases,
        "work_s": {k: round(s, 4) for k, s in sorted(middle["work"].items()) if s >= 5e-4},
        "peak_gb": round(peak, 2),
        "before_gb": round(idle_gb, 2),
        "links": links(federation, middle["bytes"], middle["frames"]),
        **beside(federation, phases, middle["work"], clock),
    }


# --- bytes ----------------------------------------------------------------------------------


def contents(n: int, d: int, k: int) -> dict[tuple[str, str], dict[str, int]]:
    """Bytes of content by link and kind of message, headers and small messages left out."""
    ands = wrap_check.wrap_triples(n, k) + compare.triples_needed(n, 2)
    gates = {"Masked": 16 * ands, "Verdict": 2 * n}
    return {
        ("worker", "server-0"): {"SeedPart": 128 * n},
        ("worker", "dealer"): {"SeedPart": 128 * n},
        ("worker", "server-1"): {"SharePart": n * (8 * d + 128)},
        ("server-0", "worker"): {"PublicModel": n * (4 * d + 1)},
        ("server-1", "worker"): {"ModelDigest": 33 * n},
        ("server-1", "server-0"): {"MaskedBlock": 8 * n * d, "Words": 8 * d, **gates},
        ("server-0", "server-1"): {"Rounded": 8 * d, "ImageShare": 4 * n * (n - 1), **gates},
        ("server-0", "dealer"): {},
        ("dealer", "server-0"): {},
        ("dealer", "server-1"): {"Correction": 8 * ands, "CrossTerms": 4 * n * (n + 1)},
        ("server-1", "dealer"): {},
    }


def links(
    federation: Federation, counted: dict[Any, int], frames: dict[Any, int]
) -> dict[str, dict[str, Any]]:
    """Counted bytes of each link; AssertionError unless they are the closed form and little more.

    What is more: headers, and ids, states, digests and acknowledgements, O(n) bytes a link.
    """
    n, expected = federation.n, contents(federation.n, federation.d, federation.plan.projections)
    told = {}
    assert {at[:2] for at in counted} == set(expected), "another link was used"
    for (sender, to), kinds in expected.items():
        link = f"{sender} -> {to}"
        here = {kind: size for (a, b, kind), size in counted.items() if (a, b) == (sender, to)}
        count = {kind: frames[sender, to, kind] for kind in here}
        for kind, size in kinds.items():
            extra = here[kind] - size
            assert 0 <= extra <= HEADER_MOST * count[kind], f"{link}: {kind} has {extra} beyond"
        small = sum(size for kind, size in here.items() if kind not in kinds)
        assert small <= SMALL_MOST * (n + len(here)), f"{link}: {small} bytes of small messages"
        told[link] = {
            "bytes": sum(here.values()),
            "closed_form": sum(kinds.values()),
            "small_and_headers": sum(here.values()) - sum(kinds.values()),
            "frames": sum(count.values()),
            "by_kind": here,
        }
    return told


# --- beside ---------------------------------------------------------------------------------


def beside(
    federation: Federation, phases: Mapping[str, float], work: Mapping[str, float], clock: Clock
) -> dict[str, Any]:
    """What the same rows cost elsewhere, on one thread, and the ratios to it."""
    ours = sum(phases[f"Gram, {party}"] for party in ("server 0", "server 1", "dealer"))
    kernels = sum(s for at, s in work.items() if at.endswith("/ ring products"))
    with threadpool_limits(limits=1):
        plain = on_floats(federation, clock)
    blas = GENERAL_PRODUCTS * plain["blas_float32_product_s"]
    return {
        "gram_s": round(ours, 4),
        "ring_products_s": round(kernels, 4),
        "gram_per_blas": round(ours / blas, 2),
        "ring_per_blas": round(kernels / blas, 2),
        **{name: round(seconds, 4) for name, seconds in plain.items()},
        **{name: round(seconds, 4) for name, seconds in on_words(federation, clock).items()},
    }


def on_floats(federation: Federation, clock: Clock) -> dict[str, float]:
    """Seconds of the plaintext rule and of float32 BLAS: a product of two arrays, and of one."""
    rows = np.stack([federation.update(i) for i in range(federation.n)])
    other = rows + np.float32(0)
    times = 1 if rows.size > 5 * 10**7 else 3
    return {
        "plaintext_rule_s": best_of(
            times, lambda: ostraka.aggregate(rows, federation.plan.rule), clock
        ),
        "blas_float32_product_s": best_of(times, lambda: rows @ other.T, clock),
        "blas_float32_symmetric_s": best_of(times, lambda: rows @ rows.T, clock),
    }


def on_words(federation: Federation, clock: Clock) -> dict[str, float]:
    """Seconds of one general product of 64-bit words, ours and numpy's, from fewer columns."""
    n, d = federation.n, federation.d
    width = min(d, 5 * 10**6 // n)
    words = key("words").stream().words(n * width).reshape(n, width)
    out = np.zeros((n, n), np.uint64)
    return {
        "ring_product_s": best_of(3, lambda: add_products(words, words, out), clock) * d / width,
        "numpy_uint64_product_s": best_of(1, lambda: words @ words.T, clock) * d / width,
    }


# --- all of it ------------------------------------------------------------------------------


def in_fresh_process(*arguments: str) -> dict[str, Any]:
    """This script's own answer to these arguments, from a process of its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def run(cells: list[tuple[int, int]], repeat: int, clock: str) -> dict[str, Any]:
    """All cells and both comparisons."""
    found = []
    for n, d in cells:
        rounds = 3 if n * d > 5 * 10**7 else 4
        arguments = ["--clock", clock, "--cell", str(n), str(d), str(rounds)]
        runs = [in_fresh_process(*arguments) for _ in range(repeat)]
        cell = sorted(runs, key=lambda one: one["round_s"])[len(runs) // 2]
        cell["peak_gb"] = max(one["peak_gb"] for one in runs)
        cell["round_s_all"] = [s for one in runs for s in one["round_s_all"]]
        cell["gram_per_blas"] = median(one["gram_per_blas"] for one in runs)
        cell["ring_per_blas"] = median(one["ring_per_blas"] for one in runs)
        found.append(cell)
        print(line(cell), flush=True)
    return {
        "claim": "n=100, d=10^6, all parties in one process: <= 5 s and <= 2.5 GB a round; "
        "Gram <= 3 x float32 BLAS x 2.5 products; pairwise triples send >= 20 x the bytes",
        "clock": clock,
        "cells": found,
        "pairwise_triples": in_fresh_process("--clock", clock, "--pairwise"),
        "mpyc": mpyc_gram.compare(),
        "machine": in_memory.machine(),
    }


HEADING = (
    "   n        d   round s   Gram s   check s   GB   S1 to S0 MB   S0 to S1 MB   "
    "plaintext s   Gram / (2.5 BLAS)   ring / (2.5 BLAS)"
)


def line(cell: Mapping[str, Any]) -> str:
    """One row of the table."""
    mb = {at: link["bytes"] / 1e6 for at, link in cell["links"].items()}
    checks = cell["phases_s"]["wraparound check"] + cell["phases_s"]["comparison"]
    return (
        f"{cell['n']:4} {cell['d']:8} {cell['wall_s']:9.3f} {cell['gram_s']:8.3f} {checks:9.3f} "
        f"{cell['peak_gb']:4.2f} {mb['server-1 -> server-0']:13.2f} "
        f"{mb['server-0 -> server-1']:13.2f} {cell['plaintext_rule_s']:13.4f} "
        f"{cell['gram_per_blas']:19.2f} {cell['ring_per_blas']:19.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only n = 10, d = 10^5")
    parser.add_argument("--repeat", type=int, default=1, help="processes per cell; median of them")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    parser.add_argument("--cell", type=int, nargs=3, metavar=("N", "D", "ROUNDS"), help="one cell")
    parser.add_argument("--pairwise", action="store_true", help="only the pairwise triples")
    arguments = parser.parse_args()
    if arguments.cell:
        print(json.dumps(measure(*arguments.cell, CLOCKS[arguments.clock])))
        return
    if arguments.pairwise:
        print(json.dumps(pairwise_triples.compare(25, 10**5, CLOCKS[arguments.clock])))
        return
    print(HEADING)
    result = run(QUICK if arguments.quick else CELLS, arguments.repeat, arguments.clock)
    for name in ("pairwise_triples", "mpyc"):
        print(f"{name}: {json.dumps(result[name], indent=1)}")
    if arguments.json:
        arguments.json.parent.mkdir(exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""One cell of two_server_round.py: a federation in this process, timed, counted and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import ostraka
from in_memory import Clock, LinkCounter, Stopwatch, best_of, key, peak_gb, simulate
from ostraka.algebra.fixed import FixedPoint
from ostraka.algebra.ring import add_gram
from ostraka.crypto import prg
from ostraka.crypto.sign import signer_from
from ostraka.crypto.transcript import digest
from ostraka.drivers.cores import all_cores
from ostraka.net import Program
from ostraka.protocols import (
    compare,
    norm_check,
    public_model,
    upload,
    wrap_check,
)
from ostraka.rules import MultiKrum
from ostraka.sharing import additive
from ostraka.trust import two_server
from ostraka.wire import Message

WORKER = import_module("ostraka.trust.two_server.worker")  # the package has a function of this name

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
GRAMS = 3
"""Products of an array with itself that the Gram phase takes: one at each operator."""
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


# --- the federation -------------------------------------------------------------------------


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
        self,
        commit_0: Callable[[two_server.State0], None],
        trace: Callable[..., None],
        map: Callable[..., Any],
    ) -> dict[str, Any]:
        """The real programs of all parties; what would be stored is dropped."""
        plan, start = self.plan, np.zeros(self.d, np.float32)
        state_0, state_1 = two_server.State0.initial(start), two_server.State1.initial(start)
        keys = {name: key(name) for name in ("server-0", "server-1", "dealer", *self.names)}

        def lives(i: int, name: str) -> Program:
            return lambda net: two_server.worker(
                net,
                plan,
                lambda round, model: self.update(i),
                own=keys[name],
                sign=self.signs[i],
                encode=WORKER.encoded,
                trace=trace,
            )

        return {
            "server-0": lambda net: two_server.server_0(
                net, plan, state_0, own=keys["server-0"], commit=commit_0, trace=trace, map=map
            ),
            "server-1": lambda net: two_server.server_1(
                net, plan, state_1, own=keys["server-1"], commit=forget, trace=trace, map=map
            ),
            "dealer": lambda net: two_server.dealer(net, plan, 1, own=keys["dealer"], map=map),
            **{name: lives(i, name) for i, name in enumerate(self.names)},
        }

    def check_aggregate(self, aggregate: np.ndarray, influence: Mapping[str, float]) -> None:
        """The liars are out, and the aggregate is the mean of the others' quantised updates."""
        chosen = [i for i, name in enumerate(self.names) if influence[name]]
        assert chosen == list(range(self.n - self.f)), "another choice than the plaintext rule's"
        total = np.zeros(self.d, np.uint64)
        for i in chosen:
            total += self.plan.fixed.encode(self.update(i))
        expected = total.view(np.int64) * self.plan.fixed.unit / len(chosen)
        assert np.abs(aggregate - expected).max() <= 1e-15, "another sum than the plaintext rule's"


# --- what is measured -----------------------------------------------------------------------


def forget(state: object) -> None:
    """Store nothing: a disk is no part of what is measured."""


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

    streams = (prg.Prg, "fill"), (prg.Prg, "words"), (additive, "fill_rows")
    watch.kind("stream", *streams)
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


@dataclass
class Rounds:
    """What is seen of a run, round by round: from one stored state of server 0 to the next."""

    watch: Stopwatch
    counter: LinkCounter
    clock: Clock
    done: int = 0
    influence: Mapping[str, float] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)

    def start(self) -> None:
        """A round begins."""
        self.watch.reset()
        self.counter.reset()
        self.since = self.clock()

    def on_commit(self, state: two_server.State0) -> None:
        """Server 0 stores a state; of a later round, if the one before is over."""
        if state.round == self.done:
            return
        self.done = state.round
        seconds = self.clock() - self.since
        phases = self.watch.phases()
        one = {
            "round_s": seconds - phases.pop(UNCOUNTED, 0.0),
            "phases": phases,
            "work": {f"{phase} / {kind}": s for (phase, kind), s in self.watch.seconds.items()},
            "bytes": dict(self.counter.bytes),
            "frames": dict(self.counter.frames),
        }
        self.seen.append(one)
        self.start()

    def trace(self, event: str, **fields: Any) -> None:
        """RuntimeError for an event that an undisturbed round does not have."""
        if event == "aggregated":
            self.influence = fields["influence"]
        elif event != "opened":
            raise RuntimeError(f"an undisturbed round said {event}: {fields}")


def measure(n: int, d: int, rounds: int, threads: int, clock: Clock) -> dict[str, Any]:
    """One cell: rounds 2 and later, each by itself; then what stands beside."""
    federation, watch = Federation(n, d, rounds), timers(clock)
    found = Rounds(watch, LinkCounter(), clock)
    before_gb = peak_gb()
    with all_cores(threads) as spread:
        programs = federation.programs(found.on_commit, found.trace, spread)
        found.start()
        try:
            results = simulate(programs, found.counter)
        finally:
            watch.restore()
    peak = peak_gb()

    federation.check_aggregate(results["server-0"].previous, found.influence)
    measured = found.seen[1:]
    middle = sorted(measured, key=lambda one: one["round_s"])[len(measured) // 2]
    assert set(middle["phases"]) <= set(PHASES)
    phases = {name: round(middle["phases"].get(name, 0.0), 4) for name in PHASES}
    return {
        "n": n,
        "d": d,
        "threads": threads,
        "round_s": round(middle["round_s"], 3),
        "round_s_all": [round(one["round_s"], 3) for one in measured],
        "phases_s": phases,
        "work_s": {k: round(s, 4) for k, s in sorted(middle["work"].items()) if s >= 5e-4},
        "peak_gb": round(peak, 2),
        "before_gb": round(before_gb, 2),
        "links": links(federation, middle["bytes"], middle["frames"]),
        **beside(federation, {**middle, "clock": clock}, threads),
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


def beside(federation: Federation, one: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """What the same rows cost elsewhere, on as many threads, and the ratios to it."""
    clock = one["clock"]
    gram = sum(s for name, s in one["phases"].items() if name.startswith("Gram"))
    with threadpool_limits(limits=threads):
        plain = on_floats(federation, clock)
    with threadpool_limits(limits=1):
        plain |= on_one_thread(federation, clock)
    blas = GRAMS * plain["blas_float32_gram_s"]
    return {
        "gram_s": round(gram, 4),
        "gram_per_blas": round(gram / blas, 2),
        "kernel_per_blas": round(plain["one_thread_ring_s"] / plain["one_thread_blas_s"], 2),
        **{name: round(seconds, 4) for name, seconds in plain.items()},
    }


def on_floats(federation: Federation, clock: Clock) -> dict[str, float]:
    """Seconds of the plaintext rule and of float32 BLAS: the same Gram matrix in the clear."""
    rows = np.stack([federation.update(i) for i in range(federation.n)])
    times = 1 if rows.size > 5 * 10**7 else 5
    return {
        "plaintext_rule_s": best_of(
            times, lambda: ostraka.aggregate(rows, federation.plan.rule), clock
        ),
        "blas_float32_gram_s": best_of(times, lambda: rows @ rows.T, clock),
    }


def on_one_thread(federation: Federation, clock: Clock) -> dict[str, float]:
    """Seconds of one Gram matrix on one thread, from fewer columns: words ours and numpy's,
    float32 by BLAS."""
    n, d = federation.n, federation.d
    width = min(d, 5 * 10**6 // n)
    words = key("words").stream().words(n * width).reshape(n, width)
    out = np.zeros((n, n), np.uint64)
    reals = (words >> np.uint64(40)).astype(np.float32)
    return {
        "one_thread_ring_s": best_of(5, lambda: add_gram(words, out), clock) * d / width,
        "one_thread_blas_s": best_of(5, lambda: reals @ reals.T, clock) * d / width,
        "one_thread_numpy_uint64_s": best_of(1, lambda: words @ words.T, clock) * d / width,
    }

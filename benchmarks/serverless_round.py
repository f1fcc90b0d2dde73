"""Claim: a `serverless` round of 100 peers and 10^6 parameters, t = 10, takes all peers together in
one process on two cores at most 30 s and 8 GB, hashing, signing and agreement included; a peer
sends at most 27 MB for dealing and 28 MB for opening.

All peers run in one process on the simulated network, the very programs that run over TLS; a small
round before it compiles. Every cell is a fresh process, so that its peak memory is its own. CPU
time is counted by the step in whose label a frame lies, and so are bytes; those of boxes and of the
opening are compared with closed forms. The opened sums are compared with the plaintext rule's.

    pip install 'ostraka[bench]'
    python benchmarks/serverless_round.py --quick
    python benchmarks/serverless_round.py --json FILE
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from in_memory import machine
from ostraka.algebra.field import Field
from ostraka.crypto.prg import KEY_BYTES, Key
from ostraka.crypto.seal import TAG_BYTES
from ostraka.crypto.sign import signer_from
from ostraka.crypto.transcript import digest
from ostraka.drivers import sim
from ostraka.mailbox import Limits
from ostraka.net import Net, Program
from ostraka.party import Party
from ostraka.protocols.dealing_messages import SALT_BYTES
from ostraka.protocols.image_equations import Statement
from ostraka.protocols.shared_submission import First
from ostraka.protocols.votes import Plan as Voters
from ostraka.rules import ClippedMean
from ostraka.rules.image import Public, combine
from ostraka.sharing.shamir import Packing
from ostraka.trust.serverless.rounds import Seat, Table, play_round

CELLS = [(n, d, share) for n in (20, 50, 100, 200) for d in (10**4, 10**5) for share in (10, 20)]
LARGE = [(20, 10**6, 10), (50, 10**6, 10), (100, 10**6, 10)]
QUICK = [(12, 5_000, 10), (20, 10**4, 10)]
STEPS = ("keys", "deal", "coin", "proof", "last-coin", "checks", "accepted", "open")
CPU = time.process_time


class Metered(Party):
    """A party that counts CPU seconds and bytes by the step of a frame's label."""

    def __init__(
        self, spent: Counter[str], sent: Counter[str], me: str, program: Program, **named: Any
    ):
        super().__init__(me, program, **named)
        self.spent, self.sent = spent, sent

    def start(self, now: float) -> None:
        since = CPU()
        super().start(now)
        self.spent["keys"] += CPU() - since

    def deliver(self, sender: str, frame: sim.Frame, now: float) -> None:
        since = CPU()
        super().deliver(sender, frame, now)
        self.spent[step_of(frame.label)] += CPU() - since

    def tick(self, now: float) -> None:
        since = CPU()
        super().tick(now)
        self.spent["time"] += CPU() - since

    def post(self, to: str, label: Any, kind: str, body: bytes) -> None:
        super().post(to, label, kind, body)
        self.sent[f"{step_of(label)} {kind}"] += len(body)


def step_of(label: Any) -> str:
    """The step in whose label a frame lies."""
    return next((name for name, _ in label if name in STEPS), "other")


class Nothing:
    """Keeps nothing: what disks cost is not in this figure."""

    begun = 0
    opening: Field | None = None

    def store(self, instance: Any, stored: Any) -> None:
        pass

    def restored(self, instance: Any) -> list[Any]:
        return []

    def begin(self, attempt: int) -> None:
        pass

    def open(self, share: Field) -> None:
        pass


def measure(n: int, d: int, t: int) -> dict[str, Any]:
    """One round; raises where an honest peer's sums are not the plaintext rule's."""
    names = [f"p{i:03d}" for i in range(n)]
    pairs = {name: signer_from(digest("benchmark peer", name.encode())) for name in names}
    packing, rule, public = Packing.fitting(n, t), ClippedMean(1.0), Public.blank(d)
    statement = Statement.of(rule.image(public), packing, 0)
    voters = Voters({name: pairs[name][1] for name in names}, digest("benchmark session"), t)
    table = Table(voters, 0, statement, 5.0, 600.0)
    made = {
        i: rule.submit(np.random.default_rng(i).standard_normal(d).astype(np.float32), public, i)
        for i in range(n)
    }
    want = combine(rule, made, public).opened
    spent: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    secret = Key(digest("benchmark secrets"))

    def program(place: int) -> Program:
        drawn = iter(range(1 << 30))

        async def run(net: Net) -> Any:
            own = secret.derive("peer", place)
            seat = Seat(
                pairs[net.me][0], lambda: own.derive("fresh", next(drawn)), Nothing(), silent
            )
            opened = await play_round(net, table, seat, made[place])
            right = all(
                np.array_equal(got, sums)
                for got, sums in zip(opened.sums, want.values(), strict=True)
            )
            return right and len(opened.accepted) == n

        return run

    def metered(name: str, run: Program, **named: Any) -> Party:
        return Metered(spent, sent, name, run, **named)

    since, cpu = time.perf_counter(), CPU()
    with patch.object(sim, "Party", metered):
        simulation = sim.Simulation(
            {name: program(at) for at, name in enumerate(names)},
            seed=1,
            limits=Limits(unread_frames=1 << 14),
        )
        outcomes = simulation.run()
    wall_s, cpu_s = time.perf_counter() - since, CPU() - cpu
    if not all(outcome.status == "done" and outcome.result for outcome in outcomes.values()):
        raise RuntimeError("a peer has not ended with the plaintext rule's sums")
    return {
        "n": n,
        "d": d,
        "t": t,
        "slots": packing.slots,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "step_ms": {step: 1e3 * seconds / n for step, seconds in spent.items()},
        "frames": simulation.frames,
        "sent": sum(sent.values()) / n,
        "boxes": sent["deal Box"] / n,
        "boxes_formula": boxes(statement, n),
        "opening": sent["open Share"] / n,
        "opening_formula": (n - 1) * 8 * statement.dealt,
        "sent_by_kind": {kind: size / n for kind, size in sorted(sent.items())},
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def boxes(statement: Statement, n: int) -> float:
    """Bytes of a dealer's boxes of the first message, in the mean over dealers.

    Seeds for the first members, vectors for all others; nobody sends itself one.
    """
    seeds, vector = statement.packing.seeds, 8 * First(statement).width
    every = seeds * KEY_BYTES + (n - seeds) * vector
    return (n - 1) / n * every + (n - 1) * (SALT_BYTES + TAG_BYTES)


def silent(event: str, **told: Any) -> None:
    """Forget an event."""


def in_fresh_process(n: int, d: int, t: int) -> dict[str, Any]:
    """This script's own answer, from a process of its own."""
    command = [sys.executable, __file__, "--cell", str(n), str(d), str(t)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def show(cell: dict[str, Any]) -> str:
    """One line."""
    steps = " ".join(f"{step} {cell['step_ms'].get(step, 0.0):.0f}" for step in STEPS)
    size = f"N {cell['n']:4} t {cell['t']:3} d {cell['d']:9,} l {cell['slots']:3}"
    cost = f"{cell['wall_s']:6.1f} s, {cell['rss_mb'] / 1024:.1f} GB, {cell['frames']:,} frames"
    return f"{size}: {cost}, sent {cell['sent'] / 1e6:.1f} MB a peer; ms a peer: {steps}"


def main() -> None:
    """Measure the cells and write them down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cell", type=int, nargs=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.cell:
        measure(7, 50, 1)
        print(json.dumps(measure(*arguments.cell)))
        return
    found = []
    for n, d, share in QUICK if arguments.quick else CELLS + LARGE:
        found.append(in_fresh_process(n, d, max(1, n * share // 100)))
        print(show(found[-1]), flush=True)
    if arguments.json:
        text = json.dumps({"machine": machine(), "cells": found}, indent=1)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

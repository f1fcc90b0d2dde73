"""Claim: a whole `ostraka run` takes at most 1.3 times a bare PyTorch loop with the same rule.

Both compute the same workers' minibatch gradients one after the other (Fashion-MNIST, MLP, 15
workers of whom 3 attack with ALIE), keep momentum at the worker, apply NNM and the trimmed mean to
the same rows and take the same step. The bare loop has no messages, screening by round, events,
digests or folder. The two run in turn in one process, one thread each, and the ratio is taken pair
by pair; evaluation is left out of both.

    python benchmarks/loop_overhead.py --data-dir DIR
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

import ostraka
from ostraka.app.folder import versions
from ostraka.attacks import ALIE
from ostraka.learn.data import load
from ostraka.learn.partition import split
from ostraka.rules import NNM, TrimmedMean

N, F, ROUNDS, BATCH, RATE, BETA = 15, 3, 100, 32, 0.1, 0.9
RESULT = Path(__file__).parent / "results" / "loop_overhead.json"


def bare_loop(dataset, parts) -> float:
    """Seconds of the loop that a researcher would write without Ostraka."""
    shards = [
        (torch.from_numpy(dataset.train_x[p]), torch.from_numpy(dataset.train_y[p])) for p in parts
    ]
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    loss_of = nn.CrossEntropyLoss()
    parameters = list(model.parameters())
    d = sum(p.numel() for p in parameters)
    momentum = torch.zeros(N - F, d)
    rng = np.random.default_rng(0)
    rule, pre, attack = TrimmedMean(F), [NNM(F)], ALIE()

    start = time.perf_counter()
    for _ in range(ROUNDS):
        for worker in range(N - F):
            x, y = shards[worker]
            chosen = torch.from_numpy(rng.choice(len(x), BATCH, replace=False))
            model.zero_grad()
            loss_of(model(x[chosen]), y[chosen]).backward()
            gradient = torch.cat([p.grad.reshape(-1) for p in parameters])
            momentum[worker].mul_(BETA).add_(gradient)
        honest = momentum.numpy()
        rows = np.concatenate([honest, attack(honest, F, rng)])
        update = torch.from_numpy(ostraka.aggregate(rows, rule, pre).vector)
        with torch.no_grad():
            at = 0
            for p in parameters:
                p -= RATE * update[at : at + p.numel()].view_as(p)
                at += p.numel()
    return time.perf_counter() - start


def ostraka_loop(data_dir: Path) -> float:
    """Seconds from the first round to the last of `ostraka run`, checkpoints included."""
    out = Path(tempfile.mkdtemp()) / "run"
    result = ostraka.run(
        out=out,
        report=False,
        data_dir=data_dir,
        data="fashion-mnist",
        n=N,
        f=F,
        attack="alie",
        rule="trimmed-mean",
        pre=["nnm"],
        rounds=ROUNDS,
        schedule="constant",
        evaluate_every=ROUNDS,
    )
    shutil.rmtree(out.parent)
    return result.history[-1]["s"] - result.summary["seconds"]["evaluate"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load("fashion-mnist", arguments.data_dir)
    parts = split(dataset.train_y, N, "iid", seed=0)
    pairs = []
    with threadpool_limits(limits=1):
        for _ in range(arguments.pairs + 1):
            pairs.append((ostraka_loop(arguments.data_dir), bare_loop(dataset, parts)))
    pairs = pairs[1:]  # the first pair warms caches
    ratios = sorted(ours / bare for ours, bare in pairs)
    result = {
        "claim": "ostraka run / bare PyTorch loop <= 1.3",
        "ratio_median": round(median(ratios), 3),
        "ratio_min": round(ratios[0], 3),
        "ratio_max": round(ratios[-1], 3),
        "ostraka_ms_per_round": round(1000 * median(o for o, _ in pairs) / ROUNDS, 2),
        "bare_ms_per_round": round(1000 * median(b for _, b in pairs) / ROUNDS, 2),
        "settings": {"n": N, "f": F, "rounds": ROUNDS, "batch": BATCH, "pairs": len(pairs)},
        "machine": {**versions(), "processor": platform.processor() or platform.machine()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""Claim: the Gram matrix mod 2^64 of n updates takes about three times a float32 BLAS Gram.

That is on vectors of 256 bits (AVX2): two products mod 2^64 of four words take two vector
multiplications, four additions and a shuffle there (Winograd's identity), eight float32 products
take one fused instruction.

Both add up X X^T of the same shape over blocks of columns that are already in memory, in turn in
one process and on one thread; the ratio is taken pair by pair. The float32 Gram in one piece,
numpy's uint64 product, the general product and the projections on 100 vectors of signs stand
beside them. Rates are useful products per second: n (n + 1) / 2 for each column of a Gram.

    python benchmarks/ring_kernels.py
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numba
import numpy as np
from llvmlite.binding import get_host_cpu_name
from threadpoolctl import threadpool_info, threadpool_limits

import ostraka
from ostraka.algebra import ring
from ostraka.algebra.ops import spans
from ostraka.crypto.prg import Prg

SIZES, D, SIGNS = (10, 50, 100), 1_000_000, 100
WIDTHS = (1 << 14, 1 << 16)
NUMPY_COLUMNS = 1 << 16
RESULT = Path(__file__).parent / "results" / "ring_kernels.json"


def blocks(words: ring.Ring, width: int) -> list[ring.Ring]:
    """Contiguous blocks of columns, as a stream of shares gives them."""
    return [np.ascontiguousarray(words[:, low:high]) for low, high in spans(words.shape[1], width)]


def ring_gram(parts: list[ring.Ring]) -> None:
    out = np.zeros((len(parts[0]),) * 2, np.uint64)
    for part in parts:
        ring.add_gram(part, out)


def ring_products(parts: list[ring.Ring]) -> None:
    out = np.zeros((len(parts[0]),) * 2, np.uint64)
    for part in parts:
        ring.add_products(part, part, out)


def ring_signs(parts: list[ring.Ring], signs: list[ring.Ring]) -> None:
    out = np.zeros((len(parts[0]), SIGNS), np.uint64)
    for part, drawn in zip(parts, signs, strict=True):
        ring.add_signed(part, drawn, out)


def blas_gram(parts: list[np.ndarray]) -> None:
    out = np.zeros((len(parts[0]),) * 2)
    for part in parts:
        out += part @ part.T


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def random_signs(width: int) -> list[ring.Ring]:
    prg = Prg(bytes(32))
    counts = [ring.sign_words(high - low) for low, high in spans(D, width)]
    return [prg.words(SIGNS * count).reshape(SIGNS, count) for count in counts]


def measured(n: int, width: int, pairs: int) -> dict[str, object]:
    words = Prg(bytes(32)).words(n * D).reshape(n, D)
    parts, signs = blocks(words, width), random_signs(width)
    whole = words.view(np.int64).astype(np.float32)
    whole *= np.float32(2.0**-63)
    reals = [np.ascontiguousarray(whole[:, low:high]) for low, high in spans(D, width)]
    ring_gram(parts[:1])
    taken = [
        (seconds(partial(ring_gram, parts)), seconds(partial(blas_gram, reals)))
        for _ in range(pairs)
    ]
    best = {
        "blas_whole_s": partial(np.matmul, whole, whole.T),
        "ring_products_s": partial(ring_products, parts),
        "ring_signs_s": partial(ring_signs, parts, signs),
    }
    few = words[:, :NUMPY_COLUMNS]
    ratios = sorted(ours / blas for ours, blas in taken)
    result: dict[str, object] = {
        "n": n,
        "block_columns": width,
        "ratio_median": round(median(ratios), 2),
        "ratio_min": round(ratios[0], 2),
        "ratio_max": round(ratios[-1], 2),
        "ring_gram_s": round(median(ours for ours, _ in taken), 4),
        "blas_blocks_s": round(median(blas for _, blas in taken), 4),
    }
    for name, run in best.items():
        result[name] = round(min(seconds(run) for _ in range(3)), 4)
    result["numpy_uint64_s"] = round(seconds(lambda: few @ few.T) * D / NUMPY_COLUMNS, 2)
    for name, products in (
        ("ring_gram_s", n * (n + 1) // 2),
        ("ring_products_s", n * n),
        ("ring_signs_s", n * SIGNS),
    ):
        rate = products * D / float(str(result[name])) / 1e9
        result[name.removesuffix("_s") + "_giga_per_s"] = round(rate, 1)
    return result


def start_s() -> dict[str, float]:
    """Seconds until all kernels are ready in a fresh process: compiled, then from the cache."""
    code = "import time; t = time.perf_counter(); import ostraka.algebra.kernels.ring; "
    code += "print(time.perf_counter() - t)"
    with tempfile.TemporaryDirectory() as folder:
        environment = {"NUMBA_CACHE_DIR": folder, "PATH": ""}
        first, second = (
            subprocess.run(
                [sys.executable, "-c", code],
                env=environment,
                capture_output=True,
                check=True,
                text=True,
            ).stdout
            for _ in range(2)
        )
    return {"compiled_s": round(float(first), 2), "cached_s": round(float(second), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    with threadpool_limits(1):
        for n in SIZES:
            for width in WIDTHS:
                rows.append(measured(n, width, arguments.pairs))
                print(json.dumps(rows[-1]))
    result = {
        "claim": "Gram mod 2^64 / float32 BLAS Gram about 3 to 5 on one thread (AVX2)",
        "rows": rows,
        "start": start_s(),
        "settings": {"d": D, "signs": SIGNS, "pairs": arguments.pairs, "threads": 1},
        "machine": {
            "ostraka": ostraka.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": numba.__version__,
            "blas": [
                f"{found['internal_api']} {found['version']} {found.get('architecture')}"
                for found in threadpool_info()
                if found["user_api"] == "blas"
            ],
            "processor_name_in_llvm": get_host_cpu_name(),
            "processor": platform.processor() or platform.machine(),
        },
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["start"]))


if __name__ == "__main__":
    main()

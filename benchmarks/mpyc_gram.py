"""The Gram matrix of two_server_round.py in MPyC, a general library of secure computation.

Three parties on this machine, each a process with sockets between them, any one curious: MPyC's
setting is Shamir sharing among an honest majority, ours two servers and a dealer. Every party
brings a third of the rows, as workers would; the parties share them, multiply X by its transpose
over the field of 2^61 - 1 elements and open the squared distances. Measured by party 0: seconds
and bytes from the inputs to the opening.

    python benchmarks/mpyc_gram.py 25 10000
"""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

N, D = 25, 10**4
PARTIES = 3
PRIME = (1 << 61) - 1
WAIT_S = 300.0


def compare(n: int = N, d: int = D) -> dict[str, Any]:
    """What three processes of MPyC need, or why nothing was measured."""
    if importlib.util.find_spec("mpyc") is None:
        return {"skipped": "MPyC is not installed: pip install 'ostraka[bench]'"}
    port = free_port()
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), str(n), str(d)]
    command += [f"-M{PARTIES}", "-B", str(port), "--no-log"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"MPyC ended with {done.returncode}: {done.stderr[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"library": f"mpyc {version('mpyc')}", "parties": PARTIES, "n": n, "d": d, **answer}


def free_port() -> int:
    """The first of a few neighbouring ports that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
    return min(port, 65535 - PARTIES)


def rows_of(n: int, d: int) -> np.ndarray:
    """Small integer rows, as fixed point gives them: int64 (n, d)."""
    return np.random.default_rng(0).integers(-(1 << 15), 1 << 15, (n, d))


def distances_of(gram: np.ndarray) -> np.ndarray:
    """Squared distances of all pairs from a Gram matrix."""
    upper = np.triu_indices(len(gram), 1)
    diagonal = np.diagonal(gram)
    return diagonal[upper[0]] + diagonal[upper[1]] - 2 * gram[upper]


async def party(mpc: Any, n: int, d: int) -> None:
    """One party's life; party 0 prints what it measured."""
    field = mpc.SecFld(PRIME)
    rows = rows_of(n, d)
    await mpc.start()
    sent, start = bytes_sent(mpc), time.perf_counter()

    parts = np.array_split(rows.astype(object), PARTIES)  # only its own third is a party's secret
    shared = mpc.np_vstack(
        [mpc.input(field.array(part), senders=owner) for owner, part in enumerate(parts)]
    )
    gram = mpc.np_matmul(shared, mpc.np_transpose(shared))
    upper = np.triu_indices(n, 1)
    diagonal = mpc.np_diag(gram)
    apart = diagonal[upper[0]] + diagonal[upper[1]] - 2 * gram[upper]
    opened = await mpc.output(apart)

    seconds, sent = time.perf_counter() - start, bytes_sent(mpc) - sent
    found = np.array([int(value) for value in opened.value])
    assert np.array_equal(found, distances_of(rows @ rows.T)), "MPyC found other distances"
    if mpc.pid == 0:
        print(json.dumps({"seconds": round(seconds, 3), "bytes_sent_by_party_0": sent}))
    await mpc.shutdown()


def bytes_sent(mpc: Any) -> int:
    """Bytes that this party has sent to the others so far."""
    return sum(other.protocol.nbytes_sent for other in mpc.parties if other.pid != mpc.pid)


def main() -> None:
    from mpyc.runtime import mpc  # reads its own options from the command line

    n, d = (int(argument) for argument in sys.argv[1:3])
    mpc.run(party(mpc, n, d))


if __name__ == "__main__":
    main()

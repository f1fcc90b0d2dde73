"""Norm check: no shared vector is longer than the bound, one bit opened per worker.

Goes beyond He, Karimireddy and Jaggi 2020. Runs for every rule, the mean included, on the diagonal
of the shared 2 X X^T, after the wraparound check (without it a norm that wraps would pass).
Parties: two servers and the dealer whose triples they use, any one curious. Guarantee: a vector
passes exactly when its squared norm, an integer, is at most the limit. Revealed: one bit per
worker.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ostraka.algebra.ring import Ring
from ostraka.net import Net
from ostraka.protocols.compare import Triples, non_negative
from ostraka.protocols.wrap_check import two_sided


async def no_longer(
    net: Net, side: int, peer: str, gram: Ring, limit: int, triples: Triples, *, timeout_s: float
) -> npt.NDArray[np.bool_]:
    """Bool (n,): whether 0 <= squared norm <= limit, from this server's share of 2 X X^T.

    ``gram`` is (n, n), or (n,) of the diagonal.
    """
    squared = (np.diagonal(gram) if gram.ndim == 2 else gram).reshape(-1, 1)
    tests = two_sided(squared, side, 0, 2 * limit)
    return await non_negative(net, side, peer, tests, triples, timeout_s=timeout_s)

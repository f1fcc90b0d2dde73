"""One thread per process: oversubscribed cores cost simulations 2 to 6 times."""

from __future__ import annotations

import torch


def one_thread() -> None:
    """Let torch compute in one thread; call it before any training. Needs no undoing."""
    torch.set_num_threads(1)

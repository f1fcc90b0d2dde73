"""Ports of loopback to listen on a moment later, which nobody else gets by chance meanwhile."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import suppress

# Below those that systems hand out by themselves: a flood of connections takes none of these.
FIRST, COUNT = 20_000, 10_000
# Tests that run at the same time, in processes of their own, draw from different ports.
SHARES = 16
SHARE = int("0" + os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")) % SHARES
_places = itertools.count(os.getpid())


def free_port() -> int:
    """A port that nobody listens on now, another one every time."""
    for place in itertools.islice(_places, COUNT):
        port = FIRST + (place * SHARES + SHARE) % COUNT
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError(f"nothing is free among the ports {FIRST} to {FIRST + COUNT - 1}")


def free_addresses(count: int) -> list[str]:
    """So many different addresses."""
    return [f"127.0.0.1:{free_port()}" for _ in range(count)]

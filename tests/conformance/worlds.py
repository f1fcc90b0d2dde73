"""The same programs over three networks: simulated, TCP, TLS. A suite is written once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

from ostraka.drivers.identity import Identity, create
from ostraka.drivers.link import Bounds
from ostraka.drivers.node import Ended, Node, Patience
from ostraka.drivers.proxy import Faults, ProxyThread
from ostraka.drivers.security import Plain, Security
from ostraka.drivers.sim import Simulation
from ostraka.drivers.tcp import Peer, Times, Transport, to_address
from ostraka.drivers.tls import PinnedTls
from ostraka.mailbox import Limits
from ostraka.net import Program
from tests.faults.host import LOOPS
from tests.ports import free_port

LIMITS = Limits(unread_frames=64, unread_bytes=1 << 25, frame_bytes=1 << 24)
CONTEXT = bytes(32)
QUICK = Times(handshake_s=5.0, connect_s=5.0, heartbeat_s=0.5, quiet_s=5.0, retry_most_s=0.3)

Expects = Mapping[str, int]


@dataclass
class Came:
    """How every party ended, and what was told meanwhile."""

    status: dict[str, str]
    result: dict[str, Any]
    error: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)

    def told(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]


class World(Protocol):
    def run(
        self, programs: Mapping[str, Program], expects: Expects, limits: Limits = LIMITS
    ) -> Came: ...


class Simulated:
    """Virtual time, no sockets."""

    def run(
        self, programs: Mapping[str, Program], expects: Expects, limits: Limits = LIMITS
    ) -> Came:
        events: list[dict[str, Any]] = []
        simulation = Simulation(
            programs,
            seed=1,
            limits=limits,
            trace=lambda event, **fields: events.append({"event": event, **fields}),
        )
        outcomes = simulation.run()
        return Came(
            {name: o.status for name, o in outcomes.items()},
            {name: o.result for name, o in outcomes.items()},
            {name: o.error for name, o in outcomes.items()},
            events,
        )


class Killed(Exception):  # noqa: N818
    """Raised by a program: its party dies here and is started anew, knowing nothing."""


class Sockets:
    """Every party a node with threads and sockets of its own; the first ones listen.

    ``folder``: where identities lie (None: no TLS). ``loop``: whose event loop. With ``faults``
    every connection goes through a proxy that has them.
    """

    def __init__(
        self,
        folder: Path | None,
        loop: str,
        *,
        times: Times = QUICK,
        faults: Faults | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self._folder, self._loop = folder, loop
        self._times, self._faults, self._bounds = times, faults, bounds
        self.events: list[dict[str, Any]] = []
        self.cuts = self.pauses = 0

    def run(
        self, programs: Mapping[str, Program], expects: Expects, limits: Limits = LIMITS
    ) -> Came:
        with patch.dict(sys.modules, {} if self._loop == "uvloop" else {"uvloop": None}):
            ended = self._lives(programs, expects, limits)
        return Came(
            {name: e.status for name, e in ended.items()},
            {name: e.result for name, e in ended.items()},
            {name: e.error for name, e in ended.items()},
            self.events,
        )

    def _lives(
        self, programs: Mapping[str, Program], expects: Expects, limits: Limits
    ) -> dict[str, Ended]:
        names = list(programs)
        ports = {name: free_port() for name in names}

        def live(name: str) -> Ended:
            while True:
                node = self._node(name, programs[name], names, ports, reached, expects, limits)
                try:
                    return node.run()
                except Killed:
                    continue

        with ProxyThread() as proxies, ThreadPoolExecutor(len(names)) as threads:
            reached = ports
            if self._faults is not None:
                reached = {
                    name: proxies.add(("127.0.0.1", port), self._faults, seed)
                    for seed, (name, port) in enumerate(ports.items())
                }
            lives = {name: threads.submit(live, name) for name in names}
            ended = {name: life.result(60) for name, life in lives.items()}
            if self._faults is not None:
                self.cuts = sum(proxies.counters(port).cuts for port in reached.values())
        return ended

    def _node(
        self,
        name: str,
        program: Program,
        names: list[str],
        ports: Mapping[str, int],
        reached: Mapping[str, int],
        expects: Expects,
        limits: Limits,
    ) -> Node:
        before = names[: names.index(name)]
        peers = {
            other: Peer(
                other,
                expects,
                to_address(("127.0.0.1", reached[other])) if other in before else None,
            )
            for other in names
            if other != name
        }
        return Node(
            name,
            program,
            lambda handlers: self._transport(
                name,
                peers,
                self._security(name, names),
                handlers,
                context=CONTEXT,
                listen=("127.0.0.1", ports[name]),
                times=self._times,
                bounds=self._bounds,
            ),
            patience=Patience(needs=len(peers), join_s=30.0, give_up_s=30.0, linger_s=5.0),
            trace=lambda event, **fields: self.events.append({"event": event, "of": name} | fields),
            limits=limits,
        )

    def _transport(self, *arguments: Any, **options: Any) -> Transport:
        transport = Transport(*arguments, **options)
        pause = transport.pause

        def counted(peer: str) -> None:
            self.pauses += 1
            pause(peer)

        transport.pause = counted  # type: ignore[method-assign]
        return transport

    def _security(self, name: str, names: list[str]) -> Security:
        if self._folder is None:
            return Plain()
        keys = {other: identity(self._folder, other) for other in names}
        pins = {other: own.public for other, own in keys.items() if other != name}
        return PinnedTls(keys[name], pins)


_lock = threading.Lock()
_made: dict[tuple[Path, str], Identity] = {}


def identity(folder: Path, name: str) -> Identity:
    """An identity made once a folder."""
    with _lock:
        if (folder, name) not in _made:
            _made[folder, name] = create(name, folder / f"{name}.pem")
        return _made[folder, name]


SOCKETS: dict[str, Callable[..., Sockets]] = {
    f"{kind}-{loop}": lambda folder, kind=kind, loop=loop, **options: Sockets(
        folder if kind == "tls" else None, loop, **options
    )
    for kind in ("tcp", "tls")
    for loop in LOOPS
}
WORLDS: dict[str, Callable[[Path], World]] = {"simulated": lambda folder: Simulated(), **SOCKETS}

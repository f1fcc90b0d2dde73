"""The same programs over three networks: simulated, TCP, TLS. A suite is written once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ostraka.drivers.identity import Identity, create
from ostraka.drivers.node import Ended, Node, Patience
from ostraka.drivers.sim import Simulation
from ostraka.drivers.tcp import Peer, Plain, Security, Times, Transport, to_address
from ostraka.drivers.tls import PinnedTls
from ostraka.mailbox import Limits
from ostraka.net import Program

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
    def run(self, programs: Mapping[str, Program], expects: Expects) -> Came: ...


class Simulated:
    """Virtual time, no sockets."""

    def run(self, programs: Mapping[str, Program], expects: Expects) -> Came:
        events: list[dict[str, Any]] = []
        simulation = Simulation(
            programs,
            seed=1,
            limits=LIMITS,
            trace=lambda event, **fields: events.append({"event": event, **fields}),
        )
        outcomes = simulation.run()
        return Came(
            {name: o.status for name, o in outcomes.items()},
            {name: o.result for name, o in outcomes.items()},
            {name: o.error for name, o in outcomes.items()},
            events,
        )


class Sockets:
    """Every party a node with threads and sockets of its own; the first ones listen."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.events: list[dict[str, Any]] = []

    def run(self, programs: Mapping[str, Program], expects: Expects) -> Came:
        nodes = self.nodes(programs, expects)
        ended: dict[str, Ended | BaseException] = {}

        def live(name: str) -> None:
            try:
                ended[name] = nodes[name].run()
            except BaseException as error:
                ended[name] = error

        threads = [threading.Thread(target=live, args=(name,), daemon=True) for name in nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for end in ended.values():
            if isinstance(end, BaseException):
                raise end
        return Came(
            {name: e.status for name, e in ended.items()},
            {name: e.result for name, e in ended.items()},
            {name: e.error for name, e in ended.items()},
            self.events,
        )

    def nodes(self, programs: Mapping[str, Program], expects: Expects) -> dict[str, Node]:
        names = list(programs)
        ports = {name: free_port() for name in names}
        return {
            name: self.node(name, programs[name], names, ports, expects) for name in names
        }

    def node(
        self,
        name: str,
        program: Program,
        names: list[str],
        ports: Mapping[str, int],
        expects: Expects,
        **options: Any,
    ) -> Node:
        before = names[: names.index(name)]
        peers = {
            other: Peer(
                other,
                expects,
                to_address(("127.0.0.1", ports[other])) if other in before else None,
            )
            for other in names
            if other != name
        }
        return Node(
            name,
            program,
            lambda handlers: Transport(
                name,
                peers,
                self.security(name, names),
                handlers,
                context=CONTEXT,
                listen=("127.0.0.1", ports[name]),
                times=QUICK,
            ),
            patience=Patience(needs=len(peers), join_s=30.0, give_up_s=30.0, linger_s=5.0),
            trace=lambda event, **fields: self.events.append({"event": event, "of": name} | fields),
            limits=LIMITS,
            **options,
        )

    def security(self, name: str, names: list[str]) -> Security:
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


def free_port() -> int:
    """A port that nobody listens on now."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


WORLDS: dict[str, Callable[[Path], World]] = {
    "simulated": lambda folder: Simulated(),
    "tcp": lambda folder: Sockets(None),
    "tls": lambda folder: Sockets(folder),
}

assert os.environ.get("OMP_NUM_THREADS") == "1", "tests/conftest.py comes first"

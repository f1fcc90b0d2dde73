"""A party with hardly any descriptors: python -m tests.faults.cramped IDENTITY SPARE NAME=KEY...

It says its port, echoes every frame, and ends with its standard input; then it says what it told.
"""

import json
import os
import resource
import sys
from datetime import UTC, datetime
from pathlib import Path

from ostraka.drivers.identity import Identity
from ostraka.drivers.tcp import Peer
from ostraka.drivers.tls import PinnedTls
from ostraka.party import Frame
from tests.faults.host import EXPECTS, Host, descriptors


def main(path: str, spare: str, *pins: str) -> None:
    keys = {name: bytes.fromhex(key) for name, key in (pin.split("=") for pin in pins)}
    security = PinnedTls(Identity("a", b"", Path(path), datetime.now(UTC)), keys)
    peers = {name: Peer(name, EXPECTS) for name in keys}
    with Host("a", peers, security=security) as host:

        def echo(peer: str, frame: Frame) -> None:
            host.transport.post(peer, frame)

        host.transport._handlers.frame = echo
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + int(spare), hard))
        print(host.port, flush=True)
        os.read(0, 1)
        print(json.dumps(host.events), flush=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main(*sys.argv[1:])

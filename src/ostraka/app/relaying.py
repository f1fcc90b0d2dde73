"""A relay's part in a federation: it joins those who cannot reach each other, and sees nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ostraka.app import agree
from ostraka.app.errors import UserError
from ostraka.app.sockets import listening
from ostraka.crypto.sign import parse_identity
from ostraka.drivers.node import Talker
from ostraka.drivers.relay import Relay
from ostraka.drivers.tls import PinnedTls
from ostraka.drivers.trace import JsonLines, Reader, Record, Stream

TICK_S = 0.2


def relay(member: Any, readers: tuple[Reader, ...], stopping: Callable[[], bool]) -> Record:
    """Relay until told to stop; gives a summary. ``member`` is join's Membership."""
    config = member.config
    listen = member.site.listens_at(config, member.me)
    if listen is None:
        raise UserError(f"the relay {member.me} needs an address in the federation file")
    keys = {p.name: parse_identity(p.identity or "") for p in config.party}
    pins = {name: public for name, public in keys.items() if name != member.me}
    member.state.mkdir(parents=True, exist_ok=True)
    with JsonLines(member.state / "events.jsonl", prompt=True) as log:
        return _relay(member, listen, pins, Stream(log, *readers), stopping)


def _relay(
    member: Any,
    listen: tuple[str, int],
    pins: dict[str, bytes],
    trace: Stream,
    stopping: Callable[[], bool],
) -> Record:
    config = member.config
    failures: list[BaseException] = []
    work = Relay(
        config.cast.meetings,
        PinnedTls(member.identity, pins, member.passphrase),
        context=agree.federation_digest(config),
        details=agree.encode(agree.digests(config)),
        trace=trace,
    )
    with Talker(failures.append) as talker:
        with listening(listen, "place.listen"):
            port = talker.run(work.start(listen))
        trace("listening", port=port)
        while not stopping() and not failures:
            time.sleep(TICK_S)
        talker.run(work.stop())
    if failures:
        raise failures[0]
    trace("finished", role="relay", party=member.me)
    return {"trust": config.federation.trust, "role": "relay", "party": member.me}

"""A real transport on a loop in its own thread, and a hand-driven peer to hold against it."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import warnings
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Self, TypeVar

from ostraka.drivers.connection import HELLO, Hello, Refusal
from ostraka.drivers.frames import FrameReader, Packet, Type, pack
from ostraka.drivers.link import session_id
from ostraka.drivers.security import Plain, Security
from ostraka.drivers.tcp import Handlers, Peer, Times, Transport
from ostraka.net import Label, Malformed
from ostraka.party import Frame

T = TypeVar("T")
CONTEXT = b"c" * 32
WAIT_S = 15.0
EXPECTS = {"Word": 64, "Block": 20_000_000}
QUICK = Times(handshake_s=2.0, connect_s=2.0, heartbeat_s=0.2, quiet_s=1.0, retry_most_s=0.2)
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop
except ImportError:
    warnings.warn(  # pytest prints it at its end
        "uvloop is not installed: sockets are tested on asyncio's own loop only", stacklevel=1
    )
else:
    LOOPS["uvloop"] = uvloop.new_event_loop


class Host:
    """One party's transport. Leaving it fails if a task or a callback's error is left behind."""

    def __init__(
        self,
        me: str,
        peers: Mapping[str, Peer],
        *,
        security: Security | None = None,
        loop: str = "asyncio",
        listen: tuple[str, int] | None = ("127.0.0.1", 0),
        times: Times = QUICK,
        context: bytes = CONTEXT,
        **options: Any,
    ) -> None:
        self.me = me
        self.events: list[dict[str, Any]] = []
        self.frames: list[tuple[str, Frame]] = []
        self.refusals: list[tuple[str, Refusal]] = []
        self.errors: list[Any] = []
        self.changed = threading.Condition()
        self.pause_after: int | None = None
        self.loop = LOOPS[loop]()
        self.loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        self.transport = Transport(
            me,
            peers,
            security or Plain(),
            Handlers(
                frame=self._frame,
                refused=lambda peer, refusal: self._note(self.refusals, (peer, refusal)),
                trace=lambda event, **fields: self._note(self.events, {"event": event, **fields}),
            ),
            context=context,
            listen=listen,
            times=times,
            **options,
        )

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.run(self.transport.start())
        return self

    def __exit__(self, *exception: object) -> None:
        self.run(self.transport.stop())
        left = self.call(lambda: asyncio.all_tasks() - {asyncio.current_task()})
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        gc.collect()  # what was never awaited speaks now
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        assert self.errors == []
        assert left == set()

    @property
    def port(self) -> int:
        port = self.transport.port
        assert port is not None
        return port

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S)

    def call(self, do: Callable[..., T], *arguments: Any) -> T:
        async def run() -> T:
            return do(*arguments)

        return self.run(run())

    def post(self, to: str, index: int, body: bytes = b"", kind: str = "Word") -> None:
        self.call(self.transport.post, to, Frame(label(index), kind, body))

    def wait(self, happened: Callable[[], Any], what: str = "") -> None:
        """Until it has happened; AssertionError with what is known when it does not."""
        with self.changed:
            # Not everything that may be waited for notifies: look again every now and then.
            for _ in range(int(WAIT_S / 0.02)):
                if happened():
                    return
                self.changed.wait(0.02)
        raise AssertionError(f"{what or 'it'} did not happen: {self.events[-10:]} {self.errors}")

    def told(self, event: str) -> list[dict[str, Any]]:
        return [e for e in list(self.events) if e["event"] == event]

    def why(self, event: str) -> list[str]:
        return [e["why"] for e in self.told(event)]

    def rounds(self, peer: str) -> list[int]:
        """The rounds of the frames that came from this peer, as they came."""
        return [f.label[0][1] for name, f in list(self.frames) if name == peer]

    def _frame(self, peer: str, frame: Frame) -> None:
        self._note(self.frames, (peer, frame))
        if self.pause_after is not None and len(self.frames) >= self.pause_after:
            self.transport.pause(peer)

    def _note(self, where: list[Any], what: Any) -> None:
        with self.changed:
            where.append(what)
            self.changed.notify_all()


class Raw:
    """The other end by hand, on a blocking socket: says what it likes, hears frame by frame."""

    def __init__(self, sock: socket.socket, me: str = "b", to: str = "a") -> None:
        sock.settimeout(WAIT_S)
        self.sock = sock
        self.me, self.to = me, to
        self.incarnation = os.urandom(16)
        self.session = bytes(16)
        self.theirs: Hello | None = None
        self._reader = FrameReader(lambda type, kind: 1 << 24)

    @classmethod
    def to_port(cls, port: int, me: str = "b", to: str = "a") -> Raw:
        return cls(socket.create_connection(("127.0.0.1", port), WAIT_S), me, to)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.sock.close()

    def say(self, type: Type, **fields: Any) -> None:
        self.sock.sendall(b"".join(pack(type, **fields)))

    def hello(self, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "sender": self.me,
            "to": self.to,
            "context": CONTEXT,
            "incarnation": self.incarnation,
            "knows": bytes(16),
            "has": 0,
            "held": "",
        }
        self.say(Type.HELLO, body=Hello(**(fields | changes)).encode())

    def greet(self, **changes: Any) -> Self:
        """The whole greeting; the connection is open then."""
        self.hello(**changes)
        body = self.hear(Type.HELLO).body
        assert not isinstance(body, Malformed)
        theirs = HELLO.decode(body)
        assert isinstance(theirs, Hello)
        self.theirs = theirs
        ends = {self.me: self.incarnation, self.to: theirs.incarnation}
        self.session = session_id(CONTEXT, ends)
        self.say(Type.WELCOME, session=self.session)
        assert self.hear(Type.WELCOME).session == self.session
        return self

    def data(self, index: int, body: bytes = b"", **fields: Any) -> None:
        self.say(Type.DATA, **self.fields(index, body, **fields))

    def fields(self, index: int, body: bytes = b"", **fields: Any) -> dict[str, Any]:
        given = {"label": label(index), "kind": "Word", "body": body, "session": self.session}
        return given | {"sequence": index} | fields

    def next(self) -> Packet | None:
        """The next frame; None when the other side has closed."""
        while True:
            count = self.sock.recv_into(self._reader.room())
            if count == 0:
                return None
            packet = self._reader.advance(count)
            if packet is not None:
                return packet

    def hear(self, type: Type) -> Packet:
        """The next frame of this type; others are passed over."""
        while (packet := self.next()) is not None:
            if packet.type is type:
                return packet
        raise AssertionError(f"it closed before {type.name}")

    def ended(self) -> bool:
        """Whether the other side closes, in whatever way; what it says before is passed over."""
        try:
            while self.next() is not None:
                pass
        except ConnectionError:
            pass
        return True

    def refusal(self) -> Refusal:
        """What the other side refuses with; then it must close without a reset."""
        body = self.hear(Type.REFUSE).body
        assert not isinstance(body, Malformed)
        assert self.next() is None
        return Refusal.decode(bytes(body))


def label(index: int) -> Label:
    return (("round", index),)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))

"""Strangers by the hundred, in a process of their own: python -m tests.faults.flood PORT KIND COUNT

It says "ready" when the first wave stands and goes on until its standard input ends.
"""

import contextlib
import os
import random
import resource
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable

from ostraka.drivers.frames import HEADER, MAGIC, Type, pack

RESET = struct.pack("ii", 1, 0)


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


CLIENT_HELLO = client_hello()


def silent(rng: random.Random) -> bytes:
    return b""


def half(rng: random.Random) -> bytes:
    """A handshake that begins, and does not go on."""
    return CLIENT_HELLO[: rng.choice((5, 100, len(CLIENT_HELLO), len(CLIENT_HELLO)))]


def garbage(rng: random.Random) -> bytes:
    match rng.randrange(4):
        case 0:
            return rng.randbytes(rng.randrange(1, 3000))
        case 1:
            return b"GET / HTTP/1.1\r\n\r\n"
        case 2:
            return CLIENT_HELLO[:-9] + rng.randbytes(9)
        case _:
            return b"\x15\x03\x03\x00\x02\x02\x30"


def frames(rng: random.Random) -> bytes:
    """Frames of all kinds that mean nothing here, or stop in their middle."""
    match rng.randrange(4):
        case 0:
            return b"".join(pack(Type.DATA, kind="Word", body=bytes(99), sequence=1))
        case 1:
            return b"".join(pack(Type.HELLO, body=rng.randbytes(rng.randrange(300))))
        case 2:
            return HEADER.pack(MAGIC, 1, rng.randrange(9), 0, 0, 1 << 40, bytes(16), 0, 0)
        case _:
            return HEADER.pack(MAGIC, 1, 1, 0, 0, 100, bytes(16), 0, 0)[: rng.randrange(48)]


SAYS: dict[str, Callable[[random.Random], bytes]] = {
    "silent": silent,
    "half": half,
    "garbage": garbage,
    "frames": frames,
    "slow": half,
}


def knock(port: int, said: bytes) -> socket.socket:
    """Connect and say it, whether or not anybody is there yet."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", port))
    if said:
        select.select([], [sock], [], 1.0)
        with contextlib.suppress(OSError):  # turned away already
            sock.send(said)
    return sock


def keep(port: int, kind: str, count: int) -> None:
    """Hold so many connections; whoever is turned away comes back at once."""
    rng = random.Random(7)
    held = [knock(port, SAYS[kind](rng)) for _ in range(count)]
    print("ready", flush=True)
    while not over():
        for index in range(count):
            if closed(held[index]):
                held[index].close()
                held[index] = knock(port, SAYS[kind](rng))
        time.sleep(0.05)


def pour(port: int, kind: str) -> None:
    """One after the other, as fast as it goes; some hang up rudely."""
    rng = random.Random(7)
    number = 0
    while number % 50 or not over():
        sock = knock(port, SAYS[kind](rng))
        if rng.random() < 0.5:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
        number += 1
        if number == 100:
            print("ready", flush=True)


def trickle(port: int, count: int) -> None:
    """A byte a second of something that looks right."""
    held = [knock(port, CLIENT_HELLO[:1]) for _ in range(count)]
    print("ready", flush=True)
    at = 1
    while not over():
        for index in range(count):
            try:
                held[index].send(CLIENT_HELLO[at % 200 : at % 200 + 1])
            except OSError:
                held[index].close()
                held[index] = knock(port, CLIENT_HELLO[:1])
        at += 1
        select.select([0], [], [], 1.0)


def closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1 << 12, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def over() -> bool:
    return bool(select.select([0], [], [], 0)[0]) and os.read(0, 1) == b""


if __name__ == "__main__":
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit[1], 4096), limit[1]))
    port, kind, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if kind in ("silent", "half"):
        keep(port, kind, count)
    elif kind == "slow":
        trickle(port, count)
    else:
        pour(port, kind)

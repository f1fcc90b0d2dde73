"""Claim: 8 MB frames over our TLS transport reach 60 % or more of a plain blocking ssl loop.

Two processes on loopback, one sends and one receives, with the same certificates (pinned Ed25519
keys), TLS 1.3 and the same cipher. Ours is the whole transport as a party uses it: greeting,
frames, a link that keeps what is not acknowledged, acknowledgements, each body in memory of its
own. The other is what one would write without it: `sendall` of the same buffer and `recv_into` one
buffer. They run in turn, and the ratio is taken pair by pair.

    python benchmarks/tls_frames.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import platform
import socket
import ssl
import tempfile
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median

import ostraka
from ostraka.drivers.identity import Identity, anchor, create
from ostraka.drivers.link import Bounds
from ostraka.drivers.node import new_loop
from ostraka.drivers.tcp import Handlers, Peer, Transport, to_address
from ostraka.drivers.tls import PinnedTls
from ostraka.party import Frame

FRAME_BYTES, FRAMES = 8_000_000, 60
RESULT = Path(__file__).parent / "results" / "tls_frames.json"
EXPECTS = {"Block": FRAME_BYTES}


def context(own: Identity, peer: Identity, server: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_cert_chain(own.path)
    made.load_verify_locations(cadata=anchor(peer.public))
    return made


def blocking_receiver(own: Identity, peer: Identity, pipe: Pipe) -> None:
    """Tell the port, then the seconds that the frames took, first byte to last."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send(listener.getsockname()[1])
        plain, _ = listener.accept()
    with context(own, peer, True).wrap_socket(plain, server_side=True) as secured:
        buffer = memoryview(bytearray(FRAME_BYTES))
        start = 0.0
        for _ in range(FRAMES):
            at = 0
            while at < FRAME_BYTES:
                at += secured.recv_into(buffer[at:])
                start = start or time.perf_counter()
        pipe.send((time.perf_counter() - start, secured.cipher()))


def blocking_sender(own: Identity, peer: Identity, port: int) -> None:
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context(own, peer, False).wrap_socket(plain) as secured,
    ):
        body = memoryview(bytes(FRAME_BYTES))
        for _ in range(FRAMES):
            secured.sendall(body)
        secured.recv(1)


def our_receiver(own: Identity, peer: Identity, pipe: Pipe) -> None:
    """Tell the port, then the seconds that the frames took, first byte (of HELLO) to last."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(receive(own, peer, pipe))


async def receive(own: Identity, peer: Identity, pipe: Pipe) -> None:
    done = asyncio.Event()
    times: list[float] = []

    def take(name: str, frame: Frame) -> None:
        assert frame.size == FRAME_BYTES
        times.append(time.perf_counter())
        if len(times) == FRAMES:
            done.set()

    start: list[float] = []
    transport = Transport(
        own.name,
        {peer.name: Peer(peer.name, EXPECTS)},
        PinnedTls(own, {peer.name: peer.public}),
        Handlers(take, connected=lambda name, held: start.append(time.perf_counter())),
        context=bytes(32),
        listen=("127.0.0.1", 0),
    )
    await transport.start()
    pipe.send(transport.port)
    await done.wait()
    pipe.send((times[-1] - start[0], None))
    await transport.stop()


def our_sender(own: Identity, peer: Identity, port: int) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(send(own, peer, port))


async def send(own: Identity, peer: Identity, port: int) -> None:
    transport = Transport(
        own.name,
        {peer.name: Peer(peer.name, {}, to_address(("127.0.0.1", port)))},
        PinnedTls(own, {peer.name: peer.public}),
        Handlers(lambda name, frame: None),
        context=bytes(32),
        bounds=Bounds(bytes=FRAMES * FRAME_BYTES),
    )
    await transport.start()
    body = bytes(FRAME_BYTES)
    for index in range(FRAMES):
        label = (("round", index),)
        transport.post(peer.name, Frame(label, "Block", body))
        transport.forget({label})
    while transport.owing:
        await asyncio.sleep(0.005)
    await transport.stop()


def rate(receiver, sender, ends: tuple[Identity, Identity]) -> tuple[float, object]:
    """MB/s of one run in two fresh processes, and the cipher where it is known."""
    near, far = multiprocessing.Pipe()
    a, b = ends
    spawn = multiprocessing.get_context("spawn")
    receiving = spawn.Process(target=receiver, args=(a, b, far))
    receiving.start()
    sending = spawn.Process(target=sender, args=(b, a, near.recv()))
    sending.start()
    seconds, cipher = near.recv()
    for process in (receiving, sending):
        process.join()
    return FRAMES * FRAME_BYTES / seconds / 1e6, cipher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    pairs, cipher = [], None
    with tempfile.TemporaryDirectory() as folder:
        ends = create("a", Path(folder) / "a.pem"), create("b", Path(folder) / "b.pem")
        for _ in range(arguments.pairs):
            ours, _ = rate(our_receiver, our_sender, ends)
            plain, cipher = rate(blocking_receiver, blocking_sender, ends)
            pairs.append((ours, plain))
            print(f"ours {ours:7.0f} MB/s, blocking loop {plain:7.0f} MB/s, {ours / plain:.2f}")
    ratios = sorted(ours / plain for ours, plain in pairs)
    result = {
        "claim": "8 MB frames over our TLS transport / plain blocking ssl loop >= 0.6",
        "ratio_median": round(median(ratios), 3),
        "ratio_min": round(ratios[0], 3),
        "ratio_max": round(ratios[-1], 3),
        "ours_mb_s": round(median(o for o, _ in pairs)),
        "blocking_mb_s": round(median(b for _, b in pairs)),
        "settings": {"frame_bytes": FRAME_BYTES, "frames": FRAMES, "pairs": len(pairs)},
        "machine": {
            "ostraka": ostraka.__version__,
            "python": platform.python_version(),
            "openssl": ssl.OPENSSL_VERSION,
            "cipher": cipher,
            "event_loop": loop_name(),
            "processor": platform.processor() or platform.machine(),
        },
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def loop_name() -> str:
    loop = new_loop()
    try:
        return type(loop).__module__.partition(".")[0]
    finally:
        loop.close()


if __name__ == "__main__":
    main()

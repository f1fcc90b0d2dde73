"""What `ostraka doctor` asks of the machine: one function, one thing looked at."""

from __future__ import annotations

import errno
import os
import platform
import resource
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np

from ostraka.app.config import Host
from ostraka.app.errors import Exit
from ostraka.app.progress import bytes_text

OK: Literal["ok"] = "ok"
WARN: Literal["warn"] = "warn"
FAIL: Literal["fail"] = "fail"
NEEDED = ("torch", "cryptography")
DIAL_S = 3.0
SLOW_SYNC_S = 0.1
SLOW_GFLOP_S = 1.0
PROBE_BYTES = 1 << 20
MATMUL_S, MATMUL_SIZE = 0.2, 512
GENERATIONS, VECTORS = 2, 3
"""Checkpoints kept, and vectors of 4 d bytes in each: model, momentum, momentum before."""
OWN_DESCRIPTORS = 64
ROOMY = 4


@dataclass(frozen=True)
class Check:
    """One thing looked at: a sentence of what was seen and, if need be, what to mend.

    ``code`` is the exit code that a failed check ends the command with; ValueError without one.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    text: str
    mend: str = ""
    code: Exit = Exit.DONE

    def __post_init__(self) -> None:
        if (self.state == FAIL) == (self.code == Exit.DONE):
            raise ValueError(f"a check has an exit code exactly if it failed: {self}")


def versions() -> Check:
    """The versions of Python, torch and cryptography; fails where one is not installed."""
    shown, absent = [f"Python {platform.python_version()}"], []
    for package in NEEDED:
        try:
            shown.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            absent.append(package)
    text = ", ".join(shown)
    if not absent:
        return Check("versions", OK, text)
    gone = " and ".join(absent)
    mend = "pip install 'ostraka[learn]'"
    return Check("versions", FAIL, f"{text}; not installed: {gone}", mend, Exit.REFUSED)


def clock(now: datetime, known: Mapping[str, datetime]) -> Check:
    """The wall clock; ``known`` are moments that lie in the past, by what happened then.

    Only certificates depend on this clock; deadlines use a monotonic one.
    """
    seen = f"it is {now:%Y-%m-%d %H:%M:%S} UTC by this machine"
    # An hour of slack: files may come from another machine's clock.
    late = [what for what, moment in known.items() if moment - now > timedelta(hours=1)]
    if not late:
        return Check("clock", OK, f"{seen}; compare with a clock that you trust")
    text = f"{seen}, which is before {' and '.join(late)}: the clock seems to be behind"
    return Check("clock", WARN, text, "set the clock: certificates are valid by date")


def file_time(path: Path) -> datetime:
    """When a file was last written, UTC."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def tls() -> Check:
    """A TLS 1.3 handshake in memory between two identities that are made for it and thrown away."""
    from ostraka.drivers.identity import anchor, create

    try:
        with tempfile.TemporaryDirectory() as folder:
            made = create("doctor", Path(folder) / "doctor.pem")
            server = _context(ssl.PROTOCOL_TLS_SERVER, made.path, anchor(made.public))
            client = _context(ssl.PROTOCOL_TLS_CLIENT, made.path, anchor(made.public))
            used = _handshake(server, client)
    except ssl.SSLError as error:
        text = f"{ssl.OPENSSL_VERSION} makes no TLS 1.3 handshake with Ed25519: {error.reason}"
        return Check("tls", FAIL, text, "use a Python built with OpenSSL 3", Exit.UNAVAILABLE)
    except OSError as error:
        text = f"no temporary file for a trial handshake: {error.strerror}"
        return Check("tls", FAIL, text, "make room, or set TMPDIR", Exit.STORAGE)
    return Check("tls", OK, f"{used} with Ed25519 certificates works ({ssl.OPENSSL_VERSION})")


def _context(protocol: int, own: Path, trusted: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(own)
    context.load_verify_locations(cadata=trusted)
    return context


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Exchange bytes until both ends are satisfied; gives the version of TLS."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(there, back, server_side=True), client.wrap_bio(back, there)]
    waiting = list(ends)
    for _ in range(10):  # three flights are enough
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    if waiting:
        raise ssl.SSLError("the handshake did not end")
    return ends[0].version() or "TLS"


def cpu() -> Check:
    """CPU cores that this process may use, and the speed of float32 products on them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    a = np.full((MATMUL_SIZE, MATMUL_SIZE), 0.5, np.float32)
    out = a @ a
    start, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < MATMUL_S:
        np.matmul(a, a, out=out)
        count += 1
    speed = 2 * MATMUL_SIZE**3 * count / taken / 1e9
    text = f"{cores} cores, {speed:.0f} Gflop/s in float32 products"
    if speed >= SLOW_GFLOP_S:
        return Check("cpu", OK, text)
    return Check("cpu", WARN, text, "training will be slow: check the load and numpy's BLAS")


def descriptors(parties: int, limit: int | None = None) -> Check:
    """Open files and sockets allowed (``limit``; None: by the system) against the parties."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    needed = parties + OWN_DESCRIPTORS
    text = f"{limit} open files allowed, about {needed} needed for {parties} parties"
    mend = f"raise it: `ulimit -n {ROOMY * needed}`, or LimitNOFILE= in a systemd unit"
    if limit == resource.RLIM_INFINITY:
        return Check("open files", OK, "any number of open files is allowed")
    if limit < needed:
        return Check("open files", FAIL, text, mend, Exit.REFUSED)
    # Strangers hold connections too until they are refused.
    few = limit < 2 * needed
    return Check("open files", WARN if few else OK, text, mend if few else "")


def storage(state_dir: Path, d: int | None) -> Check:
    """Whether ``state_dir`` can be written, how long a sync takes, and room for checkpoints of a
    model with ``d`` parameters (None: unknown). Leaves nothing behind and makes no folder.
    """
    place = next(p for p in (state_dir, *state_dir.parents) if os.path.exists(p))
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            start = time.perf_counter()
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
            sync = time.perf_counter() - start
        free = shutil.disk_usage(place).free
    except OSError as error:
        text = f"{place} cannot be written: {error.strerror}"
        mend = "make it a folder that this user may write, or change [place] state_dir"
        return Check("storage", FAIL, text, mend, Exit.STORAGE)
    there = str(place) if place == state_dir else f"{place} (where {state_dir} will be made)"
    needed = GENERATIONS * VECTORS * 4 * (d or 0)
    need = f", about {bytes_text(needed)} needed" if d else ""
    text = f"{there}: a sync takes {1000 * sync:.1f} ms, {bytes_text(free)} free{need}"
    if free < needed:
        return Check("storage", FAIL, text, "make room, or change [place] state_dir", Exit.STORAGE)
    if sync > SLOW_SYNC_S:
        return Check("storage", WARN, text, "every round waits for syncs: use a faster disk")
    return Check("storage", OK, text)


def bindable(name: str, at: Host) -> Check:
    """Whether this machine can listen there; nothing stays open."""
    shown = _shown(at)
    try:
        family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
        socket.create_server(at, family=family, backlog=1).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"something listens on {shown} already"
            return Check(name, WARN, text, "fine if it is this party; else stop that program")
        mend = {
            errno.EACCES: "ports below 1024 need a privilege: choose another one",
        }.get(error.errno or 0, "choose an address of this machine")
        text = f"{shown} cannot be listened on: {error.strerror or error}"
        return Check(name, FAIL, text, mend, Exit.UNAVAILABLE)
    return Check(name, OK, f"{shown} is free to listen on")


def reachable(peers: Mapping[str, Host], wait_s: float = DIAL_S) -> list[Check]:
    """Whether a TCP connection to each peer opens in time; all are tried at once.

    A refused one is a warning only: that machine answers, but its party may not have started.
    """
    found: dict[str, Check] = {}

    def dial(name: str, at: Host) -> None:
        found[name] = _dialled(name, at, wait_s)

    # Threads of the daemon kind: a name server that never answers must not keep the command alive.
    threads = [threading.Thread(target=dial, args=peer, daemon=True) for peer in peers.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + wait_s + 0.5
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [found.get(name) or _silent(name, at, wait_s) for name, at in peers.items()]


def _dialled(name: str, at: Host, wait_s: float) -> Check:
    start = time.monotonic()
    try:
        with socket.create_connection(at, timeout=wait_s) as connection:
            seen = connection.getpeername()[0]
    except socket.gaierror as error:
        text = f"{name}: the name in {_shown(at)} does not resolve: {error.strerror}"
        mend = "correct the address, or overrule it under [reach] in site.toml"
        return Check("peers", FAIL, text, mend, Exit.UNAVAILABLE)
    except ConnectionRefusedError:
        text = f"{name}: {_shown(at)} refuses connections"
        return Check("peers", WARN, text, "nothing listens there yet, or a firewall says no")
    except TimeoutError:
        return _silent(name, at, wait_s)
    except OSError as error:
        text = f"{name}: {_shown(at)} cannot be reached: {error.strerror or error}"
        return Check("peers", FAIL, text, "check network and firewall", Exit.UNAVAILABLE)
    taken = time.monotonic() - start
    return Check("peers", OK, f"{name}: {_shown(at)} answers as {seen} in {1000 * taken:.0f} ms")


def _silent(name: str, at: Host, wait_s: float) -> Check:
    text = f"{name}: {_shown(at)} does not answer within {wait_s:g} s"
    mend = "check address, firewall and whether that machine is up"
    return Check("peers", FAIL, text, mend, Exit.UNAVAILABLE)


def _shown(at: Host) -> str:
    host, port = at
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

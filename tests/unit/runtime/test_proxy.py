"""The proxy forwards every byte in order, but for the faults that it was asked for.

Times have lower bounds only, or bounds that only another way of working could reach.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ostraka.drivers.proxy import Address, Faults, Proxy, ProxyThread

NO_FAULTS = Faults()
PAYLOAD = bytes(range(256)) * 8192  # 2 MiB
Serve = Callable[[Callable[[socket.socket], None]], Address]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that answers each connection with a function, in a thread of its own."""
    servers: list[socketserver.ThreadingTCPServer] = []

    def start(answer: Callable[[socket.socket], None]) -> Address:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                answer(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # resets are what these tests make

        server = Server(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server.server_address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxies() -> Iterator[ProxyThread]:
    with ProxyThread() as thread:
        yield thread


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def digest(connection: socket.socket) -> None:
    """Read to the end, answer with the SHA-256."""
    sha = hashlib.sha256()
    while data := connection.recv(65536):
        sha.update(data)
    connection.sendall(sha.digest())


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def read(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer if the connection ends."""
    got = bytearray()
    while len(got) < count and (data := connection.recv(min(count - len(got), 65536))):
        got += data
    return bytes(got)


def ask(port: int, message: bytes) -> bytes:
    """Send, end our side, read until the other side ends."""
    with connect(port) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        return read(connection, 2**30)


def first_byte(port: int) -> bytes:
    """What comes unasked; a reset may even be met while connecting."""
    with connect(port) as connection:
        return connection.recv(1)


def was_reset(connection: socket.socket) -> bool:
    """Whether the connection ends by a reset, before any byte or a clean end."""
    try:
        connection.recv(1)
    except ConnectionResetError:
        return True
    return False


def is_silent(connection: socket.socket) -> bool:
    """Whether nothing comes for a moment."""
    connection.settimeout(0.05)
    try:
        return bool(connection.recv(1)) and False
    except TimeoutError:
        return True
    finally:
        connection.settimeout(30)


# --- no faults ------------------------------------------------------------------------------------


def test_every_byte_passes_in_order_and_ends_pass_too(serve: Serve, proxies: ProxyThread) -> None:
    port = proxies.add(serve(digest), NO_FAULTS)
    assert ask(port, PAYLOAD) == hashlib.sha256(PAYLOAD).digest()
    counters = proxies.counters(port)
    assert counters.connections == 1
    assert (counters.bytes_to_target, counters.bytes_from_target) == (len(PAYLOAD), 32)
    assert counters.cuts == 0


@pytest.mark.slow
def test_a_hundred_connections_at_once(serve: Serve, proxies: ProxyThread) -> None:
    port = proxies.add(serve(echo), NO_FAULTS)
    connections = [connect(port) for _ in range(100)]
    for number, connection in enumerate(connections):
        connection.sendall(b"%03d" % number)
    for number, connection in enumerate(connections):
        assert read(connection, 3) == b"%03d" % number
        connection.close()
    assert proxies.counters(port).connections == 100


def test_the_targets_reset_reaches_the_client(serve: Serve, proxies: ProxyThread) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    port = proxies.add(serve(reset), NO_FAULTS)
    with connect(port) as connection:
        connection.sendall(b"x")
        assert was_reset(connection)


def test_a_target_that_is_not_there_yet_resets_and_later_serves(
    serve: Serve, proxies: ProxyThread
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = proxies.add(free.getsockname(), NO_FAULTS)
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                first_byte(port)
        free.listen()
        with connect(port) as connection:
            connection.sendall(b"now")
            with free.accept()[0] as accepted:
                assert accepted.recv(3) == b"now"


def test_it_runs_in_the_callers_loop_and_leaves_no_task_there(serve: Serve) -> None:
    async def talk(target: Address) -> tuple[bytes, int, int]:
        proxy = Proxy(target, NO_FAULTS, 0)
        port = await proxy.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        answer = await reader.readexactly(5)
        proxy.cut()
        proxy.cut()  # what is cut already is not cut again
        await proxy.stop()
        writer.close()
        return answer, proxy.counters.cuts, len(asyncio.all_tasks())

    assert asyncio.run(talk(serve(echo))) == (b"hello", 1, 1)


# --- delay, throttle ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_delay_is_kept_each_way_and_does_not_limit_how_much_passes(
    serve: Serve, proxies: ProxyThread
) -> None:
    port = proxies.add(serve(digest), Faults(delay_s=0.2, jitter_s=0.01))
    start = time.monotonic()
    assert ask(port, PAYLOAD) == hashlib.sha256(PAYLOAD).digest()
    took_s = time.monotonic() - start
    assert took_s >= 0.4
    assert took_s < 0.2 * len(PAYLOAD) / 65536  # one chunk after another would take longer


def test_jitter_keeps_the_order(serve: Serve, proxies: ProxyThread) -> None:
    port = proxies.add(serve(echo), Faults(jitter_s=0.02), seed=3)
    with connect(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(100):
            connection.sendall(b"%02d" % number)
        assert read(connection, 200) == b"".join(b"%02d" % number for number in range(100))


def test_a_throttle_takes_its_time(serve: Serve, proxies: ProxyThread) -> None:
    port = proxies.add(serve(digest), Faults(throttle_bytes_s=20_000.0))
    start = time.monotonic()
    assert ask(port, bytes(2_000)) == hashlib.sha256(bytes(2_000)).digest()
    assert time.monotonic() - start >= 0.05  # the last slice of 1,000 bytes need not be waited for


# --- partitions -----------------------------------------------------------------------------------


def test_while_held_nothing_passes_and_after_it_everything(
    serve: Serve, proxies: ProxyThread
) -> None:
    port = proxies.add(serve(echo), NO_FAULTS)
    with connect(port) as before:
        before.sendall(b"a")
        assert read(before, 1) == b"a"
        proxies.hold(port)
        with connect(port) as during:
            before.sendall(b"b")
            during.sendall(b"c")
            assert is_silent(before)
            assert is_silent(during)
            assert proxies.counters(port).bytes_to_target == 1
            proxies.release(port)
            assert read(before, 1) == b"b"
            assert read(during, 1) == b"c"


def test_while_held_ends_and_beginnings_do_not_pass_either(
    serve: Serve, proxies: ProxyThread
) -> None:
    seen: list[str] = []

    def watch(connection: socket.socket) -> None:
        seen.append("begins")
        connection.sendall(b"a")
        seen.append("ends" if connection.recv(1) == b"" else "goes on")
        connection.sendall(b"b")

    port = proxies.add(serve(watch), NO_FAULTS)
    with connect(port) as before:
        assert read(before, 1) == b"a"
        proxies.hold(port)
        before.shutdown(socket.SHUT_WR)
        with connect(port) as during:
            assert is_silent(during)
            assert is_silent(before)
            assert seen == ["begins"]
            proxies.release(port)
            assert read(during, 1) == b"a"
            assert read(before, 2) == b"b"
            assert sorted(seen) == ["begins", "begins", "ends"]


@pytest.mark.slow
def test_a_target_that_does_not_read_holds_the_sender_up_and_loses_nothing(
    serve: Serve, proxies: ProxyThread
) -> None:
    """The queue is full when nothing was taken for a while; the kernel holds some megabytes."""
    read_on = threading.Event()

    def lazy(connection: socket.socket) -> None:
        read_on.wait(60)
        digest(connection)

    port = proxies.add(serve(lazy), NO_FAULTS)
    sha, sent = hashlib.sha256(), 0
    with connect(port) as connection:
        connection.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while sent < 2**26:
                count = connection.send(PAYLOAD)
                sha.update(PAYLOAD[:count])
                sent += count
        assert sent < 2**26
        connection.settimeout(30)
        read_on.set()
        connection.shutdown(socket.SHUT_WR)
        assert read(connection, 32) == sha.digest()


@pytest.mark.slow
def test_a_hold_stops_a_transfer_that_is_under_way(serve: Serve, proxies: ProxyThread) -> None:
    port = proxies.add(serve(digest), Faults(throttle_bytes_s=1e6))
    with connect(port) as connection:
        connection.sendall(bytes(300_000))
        while not proxies.counters(port).bytes_to_target:
            pass
        proxies.hold(port)
        passed = proxies.counters(port).bytes_to_target
        assert 0 < passed < 300_000
        assert is_silent(connection)
        assert proxies.counters(port).bytes_to_target == passed
        proxies.release(port)
        connection.shutdown(socket.SHUT_WR)
        assert read(connection, 32) == hashlib.sha256(bytes(300_000)).digest()


def test_a_planned_partition_holds_until_its_end(serve: Serve, proxies: ProxyThread) -> None:
    start = time.monotonic()
    plan = ((0.0, 0.1), (0.05, 0.15))
    port = proxies.add(serve(echo), Faults(partitions=plan))
    proxies.release(port)  # what was held by hand; the plan goes on
    with connect(port) as connection:
        connection.sendall(b"a")
        assert read(connection, 1) == b"a"
    assert time.monotonic() - start >= 0.15


def test_a_partition_may_never_heal(serve: Serve, proxies: ProxyThread) -> None:
    port = proxies.add(serve(echo), Faults(partitions=((0.0, float("inf")),)))
    with connect(port) as connection:
        connection.sendall(b"a")
        assert is_silent(connection)


# --- cuts, corruption -----------------------------------------------------------------------------


def test_a_cut_resets_every_open_connection_and_no_later_one(
    serve: Serve, proxies: ProxyThread
) -> None:
    port = proxies.add(serve(echo), NO_FAULTS)
    connections = [connect(port) for _ in range(3)]
    for connection in connections:
        connection.sendall(b"a")
        assert read(connection, 1) == b"a"
    proxies.cut(port)
    for connection in connections:
        with connection:
            assert was_reset(connection)
    assert proxies.counters(port).cuts == 3
    assert ask(port, b"again") == b"again"


def test_the_target_sees_a_cut_as_a_reset(serve: Serve, proxies: ProxyThread) -> None:
    seen: list[type] = []
    done = threading.Event()

    def watch(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        try:
            connection.recv(1)
        except ConnectionError as error:
            seen.append(type(error))
        done.set()

    port = proxies.add(serve(watch), NO_FAULTS)
    with connect(port) as connection:
        assert read(connection, 5) == b"hello"
        proxies.cut(port)
        assert done.wait(30)
    assert seen == [ConnectionResetError]


def test_a_held_connection_can_be_cut(serve: Serve, proxies: ProxyThread) -> None:
    port = proxies.add(serve(echo), NO_FAULTS)
    proxies.hold(port)
    with connect(port) as connection:
        while not proxies.counters(port).connections:
            pass
        proxies.cut(port)
        assert was_reset(connection)


def test_a_planned_cut_comes(serve: Serve, proxies: ProxyThread) -> None:
    plan = (0.05, 0.2, 0.8, 3.2, 12.8)  # the later ones for a machine that is slow to connect
    port = proxies.add(serve(echo), Faults(cut_at=plan))
    with pytest.raises(ConnectionResetError):
        first_byte(port)
    assert proxies.counters(port).cuts == 1


def passed_before_cuts(proxies: ProxyThread, target: Address, seed: int) -> list[int]:
    """How many single bytes went to and fro on each of ten connections, each until it was cut."""
    port = proxies.add(target, Faults(cut_chance=0.1), seed=seed)
    counts = []
    for _ in range(10):
        with connect(port) as connection:
            count = 0
            try:
                while connection.send(b"x") and connection.recv(1):
                    count += 1
            except ConnectionError:
                counts.append(count)
    assert proxies.counters(port).cuts == 10
    return counts


@pytest.mark.slow
def test_chunks_are_cut_by_chance_and_the_seed_decides(serve: Serve, proxies: ProxyThread) -> None:
    target = serve(echo)
    first = passed_before_cuts(proxies, target, seed=1)
    assert passed_before_cuts(proxies, target, seed=1) == first
    assert passed_before_cuts(proxies, target, seed=2) != first
    assert 1 <= sum(first) <= 300  # on average 45: two chunks to and fro, one in ten is cut


def test_a_cut_chunk_passes_in_part(serve: Serve, proxies: ProxyThread) -> None:
    port = proxies.add(serve(echo), Faults(cut_chance=1.0), seed=1)
    with connect(port) as connection:
        connection.sendall(bytes(1000))
        assert was_reset(connection)
    counters = proxies.counters(port)
    assert 0 < counters.bytes_to_target < 1000
    assert (counters.bytes_from_target, counters.cuts) == (0, 1)


def test_corruption_flips_one_bit_of_a_chunk(serve: Serve, proxies: ProxyThread) -> None:
    received: list[bytes] = []

    def keep(connection: socket.socket) -> None:
        received.append(read(connection, 1000))
        connection.sendall(b"\0")

    port = proxies.add(serve(keep), Faults(corrupt_chance=1.0), seed=5)
    with connect(port) as connection:
        connection.sendall(bytes(1000))
        answer = read(connection, 1)
    assert int.from_bytes(received[0]).bit_count() == 1
    assert answer[0].bit_count() == 1


# --- set-up and end -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"cut_chance": 1.1}, "cut_chance must be from 0 to 1, got 1.1"),
        ({"corrupt_chance": float("nan")}, "corrupt_chance must be from 0 to 1, got nan"),
        ({"delay_s": -1.0}, "delay_s must be 0 or more seconds, got -1.0"),
        ({"jitter_s": float("inf")}, "jitter_s must be 0 or more seconds, got inf"),
        ({"throttle_bytes_s": 0.0}, "throttle_bytes_s must be positive, got 0.0"),
        ({"partitions": ((3.0, 2.0),)}, "must end after its start, got 3.0 to 2.0"),
        ({"cut_at": (-1.0,)}, "cut_at must be 0 or more seconds, got -1.0"),
    ],
)
def test_faults_that_cannot_be_are_refused(faults: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Faults(**faults)


def test_stopping_resets_connections_and_leaves_nothing(serve: Serve) -> None:
    target = ("localhost", serve(echo)[1])  # a name to look up, which asyncio does in threads
    before = len(os.listdir("/dev/fd"))
    thread = ProxyThread()
    thread.start()
    port = thread.add(target, Faults(delay_s=0.001), seed=0)
    thread.hold(thread.add(target, NO_FAULTS))
    connections = [connect(port) for _ in range(20)]
    for connection in connections:
        connection.sendall(b"a")
        assert read(connection, 1) == b"a"
    thread.stop()
    thread.stop()
    for connection in connections:
        with connection:
            assert was_reset(connection)
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("ostraka", "asyncio"))]
    for _ in range(1000):  # the target's threads still have to see the resets
        if len(os.listdir("/dev/fd")) <= before:
            return
        time.sleep(0.01)
    raise AssertionError("descriptors leak")


def test_a_thread_that_does_not_run_says_so() -> None:
    with pytest.raises(ValueError, match=r"call start\(\) first"):
        ProxyThread().add(("127.0.0.1", 1), NO_FAULTS)


@pytest.mark.slow
def test_cutting_again_and_again_leaks_no_descriptors(serve: Serve, proxies: ProxyThread) -> None:
    port = proxies.add(serve(echo), NO_FAULTS)
    ask(port, b"warm")
    before = len(os.listdir("/dev/fd"))
    for accepted in range(2, 52):
        with connect(port) as connection:
            while proxies.counters(port).connections < accepted:
                pass
            proxies.cut(port)  # while it is dialling the target, as a rule
            assert was_reset(connection)
    assert proxies.counters(port).cuts == 50
    for _ in range(1000):
        if len(os.listdir("/dev/fd")) <= before:
            return
        time.sleep(0.01)
    raise AssertionError("descriptors leak")

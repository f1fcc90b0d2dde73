"""A connection from greeting to end: what does not belong closes it and changes nothing else."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.faults.host import CONTEXT, EXPECTS, LOOPS, QUICK, Host, Raw, descriptors, label

from ostraka.drivers.connection import HELLO, Hello, Refusal
from ostraka.drivers.frames import HEADER, MAGIC, Type, pack
from ostraka.drivers.link import Bounds, session_id
from ostraka.drivers.security import Plain
from ostraka.drivers.tcp import Handlers, Peer, Times, Transport, to_address
from ostraka.party import Frame

ANY_PORT = ("127.0.0.1", 0)
B = {"b": Peer("b", EXPECTS)}


@pytest.fixture(params=sorted(LOOPS))
def loop(request: Any) -> str:
    return request.param


@pytest.fixture
def host(loop: str) -> Iterator[Host]:
    with Host("a", B, loop=loop) as running:
        yield running


def met(host: Host) -> Raw:
    raw = Raw.to_port(host.port).greet()
    host.wait(lambda: "b" in host.transport.connected)
    return raw


def dialled(port: int) -> dict[str, Peer]:
    return {"a": Peer("a", EXPECTS, to_address(("127.0.0.1", port)))}


def silent() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


# --- greeting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"sender": "mallory"}, "identity", "'mallory' is no party that a knows"),
        ({"sender": "a"}, "identity", "'a' is no party"),
        ({"to": "c"}, "identity", "this is a, not 'c'"),
        ({"context": b"x" * 32}, "configuration", "the federation files differ"),
    ],
)
def test_a_false_hello_is_refused_with_a_reason_on_both_sides(
    host: Host, changes: dict[str, Any], code: str, text: str
) -> None:
    with Raw.to_port(host.port) as raw:
        raw.hello(**changes)
        refusal = raw.refusal()
    assert refusal.code == code
    assert text in refusal.text
    host.wait(lambda: host.told("refused"))
    assert text in host.why("refused")[0]
    assert host.told("connected") == []


def test_a_refusal_for_another_configuration_carries_its_details(loop: str) -> None:
    with (
        Host("a", B, loop=loop, details=b"digests \0 of sections") as host,
        Raw.to_port(host.port) as raw,
    ):
        raw.hello(context=b"x" * 32)
        assert raw.refusal().details == b"digests \0 of sections"


def test_both_sides_hear_the_other_s_refusal(loop: str) -> None:
    """Two with different files: each refuses, and each learns the other's details."""
    with (
        Host("a", B, loop=loop, details=b"of a") as a,
        Host("b", dialled(a.port), loop=loop, context=b"x" * 32, details=b"of b") as b,
    ):
        a.wait(lambda: a.refusals and b.refusals, "refusals on both sides")
        a.wait(lambda: a.told("refused") and b.told("refused"))
        assert b.refusals[0] == (
            "a",
            Refusal("configuration", "the federation files differ", b"of a"),
        )
        assert a.refusals[0][1].details == b"of b"
        assert "the federation files differ" in a.why("refused")
        assert a.told("refused-by")[0]["reason"] == "configuration"


def test_another_version_is_refused_in_words(host: Host) -> None:
    with Raw.to_port(host.port) as raw:
        raw.sock.sendall(HEADER.pack(MAGIC, 2, 1, 0, 0, 0, bytes(16), 0, 0))
        refusal = raw.refusal()
    assert (refusal.code, refusal.text) == ("version", "frame version 2, this is version 1")


@pytest.mark.parametrize(
    ("say", "why"),
    [
        (lambda raw: raw.say(Type.WELCOME), "WELCOME at the wrong time"),
        (lambda raw: raw.data(1), "DATA Word is not expected here"),
        (lambda raw: raw.say(Type.ALIVE), "ALIVE is not expected here"),
        (lambda raw: raw.say(Type.HELLO, body=b"?"), "HELLO: "),
        (lambda raw: raw.say(Type.HELLO, body=bytes(1000)), "HELLO of 1000 bytes"),
        (lambda raw: raw.sock.sendall(b"GET / HTTP/1.1\r\n"), "no frames of ostraka"),
    ],
    ids=["welcome", "data", "alive", "hello", "long-hello", "http"],
)
def test_what_comes_before_hello_is_refused(
    host: Host, say: Callable[[Raw], None], why: str
) -> None:
    with Raw.to_port(host.port) as raw:
        say(raw)
        assert why in raw.refusal().text
    host.wait(lambda: host.told("refused"))
    assert why in host.why("refused")[0]
    assert host.frames == []


@pytest.mark.slow
def test_nothing_is_taken_before_the_other_side_has_welcomed(host: Host) -> None:
    for type in (Type.DATA, Type.ALIVE, Type.HELLO):
        with Raw.to_port(host.port) as raw:
            raw.hello()
            raw.hear(Type.WELCOME)
            if type is Type.HELLO:
                raw.hello()
            else:
                raw.say(type, **(raw.fields(1) if type is Type.DATA else {}))
            assert raw.ended()
    assert host.frames == []
    assert host.told("connected") == []


def test_a_welcome_to_another_session_is_refused(host: Host) -> None:
    with Raw.to_port(host.port) as raw:
        raw.hello()
        raw.hear(Type.WELCOME)
        raw.say(Type.WELCOME, session=b"s" * 16)
        assert "another session" in raw.refusal().text
    assert host.told("connected") == []


@pytest.mark.slow
def test_who_says_nothing_is_told_and_closed(loop: str) -> None:
    times = Times(handshake_s=0.2)
    with Host("a", B, loop=loop, times=times) as host, Raw.to_port(host.port) as raw:
        assert raw.ended()
        host.wait(lambda: host.told("refused"))
        assert host.why("refused") == ["it did not say who it is in time"]


# --- frames -----------------------------------------------------------------------------------


def test_frames_are_taken_once_in_order_and_acknowledged(host: Host) -> None:
    with met(host) as raw:
        for index in (1, 2, 2, 1, 5, 3):
            raw.data(index, b"x")
        host.wait(lambda: host.rounds("b") == [1, 2, 5])
        acknowledged = 0
        while acknowledged < 5:
            acknowledged = raw.hear(Type.ALIVE).acknowledged
        raw.data(5)
        assert raw.hear(Type.ALIVE).acknowledged == 5, "a repeated frame is acknowledged again"
    assert host.rounds("b") == [1, 2, 5]


BAD = {
    "another-session": lambda raw: raw.data(1, session=b"s" * 16),
    "unknown-kind": lambda raw: raw.data(1, kind="Model"),
    "never-sent": lambda raw: raw.data(1, acknowledged=1),
    "alive-of-another-session": lambda raw: raw.say(Type.ALIVE, session=b"s" * 16),
    "alive-never-sent": lambda raw: raw.say(Type.ALIVE, session=raw.session, acknowledged=1),
    "hello-again": lambda raw: raw.hello(),
    "welcome-again": lambda raw: raw.say(Type.WELCOME, session=raw.session),
    "alive-with-a-body": lambda raw: raw.say(Type.ALIVE, session=raw.session, body=b"x"),
    "bye-with-a-body": lambda raw: raw.say(Type.BYE, session=raw.session, body=b"x"),
    "junk": lambda raw: raw.sock.sendall(b"\x80\x04\x95"),
}


@pytest.mark.parametrize("bad", sorted(BAD))
def test_what_does_not_belong_closes_and_changes_nothing(host: Host, bad: str) -> None:
    with met(host) as raw:
        BAD[bad](raw)
        assert raw.ended()
    host.wait(lambda: host.told("disconnected"))
    assert host.transport.connected == frozenset()
    assert host.frames == []
    link = host.transport.link("b")
    assert (link.received, link.owes, link.lost) == (0, False, 0)
    with met(host) as raw:
        raw.data(1)
        host.wait(lambda: host.rounds("b") == [1])


def test_a_peer_may_send_only_the_kinds_that_are_expected_of_it(loop: str) -> None:
    """A worker that calls what only a server may call is closed, whatever it calls."""
    peers = {"b": Peer("b", {"Update": 64}), "c": Peer("c", {"Word": 64})}
    with Host("a", peers, loop=loop) as host:
        for kind in ("Word", "Model", "Update2", "X"):
            raw = met(host)
            raw.data(1, kind=kind)
            assert raw.ended()
            raw.sock.close()
            host.wait(lambda: not host.transport.connected)
        assert host.frames == []
        assert {e["peer"] for e in host.told("disconnected")} == {"b"}
        assert "DATA Model is not expected here" in host.why("disconnected")


def test_a_body_that_is_too_long_counts_as_its_sender_s_bad_word(host: Host) -> None:
    with met(host) as raw:
        raw.sock.sendall(b"".join(pack(Type.DATA, **raw.fields(1, bytes(65))))[:-65])
        assert raw.ended()
    host.wait(lambda: host.frames)
    ((_, frame),) = host.frames
    assert "65 bytes, at most 64 expected" in str(frame.body)
    knows, has = host.transport.incarnation, 0
    with Raw.to_port(host.port) as raw:
        raw.greet(knows=knows, has=has)
        assert raw.theirs is not None
        host.wait(lambda: "b" in host.transport.connected)


def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(host: Host) -> None:
    raw = met(host)
    for index in range(1, 4):
        host.post("b", index, b"x")
    assert [raw.hear(Type.DATA).sequence for _ in range(3)] == [1, 2, 3]
    raw.sock.close()
    host.wait(lambda: not host.transport.connected)
    again = Raw.to_port(host.port)
    again.incarnation = raw.incarnation
    again.greet(knows=host.transport.incarnation, has=2)
    assert again.hear(Type.DATA).sequence == 3
    again.sock.close()
    with met(host) as new:
        assert [new.hear(Type.DATA).sequence for _ in range(3)] == [1, 2, 3]
        new.say(Type.ALIVE, session=new.session, acknowledged=3)
        host.wait(lambda: not host.transport.owing)


def test_what_a_peer_has_of_another_process_counts_nothing(host: Host) -> None:
    """Both ways: numbers begin anew with every process that sends."""
    raw = met(host)
    for index in range(1, 4):
        host.post("b", index, b"x")
        raw.data(index)
    assert [raw.hear(Type.DATA).sequence for _ in range(3)] == [1, 2, 3]
    host.wait(lambda: host.rounds("b") == [1, 2, 3])
    raw.sock.close()
    host.wait(lambda: not host.transport.connected)
    again = Raw.to_port(host.port)
    again.incarnation = raw.incarnation
    with again.greet(knows=b"o" * 16, has=3):
        assert [again.hear(Type.DATA).sequence for _ in range(3)] == [1, 2, 3]
    with met(host) as new:
        for index in range(1, 4):
            new.data(index)
        host.wait(lambda: host.rounds("b") == [1, 2, 3] * 2)


def test_a_newer_connection_of_a_peer_replaces_the_older(host: Host) -> None:
    with met(host) as old, met(host) as new:
        assert old.ended()
        new.data(1)
        host.wait(lambda: host.rounds("b") == [1])
        assert host.told("disconnected") == []
        assert len(host.told("connected")) == 1, "one peer is one peer"
    host.wait(lambda: not host.transport.connected)


def test_another_process_with_the_same_identity_is_told_and_the_older_hears_why(
    host: Host,
) -> None:
    with met(host) as old:
        host.post("b", 1, b"x")
        assert old.hear(Type.DATA).sequence == 1
        with met(host) as new:
            refusal = old.refusal()  # and nothing behind it: what is kept is for the newer one
            assert (refusal.code, "same identity" in refusal.text) == ("busy", True)
            assert new.hear(Type.DATA).sequence == 1
            new.data(1)
            host.wait(lambda: host.rounds("b") == [1])
            (event,) = host.told("replaced")
            assert (event["peer"], event["count"]) == ("b", 1)
            assert host.told("disconnected") == host.refusals == []


def test_a_process_that_connects_anew_is_no_double(host: Host) -> None:
    with met(host) as old:
        again = Raw.to_port(host.port)
        again.incarnation = old.incarnation
        with again.greet(knows=host.transport.incarnation):
            assert old.ended()
            again.data(1)
            host.wait(lambda: host.rounds("b") == [1])
            assert host.told("replaced") == []


def test_a_refusal_in_the_open_ends_the_connection(host: Host) -> None:
    with met(host) as raw:
        raw.say(Type.REFUSE, body=Refusal("policy", "enough\nof this").encode())
        assert raw.ended()
    host.wait(lambda: not host.transport.connected)
    assert host.refusals == [("b", Refusal("policy", "enough?of this"))]
    assert host.why("disconnected") == ["the other side refused"]


@pytest.mark.parametrize("body", [b"", b"policy", b"nonsense\0x\0", b"\xff\0\xff\0\xff"])
def test_a_refusal_that_does_not_parse_is_still_one(host: Host, body: bytes) -> None:
    with met(host) as raw:
        raw.say(Type.REFUSE, body=body)
        assert raw.ended()
    host.wait(lambda: host.refusals)
    assert host.refusals[0][1].code == "version"


def test_bye_parts_in_friendship(host: Host) -> None:
    with met(host) as raw:
        raw.say(Type.BYE, session=raw.session)
        assert raw.ended()
    host.wait(lambda: host.told("disconnected"))
    assert host.why("disconnected") == ["the other side has left"]


# --- time -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_half_open_connection_is_closed_by_the_heartbeat(host: Host) -> None:
    with met(host):
        host.wait(lambda: host.told("disconnected"))
        assert host.why("disconnected") == ["nothing was heard for too long"]


@pytest.mark.slow
def test_heartbeats_keep_a_quiet_connection(loop: str) -> None:
    with Host("a", B, loop=loop) as a, Host("b", dialled(a.port), loop=loop) as b:
        b.wait(lambda: b.transport.connected)
        time.sleep(2 * QUICK.quiet_s)
        assert a.told("disconnected") == b.told("disconnected") == []


@pytest.mark.slow
def test_a_long_frame_on_a_slow_line_is_not_silence(host: Host) -> None:
    """It takes longer than the quiet time to come, but bytes come all the while."""
    with met(host) as raw:
        stream = b"".join(pack(Type.DATA, **raw.fields(1, bytes(16), kind="Block")))
        for at in range(len(stream)):
            raw.sock.sendall(stream[at : at + 1])
            time.sleep(1.6 * QUICK.quiet_s / len(stream))
        host.wait(lambda: host.rounds("b") == [1])
        assert host.told("disconnected") == []


@pytest.mark.slow
def test_a_paused_peer_is_neither_read_nor_taken_for_dead(loop: str) -> None:
    """Nor does a new connection of it get around the pause."""
    with Host("a", B, loop=loop) as host:
        host.pause_after = 1
        raw = met(host)
        raw.data(1)
        raw.data(2)
        host.wait(lambda: host.frames)
        time.sleep(1.5 * QUICK.quiet_s)
        assert host.told("disconnected") == []
        with met(host) as new:
            raw.ended()
            for index in range(2, 6):
                new.data(index)
            time.sleep(0.2)
            assert host.rounds("b") == [1]
            host.pause_after = None
            host.call(host.transport.resume, "b")
            host.wait(lambda: host.rounds("b")[-1] == 5)
        raw.sock.close()


# --- dialling, stopping -----------------------------------------------------------------------


def test_a_peer_that_is_not_there_is_told_seldom_and_found_when_it_comes(loop: str) -> None:
    with silent() as place:
        port = place.getsockname()[1]
    quick = Times(retry_s=0.005, retry_most_s=0.01)
    with Host("b", dialled(port), loop=loop, listen=None, times=quick) as b:
        b.wait(lambda: sum(e["count"] for e in b.told("unreachable")) >= 3)
        with Host("a", B, loop=loop, listen=("127.0.0.1", port)) as a:
            b.wait(lambda: b.transport.connected)
            b.post("a", 1)
            a.wait(lambda: a.rounds("b") == [1])
        assert len(b.told("unreachable")) < 10
        assert "Connection refused" in b.why("unreachable")[0]


@pytest.mark.slow
def test_a_peer_that_answers_nothing_or_nonsense_does_not_hold_us(loop: str) -> None:
    times = Times(handshake_s=0.2, connect_s=0.2, retry_s=0.01, retry_most_s=0.05)
    with silent() as place:
        port = place.getsockname()[1]
        with Host("b", dialled(port), loop=loop, listen=None, times=times) as b:
            b.wait(lambda: b.told("unreachable"))
            assert b.why("unreachable") == ["no answer in time"]
            other, _ = place.accept()
            with Raw(place.accept()[0]) as raw:
                raw.sock.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                assert "no frames of ostraka" in raw.refusal().text
            other.close()
            b.wait(lambda: any("no frames" in w for w in b.why("refused")))


def test_goodbye_is_heard_with_the_last_words(loop: str) -> None:
    """Frames posted just before the end arrive, and both sides know why it ended."""
    with Host("a", B, loop=loop) as a:
        with Host("b", dialled(a.port), loop=loop, listen=None) as b:
            b.wait(lambda: b.transport.connected)
            a.wait(lambda: a.transport.connected)
            for index in range(1, 30):
                b.post("a", index, bytes(60))
        a.wait(lambda: a.told("disconnected"))
        assert a.rounds("b") == list(range(1, 30))
        assert a.why("disconnected") == ["the other side has left"]


@pytest.mark.slow
def test_a_peer_that_reads_nothing_does_not_hold_up_the_end(loop: str) -> None:
    """Whoever stops has seconds, not minutes."""
    with Host("a", B, loop=loop, times=Times()) as host, met(host):
        host.post("b", 1, bytes(20_000_000), "Block")
        begin = time.monotonic()
        host.run(host.transport.stop())
        assert time.monotonic() - begin < 3
        assert host.why("disconnected") == ["this side has left"]


@pytest.mark.slow
def test_nothing_is_left_open_whatever_the_moment_of_the_end(loop: str) -> None:
    """Handshakes, refusals, dialling and open connections are cut off by stop()."""

    def live(stay: Callable[[Host, Host], None]) -> None:
        with (
            Host(
                "a", B | {"c": Peer("c", EXPECTS, to_address(("127.0.0.1", dead)))}, loop=loop
            ) as a,
            Host("b", dialled(a.port), loop=loop, listen=None) as b,
        ):
            stay(a, b)

    def strangers(a: Host, b: Host) -> None:
        raws = [Raw.to_port(a.port) for _ in range(20)]
        raws[0].sock.sendall(MAGIC)
        raws[1].hello(to="x")
        raws[2].hello()
        a.wait(lambda: b.transport.connected)
        for raw in raws:
            raw.sock.close()

    with silent() as mute:
        dead = mute.getsockname()[1]
        live(strangers)  # what is made once
        before = descriptors()
        for stay in (lambda a, b: None, strangers, lambda a, b: a.wait(lambda: b.frames == [])):
            live(stay)
        assert descriptors() <= before


def test_a_transport_that_never_ran_a_turn_closes_its_listener(loop: str) -> None:
    async def begin_and_end() -> None:
        transport = Transport(
            "a", B, Plain(), Handlers(lambda peer, frame: None), context=CONTEXT, listen=ANY_PORT
        )
        await transport.start()
        await transport.stop()

    before = descriptors()
    made = LOOPS[loop]()
    made.run_until_complete(begin_and_end())
    made.close()
    assert descriptors() <= before


def test_a_listener_that_cannot_be_is_an_error_of_ours(loop: str) -> None:
    with silent() as taken:
        host = Host("a", B, loop=loop, listen=taken.getsockname()[:2])
        with pytest.raises(OSError, match="in use"):
            host.loop.run_until_complete(host.transport.start())
        host.loop.close()


def test_a_name_that_is_none_is_unreachable_and_not_a_crash() -> None:
    for place in ("a" * 70 + ".example", "..", ""):
        with pytest.raises(OSError):  # noqa: PT011
            asyncio.run(asyncio.wait_for(to_address((place, 1))(), 10))


@pytest.mark.slow
def test_a_peer_that_never_reads_costs_what_its_queue_may_hold(loop: str) -> None:
    bounds = Bounds(frames=8, bytes=4_000_000)
    with Host("a", B, loop=loop, bounds=bounds, times=Times()) as host, met(host):
        for index in range(1, 40):
            host.post("b", index, bytes(1_000_000), "Block")
        link = host.transport.link("b")
        assert link.backlog <= bounds.bytes
        host.wait(lambda: host.told("overflow"))
        assert link.lost > 20


def test_an_error_in_a_callback_is_a_bug_that_is_seen(loop: str) -> None:
    host = Host("a", B, loop=loop)

    def fails(peer: str, frame: Frame) -> None:
        raise KeyError("our bug")

    host.transport._handlers.frame = fails
    with host, met(host) as raw:
        raw.data(1)
        host.wait(lambda: host.errors)
        assert isinstance(host.errors.pop()["exception"], KeyError)


def test_hello_and_session_are_as_they_were() -> None:
    """What stands on the wire does not change by accident."""
    hello = Hello("a", "b", CONTEXT, b"i" * 16, b"k" * 16, 7, "epoch.1")
    assert HELLO.decode(hello.encode()) == hello
    assert len(hello.encode()) == 4 + 1 + 4 + 1 + 32 + 16 + 16 + 8 + 4 + 7
    assert session_id(CONTEXT, {"a": b"1" * 16, "b": b"2" * 16}).hex()[:8] == "2d5bec1f"
    assert label(3) == (("round", 3),)

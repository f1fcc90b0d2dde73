"""Whoever is not a pinned party is refused with a reason on both sides, and nobody else notices."""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ostraka.drivers.identity import Identity, create
from ostraka.drivers.tcp import Peer, to_address
from ostraka.drivers.tls import PinnedTls
from tests.faults.host import EXPECTS, LOOPS, QUICK, Host, Raw, descriptors
from tests.unit.runtime.identity_maker import PEM, common, key_pem, public, secret, signed

PARTY, OTHER, STRANGER = 1, 2, 9  # seeds of keys: b, who is pinned; c, pinned too; nobody's
ISSUER = f"ostraka {public(PARTY).hex()[:32]}"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def rsa_key() -> PrivateKey:
    return rsa.generate_private_key(65537, 2048)


def ec_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def with_key(key: PrivateKey, *, by_party: bool) -> bytes:
    """A certificate of another kind of key, signed by itself or by b's pinned key."""
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        x509.Name([common(ISSUER if by_party else "b")]),
        x509.Name([common("b")]),
        key.public_key(),
        7,
        now - timedelta(days=1),
        now + timedelta(days=1),
    )
    made = builder.sign(secret(PARTY), None) if by_party else builder.sign(key, hashes.SHA256())
    block = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return block + made.public_bytes(PEM)


def by(seed: int, name: str, issuer: str, signer: int) -> bytes:
    """A key with a certificate in some name, signed by some key."""
    return key_pem(secret(seed)) + signed([common(name)], issuer, secret(seed), secret(signer))


@dataclass(frozen=True)
class Case:
    """What somebody shows (None: no certificate), what the server and the client say to it."""

    shows: Callable[[], bytes] | None
    server: str
    client: str
    newest: bool = True
    own: bool = True  # whether a party could come with it by mistake


def expired() -> bytes:
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(
        x509.Name([common(ISSUER)]),
        x509.Name([common("b")]),
        secret(PARTY).public_key(),
        7,
        now - timedelta(days=9),
        now - timedelta(days=1),
    ).sign(secret(PARTY), None)
    return key_pem(secret(PARTY)) + made.public_bytes(PEM)


NO_ISSUER, UNKNOWN = "it is of a key that the federation file does not name", "UNKNOWN_CA"
CASES = {
    "no-certificate": Case(None, "it showed no certificate", "CERTIFICATE_REQUIRED", own=False),
    "unpinned": Case(
        lambda: by(STRANGER, "b", f"ostraka {public(STRANGER).hex()[:32]}", STRANGER),
        NO_ISSUER,
        UNKNOWN,
    ),
    "self-signed": Case(lambda: by(STRANGER, "b", "b", STRANGER), NO_ISSUER, UNKNOWN),
    "of-some-authority": Case(
        lambda: by(PARTY, "b", "Some Authority", STRANGER), NO_ISSUER, UNKNOWN
    ),
    "forged-issuer": Case(
        lambda: by(STRANGER, "b", ISSUER, STRANGER), "signature failure", "DECRYPT_ERROR"
    ),
    "expired": Case(expired, "certificate has expired", "CERTIFICATE_EXPIRED"),
    "another-s-name": Case(
        lambda: by(PARTY, "c", ISSUER, PARTY),
        "the key of b shows a certificate in another name",
        "shows a certificate in another name",
    ),
    "delegated-key": Case(
        lambda: by(STRANGER, "b", ISSUER, PARTY),
        "its key is not in the federation file",
        "not in the federation file",
    ),
    "rsa": Case(lambda: with_key(rsa_key(), by_party=False), NO_ISSUER, UNKNOWN),
    "ec": Case(lambda: with_key(ec_key(), by_party=False), NO_ISSUER, UNKNOWN),
    "rsa-of-a-party": Case(
        lambda: with_key(rsa_key(), by_party=True), "no Ed25519 key", "no Ed25519 key"
    ),
    "ec-of-a-party": Case(
        lambda: with_key(ec_key(), by_party=True), "no Ed25519 key", "no Ed25519 key"
    ),
    "tls-1.2": Case(
        lambda: by(PARTY, "b", ISSUER, PARTY), "unsupported protocol", "PROTOCOL_VERSION",
        newest=False, own=False,
    ),
}  # fmt: skip


PATIENT = replace(QUICK, quiet_s=20.0)
"""A busy machine may stand still for a second, and no test here is about silence."""


def kept(pem: bytes, path: Path) -> Path:
    path.touch(0o600)
    path.write_bytes(pem)
    return path


@pytest.fixture(params=sorted(LOOPS))
def loop(request: Any) -> str:
    return request.param


@dataclass
class Town:
    """The party that is attacked, and an honest one that goes on talking to it."""

    a: Host
    c: Host
    own: Identity

    def still_served(self) -> None:
        index = 1 + len(self.a.rounds("c"))
        self.c.post("a", index, b"update")
        self.a.post("c", index, b"model")
        self.a.wait(lambda: index in self.a.rounds("c") and index in self.c.rounds("a"))
        assert self.a.told("disconnected") == self.c.told("disconnected") == []
        assert self.a.transport.connected == {"c"}


@pytest.fixture
def town(loop: str, tmp_path: Path) -> Iterator[Town]:
    a = create("a", tmp_path / "a.pem")
    c = create("c", tmp_path / "c.pem")
    pins = {"b": public(PARTY), "c": c.public, "d": public(OTHER)}
    peers = {name: Peer(name, EXPECTS) for name in ("b", "c")}
    with (
        Host("a", peers, security=PinnedTls(a, pins), loop=loop, times=PATIENT) as here,
        Host(
            "c", at(here.port), security=PinnedTls(c, {"a": a.public}), loop=loop, times=PATIENT
        ) as there,
    ):
        here.wait(lambda: "c" in here.transport.connected)
        made = Town(here, there, a)
        made.still_served()
        yield made


def at(port: int) -> dict[str, Peer]:
    return {"a": Peer("a", EXPECTS, to_address(("127.0.0.1", port)))}


def client_context(shows: Path | None, newest: bool = True) -> ssl.SSLContext:
    """Somebody who checks nothing and shows what it likes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if shows is not None:
        context.load_cert_chain(shows)
    if not newest:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def told_to(client: ssl.SSLContext, port: int, /, **hello: Any) -> str:
    """What a client of this context hears: an alert's name, or the refusal's code and text."""
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        try:
            with client.wrap_socket(plain) as secured:
                raw = Raw(secured)
                raw.hello(**hello)
                refusal = raw.refusal()
                return f"{refusal.code}: {refusal.text}"
        except ssl.SSLError as error:
            return error.reason or str(error)


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(CASES))
def test_who_is_not_a_pinned_party_is_refused(town: Town, tmp_path: Path, case: str) -> None:
    it = CASES[case]
    shows = None if it.shows is None else kept(it.shows(), tmp_path / "shown.pem")
    heard = told_to(client_context(shows, it.newest), town.a.port)
    assert it.client in heard
    town.a.wait(lambda: town.a.told("refused"))
    (event,) = town.a.told("refused")
    assert it.server in event["why"]
    assert event["peer"].startswith("127.0.0.1:")
    assert town.a.refusals == []
    town.still_served()


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(name for name, case in CASES.items() if case.own))
def test_a_party_that_is_refused_learns_that_its_identity_is(
    town: Town, tmp_path: Path, loop: str, case: str
) -> None:
    """Its own transport says so to its owner, who ends with 77."""
    it = CASES[case]
    assert it.shows is not None
    path = kept(it.shows(), tmp_path / "shown.pem")
    security = PinnedTls(
        Identity("b", public(PARTY), path, datetime.now(UTC)), {"a": town.own.public}
    )
    with Host("b", at(town.a.port), security=security, loop=loop, listen=None) as b:
        b.wait(lambda: b.refusals)
        peer, refusal = b.refusals[0]
        assert (peer, refusal.code) == ("a", "identity")
        assert refusal.text
        (told,) = b.told("refused-by")[:1]
        assert (told["peer"], told["why"]) == ("a", refusal.text)
        assert b.told("connected") == []
    town.a.wait(lambda: town.a.told("refused"))  # it may hear of its own refusal after b does
    assert it.server in town.a.why("refused")[0]
    town.still_served()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "name", "hello", "said"),
    [
        (PARTY, "b", {"sender": "c"}, "identity: the key of b cannot speak for 'c'"),
        (PARTY, "b", {"sender": "a"}, "identity: the key of b cannot speak for 'a'"),
        (PARTY, "b", {"to": "c"}, "identity: this is a, not 'c'"),
        (PARTY, "b", {"context": b"x" * 32}, "configuration: the federation files differ"),
        (OTHER, "d", {"sender": "d"}, "identity: 'd' has no business with a"),
        (OTHER, "d", {"sender": "b"}, "identity: 'd' has no business with a"),
    ],
)
def test_a_pinned_party_speaks_only_for_itself_and_where_it_may(
    town: Town, tmp_path: Path, seed: int, name: str, hello: dict[str, Any], said: str
) -> None:
    issuer = f"ostraka {public(seed).hex()[:32]}"
    shown = kept(by(seed, name, issuer, seed), tmp_path / "shown.pem")
    assert told_to(client_context(shown), town.a.port, **hello) == said
    town.a.wait(lambda: town.a.told("refused"))
    (event,) = town.a.told("refused")
    assert said.endswith(event["why"])
    assert event["peer"] == name
    town.still_served()


@pytest.mark.slow
def test_a_worker_that_plays_the_server_is_closed(town: Town, tmp_path: Path) -> None:
    """Roles are kinds: what another role may say is not expected of this key."""
    shown = kept(by(PARTY, "b", ISSUER, PARTY), tmp_path / "shown.pem")
    with (
        socket.create_connection(("127.0.0.1", town.a.port), 10) as plain,
        client_context(shown).wrap_socket(plain) as secured,
    ):
        raw = Raw(secured).greet()
        raw.data(1, kind="Model")
        assert raw.ended()
    town.a.wait(lambda: town.a.told("disconnected"))
    assert town.a.told("disconnected")[0]["peer"] == "b"
    assert town.a.why("disconnected") == ["DATA Model is not expected here"]
    assert town.a.rounds("b") == []
    town.a.events.clear()
    town.still_served()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["expired", "unpinned", "another-s-name", "delegated-key"])
def test_a_false_server_is_refused_and_told(tmp_path: Path, loop: str, case: str) -> None:
    """Who dials checks as strictly; a stranger's alert is told and counts for nothing."""
    it = CASES[case]
    assert it.shows is not None
    path = kept(it.shows(), tmp_path / "b.pem")
    a = create("a", tmp_path / "a.pem")
    false = PinnedTls(Identity("b", public(PARTY), path, datetime.now(UTC)), {"a": a.public})
    with Host("b", {"a": Peer("a", EXPECTS)}, security=false, loop=loop) as b:
        to_b = {"b": Peer("b", EXPECTS, to_address(("127.0.0.1", b.port)))}
        dialler = PinnedTls(a, {"b": public(PARTY)})
        with Host("a", to_b, security=dialler, loop=loop, listen=None) as here:
            here.wait(lambda: here.told("refused"))
            assert here.told("refused")[0]["peer"] == "b"
            assert it.server in here.why("refused")[0]
            b.wait(lambda: b.told("refused-by") or b.told("refused"))
            assert here.told("connected") == b.told("connected") == []
        assert case in ("another-s-name", "delegated-key") or b.refusals == []


@pytest.mark.slow
def test_another_party_at_the_address_is_refused(tmp_path: Path, loop: str) -> None:
    a, b, c = (create(name, tmp_path / f"{name}.pem") for name in "abc")
    with Host("c", {"a": Peer("a", {})}, security=PinnedTls(c, {"a": a.public}), loop=loop) as host:
        pins = {"b": b.public, "c": c.public}
        to_b = {"b": Peer("b", EXPECTS, to_address(("127.0.0.1", host.port)))}
        with Host("a", to_b, security=PinnedTls(a, pins), loop=loop, listen=None) as here:
            here.wait(lambda: here.told("refused"))
            assert set(here.why("refused")) == {"the key of c answered where b was expected"}
            assert here.refusals == []
        host.wait(lambda: host.refusals)
        assert host.refusals[0][1].code == "identity"


@pytest.mark.slow
def test_a_transport_that_stops_amid_handshakes_leaves_nothing_open(
    tmp_path: Path, loop: str
) -> None:
    a = create("a", tmp_path / "a.pem")
    pins = {"b": public(PARTY)}

    def live() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            peers = {"b": Peer("b", EXPECTS, to_address(mute.getsockname()[:2]))}
            with Host("a", peers, security=PinnedTls(a, pins), loop=loop) as host:
                clients = [socket.create_connection(("127.0.0.1", host.port)) for _ in range(5)]
                for number, client in enumerate(clients):
                    client.sendall(b"\x16\x03\x01\x02\x00\x01"[: 3 * number])
                dialled, _ = mute.accept()
                assert dialled.recv(1) == b"\x16", "our own handshake has begun"
            for sock in (dialled, *clients):
                sock.close()

    live()
    before = descriptors()
    live()
    assert descriptors() <= before


@pytest.mark.slow
def test_clients_that_break_off_their_handshakes_break_nothing(town: Town, loop: str) -> None:
    """Alerts, resets, garbage and closed connections, at every byte of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(None).wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    alert = b"\x15\x03\x03\x00\x02\x02\x30"  # fatal, unknown CA
    before = descriptors()
    words = [hello[:n] for n in (0, 1, 5, 100)] + [alert, hello[:-1] + b"x", b"GET /\r\n\r\n"]
    for number, said in enumerate(words * 2):
        with socket.create_connection(("127.0.0.1", town.a.port), 10) as plain:
            plain.sendall(said)
            if number >= len(words):
                reset = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    strict = client_context(None)
    strict.verify_mode = ssl.CERT_REQUIRED
    assert "CERTIFICATE_VERIFY_FAILED" in told_to(strict, town.a.port)
    town.a.wait(lambda: town.a.told("refused-by"))
    town.a.wait(lambda: sum(e["count"] for e in town.a.told("refused")) >= 5)
    assert town.a.refusals == [], "an alert of a stranger is not a refusal of a peer"
    (why,) = town.a.why("refused-by")
    assert f"our key (fingerprint {town.own.fingerprint}) is not in its federation file" in why
    assert town.a.told("refused-by")[0]["peer"].startswith("127.0.0.1:")
    town.still_served()
    deadline = time.monotonic() + 5
    while descriptors() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert descriptors() <= before

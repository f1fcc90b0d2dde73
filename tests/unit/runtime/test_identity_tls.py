"""Peers: any bytes are a key or none, and only pinned keys get through a real handshake."""

import re
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from identity_maker import DER, PEM, SOUND, common, der_of, key_pem, public, secret, signed

from ostraka.drivers.identity import (
    Identity,
    IdentityError,
    anchor,
    create,
    load,
    public_of,
    renew,
    subject_of,
)


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.slow
def test_an_rsa_key_is_refused_and_has_no_identity(
    tmp_path: Path, rsa_key: rsa.RSAPrivateKey
) -> None:
    path = tmp_path / "a.pem"
    name = x509.Name([common("a")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(
        name, name, rsa_key.public_key(), 7, now, now + timedelta(days=1)
    ).sign(rsa_key, hashes.SHA256())
    block = key_pem(rsa_key)
    path.touch(0o600)
    path.write_bytes(block + certificate.public_bytes(PEM))
    with pytest.raises(IdentityError, match="not an Ed25519 key"):
        load(path)
    assert public_of(certificate.public_bytes(DER)) is None
    assert subject_of(certificate.public_bytes(DER)) == "a"


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.binary())
def test_any_bytes_of_a_peer_give_a_key_or_none(
    changes: list[tuple[int, int]], junk: bytes
) -> None:
    pem = signed([common("a")], "x", secret(1), secret(1))
    der = bytearray(der_of(pem))
    assert public_of(bytes(der)) == public(1)
    for at, value in changes:
        der[at % len(der)] = value
    for body in (bytes(der), bytes(der) + junk, junk):
        key, name = public_of(body), subject_of(body)
        assert key is None or len(key) == 32
        assert name is None or re.fullmatch("[!-~]{1,64}", name)


def test_an_oversized_certificate_of_a_peer_is_not_parsed() -> None:
    long = [common("x" * 60)] * 400
    der = x509.load_pem_x509_certificate(signed(long, "x", secret(1), secret(1)))
    assert public_of(der.public_bytes(DER)) is None
    assert subject_of(der.public_bytes(DER)) is None


def context(server: bool, own: Identity, *pins: bytes) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(own.path, password=lambda: b"six words")
    if pins:
        made.load_verify_locations(cadata=b"".join(anchor(pin) for pin in pins))
    return made


def met(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, str]:
    """What the server and the client know of each other after a handshake and a word each."""
    ends = socket.socketpair()
    found = ["", ""]

    def run(index: int, made: ssl.SSLContext) -> None:
        try:
            with ends[index] as plain:
                plain.settimeout(20)
                with made.wrap_socket(plain, server_side=index == 0) as secure:
                    secure.sendall(b"x")
                    if secure.recv(1) != b"x":  # how a client may see that it was refused
                        raise ConnectionError("closed")
                    der = secure.getpeercert(binary_form=True) or b""
                    found[index] = f"{secure.version()} {subject_of(der)} {public_of(der) is None}"
        except OSError as refused:
            found[index] = f"refused: {refused}"

    other = threading.Thread(target=run, args=(0, server))
    other.start()
    run(1, client)
    other.join()
    return found[0], found[1]


@pytest.fixture
def parties(tmp_path: Path) -> tuple[Identity, Identity]:
    return create("a", tmp_path / "a.pem"), create("b", tmp_path / "b.pem", passphrase=b"six words")


def test_two_that_pin_each_other_meet_over_tls(parties: tuple[Identity, Identity]) -> None:
    a, b = parties
    pins = [public(seed) for seed in range(20)] + [a.public, b.public]
    assert met(context(True, a, *pins), context(False, b, *pins)) == (
        "TLSv1.3 b False",
        "TLSv1.3 a False",
    )
    renew(b.path, lambda: b"six words")
    assert met(context(True, a, b.public), context(False, b, a.public))[0] == "TLSv1.3 b False"


def test_who_is_not_pinned_is_refused_by_either_side(parties: tuple[Identity, Identity]) -> None:
    a, b = parties
    server, client = met(context(True, a, a.public), context(False, b, a.public))
    assert "unable to get local issuer" in server
    assert client.startswith("refused")
    server, client = met(context(True, a, b.public), context(False, b, b.public))
    assert server.startswith("refused")
    assert "unable to get local issuer" in client
    server, client = met(context(True, a), context(False, b, a.public))
    assert server.startswith("refused")
    assert client.startswith("refused")


def test_an_expired_and_a_future_certificate_are_refused(
    parties: tuple[Identity, Identity], tmp_path: Path
) -> None:
    a, _ = parties
    now = datetime.now(UTC)
    for days, why in ((-40, "expired"), (40, "not yet valid")):
        path = tmp_path / f"{days}.pem"
        b = create("b", path, days=20, now=now + timedelta(days=days))
        server, client = met(context(True, a, b.public), context(False, b, a.public))
        assert why in server
        assert client.startswith("refused")
        renew(path)
        assert met(context(True, a, b.public), context(False, b, a.public))[0].endswith("b False")


def test_a_lookalike_under_the_pinned_issuer_is_refused(
    parties: tuple[Identity, Identity], tmp_path: Path
) -> None:
    """Right names, wrong signature: what anybody can copy from the wire."""
    a, b = parties
    path = tmp_path / "liar.pem"
    block = key_pem(secret(9))
    issuer = f"ostraka {b.public.hex()[:32]}"
    path.write_bytes(block + signed([common("b")], issuer, secret(9), secret(9)))
    liar = Identity("b", public(9), path, datetime.now(UTC))
    server, client = met(context(True, a, b.public), context(False, liar, a.public))
    assert "certificate signature failure" in server
    assert client.startswith("refused")


def test_a_pinned_party_that_certifies_another_key_is_seen(
    parties: tuple[Identity, Identity], tmp_path: Path
) -> None:
    """The handshake cannot know; the key of the certificate tells who looks."""
    a, _ = parties
    path = tmp_path / "delegate.pem"
    key = key_pem(secret(9))
    issuer = f"ostraka {public(8).hex()[:32]}"
    certificate = signed([common("b")], issuer, secret(9), secret(8))
    path.write_bytes(key + certificate)
    delegate = Identity("b", public(9), path, datetime.now(UTC))
    server, _ = met(context(True, a, public(8)), context(False, delegate, a.public))
    assert server == "TLSv1.3 b False"
    der = der_of(certificate)
    assert public_of(der) == public(9)


def test_tls_1_2_is_refused(parties: tuple[Identity, Identity]) -> None:
    a, b = parties
    client_context = context(False, b, a.public)
    client_context.minimum_version = ssl.TLSVersion.TLSv1_2
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    server, client = met(context(True, a, b.public), client_context)
    assert "unsupported protocol" in server.lower() or "no protocols" in server.lower()
    assert client.startswith("refused")


def test_anchors_are_for_keys_only() -> None:
    made = x509.load_der_x509_certificate(anchor(SOUND))
    assert public_of(anchor(SOUND)) == SOUND
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert subject_of(anchor(SOUND)) is None
    with pytest.raises(ValueError, match="32 bytes"):
        anchor(SOUND[:31])

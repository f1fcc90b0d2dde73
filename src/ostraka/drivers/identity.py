"""A party's identity on disk: an Ed25519 key and a TLS certificate that says the party's name.

Others know only the public key, from the federation file. A certificate's issuer is a name made
from its key; whoever verifies it makes an anchor in memory, a certificate of the pinned key under
that name, and OpenSSL does the rest. The holder of a pinned key could also certify another key or
another name: compare ``public_of`` and ``subject_of`` of the peer with the file after a handshake.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ostraka.crypto import sign

Passphrase = Callable[[], bytes]

DAYS, DAYS_MAX = 825, 3650
FILE_BYTES_MAX = 1 << 16
CERTIFICATE_BYTES_MAX = 1 << 14
PASSPHRASE_BYTES_MAX = 1023  # what ssl takes
NAME = re.compile(r"[!-~]{1,64}")  # what a common name holds; the federation file is stricter
PRIVATE_BLOCK = re.compile(
    rb"-----BEGIN ((?:ENCRYPTED )?PRIVATE KEY)-----\r?\n.+?\n-----END \1-----\r?\n", re.DOTALL
)
ENCRYPTED = b"ENCRYPTED PRIVATE KEY"
CLOCK_SLACK = timedelta(days=1)  # peers' clocks may be behind ours
UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


class IdentityError(ValueError):
    """A file that is no usable identity: a sentence that names it and says what to do."""


@dataclass(frozen=True)
class Identity:
    """The public side of an identity file. The private key stays in the file, for ssl to read."""

    name: str
    public: bytes
    path: Path
    expires: datetime

    @property
    def text(self) -> str:
        """The identity as the federation file has it."""
        return sign.identity_text(self.public)

    @property
    def fingerprint(self) -> str:
        """The key's digest to be read aloud."""
        return sign.fingerprint(self.public)


def create(
    name: str,
    path: Path,
    *,
    passphrase: bytes | None = None,
    days: int = DAYS,
    now: datetime | None = None,
) -> Identity:
    """Make a key and its certificate in a new file that only its owner can read, durably.

    ``days``: how long the certificate is valid from now on. Raises FileExistsError rather than
    overwrite, OSError with the file's name, ValueError for a name or passphrase that cannot be.
    """
    if not NAME.fullmatch(name):
        raise IdentityError(f"{name!r} cannot be a party's name: 1 to 64 visible ASCII characters")
    key = Ed25519PrivateKey.generate()
    certificate = _leaf(key, name, days, now)
    block = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, _encryption(passphrase)
    )
    with _naming(path):
        _write_new(path, block + certificate.public_bytes(serialization.Encoding.PEM))
    return _described(certificate, path)


def load(path: Path, passphrase: Passphrase | None = None) -> Identity:
    """The identity in a file, once everything in it has been checked but the certificate's dates.

    ``passphrase`` is asked only for an encrypted key. Raises IdentityError with a sentence,
    FileNotFoundError, and OSError with the file's name.
    """
    return _described(_opened(path, passphrase)[2], path)


def signing(path: Path, passphrase: Passphrase | None = None) -> sign.Sign:
    """A function that signs messages with the key of this file; the key itself is not handed out.

    Raises what ``load`` raises.
    """
    return sign.signer(_opened(path, passphrase)[1])


def renew(
    path: Path,
    passphrase: Passphrase | None = None,
    days: int = DAYS,
    *,
    now: datetime | None = None,
) -> Identity:
    """Put a new certificate of the same key and name into the file, whole or not at all.

    The key's block stays as it is, encrypted or not. Raises what ``load`` and ``create`` raise.
    """
    block, key, old = _opened(path, passphrase)
    certificate = _leaf(key, _name_in(old), days, now)
    with _naming(path):
        _replace(path.resolve(), block + certificate.public_bytes(serialization.Encoding.PEM))
    return _described(certificate, path)


def anchor(public: bytes) -> bytes:
    """A DER certificate of a pinned raw public key, for ssl to trust; made in memory, never sent.

    Whoever holds the key has signed a leaf under this name. OpenSSL does not check an anchor's own
    signature, here one of a throwaway key. Not for VERIFY_X509_STRICT, which wants key identifiers.
    Raises ValueError for anything but 32 bytes.
    """
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_issuer(public))
        .issuer_name(_issuer(public))
        .public_key(Ed25519PublicKey.from_public_bytes(public))
        .serial_number(1)
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signing=False), critical=True)
        .sign(Ed25519PrivateKey.generate(), None)
    )
    return certificate.public_bytes(serialization.Encoding.DER)


def public_of(der: bytes) -> bytes | None:
    """The raw Ed25519 public key of a peer's certificate; None where there is none. Total."""
    certificate = _parsed(der)
    return None if certificate is None else _key_in(certificate)


def subject_of(der: bytes) -> str | None:
    """The party's name in a peer's certificate: its one common name, else None. Total."""
    certificate = _parsed(der)
    return None if certificate is None else _name_in(certificate) or None


def read_private(path: Path, byte_count_max: int = FILE_BYTES_MAX) -> bytes:
    """The content of a regular file that belongs to this user and that nobody else can read.

    Raises IdentityError with the command that mends it, FileNotFoundError, or OSError.
    """
    with _naming(path):
        try:
            opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not hold us up
        except PermissionError:
            raise IdentityError(
                f"{path} may not be read by this user: see `ls -l {shlex.quote(str(path))}`"
            ) from None
        try:
            _check_kept(os.fstat(opened), path)
            with os.fdopen(opened, "rb", closefd=False) as file:
                content = file.read(byte_count_max + 1)
        finally:
            os.close(opened)
    if len(content) > byte_count_max:
        raise IdentityError(
            f"{path} is larger than {byte_count_max:,} bytes; is it the right file?"
        )
    return content


def _check_kept(found: os.stat_result, path: Path) -> None:
    """Raise IdentityError unless this is an owner's own and private file."""
    shown, mode = shlex.quote(str(path)), stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        raise IdentityError(f"{path} is not a regular file; name the file itself")
    if found.st_uid != os.geteuid():
        raise IdentityError(
            f"{path} belongs to another user; `sudo chown $(id -u) {shown}` gives it to this one"
        )
    if mode & 0o077:
        raise IdentityError(f"{path} is open to others (mode {mode:03o}): run `chmod 600 {shown}`")


def _opened(
    path: Path, passphrase: Passphrase | None
) -> tuple[bytes, Ed25519PrivateKey, x509.Certificate]:
    """The key's PEM block, the key, and the certificate of it."""
    content = read_private(path)
    block = PRIVATE_BLOCK.search(content)
    counts = content.count(b"-----BEGIN "), content.count(b"-----BEGIN CERTIFICATE-----")
    if block is None or counts != (2, 1):
        raise IdentityError(
            f"{path} does not hold one private key and one certificate; `ostraka identity new` "
            "makes such a file"
        )
    key = _private_key(block[0], path, passphrase if block[1] == ENCRYPTED else None)
    try:
        certificate = x509.load_pem_x509_certificate(content)
    except UNREADABLE:
        raise IdentityError(f"the certificate in {path} is damaged; restore a copy") from None
    _check_belongs(certificate, key.public_key(), path)
    return block[0], key, certificate


def _private_key(block: bytes, path: Path, passphrase: Passphrase | None) -> Ed25519PrivateKey:
    encrypted = ENCRYPTED in block
    if encrypted and passphrase is None:
        raise IdentityError(
            f"the key in {path} is encrypted: give its passphrase with --passphrase-file FILE, in "
            "OSTRAKA_PASSPHRASE, or typed after --passphrase"
        )
    secret = None if passphrase is None else passphrase()
    try:
        key = serialization.load_pem_private_key(block, secret)
    except UNREADABLE:
        why = "the passphrase is wrong, or the key is damaged" if encrypted else "it is damaged"
        raise IdentityError(f"the key in {path} cannot be read: {why}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(
            f"the key in {path} is not an Ed25519 key; make one with `ostraka identity new`"
        )
    return key


def _check_belongs(certificate: x509.Certificate, public: Ed25519PublicKey, path: Path) -> None:
    raw = public.public_bytes_raw()
    if _key_in(certificate) != raw:
        raise IdentityError(
            f"the certificate in {path} is of another key; restore the file from a copy"
        )
    try:
        public.verify(certificate.signature, certificate.tbs_certificate_bytes)
        sound = certificate.issuer == _issuer(raw) and _name_in(certificate) != ""
    except (InvalidSignature, *UNREADABLE):
        sound = False
    if not sound:
        raise IdentityError(
            f"the certificate in {path} is damaged or was not made by `ostraka identity`; restore "
            "the file from a copy"
        )


def _leaf(key: Ed25519PrivateKey, name: str, days: int, now: datetime | None) -> x509.Certificate:
    if not 1 <= days <= DAYS_MAX:
        raise ValueError(f"a certificate is valid for 1 to {DAYS_MAX} days, not {days}")
    now = datetime.now(UTC) if now is None else now
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(_common_name(name))
        .issuer_name(_issuer(key.public_key().public_bytes_raw()))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signing=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .sign(key, None)
    )


def _usage(*, signing: bool) -> x509.KeyUsage:
    """A leaf's key signs handshakes, an anchor's key signs certificates; nothing else."""
    return x509.KeyUsage(
        digital_signature=signing,
        key_cert_sign=not signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _issuer(public: bytes) -> x509.Name:
    """Never a leaf's subject (it has a space), so that OpenSSL looks for an anchor."""
    return _common_name(f"ostraka {public.hex()[:32]}")


def _parsed(der: bytes) -> x509.Certificate | None:
    if len(der) > CERTIFICATE_BYTES_MAX:
        return None
    try:
        return x509.load_der_x509_certificate(der)
    except UNREADABLE:
        return None


def _key_in(certificate: x509.Certificate) -> bytes | None:
    try:
        key = certificate.public_key()
    except UNREADABLE:
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None


def _name_in(certificate: x509.Certificate) -> str:
    """The one common name that the subject consists of; empty where it is anything else."""
    try:
        subject = list(certificate.subject)
    except UNREADABLE:
        return ""
    if len(subject) != 1 or subject[0].oid != NameOID.COMMON_NAME:
        return ""
    value = subject[0].value
    return value if isinstance(value, str) and NAME.fullmatch(value) else ""


def _described(certificate: x509.Certificate, path: Path) -> Identity:
    public = _key_in(certificate) or b""  # never empty: it has been checked, or just made
    return Identity(_name_in(certificate), public, path, certificate.not_valid_after_utc)


def _encryption(passphrase: bytes | None) -> serialization.KeySerializationEncryption:
    if passphrase is None:
        return serialization.NoEncryption()
    if not 1 <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise IdentityError(f"a passphrase has 1 to {PASSPHRASE_BYTES_MAX} bytes")
    return serialization.BestAvailableEncryption(passphrase)


def _write_new(path: Path, content: bytes) -> None:
    """Make a file that was never open to others; on disk when this returns, or not there."""
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with ExitStack() as undo:
        undo.callback(path.unlink, missing_ok=True)
        with os.fdopen(made, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(made)
        _sync_folder(path.parent)
        undo.pop_all()


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(path.name + ".part")
    draft.unlink(missing_ok=True)  # what a crash may have left
    _write_new(draft, content)
    with ExitStack() as undo:
        undo.callback(draft.unlink, missing_ok=True)
        draft.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Give every storage error the name of the file that it is about."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise

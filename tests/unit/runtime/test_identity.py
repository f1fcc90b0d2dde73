"""Identity files: what is not exactly one party's own key and certificate is refused and named."""

import errno
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from identity_maker import DER, common, key_pem, public, secret, signed

from ostraka.crypto.sign import fingerprint, identity_text, verifies
from ostraka.drivers.identity import (
    Identity,
    IdentityError,
    create,
    load,
    public_of,
    renew,
    signing,
    subject_of,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.pem"


@pytest.mark.parametrize("passphrase", [None, b"six words", b"\xff" * 1023])
def test_what_was_made_is_loaded(path: Path, passphrase: bytes | None) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    made = create("hospital-a", path, passphrase=passphrase, days=10, now=now)
    assert made == Identity("hospital-a", made.public, path, now + timedelta(days=10))
    assert made.text == identity_text(made.public)
    assert made.fingerprint == fingerprint(made.public)
    assert load(path, None if passphrase is None else lambda: passphrase) == made
    assert (b"ENCRYPTED" in path.read_bytes()) == (passphrase is not None)


def test_nothing_secret_is_in_an_identity(path: Path) -> None:
    made = create("a", path)
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    raw = key.private_bytes_raw()
    seen = repr(made) + str(vars(made))
    for form in (raw.hex(), repr(raw)[2:-1], "PRIVATE"):
        assert form not in seen


@pytest.mark.parametrize("passphrase", [None, b"six words"])
def test_what_a_party_signs_is_its_own_and_the_key_stays_inside(
    path: Path, passphrase: bytes | None
) -> None:
    made = create("a", path, passphrase=passphrase)
    sign = signing(path, None if passphrase is None else lambda: passphrase)
    assert verifies(made.public, sign(b"message"), b"message")
    assert not verifies(made.public, sign(b"message"), b"another")
    key = serialization.load_pem_private_key(path.read_bytes(), passphrase)
    assert isinstance(key, Ed25519PrivateKey)
    assert key.private_bytes_raw().hex() not in repr(sign)
    if passphrase is not None:
        with pytest.raises(IdentityError, match="is encrypted"):
            signing(path)


def test_the_certificate_says_what_it_should_and_no_more(path: Path) -> None:
    made = create("a", path)
    leaf = x509.load_pem_x509_certificate(path.read_bytes())
    assert subject_of(leaf.public_bytes(DER)) == "a"
    assert public_of(leaf.public_bytes(DER)) == made.public
    assert leaf.issuer.rfc4514_string() == f"CN=ostraka {made.public.hex()[:32]}"
    extensions = {type(e.value).__name__: e for e in leaf.extensions}
    assert set(extensions) == {"BasicConstraints", "KeyUsage", "ExtendedKeyUsage"}
    assert not extensions["BasicConstraints"].value.ca
    assert extensions["KeyUsage"].value.digital_signature
    assert not extensions["KeyUsage"].value.key_cert_sign
    assert extensions["BasicConstraints"].critical
    assert extensions["KeyUsage"].critical
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=826)


def test_the_file_was_never_open_to_others_and_is_synced_with_its_folder(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int]] = []
    drafts: list[bool] = []
    opened: list[int] = []
    sync, open_ = os.fsync, os.open

    def fsync(number: int) -> None:
        found = os.fstat(number)
        seen.append((stat.S_ISDIR(found.st_mode), stat.S_IMODE(found.st_mode)))
        drafts.append(path.with_name("a.pem.part").exists())
        sync(number)

    def opening(name: object, flags: int, mode: int = 0o777, **more: int) -> int:
        number = open_(str(name), flags, mode, **more)
        opened.append(stat.S_IMODE(os.fstat(number).st_mode))
        return number

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "open", opening)
    before = os.umask(0)
    try:
        create("a", path)
        assert opened[0] == 0o600
        assert (seen[0], seen[1][0]) == ((False, 0o600), True)
        seen.clear()
        renew(path)
    finally:
        os.umask(before)
    assert seen[0] == (False, 0o600)
    assert seen[-1][0]
    assert drafts[-2:] == [True, False], "the folder is synced once more behind the replacement"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_overwritten(path: Path, tmp_path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        create("a", path)
    assert path.read_text() == "precious"
    link = tmp_path / "link.pem"
    link.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(FileExistsError):
        create("a", link)
    assert not (tmp_path / "elsewhere.pem").exists()


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "é", "a\n"])
def test_names_that_no_certificate_holds_are_refused(path: Path, name: str) -> None:
    with pytest.raises(IdentityError, match="visible ASCII"):
        create(name, path)
    assert not path.exists()


@pytest.mark.parametrize("days", [0, -1, 3651, 10**9])
def test_impossible_days_are_refused(path: Path, days: int) -> None:
    with pytest.raises(ValueError, match="1 to 3650 days"):
        create("a", path, days=days)
    assert not path.exists()


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1024])
def test_impossible_passphrases_are_refused(path: Path, passphrase: bytes) -> None:
    with pytest.raises(IdentityError, match="1 to 1023 bytes"):
        create("a", path, passphrase=passphrase)
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777])
def test_a_file_open_to_others_is_refused_with_the_mend(path: Path, mode: int) -> None:
    create("a", path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"mode {mode:03o}.*chmod 600 .*a.pem"):
        load(path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_modes_that_shut_others_out_are_fine(path: Path, mode: int) -> None:
    made = create("a", path)
    path.chmod(mode)
    assert load(path) == made


def test_what_is_not_our_own_regular_file_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        load(path)
    with pytest.raises(IdentityError, match="not a regular file"):
        load(tmp_path)
    os.mkfifo(path, 0o600)
    with pytest.raises(IdentityError, match="not a regular file"):
        load(path)
    path.unlink()
    create("a", path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(IdentityError, match=r"belongs to another user.*chown"):
        load(path)


def test_a_huge_file_is_not_read_to_its_end(path: Path) -> None:
    create("a", path)
    os.truncate(path, 1 << 40)
    with pytest.raises(IdentityError, match="larger than 65,536"):
        load(path)


def test_an_encrypted_key_needs_its_passphrase(path: Path) -> None:
    made = create("a", path, passphrase=b"right")
    with pytest.raises(IdentityError, match="is encrypted: give its passphrase"):
        load(path)
    with pytest.raises(IdentityError, match="passphrase is wrong"):
        load(path, lambda: b"wrong")
    with pytest.raises(IdentityError, match="passphrase is wrong"):
        load(path, lambda: b"")
    assert load(path, lambda: b"right") == made


def test_nobody_is_asked_for_a_passphrase_that_is_not_needed(path: Path) -> None:
    made = create("a", path)

    def ask() -> bytes:
        raise AssertionError("asked")

    assert load(path, ask) == made


# -- damage ---------------------------------------------------------------------------------------


def key_block(path: Path) -> bytes:
    return path.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]


def certificate_block(path: Path) -> bytes:
    return path.read_bytes().removeprefix(key_block(path))


def test_a_changed_letter_anywhere_is_noticed(path: Path) -> None:
    made = create("a", path)
    whole = path.read_bytes()
    unnoticed = named = 0
    for at in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[at] = ord("A") if damaged[at] != ord("A") else ord("B")
        path.write_bytes(bytes(damaged))
        try:
            found = load(path)  # such as an unused bit of the last letter of a block
        except IdentityError as refused:
            named += str(path) in str(refused)
        else:
            unnoticed += found != made
    assert (unnoticed, named > 100) == (0, True)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 0.6, 0.99])
def test_a_torn_file_is_refused(path: Path, fraction: float) -> None:
    create("a", path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(IdentityError):
        load(path)


def test_a_certificate_of_another_key_is_refused(path: Path, tmp_path: Path) -> None:
    create("a", path)
    other = tmp_path / "other.pem"
    create("a", other)
    path.write_bytes(key_block(path) + certificate_block(other))
    with pytest.raises(IdentityError, match="of another key"):
        load(path)
    with pytest.raises(IdentityError, match="of another key"):
        renew(path)


def test_one_key_and_one_certificate_and_nothing_else(path: Path) -> None:
    create("a", path)
    key, certificate = key_block(path), certificate_block(path)
    for content in (key, certificate, key + key, key + certificate * 2, key * 2 + certificate):
        path.write_bytes(content)
        with pytest.raises(IdentityError, match="one private key and one certificate"):
            load(path)


@pytest.mark.parametrize(
    ("names", "issuer", "signer"),
    [
        ([common("a")], f"ostraka {public(1).hex()[:32]}", 2),
        ([common("a")], "somebody", 1),
        ([common("a"), common("b")], f"ostraka {public(1).hex()[:32]}", 1),
        ([], f"ostraka {public(1).hex()[:32]}", 1),
        ([common("a b")], f"ostraka {public(1).hex()[:32]}", 1),
    ],
    ids=["signed by another", "other issuer", "two names", "no name", "name with a space"],
)
def test_a_certificate_that_we_would_not_make_is_refused(
    path: Path, names: list[x509.NameAttribute[str]], issuer: str, signer: int
) -> None:
    key = key_pem(secret(1))
    path.touch(0o600)
    path.write_bytes(key + signed(names, issuer, secret(1), secret(signer)))
    with pytest.raises(IdentityError, match="was not made by `ostraka identity`"):
        load(path)
    fine = signed([common("a")], f"ostraka {public(1).hex()[:32]}", secret(1), secret(1))
    path.write_bytes(key + fine)
    assert load(path).name == "a"


# -- renewal --------------------------------------------------------------------------------------


@pytest.mark.parametrize("passphrase", [None, b"six words"])
def test_renewing_keeps_key_name_and_encryption(path: Path, passphrase: bytes | None) -> None:
    source = None if passphrase is None else lambda: passphrase
    long_ago = datetime.now(UTC) - timedelta(days=1000)
    made = create("a", path, passphrase=passphrase, now=long_ago)
    assert made.expires < datetime.now(UTC)
    block, old = key_block(path), certificate_block(path)
    renewed = renew(path, source, 30)
    assert (renewed.name, renewed.public) == (made.name, made.public)
    assert timedelta(days=29) < renewed.expires - datetime.now(UTC) <= timedelta(days=30)
    assert key_block(path) == block
    assert certificate_block(path) != old
    assert load(path, source) == renewed
    assert os.listdir(path.parent) == ["a.pem"]


def test_renewing_goes_through_a_link_and_over_a_draft_that_a_crash_left(
    path: Path, tmp_path: Path
) -> None:
    made = create("a", path)
    (tmp_path / "a.pem.part").write_text("torn")
    link = tmp_path / "link.pem"
    link.symlink_to(path)
    assert renew(link).public == made.public
    assert link.is_symlink()
    assert load(path).expires >= made.expires
    assert sorted(os.listdir(tmp_path)) == ["a.pem", "link.pem"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_everything_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    create("a", path)
    before = path.read_bytes()
    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space") as failed:
        renew(path)
    assert str(failed.value.filename) == str(path)
    if call == "fsync":
        with pytest.raises(OSError, match="No space") as failed:
            create("b", path.with_name("b.pem"))
        assert failed.value.filename == str(path.with_name("b.pem"))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.pem"]

"""A key's text has one spelling, its fingerprint never changes, and no unsound key gets in."""

import re

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from identity_maker import SOUND, public

from ostraka.crypto.sign import fingerprint, identity_text, parse_identity
from ostraka.crypto.transcript import SHORT_BYTES, digest

SMALL = [  # every encoding of the eight points of small order, canonical or not
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


def test_digests_keep_domains_and_parts_apart() -> None:
    by_hand = blake3(b"\x09\0\0\0\0\0\0\0ostraka x\x02\0\0\0\0\0\0\0ab").digest()
    assert digest("x", b"ab") == by_hand
    calls = [("x",), ("x", b""), ("x", b"ab"), ("x", b"a", b"b"), ("xa", b"b"), ("y", b"ab")]
    assert len({digest(*call) for call in calls}) == len(calls)
    with pytest.raises(ValueError, match="domain"):
        digest("")


@pytest.mark.parametrize("seed", range(20))
def test_every_made_key_survives_its_text(seed: int) -> None:
    text = identity_text(public(seed))
    assert re.fullmatch(r"ed25519:[A-Za-z0-9_-]{43}", text)
    assert parse_identity(text) == public(seed)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not begin"),
        ("rsa:" + "A" * 43, "does not begin"),
        (" " + identity_text(SOUND), "does not begin"),
        ("ED25519:" + "A" * 43, "does not begin"),
        (identity_text(SOUND)[:-1], "43 characters"),
        (identity_text(SOUND) + "=", "43 characters"),
        (identity_text(SOUND) + "\n", "43 characters"),
        ("ed25519:" + "é" * 43, "43 characters"),
        ("ed25519:" + "+" * 43, "43 characters"),
        ("ed25519:" + "A" * 10**6, "43 characters"),
        (identity_text(SOUND)[:-1] + "p", "last character"),
        ("ed25519:Ag" + "A" * 41, "no sound"),  # y = 2 is the height of no point
    ],
)
def test_other_texts_are_refused_with_a_short_sentence(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        parse_identity(text)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("encoding", SMALL)
def test_points_of_small_order_and_their_other_spellings_are_refused(encoding: str) -> None:
    with pytest.raises(ValueError, match="no sound"):
        parse_identity(identity_text(bytes.fromhex(encoding)))


def test_a_height_beyond_the_field_is_refused_where_its_remainder_is_fine() -> None:
    fine = 0
    for y in range(2, 19):
        try:
            parse_identity(identity_text(y.to_bytes(32, "little")))
            fine += 1
        except ValueError:
            pass
        with pytest.raises(ValueError, match="no sound"):
            parse_identity(identity_text((2**255 - 19 + y).to_bytes(32, "little")))
    assert fine > 3


@settings(max_examples=60)
@given(st.one_of(st.text(), st.binary(min_size=32, max_size=32).map(identity_text)))
def test_any_text_is_an_identity_with_one_spelling_or_a_value_error(text: str) -> None:
    try:
        found = parse_identity(text)
    except ValueError as refused:
        spelling = str(refused)[:9]
    else:
        spelling = identity_text(found)
        assert len(found) == 32
    assert spelling in (text, "identity ")


@settings(max_examples=30)
@given(st.binary(min_size=32, max_size=32))
def test_the_public_key_of_any_private_key_is_sound(seed: bytes) -> None:
    raw = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    assert parse_identity(identity_text(raw)) == raw


def slow_fingerprint(raw: bytes) -> str:
    """As said in the documentation, bit by bit."""
    domain = b"ostraka fingerprint 1"
    lengths = [len(part).to_bytes(8, "little") for part in (domain, raw)]
    hashed = blake3(lengths[0] + domain + lengths[1] + raw).digest()
    bits = "".join(f"{byte:08b}" for byte in hashed)[:80]
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz0123456789" if c not in "lo01"]
    text = "".join(letters[int(bits[i : i + 5], 2)] for i in range(0, 80, 5))
    return f"{text[:4]}-{text[4:8]}-{text[8:12]}-{text[12:]}"


def test_digests_are_of_the_same_bytes_however_long_the_parts() -> None:
    for size in (0, 1, SHORT_BYTES - 20, *range(SHORT_BYTES - 9, SHORT_BYTES + 2), 3 * SHORT_BYTES):
        parts = (b"", bytes(size), memoryview(b"abc"))
        said = b"".join(len(p).to_bytes(8, "little") + p for p in (b"ostraka use", *parts))
        assert digest("use", *parts) == blake3(said).digest()


def test_fingerprints_are_stable() -> None:
    assert fingerprint(SOUND) == "s64s-y87k-ipjr-nj9x"
    for seed in range(50):
        assert fingerprint(public(seed)) == slow_fingerprint(public(seed))
    for wrong in (b"", SOUND[:31], SOUND + b"\0"):
        with pytest.raises(ValueError, match="32 bytes"):
            fingerprint(wrong)
        with pytest.raises(ValueError, match="32 bytes"):
            identity_text(wrong)

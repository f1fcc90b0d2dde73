"""Public identities: an Ed25519 public key as text for a file and as a fingerprint for the ear.

A key that comes in as text is taken only if it is a canonical point of the curve outside the small
subgroup: for a key in there, signatures can be made without any private key.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ostraka.crypto.transcript import digest

KEY_BYTES = 32
SIGNATURE_BYTES = 64
Sign = Callable[[bytes], bytes]
"""A party's own signature of a message; whoever holds the function cannot read the key."""
PREFIX = "ed25519:"
BODY = re.compile(r"[A-Za-z0-9_-]{43}")
ALPHABET = (
    "abcdefghijkmnpqrstuvwxyz23456789"  # 32 symbols; 0, o, 1 and l look alike and are not here
)
GROUP, GROUPS, BITS = 4, 4, 5

P = 2**255 - 19  # the field of Ed25519 (RFC 8032, section 5.1)
D = -121665 * pow(121666, -1, P) % P  # the d of its curve -x^2 + y^2 = 1 + d x^2 y^2


def identity_text(public: bytes) -> str:
    """The text of a raw public key (32 bytes) in a federation file: ``ed25519:`` and base64url."""
    _sized(public)
    return PREFIX + base64.urlsafe_b64encode(public).rstrip(b"=").decode()


def parse_identity(text: str) -> bytes:
    """The raw public key (32 bytes) of an identity's text. Total.

    Raises ValueError with a sentence for another prefix, length or alphabet, for a second spelling
    of the same key, and for bytes that are no sound Ed25519 public key.
    """
    if not text.startswith(PREFIX):
        raise ValueError(f"identity {_shown(text)} does not begin with {PREFIX!r}")
    body = text.removeprefix(PREFIX)
    if not BODY.fullmatch(body):
        raise ValueError(
            f"identity {_shown(text)} needs 43 characters A-Z a-z 0-9 - _ after {PREFIX!r}; copy "
            "the whole line that `ostraka identity show` prints"
        )
    public = base64.urlsafe_b64decode(body + "=")
    if identity_text(public) != text:
        raise ValueError(f"identity {_shown(text)} is misspelt in its last character")
    if not _sound(public):
        raise ValueError(f"identity {_shown(text)} is no sound Ed25519 public key")
    return public


def fingerprint(public: bytes) -> str:
    """A key's digest to be read aloud: 80 bits as four groups of four letters and digits.

    To make a key with the fingerprint of another party's takes about 2^80 attempts. One who may
    choose both keys finds two alike in about 2^40: that party could show each half of the others
    another key of its own, which the digest of the federation file then uncovers.
    """
    _sized(public)
    number = int.from_bytes(digest("fingerprint 1", public)[: GROUP * GROUPS * BITS // 8], "big")
    symbols = [ALPHABET[number >> BITS * i & 31] for i in reversed(range(GROUP * GROUPS))]
    return "-".join("".join(symbols[i : i + GROUP]) for i in range(0, len(symbols), GROUP))


def signer(private: Ed25519PrivateKey) -> Sign:
    """The signing function of a key; messages should be digests that name their use."""
    return private.sign


def signer_from(seed: bytes) -> tuple[Sign, bytes]:
    """A signing function and its raw public key from 32 secret bytes, for simulations."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    return signer(private), private.public_key().public_bytes_raw()


def verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of this raw public key signed this message. Total for any signature."""
    _sized(public)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _sized(public: bytes) -> None:
    if len(public) != KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has {KEY_BYTES} bytes, not {len(public)}")


def _shown(text: str) -> str:
    """Enough of a text from outside to find it again."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _sound(public: bytes) -> bool:
    """Whether these bytes are a point of the curve, canonically written, of large order."""
    y = int.from_bytes(public, "little") & ((1 << 255) - 1)  # the top bit is the sign of x
    if y >= P or not _is_square(_x_squared(y)):
        return False
    for _ in range(3):
        y = _doubled(y)
    return y != 1  # eight times a point of small order is the neutral element, whose y is 1


def _x_squared(y: int) -> int:
    return (y * y - 1) * pow(D * y * y + 1, -1, P) % P


def _is_square(value: int) -> bool:
    return pow(value, (P - 1) // 2, P) in (0, 1)


def _doubled(y: int) -> int:
    """The y of twice a point; its x enters squared only, and follows from y."""
    xx, yy = _x_squared(y), y * y
    return (yy + xx) * pow(1 - D * xx * yy, -1, P) % P

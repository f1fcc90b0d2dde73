"""Parties with different files name the fields that differ; what peers send is read or refused."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from ostraka.app.agree import (
    APP_FILE,
    MOST_BYTES,
    MOST_FIELDS,
    decode,
    difference_text,
    differing,
    digests,
    encode,
    federation_digest,
    keys,
)
from ostraka.app.config import Config, check
from ostraka.app.tables import normal
from ostraka.drivers.connection import Refusal

FILE = """\
[federation]
name = "x"
[training]
momentum = 0.5
[[party]]
name = "s"
role = "server"
address = "s.example.org:7443"
[[party]]
name = "a"
[[party]]
name = "b.c"
"""


def config(text: str) -> Config:
    return check(normal(tomllib.loads(text)), "text")


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        ("momentum = 0.5", "momentum = 0.25", ["training.momentum"]),
        ("momentum = 0.5", "", ["training.momentum"]),
        ("s.example.org:7443", "s.example.org:7444", ["party.s.address"]),
        ('name = "b.c"', 'name = "b.c"\naddress = "h:1"', ["party.b.c.address"]),
        ('"x"', '"x"\nseed = 9\nrounds = 3', ["federation.rounds", "federation.seed"]),
        ("[training]", "[simulation]\nattack = 'alie'\n[training]", ["simulation.attack"]),
        ("[training]", "[data]\nalpha = 0.7\n[training]", ["data.alpha"]),
        ("[training]", "[rule]\nname = 'median'\ntau = 1.0\n[training]", ["rule.name", "rule.tau"]),
        ("[training]", "[privacy]\n[training]", ["privacy"]),
        ('name = "a"', 'name = "d"', ["party"]),
    ],
)
def test_every_value_counts_and_the_field_is_named(old: str, new: str, fields: list[str]) -> None:
    ours, theirs = config(FILE), config(FILE.replace(old, new))
    found = differing(digests(ours), digests(theirs))
    assert [f for f in found if not f.startswith(("privacy.", "party.a.", "party.d."))] == fields
    assert federation_digest(ours) != federation_digest(theirs)


def test_the_order_of_the_parties_counts() -> None:
    head, first, second = FILE.partition('[[party]]\nname = "a"\n')
    ours, theirs = config(FILE), config(head + second + first)
    assert differing(digests(ours), digests(theirs)) == ["party"]
    assert federation_digest(ours) != federation_digest(theirs)


def test_spelling_order_of_keys_and_written_defaults_do_not_count() -> None:
    other = FILE.replace('"x"', '"x"\ntrust = "trusted"\nrounds = 200') + "[network]\n"
    other = other.replace("momentum = 0.5", "# mine\nlocal-steps = 1\nmomentum = 0.50\nclip = 1")
    ours = config(FILE.replace("momentum = 0.5", "clip = 1.0\nmomentum = 0.5"))
    assert digests(ours) == digests(config(other))
    assert federation_digest(ours) == federation_digest(config(other))


def test_a_digest_is_of_key_and_value_under_its_own_domain() -> None:
    """Computed by hand, so that a change of form, which splits federations, is seen."""

    def hashed(*parts: bytes) -> bytes:
        return blake3(b"".join(len(p).to_bytes(8, "little") + p for p in parts)).digest()

    domain = b"ostraka federation field 1"
    found = digests(config(FILE))
    assert found["training.momentum"] == hashed(domain, b"training.momentum", b"0.5")[:16]
    assert found["party"] == hashed(domain, b"party", b'["s","a","b.c"]')[:16]
    assert found["privacy"] == hashed(domain, b"privacy", b"null")[:16]
    assert found["party.s.role"] != found["party.a.role"]
    assert len(federation_digest(config(FILE))) == 32


def test_every_field_of_the_file_has_a_digest() -> None:
    made: dict[str, Any] = config(FILE + "[privacy]\n").model_dump()
    wanted = {f"{s}.{k}" for s, table in made.items() if s != "party" for k in table}
    wanted |= {f"party.{p['name']}.{k}" for p in made["party"] for k in p if k != "name"}
    assert set(digests(config(FILE + "[privacy]\n"))) == wanted | {"party"}


def test_the_app_file_counts_and_is_named() -> None:
    own, one, other = config(FILE), "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert differing(digests(own, one), digests(own, other)) == [APP_FILE] == ["the app file"]
    assert differing(digests(own, one), digests(own)) == [APP_FILE]
    assert federation_digest(own, one) != federation_digest(own, other)
    assert federation_digest(own, one) != federation_digest(own)
    assert digests(own, one) == digests(own, one)
    assert decode(encode(digests(own, one))) == digests(own, one)
    refusal = Refusal("configuration", "they differ", encode(digests(own, other)))
    assert keys(digests(own, one), refusal) == [APP_FILE]


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=200),
        st.binary(min_size=16, max_size=16),
        max_size=8,
    )
)
def test_what_is_encoded_is_read_back(found: dict[str, bytes]) -> None:
    body = encode(found)
    assert decode(body) == found
    assert all(decode(body[:end]) is None for end in range(len(body)))
    assert decode(body + b"\0") is None


@given(st.binary(max_size=120) | st.binary(max_size=80).map(lambda b: b"\1\0\0\0" + b))
def test_any_bytes_are_refused_or_the_one_form_of_what_they_say(body: bytes) -> None:
    found = decode(body)
    assert found is None or encode(found) == body


def entry(key: bytes) -> bytes:
    return bytes([len(key)]) + key + bytes(16)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        b"\1\0\0\0",
        b"\xff\xff\xff\xff" + entry(b"a") * 3,
        b"\2\0\0\0" + entry(b"b") + entry(b"a"),
        b"\2\0\0\0" + entry(b"a") + entry(b"a"),
        b"\1\0\0\0" + entry(b""),
        b"\1\0\0\0" + entry(b"a\n"),
        b"\1\0\0\0" + entry(b"\x7f"),
        b"\1\0\0\0" + entry("é".encode()),
        b"\1\0\0\0" + entry(b"k" * 201),
        b"\1\0\0\0" + bytes([200]) + b"k" * 20,
        bytes(MOST_BYTES + 1),
    ],
)
def test_a_peers_wrong_bytes_are_refused(body: bytes) -> None:
    assert decode(body) is None


@pytest.mark.slow
def test_sizes_are_bounded_on_both_sides() -> None:
    most = {f"{i:05d}": bytes(16) for i in range(MOST_FIELDS)}
    body = encode(most)
    assert decode(body) == most
    many = (MOST_FIELDS + 1).to_bytes(4, "little") + body[4:] + entry(b"99999")
    assert decode(many) is None
    with pytest.raises(ValueError, match="too large to compare"):
        encode(most | {"99999": bytes(16)})
    long = [f"{i:0100d}" for i in range(9000)]
    with pytest.raises(ValueError, match="too large to compare"):
        encode(dict.fromkeys(long, bytes(16)))
    whole = len(long).to_bytes(4, "little") + b"".join(entry(key.encode()) for key in long)
    assert len(whole) > MOST_BYTES
    assert decode(whole) is None
    for wrong in ({"k" * 201: bytes(16)}, {"": bytes(16)}, {"k": bytes(15)}):
        with pytest.raises(ValueError, match="cannot be sent"):
            encode(wrong)


def test_a_key_that_no_rule_knows_and_nobody_could_read_is_refused() -> None:
    with pytest.raises(ValueError, match="no name that parties can compare"):
        digests(config(FILE + '[rule]\n"a\\u0007" = 1\n'))


def test_the_sentence_stays_short() -> None:
    assert difference_text("b", ["rule.tau"]) == (
        "b holds another federation file: rule.tau differs; agree on one file and start again"
    )
    told = difference_text("b", [f"k{i}" for i in range(5000)])
    assert "k0, k1, " in told
    assert "and 4992 more differ;" in told
    assert len(told) < 200

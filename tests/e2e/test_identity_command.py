"""`ostraka identity`: what it prints can be sent on as it is; every refusal is a sentence."""

import getpass
import os
import re
import stat
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ostraka.app import cli
from ostraka.app.config import check
from ostraka.app.errors import Exit, UserError
from ostraka.app.identities import (
    ENVIRONMENT,
    identity_app,
    opened,
    passphrase_source,
)
from ostraka.app.site import load_site
from ostraka.crypto.sign import fingerprint, parse_identity
from ostraka.drivers.identity import DAYS, create, load
from tests.e2e.command import ostraka


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    if all(group.typer_instance is not identity_app for group in cli.app.registered_groups):
        cli.app.add_typer(identity_app, name="identity")


def passphrase_file(text: bytes = b"six words\n") -> Path:
    path = Path("secret")
    path.touch(0o600)
    path.write_bytes(text)
    return path


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What somebody types; gives the list of what is still to be typed."""
    left = list(words)

    def ask(prompt: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    monkeypatch.setattr(getpass, "getpass", ask)
    return left


def test_new_prints_a_table_that_a_federation_file_takes() -> None:
    ended = ostraka("identity", "new", "hospital-a")
    assert ended.code == 0, ended.err
    made = load(Path("hospital-a.pem"))
    table = re.search(r"\[\[party\]\]\n(?:.+\n)+", ended.out)
    assert table is not None
    entry = tomllib.loads(table[0])
    assert entry == {"party": [{"name": "hospital-a", "role": "worker", "identity": made.text}]}
    entry["party"].append({"name": "s", "role": "server"})
    assert check({"federation": {"name": "x"}, **entry}, "x").party[0].identity == made.text
    assert f"fingerprint  {made.fingerprint}\n" in ended.out
    assert f"valid until {made.expires:%Y-%m-%d}\n" in ended.out
    assert "hospital-a.pem: private key (not encrypted)" in ended.out
    assert stat.S_IMODE(os.stat("hospital-a.pem").st_mode) == 0o600
    assert "PRIVATE KEY" not in ended.out + ended.err


def test_new_show_and_renew_say_the_same_to_machines() -> None:
    made = ostraka("identity", "new", "a", "--out", "key", "--json").summary
    shown = ostraka("identity", "show", "key", "--json").summary
    assert shown == made
    assert set(made) == {"name", "file", "identity", "fingerprint", "expires"}
    assert fingerprint(parse_identity(made["identity"])) == made["fingerprint"]
    left = datetime.fromisoformat(made["expires"]) - datetime.now(UTC)
    assert timedelta(days=DAYS - 1) < left <= timedelta(days=DAYS)
    renewed = ostraka("identity", "renew", "key", "--days", 9, "--json").summary
    assert renewed["expires"] < made["expires"]
    assert {**renewed, "expires": ""} == {**made, "expires": ""}


def test_show_and_renew_speak_to_people() -> None:
    made = create("a", Path("a.pem"), days=20)
    shown = ostraka("identity", "show", "a.pem").out
    assert shown.startswith(f'[[party]]\nname = "a"\nrole = "worker"\nidentity = "{made.text}"\n')
    assert "soon; run `ostraka identity renew a.pem`" in shown
    renewed = ostraka("identity", "renew", "a.pem").out
    assert "the key is the same" in renewed
    assert made.fingerprint in renewed
    assert "renew a.pem`" not in renewed
    create("b", Path("b.pem"), days=1, now=datetime.now(UTC) - timedelta(days=3))
    assert "expired; run" in ostraka("identity", "show", "b.pem").out


def test_everybodys_fingerprint_is_shown_from_the_federation_file() -> None:
    a = create("hospital-a", Path("a.pem"))
    text = (
        '[federation]\nname = "x"\n[[party]]\nname = "s"\nrole = "server"\n'
        f'[[party]]\nname = "hospital-a"\nidentity = "{a.text}"\n'
    )
    Path("federation.toml").write_text(text)
    ended = ostraka("identity", "show", "federation.toml")
    assert ended.out == f"s           no identity in the file\nhospital-a  {a.fingerprint}\n"
    assert ostraka("identity", "show", a.text).out == f"identity  {a.fingerprint}\n"
    said = ostraka("identity", "show", "federation.toml", "--json").summary
    assert said == {"fingerprints": {"s": None, "hospital-a": a.fingerprint}}
    ended = ostraka("identity", "show", a.text[:-1])
    assert (ended.code, "43 characters" in ended.err) == (64, True)


def test_nothing_is_overwritten() -> None:
    Path("a.pem").write_text("precious")
    ended = ostraka("identity", "new", "a")
    assert ended.code == 64
    assert "a.pem exists already" in ended.err
    assert "--out" in ended.err
    assert Path("a.pem").read_text() == "precious"


@pytest.mark.parametrize("name", ["", "../a", "a b", "-", ".a", "a\n", "x" * 65, "ä"])
def test_names_that_a_federation_file_refuses_are_refused(name: str, tmp_path: Path) -> None:
    ended = ostraka("identity", "new", "--", name)
    assert ended.code == 64
    assert "cannot be a party's name" in ended.err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["show", "nowhere.pem"], 66, "`ostraka identity new NAME` makes one"),
        (["renew", "nowhere.pem"], 66, "`ostraka identity new NAME` makes one"),
        (["show", "nowhere.toml"], 66, "no federation file"),
        (["new", "a", "--out", "no/where.pem"], 66, "no folder no"),
        (["new", "a", "--days", "0"], 64, "--days"),
        (["new", "a", "--days", "9999"], 64, "--days"),
        (["new", "a", "--passphrase-file", "nowhere"], 66, "no passphrase file nowhere"),
        (["new"], 64, "NAME"),
        (["show", "."], 77, "not a regular file"),
        (["show", "junk"], 77, "one private key and one certificate"),
        (["renew", "junk"], 77, "one private key and one certificate"),
        (["show", "open"], 77, "chmod 600 open"),
        (["new", "a", "--passphrase-file", "open"], 77, "chmod 600 open"),
    ],
)
def test_what_cannot_be_ends_with_its_code(
    arguments: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    for name, mode in (("junk", 0o600), ("open", 0o644)):
        Path(name).write_text("junk")
        Path(name).chmod(mode)
    ended = ostraka("identity", *arguments)
    assert ended.code == code, ended.err
    assert sentence in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not Path("a.pem").exists()


def test_a_full_disk_is_74(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    ended = ostraka("identity", "new", "a")
    assert ended.code == 74
    assert "a.pem: No space left" in ended.err


@pytest.mark.parametrize("content", [b"six words", b"six words\n", b"six words\r\n"])
def test_a_passphrase_from_a_file(content: bytes) -> None:
    given = ("--passphrase-file", passphrase_file(content))
    ended = ostraka("identity", "new", "a", *given)
    assert ended.code == 0, ended.err
    assert "private key (encrypted)" in ended.out
    assert load(Path("a.pem"), lambda: b"six words").name == "a"
    assert ostraka("identity", "show", "a.pem", *given).code == 0
    assert ostraka("identity", "renew", "a.pem", *given).code == 0
    ended = ostraka("identity", "show", "a.pem")
    assert ended.code == 77
    assert "--passphrase-file FILE" in ended.err
    ended = ostraka("identity", "show", "a.pem", "--passphrase-file", passphrase_file(b"other"))
    assert ended.code == 77
    assert "passphrase is wrong" in ended.err
    assert "other" not in ended.err


def test_a_passphrase_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "six wörds")
    assert ostraka("identity", "new", "a").code == 0
    assert load(Path("a.pem"), "six wörds".encode).name == "a"
    assert ostraka("identity", "show", "a.pem").code == 0
    given = ("--passphrase-file", passphrase_file(b"another"))
    assert ostraka("identity", "show", "a.pem", *given).code == 77, "the file comes first"
    monkeypatch.setenv(ENVIRONMENT, "")
    ended = ostraka("identity", "new", "b")
    assert ended.code == 64
    assert f"{ENVIRONMENT} has 0 bytes" in ended.err
    assert not Path("b.pem").exists()


def test_a_typed_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    left = typed(monkeypatch, "six words", "six words", "six words", "six word")
    assert ostraka("identity", "new", "a", "--passphrase").code == 0
    assert ostraka("identity", "show", "a.pem", "--passphrase").code == 0
    assert ostraka("identity", "show", "a.pem", "--passphrase").code == 77
    assert left == []
    ended = ostraka("identity", "show", "a.pem", "--passphrase")
    assert ended.code == 64
    assert "nobody is there" in ended.err
    typed(monkeypatch, "one", "other")
    ended = ostraka("identity", "new", "b", "--passphrase")
    assert ended.code == 64
    assert "differ" in ended.err
    assert not Path("b.pem").exists()


def test_nobody_types_a_passphrase_for_a_file_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create("a", Path("a.pem"))
    left = typed(monkeypatch, "unused")
    assert ostraka("identity", "new", "a", "--passphrase").code == 64
    assert left == ["unused"]


@pytest.mark.parametrize("secret", [b"", b"\n", b"x" * 1024])
def test_passphrases_that_tls_cannot_take_are_refused(secret: bytes) -> None:
    ended = ostraka("identity", "new", "a", "--passphrase-file", passphrase_file(secret))
    assert ended.code == 64
    assert "1 to 1023" in ended.err
    assert not Path("a.pem").exists()


def test_join_opens_an_identity_and_is_told_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    made = create("a", Path("a.pem"), passphrase=b"six words", days=3)
    typed(monkeypatch, "six words")
    source = passphrase_source(None, True)
    assert source is not None
    assert opened(Path("a.pem"), source) == made
    assert source() == b"six words", "typed once, given again"
    with pytest.raises(UserError, match=r"expired on .* `ostraka identity renew a.pem`") as refused:
        opened(Path("a.pem"), source, made.expires)
    assert refused.value.code == Exit.IDENTITY
    assert passphrase_source(None, False) is None


@pytest.mark.slow
def test_a_party_finds_its_passphrase_in_its_site_file_or_asks_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path("a.pem")
    create("a", path, passphrase=b"six words")
    monkeypatch.setattr(sys, "stdin", None)
    passphrase_file()
    Path("site.toml").write_text('[place]\npassphrase_file = "secret"\n')
    site = load_site(Path("site.toml"))
    assert opened(path, passphrase_source(site.place.passphrase_file, False)).name == "a"
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    left = typed(monkeypatch, "six words")
    assert opened(path, passphrase_source(None, True)).name == "a"
    assert left == []


@pytest.mark.slow
def test_every_identity_command_has_an_example_and_help_stays_light() -> None:
    for command in ("new", "show", "renew"):
        text = " ".join(ostraka("identity", command, "--help").out.split())
        assert f"Example: ostraka identity {command} " in text
    code = (
        "import sys; from ostraka.app import identities\n"
        "heavy = {'cryptography', 'numpy', 'pydantic', 'ssl'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""What the doctor sees, says and ends with; each check alone, then a whole federation."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ostraka.app import checks
from ostraka.app.checks import Check
from ostraka.app.config import load
from ostraka.app.doctor import _show, doctor
from ostraka.app.errors import Exit
from ostraka.app.meetings import dialled, operators
from ostraka.app.site import load_site
from ostraka.drivers.identity import Identity, create

NOW = datetime(2030, 1, 2, tzinfo=UTC)
APP = """\
import torch
from ostraka.learn.app import App

def data(site):
    print("reading the data of", site.name)
    return torch.full((40, 3), {value}), torch.arange(40) % 2

app = App(model=lambda: torch.nn.Linear(3, 2), train_data=data)
"""


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    folder = tmp_path_factory.mktemp("identities")
    return {name: create(name, folder / f"{name}.pem") for name in ("hub", "a", "b", "c")}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OSTRAKA_PASSPHRASE", raising=False)
    monkeypatch.delenv("OSTRAKA_DATA", raising=False)
    return tmp_path


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with listening() as port:
        return port


def federation(
    folder: Path,
    identities: dict[str, Identity],
    address: str,
    more: str = "",
    training: str = "",
) -> Path:
    lines = [f'[federation]\nname = "x"\nrounds = 3\n[training]\n{training}\n{more}\n']
    for name, made in identities.items():
        role = f'role = "server"\naddress = "{address}"' if name == "hub" else ""
        lines.append(f'[[party]]\nname = "{name}"\nidentity = "{made.text}"\n{role}\n')
    path = folder / "federation.toml"
    path.write_text("".join(lines))
    return path


def run(capsys: pytest.CaptureFixture[str], *given: Path | None) -> tuple[int, dict[str, Any]]:
    """The exit code, and the checks by name (the last of each)."""
    code = doctor(*(*given, None, None, None)[:3], True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["event"] == "summary"
    assert lines[-1]["code"] == code
    return code, {line["name"]: line for line in lines[:-1]}


def test_the_clock_must_not_be_before_what_has_happened() -> None:
    sound = checks.clock(NOW, {"the identity was made": NOW + timedelta(minutes=59)})
    assert sound.state == "ok"
    assert "2030-01-02 00:00:00 UTC" in sound.text
    behind = checks.clock(NOW, {"the identity was made": NOW + timedelta(hours=2)})
    assert behind.state == "warn"
    assert "before the identity was made" in behind.text


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.versions().state == "ok"
    monkeypatch.setattr(checks, "NEEDED", ("numpy", "no-such-package"))
    found = checks.versions()
    assert (found.state, found.code) == ("fail", Exit.REFUSED)
    assert "not installed: no-such-package" in found.text


def test_the_trial_handshake_is_tls_1_3() -> None:
    found = checks.tls()
    assert found.state == "ok"
    assert found.text.startswith("TLSv1.3 ")


def test_a_handshake_with_another_key_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ostraka.drivers import identity

    other = identity.anchor(create("other", tmp_path / "other.pem").public)
    monkeypatch.setattr(identity, "anchor", lambda public: other)
    found = checks.tls()
    assert (found.state, found.code) == ("fail", Exit.UNAVAILABLE)


def test_open_files_are_compared_with_the_parties() -> None:
    assert checks.descriptors(10, 74).state == "warn"
    assert checks.descriptors(10, 148).state == "ok"
    few = checks.descriptors(10, 73)
    assert (few.state, few.code) == ("fail", Exit.REFUSED)
    assert "ulimit -n" in few.mend
    assert checks.descriptors(10, -1).state == "ok"


def test_storage_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    found = checks.storage(tmp_path / "x" / "state", 1000)
    assert found.state == "ok"
    assert "24.0 kB needed" in found.text
    assert f"where {tmp_path / 'x' / 'state'} will be made" in found.text
    assert list(tmp_path.iterdir()) == []


def test_storage_without_room_or_not_a_folder_fails_with_74(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "state"
    file.write_text("")
    blocked = checks.storage(file, None)
    assert (blocked.state, blocked.code) == ("fail", Exit.STORAGE)
    huge = checks.storage(tmp_path, 10**15)
    assert (huge.state, huge.code) == ("fail", Exit.STORAGE)
    monkeypatch.setattr(checks, "SLOW_SYNC_S", -1.0)
    assert checks.storage(tmp_path, 10).state == "warn"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    told = checks.storage(tmp_path, 10)
    assert (told.state, told.code) == ("fail", Exit.STORAGE)
    assert "No space left" in told.text


def test_a_port_in_use_cannot_be_listened_on() -> None:
    with listening() as port:
        taken = checks.bindable("listen", ("127.0.0.1", port))
    assert (taken.state, taken.code) == ("warn", Exit.DONE)
    assert "if it is this party" in taken.mend
    assert checks.bindable("listen", ("127.0.0.1", port)).state == "ok"
    assert checks.bindable("listen", ("192.0.2.1", port)).state == "fail"


@pytest.mark.slow
def test_peers_answer_refuse_do_not_resolve_or_stay_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = threading.Event()
    real = socket.create_connection

    def connect(at: tuple[str, int], timeout: float) -> socket.socket:
        match at[0]:
            case "unknown":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            case "hung":
                held.wait(30)
                raise TimeoutError
            case "slow":
                raise TimeoutError
            case "cut":
                raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        return real(at, timeout)

    monkeypatch.setattr(socket, "create_connection", connect)
    with listening() as port:
        names = ("unknown", "hung", "slow", "cut")
        peers = {"up": ("127.0.0.1", port), **{name: (name, 1) for name in names}}
        found = checks.reachable(peers, wait_s=0.2)
    held.set()
    up, unknown, hung, slow, cut = found
    assert (up.state, up.text.partition(" answers as ")[2][:9]) == ("ok", "127.0.0.1")
    assert {(c.state, c.code) for c in (unknown, slow, cut)} == {("fail", Exit.UNAVAILABLE)}
    assert "does not resolve" in unknown.text
    assert "does not answer within 0.2 s" in hung.text
    assert "does not answer within" in slow.text
    assert "unreachable" in cut.text
    (refused,) = checks.reachable({"down": ("127.0.0.1", port)})
    assert (refused.state, "refuses connections" in refused.text) == ("warn", True)


def test_the_later_of_two_parties_with_addresses_dials_and_others_use_the_relay(
    tmp_path: Path,
) -> None:
    def party(name: str, role: str, address: str = "") -> str:
        line = f'address = "{address}"\n' if address else ""
        return f'[[party]]\nname = "{name}"\nrole = "{role}"\n{line}'

    def who(name: str | None, *parties: str) -> dict[str, tuple[str, int]]:
        path = tmp_path / "federation.toml"
        path.write_text('[federation]\nname = "x"\n' + "".join(parties))
        return dialled(load_site(None), load(path), name)

    hub, worker = party("hub", "server", "hub:1"), party("a", "worker")
    listener, relay = party("b", "worker", "b:2"), party("r", "relay", "r:3")
    every = (listener, hub, worker, relay)
    assert who("a", *every) == {"hub": ("hub", 1)}
    assert who("b", *every) == {}
    assert who("hub", *every) == {"b": ("b", 2)}
    assert who("r", *every) == {}
    assert who(None, *every) == {"b": ("b", 2), "hub": ("hub", 1), "r": ("r", 3)}
    silent = party("hub", "server")
    assert who("a", silent, worker, relay) == {"r": ("r", 3)}
    assert who("hub", silent, worker, listener, relay) == {"r": ("r", 3), "b": ("b", 2)}
    assert who("a", silent, worker) == {}


TWO_SERVER = """\
[federation]
name = "x"
trust = "two-server"
rounds = 3
{more}
[[party]]
name = "s"
role = "server-0"
address = "s:1"
[[party]]
name = "t"
role = "server-1"
address = "t:2"
[[party]]
name = "d"
role = "dealer"
address = "d:3"
"""


def test_in_two_server_workers_dial_all_operators_and_these_one_another(tmp_path: Path) -> None:
    workers = "".join(f'[[party]]\nname = "w{k}"\n' for k in range(12))
    path = tmp_path / "federation.toml"
    path.write_text(TWO_SERVER.format(more="") + workers)
    config, site = load(path), load_site(None)
    assert set(dialled(site, config, "w3")) == {"s", "t", "d"}
    assert set(dialled(site, config, "d")) == {"s", "t"}
    assert dialled(site, config, "t") == {"s": ("s", 1)}
    assert dialled(site, config, "s") == {}


def met(tmp_path: Path, text: str, me: str | None = None, site: str = "") -> list[Check]:
    """What the doctor says of these operators."""
    path, own = tmp_path / "federation.toml", tmp_path / "site.toml"
    path.write_text(text + "".join(f'[[party]]\nname = "w{k}"\n' for k in range(9)))
    own.write_text(site)
    return list(operators(load_site(own), load(path), me))


def test_three_operators_with_addresses_of_their_own_can_be_met(tmp_path: Path) -> None:
    (only,) = met(tmp_path, TWO_SERVER.format(more=""))
    assert only.state == "ok"
    assert only.text == "s (server-0), t (server-1) and d (dealer) can be met by all who need to"


def test_an_operator_without_an_address_is_named_with_those_it_cannot_meet(
    tmp_path: Path,
) -> None:
    text = TWO_SERVER.format(more="").replace('address = "t:2"\n', "")
    (only,) = met(tmp_path, text)
    assert (only.state, only.code) == ("fail", Exit.REFUSED)
    assert only.text == (
        "t (server-1) has no address, and neither have w0 (worker), w1 (worker), w2 (worker), "
        "w3 (worker) and 5 more: they cannot meet"
    )
    assert 'write address = "host:port" in the [[party]] table of t' in only.mend
    first, second = met(tmp_path, text.replace('address = "d:3"\n', ""))
    assert first.text.startswith("t (server-1) has no address, and neither have d (dealer), w0")
    assert second.text.startswith("d (dealer) has no address, and neither have w0 (worker), w1")


def test_who_meets_at_a_relay_or_is_known_here_by_another_way_needs_no_address(
    tmp_path: Path,
) -> None:
    text = TWO_SERVER.format(more="").replace('address = "t:2"\n', "")
    relay = '[[party]]\nname = "r"\nrole = "relay"\n'
    assert met(tmp_path, text + relay)[0].state == "fail", "nobody can find that relay"
    assert met(tmp_path, text + relay + 'address = "r:9"\n')[0].state == "ok"
    assert met(tmp_path, text, None, '[reach]\nt = "10.0.0.2:2"\n')[0].state == "ok"
    listening_here = '[place]\nlisten = "0.0.0.0:2"\n'
    assert met(tmp_path, text, "t", listening_here)[0].state == "ok"
    assert met(tmp_path, text, "s", listening_here)[0].state == "fail"


@pytest.mark.parametrize(
    ("before", "after", "who"),
    [
        ("t:2", "s:1", "s (server-0) and t (server-1) have the same address s:1"),
        ("t:2", "S.:1", "s (server-0) and t (server-1) have the same address s:1"),
        ("d:3", "t:2", "t (server-1) and d (dealer) have the same address t:2"),
    ],
)
def test_two_operators_at_one_address_are_both_named(
    tmp_path: Path, before: str, after: str, who: str
) -> None:
    (only,) = met(tmp_path, TWO_SERVER.format(more="").replace(before, after))
    assert (only.state, only.code) == ("fail", Exit.REFUSED)
    assert only.text == f"{who}: only one of them can listen"


def test_a_worker_at_an_operators_address_and_one_spelling_of_ipv6_count_too(
    tmp_path: Path,
) -> None:
    text = TWO_SERVER.format(more="").replace("t:2", "[::1]:7")
    worker = '[[party]]\nname = "x"\naddress = "[0:0::1]:7"\n'
    (only,) = met(tmp_path, text + worker)
    assert only.text.startswith("t (server-1) and x (worker) have the same address [::1]:7")
    moved = '[reach]\nd = "s:1"\n'
    assert met(tmp_path, text, None, moved)[0].text.startswith("s (server-0) and d (dealer)")


def test_operators_on_one_machine_are_warned_of(tmp_path: Path) -> None:
    warned, fine = met(tmp_path, TWO_SERVER.format(more="").replace("t:2", "s:2"))
    assert (warned.state, warned.code) == ("warn", Exit.DONE)
    assert "s (server-0) and t (server-1) are on one host, s: who runs it" in warned.text
    assert fine.state == "ok"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code", "name", "said"),
    [
        (("t:2", "s:1"), 64, "operators", "s (server-0) and t (server-1) have the same address"),
        (('"d"', '"s"'), 64, "federation", "two parties are named 's', as server-0 and as dealer"),
        (
            ('role = "dealer"', 'role = "server-1"'),
            64,
            "federation",
            "2 with role server-1 and none with role dealer",
        ),
    ],
)
def test_the_command_ends_with_64_and_names_both(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    code: int,
    name: str,
    said: str,
) -> None:
    path = here / "federation.toml"
    keys = {letter: create(letter, here / f"{letter}.pem").text for letter in "std"}
    text = TWO_SERVER.format(more="")
    for letter, key in keys.items():
        text = text.replace(f'name = "{letter}"', f'name = "{letter}"\nidentity = "{key}"')
    text = text.replace(*change)
    path.write_text(text + "".join(f'[[party]]\nname = "w{k}"\n' for k in range(9)))
    (here / "site.toml").write_text('[allow]\ntrust = ["two-server"]\n')
    _, found = run(capsys, path, None, here / "site.toml")
    assert (found[name]["state"], found[name]["code"]) == ("fail", code)
    assert said in found[name]["text"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "state", "said"),
    [
        ("", "ok", "updates of at most 64 on a grid of 2^-20"),
        ("[two-server]\nfrac_bits = 21\n", "fail", "20"),
        ("[privacy]\nnoise_multiplier = 500.0\n", "warn", "hides the liars"),
    ],
)
def test_the_grid_of_two_server_is_tried_with_the_apps_own_size(
    here: Path, capsys: pytest.CaptureFixture[str], more: str, state: str, said: str
) -> None:
    (here / "own.py").write_text(APP.format(value="1.0"))
    digest = hashlib.sha256((here / "own.py").read_bytes()).hexdigest()
    site = here / "site.toml"
    site.write_text(f'[allow]\ntrust = "two-server"\napp = "sha256:{digest}"\n')
    made = {name: create(name, here / f"{name}.pem") for name in "abcefghi"}
    parties = "".join(
        f'[[party]]\nname = "{name}"\nidentity = "{own.text}"\n' for name, own in made.items()
    )
    training = '[faults]\nbyzantine = 1\n[training]\napp = "own:app"\n'
    path = here / "federation.toml"
    path.write_text(TWO_SERVER.format(more=training + more) + parties)
    _, found = run(capsys, path, here / "a.pem", site)
    assert "grid" in found, {
        k: (v["state"], v["text"]) for k, v in found.items() if v["state"] != "ok"
    }
    assert (found["grid"]["state"], said in found["grid"]["text"]) == (state, True)


@pytest.mark.slow
def test_a_sound_worker_has_nothing_to_mend(
    here: Path, identities: dict[str, Identity], capsys: pytest.CaptureFixture[str]
) -> None:
    with listening() as port:
        path = federation(here, identities, f"127.0.0.1:{port}")
        code, found = run(capsys, path, identities["a"].path)
    assert code == 0
    assert all(check["state"] != "fail" for check in found.values())
    assert identities["a"].fingerprint in found["identity"]["text"]
    assert found["own line"]["text"] == "a, worker, is pinned with this key"
    assert "hub: 127.0.0.1" in found["peers"]["text"]
    assert "7,510 parameters" in found["training"]["text"]
    assert "180.2 kB needed" in found["storage"]["text"]
    assert found["policy"]["state"] == "ok"
    assert not (here / "state").exists()


@pytest.mark.slow
def test_the_server_listens_and_does_not_train(
    here: Path, identities: dict[str, Identity], capsys: pytest.CaptureFixture[str]
) -> None:
    with listening() as port:
        path = federation(here, identities, f"127.0.0.1:{port}")
        code, found = run(capsys, path, identities["hub"].path)
    assert (code, found["listen"]["state"]) == (Exit.DONE, "warn")
    assert "does not train" in found["training"]["text"]
    assert "peers" not in found


@pytest.mark.slow
def test_an_identity_that_the_file_does_not_pin_fails_with_77(
    here: Path, identities: dict[str, Identity], capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    path = federation(here, identities, address)
    stranger = create("stranger", here / "stranger.pem")
    code, found = run(capsys, path, stranger.path)
    assert code == Exit.IDENTITY
    assert "stranger is not among" in found["own line"]["text"]
    assert found["training"]["state"] == "warn"
    another = create("a", here / "a.pem")
    code, found = run(capsys, path, another.path)
    assert code == Exit.IDENTITY
    assert "pins another key" in found["own line"]["text"]
    assert identities["a"].fingerprint in found["own line"]["text"]
    another.path.chmod(0o644)
    code, found = run(capsys, path, another.path)
    assert (code, found["identity"]["state"]) == (Exit.IDENTITY, "fail")
    assert run(capsys, path, here / "none.pem")[0] == Exit.MISSING


@pytest.mark.slow
def test_an_unreviewed_app_is_not_run_and_a_reviewed_one_is(
    here: Path, identities: dict[str, Identity], capsys: pytest.CaptureFixture[str]
) -> None:
    app = here / "my_app.py"
    app.write_text("open('ran', 'w').close()\n" + APP.format(value=1.0))
    address = f"127.0.0.1:{free_port()}"
    path = federation(here, identities, address, training='app = "my_app:app"')
    code, found = run(capsys, path, identities["a"].path)
    assert (code, found["policy"]["state"]) == (Exit.REFUSED, "fail")
    assert "not run" in found["training"]["text"]
    assert not (here / "ran").exists()
    digest = hashlib.sha256(app.read_bytes()).hexdigest()
    (here / "site.toml").write_text(f'[allow]\napp = "sha256:{digest}"\n')
    code, found = run(capsys, path, identities["a"].path, here / "site.toml")
    assert (code, found["training"]["state"]) == (0, "ok")
    assert "8 parameters" in found["training"]["text"]
    assert (here / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("app", "code", "wanted"),
    [
        (APP.format(value="float('nan')"), Exit.DATA, "the update is not finite"),
        (APP.format(value="1.0").replace("(3, 2)", "(4, 2)"), Exit.REFUSED, "my_app:app failed"),
        (APP.format(value="1.0").replace("torch.full", "torch.ful"), Exit.REFUSED, "failed at"),
        ("import no_such_module\n", Exit.REFUSED, "cannot be imported"),
    ],
)
def test_trouble_with_the_own_app_is_a_failed_check(
    here: Path,
    identities: dict[str, Identity],
    capsys: pytest.CaptureFixture[str],
    app: str,
    code: Exit,
    wanted: str,
) -> None:
    (here / "my_app.py").write_text(app)
    digest = hashlib.sha256(app.encode()).hexdigest()
    (here / "site.toml").write_text(f'[allow]\napp = ["sha256:{digest}"]\n')
    address = f"127.0.0.1:{free_port()}"
    path = federation(here, identities, address, training='app = "my_app:app"')
    ended, found = run(capsys, path, identities["a"].path, here / "site.toml")
    assert (ended, found["training"]["state"]) == (code, "fail")
    assert wanted in found["training"]["text"]


@pytest.mark.slow
def test_the_epsilon_of_the_own_data_is_held_against_the_site(
    here: Path, identities: dict[str, Identity], capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "site.toml").write_text("[allow]\nmax_epsilon = 0.25\nmin_workers = 2\n")
    address = f"127.0.0.1:{free_port()}"
    path = federation(here, identities, address, more="[privacy]\n", training="batch_size = 5000")
    copied = here / "a.pem"
    copied.write_bytes(identities["a"].path.read_bytes())
    copied.chmod(0o600)
    code, found = run(capsys, path, copied)  # the site file beside the identity counts
    assert (code, found["policy"]["state"]) == (Exit.REFUSED, "fail")
    assert "site.toml line 2 (max_epsilon = 0.25) forbids" in found["policy"]["text"]
    assert "at delta 1e-05 after 3 rounds" in found["privacy"]["text"]


@pytest.mark.slow
def test_files_that_are_wrong_end_with_their_own_codes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys)[0] == 0
    assert run(capsys, here / "none.toml")[0] == Exit.MISSING
    (here / "full.toml").write_text("[place]\nstate_dir = 'full.toml'\n")
    code, found = run(capsys, here / "none.toml", None, here / "full.toml")
    assert (code, found["storage"]["code"]) == (Exit.MISSING, Exit.STORAGE)
    wrong = here / "wrong.toml"
    wrong.write_text("[federation]\nname = 'x'\nround = 3\n")
    code, found = run(capsys, wrong)
    assert (code, "did you mean 'rounds'" in found["federation"]["text"]) == (64, True)
    code, found = run(capsys, None, None, wrong)
    assert (code, found["site"]["state"]) == (64, "fail")
    wrong.write_text("[federation]\nname = 'x'\n[training]\napp = 'gone:app'\n")
    code, found = run(capsys, wrong)
    assert (code, found["app file"]["state"], "training" in found) == (66, "fail", False)


@pytest.mark.slow
def test_a_pipe_gets_plain_lines_and_the_first_failure_sets_the_code(here: Path) -> None:
    (here / "site.toml").write_text("[place]\nstate_dir = 'site.toml'\n")
    command = (
        "from pathlib import Path; from ostraka.app.doctor import doctor; "
        "raise SystemExit(doctor(None, None, Path('site.toml'), False))"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == Exit.STORAGE
    assert lines[0].startswith("ok    versions    Python 3.")
    assert lines[-2].startswith("fail  storage     ")
    assert "; to mend: " in lines[-2]
    assert lines[-1] == f"{len(lines) - 1} checks, 1 failed, 0 warnings"
    assert "\x1b" not in done.stdout


def test_a_terminal_gets_the_same_words_in_colour() -> None:
    told = io.StringIO()
    check = Check("clock", "warn", "it is [late]", "set it")
    _show(check, Console(file=told, force_terminal=True, width=200), False)
    assert "\x1b[33mwarn" in told.getvalue()
    assert "clock       it is [late]; to mend: set it" in told.getvalue()


def test_a_check_has_a_code_exactly_if_it_failed() -> None:
    """A failed check that ended with 0 would say that all is well."""
    with pytest.raises(ValueError, match="exactly if it failed"):
        Check("x", "fail", "broken")
    with pytest.raises(ValueError, match="exactly if it failed"):
        Check("x", "ok", "fine", "", Exit.DATA)

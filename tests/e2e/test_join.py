"""`ostraka join` from the command line: what it refuses, what leaves the machine, what stays."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ostraka.drivers.identity import create
from tests.e2e.command import Ended, ostraka, process
from tests.ports import free_port

ROLES = {"s": "server", "a": "worker", "b": "worker", "c": "worker"}
DOCS = Path(__file__).parents[2] / "docs"
APP = """
from pathlib import Path

Path(__file__).with_name("it-ran").touch()
"""
FEDERATION = """
[federation]
name = "trial"
rounds = {rounds}
[faults]
byzantine = 1
dropouts = 0
[training]
app = "{app}"
model = "{model}"
[network]
round_deadline_s = 20.0
join_deadline_s = {wait_s}
"""


def write(
    folder: Path,
    port: int,
    *,
    app: str = "builtin",
    rounds: int = 5,
    wait_s: float = 60.0,
    roles: dict[str, str] = ROLES,
    without: str = "",
) -> Path:
    """Make every identity that is not there yet and the file that lists them."""
    model = "logistic" if app == "builtin" else "mlp"
    text = FEDERATION.format(rounds=rounds, app=app, model=model, wait_s=wait_s)
    for name, role in roles.items():
        path = folder / name / f"{name}.pem"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            create(name, path)
        identity = ostraka("identity", "show", path, "--json").summary["identity"]
        text += f'[[party]]\nname = "{name}"\nrole = "{role}"\n'
        text += "" if name == without else f'identity = "{identity}"\n'
        text += f'address = "127.0.0.1:{port}"\n' if role != "worker" else ""
    path = folder / "federation.toml"
    path.write_text(text, encoding="utf-8")
    return path


def key(folder: Path, name: str) -> Path:
    return folder / name / f"{name}.pem"


def join(federation: Path, identity: Path) -> Ended:
    return ostraka("join", federation, "--identity", identity, "--json")


class Trap:
    """Listens where the server should be; nobody may come."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def caught(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.close()


def test_the_trap_catches(trap: Trap) -> None:
    assert not trap.caught()
    with socket.create_connection(("127.0.0.1", trap.port)):
        assert trap.caught()


@pytest.mark.slow
def test_without_its_files_and_keys_a_party_does_not_begin(tmp_path: Path, trap: Trap) -> None:
    path = write(tmp_path, trap.port)
    long_ago = datetime.now(UTC) - timedelta(days=30)
    create("x", tmp_path / "stranger.pem")
    create("a", tmp_path / "old.pem", days=5, now=long_ago)
    ended = {
        "missing": join(path, tmp_path / "nowhere.pem"),
        "no file": join(tmp_path / "no.toml", key(tmp_path, "a")),
        "stranger": join(path, tmp_path / "stranger.pem"),
        "expired": join(path, tmp_path / "old.pem"),
    }
    assert {what: e.code for what, e in ended.items()} == {
        "missing": 66,
        "no file": 66,
        "stranger": 77,
        "expired": 77,
    }
    assert "is in no [[party]] table" in ended["stranger"].err
    assert "ostraka identity renew" in ended["expired"].err
    assert all(e.lines == [e.summary] for e in ended.values()), "one error, no event"
    assert list(tmp_path.rglob("state")) == []
    assert not trap.caught()


def test_the_name_in_the_certificate_must_be_the_one_in_the_file(
    tmp_path: Path, trap: Trap
) -> None:
    path = write(tmp_path, trap.port)
    path.write_text(path.read_text().replace('name = "a"', 'name = "ann"'))
    ended = join(path, key(tmp_path, "a"))
    assert ended.code == 77
    assert "the identity of 'a'" in ended.err
    assert "'ann'" in ended.err
    assert not trap.caught()


@pytest.mark.slow
def test_a_file_that_lists_nobody_or_not_everybodys_key_is_refused(
    tmp_path: Path, trap: Trap
) -> None:
    path = write(tmp_path, trap.port, without="c")
    ended = join(path, key(tmp_path, "a"))
    assert (ended.code, "c have no identity yet" in ended.err) == (64, True)
    path.write_text('[federation]\nname = "trial"\n')
    ended = join(path, key(tmp_path, "a"))
    assert (ended.code, "no [[party]] tables" in ended.err) == (64, True)
    assert not trap.caught()


@pytest.mark.slow
def test_what_the_site_forbids_is_refused_with_both_lines_and_nothing_leaves(
    tmp_path: Path, trap: Trap
) -> None:
    path = write(tmp_path, trap.port, rounds=200)
    site = tmp_path / "a" / "site.toml"
    site.write_text("[allow]\nmin_workers = 4\nmax_rounds = 100\nmin_noise_multiplier = 0.5\n")
    ended = join(path, key(tmp_path, "a"))
    assert ended.code == 64
    assert f"{site} line 3 (max_rounds = 100)" in ended.err
    assert f"{path} line 4 asks (rounds = 200)" in ended.err
    assert f"{site} line 2 (min_workers = 4)" in ended.err
    assert f"{site} line 4 (min_noise_multiplier = 0.5)" in ended.err
    assert ended.lines == [ended.summary]
    assert not trap.caught()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["a.pem", "site.toml"]
    other = tmp_path / "other.toml"
    other.write_text("[allow]\nmax_rounds = 7\n")
    ended = ostraka("join", path, "--identity", key(tmp_path, "a"), "--site", other)
    assert (ended.code, "max_rounds = 7" in ended.err) == (64, True)


@pytest.mark.slow
def test_an_app_file_that_nobody_here_has_read_does_not_run(tmp_path: Path, trap: Trap) -> None:
    path = write(tmp_path, trap.port, app="mine:app")
    (tmp_path / "mine.py").write_text(APP)
    ended = join(path, key(tmp_path, "a"))
    assert ended.code == 64
    digest = re.search(r'app = "(sha256:[0-9a-f]{64})"', ended.err)
    assert digest is not None
    (tmp_path / "a" / "site.toml").write_text(f'[allow]\napp = "{digest[1]}"\n')
    (tmp_path / "mine.py").write_text(APP + "# one byte more\n")
    ended = join(path, key(tmp_path, "a"))
    assert ended.code == 64
    assert digest[1] not in ended.err, "another digest than the one that was read"
    assert "mine.py has the digest" in ended.err
    assert not (tmp_path / "it-ran").exists()
    assert not trap.caught()


@pytest.mark.slow
@pytest.mark.parametrize("role", ["server", "relay"])
def test_a_port_that_is_taken_is_69_and_says_which(tmp_path: Path, role: str) -> None:
    """As `doctor` says it: nothing is wrong with the storage, and another port may do."""
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        roles = {**ROLES, "r": "relay"} if role == "relay" else ROLES
        # A relay needs no app file, so that one is not missed.
        path = write(tmp_path, port, roles=roles, app="no:app" if role == "relay" else "builtin")
        ended = join(path, key(tmp_path, role[0]))
    assert ended.code == 69, ended.err
    assert f"cannot listen on 0.0.0.0 port {port}" in ended.err
    assert "place.listen" in ended.err


@pytest.mark.slow
def test_a_metrics_port_that_is_taken_is_69_too(tmp_path: Path) -> None:
    path = write(tmp_path, free_port())
    with socket.create_server(("127.0.0.1", 0)) as other:
        at = f"127.0.0.1:{other.getsockname()[1]}"
        (tmp_path / "a" / "site.toml").write_text(f'[place]\nmetrics = "{at}"\n')
        ended = join(path, key(tmp_path, "a"))
    assert ended.code == 69, ended.err
    assert "place.metrics" in ended.err


@pytest.mark.slow
def test_a_server_that_is_not_there_in_time_is_69_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, free_port(), wait_s=0.5)
    ended = join(path, key(tmp_path, "a"))
    assert ended.code == 69
    assert "s could not be reached in time" in ended.err
    assert "unreachable" in [e["event"] for e in ended.lines]


class Party:
    """A party as a process; what it says is kept."""

    def __init__(self, federation: Path, folder: Path, name: str) -> None:
        command = ("join", federation, "--identity", key(folder, name), "--json")
        self.process: subprocess.Popen[str] = process(*command)
        self._seen: list[dict[str, object]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._seen.append(json.loads(line))
                self._news.notify_all()

    def told(self, event: str) -> list[dict[str, object]]:
        return [e for e in self._seen if e["event"] == event]

    def await_event(self, event: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.told(event), timeout=60), self._seen

    def ended(self) -> Ended:
        code = self.process.wait(90)
        self._reader.join(10)
        assert self.process.stderr is not None
        out = "\n".join(json.dumps(e) for e in self._seen)
        return Ended(code, out, self.process.stderr.read())


def read_metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def check_metrics(text: str) -> None:
    """The endpoint and the page name the same figures."""
    page = (DOCS / "deploy" / "operations.md").read_text()
    documented = set(re.findall(r"^\| `(ostraka_\w+)", page, re.MULTILINE))
    served = set(re.findall(r"^# TYPE (ostraka_\w+)", text, re.MULTILINE))
    created = {name for name in served if name.endswith("_created")}
    assert served - created == documented
    assert 'ostraka_party_info{name="s",role="server"} 1.0' in text
    assert 'ostraka_events_total{event="differs"} 1.0' in text


def check_no_key_anywhere(folder: Path, said: str) -> None:
    for name in ROLES:
        pem = key(folder, name).read_text()
        secret = pem.split("PRIVATE KEY-----")[1].split("\n")[1]
        assert len(secret) > 40
        texts = [p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".pem"]
        assert len(texts) > 20
        assert secret not in said
        assert not any(secret.encode() in t or b"PRIVATE KEY" in t for t in texts)


@pytest.mark.slow
def test_one_with_another_file_is_told_which_key_differs_and_the_others_finish(
    tmp_path: Path,
) -> None:
    """It joins with the right file afterwards: what the wrong one left behind is not in its way."""
    path = write(tmp_path, free_port())
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "federation.toml"
    other.write_text(path.read_text().replace("[network]", "learning_rate = 0.2\n[network]"))
    port = free_port()
    (tmp_path / "s" / "site.toml").write_text(f'[place]\nmetrics = "127.0.0.1:{port}"\n')
    for name in "abc":
        (tmp_path / name / "site.toml").write_text("[allow]\nmax_rounds = 5\n")
    parties = {name: Party(path, tmp_path, name) for name in "sab"}
    try:
        refused = Party(other, tmp_path, "c").ended()
        parties["s"].await_event("differs")
        check_metrics(read_metrics(port))
        parties["c"] = Party(path, tmp_path, "c")
        ended = {name: party.ended() for name, party in parties.items()}
    finally:
        for party in parties.values():
            party.process.kill()
    assert refused.code == 78, refused.err
    assert "s holds another federation file: training.learning_rate differs" in refused.err
    told = [e for e in ended["s"].lines if e["event"] == "differs"]
    assert [(e["peer"], e["keys"]) for e in told] == [("c", ["training.learning_rate"])]
    assert {name: e.code for name, e in ended.items()} == dict.fromkeys("sabc", 0)
    assert len({e.summary["model_digest"] for e in ended.values()}) == 1
    assert ended["s"].summary["excluded"] == {}

    check_no_key_anywhere(tmp_path, refused.out + "".join(e.out + e.err for e in ended.values()))
    again = join(path, key(tmp_path, "c"))
    assert (again.code, again.summary) == (0, ended["c"].summary)
    late = join(other, key(tmp_path, "c"))
    assert late.code == 78, "a finished run is not overwritten"
    assert "training.learning_rate" in late.err

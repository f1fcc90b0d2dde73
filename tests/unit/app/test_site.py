"""The site policy: what it refuses, with the lines of both files, and where keys are written."""

from __future__ import annotations

import hashlib
import math
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ostraka.learn.app  # noqa: F401 - torch is loaded here once, not within a timed test
from ostraka.app.config import Config, load, parse_address
from ostraka.app.errors import Exit, UserError
from ostraka.app.site import (
    LATER,
    Allow,
    Place,
    Site,
    app_digest,
    clashes,
    enforce,
    load_site,
)
from ostraka.app.tables import line_of

FEDERATION = """\
[federation]
name = "x"
rounds = 200
[rule]
name = "median"
[simulation]
parties = 4
"""
PARTIES = """\
[federation]
name = "x"
[[party]]
name = "hospital-a"
role = "server"
address = "a.example.org:7443"
[[party]]
name = "hospital_b"
[[party]]
name = "c"
"""


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSTRAKA_DATA", raising=False)


def written(folder: Path, federation: str, site: str = "") -> tuple[Site, Config, Path]:
    path = folder / "federation.toml"
    path.write_text(federation)
    (folder / "site.toml").write_text(site)
    return load_site(folder / "site.toml"), load(path), path


def refusal(folder: Path, federation: str, site: str, epsilon: float | None = None) -> str:
    policy, config, path = written(folder, federation, site)
    with pytest.raises(UserError) as caught:
        enforce(policy, config, path, epsilon=epsilon, app_digest="builtin")
    assert caught.value.code == Exit.REFUSED
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("site", "wanted"),
    [
        (
            "# mine\n\n[allow]\nmax_rounds = 100\n",
            "site.toml line 4 (max_rounds = 100) forbids what federation.toml line 3 asks "
            "(rounds = 200); change one of them or do not join",
        ),
        (
            "allow.max-rounds = 199",
            "site.toml line 1 (max_rounds = 199) forbids what federation.toml line 3 asks "
            "(rounds = 200); change one of them or do not join",
        ),
        (
            '[allow]\ntrust = ["serverless"]',
            'site.toml line 2 (trust = ["serverless"]) forbids what federation.toml by default '
            'asks (trust = "trusted"); change one of them or do not join',
        ),
        (
            "[allow]\nmin_workers = 5",
            "site.toml line 2 (min_workers = 5) forbids what federation.toml line 7 asks "
            "(4 workers); change one of them or do not join",
        ),
        (
            "[allow]\nmax_epsilon = 8.0",
            "site.toml line 2 (max_epsilon = 8.0) forbids what federation.toml by default asks "
            "(no differential privacy: no [privacy] table); change one of them or do not join",
        ),
        (
            "[allow]\nmin_noise_multiplier = 1",
            "site.toml line 2 (min_noise_multiplier = 1.0) forbids what federation.toml by "
            "default asks (no differential privacy: no [privacy] table); change one of them or "
            "do not join",
        ),
    ],
)
def test_a_clash_names_both_lines(tmp_path: Path, site: str, wanted: str) -> None:
    assert refusal(tmp_path, FEDERATION, site) == wanted


def test_the_guard_of_two_server_may_not_be_weaker_than_the_site_allows(tmp_path: Path) -> None:
    site = "[allow]\ntrust = ['trusted', 'two-server']\nmin_contributors = 3\n"
    weak = FEDERATION + "[two-server]\nmin_contributors = 2\n"
    enforce(*written(tmp_path, weak, site), epsilon=None, app_digest="builtin")
    secure = weak.replace("rounds", "trust = 'two-server'\nrounds", 1)
    assert refusal(tmp_path, secure, site) == (
        "site.toml line 3 (min_contributors = 3) forbids what federation.toml line 10 asks "
        "(min_contributors = 2); change one of them or do not join"
    )
    enough = secure.replace("contributors = 2", "contributors = 3")
    enforce(*written(tmp_path, enough, site), epsilon=None, app_digest="builtin")


def test_all_clashes_are_named_at_once_one_a_line(tmp_path: Path) -> None:
    site = "[allow]\nmax_rounds = 1\nmin_workers = 9\ntrust = 'two-server'\n"
    lines = refusal(tmp_path, FEDERATION, site).split("\n")
    assert [line.split(" (")[0] for line in lines] == [
        "site.toml line 4",
        "site.toml line 2",
        "site.toml line 3",
    ]


def test_the_very_limits_are_allowed(tmp_path: Path) -> None:
    site = "[allow]\nmax_rounds = 200\nmin_workers = 4\nmax_epsilon = 3\nmin_noise_multiplier = 1\n"
    private = FEDERATION + "[privacy]\nnoise_multiplier = 1.0\n"
    policy, config, path = written(tmp_path, private, site)
    enforce(policy, config, path, epsilon=3.0, app_digest="builtin")


@pytest.mark.parametrize("epsilon", [3.0000001, math.inf, math.nan])
def test_too_large_an_epsilon_is_refused_and_so_is_none_at_all(
    tmp_path: Path, epsilon: float
) -> None:
    private = FEDERATION + "[privacy]\nnoise_multiplier = 0.5\n"
    told = refusal(tmp_path, private, "[allow]\nmax_epsilon = 3", epsilon)
    assert "site.toml line 2 (max_epsilon = 3.0) forbids what federation.toml line 9 asks" in told
    assert f"(epsilon {epsilon:.6g} at delta 1e-05 after 200 rounds)" in told


def test_too_little_noise_is_refused_before_epsilon_is_known(tmp_path: Path) -> None:
    private = FEDERATION + "[privacy]\nnoise-multiplier = 0.5\n"
    site = "[allow]\nmin_noise_multiplier = 0.6\nmax_epsilon = 1e-9"
    policy, config, path = written(tmp_path, private, site)
    (told,) = clashes(policy, config, path, epsilon=LATER, app_digest="builtin")
    assert "line 2 (min_noise_multiplier = 0.6)" in told
    assert "federation.toml line 9 asks (noise_multiplier = 0.5)" in told
    with pytest.raises(ValueError, match="epsilon is None exactly where"):
        clashes(policy, config, path, epsilon=None, app_digest="builtin")


def test_the_defaults_refuse_two_workers(tmp_path: Path) -> None:
    text = FEDERATION.replace("parties = 4", "parties = 2")
    assert refusal(tmp_path, text, "").startswith("site.toml by default (min_workers = 3)")
    _, config, path = written(tmp_path, PARTIES + "[rule]\nname = 'median'\n")
    (told,) = clashes(load_site(None), config, path, epsilon=None, app_digest="builtin")
    assert told.startswith("the site's default (min_workers = 3) forbids what ")
    assert "federation.toml line 3 asks (2 workers)" in told


def test_an_app_runs_only_with_the_digest_that_was_reviewed(tmp_path: Path) -> None:
    app = tmp_path / "my_app.py"
    app.write_text("app = 1\n")
    digest = "sha256:" + hashlib.sha256(b"app = 1\n").hexdigest()
    text = FEDERATION + '[training]\napp = "my_app:app"\n'
    policy, config, path = written(tmp_path, text, f'[allow]\napp = "{digest}"\n')
    assert app_digest(config, tmp_path) == digest
    enforce(policy, config, path, epsilon=None, app_digest=digest)
    app.write_text("app = 2\n")
    changed = app_digest(config, tmp_path)
    with pytest.raises(UserError, match=r"which .*line 2 does not allow") as caught:
        enforce(policy, config, path, epsilon=None, app_digest=changed)
    assert f'add app = "{changed}" under [allow] of site.toml' in str(caught.value)
    with pytest.raises(UserError, match=r"my_app\.py has the digest"):
        enforce(load_site(None), config, path, epsilon=None, app_digest=digest)


def test_a_missing_app_file_and_a_wrong_name_are_told(tmp_path: Path) -> None:
    _, config, _ = written(tmp_path, FEDERATION + '[training]\napp = "gone:app"\n')
    with pytest.raises(UserError, match=r"gone\.py cannot be read") as caught:
        app_digest(config, tmp_path)
    assert caught.value.code == Exit.MISSING
    _, config, _ = written(tmp_path, FEDERATION + '[training]\napp = "../gone:app"\n')
    with pytest.raises(UserError, match="file:name") as caught:
        app_digest(config, tmp_path)
    assert caught.value.code == Exit.REFUSED


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[alow]\n", "unknown key 'alow': did you mean 'allow'?"),
        ("[allow]\nmax_round = 3", "unknown key 'allow.max_round': did you mean 'max_rounds'?"),
        ("[place]\nstate_dri = 'x'", "did you mean 'state_dir'?"),
        ("[place]\ndevice = 'cuda'", 'place.device: this version computes on "cpu" only'),
        ("[allow]\nmin_workers = 0", "allow.min_workers: input should be greater than"),
        ("[allow]\nmetrics = 3", "allow.metrics"),
        ("[allow]\napp = 'sha256:12'", "allow.app"),
        ("[allow]\nmax_epsilon = inf", "allow.max_epsilon"),
        ("[place]\nlisten = '7443'", "place.listen: '7443' is not \"host:port\""),
        ("[reach]\na = 'b:0'", "reach.a: 'b:0' is not"),
        ("[reach]\n'a b' = 'b:1'", "reach.a b"),
        ("reach = 3", "reach: input should be a valid dictionary"),
        ("[place]\nmetrics = '0.0.0.0:9464'", "write metrics = true under [allow]"),
        ("[place]\nmetrics = '127.example.org:9464'", "write metrics = true under [allow]"),
        ("[allow]\nmax_rounds = 1\nmax-rounds = 1", "the same key"),
        ("[allow", "not valid TOML"),
    ],
)
def test_a_wrong_site_file_is_refused_with_its_sentence(
    tmp_path: Path, text: str, wanted: str
) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_site(path)
    assert wanted in str(caught.value)
    assert caught.value.code == Exit.REFUSED


def test_a_missing_site_file_is_no_site_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no site file") as caught:
        load_site(tmp_path / "site.toml")
    assert caught.value.code == Exit.MISSING


def test_paths_start_at_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "site.toml"
    path.write_text("[place]\ndata_dir = 'd/e'\npassphrase_file = '/etc/p'\n")
    place = load_site(path).place
    assert (place.data_dir, place.passphrase_file) == (tmp_path / "d/e", Path("/etc/p"))
    assert place.state_dir == tmp_path / "state"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert load_site(None).place == Place(state_dir=tmp_path / "state")
    monkeypatch.setenv("OSTRAKA_DATA", "all")
    assert load_site(None).place.data_dir == tmp_path / "all"
    assert load_site(path).place.data_dir == tmp_path / "d/e"
    path.write_text("[place]\nstate_dir = '~/s'\n")
    assert load_site(Path("site.toml")).place.state_dir == Path("/home/someone/s")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.9.9.9"])
def test_metrics_may_always_listen_on_loopback(tmp_path: Path, host: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(f"[place]\nmetrics = '{host}:9464'\n")
    assert load_site(path).metrics_at() == (host.strip("[]"), 9464)
    path.write_text("[place]\nmetrics = '0.0.0.0:9464'\n[allow]\nmetrics = true\n")
    assert load_site(path).metrics_at() == ("0.0.0.0", 9464)


def test_addresses_come_from_the_federation_unless_the_site_knows_better(tmp_path: Path) -> None:
    site, config, _ = written(tmp_path, PARTIES)
    assert site.address_of(config, "hospital-a") == ("a.example.org", 7443)
    assert site.address_of(config, "hospital_b") is None
    assert site.listens_at(config, "hospital-a") == ("0.0.0.0", 7443)
    assert site.listens_at(config, "hospital_b") is None
    site, config, _ = written(
        tmp_path, PARTIES, "[place]\nlisten = '[::]:1'\n[reach]\nhospital-a = '10.0.0.7:2'\n"
    )
    assert site.address_of(config, "hospital-a") == ("10.0.0.7", 2)
    assert site.listens_at(config, "hospital_b") == ("::", 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "a:1x",
        "a:²",
        "a: 1",
        "::1:5",
        "[::1]",
        "[]:1",
        "a b:1",
        "[a:1",
        "u@h:1",
        "h/x:1",
        "a:+1",
        "ä:1",
        "[example.org]:1",
        "a:000001",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_address(text)


@settings(max_examples=30)
@given(st.text(alphabet="ab.:[]0123²é", max_size=20))
def test_any_text_is_an_address_that_can_be_written_again_or_refused(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert parse_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") == (host, port)


LINES = '''\
# [allow] rounds = 1
top = """
[federation]
rounds = 1
"""

  [ federation ] # rounds = 2
name = "rounds = 3"
list = [
  1, # rounds = 4
  2,
]
"rounds" = 5
[rule]
pre-x.deep = 6
inline = { a = 1, b-c = 2 }
[a.b]
[[party]]
name = "p"
[[party]]
second = 1
[[x.y]]
z = 1
'''


@pytest.mark.parametrize(
    ("section", "key", "line"),
    [
        ("federation", "rounds", 13),
        ("federation", "name", 8),
        ("federation", "list", 9),
        ("federation", None, 7),
        ("federation", "absent", None),
        ("allow", None, None),
        ("rule", "pre_x", 15),
        ("rule.pre_x", "deep", 15),
        ("rule.inline", "b_c", 16),
        ("a.b", None, 17),
        ("party", None, 18),
        ("party", "name", 19),
        ("party", "second", 21),
        ("x.y", "z", 23),
        ("top", None, 2),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_line_of_a_key(section: str, key: str | None, line: int | None, ending: str) -> None:
    tomllib.loads(LINES)
    assert line_of(LINES.replace("\n", ending), section, key) == line


def test_a_table_is_not_its_own_key() -> None:
    assert line_of("[a]\nb = 1\n", "a", "a") is None


def test_broken_and_endless_texts_have_no_lines() -> None:
    assert line_of("[federation]\nrounds = \n", "federation", "rounds") is None
    assert line_of("x = [\n" + "1,\n" * 1000 + "]\n[a]\nb = 1\n", "a", "b") is None
    assert line_of("x = " + "[" * 5000, "a", "b") is None


PIECES = [
    *("[a]", "[[a]]", "[c]", "[a.c]", " [ a ] # x", "b = 1", "a.b = 2", "a = {b = 1}"),
    *("a = [{b = 1}]", "c = '''", "'''", "x = [", "]", "1,", "# b = 1", "", "b = [\n1\n]"),
    'c.d = """[a]\nb = 1"""',
]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(PIECES), max_size=7).map("\n".join) | st.text(max_size=30))
def test_a_line_is_found_in_every_toml_that_has_the_key_and_nothing_crashes(text: str) -> None:
    line = line_of(text, "a", "b")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    tables = table.get("a", {})
    tables = tables if isinstance(tables, list) else [tables]
    held = any("b" in inner for inner in tables if isinstance(inner, dict))
    assert (line is not None) == held
    if line is not None:
        before = "\n".join(text.split("\n")[: line - 1])
        assert line_of(before, "a", "b") is None


def test_the_template_is_a_site_file_with_every_key(tmp_path: Path) -> None:
    text = (files("ostraka.app") / "templates" / "site.toml").read_text(encoding="utf-8")
    path = tmp_path / "site.toml"
    path.write_text(text)
    site = load_site(path)
    assert (site.allow, site.place) == (Allow(), Place(state_dir=tmp_path / "state"))
    page = (Path(__file__).parents[3] / "docs" / "site-file.md").read_text()
    for key in (*Allow.model_fields, *Place.model_fields):
        assert key in text, key
        assert f"| {key} |" in page, key

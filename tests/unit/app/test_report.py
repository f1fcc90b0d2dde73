"""What the report of each folder shows: a simulation's, and that of every party of two-server."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.command import ostraka

from ostraka.app.config import Config, as_toml, check
from ostraka.app.errors import UserError
from ostraka.app.folder import Folder
from ostraka.app.report import write_report
from ostraka.app.story import Story
from ostraka.drivers.checkpoint import Checkpoints

pytestmark = pytest.mark.slow
WORKERS = [f"w{k}" for k in range(7)]
PARTIES: list[dict[str, str]] = [
    {"name": "zero", "role": "server-0"},
    {"name": "one", "role": "server-1"},
    {"name": "two", "role": "dealer"},
    *({"name": name} for name in WORKERS),
]
RUN = {
    **{"event": "run", "name": "x", "trust": "two-server", "rule": "multi-krum", "pre": []},
    **{"attack": "none", "attackers": [], "n": 7, "f": 1, "rounds": 3, "seed": 0, "app": "builtin"},
    **{"data": "digits", "model": "logistic", "parameters": 650, "workers": WORKERS},
}
WEIGHTS = {name: 0.0 if name == "w6" else 1 / 5 for name in WORKERS if name != "w5"}


def config(**sections: Any) -> Config:
    federation = {"name": "x", "trust": "two-server", "rounds": 3} | sections.pop("federation", {})
    given = {"training": {"model": "logistic"}, "faults": {"byzantine": 1}, "party": PARTIES}
    return check({"federation": federation, **given, **sections}, "test")


def folder(
    path: Path, me: str | None, events: list[dict[str, Any]], own: Config | None = None
) -> Folder:
    """A party's folder with these events."""
    made = Folder(path)
    path.mkdir()
    made.federation.write_text(as_toml(own or config()))
    party = {} if me is None else {"party": me}
    made.about.write_text(json.dumps({"base": str(path), "versions": {"python": "3"}, **party}))
    made.events.write_text("".join(json.dumps({"s": 1.0, **e}) + "\n" for e in events))
    return made


def log(made: Folder, *events: tuple[str, str]) -> None:
    made.diary.write_text(
        "".join(
            json.dumps({"event": event, "s": 1.0, "peer": peer}) + "\n" for event, peer in events
        )
    )


def words(made: Folder) -> str:
    """The report's text as a reader sees it, figures by their titles, cells behind bars."""
    write_report(made)
    page = re.sub(
        r'<svg.*?aria-label="([^"]*)".*?</svg>', r"[\1]", made.report.read_text(), flags=16
    )
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    page = re.sub(r"</t[hd]>", "|", page)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", page)))


def led() -> list[dict[str, Any]]:
    """What server 0 tells of three rounds."""
    found: list[dict[str, Any]] = [RUN]
    for round in range(3):
        found += [
            {"event": "missing", "round": round, "party": "w5"},
            {"event": "opened", "round": round, "label": "distances", "to": "one", "words": 15},
            {"event": "aggregated", "round": round, "influence": WEIGHTS},
            {
                **{"event": "round", "round": round + 1, "rounds": 3, "accuracy": 0.5, "loss": 1.0},
                **{"bytes_sent": {"server-0": 10**6}, "seconds": {"store": 0.5}, "epsilon": None},
            },
        ]
    return [*found, {"event": "finished", "model_digest": "sha256:abc"}]


def test_server_0_shows_weights_absences_and_what_was_opened(tmp_path: Path) -> None:
    made = folder(tmp_path / "zero", "zero", led())
    log(made, ("connected", "w0"), ("connected", "one"), ("disconnected", "one"))
    page = words(made)
    for text in (
        "As zero (server-0) saw it. Trust model two-server: 7 workers on digits; multi-krum",
        "w0|never|3|0|1.40|",
        "w5|missing in 3 rounds|0|0|none used|",
        "w6|never|3|3|0.00|",
        "distances|one|15|3 rounds|",
        "server-0 sees who takes part, two check bits per worker, every worker's weight",
        "prepared/ holds this server's part of the sums of the last two rounds",
        "one|server-1|1|1| w0|worker|1|0|",
        "Nobody here knows how far an update is from the aggregate",
        "50.0 %test accuracy",
    ):
        assert text in page, text
    assert "no attack" not in page, "who leads real parties cannot know that"
    assert "median distance" not in page
    assert "|-|" not in page


def test_the_configuration_of_the_trust_model_is_shown(tmp_path: Path) -> None:
    own = config(two_server={"clip": 2.0, "min_contributors": 2, "min_cohort": 4})
    page = words(folder(tmp_path / "zero", "zero", led(), own))
    for text in (
        "server-0|zero| server-1|one| dealer|two|",
        "clip|2: the longest update",
        "sigma|0|",
        "frac_bits|20: updates are sent in steps of 2^-20|",
        "projections|100:",
        "min_contributors|2: no sum in which fewer",
        "min_cohort|4: with fewer workers",
        "opened to server 1|the distances between updates|",
    ):
        assert text in page, text


def test_the_noise_is_shown_and_who_knows_its_epsilon(tmp_path: Path) -> None:
    own = config(privacy={"unit": "participant", "clip": 2.0, "noise_multiplier": 0.01})
    page = words(folder(tmp_path / "zero", "zero", led(), own))
    assert "sigma|0.02: noise in each coordinate|" in page
    assert "Epsilon depends on how many examples a worker has" in page
    assert "against the server" not in page


def followed(rounds: int) -> list[dict[str, Any]]:
    return [
        {
            **{"event": "followed", "round": round, "rounds": 3},
            **{"sent": {"server-0": 1000 * round}, "received": {"workers": 2000 * round}},
        }
        for round in range(1, rounds + 1)
    ]


def committed(made: Folder, round: int) -> None:
    facts = {"attempt": 1, "names": ["w0", "w1", "w6"], "count": 2}
    arrays = {"values": np.array([1, 1, 0]), "words": np.zeros(4, np.uint64)}
    Checkpoints(made.path / "committed").save(round, arrays, facts)


def test_server_1_shows_its_rounds_and_the_last_weights_that_it_decided(tmp_path: Path) -> None:
    resumed = {"event": "resumed", "round": 1}
    made = folder(tmp_path / "one", "one", [*followed(1), resumed, *followed(2)[1:]])
    committed(made, 1)
    log(made, ("connected", "two"), ("unreachable", "two"))
    page = words(made)
    for text in (
        "As one (server-1) saw it.",
        "It stands after round 2 of 3",
        "2rounds, of 3",
        "650parameters",
        "6.0 kBof messages on this party's own links",
        "server-1 sees who takes part, two check bits per worker, the distances between updates",
        "distances tell how alike workers' data are",
        "committed/ holds the weights",
        "w0|1|0|3.50|",
        "w6|1|1|0.00|",
        "w2|0|0|none used|",
        "This party keeps those of the last round alone",
        "this party was started again and went on here|2|",
        "two|dealer|1|1|",
        "[megabytes on this party's own links]",
    ):
        assert text in page, text
    assert "test accuracy" not in page
    own = page.partition("What this trust model promises")[0]
    assert "the weights and who takes part tell it" not in own, "that is server 0's"


def test_weights_that_server_1_tells_itself_are_all_shown(tmp_path: Path) -> None:
    told = [{"event": "aggregated", "round": r, "influence": WEIGHTS} for r in range(2)]
    made = folder(tmp_path / "one", "one", [*told, *followed(2)])
    committed(made, 1)
    page = words(made)
    assert "w0|2|0|1.40|" in page
    assert "of the last round alone" not in page


def test_server_1_before_its_first_round_has_a_report(tmp_path: Path) -> None:
    page = words(folder(tmp_path / "one", "one", []))
    assert "It stands after round 0 of 3" in page
    assert "Whose update counted" not in page
    assert "Time and traffic" not in page


def test_the_dealer_shows_who_was_there_and_that_it_knows_no_more(tmp_path: Path) -> None:
    traffic = {"event": "traffic", "sent": {"server-1": 3000}, "received": {"workers": 2000}}
    end = {"event": "finished", "trust": "two-server", "role": "dealer", "party": "two"}
    made = folder(tmp_path / "two", "two", [traffic, end])
    log(made, ("connected", "w1"), ("refused", "10.0.0.9"), ("connected", "zero"))
    page = words(made)
    for text in (
        "As two (dealer) saw it.",
        "dealer sees who takes part",
        "on this disk: nothing of updates",
        "zero|server-0|1|0| w1|worker|1|0| 10.0.0.9|stranger|0|1|",
        "peer|role|connected|turned away here|",
        "5.0 kBof messages on this party's own links",
        "opened to server 1|the distances between updates|",
    ):
        assert text in page, text
    assert "This run has not finished" not in page
    assert "Whose update counted" not in page
    assert "party|" not in page, "it knows nothing of workers' updates"


def test_a_worker_shows_its_answers_and_its_own_epsilon(tmp_path: Path) -> None:
    epsilon = {"unit": "participant", "delta": 1e-5, "local": 3.0, "central": 3.0}
    events: list[dict[str, Any]] = [
        {"event": "trained", "round": r, "rounds": 3, "train_s": 0.1, "epsilon": epsilon}
        for r in (0, 2)
    ]
    told = {"event": "ignored", "round": 1, "party": "zero", "reason": "policy", "detail": "late"}
    own = config(privacy={"unit": "participant", "clip": 2.0, "noise_multiplier": 0.01})
    page = words(folder(tmp_path / "w0", "w0", [*events, told], own))
    for text in (
        "As w0 (worker) saw it.",
        "2rounds answered, of 3",
        "3.00epsilon against all three operators together",
        "epsilon 3.00 against all three operators together, 3.00 against who sees only the model",
        "worker sees the model of every round",
        "the model of zero was not answered (policy: late)|2|",
    ):
        assert text in page, text


def test_what_went_another_way_is_told_with_its_rounds(tmp_path: Path) -> None:
    events = [
        RUN,
        *({"event": "capped", "round": r, "least": 3} for r in range(14)),
        {"event": "interrupted", "round": 1, "attempt": 2, "party": "two"},
        {"event": "passed-over", "round": 2, "why": "too few"},
        {"event": "warning", "text": "beware"},
    ]
    page = words(folder(tmp_path / "zero", "zero", events))
    assert (
        "until at least 3 updates covered for each|1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 2"
        in page
    )
    assert "tried again, because two began anew|2|" in page
    assert "passed over, the model stayed as it was: too few|3|" in page
    assert "warning: beware||" in page


def test_the_same_refusal_told_again_after_a_restart_counts_once(tmp_path: Path) -> None:
    twice = {"event": "excluded", "round": 0, "party": "w1", "reason": "norm", "detail": ""}
    page = words(folder(tmp_path / "zero", "zero", [*led(), twice, twice]))
    assert "w1|norm in 1 round|3|0|1.40|" in page


def test_a_simulation_without_events_is_refused_and_damage_is_told(tmp_path: Path) -> None:
    made = folder(tmp_path / "s", None, [])
    with pytest.raises(UserError, match="has no events yet") as refused:
        write_report(made)
    assert refused.value.code == 66
    torn = folder(tmp_path / "two", "two", [])
    torn.diary.write_text("not an event\n")
    with pytest.raises(UserError, match="line 1") as refused:
        write_report(torn)
    assert refused.value.code == 65


def test_a_trusted_servers_folder_keeps_its_distances(tmp_path: Path) -> None:
    own = check({"federation": {"name": "x"}, "simulation": {"parties": 7}}, "test")
    about = {**RUN, "trust": "trusted", "rule": "mean"}
    told = {"event": "aggregated", "round": 0, "influence": WEIGHTS}
    told["distance"] = dict.fromkeys(WEIGHTS, 2.0)
    round = {**led()[4], "round": 1}
    page = words(folder(tmp_path / "s", None, [about, told, round], own))
    assert "median distance, of the round's median|" in page
    assert "w0|never|1|0|1.40|1.00|" in page
    assert "How the trust model was set" not in page
    assert ", no attack;" in page


def test_the_command_writes_a_report_into_any_partys_folder(tmp_path: Path) -> None:
    made = folder(tmp_path / "two", "two", [])
    ended = ostraka("report", made.path)
    assert (ended.code, made.report.exists()) == (0, True), ended.err


def test_a_story_knows_who_leads(tmp_path: Path) -> None:
    own = config()
    leader = Story.read(folder(tmp_path / "zero", "zero", led()), own)
    other = Story.read(folder(tmp_path / "one", "one", followed(2)), own)
    assert (leader.leads, leader.role, leader.done) == (True, "server-0", 3)
    assert (other.leads, other.role, other.done) == (False, "server-1", 2)

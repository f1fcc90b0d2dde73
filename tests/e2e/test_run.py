"""`ostraka run` on the digits: determinism, attackers, resume, Ctrl-C, what it leaves behind."""

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import ostraka
from ostraka.app.assemble import assemble
from ostraka.app.build import build
from ostraka.app.config import load
from ostraka.app.folder import Folder
from ostraka.app.library import overrides
from ostraka.app.simulate import Federation
from ostraka.drivers.sim import Links
from ostraka.learn.initial import model_digest
from tests.data_sets import find
from tests.e2e.command import ostraka as command
from tests.e2e.command import process

SMALL = {"rounds": 12, "model": "logistic", "n": 9, "f": 2}


def run(out: Path, **flags: Any) -> ostraka.Run:
    return ostraka.run(out=out, report=False, **{**SMALL, **flags})


def digest(out: Path, **flags: Any) -> str:
    return run(out, **flags).summary["model_digest"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_and_another_seed_another(tmp_path: Path) -> None:
    first = digest(tmp_path / "a", attack="alie", seed=3)
    assert digest(tmp_path / "b", attack="alie", seed=3) == first
    assert digest(tmp_path / "c", attack="alie", seed=4) != first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("nan", "non-finite"),
        ("inf", "non-finite"),
        ("huge", "norm"),
        ("wrong-shape", "malformed"),
        ("wrong_dtype", "malformed"),
        ("wrong-round", "malformed"),
    ],
)
def test_refused_attackers_leave_the_run_without_them(
    tmp_path: Path, attack: str, reason: str
) -> None:
    """Silent workers with `dropouts = 0` written are the run of n - f workers with f = 0."""
    without = digest(tmp_path / "without", attack="silent", dropouts=0)
    result = run(tmp_path / "with", attack=attack)
    assert result.summary["model_digest"] == without
    assert result.summary["excluded"] == {"worker-7": reason, "worker-8": reason}
    assert result.summary["excluded_rounds"]["worker-8"] == {reason: 12}


@pytest.mark.slow
def test_silence_is_missing_and_duplicates_count_once(tmp_path: Path) -> None:
    silent = run(tmp_path / "silent", attack="silent")
    assert silent.summary["excluded"] == {"worker-7": "missing", "worker-8": "missing"}
    clean = digest(tmp_path / "clean", attack="none")
    assert digest(tmp_path / "duplicate", attack="duplicate") == clean


@pytest.mark.slow
def test_the_robust_rule_holds_where_the_mean_breaks(tmp_path: Path) -> None:
    flags = {"attack": "gaussian", "rounds": 40, "n": 12, "f": 2, "model": "mlp"}
    mean = run(tmp_path / "mean", rule="mean", **flags)
    robust = run(tmp_path / "robust", rule="trimmed-mean", pre=["nnm"], **flags)
    assert robust.summary["accuracy"] > 0.85
    assert mean.summary["accuracy"] < robust.summary["accuracy"] - 0.2
    assert set(robust.summary["farthest"]) == {"worker-10", "worker-11"}


@pytest.mark.slow
def test_fashion_mnist_from_a_folder(tmp_path: Path) -> None:
    files = find("fashion-mnist", tmp_path / "data")
    flags = ["--data", "fashion_mnist", "--data-dir", files.folder, "--n", 15, "--f", 3]
    flags += ["--attack", "sign_flip", "--rule", "trimmed_mean", "--pre", "nnm", "--rounds", 30]
    ended = command("run", *flags, "--json", "--out", tmp_path / "r")
    assert ended.code == 0, ended.err
    assert ended.summary["accuracy"] > 0.6
    assert ended.summary["bytes_sent"]["workers"] > 30 * 15 * 4 * 79_510


@pytest.mark.slow
def test_the_folder_holds_what_the_documentation_says(tmp_path: Path) -> None:
    result = ostraka.run(out=tmp_path / "r", **SMALL, attack="alie")
    folder = tmp_path / "r"
    names = {"federation.toml", "events.jsonl", "metrics.csv", "model.safetensors", "report.html"}
    assert names <= {p.name for p in folder.iterdir()}
    state = load_file(folder / "model.safetensors")
    named = {name: value.numpy() for name, value in result.model.state_dict().items()}
    assert state.keys() == named.keys()
    assert all(np.array_equal(state[name], named[name]) for name in named)
    vector = np.concatenate([p.detach().numpy().reshape(-1) for p in result.model.parameters()])
    assert model_digest(vector) == result.summary["model_digest"]
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [int(row["round"]) for row in rows] == list(range(1, 13))
    assert float(rows[-1]["accuracy"]) == result.summary["accuracy"]
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/", "")
    assert "src=" not in page
    assert page.count("<svg") >= 5
    assert result.history[-1]["round"] == 12
    assert np.array_equal(result.vector, vector)
    assert sum(p.numel() for p in result.model.parameters()) == vector.size


@pytest.mark.slow
def test_the_run_as_written_gives_itself_again(tmp_path: Path) -> None:
    first = run(tmp_path / "a", attack="ipm", attack_options={"eps": 2.0}, rule="krum")
    again = ostraka.run(tmp_path / "a" / "federation.toml", out=tmp_path / "b", report=False)
    assert again.summary["model_digest"] == first.summary["model_digest"]


@pytest.mark.slow
def test_json_is_json_lines_only_and_ends_with_the_summary(tmp_path: Path) -> None:
    out = tmp_path / "r"
    ended = command("run", "--rounds", 3, "--model", "logistic", "--json", "--out", out)
    assert ended.code == 0
    promised = {
        "trust", "rule", "attack", "n", "f", "rounds", "accuracy", "loss", "excluded",
        "bytes_sent", "seconds", "model_digest", "report",
    }  # fmt: skip
    assert promised <= set(ended.summary)
    assert ended.lines[0]["event"] == "run"
    assert Path(ended.summary["report"]).is_file()


LONG = ["--rule", "centered-clipping", "--attack", "mimic", "--n", "7", "--f", "2"]
LONG += ["--rounds", "150", "--model", "logistic", "--checkpoint-seconds", "0.05", "--json"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """How the long run ends when nothing happens to it."""
    return command("run", *LONG, "--out", tmp_path_factory.mktemp("whole") / "r").summary


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.15, 0.5, 0.85])
def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(
    tmp_path: Path, uninterrupted: dict[str, Any], moment: float
) -> None:
    out = tmp_path / "killed"
    child = process("run", *LONG, "--out", out)
    assert child.stdout is not None
    for line in child.stdout:
        event = json.loads(line)
        if event["event"] == "round" and event["round"] >= moment * 150:
            break
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    resumed = command("run", "--resume", "--out", out, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.lines[0]["event"] == "resumed"
    for figure in ("model_digest", "accuracy", "bytes_sent", "zero_weight_rounds", "excluded"):
        assert resumed.summary[figure] == uninterrupted[figure]
    rounds = [r["round"] for r in map(json.loads, (out / "events.jsonl").open()) if
              r["event"] == "round"]  # fmt: skip
    assert rounds == list(range(1, 151))


@pytest.mark.slow
def test_a_torn_checkpoint_is_passed_over_and_said(tmp_path: Path) -> None:
    whole = digest(tmp_path / "whole", rounds=30)
    out = tmp_path / "torn"
    stop_at = iter(range(10**6))
    with pytest.raises(ostraka.UserError) as stopped:
        run(out, rounds=30, stopping=lambda: next(stop_at) > 250, checkpoint_every_s=0.0)
    assert stopped.value.code == 75
    newest = sorted((out / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-7])
    notes: list[str] = []
    result = ostraka.run(
        out=out,
        resume=True,
        report=False,
        readers=[lambda r: notes.append(r["text"]) if r["event"] == "warning" else None],
    )
    assert result.summary["model_digest"] == whole
    assert any("damaged" in note and newest.name in note for note in notes)


@pytest.mark.slow
def test_ctrl_c_keeps_the_state_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "r"
    child = process("run", "--rounds", "100000", "--model", "logistic", "--out", out)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        events = out / "events.jsonl"
        if events.exists() and events.stat().st_size > 0:
            break
    child.send_signal(signal.SIGINT)
    start = time.monotonic()
    out_text, err = child.communicate(timeout=60)
    assert time.monotonic() - start < 5
    assert child.returncode == 75
    assert "state kept" in err
    assert f"ostraka run --resume --out {out}" in err
    assert "Traceback" not in out_text + err
    assert list((out / "checkpoints").iterdir())


@pytest.mark.slow
def test_privacy_is_told_in_progress_and_summary(tmp_path: Path) -> None:
    toml = tmp_path / "f.toml"
    toml.write_text(
        '[federation]\nname = "p"\nrounds = 5\n[rule]\nname = "mean"\n[faults]\nbyzantine = 0\n'
        '[training]\nmodel = "logistic"\nmomentum = 0.0\n[privacy]\nclip = 1.0\n'
        "noise_multiplier = 1.0\n"
    )
    ended = command("run", toml, "--json", "--out", tmp_path / "r")
    assert ended.code == 0, ended.err
    rounds = [e for e in ended.lines if e["event"] == "round"]
    local = [e["epsilon"]["local"] for e in rounds]
    assert local == sorted(local)
    assert ended.summary["epsilon"]["central"] < ended.summary["epsilon"]["local"]
    assert "Privacy spent" in (tmp_path / "r" / "report.html").read_text()
    explained = command("explain", toml, "--json").summary["privacy"]
    assert explained["local"] == pytest.approx(ended.summary["epsilon"]["local"], rel=0.05)


@pytest.mark.slow
def test_no_schedule_without_faults_shows_in_the_model(tmp_path: Path) -> None:
    clean = digest(tmp_path / "clean", attack="alie")
    config = load(None, overrides({**SMALL, "attack": "alie"}))
    recipe = build(config)
    for number, links in enumerate(
        (
            Links(shuffle=True),
            Links(latency_s=0.05, jitter_s=0.02, loss=0.05, duplicate=0.2, reorder=0.2),
        )
    ):
        assembly = assemble(config, recipe, tmp_path, None)
        folder = Folder.new(tmp_path / str(number), config, {"base": str(tmp_path)})
        summary, _ = Federation(config, recipe, assembly, folder, links=links).run(None)
        assert summary["model_digest"] == clean


@pytest.mark.slow
def test_stopped_between_any_two_events_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path,
) -> None:
    flags = {"attack": "mimic", "rule": "centered-clipping", "rounds": 3, "n": 5, "f": 1}
    whole = run(tmp_path / "whole", **flags).summary
    stops = 0
    for event in range(0, 40, 3):
        out = tmp_path / str(event)
        left = iter(range(event, -2, -1))
        code = 0
        try:
            run(out, stopping=lambda left=left: next(left) < 0, **flags)
        except ostraka.UserError as stopped:
            code = stopped.code
        if code == 0:
            continue
        assert code == 75
        stops += 1
        again = ostraka.run(out=out, resume=True, report=False)
        for figure in ("model_digest", "bytes_sent", "farthest", "accuracy"):
            assert again.summary[figure] == whole[figure], (event, figure)
        finished = [r for r in Folder(out).records() if r["event"] == "finished"]
        assert len(finished) == 1
    assert stops >= 10


@pytest.mark.slow
@pytest.mark.parametrize("trust", ["trusted", "two-server"])
def test_stopped_before_the_first_round_and_resumed(tmp_path: Path, trust: str) -> None:
    flags = {"trust": trust, "rounds": 2, "n": 5, "f": 0, "rule": "mean"}
    with pytest.raises(ostraka.UserError) as stopped:
        run(tmp_path / "stopped", stopping=lambda: True, **flags)
    assert stopped.value.code == 75
    again = ostraka.run(out=tmp_path / "stopped", resume=True, report=False)
    whole = run(tmp_path / "whole", **flags)
    assert again.summary["model_digest"] == whole.summary["model_digest"]


@pytest.mark.slow
def test_an_ended_round_keeps_its_state_names_the_parties_and_can_be_tried_again(
    tmp_path: Path,
) -> None:
    flags = {"attack": "nan", "attackers": 3, "n": 9, "f": 2}
    with pytest.raises(ostraka.UserError, match="round 0 ended: 3 rows were refused") as ended:
        run(tmp_path / "r", **flags)
    assert ended.value.code == 75
    assert "worker-6 non-finite" in str(ended.value)
    with pytest.raises(ostraka.UserError, match="round 0 ended"):
        ostraka.run(out=tmp_path / "r", resume=True)
    told = {r["party"] for r in Folder(tmp_path / "r").records() if r["event"] == "excluded"}
    assert told == {"worker-6", "worker-7", "worker-8"}


@pytest.mark.slow
def test_a_finished_run_resumed_is_finished_once(tmp_path: Path) -> None:
    first = run(tmp_path / "r").summary
    again = ostraka.run(out=tmp_path / "r", resume=True, report=False).summary
    assert again["model_digest"] == first["model_digest"]
    assert sum(r["event"] == "finished" for r in Folder(tmp_path / "r").records()) == 1


def test_a_folder_that_was_being_made_when_killed_can_be_used(tmp_path: Path) -> None:
    for left in (["run.json"], ["run.json.part"], ["run.json", "federation.toml.part", ".lock"]):
        out = tmp_path / "-".join(left)
        out.mkdir()
        for name in left:
            (out / name).write_text("{")
        run(out, rounds=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ostraka.UserError, match="not empty"):
        run(tmp_path / "mine", rounds=1)


@pytest.mark.slow
def test_damaged_event_files_are_said_and_never_made_worse(tmp_path: Path) -> None:
    out = tmp_path / "r"
    whole = run(out, rounds=4).summary["model_digest"]
    events = out / "events.jsonl"
    body = events.read_bytes()
    events.write_bytes(body[: len(body) // 2])
    notes: list[str] = []
    result = ostraka.run(
        out=out,
        resume=True,
        readers=[lambda r: notes.append(r["text"]) if r["event"] == "warning" else None],
    )
    assert result.summary["model_digest"] == whole
    assert any("events.jsonl is shorter" in note for note in notes)
    assert b"\0" not in events.read_bytes()
    for junk in (b"[]\n", b"{broken\n", b"[" * 100_000 + b"\n"):
        events.write_bytes(body.replace(b"\n", b"\n" + junk, 1))
        ended = command("report", out)
        assert ended.code == 65
        assert "line 2 of" in ended.err


def test_two_processes_cannot_share_a_run(tmp_path: Path) -> None:
    out = tmp_path / "r"
    run(out, rounds=1)
    with Folder(out).locked(), pytest.raises(ostraka.UserError, match="another process"):
        ostraka.run(out=out, resume=True)


def test_another_runs_checkpoints_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "a", rounds=1)
    run(tmp_path / "b", rounds=1, seed=5)
    for path in (tmp_path / "a" / "checkpoints").iterdir():
        target = tmp_path / "b" / "checkpoints" / path.name
        target.write_bytes(path.read_bytes())
    with pytest.raises(ostraka.UserError, match="another configuration") as refused:
        ostraka.run(out=tmp_path / "b", resume=True)
    assert refused.value.code == 78

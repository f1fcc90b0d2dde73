"""What the roles of a real party refuse, remember and tell, without any network."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.faults.tiny import DIMENSION, TinyAssembly, TinyTrainer

from ostraka.app.build import build
from ostraka.app.config import Config, check
from ostraka.app.errors import UserError
from ostraka.app.folder import Folder
from ostraka.app.join import _check_start
from ostraka.app.parties.keeping import turn_of
from ostraka.app.parties.roles import Seat
from ostraka.app.parties.trusted_server import ServerRole
from ostraka.app.parties.trusted_worker import WorkerRole
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import signer_from
from ostraka.learn.initial import model_digest
from ostraka.net import Label
from ostraka.trust.trusted import State

PRIVACY = {"unit": "participant"}


def config(n: int = 5, f: int = 1, rounds: int = 9, private: bool = False) -> Config:
    raw: dict[str, Any] = {
        "federation": {"name": "test", "rounds": rounds},
        "faults": {"byzantine": f},
        "simulation": {"parties": n},
    }
    return check({**raw, "privacy": PRIVACY} if private else raw, "test")


def folder(path: Path, own: Config) -> Folder:
    if (path / "federation.toml").exists():
        return Folder.existing(path)
    return Folder.new(path, own, {"base": str(path)})


def seat(path: Path, own: Config, me: str, assembly: Any) -> Seat:
    secret = own.privacy is not None
    own_key, sign = Key(bytes(32)), lambda: signer_from(bytes(32))[0]
    place = folder(path, own)
    return Seat(own, build(own), assembly, place, me, secret, bytes(32), {}, own_key, sign)


def server(path: Path, own: Config | None = None) -> ServerRole:
    own = own or config()
    return ServerRole(seat(path, own, "server", TinyAssembly({}, False)))


def worker(path: Path, *, private: bool = False) -> WorkerRole:
    own = config(private=private)
    me = own.workers[1]
    assembly: Any = TinyAssembly({me: TinyTrainer(1, private)}, private)
    return WorkerRole(seat(path, own, me, assembly))


def model(round: int) -> np.ndarray:
    return np.full(DIMENSION, round, np.float32)


def state(round: int, epoch: int = 1) -> State:
    return State(round, epoch, model(round), np.zeros(DIMENSION, np.float32))


def serve(role: ServerRole, *rounds: int) -> None:
    """Store these rounds, as the protocol does."""
    role.begin()
    for round in rounds:
        role._commit(state(round, role.epoch + 1))


def answer(role: WorkerRole, round: int, epoch: int = 1) -> np.ndarray | None:
    theta = model(round)
    return role.train(round, theta) if role.admit((epoch, round), theta) else None


# --- the server ---------------------------------------------------------------------------------


def test_one_lying_report_does_not_stop_the_server_but_two_do(tmp_path: Path) -> None:
    role = server(tmp_path)
    serve(role, 0, 1, 2)
    role.close()
    again = server(tmp_path)
    later = "epoch.1/round.7"
    again.ready({"worker-0": later, "worker-1": "epoch.1/round.2", "worker-2": "", "worker-3": "?"})
    with pytest.raises(UserError, match="worker-0, worker-2 have seen later rounds") as refusal:
        again.ready({"worker-0": later, "worker-1": "epoch.1/round.1", "worker-2": later})
    assert refusal.value.code == 74
    assert "than epoch 1, round 2" in str(refusal.value)


def test_a_later_epoch_counts_as_later(tmp_path: Path) -> None:
    role = server(tmp_path, config(f=0))
    serve(role, 0, 1, 2)
    with pytest.raises(UserError, match="old copy"):
        role.ready({"worker-0": "epoch.2/round.0"})


def test_a_round_is_never_stored_with_another_model(tmp_path: Path) -> None:
    role = server(tmp_path)
    serve(role, 0, 1, 2)
    role.close()
    again = server(tmp_path)
    again._first = 1
    other = State(2, 2, model(5), np.zeros(DIMENSION, np.float32))
    with pytest.raises(UserError, match="round 2 was acknowledged with the model") as refusal:
        again._commit(other)
    assert refusal.value.code == 74


def test_a_stored_round_that_was_not_noted_is_noted_before_it_is_shown(tmp_path: Path) -> None:
    role = server(tmp_path)
    serve(role, 0, 1)
    role.folder.checkpoints.save(
        2,
        {"model": model(2), "previous": model(0)[:0]},
        {"tally": role.tally.state(), "epoch": 1},
    )
    role.close()
    again = server(tmp_path)
    assert (again.state.round, again.highest) == (2, 1)
    serve(again, 2)
    assert again.rounds[2] == model_digest(model(2))
    again.close()
    assert server(tmp_path).highest == 2


def test_the_server_tells_each_worker_what_it_has_counted_of_it(tmp_path: Path) -> None:
    role = server(tmp_path)
    serve(role, 0)
    role.trace("excluded", round=0, party="worker-2", reason="malformed", detail="")
    role.trace("aggregated", round=0, distance={"worker-0": 1.0}, influence=None)
    serve(role, 1)
    role.close()
    again = server(tmp_path)
    assert turn_of(again.held("worker-0")) == (1, 0)
    assert turn_of(again.held("worker-2")) == (1, 0)
    assert again.held("worker-1") == ""


def hears(role: ServerRole, **heard: Label) -> None:
    """These were the last frames of some workers, without the dashes in their names."""
    traffic: Any = SimpleNamespace(
        sent={}, received={}, heard={f"worker-{k[1:]}": v for k, v in heard.items()}
    )
    role.traffic = traffic


def at(round: int, epoch: int = 1) -> Label:
    return (("epoch", epoch), ("round", round))


def test_the_server_tells_each_worker_what_came_though_the_round_is_open(tmp_path: Path) -> None:
    role = server(tmp_path)
    serve(role, 0)
    used = {"worker-0": 1.0, "worker-2": 1.0, "worker-3": 1.0}
    role.trace("aggregated", round=0, distance=used, influence=None)
    hears(role, w0=at(1), w1=at(4), w2=(("round", 7),), w3=at(0))
    told = {name: turn_of(role.held(name))[1] for name in sorted(role.plan.workers)}
    assert told["worker-0"] == 1, "heard of in an open round"
    assert told["worker-1"] == 4, "heard of before any round was stored"
    assert told["worker-2"] == 0, "a label that is none counts nothing"
    assert told["worker-3"] == 0
    assert told["worker-4"] == -1


def test_a_private_worker_with_an_older_journal_hears_of_the_open_round(tmp_path: Path) -> None:
    central, own = server(tmp_path / "server"), worker(tmp_path / "worker", private=True)
    serve(central, 0)
    answer(own, 0)
    hears(central, w1=at(0))
    own.ready({"server": central.held("worker-1")})
    hears(central, w1=at(1))
    with pytest.raises(UserError, match="has an update of worker-1 for round 1") as refusal:
        own.ready({"server": central.held("worker-1")})
    assert refusal.value.code == 74


@pytest.mark.parametrize(("kept", "stored"), [(1, 3), (1, 4), (0, 2)])
def test_a_journal_older_than_the_checkpoint_is_refused(
    tmp_path: Path, kept: int, stored: int
) -> None:
    role = server(tmp_path)
    serve(role, *range(kept + 1))
    old = role.folder.journal.read_bytes()
    for round in range(kept + 1, stored + 1):
        role._commit(state(round, role.epoch + 1))
    role.close()
    role.folder.journal.write_bytes(old)
    with pytest.raises(
        UserError, match=f"ends at round {kept}, but there is a checkpoint of"
    ) as no:
        server(tmp_path)
    assert no.value.code == 74
    assert f"round {stored}: the journal is an old copy" in str(no.value)


def test_all_rounds_done_needs_nobody(tmp_path: Path) -> None:
    role = server(tmp_path, config(rounds=2))
    assert role.quorum == 4
    serve(role, 0, 1, 2)
    role.close()
    assert server(tmp_path, config(rounds=2)).quorum == 0


def test_without_a_checkpoint_the_run_event_is_told_again(tmp_path: Path) -> None:
    """What a dead process told before its first checkpoint is gone."""
    role = server(tmp_path)
    serve(role, 0)
    role.close()
    again = server(tmp_path)
    again.begin()
    again.close()
    told = [record["event"] for record in again.folder.records()]
    assert told[:2] == ["run", "resumed"]


def diary(role: ServerRole | WorkerRole) -> list[str]:
    """What a reader of the file sees now, while the party runs."""
    return [json.loads(line)["event"] for line in role.folder.diary.read_text().splitlines()]


def test_who_was_refused_outlasts_a_return_to_a_checkpoint(tmp_path: Path) -> None:
    role = server(tmp_path)
    serve(role, 0, 1)
    role.trace("refused", peer="10.0.0.9", why="no certificate", count=1)
    role.trace("replaced", peer="worker-1", why="another process", count=1)
    role.trace("missing", round=1, party="worker-2")
    assert diary(role) == ["refused", "replaced"], "a kill now loses nothing"
    role.log.sync()
    assert "missing" in [r["event"] for r in role.folder.records()]
    again = server(tmp_path)
    again.trace("connected", peer="worker-1")
    told = [r["event"] for r in again.folder.records()]
    assert not {"missing", "refused", "replaced", "connected"} & set(told)
    assert diary(again) == ["refused", "replaced", "connected"]
    role.close()
    again.close()


def test_a_run_that_never_began_leaves_its_diary_and_room_for_another(tmp_path: Path) -> None:
    role = server(tmp_path)
    role.trace("refused-by", peer="worker-0", reason="configuration", why="?", count=1)
    role.close()
    role.folder.clear()
    another = server(tmp_path, config(rounds=3))
    assert diary(another) == ["refused-by"]
    another.close()


def test_a_party_that_has_not_begun_may_mend_its_app_file(tmp_path: Path) -> None:
    own = folder(tmp_path, config())
    _check_start(own, {"app": "1", "initial_model": "m"})
    _check_start(own, {"app": "2", "initial_model": "m"})
    role = server(tmp_path)
    serve(role, 0, 1)
    role.close()
    _check_start(own, {"app": "2", "initial_model": "m"})
    with pytest.raises(UserError, match="the app has changed since") as refusal:
        _check_start(own, {"app": "1", "initial_model": "m"})
    assert refusal.value.code == 78


# --- the worker ---------------------------------------------------------------------------------


def test_a_worker_answers_again_with_the_same_bits_after_a_restart(tmp_path: Path) -> None:
    role = worker(tmp_path)
    sent = [answer(role, round) for round in range(4)]
    role.close()
    again = worker(tmp_path)
    assert again.held("server") == "epoch.1/round.3"
    for round in (2, 3):
        repeated = answer(again, round, epoch=2)
        assert repeated is not None
        assert repeated.tobytes() == sent[round].tobytes()  # type: ignore[union-attr]


def test_a_worker_answers_no_other_model_and_no_old_round(tmp_path: Path) -> None:
    role = worker(tmp_path)
    for round in range(4):
        answer(role, round)
    assert not role.admit((2, 3), model(8))
    assert answer(role, 1, epoch=2) is None
    role.log.sync()
    ignored = [r for r in role.folder.records() if r["event"] == "ignored"]
    assert [(r["round"], r["reason"]) for r in ignored] == [(3, "inconsistent"), (1, "replay")]


def test_secret_noise_is_drawn_once_a_round_across_restarts(tmp_path: Path) -> None:
    role = worker(tmp_path, private=True)
    for round in range(3):
        assert answer(role, round) is not None
    role.close()
    again = worker(tmp_path, private=True)
    assert answer(again, 2, epoch=2) is None
    assert answer(again, 3, epoch=2) is not None


def test_secret_noise_goes_forward_only(tmp_path: Path) -> None:
    """A server that begins anew is answered again in the last round, with the same bits."""
    role = worker(tmp_path, private=True)
    sent = [answer(role, round) for round in range(3)]
    assert not role.admit((2, 1), model(1))
    again = answer(role, 2, epoch=2)
    assert again is not None
    assert again.tobytes() == sent[2].tobytes()  # type: ignore[union-attr]
    role.log.sync()
    ignored = [r for r in role.folder.records() if r["event"] == "ignored"]
    assert [(r["round"], r["reason"]) for r in ignored] == [(1, "policy")]


def test_a_promise_without_its_update_counts_as_an_answer(tmp_path: Path) -> None:
    """Died between the promise and the update: the round stays unanswered."""
    role = worker(tmp_path, private=True)
    answer(role, 0)
    assert role.admit((1, 1), model(1))
    role._note(1)
    role.close()
    again = worker(tmp_path, private=True)
    assert again.highest == 1
    assert answer(again, 1, epoch=2) is None


@pytest.mark.parametrize("private", [True, False])
def test_an_old_copy_is_refused_where_noise_is_secret_and_told_otherwise(
    tmp_path: Path, private: bool
) -> None:
    role = worker(tmp_path, private=private)
    answer(role, 0)
    role.ready({"server": "epoch.1/round.0"})
    role.ready({"server": ""})
    if private:
        with pytest.raises(UserError, match="is an old copy: server has an update") as refusal:
            role.ready({"server": "epoch.1/round.1"})
        assert refusal.value.code == 74
    else:
        role.ready({"server": "epoch.1/round.1"})
    role.close()
    told = [r["event"] for r in role.folder.records()]
    assert ("warning" in told) is not private


def test_a_worker_that_was_away_for_rounds_may_lose_its_newest_checkpoint(tmp_path: Path) -> None:
    """What it answered, not the federation's rounds, says which generation is near enough."""
    role = worker(tmp_path)
    for round in (0, 3, 8):
        answer(role, round)
    role.close()
    newest = sorted(role.folder.path.glob("checkpoints/*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    again = worker(tmp_path)
    assert again.start is not None
    assert again.start.round == 3
    assert "is damaged" in again.notes[0]
    sorted(role.folder.path.glob("checkpoints/*.safetensors"))[0].unlink()
    with pytest.raises(UserError, match="newest sound one is none"):
        worker(tmp_path)


@pytest.mark.parametrize("text", ["", "x", "epoch.1", "epoch.1/round.x", "a/b/c", "/", "epoch./."])
def test_what_is_no_turn_comes_before_all_turns(text: str) -> None:
    assert turn_of(text) == (0, -1)

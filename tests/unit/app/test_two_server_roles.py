"""What the roles of two-server refuse, remember and tell, without any network."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.faults.tiny import DIMENSION, TinyAssembly, TinyTrainer
from tests.unit.app.test_roles import folder

from ostraka.app.build import build
from ostraka.app.config import Config, check
from ostraka.app.errors import UserError
from ostraka.app.parties.dealer import DealerRole
from ostraka.app.parties.playing import play
from ostraka.app.parties.roles import Seat
from ostraka.app.parties.two_server_0 import Server0Role
from ostraka.app.parties.two_server_1 import Server1Role
from ostraka.app.parties.two_server_worker import TwoServerWorkerRole
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import signer_from
from ostraka.drivers.sim import Simulation
from ostraka.net import Label, Net
from ostraka.trust.two_server import Committed, State0

ME = "worker-1"


def config(private: bool = False) -> Config:
    raw: dict[str, Any] = {
        "federation": {"name": "test", "rounds": 9, "trust": "two-server"},
        "faults": {"byzantine": 1},
        "simulation": {"parties": 5},
    }
    privacy = {"unit": "participant", "noise_multiplier": 0.01}
    return check({**raw, "privacy": privacy} if private else raw, "test")


def seat(path: Path, me: str, private: bool = False) -> Seat:
    own = config(private)
    trainers = {me: TinyTrainer(1, private)} if me in own.workers else {}
    assembly: Any = TinyAssembly(trainers, private)
    sign, public = signer_from(bytes(32))
    keys = dict.fromkeys(own.workers, public)
    place, key = folder(path, own), Key(bytes(32))
    return Seat(own, build(own), assembly, place, me, private, bytes(32), keys, key, lambda: sign)


def worker(path: Path, private: bool = False) -> TwoServerWorkerRole:
    role = play(seat(path, ME, private))
    assert isinstance(role, TwoServerWorkerRole)
    return role


def server_0(path: Path) -> Server0Role:
    role = play(seat(path, "server-0"))
    assert isinstance(role, Server0Role)
    return role


def server_1(path: Path) -> Server1Role:
    role = play(seat(path, "server-1"))
    assert isinstance(role, Server1Role)
    return role


def model(round: int) -> np.ndarray:
    return np.full(DIMENSION, round, np.float32)


def answer(role: TwoServerWorkerRole, round: int, attempt: int = 1) -> np.ndarray | None:
    theta = model(round)
    return role.train(round, theta) if role.admit((round, attempt), theta) else None


def told(role: Any) -> list[dict[str, Any]]:
    role.log.sync()
    return [json.loads(line) for line in role.folder.events.read_text().splitlines()]


def heard(**labels: Label) -> Any:
    """Traffic in which these workers' last messages had these labels."""
    known = {f"worker-{k[1:]}": v for k, v in labels.items()}
    return SimpleNamespace(sent={}, received={}, heard=known)


def carried(sent: dict[str, int], received: dict[str, int]) -> Any:
    """Traffic of so many bytes."""
    return SimpleNamespace(sent=sent, received=received, heard={})


def links(record: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    return record["sent"], record["received"]


def at(round: int, attempt: int) -> Label:
    return (("round", round), ("attempt", attempt))


# --- the worker ---------------------------------------------------------------------------------


def test_a_further_attempt_is_answered_with_the_same_update(tmp_path: Path) -> None:
    role = worker(tmp_path, private=True)
    first, second = answer(role, 0, 1), answer(role, 0, 2)
    assert first is not None
    assert second is not None
    assert first.tobytes() == second.tobytes(), "fresh noise would tell more"
    assert [e["event"] for e in told(role)].count("trained") == 1
    assert role.held("server-0") == "round.0/attempt.2"
    role.close()
    assert worker(tmp_path, private=True).held("server-0") == "round.0/attempt.2"


@pytest.mark.parametrize("private", [True, False])
def test_who_restarts_stays_out_of_the_round_and_takes_part_in_the_next(
    tmp_path: Path, private: bool
) -> None:
    role = worker(tmp_path, private)
    answer(role, 0)
    assert answer(role, 1) is not None
    role.close()
    again = worker(tmp_path, private)
    assert answer(again, 1, 2) is None
    assert answer(again, 2) is not None
    reasons = [e["reason"] for e in told(again) if e["event"] == "ignored"]
    assert reasons == ["policy"]


def test_a_round_counts_as_answered_before_anything_is_computed(tmp_path: Path) -> None:
    role = worker(tmp_path)
    assert role.admit((3, 1), model(3))
    role.close()
    assert answer(worker(tmp_path), 3, 2) is None


def test_a_worker_answers_no_other_model_and_no_old_round(tmp_path: Path) -> None:
    role = worker(tmp_path)
    answer(role, 0)
    answer(role, 2)
    assert not role.admit((2, 2), model(7))
    assert not role.admit((1, 9), model(1))
    reasons = [e["reason"] for e in told(role) if e["event"] == "ignored"]
    assert reasons == ["inconsistent", "replay"]


@pytest.mark.parametrize("private", [True, False])
def test_an_old_copy_is_refused_where_noise_is_secret_and_told_otherwise(
    tmp_path: Path, private: bool
) -> None:
    role = worker(tmp_path, private)
    answer(role, 0)
    role.ready({"server-0": "round.0/attempt.4", "dealer": ""})
    later = {"server-0": "round.0/attempt.1", "dealer": "round.1/attempt.1"}
    if private:
        with pytest.raises(UserError, match="dealer has an update of worker-1 for round 1") as no:
            role.ready(later)
        assert no.value.code == 74
    else:
        role.ready(later)
        assert "is an old copy" in told(role)[-1]["text"]


# --- the operators ------------------------------------------------------------------------------


def finish_round(role: Server0Role, round: int) -> None:
    """Store what the protocol stores, with an attempt that used worker-0."""
    role._commit(replace(role.state, attempt=role.state.attempt + 1))
    role.trace("aggregated", round=round, influence={"worker-0": 1.0})
    theta = model(round + 1)
    role._commit(State0(round + 1, 0, 0, theta, theta.astype(float), theta.astype(np.int64)))


def test_server_0_refuses_an_old_copy_when_more_than_f_workers_say_so(tmp_path: Path) -> None:
    role = server_0(tmp_path)
    finish_round(role, 0)
    role._commit(replace(role.state, attempt=2))
    role.ready({"worker-0": "round.1/attempt.3", "worker-1": "round.1/attempt.2", "dealer": "?"})
    with pytest.raises(UserError, match="worker-0, worker-3 have answered later than") as refusal:
        role.ready({"worker-0": "round.1/attempt.3", "worker-3": "round.2/attempt.1"})
    assert refusal.value.code == 74
    assert "round 1, attempt 2" in str(refusal.value)


def test_server_0_tells_workers_what_it_has_used_or_heard_of(tmp_path: Path) -> None:
    role = server_0(tmp_path)
    finish_round(role, 0)
    role.close()
    again = server_0(tmp_path)
    assert again.held("worker-0") == "round.0/attempt.0"
    assert again.held("worker-2") == ""
    again.traffic = heard(w0=at(1, 2), w2=(*at(1, 1), ("run", 5)), w3=(("boot", 1),))
    assert again.held("worker-0") == "round.1/attempt.2"
    assert again.held("worker-2") == "round.1/attempt.1"
    assert again.held("worker-3") == ""


def test_server_0_goes_on_with_its_state_and_its_counts(tmp_path: Path) -> None:
    role = server_0(tmp_path)
    role.begin()
    assert not role.resumed
    finish_round(role, 0)
    role.trace("excluded", round=1, party="worker-4", reason="norm", detail="")
    role.close()
    again = server_0(tmp_path)
    again.begin()
    assert (again.state.round, again.resumed) == (1, True)
    events = [e["event"] for e in told(again) if e["event"] != "warning"]
    assert events == ["run", "aggregated", "resumed", "round"], "an open round is forgotten"


def test_all_rounds_done_needs_server_1_alone(tmp_path: Path) -> None:
    role = server_0(tmp_path)
    assert role.vital == {"server-1", "dealer"}
    assert role.quorum == 2 + 4
    for round in range(9):
        finish_round(role, round)
    role.close()
    again = server_0(tmp_path)
    assert (again.vital, again.quorum, again.done) == ({"server-1"}, 1, False)


@pytest.mark.slow
def test_what_an_earlier_process_ended_with_stands(tmp_path: Path) -> None:
    role = server_0(tmp_path)
    role.begin()
    for round in range(9):
        finish_round(role, round)
    role.note_end()
    role.close()
    again = server_0(tmp_path)
    again.begin()
    assert again.done
    summary = again.results(None)
    assert (summary["trust"], summary["role"], summary["rounds"]) == ("two-server", "server-0", 9)
    assert again.folder.summary.exists()
    assert again.folder.report.exists()


def test_server_1_counts_boots_and_keeps_commit_points(tmp_path: Path) -> None:
    role = server_1(tmp_path)
    words = np.arange(DIMENSION, dtype=np.uint64)
    record = Committed(0, 1, ("worker-0",), np.array([1]), 1, words)
    role._commit(replace(role.state, boot=1))
    role._commit(replace(role.state, committed=record))
    role.close()
    again = server_1(tmp_path)
    assert again.state.boot == 1
    assert again.state.committed is not None
    assert again.state.committed.words.tobytes() == words.tobytes()
    again.ready({"worker-0": "round.1/attempt.1", "worker-1": "round.0/attempt.7"})
    with pytest.raises(UserError, match="worker-0, worker-2 have answered later"):
        again.ready({"worker-0": "round.1/attempt.1", "worker-2": "round.1/attempt.1"})


def test_a_dealers_every_process_has_a_later_number(tmp_path: Path) -> None:
    for boot in (1, 2, 3):
        role = play(seat(tmp_path, "dealer"))
        assert isinstance(role, DealerRole)
        assert (role.boot, role.resumed) == (boot, boot > 1)
        role.journal.append({"boot": role.boot})
        role.close()


def test_operators_keep_more_for_one_another_than_for_workers(tmp_path: Path) -> None:
    role = server_0(tmp_path)
    to_worker, slow = role.link_of("worker-0")
    to_server, quick = role.link_of("server-1")
    assert to_server.frames > to_worker.frames
    assert quick.a_second > slow.a_second
    assert role.limits.unread_frames == 64
    assert role.sees_off == {"server-1", "dealer", *role.plan.workers}


# --- bytes --------------------------------------------------------------------------------------


def test_the_leader_counts_its_own_links_across_restarts(tmp_path: Path) -> None:
    role = server_0(tmp_path)
    role.traffic = carried({"worker-0": 3, "worker-1": 3, "dealer": 1}, {"server-1": 7})
    finish_round(role, 0)
    role.close()
    again = server_0(tmp_path)
    again.begin()
    again.traffic = carried({"worker-0": 10}, {"dealer": 2})
    finish_round(again, 1)
    rounds = [e for e in told(again) if e["event"] == "round"]
    assert links(rounds[0]) == ({"workers": 6, "dealer": 1}, {"server-1": 7})
    assert links(rounds[-1]) == ({"workers": 16, "dealer": 1}, {"server-1": 7, "dealer": 2})
    assert rounds[-1]["bytes_sent"] == {"server-0": 17}, "it knows nobody else's"


def test_server_1_counts_its_own_links_and_a_kill_loses_nothing_told(tmp_path: Path) -> None:
    role = server_1(tmp_path)
    role.traffic = carried({"server-0": 5}, {"worker-0": 8, "worker-3": 8})
    role._commit(replace(role.state, boot=1, round=1))
    text = role.folder.events.read_text()
    assert links(json.loads(text)) == ({"server-0": 5}, {"workers": 16}), "it is in the file now"
    role.folder.events.write_text(text + text[:40])
    again = server_1(tmp_path)
    again.traffic = carried({"server-0": 1}, {})
    again._commit(replace(again.state, boot=2, round=2))
    first, second = told(again)
    assert (first["round"], second["round"]) == (1, 2), "a torn line does not spoil the next one"
    assert links(second) == ({"server-0": 6}, {"workers": 16})
    again.close()
    role.close()


def test_a_worker_counts_its_own_links_across_restarts(tmp_path: Path) -> None:
    role = worker(tmp_path)
    role.traffic = carried({"server-1": 100, "dealer": 1}, {"server-0": 50})
    answer(role, 0)
    role.close()
    again = worker(tmp_path)
    again.traffic = carried({"server-1": 100}, {"server-0": 50})
    answer(again, 1)
    trained = [e for e in told(again) if e["event"] == "trained"]
    assert links(trained[-1]) == ({"server-1": 200, "dealer": 1}, {"server-0": 100})


def test_a_dealer_tells_its_bytes_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    role = play(seat(tmp_path, "dealer"))
    assert isinstance(role, DealerRole)
    traffic = role.traffic = carried({}, {})

    async def dealer(net: Net) -> None:
        await net.race(serve(net), role._follower.tell_traffic(net))

    async def serve(net: Net) -> None:
        await net.sleep(2.5)
        traffic.sent["server-1"] = 8
        await net.sleep(3.0)

    Simulation({"dealer": dealer}, seed=1).run(until_s=60.0)
    traffic.sent["server-1"] = 9
    role.results(None)
    role.close()
    found = told(role)
    assert [e["event"] for e in found] == ["traffic", "traffic", "finished"], "only what is new"
    assert [links(e)[0] for e in found] == [{}, {"server-1": 8}, {"server-1": 9}]

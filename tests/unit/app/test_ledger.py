"""Invariant: what an identity has answered under secret noise outlasts every run's own folder."""

import math
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.app.test_two_server_roles import answer, told, worker

from ostraka.app.errors import UserError
from ostraka.app.ledger import Ledger, keep_ledger
from ostraka.app.parties.two_server_worker import TwoServerWorkerRole

ONE, TWO = bytes(32), bytes([1]) * 32
KEY = "me.pem"


def trained(round: int, epsilon: float, unit: str = "example") -> dict[str, Any]:
    told = {"local": epsilon, "central": 0.0, "delta": 1e-5, "unit": unit}
    return {"event": "trained", "s": 0.0, "round": round, "epsilon": told}


def planned(epsilon: float, unit: str = "example") -> dict[str, Any]:
    found: dict[str, Any] = trained(0, epsilon, unit)["epsilon"]
    return found


def follow(role: TwoServerWorkerRole, identity: Path) -> None:
    keep_ledger(role, role.trace, identity)


def test_a_run_whose_folder_was_emptied_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / KEY, ONE, "a")
    ledger.refuse_rerun(Path("state"), -1)
    for round in range(3):
        ledger(trained(round, 0.1 * round))
    again = Ledger(tmp_path / KEY, ONE, "a")
    for highest, knows in ((-1, "knows of none;"), (1, "none after round 1;")):
        with pytest.raises(UserError, match=r"state is an old copy: .* round 2 of this run") as no:
            again.refuse_rerun(Path("state"), highest)
        assert no.value.code == 74
        assert knows in str(no.value)
    again.refuse_rerun(Path("state"), 2)
    Ledger(tmp_path / KEY, TWO, "b").refuse_rerun(Path("state"), -1)
    Ledger(tmp_path / "other.pem", ONE, "a").refuse_rerun(Path("state"), -1)


def test_what_runs_have_spent_is_added_up(tmp_path: Path) -> None:
    for session, name, epsilon in ((ONE, "a", 0.5), (TWO, "b", 0.25)):
        ledger = Ledger(tmp_path / KEY, session, name)
        assert (ledger.warning(planned(1.0)) is None) == (name == "a")
        for round in range(3):
            ledger(trained(round, epsilon * (round + 1)))
    third = Ledger(tmp_path / KEY, bytes([2]) * 32, "c")
    said = third.warning(planned(1.0))
    assert said is not None
    for part in ("a (epsilon 1.50), b (epsilon 0.75)", "to epsilon 3.25 at delta 3e-05"):
        assert part in said
    assert third.warning(planned(1.0, "participant")) is None, "other units cannot be added"


def test_no_noise_at_all_is_told_as_such(tmp_path: Path) -> None:
    Ledger(tmp_path / KEY, ONE, "a")(trained(0, math.inf))
    (spent,) = Ledger(tmp_path / KEY, TWO, "b").earlier()
    assert spent.epsilon == math.inf
    assert "epsilon infinite" in str(Ledger(tmp_path / KEY, TWO, "b").warning(planned(1.0)))


def test_only_answers_under_noise_are_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / KEY, ONE, "a")
    ledger({"event": "round", "round": 0, "epsilon": None})
    ledger({"event": "trained", "round": 0, "epsilon": None})
    assert not ledger.path.exists()
    ledger(trained(0, 1.0))
    assert ledger.path.stat().st_mode & 0o077 == 0


def _write(path: Path, number: int) -> None:
    ledger = Ledger(path, bytes([number]) * 32, f"run-{number}")
    for round in range(20):
        ledger(trained(round, float(round)))


def test_two_processes_share_a_ledger(tmp_path: Path) -> None:
    """Here by two threads: the lock is that of an open file, not of a process."""
    writers = [threading.Thread(target=_write, args=(tmp_path / KEY, k)) for k in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = Ledger(tmp_path / KEY, ONE, "a").earlier()
    assert {spent.run: spent.round for spent in found} == {"run-1": 19, "run-2": 19}


def test_a_worker_writes_its_answers_before_they_leave(tmp_path: Path) -> None:
    key, state = tmp_path / KEY, tmp_path / "state"
    role = worker(state, private=True)
    follow(role, key)
    assert answer(role, 0) is not None
    assert answer(role, 1) is not None
    assert [s.round for s in Ledger(key, TWO, "b").earlier()] == [1]
    role.close()
    follow(worker(state, private=True), key)
    shutil.rmtree(state)
    with pytest.raises(UserError, match="fresh noise on the same data"):
        follow(worker(state, private=True), key)


def test_a_new_run_with_an_old_identity_says_what_has_been_spent(tmp_path: Path) -> None:
    Ledger(tmp_path / KEY, TWO, "earlier")(trained(9, 2.0))
    role = worker(tmp_path / "state", private=True)
    follow(role, tmp_path / KEY)
    role.begin()
    texts = [e["text"] for e in told(role) if e["event"] == "warning"]
    assert any("earlier (epsilon 2.00)" in text and "epsilon 2.90" in text for text in texts)


def test_without_noise_there_is_no_ledger(tmp_path: Path) -> None:
    role = worker(tmp_path / "state")
    follow(role, tmp_path / KEY)
    answer(role, 0)
    assert not (tmp_path / KEY).with_suffix(".spent").exists()


def test_identities_share_no_ledger(tmp_path: Path) -> None:
    names = ("a.pem", "b.pem", "hospital.a", "hospital.b", "a.key")
    ledgers = {Ledger(tmp_path / name, bytes(32), "run").path.name for name in names}
    assert ledgers == {
        *("a.spent", "b.spent", "hospital.a.spent", "hospital.b.spent", "a.key.spent")
    }

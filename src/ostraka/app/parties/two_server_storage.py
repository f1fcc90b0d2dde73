"""How the two servers of `two-server` store their states: small facts by journal, arrays by file.

Invariant: whenever the process dies, what is loaded is the state of the last ``save`` that returned
or of the one that was under way. Arrays are written before the journal's line that counts on them.
Server 1's record of a commit point counts as soon as its file is there. A newest model that was
damaged later is computed again with the other server's help. What no crash leaves behind - a
journal without its arrays, or an old copy of either - is refused with exit code 74.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ostraka.app.errors import Exit, UserError
from ostraka.app.folder import Folder
from ostraka.drivers.checkpoint import Arrays, Checkpoint, Checkpoints
from ostraka.drivers.journal import Journal
from ostraka.drivers.trace import Record
from ostraka.learn.initial import model_digest
from ostraka.trust.two_server import Committed, Lost, Prepared, State0, State1

Vector = npt.NDArray[np.float32]
PRIVATE = 0o600


class Store0:
    """Server 0's states. ``facts`` gives what a checkpoint keeps beside them.

    ``journal`` and ``start`` (its newest sound checkpoint) are those of ``folder``; ``initial`` is
    the model before the first round. ``notes``: what was found damaged and passed over. Where the
    newest checkpoint is damaged the state says so (``lost``), and server 1 helps; no further.
    """

    def __init__(
        self,
        folder: Folder,
        journal: Journal,
        start: Checkpoint | None,
        initial: Vector,
        facts: Callable[[], Record],
    ) -> None:
        self._folder, self._journal, self._facts = folder, journal, facts
        self._records = Checkpoints(folder.path / "prepared", mode=PRIVATE)
        self._initial, self._start = initial, start
        self._noted = _newest(journal)
        self._told = int(self._noted.get("round", 0))
        kept, self.notes = self._records.load()
        self.last = self._load(kept)

    def save(self, state: State0) -> None:
        """Make a state durable; only what has changed is written."""
        if state.prepared is not None and state.prepared is not self.last.prepared:
            _save_prepared(self._records, state.round, state.prepared)
        line: Record = {"state": _small_0(state)}
        if state.model_round != self.last.model_round:
            arrays: Arrays = {
                "model": state.model,
                "previous": state.previous,
                "words": state.words,
                "passed_over": np.array(state.passed_over),
            }
            self._folder.checkpoints.save(state.round, arrays, self._facts())
        if state.round > self._told:  # also of a checkpoint whose writer died before its line
            line |= {"round": state.round, "model": model_digest(state.model)}
            line |= {"shown": state.model_hash.hex()}
            self._told = state.round
        self._journal.append(line)
        self.last = state

    def _load(self, kept: Checkpoint | None) -> State0:
        state = State0.initial(self._initial)
        if self._start is not None:
            found = self._start.arrays
            passed_over = bool(found["passed_over"])
            state = State0(
                self._start.round,
                0,
                0,
                found["model"],
                found["previous"],
                found["words"],
                passed_over=passed_over,
            )
        round = int(self._noted.get("round", 0))
        if round < state.round - 1:
            raise _old_journal(self._journal, round, state.round)
        if round < state.round or not self._noted:  # stored, though not noted when it died
            return state
        if round > state.round:
            state = self._one_back(state, round, kept)
        small = self._noted
        prepared = None
        if small["prepared"] is not None:
            prepared = _prepared(kept, round, small["prepared"], self._folder)
        return replace(
            state,
            attempt=small["attempt"],
            opened=small["opened"],
            prepared=prepared,
            received=small.get("received", False),
        )

    def _one_back(self, state: State0, round: int, kept: Checkpoint | None) -> State0:
        """The state of a round whose own checkpoint is damaged, from that of the round before."""
        if self._noted.get("passed_over", False) and round == state.round + 1:
            return replace(state, round=round, passed_over=True)  # stored with this very model
        told = (r.get("shown") for r in self._journal.records if r.get("round") == round)
        shown = next(told, None)
        if shown is None or round > state.round + 1:
            raise _lost(self._journal, round, self._start)
        before = None
        if kept is not None and kept.round == state.round:
            before = _prepared(kept, kept.round, kept.facts["attempt"], self._folder)
        self.notes.append(
            f"the newest model, of round {round}, is damaged: it is computed again from what "
            f"server 1 has stored; events of round {state.round} are lost"
        )
        lost = Lost(bytes.fromhex(shown), before)
        return replace(state, round=round, passed_over=False, lost=lost)


class Store1:
    """Server 1's states; arguments and ``notes`` as for Store0.

    Where its newest checkpoint is damaged it goes back one round, which server 0 helps it over; not
    further. ``seen`` is the latest round that it has ever been in.
    """

    def __init__(
        self, folder: Folder, journal: Journal, start: Checkpoint | None, initial: Vector
    ) -> None:
        self._folder, self._journal = folder, journal
        self._records = Checkpoints(folder.path / "committed", mode=PRIVATE)
        self._initial, self._start = initial, start
        self._noted = _newest(journal)
        self._told = int(self._noted.get("round", 0))
        kept, self.notes = self._records.load()
        self.last = self._load(None if kept is None else _committed(kept))
        self.seen = max(self.last.round, int(self._noted.get("round", 0)))

    def save(self, state: State1) -> None:
        """Make a state durable; only what has changed is written."""
        if state.committed is not None and state.committed is not self.last.committed:
            _save_committed(self._records, state.committed)
        line: Record = {"state": _small_1(state)}
        if state.round != self.last.round:
            arrays: Arrays = {"model": state.model, "previous": state.previous}
            self._folder.checkpoints.save(state.round, arrays, {})
        if state.round > self._told:  # also of a checkpoint whose writer died before its line
            line |= {"round": state.round, "model": model_digest(state.model)}
            self._told = state.round
        self._journal.append(line)
        self.last = state
        self.seen = max(self.seen, state.round)

    def _load(self, kept: Committed | None) -> State1:
        state = State1.initial(self._initial)
        if self._start is not None:
            found = self._start.arrays
            state = State1(0, self._start.round, found["model"], found["previous"])
        round = int(self._noted.get("round", 0))
        if round > state.round + 1:
            raise _lost(self._journal, round, self._start)
        if round < state.round - 1:
            raise _old_journal(self._journal, round, state.round)
        noted = self._noted.get("committed")
        at = None if kept is None else (kept.round, kept.attempt)
        if noted is not None and (at is None or at < tuple(noted)):
            raise _no_record(self._folder, "committed", *noted)
        if kept is not None and kept.round > state.round:
            raise _lost(self._journal, round, self._start)
        boot = int(self._noted.get("boot", 0))
        return State1(boot, state.round, state.model, state.previous, kept)


def _newest(journal: Journal) -> Mapping[str, Any]:
    """The small facts of the last state that the journal knows; empty before the first."""
    states = (record["state"] for record in reversed(journal.records) if "state" in record)
    found: Mapping[str, Any] = next(states, {})
    return found


def _small_0(state: State0) -> Record:
    return {
        "round": state.round,
        "attempt": state.attempt,
        "opened": state.opened,
        "prepared": None if state.prepared is None else state.prepared.attempt,
        "received": state.received,
        "passed_over": state.passed_over,
    }


def _small_1(state: State1) -> Record:
    made = state.committed
    return {
        "boot": state.boot,
        "round": state.round,
        "committed": None if made is None else [made.round, made.attempt],
    }


def _save_prepared(records: Checkpoints, round: int, made: Prepared) -> None:
    facts = {
        "attempt": made.attempt,
        "names": list(made.names),
        "count": made.count,
        "told": dict(made.told),
    }
    records.save(round, {"values": made.values, "own": made.own}, facts)


def _prepared(kept: Checkpoint | None, round: int, attempt: int, folder: Folder) -> Prepared:
    if kept is None or (kept.round, kept.facts["attempt"]) != (round, attempt):
        raise _no_record(folder, "prepared", round, attempt)
    facts = kept.facts
    return Prepared(
        attempt,
        tuple(facts["names"]),
        kept.arrays["values"],
        facts["count"],
        kept.arrays["own"],
        facts["told"],
    )


def _save_committed(records: Checkpoints, made: Committed) -> None:
    facts = {"attempt": made.attempt, "names": list(made.names), "count": made.count}
    records.save(made.round, {"values": made.values, "words": made.words}, facts)


def _committed(kept: Checkpoint) -> Committed:
    facts = kept.facts
    return Committed(
        kept.round,
        facts["attempt"],
        tuple(facts["names"]),
        kept.arrays["values"],
        facts["count"],
        kept.arrays["words"],
    )


def _lost(journal: Journal, round: int, start: Checkpoint | None) -> UserError:
    found = "none" if start is None else f"that of round {start.round}"
    return UserError(
        f"{journal.path} ends at round {round}, but of the checkpoints beside it the newest sound "
        f"one is {found}: too far back; restore all of this folder from a copy of the newest "
        "moment, or begin a run of another name",
        Exit.STORAGE,
    )


def _old_journal(journal: Journal, round: int, stored: int) -> UserError:
    return UserError(
        f"{journal.path} ends at round {round}, but there is a checkpoint of round {stored}: the "
        "journal is an old copy; restore all of this folder from a copy of the newest moment",
        Exit.STORAGE,
    )


def _no_record(folder: Folder, kind: str, round: int, attempt: int) -> UserError:
    return UserError(
        f"{folder.path / kind} does not hold the record of round {round}, attempt {attempt}, "
        "without which that round may not go on: no second sum of a round is ever opened; restore "
        "all of this folder from a copy of the newest moment, or begin a run of another name",
        Exit.STORAGE,
    )

"""What an identity's data has cost in privacy, over all runs: a journal beside the identity's file.

A run's own folder counts what that run has spent. A folder that is emptied forgets it, and the same
federation file started again would draw noise anew from the same data: two answers to one round,
whose epsilons add up. So a worker whose noise is secret also writes every answered round here,
before the answer leaves, and looks here before it begins.
"""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ostraka.app.errors import Exit, UserError
from ostraka.app.parties.keeping import Keeping
from ostraka.drivers.checkpoint import naming
from ostraka.drivers.journal import Journal
from ostraka.drivers.trace import Record, Stream

SUFFIX = ".spent"


@dataclass(frozen=True)
class Spent:
    """What one run has cost: its name, its last answered round, the local epsilon until then."""

    session: str
    run: str
    round: int
    epsilon: float
    delta: float
    unit: str


class Ledger:
    """The ledger of one identity, in one run (``session``, 32 bytes; ``run``, its name).

    It is a reader of events: a `trained` event is on disk when the call returns. Several processes
    may write to one ledger. Raises DamagedJournalError, and OSError with its file.
    """

    def __init__(self, identity: Path, session: bytes, run: str) -> None:
        name = identity.stem if identity.suffix == ".pem" else identity.name
        self.path = identity.with_name(name + SUFFIX)
        self._session, self._run = session.hex(), run

    def __call__(self, record: Record) -> None:
        """Write down an answered round; other events are passed over."""
        if record["event"] != "trained" or record["epsilon"] is None:
            return
        told: Mapping[str, Any] = record["epsilon"]
        line = {"session": self._session, "run": self._run, "round": record["round"]}
        line |= {"epsilon": _finite(told["local"]), "delta": told["delta"], "unit": told["unit"]}
        with self._open() as journal:
            journal.append(line)

    def earlier(self) -> list[Spent]:
        """What the other runs of this identity have cost, oldest first."""
        return [spent for spent in self._newest() if spent.session != self._session]

    def refuse_rerun(self, folder: Path, highest: int) -> None:
        """UserError (74) when this run has answered later rounds than its folder knows of.

        ``highest`` is the last round in the folder's journal, -1 for none.
        """
        own = [spent.round for spent in self._newest() if spent.session == self._session]
        if own and own[0] > highest:
            knows = "none" if highest < 0 else f"none after round {highest}"
            raise UserError(
                f"{folder} is an old copy: {self.path} says that round {own[0]} of this run has "
                f"been answered with this identity, and the folder knows of {knows}; fresh noise "
                "on the same data would cost privacy that nobody accounts for, so this party "
                "stays out: restore its newest state; or give the federation another name, and "
                "the two runs' epsilons add up",
                Exit.STORAGE,
            )

    def warning(self, planned: Mapping[str, Any]) -> str | None:
        """What earlier runs and this one come to together, None where this is the first one.

        ``planned``: what this run may cost, as the accountant tells it.
        """
        before = [spent for spent in self.earlier() if spent.unit == planned["unit"]]
        if not before:
            return None
        runs = ", ".join(f"{s.run} (epsilon {_text(s.epsilon)})" for s in before)
        epsilon = sum(spent.epsilon for spent in before) + _number(planned["local"])
        delta = sum(spent.delta for spent in before) + planned["delta"]
        return (
            f"this identity has answered in earlier runs: {runs}; if that was on the same data, "
            f"privacy spent adds up, with all rounds of this run to epsilon {_text(epsilon)} at "
            f"delta {delta:g}, per {planned['unit']} ({self.path})"
        )

    def _newest(self) -> list[Spent]:
        """The last line of every run, oldest run first."""
        if not self.path.exists():
            return []
        with self._open() as journal:
            found: dict[str, Spent] = {}
            for record in journal.records:
                spent = Spent(**{**record, "epsilon": _number(record["epsilon"])})
                last = found.get(spent.session)
                if last is None or last.round < spent.round:
                    found[spent.session] = spent
        return list(found.values())

    @contextmanager
    def _open(self) -> Iterator[Journal]:
        """The journal, while no other process is at it."""
        with naming(self.path):
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            with Journal(self.path) as journal:
                yield journal
        finally:
            os.close(file)


def keep_ledger(role: Keeping, trace: Stream, identity: Path) -> None:
    """Have a worker with secret noise count in its identity's ledger too, before it begins.

    Raises UserError (74) where its folder has forgotten rounds of this run. What earlier runs have
    spent becomes one of the role's notes; ``trace`` is its stream of events. Nothing happens for
    other roles and without noise.
    """
    if role.me not in role.config.workers or not role.seat.secret:
        return
    planned = role.assembly.epsilon(role.config.federation.rounds, complete=False)
    if planned is None:
        return
    ledger = Ledger(identity, role.seat.session, role.config.federation.name)
    ledger.refuse_rerun(role.folder.path, role.highest)
    warning = ledger.warning(planned)
    if warning is not None:
        role.notes.append(warning)
    trace.add(ledger)


def _finite(epsilon: float) -> float | None:
    """JSON has no infinity."""
    return epsilon if math.isfinite(epsilon) else None


def _number(epsilon: float | None) -> float:
    return math.inf if epsilon is None else epsilon


def _text(epsilon: float) -> str:
    return "infinite" if math.isinf(epsilon) else f"{epsilon:.2f}"

"""What a worker of the trust model `trusted` does and keeps.

Whatever a crash must not undo is on disk before anything that follows from it leaves. A worker
stores, before it sends an update, what it needs to make the same update again - or, with [privacy],
that it has sent one, so that it never makes another from the same data - and the trained model
before it says goodbye.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ostraka.app.parties.keeping import NEVER, Keeping, OneAway, Turn, turn_of
from ostraka.app.parties.roles import Seat
from ostraka.app.parties.telling import Answers
from ostraka.app.stages import plan_of
from ostraka.drivers.trace import Record
from ostraka.learn.initial import model_digest
from ostraka.net import Net
from ostraka.protocols.central_round import Model
from ostraka.trust import trusted

Vector = npt.NDArray[np.float32]


class WorkerRole(Keeping):
    """A worker: answers models with updates from its own data."""

    name = "worker"
    quorum = 1

    def __init__(self, seat: Seat) -> None:
        d = seat.assembly.initial.size
        super().__init__(seat, OneAway(d, Model.form(d=d)))
        self.plan = plan_of(self.config, self.recipe)
        self._trainer = self.assembly.trainers[self.me]
        self._stored: Record | None = None
        self._before = self.highest
        self._turn: Turn = max((turn_of(r["turn"]) for r in self.journal.records), default=NEVER)
        self._digest = ""
        self._answers = Answers(self)
        self.trace = self._answers.trace
        if not seat.secret:  # what is promised before it is computed may never have been stored
            self.must_agree()
        if self.start is not None:
            self._trainer.restore_history(dict(self.start.arrays))

    @property
    def resumed(self) -> bool:
        """Whether an earlier process took part."""
        return self.highest >= 0

    def held(self, peer: str) -> str:
        """The last turn of the server that this worker has stored."""
        return f"epoch.{self._turn[0]}/round.{self._turn[1]}" if self._turn[1] >= 0 else ""

    def ready(self, reports: Mapping[str, str]) -> None:
        """Notice an old copy of the state: the server has counted updates that it knows nothing of.

        Raises UserError (74) where an answer would draw noise anew from the same data.
        """
        counted = turn_of(reports.get(self.plan.server, ""))[1]
        if counted > self.highest:
            self.old_copy(self.plan.server, counted, self.trace)

    async def program(self, net: Net) -> Vector:
        """The trust model's worker; what it ends with is stored before the server sees it leave."""
        d = self.assembly.initial.size
        final = await trusted.worker(net, self.plan, self.train, d, admit=self.admit)
        self._stored = self._answers.results(final)
        return final

    def admit(self, turn: Turn, model: Vector) -> bool:
        """Whether this model may be answered: no replay, no other model for a round once seen."""
        round, digest = turn[1], model_digest(model)
        known = self.rounds.get(round)
        if known not in (None, digest):
            return self._ignore(round, "inconsistent", "another model was answered in this round")
        if round < self.highest - 1:
            return self._ignore(round, "replay", f"round {self.highest} was answered already")
        if self.seat.secret and round <= self._before:
            return self._ignore(
                round, "policy", "it may have been answered before a restart; noise is drawn once"
            )
        if self.seat.secret and round < self.highest:
            return self._ignore(round, "policy", "a later round was answered with fresh noise")
        self._turn = max(self._turn, turn)
        self._digest = digest
        return True

    def train(self, round: int, model: Vector) -> Vector:
        """The update of a round, stored (or with privacy: promised) before it can leave."""
        start = time.perf_counter()
        if self.seat.secret:  # from here on this round counts as answered, whatever happens
            self._note(round)
        update = self._trainer.update(round, model)
        self.folder.checkpoints.save(round, self._trainer.history(), {})
        self._note(round)
        self._answers.trained(round, model, time.perf_counter() - start)
        return np.asarray(update)

    def results(self, final: Vector | None) -> Record:
        """The summary; all was written when the program ended."""
        assert self._stored is not None, "the program ends with it"
        return self._stored

    def begin(self) -> None:
        """Say what this is."""
        self._answers.begin()

    def _note(self, round: int) -> None:
        self._answers.note(round, self._digest, f"epoch.{self._turn[0]}/round.{self._turn[1]}")

    def _ignore(self, round: int, reason: str, detail: str) -> bool:
        return self._answers.ignored(round, self.plan.server, reason, detail)

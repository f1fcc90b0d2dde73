"""What a worker of the trust model `two-server` does and keeps.

It stores a round before it sends anything of it and, started again, stays out of that round: other
bytes for the same round would be another update, and could tell more than one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ostraka.app.parties import two_server_links as links
from ostraka.app.parties.keeping import NEVER, Keeping, Turn, turn_of
from ostraka.app.parties.roles import Seat
from ostraka.app.parties.telling import Answers
from ostraka.drivers.trace import Record
from ostraka.learn.initial import model_digest
from ostraka.net import Net
from ostraka.trust import two_server

Vector = npt.NDArray[np.float32]


class TwoServerWorkerRole(Keeping):
    """A worker: answers models that both servers state with parts of updates from its own data."""

    name = "worker"
    quorum = 2

    def __init__(self, seat: Seat) -> None:
        ways = links.SecureWays(seat)
        super().__init__(seat, ways)
        self.plan = ways.plan
        self.vital = frozenset({self.plan.server_0, self.plan.server_1})
        self._trainer = self.assembly.trainers[self.me]
        self._stored: Record | None = None
        self._before = self.highest
        self._trained = -1
        self._turn: Turn = max((turn_of(r["turn"]) for r in self.journal.records), default=NEVER)
        self._answers = Answers(self)
        self.trace = self._answers.trace
        if self.start is not None:
            self._trainer.restore_history(dict(self.start.arrays))

    @property
    def resumed(self) -> bool:
        """Whether an earlier process took part."""
        return self.highest >= 0

    def held(self, peer: str) -> str:
        """The last turn that this worker has stored."""
        return links.turn_text(self._turn)

    def ready(self, reports: Mapping[str, str]) -> None:
        """Notice an old copy of the state: an operator has an upload that it knows nothing of.

        Raises UserError (74) where an answer would draw noise anew from the same data.
        """
        told = {peer: turn_of(text)[0] for peer, text in reports.items() if turn_of(text) != NEVER}
        for peer, round in told.items():
            if round > self.highest:
                self.old_copy(peer, round, self.trace)
                return

    async def program(self, net: Net) -> Vector:
        """The trust model's worker; what it ends with is stored before the others see it leave."""
        final = await two_server.worker(
            net,
            self.plan,
            self.train,
            own=self.seat.own,
            sign=self.seat.sign(),
            admit=self.admit,
            trace=self.trace,
        )
        self._stored = self._answers.results(final)
        return final

    def admit(self, turn: Turn, model: Vector) -> bool:
        """Whether this model may be answered; if so, that it is answered is on disk.

        A further attempt of a round that this process has answered is answered with the same
        update; what an earlier process may have answered never is.
        """
        round, digest = turn[0], model_digest(model)
        if round <= self._before:
            return self._ignore(
                round, "policy", "it may have been answered before a restart; one answer is sent"
            )
        if self.rounds.get(round) not in (None, digest):
            return self._ignore(round, "inconsistent", "another model was answered in this round")
        if round < self.highest:
            return self._ignore(round, "replay", f"round {self.highest} was answered already")
        self._turn = max(self._turn, turn)
        self._answers.note(round, digest, links.turn_text(turn))
        return True

    def train(self, round: int, model: Vector) -> Vector:
        """The update of a round; its momentum is stored before it can leave."""
        start = time.perf_counter()
        update = np.asarray(self._trainer.update(round, model))
        if round != self._trained:  # a further attempt sends the same again
            self._trained = round
            self.folder.checkpoints.save(round, self._trainer.history(), {})
            self._answers.trained(round, model, time.perf_counter() - start)
        return update

    def begin(self) -> None:
        """Say what this is."""
        self._answers.begin()

    def results(self, final: Vector | None) -> Record:
        """The summary; all was written when the program ended."""
        assert self._stored is not None, "the program ends with it"
        return self._stored

    def _ignore(self, round: int, reason: str, detail: str) -> bool:
        return self._answers.ignored(round, self.plan.server_0, reason, detail)

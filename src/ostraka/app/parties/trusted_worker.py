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

from ostraka.app.errors import Exit, UserError
from ostraka.app.parties.keeping import NEVER, Keeping, turn_of
from ostraka.app.parties.roles import Seat
from ostraka.app.simulate import limits, plan_of
from ostraka.drivers.trace import Record
from ostraka.learn.initial import model_digest
from ostraka.net import Net
from ostraka.protocols.central_round import Model, Turn
from ostraka.trust import trusted

Vector = npt.NDArray[np.float32]


class WorkerRole(Keeping):
    """A worker: answers models with updates from its own data."""

    name = "worker"

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        self.plan = plan_of(self.config, self.recipe)
        self.limits = limits(self.assembly.initial.size)
        self._secret = seat.secret
        self._trainer = self.assembly.trainers[self.me]
        self._stored: Record | None = None
        self._before = self.highest
        self._turn: Turn = max((turn_of(r["turn"]) for r in self.journal.records), default=NEVER)
        # A worker's events are its own diary: nothing is computed from them, nothing is cut.
        size = folder.events.stat().st_size if folder.events.exists() else 0
        self.trace = self.open_events(0.0, size)
        if not self._secret:  # what is promised before it is computed may never have been stored
            self.must_agree()
        if self.start is not None:
            self._trainer.restore_history(dict(self.start.arrays))

    quorum = 1

    @property
    def resumed(self) -> bool:
        """Whether an earlier process took part."""
        return self.highest >= 0

    def expects(self, peer: str) -> Mapping[str, int]:
        """The server sends models, nothing else."""
        form = Model.form(d=self.assembly.initial.size)
        return {form.kind: form.max_bytes}

    def held(self, peer: str) -> str:
        """The last turn of the server that this worker has stored."""
        return f"epoch.{self._turn[0]}/round.{self._turn[1]}" if self._turn[1] >= 0 else ""

    def ready(self, reports: Mapping[str, str]) -> None:
        """Notice an old copy of the state: the server has counted updates that it knows nothing of.

        Raises UserError (74) where an answer would draw noise anew from the same data.
        """
        counted = turn_of(reports.get(self.plan.server, ""))[1]
        if counted <= self.highest:
            return
        text = (
            f"{self.folder.path} is an old copy: {self.plan.server} has an update of {self.me} for "
            f"round {counted}, and the journal knows of none after round {self.highest}"
        )
        if self._secret:
            raise UserError(
                f"{text}; fresh noise on the same data would cost privacy that nobody accounts "
                "for, so this party stays out: restore its newest state, or leave the run",
                Exit.STORAGE,
            )
        self.trace("warning", text=f"{text}; it goes on with the momentum of that time")

    async def program(self, net: Net) -> Vector:
        """The trust model's worker; what it ends with is stored before the server sees it leave."""
        d = self.assembly.initial.size
        final = await trusted.worker(net, self.plan, self.train, d, admit=self.admit)
        self._stored = self.write(self.finish(final), final, report=False)
        return final

    def admit(self, turn: Turn, model: Vector) -> bool:
        """Whether this model may be answered: no replay, no other model for a round once seen."""
        round, digest = turn[1], model_digest(model)
        known = self.rounds.get(round)
        if known not in (None, digest):
            return self._ignore(round, "inconsistent", "another model was answered in this round")
        if round < self.highest - 1:
            return self._ignore(round, "replay", f"round {self.highest} was answered already")
        if self._secret and round <= self._before:
            return self._ignore(
                round, "policy", "it may have been answered before a restart; noise is drawn once"
            )
        if self._secret and round < self.highest:
            return self._ignore(round, "policy", "a later round was answered with fresh noise")
        self._turn = max(self._turn, turn)
        self._digest = digest
        return True

    def train(self, round: int, model: Vector) -> Vector:
        """The update of a round, stored (or with privacy: promised) before it can leave."""
        start = time.perf_counter()
        if self._secret:  # from here on this round counts as answered, whatever happens
            self._note(round)
        update = self._trainer.update(round, model)
        self.folder.checkpoints.save(round, self._trainer.history(), {})
        self._note(round)
        seconds = round_s(time.perf_counter() - start)
        self.trace(
            "trained",
            round=round,
            rounds=self.plan.rounds,
            train_s=seconds,
            **self._own(round, model),
        )
        return np.asarray(update)

    def results(self, final: Vector) -> Record:
        """The summary; all was written when the program ended."""
        assert self._stored is not None, "the program ends with it"
        return self._stored

    def finish(self, final: Vector) -> Record:
        """What a worker's run came to."""
        if self._stored is not None:
            return self._stored
        summary = {
            "trust": self.config.federation.trust,
            "role": self.name,
            "party": self.me,
            "rounds": self.plan.rounds,
            "answered": len(self.rounds),
            "epsilon": self.assembly.epsilon(len(self.rounds), complete=False),
            "model_digest": model_digest(final),
        }
        if self.assembly.held_out:
            summary |= self.assembly.evaluate(final)
        self.trace("finished", **summary)
        self.log.sync()
        return summary

    def begin(self) -> None:
        """Say what this is."""
        if self.resumed:
            self.trace("resumed", round=self.highest + 1)
        for text in self.notes:
            self.trace("warning", text=text)

    def _note(self, round: int) -> None:
        if self.rounds.get(round) == self._digest and self._noted == self._turn:
            return
        at = f"epoch.{self._turn[0]}/round.{self._turn[1]}"
        self.journal.append({"round": round, "model": self._digest, "turn": at})
        self.rounds[round] = self._digest
        self._noted = self._turn

    _noted: Turn = NEVER
    _digest: str = ""

    def _own(self, round: int, model: Vector) -> Record:
        """Privacy spent so far, and now and then how well the model does on what was held out."""
        found: Record = {"epsilon": self.assembly.epsilon(len(self.rounds), complete=False)}
        if self.assembly.held_out and round % self.config.evaluate_every == 0:
            found |= self.assembly.evaluate(model)
        return found

    def _ignore(self, round: int, reason: str, detail: str) -> bool:
        self.trace("ignored", round=round, party=self.plan.server, reason=reason, detail=detail)
        return False


def round_s(seconds: float) -> float:
    """Seconds as events tell them."""
    return round(seconds, 4)

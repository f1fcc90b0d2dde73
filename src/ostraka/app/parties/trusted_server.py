"""What the server of the trust model `trusted` does and keeps.

Every round's model is on disk before it is shown to anybody.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ostraka.app.errors import Exit, UserError
from ostraka.app.parties.keeping import Keeping, OneAway, turn_at, turn_of
from ostraka.app.parties.roles import Seat
from ostraka.app.parties.telling import Chronicle
from ostraka.app.stages import plan_of
from ostraka.drivers.checkpoint import Checkpoint
from ostraka.drivers.trace import Record
from ostraka.learn.initial import model_digest
from ostraka.net import Net
from ostraka.protocols.central_round import PATH, Update
from ostraka.trust import trusted
from ostraka.trust.trusted import State

Vector = npt.NDArray[np.float32]


class ServerRole(Keeping):
    """The trusted server: rounds, a checkpoint after each, evaluation, the summary."""

    name = "server"

    def __init__(self, seat: Seat) -> None:
        d = seat.assembly.initial.size
        super().__init__(seat, OneAway(d, Update.form(d=d)))
        self.plan = plan_of(self.config, self.recipe)
        self.sees_off = frozenset(self.peers)
        epochs = [r["epoch"] for r in self.journal.records if "epoch" in r]
        stored = 0 if self.start is None else int(self.start.facts.get("epoch", 0))
        self.epoch = max([*epochs, stored], default=0)
        self.chronicle = Chronicle(self)
        self.trace, self.tally = self.chronicle.trace, self.chronicle.tally
        self.state = self._state(self.start)
        self._first = self.state.round
        self.must_agree()
        self._journal_is_of_this_time()

    @property
    def quorum(self) -> int:
        """How many workers must be there to begin; nobody once all rounds are done."""
        if self.state.round >= self.plan.rounds:
            return 0
        return max(1, len(self.peers) - self.plan.f - (self.plan.dropouts or 0))

    @property
    def resumed(self) -> bool:
        """Whether an earlier process began this run."""
        return self.epoch > 0

    def held(self, peer: str) -> str:
        """The last round for which an update of this worker came: in the stored model, or since.

        A worker that draws secret noise learns from it that its own state is an old copy.
        """
        heard = None if self.traffic is None else self.traffic.heard.get(peer)
        round = max(self.chronicle.answered.get(peer, -1), turn_at(heard, PATH)[1])
        return "" if round < 0 else f"epoch.{self.epoch}/round.{round}"

    def ready(self, reports: Mapping[str, str]) -> None:
        """Refuse an old copy of the state: workers remember later rounds than it knows.

        More than f of them must say so: one liar cannot stop a server.
        """
        ours = (self.epoch, max(self.highest, self.state.round))
        beyond = sorted(peer for peer, text in reports.items() if turn_of(text) > ours)
        if len(beyond) > self.plan.f:
            raise UserError(
                f"{self.folder.path} is an old copy: {', '.join(beyond)} have seen later rounds "
                f"than epoch {ours[0]}, round {ours[1]}; restore the newest state, "
                "or begin a run of another name",
                Exit.STORAGE,
            )

    async def program(self, net: Net) -> State:
        """The trust model's server, from the stored state."""
        return await trusted.server(
            net, self.plan, self.state, commit=self._commit, trace=self.trace
        )

    def results(self, final: State | None) -> Record:
        """Write what the run leaves behind; gives the summary."""
        return self.chronicle.results((final or self.state).model)

    def begin(self) -> None:
        """Say what this is: the first event of a run, or that it goes on."""
        self.chronicle.begin(self.state.round if self.resumed else None)

    def _journal_is_of_this_time(self) -> None:
        """A round is stored just before it is noted, so the journal lacks at most the last one."""
        if self.state.round - max(self.highest, 0) > 1:
            raise UserError(
                f"{self.journal.path} ends at round {max(self.highest, 0)}, but there is a "
                f"checkpoint of round {self.state.round}: the journal is an old copy; restore "
                "both from a copy of the same moment, or leave the run",
                Exit.STORAGE,
            )

    def _state(self, start: Checkpoint | None) -> State:
        if start is None:
            initial = State.initial(self.assembly.initial)
            return State(0, self.epoch, initial.model, initial.previous)
        model = start.arrays["model"].astype(np.float32)
        previous = start.arrays["previous"].astype(np.float32)
        if previous.size == 0:
            previous = np.zeros_like(model)
        return State(start.round, self.epoch, model, previous)

    def _commit(self, state: State) -> None:
        """Store the state, then tell: nothing of it has left yet."""
        if state.round > self._first:
            self._store(state)
        else:
            self.journal.append({"epoch": state.epoch})
            if state.round > 0:  # stored, but maybe not acknowledged when an earlier process died
                self._acknowledge(state.round, self._checked(state))
        if state.round > 0:
            self.chronicle.tell(state.round, state.model)

    def _checked(self, state: State) -> str:
        """The digest of the model, which must be the one of an earlier process."""
        digest = model_digest(state.model)
        known = self.rounds.get(state.round)
        if known not in (None, digest):
            raise UserError(
                f"round {state.round} was acknowledged with the model {known} and now gives "
                f"{digest}: {self.folder.path} lost a checkpoint, and the workers that answered "
                "are not the same; the run cannot go on from it",
                Exit.STORAGE,
            )
        return digest

    def _acknowledge(self, round: int, digest: str) -> None:
        """From here on this round's model may be shown, and never be another one."""
        if round not in self.rounds:
            self.journal.append({"round": round, "model": digest})
            self.rounds[round] = digest

    def _store(self, state: State) -> None:
        digest = self._checked(state)
        previous = state.previous if self.plan.rule.uses_reference else state.previous[:0]
        facts = {"epoch": state.epoch, **self.chronicle.facts()}
        start = time.perf_counter()
        arrays = {"model": state.model, "previous": previous}
        self.folder.checkpoints.save(state.round, arrays, facts)
        self._acknowledge(state.round, digest)
        self.chronicle.count("store", start)

"""What a real party of the trust model `trusted` does and keeps: the server's role, the worker's.

Whatever a crash must not undo is on disk before anything that follows from it leaves. The server
stores every round's model before it shows it to anybody; a worker stores, before it sends an
update, what it needs to make the same update again - or, with [privacy], that it has sent one, so
that it never makes another from the same data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ostraka.app.assemble import Assembly
from ostraka.app.build import Recipe
from ostraka.app.config import Config
from ostraka.app.errors import Exit, UserError
from ostraka.app.folder import Folder
from ostraka.app.simulate import limits, plan_of
from ostraka.app.summary import Tally
from ostraka.drivers.checkpoint import Checkpoint
from ostraka.drivers.journal import Journal
from ostraka.drivers.trace import JsonLines, Record, Stream
from ostraka.learn.initial import model_digest
from ostraka.net import Net
from ostraka.protocols.central_round import Model, Turn, Update
from ostraka.trust import trusted
from ostraka.trust.trusted import State

Vector = npt.NDArray[np.float32]
EVENTS_LOST = "events.jsonl is shorter than its checkpoint says: some of its events are lost"


class Traffic(Protocol):
    """How many bytes of messages have passed so far."""

    bytes_sent: int
    bytes_received: int


class Keeping:
    """What both roles have: a folder with journal, events and checkpoints, and their past."""

    def __init__(self, config: Config, recipe: Recipe, assembly: Assembly, folder: Folder) -> None:
        self.config, self.recipe, self.assembly, self.folder = config, recipe, assembly, folder
        self.plan = plan_of(config, recipe)
        self.limits = limits(assembly.initial.size)
        self.notes: list[str] = []
        self.journal = Journal(folder.journal)
        if self.journal.dropped is not None:
            self.notes.append(self.journal.dropped)
        self.start, damages = folder.checkpoints.load()
        self.notes += damages
        self.rounds: dict[int, str] = {
            r["round"]: r["model"] for r in self.journal.records if "round" in r
        }
        if self.start is None and self.rounds:
            self._nothing_to_go_on_with()

    @property
    def highest(self) -> int:
        """The highest round that the journal knows; -1 before the first."""
        return max(self.rounds, default=-1)

    def open_events(self, elapsed_s: float, size: int) -> tuple[JsonLines, Stream]:
        """The stream of events, which goes on where the checkpoint left it."""
        if not self.folder.cut_events(size):
            self.notes.append(EVENTS_LOST)
        log = JsonLines(self.folder.events)
        return log, Stream(log, elapsed_s=elapsed_s)

    def _nothing_to_go_on_with(self) -> None:
        """A journal without a sound checkpoint: allowed for the very first round alone."""
        if self.highest > 1:
            raise UserError(
                f"{self.folder.path} has a journal of {self.highest} rounds but no sound "
                "checkpoint: restore it from a copy of the same moment, or leave the run",
                Exit.STORAGE,
            )


class ServerRole(Keeping):
    """The trusted server: rounds, a checkpoint after each, evaluation, the summary."""

    name = "server"
    reports = True

    def __init__(self, config: Config, recipe: Recipe, assembly: Assembly, folder: Folder) -> None:
        super().__init__(config, recipe, assembly, folder)
        start = self.start
        facts: Mapping[str, Any] = {} if start is None else start.facts
        self.peers = self.plan.workers
        self.tally = Tally(config, recipe)
        self.epoch = max((r["epoch"] for r in self.journal.records if "epoch" in r), default=0)
        self.traffic: Traffic | None = None
        self._log, self.trace = self.open_events(
            float(facts.get("elapsed_s", 0.0)), int(facts.get("events", 0))
        )
        self.trace.add(self.tally)
        self._bytes_before: dict[str, int] = dict(facts.get("bytes", {}))
        self._seconds: dict[str, float] = dict(facts.get("seconds", {}))
        if start is not None:
            self.tally.restore(start.facts["tally"])
        self.state = self._state(start)
        self._first = self.state.round
        if self.highest - self.state.round > 1:
            raise UserError(
                f"the checkpoint of round {self.highest} in {self.folder.path} is missing or "
                f"damaged and the one before it too: round {self.state.round} is too far back",
                Exit.STORAGE,
            )

    @property
    def quorum(self) -> int:
        """How many workers must be there to begin."""
        return max(1, len(self.peers) - self.plan.f - (self.plan.dropouts or 0))

    @property
    def resumed(self) -> bool:
        """Whether an earlier process began this run."""
        return self.epoch > 0

    def expects(self, peer: str) -> Mapping[str, int]:
        """Workers send updates, nothing else."""
        form = Update.form(d=self.assembly.initial.size)
        return {form.kind: form.max_bytes}

    def held(self, peer: str) -> str:
        """A server keeps nothing of a worker that a worker could need."""
        return ""

    def ready(self, reports: Mapping[str, str]) -> None:
        """Refuse an old copy of the state: workers remember later rounds than it knows.

        More than f of them must say so: one liar cannot stop a server.
        """
        ours = (self.epoch, max(self.highest, self.state.round))
        beyond = sorted(peer for peer, text in reports.items() if _turn(text) > ours)
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

    def finish(self, final: State) -> Record:
        """The summary of the whole run, and its last event."""
        summary = {**self.tally.summary(model_digest(final.model)), "role": self.name}
        self.trace("finished", **summary)
        self._log.sync()
        return summary

    def model(self, final: State) -> Vector:
        """The trained model."""
        return final.model

    def close(self) -> None:
        """Let the files go."""
        self.journal.close()
        self._log.sync()

    def begin(self) -> None:
        """Say what this is: the first event of a run, or that it goes on."""
        if self.resumed:
            self.trace("resumed", round=self.state.round)
        else:
            about = {**self.tally.about(self.assembly), "attackers": []}
            self.trace("run", **about)
        for text in (*self.notes, *self.recipe.warnings):
            self.trace("warning", text=text)

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
        if state.round > 0:
            self._tell(state)

    def _store(self, state: State) -> None:
        digest = model_digest(state.model)
        known = self.rounds.get(state.round)
        if known not in (None, digest):
            raise UserError(
                f"round {state.round} was acknowledged with the model {known} and now gives "
                f"{digest}: {self.folder.path} lost a checkpoint, and the workers that answered "
                "are not the same; the run cannot go on from it",
                Exit.STORAGE,
            )
        previous = state.previous if self.plan.rule.uses_reference else state.previous[:0]
        facts = {
            "events": self._log.size(),
            "bytes": self._bytes(),
            "elapsed_s": self.trace.elapsed_s,
            "seconds": self._seconds,
            "tally": self.tally.state(),
        }
        self._log.sync()
        start = time.perf_counter()
        arrays = {"model": state.model, "previous": previous}
        self.folder.checkpoints.save(state.round, arrays, facts)
        self.journal.append({"round": state.round, "model": digest})
        self.rounds[state.round] = digest
        self._count("store", start)

    def _tell(self, state: State) -> None:
        done, rounds = state.round, self.plan.rounds
        evaluation: dict[str, float] = {}
        if done % self.config.evaluate_every == 0 or done == rounds:
            start = time.perf_counter()
            evaluation = self.assembly.evaluate(state.model)
            self._count("evaluate", start)
        self.trace(
            "round",
            round=done,
            rounds=rounds,
            **evaluation,
            bytes_sent=self._bytes(),
            seconds=self._phases(),
            epsilon=None,
        )

    def _count(self, phase: str, start: float) -> None:
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - start

    def _phases(self) -> dict[str, float]:
        rest = max(0.0, self.trace.elapsed_s - sum(self._seconds.values()))
        return {k: round(s, 4) for k, s in {**self._seconds, "waiting and rule": rest}.items()}

    def _bytes(self) -> dict[str, int]:
        """Bytes of messages, sent and received by this server, earlier processes included."""
        sent = 0 if self.traffic is None else self.traffic.bytes_sent
        received = 0 if self.traffic is None else self.traffic.bytes_received
        before = self._bytes_before
        return {
            "server": sent + before.get("server", 0),
            "workers": received + before.get("workers", 0),
        }


class WorkerRole(Keeping):
    """A worker: answers models with updates from its own data."""

    name = "worker"
    reports = False

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        assembly: Assembly,
        folder: Folder,
        me: str,
        *,
        secret: bool,
    ) -> None:
        super().__init__(config, recipe, assembly, folder)
        self.me = me
        self.peers = (self.plan.server,)
        self.traffic: Traffic | None = None
        self._secret = secret
        self._trainer = assembly.trainers[me]
        self._before = self.highest
        self._turn: Turn = max((_turn(r["turn"]) for r in self.journal.records), default=(0, -1))
        # A worker's events are its own diary: nothing is computed from them, nothing is cut.
        size = folder.events.stat().st_size if folder.events.exists() else 0
        self._log, self.trace = self.open_events(0.0, size)
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
        """The server remembers nothing for a worker."""

    async def program(self, net: Net) -> Vector:
        """The trust model's worker."""
        d = self.assembly.initial.size
        return await trusted.worker(net, self.plan, self.train, d, admit=self.admit)

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

    def finish(self, final: Vector) -> Record:
        """What a worker's run came to."""
        summary = {
            "trust": self.config.federation.trust,
            "role": self.name,
            "party": self.me,
            "rounds": self.plan.rounds,
            "answered": len(self.rounds),
            "epsilon": self.assembly.epsilon(len(self.rounds), complete=False),
            "model_digest": model_digest(final),
        }
        self.trace("finished", **summary)
        self._log.sync()
        return summary

    def model(self, final: Vector) -> Vector:
        """The trained model."""
        return final

    def begin(self) -> None:
        """Say what this is."""
        if self.resumed:
            self.trace("resumed", round=self.highest + 1)
        for text in self.notes:
            self.trace("warning", text=text)

    def close(self) -> None:
        """Let the files go."""
        self.journal.close()
        self._log.sync()

    def _note(self, round: int) -> None:
        if self.rounds.get(round) == self._digest and self._noted == self._turn:
            return
        at = f"epoch.{self._turn[0]}/round.{self._turn[1]}"
        self.journal.append({"round": round, "model": self._digest, "turn": at})
        self.rounds[round] = self._digest
        self._noted = self._turn

    _noted: Turn = (0, -1)
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


def _turn(text: str) -> Turn:
    """The turn that a label text names; before all others for anything else."""
    try:
        epoch, number = (int(part.partition(".")[2]) for part in text.split("/"))
    except ValueError:
        return (0, -1)
    return (epoch, number)

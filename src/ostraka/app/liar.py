"""A rehearsal's attacker: a worker that lies, over real connections.

It is `ostraka run`'s attacker in a process of its own: it knows everything, because it computes
every honest worker's update itself, from the public seed. So it needs all parties' data, which
only a rehearsal has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ostraka.app.assemble import assemble
from ostraka.app.build import Recipe, attack_of
from ostraka.app.config import Config, Simulation
from ostraka.app.folder import Folder
from ostraka.app.keeping import EventLog
from ostraka.app.output import write_party
from ostraka.app.simulate import Coalition, Stopwatch, limits, plan_of
from ostraka.attacks.parties import PARTY_ATTACKS, corrupt_worker
from ostraka.drivers.trace import Record, Stream
from ostraka.learn.initial import model_digest
from ostraka.net import Net
from ostraka.protocols.central_round import Model
from ostraka.trust import trusted

Vector = npt.NDArray[np.float32]


class LiarRole:
    """One of the attackers of a rehearsal; keeps what it needs to lie alike after a restart."""

    name = "worker"
    sees_off = False
    resumed = False
    quorum = 1

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        folder: Folder,
        me: str,
        attack: str,
        base: Path,
        data_dir: Path | None,
    ) -> None:
        attackers = None
        if config.simulation.attack != attack:  # this party alone mounts another one
            other = config.model_copy(update={"simulation": Simulation(attack=attack)})
            recipe, attackers = replace(recipe, attack=attack_of(other)), (me,)
        self._recipe, self.me = recipe, me
        self.config = config
        self.plan = plan_of(config, recipe)
        self.peers = (self.plan.server,)
        self.assembly = assemble(config, recipe, base, data_dir, attackers)
        self.attackers = self.assembly.attackers
        self.limits = limits(self.assembly.initial.size)
        self.traffic: Any = None
        self._folder = folder
        self._log = EventLog(folder.events)
        self.trace = Stream(self._log)
        trainers = self.assembly.trainers
        self._honest = {n: t for n, t in trainers.items() if n not in self.attackers}
        self._coalition = Coalition(
            recipe.attack, self._honest, len(self.attackers), config.federation.seed
        )
        self._watch = Stopwatch()
        # Who lies with an update of its own needs no other's, who breaks the protocol neither.
        alone = self.assembly.poisons_data or recipe.attack.name in PARTY_ATTACKS
        self._played = {me: trainers[me]} if alone else self._honest
        self._restore()

    def expects(self, peer: str) -> Mapping[str, int]:
        """The server sends models."""
        form = Model.form(d=self.assembly.initial.size)
        return {form.kind: form.max_bytes}

    def held(self, peer: str) -> str:
        """Nothing."""
        return ""

    def ready(self, reports: Mapping[str, str]) -> None:
        """Nothing to check."""

    def begin(self) -> None:
        """Say what this is."""
        self.trace("warning", text=f"{self.me} mounts the attack {self._recipe.attack.name}")

    def close(self) -> None:
        """Let the log go."""
        self._log.sync()

    async def program(self, net: Net) -> Any:
        """The corrupt worker."""
        d, attack = self.assembly.initial.size, self._recipe.attack
        if attack.name in PARTY_ATTACKS:
            return await corrupt_worker(net, self.plan.server, attack, self._own, d)
        train = self._own if self.assembly.poisons_data else self._lie
        return await trusted.worker(net, self.plan, train, d)

    def _restore(self) -> None:
        """Take up the trainers that it plays where an earlier process left them."""
        start, _ = self._folder.checkpoints.load()
        if start is None:
            return
        for name, trainer in self._played.items():
            kept = ("rounds", "momenta")
            trainer.restore_history({key: start.arrays[f"{name}/{key}"] for key in kept})

    def _play(self, round: int, model: Vector) -> None:
        """Train as at home, for everybody that it plays, and keep how far they are."""
        arrays: dict[str, Any] = {}
        for name, trainer in self._played.items():
            trainer.update(round, model)
            arrays |= {f"{name}/{key}": value for key, value in trainer.history().items()}
        self._folder.checkpoints.save(round, arrays, {})

    def _own(self, round: int, model: Vector) -> Vector:
        self._play(round, model)
        update: Vector = self._played[self.me].update(round, model)
        return update

    def _lie(self, round: int, model: Vector) -> Vector:
        self._play(round, model)
        return self._coalition.row(self.attackers.index(self.me), round, model, self._watch)

    def results(self, final: Vector | None) -> Record:
        """Write what there is; gives the summary."""
        weights = self.assembly.weights(self.model(final))
        return write_party(self._folder, self.finish(final), weights, report=False)

    def model(self, final: Vector | None) -> Vector:
        """The trained model, if the server sent it."""
        return self.assembly.initial if final is None else final

    def finish(self, final: Vector | None) -> Record:
        """What there is to say."""
        return {
            "trust": self.config.federation.trust,
            "role": self.name,
            "party": self.me,
            "rounds": self.plan.rounds,
            "answered": self.plan.rounds,
            "epsilon": None,
            "model_digest": model_digest(self.model(final)),
        }

"""What server 0 of the trust model `two-server` does and keeps; it leads.

Every attempt is on disk before anybody hears of it, its part of a sum before server 1 commits, and
every round's model before it is shown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from ostraka.app.parties import two_server_links as links
from ostraka.app.parties.keeping import Keeping
from ostraka.app.parties.roles import Seat
from ostraka.app.parties.telling import Chronicle
from ostraka.app.parties.two_server_storage import Store0
from ostraka.drivers.cores import all_cores
from ostraka.drivers.trace import Record
from ostraka.net import Net
from ostraka.trust import two_server
from ostraka.trust.two_server import State0


class Server0Role(Keeping):
    """Server 0: rounds, a checkpoint after each, evaluation, the summary."""

    name = "server-0"

    def __init__(self, seat: Seat) -> None:
        ways = links.SecureWays(seat)
        super().__init__(seat, ways)
        self.plan = ways.plan
        self.sees_off = frozenset(self.peers)
        self.chronicle = Chronicle(self)
        self.trace = self.chronicle.trace
        initial = self.assembly.initial
        self.store = Store0(self.folder, self.journal, self.start, initial, self.chronicle.facts)
        self.notes += self.store.notes
        self.done = self.ended_before and self.state.lost is None
        # Once all rounds are done only server 1 is asked for anything.
        over = self.state.round >= self.plan.rounds
        self.vital = frozenset({self.plan.server_1}) if over else links.others(self.plan, self.me)
        workers = max(1, self.plan.n - self.plan.f - (self.plan.dropouts or 0))
        self.quorum = 1 if over else 2 + workers

    @property
    def state(self) -> State0:
        """What is stored."""
        return self.store.last

    def held(self, peer: str) -> str:
        """The last turn for which an upload of this worker came: in the stored model, or since."""
        stored = (self.chronicle.answered.get(peer, -1), 0)
        heard = links.heard_of(self.traffic, peer)
        return links.turn_text(max(heard, stored)) if stored[0] >= 0 else links.turn_text(heard)

    def ready(self, reports: Mapping[str, str]) -> None:
        """Refuse an old copy of the state (74): workers remember later attempts than it knows."""
        ours = (self.state.round, self.state.attempt)
        links.refuse_old_copy(self.plan, self.folder.path, ours, reports)

    async def program(self, net: Net) -> State0:
        """The trust model's server 0, from the stored state."""
        with all_cores() as spread:
            final = await two_server.server_0(
                net,
                self.plan,
                self.state,
                own=self.seat.own,
                commit=self._commit,
                trace=self.trace,
                map=spread,
            )
        self.note_end()
        return final

    def begin(self) -> None:
        """Say what this is: the first event of a run, or that it goes on."""
        self.chronicle.begin(self.state.round if self.resumed else None)
        done = self.state.model_round
        if done > 0:  # it was told after the checkpoint, so it is forgotten
            self.chronicle.tell(done, self.state.model)

    def results(self, final: State0 | None) -> Record:
        """Write what the run leaves behind; gives the summary."""
        return self.chronicle.results((final or self.state).model)

    def _commit(self, state: State0) -> None:
        """Store the state, then tell the round that it ends: nothing of it has left yet."""
        ends_round = state.model_round != self.state.model_round
        start = time.perf_counter()
        self.store.save(state)
        self.chronicle.count("store", start)
        if ends_round:
            self.chronicle.tell(state.round, state.model)

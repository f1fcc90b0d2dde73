"""What server 1 of the trust model `two-server` does and keeps.

The words that it sends of a round are on disk before they leave: that record is the commit point.
"""

from __future__ import annotations

from collections.abc import Mapping

from ostraka.app.parties import two_server_links as links
from ostraka.app.parties.keeping import Keeping
from ostraka.app.parties.roles import Seat
from ostraka.app.parties.telling import Follower
from ostraka.app.parties.two_server_storage import Store1
from ostraka.drivers.cores import all_cores
from ostraka.drivers.trace import Record
from ostraka.net import Net
from ostraka.trust import two_server
from ostraka.trust.two_server import State1
from ostraka.trust.two_server.decide import influence


class Server1Role(Keeping):
    """Server 1: follows server 0, runs the rule on what is opened, keeps the model too."""

    name = "server-1"

    def __init__(self, seat: Seat) -> None:
        ways = links.SecureWays(seat)
        super().__init__(seat, ways)
        self.plan = ways.plan
        self.vital = links.others(self.plan, self.me)
        # Who asks again for the last digest, or needs server 1 to begin again, is waited for.
        self.sees_off = frozenset(self.plan.workers)
        self._follower = Follower(self)
        self.trace = self._follower.trace
        self.store = Store1(self.folder, self.journal, self.start, self.assembly.initial)
        self.notes += self.store.notes
        self.done = self.ended_before
        if self.done:
            self.vital = frozenset({self.plan.server_0})

    quorum = 2

    @property
    def state(self) -> State1:
        """What is stored."""
        return self.store.last

    def held(self, peer: str) -> str:
        """The last turn for which this process has an upload of this worker."""
        return links.turn_text(links.heard_of(self.traffic, peer))

    def ready(self, reports: Mapping[str, str]) -> None:
        """Refuse an old copy of the state (74): workers remember later rounds than it knows."""
        ours = (self.store.seen, links.ANY_ATTEMPT)
        links.refuse_old_copy(self.plan, self.folder.path, ours, reports)

    async def program(self, net: Net) -> State1:
        """The trust model's server 1, from the stored state."""
        with all_cores() as spread:
            final = await two_server.server_1(
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
        """Say what this is."""
        self._follower.begin(self.state.round if self.resumed else None)

    def results(self, final: State1 | None) -> Record:
        """Store the trained model and what it came to; gives the summary."""
        return self._follower.results((final or self.state).model)

    def _commit(self, state: State1) -> None:
        ends_round = state.round != self.state.round
        self.store.save(state)
        if ends_round:
            opened = state.committed
            if opened is not None and opened.round == state.round - 1:
                weights = influence(opened.names, opened.values, opened.count)
                self.trace("aggregated", round=opened.round, influence=weights)
            self._follower.followed(state.round)

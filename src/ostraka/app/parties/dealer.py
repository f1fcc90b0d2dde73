"""What the dealer of the trust model `two-server` does and keeps: how often it has begun."""

from __future__ import annotations

from collections.abc import Mapping

from ostraka.app.parties import two_server_links as links
from ostraka.app.parties.keeping import Keeping
from ostraka.app.parties.roles import Seat
from ostraka.app.parties.telling import Follower
from ostraka.drivers.cores import all_cores
from ostraka.drivers.trace import Record
from ostraka.net import Net
from ostraka.trust import two_server


class DealerRole(Keeping):
    """The dealer: hands out randomness, learns who is there."""

    name = "dealer"
    quorum = 2

    def __init__(self, seat: Seat) -> None:
        ways = links.SecureWays(seat)
        super().__init__(seat, ways)
        self.plan = ways.plan
        self._follower = Follower(self)
        self.trace = self._follower.trace
        self.boot = 1 + max((r["boot"] for r in self.journal.records if "boot" in r), default=0)
        self.done = self.ended_before
        self.vital = links.others(self.plan, self.me)

    @property
    def resumed(self) -> bool:
        """Whether an earlier process took part."""
        return self.boot > 1

    def held(self, peer: str) -> str:
        """The last turn for which this process has a seed of this worker."""
        return links.turn_text(links.heard_of(self.traffic, peer))

    def ready(self, reports: Mapping[str, str]) -> None:
        """Nothing to check: it keeps nothing that could be old, and an old count of boots makes
        server 0 wait for a later one.
        """

    async def program(self, net: Net) -> None:
        """The trust model's dealer, once this boot is on disk."""
        self.journal.append({"boot": self.boot})
        with all_cores() as spread:
            serving = two_server.dealer(net, self.plan, self.boot, own=self.seat.own, map=spread)
            await net.race(serving, self._follower.tell_traffic(net))
        self.note_end()

    def begin(self) -> None:
        """Say what this is."""
        self._follower.begin(None)

    def results(self, final: object) -> Record:
        """Store that it is over; gives the summary."""
        return self._follower.results(None)

"""How the parties of `two-server` are linked, and what they hold of one another."""

from __future__ import annotations

from collections.abc import Mapping

from ostraka.app.errors import Exit, UserError
from ostraka.app.parties.keeping import NEVER, Turn, turn_at, turn_of
from ostraka.app.parties.roles import Seat, Traffic
from ostraka.app.secure import limits
from ostraka.drivers.channel import PACKETS
from ostraka.drivers.link import Bounds
from ostraka.drivers.pace import Tempo
from ostraka.protocols.turns import PATH
from ostraka.trust import two_server
from ostraka.trust.two_server import Plan

OPERATORS = Tempo(a_second=2000, at_once=4000)
"""Two operators exchange some 40 frames a round and one for every block of columns."""
KEPT_FOR_OPERATORS, KEPT_FOR_WORKERS = 256, 8
ANY_ATTEMPT = 1 << 62


def plan_at(seat: Seat) -> Plan:
    """The plan that all parties agree on, for the model at hand."""
    config, recipe = seat.config, seat.recipe
    assert recipe.secure is not None, "build gives it for this trust model"
    return recipe.secure.plan(config, recipe, seat.assembly.initial, seat.keys, seat.session)


class SecureWays:
    """How any party of `two-server` is linked, and the plan that says so."""

    def __init__(self, seat: Seat) -> None:
        self.plan, self._me = plan_at(seat), seat.me
        self.limits = limits(self.plan)

    def link_of(self, peer: str) -> tuple[Bounds, Tempo]:
        """What is kept for a peer that is away, and how quickly it may send."""
        if self._me in self.plan.keys or peer in self.plan.keys:
            return Bounds(KEPT_FOR_WORKERS, KEPT_FOR_WORKERS * self.plan.most_bytes()), PACKETS
        return Bounds(KEPT_FOR_OPERATORS, self.plan.most_unread()), OPERATORS

    def expects(self, peer: str) -> Mapping[str, int]:
        """See the trust model."""
        return two_server.expects(self.plan, self._me, peer)


def others(plan: Plan, me: str) -> frozenset[str]:
    """The operators but this one."""
    return frozenset({plan.server_0, plan.server_1, plan.dealer} - {me})


def turn_text(turn: Turn) -> str:
    """A turn as parties tell it; empty for none."""
    return "" if turn == NEVER else f"{PATH[0]}.{turn[0]}/{PATH[1]}.{turn[1]}"


def heard_of(traffic: Traffic | None, peer: str) -> Turn:
    """The turn of a worker's last upload that this process has heard of."""
    label = None if traffic is None else traffic.heard.get(peer)
    return turn_at(None if label is None else label[: len(PATH)], PATH)


def refuse_old_copy(plan: Plan, place: object, ours: Turn, reports: Mapping[str, str]) -> None:
    """UserError (74) where more than f workers have answered later turns than ``ours``.

    One liar cannot stop an operator.
    """
    told = {peer: turn_of(text) for peer, text in reports.items() if peer in plan.keys}
    beyond = sorted(peer for peer, turn in told.items() if turn > ours)
    if len(beyond) > plan.f:
        raise UserError(
            f"{place} is an old copy: {', '.join(beyond)} have answered later than round "
            f"{ours[0]}, attempt {ours[1]}; restore the newest state, or begin a run of another "
            "name",
            Exit.STORAGE,
        )

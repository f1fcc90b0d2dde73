"""The second stage of dealing.py: whose box does not open to what the decided header says.

It begins once the dealers are agreed on, and with them what they had to publish: by then every
member holds each box that it was dealt, sent or published. In one stage with the first a dealer
could publish, late or to all but its member, a box that does not open, which that member could
complain about no more; so one dealer would silence all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ostraka.protocols.board import Listing
from ostraka.protocols.complaints import Complaints
from ostraka.protocols.dealing import Dealing
from ostraka.protocols.dealing_messages import SECOND, opened
from ostraka.protocols.scene import Assembly


class OpeningBoxes(Complaints):
    """One peer's state of this stage. ``decided``: the listed dealers, and their headers."""

    def __init__(self, assembly: Assembly, dealing: Dealing, decided: Mapping[str, bytes]) -> None:
        setting = dealing.setting
        super().__init__(assembly, setting, SECOND, opened(setting.name), (), dealing.dealer)
        self._dealing, self._decided = dealing, decided

    def header(self, dealer: str) -> bytes | None:
        """See Complaints."""
        return self._decided.get(dealer)

    def wrong(self, dealer: str) -> bool:
        """See Complaints."""
        return (dealer, self._decided.get(dealer, b"")) in self._dealing.spoilt

    def opens(self) -> bool:
        """See Complaints."""
        return not self._dealing.spoilt

    def headers_in(self, listings: Sequence[Listing]) -> Mapping[str, bytes]:
        """See Complaints."""
        return self._decided

    def named(self, dealer: str, member: str, data: bytes) -> Sequence[bytes]:
        """See Complaints."""
        what = self._decided.get(dealer)
        holds = what is not None and self._dealing.matches(SECOND, dealer, member, what, data)
        return (what,) if what is not None and holds else ()

    def take_answer(self, dealer: str, what: bytes, data: bytes) -> None:
        """See Complaints."""
        self._dealing.plains[dealer, what] = data

    def concerns(self, dealer: str, named: bytes, header: bytes) -> bool:
        """See Complaints."""
        return named == header

"""Dealing: every dealer gives every member a vector of its own, and all agree on what was dealt.

Source: steps 1 and 2 of the serverless design; verifiable sharing with complaints goes back to
Pedersen 1991. Parties: the peers of an attempt that have a box key; each may deal, each is a
member; up to t lie, and any number of dealers deal what they like. Guarantee: one list of dealers
and headers at all honest peers; an honest dealer that is not away is on it, and every member whose
complaint was heard holds the vector of each listed dealer that its header names. Revealed: headers
and receipts to all; a box to all where its member says in time that it lacks it, which tells nobody
else anything; a vector to all where its member says that the box does not open to it, which an
honest member never says of an honest dealer.

    header    to all, signed: for each member the digest of its sealed box, and a salted digest of
              the vector in it; two commitments to parts of coins
    box       to its member: the vector, sealed to the member's key of this attempt
    receipt   to all, signed: the headers that I hold, whose box I lack, whether all others open
    box       to all, by the dealer, of each member that lacks it
    agreement on headers and receipts, and so on who is listed and what was published
    and, unless every member has said that it has all boxes and that they open:
    receipt   to all, signed: whose box does not open to what the header says
    vector    to all, by the dealer, of each member that says so
    agreement on these receipts, and so on who stays

A dealer with more than t complaints of the second kind, or that leaves one without answer, is left
out and not blamed; one with two signed headers is left out, and they are evidence. A member that
names more than t + dropouts dealers counts as absent: it cannot make dealers publish on and on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ostraka.crypto.seal import unseal
from ostraka.net import Arrival, Inbox, Malformed
from ostraka.protocols.board import DIGEST_BYTES, Listing, Topic, body_digest
from ostraka.protocols.complaints import Complaints
from ostraka.protocols.dealer import Dealer
from ostraka.protocols.dealing_messages import (
    BOX,
    FIRST,
    HEADERS,
    SECOND,
    Box,
    Header,
    Own,
    Setting,
    box_use,
    names,
    octets,
)
from ostraka.protocols.scene import Assembly


class Dealing(Complaints):
    """One peer's state of a message's first stage: what it has dealt, what it holds of others.

    ``plains``: by dealer and header, salt and vector that were dealt to this peer; ``spoilt``:
    those whose box does not open.
    """

    def __init__(self, assembly: Assembly, setting: Setting, own: Own | None) -> None:
        self.header_form = Header.form(n=len(assembly.scene.names))
        use, cap = f"header {setting.name}", self.header_form.max_bytes
        headers = Topic(use, cap, setting.dealers, self._sound)
        dealer = None if own is None else Dealer(assembly, setting, own)
        super().__init__(assembly, setting, FIRST, setting.name, (headers,), dealer)
        boxes = Inbox(BOX, Box.form(box=self.cap), frozenset(setting.dealers) - {self.net.me})
        self.inboxes = (*self.inboxes, boxes)
        self.headers: dict[tuple[str, bytes], Header] = {}
        self.plains: dict[tuple[str, bytes], bytes] = {}
        self.spoilt: set[tuple[str, bytes]] = set()
        self._early: dict[str, bytes] = {}
        self._missing = list(setting.dealers)

    def _sound(self, owner: str, body: bytes) -> bool:
        return not isinstance(self.header_form.decode(body), Malformed)

    def send(self) -> None:
        """The header to all, then each member its box."""
        if self.dealer is None:
            return
        header, boxes, own = self.dealer.deal()
        body, me = header.encode(), self.net.me
        what = body_digest(body)
        self.publish(HEADERS, body)
        self.headers[me, what] = header
        self.current[self.place[me]] = octets(what)
        self.plains[me, what] = own
        for member, box in boxes.items():
            self.net.sub(BOX[0]).send(member, Box(box))

    async def receive(self) -> None:
        """Headers and boxes, then receipts and answers, each in its time."""
        await self.until(self._complete, self.scene.phase_s)
        await self.hear()

    def _complete(self) -> bool:
        """Whether every dealer's box is here; who was not wrong once is not looked at again."""
        while self._missing and not self.wrong(self._missing[-1]):
            self._missing.pop()
        return not self._missing

    # --- what a receipt says --------------------------------------------------------------------

    def header(self, dealer: str) -> bytes | None:
        """The header that this peer holds of a dealer, the first one of two; None without."""
        return next(iter(self.board.entries(HEADERS, dealer)), None)

    def wrong(self, dealer: str) -> bool:
        """Whether no box came that the header names."""
        header = self.header(dealer)
        key = (dealer, header or b"")
        return header is None or (key not in self.plains and key not in self.spoilt)

    def opens(self) -> bool:
        """See Complaints."""
        return not self.spoilt

    def headers_in(self, listings: Sequence[Listing]) -> Mapping[str, bytes]:
        """See Complaints: who has one header, and not two."""
        found = listings[HEADERS]
        return {d: found[d][0] for d in self.setting.dealers if len(found.get(d, ())) == 1}

    def concerns(self, dealer: str, named: bytes, header: bytes) -> bool:
        """See Complaints: whichever header it names, it lacks the box of this one."""
        return True

    # --- upon receiving -----------------------------------------------------------------------

    def upon(self, got: Arrival) -> None:
        """Take a message of any inbox."""
        super().upon(got)
        if isinstance(got.message, Box):
            self._early[got.sender] = got.message.data
            for what in self.board.entries(HEADERS, got.sender):
                self._open(got.sender, what)

    def entered(self, topic: int, owner: str) -> None:
        """See Complaints; with a header a box may open."""
        super().entered(topic, owner)
        if topic == HEADERS:
            for what, entry in self.board.entries(HEADERS, owner).items():
                header = self.header_form.decode(entry.body)
                if (owner, what) not in self.headers and isinstance(header, Header):
                    self.headers[owner, what] = header
                    self._open(owner, what)
                    self._name_again(owner, what)
            self.current[self.place[owner]] = octets(self.header(owner) or bytes(DIGEST_BYTES))

    def _name_again(self, dealer: str, what: bytes) -> None:
        """Another header may name the very vector that was dealt under the first one."""
        found = [plain for (of, _), plain in self.plains.items() if of == dealer]
        for plain in found:
            if self.matches(SECOND, dealer, self.net.me, what, plain):
                self.plains[dealer, what] = plain

    def _open(self, dealer: str, what: bytes) -> None:
        """Open the box of a dealer that waits, if this header names it."""
        box = self._early.get(dealer)
        if box is not None and self.matches(FIRST, dealer, self.net.me, what, box):
            del self._early[dealer]
            self.take_answer(dealer, what, box)

    def take_answer(self, dealer: str, what: bytes, data: bytes) -> None:
        """Open a box that was sent or published."""
        if (dealer, what) in self.plains or self.net.me not in self.setting.members:
            return
        use = box_use(self.scene, self.setting.name, dealer, self.net.me)
        plain = unseal(self.setting.secrets[dealer], use, data)
        if plain is not None and self.matches(SECOND, dealer, self.net.me, what, plain):
            self.plains[dealer, what] = plain
        else:
            self.spoilt.add((dealer, what))

    def matches(self, kind: int, dealer: str, member: str, what: bytes, data: bytes) -> bool:
        """Whether these bytes are what a header names: the box (FIRST), or what was in it."""
        header = self.headers.get((dealer, what))
        parties = dealer, member
        return header is not None and names(self.scene, self.setting, header, kind, parties, data)

    def named(self, dealer: str, member: str, data: bytes) -> Sequence[bytes]:
        """See Complaints."""
        held = self.board.entries(HEADERS, dealer) if dealer in self.setting.dealers else ()
        return [what for what in held if self.matches(FIRST, dealer, member, what, data)]

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
    receipt 1 to all, signed: the headers that I hold, and whose box I lack
    box       to all, by the dealer, of each member that lacks it
    receipt 2 to all, signed: whose box does not open to what the header says
    vector    to all, by the dealer, of each member that says so

A dealer with more than t complaints of the second kind, or that leaves one without answer, is left
out and not blamed; one with two signed headers is left out, and they are evidence. A member that
names more than t + dropouts dealers counts as absent: it cannot make dealers publish on and on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ostraka.crypto.seal import TAG_BYTES, unseal
from ostraka.net import Arrival, Form, Inbox, Malformed, Net
from ostraka.protocols.board import DIGEST_BYTES, Entry, Topic, body_digest, within
from ostraka.protocols.dealer import Dealer
from ostraka.protocols.dealing_messages import (
    ANSWER,
    BOX,
    FIRST,
    HEADERS,
    SALT_BYTES,
    SECOND,
    Answer,
    Box,
    Header,
    Own,
    Receipt,
    Setting,
    box_use,
    complaints,
    names,
    octets,
)
from ostraka.protocols.scene import Assembly
from ostraka.protocols.voter import take


class Dealing:
    """One peer's state of one message: what it has dealt, what it holds of all others."""

    def __init__(self, assembly: Assembly, setting: Setting, own: Own | None) -> None:
        self.scene, self.setting = assembly.scene, setting
        self.dealer = None if own is None else Dealer(assembly, setting, own)
        self.net: Net = assembly.at(setting.name)
        self.names = assembly.scene.names
        self.place = {name: at for at, name in enumerate(self.names)}
        self._assembly = assembly
        n, name = len(self.names), setting.name
        self.header_form, receipt_form = Header.form(n=n), Receipt.form(n=n)
        self.uses = tuple(f"{use} {name}" for use in ("header", "receipt 1", "receipt 2"))

        def topic(use: str, owners: tuple[str, ...], form: Form[Any]) -> Topic:
            def sound(owner: str, body: bytes) -> bool:
                return not isinstance(form.decode(body), Malformed)

            return Topic(use, form.max_bytes, owners, sound)

        headers = topic(self.uses[HEADERS], setting.dealers, self.header_form)
        receipts = (topic(self.uses[k], setting.members, receipt_form) for k in (FIRST, SECOND))
        self.board = assembly.board(name, [headers, *receipts])
        cap = SALT_BYTES + setting.shape.longest + TAG_BYTES
        self.inboxes = (
            self.board.inbox,
            Inbox(BOX, Box.form(box=cap), frozenset(setting.dealers) - {self.net.me}),
            Inbox(ANSWER, Answer.form(box=cap), frozenset(assembly.others)),
        )
        self.headers: dict[tuple[str, bytes], Header] = {}
        self.answers: dict[tuple[int, str, str], bytes] = {}
        self.plains: dict[tuple[str, bytes], bytes] = {}
        """By dealer and header: salt and vector that were dealt to this peer."""
        self._spoilt: set[tuple[str, bytes]] = set()
        self._early: dict[str, bytes] = {}
        self._mine: bytes | None = None

    def send(self) -> None:
        """The header to all, then each member its box."""
        if self.dealer is None:
            return
        header, boxes = self.dealer.deal()
        body, me = header.encode(), self.net.me
        self._mine = body_digest(body)
        self._publish(HEADERS, body)
        self.headers[me, self._mine] = header
        self.plains[me, self._mine] = self.dealer.plain(me)
        for member, box in boxes.items():
            self.net.sub(BOX[0]).send(member, Box(box))

    def _publish(self, topic: int, body: bytes) -> None:
        self.board.publish(topic, Entry(body, self._assembly.signature(self.uses[topic], body)))

    # --- receipts -----------------------------------------------------------------------------

    async def receive(self) -> None:
        """Both receipts, and the answers to complaints, each in its time."""
        await self._until(self._has_boxes)
        self._sign_receipt(FIRST)
        await self._until(lambda: self._heard(FIRST))
        self._sign_receipt(SECOND)
        await self._until(lambda: self._heard(SECOND))

    async def _until(self, enough: Callable[[], bool]) -> None:
        until = self.net.now + self.scene.phase_s
        while not enough() and self.net.now < until:
            handlers = dict.fromkeys(self.inboxes, self.upon)
            await take(self.net, handlers, until - self.net.now, self._assembly.trace)

    def _has_boxes(self) -> bool:
        return not any(self._lacks(dealer, self.held(dealer)) for dealer in self.setting.dealers)

    def _heard(self, kind: int) -> bool:
        """Whether all members have given this receipt, and all complaints in it are answered."""
        if self.board.count(kind) < len(self.setting.members):
            return False
        listing = self.board.listing(kind)
        named = self.named(kind, {m: digests[0] for m, digests in listing.items()})
        return all(
            (kind, dealer, member) in self.answers
            for member, dealers in named.items()
            for dealer in dealers
        )

    def held(self, dealer: str) -> bytes | None:
        """The header that this peer holds of a dealer, the first one of two; None without."""
        return next(iter(self.board.entries(HEADERS, dealer)), None)

    def _lacks(self, dealer: str, header: bytes | None) -> bool:
        """Whether no box came that the header names."""
        key = (dealer, header or b"")
        return header is None or (key not in self.plains and key not in self._spoilt)

    def _sign_receipt(self, kind: int) -> None:
        if self.net.me not in self.setting.members:
            return
        n = len(self.names)
        headers, wrong = np.zeros((n, DIGEST_BYTES), np.uint8), np.zeros(n, np.bool_)
        for dealer in self.setting.dealers:
            at, header = self.place[dealer], self.held(dealer)
            headers[at] = octets(header or bytes(DIGEST_BYTES))
            spoilt = (dealer, header or b"") in self._spoilt
            wrong[at] = self._lacks(dealer, header) if kind == FIRST else spoilt
        self._publish(kind, Receipt(headers, wrong).encode())

    def named(self, kind: int, receipts: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
        """`complaints` of receipts that are in hand, member to digest."""
        bodies = {m: self.board.entries(kind, m)[what].body for m, what in receipts.items()}
        return complaints(self.scene, self.setting, bodies)

    # --- upon receiving -----------------------------------------------------------------------

    def upon(self, got: Arrival) -> None:
        """Take a message of any inbox."""
        match got.message:
            case Entry():
                new = self.board.upon(got)
                if new is not None and new[0] == HEADERS:
                    self._upon_header(new[1])
                elif new is not None:
                    self._upon_receipt(*new)
            case Box(data):
                self._early[got.sender] = data
                for what in self.board.entries(HEADERS, got.sender):
                    self._open(got.sender, what)
            case Answer(data):
                self._upon_answer(got.index, data)

    def _upon_header(self, dealer: str) -> None:
        for what, entry in self.board.entries(HEADERS, dealer).items():
            header = self.header_form.decode(entry.body)
            if (dealer, what) not in self.headers and isinstance(header, Header):
                self.headers[dealer, what] = header
                self._open(dealer, what)

    def _open(self, dealer: str, what: bytes) -> None:
        """Open the box of a dealer that waits, if this header names it."""
        box = self._early.get(dealer)
        if box is not None and self.matches(FIRST, dealer, self.net.me, what, box):
            del self._early[dealer]
            self._unseal(dealer, what, box)

    def _unseal(self, dealer: str, what: bytes, box: bytes) -> None:
        if (dealer, what) in self.plains or self.net.me not in self.setting.members:
            return
        use = box_use(self.scene, self.setting.name, dealer, self.net.me)
        plain = unseal(self.setting.secrets[dealer], use, box)
        if plain is not None and self.matches(SECOND, dealer, self.net.me, what, plain):
            self.plains[dealer, what] = plain
        else:
            self._spoilt.add((dealer, what))

    def matches(self, kind: int, dealer: str, member: str, what: bytes, data: bytes) -> bool:
        """Whether these bytes are what a header names: the box (FIRST), or what was in it."""
        header = self.headers.get((dealer, what))
        parties = dealer, member
        return header is not None and names(self.scene, self.setting, header, kind, parties, data)

    def _upon_receipt(self, kind: int, member: str) -> None:
        """Answer a complaint about oneself."""
        (what, *_) = self.board.entries(kind, member)
        mine = self.named(kind, {member: what}).get(member, {}).get(self.net.me)
        key = (kind, self.net.me, member)
        if self.dealer is None or mine is None or key in self.answers or member == self.net.me:
            return
        if kind == SECOND and mine != self._mine:
            return
        data = self.dealer.answer(kind, member)
        if data is not None:
            self.answers[key] = data
            self.answer_at(key).broadcast(self._assembly.others, Answer(data))

    def answer_at(self, key: tuple[int, str, str]) -> Net:
        """Where an answer lies."""
        kind, dealer, member = key
        return within(self.net, ANSWER, kind, self.place[dealer], self.place[member])

    def _upon_answer(self, index: tuple[int, ...], data: bytes) -> None:
        kind, of, to = index
        if kind not in (FIRST, SECOND) or max(of, to) >= len(self.names):
            return
        dealer, member = self.names[of], self.names[to]
        if (kind, dealer, member) in self.answers:
            return
        for what in self.board.entries(HEADERS, dealer):
            if self.matches(kind, dealer, member, what, data):
                self.answers[kind, dealer, member] = data
                if member == self.net.me and kind == FIRST:
                    self._unseal(dealer, what, data)
                elif member == self.net.me:
                    self.plains[dealer, what] = data

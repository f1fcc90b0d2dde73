"""Receipts in which members complain about dealers, and what dealers publish in answer.

One of two stages of dealing.py: first whose box is missing, then whose box does not open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ostraka.crypto.seal import TAG_BYTES
from ostraka.net import Arrival, Inbox, Malformed, Net
from ostraka.protocols.board import DIGEST_BYTES, Entry, Listing, Topic, within
from ostraka.protocols.dealer import Dealer
from ostraka.protocols.dealing_messages import (
    ANSWER,
    FIRST,
    SALT_BYTES,
    SECOND,
    Answer,
    Receipt,
    Setting,
    complaints,
    octets,
)
from ostraka.protocols.scene import Assembly
from ostraka.protocols.waiting import Waiting
from ostraka.wire import Array

Needs = frozenset[tuple[str, str]]
"""Answers, each by dealer and member."""


class Complaints(ABC):
    """One peer's state of one stage: entries on a board, of which receipts are the last topic.

    ``kind``: FIRST, a box is missing and is published, or SECOND, the vector in it is. ``answers``:
    by dealer and member, what was published and is what a header names.
    """

    def __init__(
        self,
        assembly: Assembly,
        setting: Setting,
        kind: int,
        name: str,
        topics: Sequence[Topic],
        dealer: Dealer | None,
    ) -> None:
        self.scene, self.setting, self.kind, self.name = assembly.scene, setting, kind, name
        self.net: Net = assembly.at(name)
        self.names, self.dealer = assembly.scene.names, dealer
        self.place = {name: at for at, name in enumerate(self.names)}
        self._assembly = assembly
        self._form = Receipt.form(n=len(self.names))
        self._read: dict[bytes, Receipt] = {}
        self.current = np.zeros((len(self.names), DIGEST_BYTES), np.uint8)
        """The header that this peer holds of each dealer, zeros for none."""
        cap = self._form.max_bytes
        receipts = Topic(f"receipt {name}", cap, setting.members, self._is_receipt)
        self.topics = (*topics, receipts)
        self.receipts = len(topics)
        self.board = assembly.board(name, self.topics)
        self.cap = SALT_BYTES + setting.shape.longest + TAG_BYTES
        answers = Inbox(ANSWER, Answer.form(box=self.cap), frozenset(assembly.others))
        self.inboxes: tuple[Inbox[Any], ...] = (self.board.inbox, answers)
        self.answers: dict[tuple[str, str], bytes] = {}
        self._told: set[tuple[str, bytes]] = set()
        self._waiting = Waiting(assembly, name)

    @abstractmethod
    def header(self, dealer: str) -> bytes | None:
        """The header of a dealer that this peer's receipt names."""

    @abstractmethod
    def wrong(self, dealer: str) -> bool:
        """Whether this peer complains about a dealer."""

    @abstractmethod
    def opens(self) -> bool:
        """Whether all boxes open that this peer holds."""

    @abstractmethod
    def headers_in(self, listings: Sequence[Listing]) -> Mapping[str, bytes]:
        """The dealers that these listings let be, complaints aside, and their headers."""

    @abstractmethod
    def named(self, dealer: str, member: str, data: bytes) -> Sequence[bytes]:
        """The headers that name what a dealer has published."""

    @abstractmethod
    def take_answer(self, dealer: str, what: bytes, data: bytes) -> None:
        """The dealer, of this header, has answered this peer."""

    @abstractmethod
    def concerns(self, dealer: str, named: bytes, header: bytes) -> bool:
        """Whether a complaint that names one header is about a dealer of this one."""

    def _is_receipt(self, owner: str, body: bytes) -> bool:
        receipt = self._form.decode(body)
        if isinstance(receipt, Malformed):
            return False
        self._read[body] = receipt
        return True

    # --- receipts -----------------------------------------------------------------------------

    async def hear(self) -> None:
        """Sign one's own receipt; take all others, and the answers to complaints, in time.

        Who lacks something has waited for it, and is behind by as much: so there is time for both.
        """
        me = self.net.me
        if me in self.setting.members:
            n = len(self.names)
            headers, wrong = np.zeros((n, DIGEST_BYTES), np.uint8), np.zeros(n, np.bool_)
            for dealer in self.setting.dealers:
                at = self.place[dealer]
                headers[at] = octets(self.header(dealer) or bytes(DIGEST_BYTES))
                wrong[at] = self.wrong(dealer)
            receipt = Receipt(headers, wrong, self.opens())
            body = receipt.encode()
            self._read[body] = receipt
            self.publish(self.receipts, body)
        await self.until(self._heard, 2 * self.scene.phase_s)
        await self._waiting.over()

    async def until(self, enough: Callable[[], bool], seconds: float) -> None:
        """Take what comes until it is enough, or the wait is over."""
        await self._waiting.until(dict.fromkeys(self.inboxes, self.upon), enough, seconds)

    def publish(self, topic: int, body: bytes) -> None:
        """Sign an entry, and send it to all."""
        signature = self._assembly.signature(self.topics[topic].use, body)
        self.board.publish(topic, Entry(body, signature))

    def _heard(self) -> bool:
        """Whether all members have given a receipt, and all complaints in them are answered."""
        if self.board.count(self.receipts) < len(self.setting.members):
            return False
        single = {m: held[0] for m, held in self.board.listing(self.receipts).items()}
        found = self._complaints(single, self.current)
        return all(
            (dealer, member) in self.answers
            for member, dealers in found.items()
            for dealer in dealers
        )

    def _complaints(
        self, receipts: Mapping[str, bytes], headers: Array
    ) -> dict[str, dict[str, bytes]]:
        """`complaints` of receipts that are in hand, member to digest."""
        entries = self.board.entries
        bodies = {m: entries(self.receipts, m)[what].body for m, what in receipts.items()}
        read = {member: self._read[body] for member, body in bodies.items()}
        named = headers if self.kind == FIRST else None
        return complaints(self.scene, self.setting, read, named)

    def needed(self, listings: Sequence[Listing]) -> dict[str, Needs]:
        """The dealers that these listings, all of it in hand, let be; what each had to answer."""
        headers = self.headers_in(listings)
        receipts = listings[self.receipts]
        single = {m: digests[0] for m, digests in receipts.items() if len(digests) == 1}
        wanted: dict[str, set[tuple[str, str]]] = {dealer: set() for dealer in headers}
        listed = np.zeros_like(self.current)
        for dealer, header in headers.items():
            listed[self.place[dealer]] = octets(header)
        for member, dealers in self._complaints(single, listed).items():
            for dealer, named in dealers.items():
                if dealer in wanted and self.concerns(dealer, named, headers[dealer]):
                    wanted[dealer].add((dealer, member))
        most = self.scene.plan.t if self.kind == SECOND else len(self.names)
        return {dealer: frozenset(one) for dealer, one in wanted.items() if len(one) <= most}

    def untroubled(self, listings: Sequence[Listing], dealers: Collection[str]) -> bool:
        """Whether every member says that it has each of these dealers' boxes, and that all open."""
        receipts = listings[self.receipts]
        if any(len(receipts.get(member, ())) != 1 for member in self.setting.members):
            return False
        places = [self.place[dealer] for dealer in dealers]
        bodies = (
            self.board.entries(self.receipts, member)[receipts[member][0]].body
            for member in self.setting.members
        )
        read = [self._read[body] for body in bodies]
        found = self.headers_in(listings)
        headers = np.stack([octets(found[dealer]) for dealer in dealers])
        return all(
            one.opens and not one.wrong[places].any() and (one.headers[places] == headers).all()
            for one in read
        )

    # --- answers ------------------------------------------------------------------------------

    def upon(self, got: Arrival) -> None:
        """Take a message of any inbox."""
        match got.message:
            case Entry():
                new = self.board.upon(got)
                if new is not None:
                    self.entered(*new)
            case Answer(data):
                self._upon_answer(got.index, data)

    def entered(self, topic: int, owner: str) -> None:
        """Answer a complaint about oneself, in any receipt; tell other dealers of those about them.

        A member may show its complaint to all but the dealer, who must answer it in time.
        """
        if topic != self.receipts:
            return
        for what in self.board.entries(topic, owner):
            found = self._complaints({owner: what}, self.current).get(owner, {})
            for dealer, named in found.items():
                if dealer == self.net.me:
                    self._accused(owner, named)
                elif (dealer, what) not in self._told and what in self.board.two(topic, owner):
                    self._told.add((dealer, what))  # others would only take up room
                    self.board.pass_on(dealer, topic, owner, what)

    def _accused(self, member: str, named: bytes) -> None:
        mine = self.header(self.net.me)
        if self.dealer is None or mine is None or member == self.net.me:
            return
        if self.concerns(self.net.me, named, mine):
            self._answer(self.dealer, member)

    def _answer(self, dealer: Dealer, member: str) -> None:
        me = self.net.me
        data = None if (me, member) in self.answers else dealer.answer(self.kind, member)
        if data is not None:
            self.answers[me, member] = data
            self.answer_at(me, member).broadcast(self._assembly.others, Answer(data))

    def answer_at(self, dealer: str, member: str) -> Net:
        """Where an answer lies."""
        return within(self.net, ANSWER, 0, self.place[dealer], self.place[member])

    def _upon_answer(self, index: tuple[int, ...], data: bytes) -> None:
        _, of, to = index
        if max(of, to) >= len(self.names) or (self.names[of], self.names[to]) in self.answers:
            return
        dealer, member = self.names[of], self.names[to]
        for what in self.named(dealer, member, data):
            self.answers[dealer, member] = data
            if member == self.net.me:
                self.take_answer(dealer, what, data)

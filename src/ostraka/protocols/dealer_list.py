"""The two agreements on who has dealt what: their subject, and what a peer ends with.

A value carries all entries by their digests, and the dealers that count. Why a dealer is missing
follows from what it carries: two headers, no header, a complaint without answer, or more than t
complaints that its box does not open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ostraka.net import Arrival, Inbox, Net
from ostraka.protocols.ballots import Verdict
from ostraka.protocols.board import Entry, Listing
from ostraka.protocols.complaints import Complaints, Needs
from ostraka.protocols.dealing import Dealing
from ostraka.protocols.dealing_messages import HEADERS, Answer, Own, Setting
from ostraka.protocols.entry_set import pack, packed_bytes, unpack
from ostraka.protocols.opening_boxes import OpeningBoxes
from ostraka.protocols.scene import Assembly


class _Value(NamedTuple):
    listings: tuple[Listing, ...]
    dealers: frozenset[str]


class DealerList:
    """The subject; made when the instance begins, as what is held now may not be omitted."""

    voids = False

    def __init__(self, stage: Complaints) -> None:
        self._stage, self._scene = stage, stage.scene
        self._topics = tuple(range(len(stage.topics)))
        self._owners = tuple(topic.owners for topic in stage.topics)
        self._first = tuple(stage.board.listing(topic) for topic in self._topics)
        self._named: tuple[Listing, ...] = ()
        self._answered, self._held = frozenset(stage.answers), stage.headers_in(self._first)
        names = len(stage.names)
        self._bitmap = -(-names // 8)
        listings = sum(packed_bytes(len(owners)) for owners in self._owners)
        self.value_bytes = listings + self._bitmap
        self.have_bytes = listings + names * self._bitmap
        self.inboxes: Sequence[Inbox[Any]] = stage.inboxes
        self._read = lru_cache(8)(self._unpacked)
        self._needs = lru_cache(8)(self._needed)

    # --- the value ----------------------------------------------------------------------------

    def propose(self) -> bytes | None:
        """All that is held, and every dealer that may be on the list by that."""
        board, receipts, scene = self._stage.board, self._stage.receipts, self._scene
        if board.count(receipts) < scene.least:
            return None
        listings = tuple(board.convincing(topic) for topic in self._topics)
        if len(listings[receipts]) < scene.least:
            return None
        needs, answered = self._stage.needed(listings), self._stage.answers.keys()
        dealers = [dealer for dealer, needed in needs.items() if needed <= answered]
        if len(dealers) < scene.least:
            return None
        return self._packed(listings) + self._bits(dealers)

    def judge(self, value: bytes) -> Verdict:
        """See Subject."""
        found = self._read(value)
        if found is None or not self._enough(found):
            return Verdict.REFUSE
        board = self._stage.board
        if any(board.omits(at, found.listings[at], self._first[at]) for at in self._topics):
            return Verdict.REFUSE
        self._named = found.listings
        if not self._holds_entries(found):
            return Verdict.NOT_YET
        needs = self._needs(value)
        if not found.dealers <= needs.keys():
            return Verdict.REFUSE
        for dealer, needed in needs.items():
            held = dealer in self._held and needed <= self._answered
            if held and dealer not in found.dealers:
                return Verdict.REFUSE
        return Verdict.ACCEPT if self._answers_all(value, found) else Verdict.NOT_YET

    def holds(self, value: bytes) -> bool:
        """See Subject."""
        found = _must(self._read(value))
        self._named = found.listings
        return self._holds_entries(found, decided=True) and self._answers_all(value, found)

    def _answers_all(self, value: bytes, found: _Value) -> bool:
        """Whether the answers of all dealers on the list are in hand."""
        needs, answered = self._needs(value), self._stage.answers.keys()
        return all(needs[dealer] <= answered for dealer in found.dealers)

    def _enough(self, found: _Value) -> bool:
        """Whether it has as many receipts, and dealers, as are sure to be there."""
        receipts = found.listings[self._stage.receipts]
        return min(len(receipts), len(found.dealers)) >= self._scene.least

    def _holds_entries(self, found: _Value, *, decided: bool = False) -> bool:
        holds = self._stage.board.holds
        return all(holds(at, found.listings[at], decided=decided) for at in self._topics)

    def _needed(self, value: bytes) -> dict[str, Needs]:
        return self._stage.needed(_must(self._read(value)).listings)

    def headers(self, value: bytes) -> dict[str, bytes]:
        """The digests of the headers of those on a decided list, in the order of their places."""
        decided = _must(self._read(value))
        found = self._stage.headers_in(decided.listings)
        return {name: found[name] for name in self._stage.names if name in decided.dealers}

    def untroubled(self, value: bytes) -> bool:
        """Whether a decided list shows that every member has, and could open, what it names."""
        decided = _must(self._read(value))
        return self._stage.untroubled(decided.listings, decided.dealers)

    # --- items --------------------------------------------------------------------------------

    def upon(self, got: Arrival) -> None:
        """See Subject."""
        self._stage.upon(got)

    def have(self) -> bytes:
        """All entries by digest, then a bitmap of members for each dealer's answers."""
        board, names, answers = self._stage.board, self._stage.names, self._stage.answers
        packed = self._packed(tuple(board.convincing(topic) for topic in self._topics))
        rows = ([member for member in names if (dealer, member) in answers] for dealer in names)
        return packed + b"".join(self._bits(row) for row in rows)

    def give(self, net: Net, to: str, have: bytes) -> None:
        """See Subject."""
        read, place = self._listings(have), self._stage.place
        if read is None or len(have) - read[1] != len(place) * self._bitmap:
            return
        listings, at = read
        for topic in self._topics:
            named = self._named[topic] if self._named else {}
            self._stage.board.give(to, topic, listings[topic], named)
        for (dealer, member), data in self._stage.answers.items():
            start = at + place[dealer] * self._bitmap
            held = int.from_bytes(have[start : start + self._bitmap], "little")
            if not held >> place[member] & 1:
                self._stage.answer_at(dealer, member).send(to, Answer(data))

    # --- bytes --------------------------------------------------------------------------------

    def _packed(self, listings: Sequence[Listing]) -> bytes:
        return b"".join(pack(self._owners[topic], listings[topic]) for topic in self._topics)

    def _listings(self, data: bytes) -> tuple[tuple[Listing, ...], int] | None:
        listings, at = [], 0
        for topic in self._topics:
            found = unpack(self._owners[topic], data, at)
            if found is None:
                return None
            listings.append(found[0])
            at = found[1]
        return tuple(listings), at

    def _unpacked(self, value: bytes) -> _Value | None:
        read = self._listings(value)
        if read is None or len(value) - read[1] != self._bitmap:
            return None
        bits = int.from_bytes(value[read[1] :], "little")
        names = self._stage.names
        if bits >> len(names):
            return None
        return _Value(read[0], frozenset(n for at, n in enumerate(names) if bits >> at & 1))

    def _bits(self, names: Sequence[str]) -> bytes:
        bits = sum(1 << self._stage.place[name] for name in names)
        return bits.to_bytes(self._bitmap, "little")


def _must(found: _Value | None) -> _Value:
    if found is None:
        raise ValueError("a decided list of dealers is none")
    return found


class Dealt(NamedTuple):
    """What a message ends with.

    ``headers``: the signed header of each dealer that stays, in the order of places, the same at
    all. ``plains``: salt and vector for this peer, of those dealers that it holds one of.
    """

    headers: Mapping[str, Entry]
    plains: dict[str, bytes]
    dealing: Dealing

    @property
    def dealers(self) -> tuple[str, ...]:
        """All that stay."""
        return tuple(self.headers)


async def deal(assembly: Assembly, setting: Setting, own: Own | None) -> Dealt:
    """One message, from the header to the dealers that are agreed on."""
    dealing = Dealing(assembly, setting, own)
    dealing.send()
    await dealing.receive()
    decided, untroubled = await _agreed(assembly, dealing)
    if not untroubled:
        opening = OpeningBoxes(assembly, dealing, decided)
        await opening.hear()
        decided, _ = await _agreed(assembly, opening)
    headers, plains = {}, {}
    for dealer, what in decided.items():
        headers[dealer] = dealing.board.entries(HEADERS, dealer)[what]
        if (dealer, what) in dealing.plains:
            plains[dealer] = dealing.plains[dealer, what]
    return Dealt(headers, plains, dealing)


async def _agreed(assembly: Assembly, stage: Complaints) -> tuple[dict[str, bytes], bool]:
    """The dealers that stay, by their headers, and whether no member is troubled."""
    subject = DealerList(stage)
    decision = await assembly.decide(stage.name, subject)
    return subject.headers(decision.value), subject.untroubled(decision.value)

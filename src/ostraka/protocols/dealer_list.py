"""The agreement on who has dealt what: its subject, and what a peer ends with.

A value carries all receipts and headers by their digests, and the dealers that count. Why a dealer
is missing follows from what it carries: two headers, no header, more than t complaints that its
box does not open, or a complaint without answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ostraka.net import Arrival, Inbox, Net
from ostraka.protocols.ballots import Verdict
from ostraka.protocols.board import Entry, Listing
from ostraka.protocols.dealing import Dealing
from ostraka.protocols.dealing_messages import FIRST, HEADERS, SECOND, Answer, Own, Setting
from ostraka.protocols.entry_set import pack, packed_bytes, unpack
from ostraka.protocols.scene import Assembly

TOPICS = (HEADERS, FIRST, SECOND)
Needs = frozenset[tuple[int, str, str]]
"""Answers, each by kind, dealer and member."""


class _Value(NamedTuple):
    listings: tuple[Listing, ...]
    dealers: frozenset[str]


class DealerList:
    """The subject; made when the instance begins, as what is held now may not be omitted."""

    voids = False

    def __init__(self, dealing: Dealing) -> None:
        self._dealing, self._scene = dealing, dealing.scene
        setting = dealing.setting
        self._owners = (setting.dealers, setting.members, setting.members)
        self._first = tuple(dealing.board.listing(topic) for topic in TOPICS)
        self._answered = frozenset(dealing.answers)
        names = len(dealing.names)
        self._bitmap = -(-names // 8)
        listings = sum(packed_bytes(len(owners)) for owners in self._owners)
        self.value_bytes = listings + self._bitmap
        self.have_bytes = listings + 2 * names * self._bitmap
        self.inboxes: Sequence[Inbox[Any]] = dealing.inboxes
        self._read = lru_cache(8)(self._unpacked)
        self._needs = lru_cache(8)(self._needed)

    # --- the value ----------------------------------------------------------------------------

    def propose(self) -> bytes | None:
        """All that is held, and every dealer that may be on the list by that."""
        board, scene = self._dealing.board, self._scene
        if min(board.count(FIRST), board.count(SECOND)) < scene.least:
            return None
        listings = tuple(board.convincing(topic) for topic in TOPICS)
        if min(len(listings[FIRST]), len(listings[SECOND])) < scene.least:
            return None
        needs, answered = self._needed(listings), self._dealing.answers.keys()
        dealers = [dealer for dealer, needed in needs.items() if needed <= answered]
        if len(dealers) < scene.least:
            return None
        return self._packed(listings) + self._bits(dealers)

    def judge(self, value: bytes) -> Verdict:
        """See Subject."""
        found = self._read(value)
        if found is None or not self._enough(found):
            return Verdict.REFUSE
        board = self._dealing.board
        if any(board.omits(at, found.listings[at], self._first[at]) for at in TOPICS):
            return Verdict.REFUSE
        if not self._holds_entries(found):
            return Verdict.NOT_YET
        needs = self._needs(value)
        if not found.dealers <= needs.keys():
            return Verdict.REFUSE
        for dealer, needed in needs.items():
            held = dealer in self._first[HEADERS]
            if dealer not in found.dealers and held and needed <= self._answered:
                return Verdict.REFUSE
        return Verdict.ACCEPT if self.holds(value) else Verdict.NOT_YET

    def holds(self, value: bytes) -> bool:
        """See Subject."""
        found = self._read(value)
        if found is None:
            raise ValueError("a decided list of dealers is none")
        if not self._holds_entries(found):
            return False
        needs, answered = self._needs(value), self._dealing.answers.keys()
        return all(needs[dealer] <= answered for dealer in found.dealers)

    def _enough(self, found: _Value) -> bool:
        """Whether it has as many receipts of both kinds, and dealers, as are sure to be there."""
        receipts = (len(found.listings[kind]) for kind in (FIRST, SECOND))
        return min(*receipts, len(found.dealers)) >= self._scene.least

    def _holds_entries(self, found: _Value) -> bool:
        board = self._dealing.board
        return all(board.holds(topic, found.listings[topic]) for topic in TOPICS)

    def _needed(self, of: bytes | tuple[Listing, ...]) -> dict[str, Needs]:
        """The dealers that these listings, all of it in hand, let be; what each had to answer."""
        found = of if isinstance(of, tuple) else _must(self._read(of)).listings
        headers = found[HEADERS]
        wanted: dict[str, set[tuple[int, str, str]]] = {
            dealer: set() for dealer in self._owners[0] if len(headers.get(dealer, ())) == 1
        }
        for kind in (FIRST, SECOND):
            single = {m: digests[0] for m, digests in found[kind].items() if len(digests) == 1}
            for member, dealers in self._dealing.named(kind, single).items():
                for dealer, header in dealers.items():
                    if dealer not in wanted:
                        continue
                    if header == headers[dealer][0] or (kind == FIRST and not any(header)):
                        wanted[dealer].add((kind, dealer, member))
        t = self._scene.plan.t
        return {
            dealer: frozenset(needed)
            for dealer, needed in wanted.items()
            if sum(kind == SECOND for kind, _, _ in needed) <= t
        }

    def dealers(self, value: bytes) -> tuple[str, ...]:
        """Those on a decided list, in the order of their places."""
        on = _must(self._read(value)).dealers
        return tuple(name for name in self._dealing.names if name in on)

    def header(self, value: bytes, dealer: str) -> tuple[bytes, Entry]:
        """A listed dealer's header, and its digest."""
        (what,) = _must(self._read(value)).listings[HEADERS][dealer]
        return what, self._dealing.board.entries(HEADERS, dealer)[what]

    # --- items --------------------------------------------------------------------------------

    def upon(self, got: Arrival) -> None:
        """See Subject."""
        self._dealing.upon(got)

    def have(self) -> bytes:
        """All entries by digest, then a bitmap of members for each kind of answer and dealer."""
        board, names = self._dealing.board, self._dealing.names
        answers = self._dealing.answers
        packed = self._packed(tuple(board.listing(topic) for topic in TOPICS))
        bitmaps = [
            self._bits([member for member in names if (kind, dealer, member) in answers])
            for kind in (FIRST, SECOND)
            for dealer in names
        ]
        return packed + b"".join(bitmaps)

    def give(self, net: Net, to: str, have: bytes) -> None:
        """See Subject."""
        read = self._listings(have)
        names = self._dealing.names
        if read is None or len(have) - read[1] != 2 * len(names) * self._bitmap:
            return
        listings, at = read
        for topic in TOPICS:
            self._dealing.board.give(to, topic, listings[topic])
        for (kind, dealer, member), data in self._dealing.answers.items():
            row = (kind == SECOND) * len(names) + self._dealing.place[dealer]
            start = at + row * self._bitmap
            held = int.from_bytes(have[start : start + self._bitmap], "little")
            if not held >> self._dealing.place[member] & 1:
                self._dealing.answer_at((kind, dealer, member)).send(to, Answer(data))

    # --- bytes --------------------------------------------------------------------------------

    def _packed(self, listings: Sequence[Listing]) -> bytes:
        return b"".join(pack(self._owners[topic], listings[topic]) for topic in TOPICS)

    def _listings(self, data: bytes) -> tuple[tuple[Listing, ...], int] | None:
        listings, at = [], 0
        for topic in TOPICS:
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
        names = self._dealing.names
        if bits >> len(names):
            return None
        return _Value(read[0], frozenset(n for at, n in enumerate(names) if bits >> at & 1))

    def _bits(self, names: Sequence[str]) -> bytes:
        bits = sum(1 << self._dealing.place[name] for name in names)
        return bits.to_bytes(self._bitmap, "little")


def _must(found: _Value | None) -> _Value:
    if found is None:
        raise ValueError("a decided list of dealers is none")
    return found


class Dealt(NamedTuple):
    """What a message ends with. ``value``: the decided list, the same at all.

    ``headers``: the signed header of each dealer on it, in the order of places. ``plains``: salt
    and vector for this peer, of those dealers that it holds one of.
    """

    value: bytes
    headers: Mapping[str, Entry]
    plains: dict[str, bytes]
    dealing: Dealing

    @property
    def dealers(self) -> tuple[str, ...]:
        """All on the list."""
        return tuple(self.headers)


async def deal(assembly: Assembly, setting: Setting, own: Own | None) -> Dealt:
    """One message, from the header to the agreed list."""
    dealing = Dealing(assembly, setting, own)
    dealing.send()
    await dealing.receive()
    subject = DealerList(dealing)
    decision = await assembly.decide(setting.name, subject)
    headers, plains = {}, {}
    for dealer in subject.dealers(decision.value):
        what, headers[dealer] = subject.header(decision.value, dealer)
        if (dealer, what) in dealing.plains:
            plains[dealer] = dealing.plains[dealer, what]
    return Dealt(decision.value, headers, plains, dealing)

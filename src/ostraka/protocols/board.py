"""A board: what every peer publishes once, and the agreement on which of it counts.

Source: step 3 of the serverless design (reveal sets, check-message lists). Parties: the N voters of
an attempt. An entry is a body with its owner's signature, or one that opens its owner's commitment,
so anybody may pass it on. Guarantee: all honest peers end with the same set of entries and hold all
of them; at least N - t - dropouts owners are in it, and no entry that an honest voter of the
decided view held when it began to vote is missing. Revealed: the entries, to all. An owner of whom
the set lists two different entries counts as having none: whichever two it has signed are evidence.

A signature is verified only where somebody must believe somebody else. Who has an entry from its
owner's own channel needs none; who has it from others does, or that t + 1 of them pass it on, of
whom one is honest and had it from the owner. A leader verifies what it proposes, and a voter what
it would refuse a proposal for. So an owner whose signatures do not hold delays nobody and is blamed
for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, NamedTuple

from ostraka.crypto.sign import SIGNATURE_BYTES
from ostraka.crypto.transcript import digest
from ostraka.net import Arrival, Inbox, Net, Path
from ostraka.protocols.consistent_broadcast import Signature
from ostraka.wire import Message, Octets

DIGEST_BYTES = 32
TWO = 2
"""Entries of one owner that matter: the second one proves that it said two things."""
PLACES = 4
"""Entries of one owner that one peer may send another: two, and what agreements have named."""
PATH = ("topic", "from", "copy")
UNSIGNED = bytes(SIGNATURE_BYTES)

Listing = Mapping[str, tuple[bytes, ...]]
"""The digests of each owner's entries, ascending; owners without any are not in it."""


@dataclass(frozen=True)
class Entry(Message):
    """What an owner has published; the label says whose it is."""

    body: Annotated[bytes, Octets("body")]
    signature: Signature


class Topic(NamedTuple):
    """One kind of entry: the longest body, whose there may be, what a body of an owner looks like.

    ``use``: what owners sign it for; empty where ``sound`` is all the proof that it needs.
    """

    use: str
    cap: int
    owners: tuple[str, ...]
    sound: Callable[[str, bytes], bool]


Signed = Callable[[str, str, bytes, bytes], bool]
"""Whether an owner has signed, for a use, a body: use, owner, body, signature."""


class Board:
    """What one peer holds of several topics. ``net``: the label in which it lies.

    ``signed`` verifies; ``vouchers``: t + 1.
    """

    def __init__(
        self,
        net: Net,
        topics: Sequence[Topic],
        others: Sequence[str],
        signed: Signed,
        vouchers: int,
    ) -> None:
        self._net, self._topics, self._others = net, topics, tuple(others)
        self._signed, self._vouchers = signed, vouchers
        self._held: list[dict[str, dict[bytes, Entry]]] = [{} for _ in topics]
        self._proven: dict[tuple[int, str, bytes], bool] = {}
        self._vouched: dict[tuple[int, str], dict[bytes, set[str]]] = {}
        self._given: dict[tuple[int, str], list[bytes]] = {}
        cap = max(topic.cap for topic in topics)
        self.inbox = Inbox(PATH, Entry.form(body=cap), frozenset(others))

    def publish(self, topic: int, entry: Entry) -> None:
        """Hold one's own entry and send it to all others."""
        what = body_digest(entry.body)
        self._held[topic].setdefault(self._net.me, {})[what] = entry
        self._proven[topic, self._net.me, what] = True
        self._label(topic, self._net.me, 0).broadcast(self._others, entry)

    def upon(self, got: Arrival) -> tuple[int, str] | None:
        """Take an entry that came; the topic and owner of one that is new."""
        at, place, copy = got.index
        if at >= len(self._topics) or place >= len(self._topics[at].owners) or copy >= PLACES:
            return None
        topic, entry = self._topics[at], got.message
        owner, what = topic.owners[place], body_digest(entry.body)
        held = self._held[at].get(owner, {})
        if what in held:
            return self._better(at, owner, what, entry)
        if len(entry.body) > topic.cap:
            return None
        if not topic.sound(owner, entry.body):
            return None
        if got.sender != owner and not self._believed(at, owner, what, entry, got.sender):
            return None
        self._held[at].setdefault(owner, {})[what] = entry
        return at, owner

    def _better(self, at: int, owner: str, what: bytes, entry: Entry) -> tuple[int, str] | None:
        """Take a signature that holds in place of one that does not, of an entry that is held."""
        use = self._topics[at].use
        if entry.signature == self._held[at][owner][what].signature or self.proven(at, owner, what):
            return None
        if not self._signed(use, owner, entry.body, entry.signature):
            return None
        self._held[at][owner][what] = entry
        self._proven[at, owner, what] = True
        return at, owner

    def _believed(self, at: int, owner: str, what: bytes, entry: Entry, sender: str) -> bool:
        """Whether an entry that another peer passes on is the owner's."""
        use = self._topics[at].use
        if not use or self._signed(use, owner, entry.body, entry.signature):
            self._proven[at, owner, what] = True
            return True
        vouched = self._vouched.setdefault((at, owner), {})
        if sum(sender in senders for senders in vouched.values()) < PLACES:
            vouched.setdefault(what, set()).add(sender)
        return len(vouched.get(what, ())) >= self._vouchers

    def proven(self, topic: int, owner: str, what: bytes) -> bool:
        """Whether an entry that is held would convince others; looked at once."""
        key = topic, owner, what
        if key not in self._proven:
            use, entry = self._topics[topic].use, self._held[topic][owner][what]
            signed = not use or self._signed(use, owner, entry.body, entry.signature)
            self._proven[key] = signed
        return self._proven[key]

    def listing(self, topic: int) -> Listing:
        """What is held of a topic."""
        return {owner: tuple(sorted(held)) for owner, held in self._held[topic].items()}

    def convincing(self, topic: int) -> Listing:
        """What is held of a topic and would convince others, two of an owner at most."""
        found = {owner: self.two(topic, owner) for owner in self._held[topic]}
        return {owner: tuple(sorted(digests)) for owner, digests in found.items() if digests}

    def two(self, topic: int, owner: str) -> list[bytes]:
        """The first two entries of an owner that would convince others; fewer where it has none."""
        held = self._held[topic].get(owner, {})
        return list(islice((what for what in held if self.proven(topic, owner, what)), TWO))

    def omits(self, topic: int, listing: Listing, held: Listing) -> bool:
        """Whether a listing omits something of what was held, and that would convince others.

        Of whom two are listed, no more is needed.
        """
        return any(
            what not in listing.get(owner, ()) and self.proven(topic, owner, what)
            for owner, digests in held.items()
            if len(listing.get(owner, ())) < TWO
            for what in digests
        )

    def twice(self) -> Iterator[tuple[str, str, tuple[Entry, ...]]]:
        """(use, owner, both entries) of every owner that has signed two."""
        for at, (topic, held) in enumerate(zip(self._topics, self._held, strict=True)):
            for owner, entries in held.items():
                two = self.two(at, owner) if topic.use and len(entries) >= TWO else ()
                if len(two) == TWO:
                    yield topic.use, owner, tuple(entries[what] for what in two)

    def count(self, topic: int) -> int:
        """How many owners have an entry."""
        return len(self._held[topic])

    def entries(self, topic: int, owner: str) -> Mapping[bytes, Entry]:
        """An owner's entries, by digest."""
        return self._held[topic].get(owner, {})

    def holds(self, topic: int, listing: Listing, *, decided: bool = False) -> bool:
        """Whether every entry of a listing is in hand, and of whom two are listed, any two.

        Of those nothing counts, so once it is ``decided`` nobody needs them.
        """
        held = self._held[topic]
        return all(
            digests[0] in held.get(owner, ())
            if len(digests) < TWO
            else decided or len(self.two(topic, owner)) == TWO
            for owner, digests in listing.items()
        )

    def give(self, to: str, topic: int, known: Listing, named: Listing) -> None:
        """Send another peer what it does not know: two of an owner at most, and what is ``named``.

        Each entry has always the same place among those of its owner that this peer sends.
        """
        for owner, held in self._held[topic].items():
            has = known.get(owner, ())
            two = self.two(topic, owner) if len(held) > 1 else list(held)
            single = named.get(owner, ()) if len(named.get(owner, ())) < TWO else ()
            spare = [what for what in two if what not in has][: TWO - len(has)]
            for what in dict.fromkeys((*spare, *single)):
                if what in held and what not in has:
                    self.pass_on(to, topic, owner, what)

    def pass_on(self, to: str, topic: int, owner: str, what: bytes) -> None:
        """Send another peer one entry that is held, while there is room for it."""
        places = self._given.setdefault((topic, owner), [])
        if what not in places and len(places) < PLACES:
            places.append(what)
        if what in places:
            entry = self._held[topic][owner][what]
            self._label(topic, owner, places.index(what)).send(to, entry)

    def _label(self, topic: int, owner: str, copy: int) -> Net:
        place = self._topics[topic].owners.index(owner)
        return within(self._net, PATH, topic, place, copy)


def body_digest(body: bytes) -> bytes:
    """32 bytes that name an entry."""
    return digest("entry", body)


def within(net: Net, path: Path, *places: int) -> Net:
    """The label of this path, and these places in it, below a label."""
    for name, index in zip(path, places, strict=True):
        net = net.sub(name, index)
    return net

"""The agreement on which entries of a board count: its subject, and how sets are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ostraka.net import Arrival, Inbox, Net
from ostraka.protocols.ballots import Verdict
from ostraka.protocols.board import DIGEST_BYTES, TWO, Board, Entry, Listing


def packed_bytes(owners: int) -> int:
    """How long a packed listing is at most."""
    return owners * (1 + TWO * DIGEST_BYTES)


def pack(owners: Iterable[str], listing: Listing) -> bytes:
    """For each owner the number of its entries; then all digests, in this order."""
    found = [listing.get(owner, ()) for owner in owners]
    return bytes(len(digests) for digests in found) + b"".join(b"".join(one) for one in found)


def unpack(owners: Sequence[str], data: bytes, at: int = 0) -> tuple[Listing, int] | None:
    """The listing that `pack` packed, and where it ends; None for other bytes. Total."""
    counts, at = data[at : at + len(owners)], at + len(owners)
    if len(counts) != len(owners) or any(count > TWO for count in counts):
        return None
    listing: dict[str, tuple[bytes, ...]] = {}
    for owner, count in zip(owners, counts, strict=True):
        end = at + count * DIGEST_BYTES
        digests = tuple(data[i : i + DIGEST_BYTES] for i in range(at, end, DIGEST_BYTES))
        if end > len(data) or list(digests) != sorted(set(digests)):
            return None
        if digests:
            listing[owner] = digests
        at = end
    return listing, at


class EntrySet:
    """The subject of an agreement on the entries of a board's first topic.

    Made when the instance begins: what is held now may not be omitted. ``least``: owners in it.
    """

    voids = False

    def __init__(self, board: Board, owners: Sequence[str], least: int) -> None:
        self._board, self._owners, self._least = board, tuple(owners), least
        self._first = board.listing(0)
        self._named: Listing = {}
        self.value_bytes = self.have_bytes = packed_bytes(len(owners))
        self.inboxes: Sequence[Inbox[Any]] = (board.inbox,)

    def propose(self) -> bytes | None:
        """All that is held and would convince others, once it is enough."""
        held = self._board.convincing(0)
        return pack(self._owners, held) if len(held) >= self._least else None

    def judge(self, value: bytes) -> Verdict:
        """See Subject."""
        listing = self._read(value)
        if listing is None or len(listing) < self._least:
            return Verdict.REFUSE
        if self._board.omits(0, listing, self._first):
            return Verdict.REFUSE
        self._named = listing
        return Verdict.ACCEPT if self._board.holds(0, listing) else Verdict.NOT_YET

    def holds(self, value: bytes) -> bool:
        """See Subject."""
        listing = self._read(value)
        if listing is None:
            raise ValueError("a decided set of entries is none")
        self._named = listing
        return self._board.holds(0, listing, decided=True)

    def upon(self, got: Arrival) -> None:
        """See Subject."""
        self._board.upon(got)

    def have(self) -> bytes:
        """See Subject."""
        return pack(self._owners, self._board.convincing(0))

    def give(self, net: Net, to: str, have: bytes) -> None:
        """See Subject."""
        listing = self._read(have)
        if listing is not None:
            self._board.give(to, 0, listing, self._named)

    def entries(self, value: bytes) -> dict[str, Entry]:
        """The entries that a decided value counts, in the order of owners."""
        listing = self._read(value) or {}
        return {
            owner: self._board.entries(0, owner)[listing[owner][0]]
            for owner in self._owners
            if len(listing.get(owner, ())) == 1
        }

    def _read(self, value: bytes) -> Listing | None:
        found = unpack(self._owners, value)
        return found[0] if found is not None and found[1] == len(value) else None

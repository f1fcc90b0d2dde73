"""Cheats of a peer of `serverless` in what it sends: peers.py says how."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ostraka.algebra.field import Field, P
from ostraka.attacks.peers import (
    STEPS,
    Liar,
    PeerAttack,
    Place,
    body_of,
    changed_words,
    own_entry,
    read_own,
    variant,
)
from ostraka.crypto.sign import SIGNATURE_BYTES
from ostraka.net import Sendable
from ostraka.protocols.board import Entry
from ostraka.protocols.burn_defence import Bundle
from ostraka.protocols.dealing_messages import Header, Receipt
from ostraka.protocols.image_check import WORDS
from ostraka.protocols.robust_open import Share


@dataclass(frozen=True)
class Silent(PeerAttack):
    """Says nothing from a step of an attempt on; ``part``: but for the topics before this one."""

    since: str = "keys"
    part: int = 0
    name: ClassVar[str] = "silent"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """See PeerAttack."""
        step = STEPS.index(place.step) if place.step else -1
        since = STEPS.index(self.since)
        early = step < since or (step == since and 0 <= place.topic < self.part)
        return (message,) if early else ()


@dataclass(frozen=True)
class Withhold(PeerAttack):
    """Sends some receivers nothing of some kinds in some steps; answers to complaints neither."""

    victims: tuple[str, ...]
    kinds: tuple[str, ...] = ("Box",)
    steps: tuple[str, ...] = ("deal", "proof")
    name: ClassVar[str] = "withhold"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """See PeerAttack."""
        hit = to in self.victims and place.step in self.steps and message.kind in self.kinds
        return () if hit else (message,)


@dataclass(frozen=True)
class NoOpening(PeerAttack):
    """Sends some members boxes that open, but not to what the header says; answers nothing then."""

    victims: tuple[str, ...]
    step: str = "deal"
    name: ClassVar[str] = "no-opening"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """A header with other digests of vectors, signed."""
        if (place.step, place.topic) != (self.step, 0) or not own_entry(liar, place, message):
            return (message,)
        header = read_own(Header.form(n=len(liar.names)), message)
        plains = np.array(header.plains)
        for victim in self.victims:
            plains[liar.names.index(victim), 0] ^= 1
        return (liar.signed(place, replace(header, plains=plains).encode()),)


@dataclass(frozen=True)
class FalseComplaint(PeerAttack):
    """Complains about dealers that gave it what they should: a missing box, or one that is spoilt.

    ``steps``: deal, proof: missing; deal-opened, proof-opened: spoilt. ``hidden``: a dealer that it
    complains about is first shown so many receipts, 1 or 2, that do not, and are not signed.
    """

    about: tuple[str, ...]
    steps: tuple[str, ...] = ("deal", "proof")
    hidden: int = 0
    name: ClassVar[str] = "false-complaint"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """A receipt with complaints, signed."""
        due = place.step in self.steps and place.of_receipt
        if not due or not own_entry(liar, place, message):
            return (message,)
        receipt = read_own(Receipt.form(n=len(liar.names)), message)
        wrong = np.array(receipt.wrong)
        for name in self.about:
            wrong[liar.names.index(name)] = True
        lie = liar.signed(place, replace(receipt, wrong=wrong).encode())
        if not self.hidden or to not in self.about:
            return (lie,)
        headers = [receipt.headers ^ np.uint8(number) for number in range(self.hidden)]
        bodies = [replace(receipt, headers=one).encode() for one in headers]
        return [*(Entry(body, bytes(SIGNATURE_BYTES)) for body in bodies), lie][:2]


@dataclass(frozen=True)
class Doubts(PeerAttack):
    """Says in its receipts that some box does not open, but not whose: one more stage for all."""

    name: ClassVar[str] = "doubts"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """The receipt with that, signed."""
        due = place.step in ("deal", "proof") and place.of_receipt
        if not due or not own_entry(liar, place, message):
            return (message,)
        receipt = read_own(Receipt.form(n=len(liar.names)), message)
        return (liar.signed(place, replace(receipt, opens=False).encode()),)


@dataclass(frozen=True)
class TwoBodies(PeerAttack):
    """Signs two bodies where it may sign one, and shows each half of the others another one.

    ``step`` and ``topic``: keys; header (0) and receipt (1) of deal and proof; receipt (0) of
    deal-opened and proof-opened; checks.
    ``both``: everybody is shown both.
    """

    step: str = "deal"
    topic: int = 0
    both: bool = False
    name: ClassVar[str] = "two-bodies"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """See PeerAttack."""
        if (place.step, place.topic) != (self.step, self.topic) or not own_entry(
            liar, place, message
        ):
            return (message,)
        other = liar.signed(place, variant(liar, place, message, 1))
        if self.both:
            return (message, other)
        return (other,) if liar.half(to) else (message,)


@dataclass(frozen=True)
class ThreeBodies(PeerAttack):
    """Signs three bodies where it may sign one, and shows every other peer another two of them."""

    step: str = "deal"
    topic: int = 0
    name: ClassVar[str] = "three-bodies"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """Two of three."""
        if (place.step, place.topic) != (self.step, self.topic) or not own_entry(
            liar, place, message
        ):
            return (message,)
        shown = liar.names.index(to) % 2
        return [liar.signed(place, variant(liar, place, message, shown + i)) for i in (0, 1)]


@dataclass(frozen=True)
class Crowding(PeerAttack):
    """Shows one peer two unsigned bodies, so that it has no room for what all others get."""

    step: str = "deal"
    topic: int = 0
    victim: str = "p05"
    name: ClassVar[str] = "crowding"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """See PeerAttack."""
        due = (place.step, place.topic) == (self.step, self.topic) and to == self.victim
        if not due or not own_entry(liar, place, message):
            return (message,)
        bodies = [variant(liar, place, message, i) for i in (1, 2)]
        return [Entry(body, bytes(SIGNATURE_BYTES)) for body in bodies]


@dataclass(frozen=True)
class BadSignatures(PeerAttack):
    """Signs what it publishes for half of the others only."""

    step: str = "deal"
    name: ClassVar[str] = "bad-signatures"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """The same body, another signature."""
        hit = place.step == self.step and own_entry(liar, place, message) and liar.half(to)
        return (Entry(body_of(message), bytes(SIGNATURE_BYTES)),) if hit else (message,)


@dataclass(frozen=True)
class HalfReveal(PeerAttack):
    """Shows its part of a coin, or its words, to some only; ``to_none``: to nobody."""

    step: str = "coin"
    to_none: bool = False
    name: ClassVar[str] = "half-reveal"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """See PeerAttack."""
        mine = place.step == self.step and own_entry(liar, place, message)
        hit = mine and (self.to_none or liar.half(to))
        return () if hit else (message,)


@dataclass(frozen=True)
class FalseWords(PeerAttack):
    """Says wrong words in the checks.

    ``places``: of the six, A, B, C of both copies. ``about``: of which dealers, by their places on
    the list; None: all. ``value``: says this in place of one more; may be no element.
    """

    places: tuple[int, ...] = tuple(range(WORDS))
    about: tuple[int, ...] | None = None
    value: int | None = None
    name: ClassVar[str] = "false-words"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """Other words, signed."""
        if place.step != "checks" or not own_entry(liar, place, message):
            return (message,)
        return (liar.signed(place, changed_words(message, self._lie)),)

    def _lie(self, words: Field) -> Field:
        found = words.copy()
        rows = list(range(len(words))) if self.about is None else list(self.about)
        at = np.ix_(rows, list(self.places))
        found[at] = (words[at] + np.uint64(1)) % np.uint64(P) if self.value is None else self.value
        return found


@dataclass(frozen=True)
class FalseOpening(PeerAttack):
    """Opens another share: ``value`` everywhere, or one more; ``split``: each receiver another."""

    value: int | None = None
    split: bool = False
    name: ClassVar[str] = "false-opening"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """See PeerAttack."""
        if not isinstance(message, Share):
            return (message,)
        more = liar.names.index(to) + 1 if self.split else 1
        if self.value is None:
            return (Share((message.row + np.uint64(more)) % np.uint64(P)),)
        return (Share(np.full_like(message.row, self.value)),)


@dataclass(frozen=True)
class SmallKey(PeerAttack):
    """Publishes a box key of small order, with which everybody's secret is the same."""

    key: bytes = bytes(32)
    name: ClassVar[str] = "small-key"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """Another key, signed."""
        if place.step != "keys" or not own_entry(liar, place, message):
            return (message,)
        return (liar.signed(place, self.key),)


@dataclass(frozen=True)
class Stale(PeerAttack):
    """Says in this attempt what it signed for another round or attempt."""

    rounds: int = 1
    attempts: int = 0
    name: ClassVar[str] = "stale"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """Its entries, with signatures of so many rounds before or attempts after."""
        if place.step in ("coin", "last-coin") or not own_entry(liar, place, message):
            return (message,)
        other = place._replace(
            round=place.round - self.rounds, attempt=place.attempt + self.attempts
        )
        return (liar.signed(other, body_of(message)),)


@dataclass(frozen=True)
class Swapped(PeerAttack):
    """Signs one of its entries as if it were another: a receipt as the other receipt."""

    of: tuple[str, int] = ("deal", 1)
    at: tuple[str, int] = ("deal-opened", 0)
    name: ClassVar[str] = "swapped"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """The body with the signature that it has as the other entry."""
        if (place.step, place.topic) != self.at or not own_entry(liar, place, message):
            return (message,)
        other = place._replace(step=self.of[0], rest=(("topic", self.of[1]), *place.rest[1:]))
        return (liar.signed(other, body_of(message)),)


@dataclass(frozen=True)
class FalseBundle(PeerAttack):
    """Lies in its words, and burns members: publishes bundles that nobody dealt."""

    name: ClassVar[str] = "false-bundle"

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """Every bundle with one byte changed."""
        if not isinstance(message, Bundle):
            return (message,)
        return (replace(message, first=message.first[:-1] + bytes([message.first[-1] ^ 1])),)


SAYING_ATTACKS: dict[str, type[PeerAttack]] = {
    attack.name: attack
    for attack in (
        *(Silent, Withhold, NoOpening, FalseComplaint, Doubts, TwoBodies, ThreeBodies, Crowding),
        *(BadSignatures, HalfReveal, FalseWords, FalseOpening, SmallKey, Stale, Swapped),
        FalseBundle,
    )
}

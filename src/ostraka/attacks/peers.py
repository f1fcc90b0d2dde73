"""Peers of `serverless` that cheat: in what they deal, and in what they say.

Such a peer runs the honest program with two things of its own: `deals` makes what it deals, and
`LyingNet` bends what it sends, message by message, receiver by receiver. It has its own key, so it
signs its lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np

from ostraka.algebra.field import Field, Integers, P
from ostraka.algebra.image_sets import PROJECTION_LIMIT, Submission
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import Sign
from ostraka.net import Form, Label, Malformed, Net, Sendable
from ostraka.protocols.board import Entry
from ostraka.protocols.checking import Words
from ostraka.protocols.dealing_messages import Header, Receipt
from ostraka.protocols.image_check import WORDS
from ostraka.protocols.image_equations import PROJECTION_BITS, Statement
from ostraka.protocols.scene import Scene
from ostraka.protocols.shared_submission import FirstDeal, SecondDeal
from ostraka.protocols.votes import Plan

M = TypeVar("M")
FIRST, SECOND = 1, 2
"""The two messages of a dealer."""
STEPS = (
    *("keys", "deal", "deal-opened", "coin", "proof", "proof-opened", "last-coin", "checks"),
    *("accepted", "open"),
)
"""Where messages lie: the agreements of an attempt in order, and the opening."""


class Place(NamedTuple):
    """Where a message lies: round, attempt, one of `STEPS`, and the rest of its label."""

    round: int
    attempt: int
    step: str
    rest: Label

    @classmethod
    def of(cls, label: Label) -> Place:
        """Of a label; step "" for one that belongs to no step."""
        numbers, rest = dict(label[:2]), label[1:]
        if "attempt" in numbers:
            rest = label[2:]
        step = rest[0][0] if rest and rest[0][0] in STEPS else ""
        return cls(numbers.get("round", 0), numbers.get("attempt", 0), step, rest[1:])

    @property
    def topic(self) -> int:
        """The topic of a board's entry; -1 for another message."""
        return self.rest[0][1] if self.rest and self.rest[0][0] == "topic" else -1

    @property
    def of_receipt(self) -> bool:
        """Whether receipts lie there."""
        first = self.step in ("deal", "proof") and self.topic == 1
        return first or (self.step in ("deal-opened", "proof-opened") and self.topic == 0)


@dataclass
class Liar:
    """What a corrupt peer knows: the voters, its key, its name."""

    plan: Plan
    sign: Sign
    me: str

    @property
    def names(self) -> tuple[str, ...]:
        """All peers, in the order of their places."""
        return tuple(self.plan.voters)

    def half(self, to: str) -> bool:
        """Whether a receiver is in the second half."""
        return self.names.index(to) >= len(self.names) // 2

    def signed(self, place: Place, body: bytes) -> Entry:
        """An entry of its own that everybody will believe to be its."""
        uses: dict[str, tuple[str, ...]] = {"keys": ("keys",), "checks": ("words",)}
        for step in ("deal", "proof"):
            uses[step] = (f"header {step}", f"receipt {step}")
            uses[f"{step}-opened"] = (f"receipt {step}-opened",)
        scene = Scene(self.plan, place.round, place.attempt, 0.0)
        use = uses[place.step][place.topic]
        return Entry(body, self.sign(scene.entry(use, self.me, body)))


class PeerAttack:
    """Honest, but for what a cheat overrides. `knows` and `controls` state the adversary."""

    name: ClassVar[str] = "honest"
    knows: ClassVar[str] = "the public state, what it is sent, what it deals"
    controls: ClassVar[str] = "what its peer deals and sends, to each receiver"

    def submission(self, statement: Statement, own: Submission) -> Submission:
        """What it deals in place of its own submission."""
        return own

    def lay(self, statement: Statement, first: int, laid: Integers) -> None:
        """Change in place the secrets, int64 (l, columns), of the parts from this one on."""

    def bits(self, statement: Statement, bits: Integers) -> None:
        """Change in place the proof."""

    def vector(self, statement: Statement, message: int, member: int, payload: bytes) -> bytes:
        """What a member is dealt in a message, in place of this."""
        return payload

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """What a receiver is sent in place of a message."""
        return (message,)


# --- the seams ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bent(Statement):
    """A statement whose prover lies: what is laid, and what is proven, goes through the attack."""

    attack: PeerAttack

    def lay(self, vectors: Submission, first: int) -> Integers:
        """See Statement."""
        laid = super().lay(vectors, first)
        self.attack.lay(self, first, laid)
        return laid

    def prove(self, submission: Submission, words: tuple[Field, ...]) -> Integers:
        """A proof, or the nearest thing to one: the bits of each number, cut off."""
        try:
            bits = super().prove(submission, words)
        except ValueError:
            bits = near_proof(self, submission, words)
        self.attack.bits(self, bits)
        return bits


class _First(FirstDeal):
    def __init__(
        self, attack: PeerAttack, statement: Statement, submission: Submission, key: Key
    ) -> None:
        self._attack = attack
        bent = Bent(statement.image, statement.packing, statement.tests, attack)
        super().__init__(bent, attack.submission(statement, submission), key)

    def vector(self, member: int) -> bytes:
        return self._attack.vector(self.statement, FIRST, member, super().vector(member))


class _Second(SecondDeal):
    def __init__(
        self,
        attack: PeerAttack,
        statement: Statement,
        submission: Submission,
        key: Key,
        words: Sequence[Field],
    ) -> None:
        self._attack = attack
        bent = Bent(statement.image, statement.packing, statement.tests, attack)
        super().__init__(bent, attack.submission(statement, submission), key, words)

    def vector(self, member: int) -> bytes:
        return self._attack.vector(self.statement, SECOND, member, super().vector(member))


def deals(attack: PeerAttack) -> tuple[Callable[..., FirstDeal], Callable[..., SecondDeal]]:
    """What makes both messages of a corrupt dealer, in place of FirstDeal and SecondDeal."""
    return (
        lambda statement, submission, key: _First(attack, statement, submission, key),
        lambda statement, submission, key, words: _Second(
            attack, statement, submission, key, words
        ),
    )


def near_proof(statement: Statement, submission: Submission, words: Sequence[Field]) -> Integers:
    """Bits of what the numbers are in the field, cut off where they are too long."""
    values = [
        ((bound.sign * number.of(submission) + bound.offset) % P, bound.bits)
        for number in statement.numbers
        for bound in number.bounds
    ]
    for part, drawn in zip(statement.projected, words, strict=True):
        rows = list(zip(submission[part].tolist(), drawn.tolist(), strict=False))
        for test in range(statement.tests):
            a, b = divmod(test, 32)
            total = sum(y * ((w[a] >> b & 1) - (w[a] >> 32 + b & 1)) for y, w in rows)
            values.append(((total + PROJECTION_LIMIT) % P, PROJECTION_BITS))
    return np.array([v >> i & 1 for v, bits in values for i in range(bits)], np.int64)


class LyingNet(Net):
    """A corrupt peer's network."""

    __slots__ = ("_attack", "_liar")

    def __init__(self, net: Net, attack: PeerAttack, liar: Liar) -> None:
        super().__init__(net._port, net.label)
        self._attack, self._liar = attack, liar

    def sub(self, name: str, index: int = 0) -> Net:
        """The same network one label deeper."""
        return LyingNet(super().sub(name, index), self._attack, self._liar)

    def send(self, to: str, message: Sendable) -> None:
        """Queue what this receiver is to see, each message once."""
        for copy, bent in enumerate(
            self._attack.sent(self._liar, Place.of(self.label), to, message)
        ):
            at = Net(self._port, self.label)
            if copy and self.label and self.label[-1][0] == "copy":
                at = Net(self._port, (*self.label[:-1], ("copy", copy)))
            at.send(to, bent)

    def broadcast(self, to: Sequence[str], message: Sendable) -> None:
        """Queue what each of them is to see."""
        for name in to:
            self.send(name, message)


# --- several at once, and what cheats need --------------------------------------------------------


@dataclass(frozen=True)
class Together(PeerAttack):
    """Several cheats at once, one after the other."""

    attacks: tuple[PeerAttack, ...]
    name: ClassVar[str] = "together"

    def submission(self, statement: Statement, own: Submission) -> Submission:
        """See PeerAttack."""
        for attack in self.attacks:
            own = attack.submission(statement, own)
        return own

    def lay(self, statement: Statement, first: int, laid: Integers) -> None:
        """See PeerAttack."""
        for attack in self.attacks:
            attack.lay(statement, first, laid)

    def bits(self, statement: Statement, bits: Integers) -> None:
        """See PeerAttack."""
        for attack in self.attacks:
            attack.bits(statement, bits)

    def vector(self, statement: Statement, message: int, member: int, payload: bytes) -> bytes:
        """See PeerAttack."""
        for attack in self.attacks:
            payload = attack.vector(statement, message, member, payload)
        return payload

    def sent(self, liar: Liar, place: Place, to: str, message: Sendable) -> Iterable[Sendable]:
        """See PeerAttack."""
        found: list[Sendable] = [message]
        for attack in self.attacks:
            found = [bent for one in found for bent in attack.sent(liar, place, to, one)]
        return found


def own_entry(liar: Liar, place: Place, message: Sendable) -> bool:
    """Whether a message is an entry of its own."""
    mine = ("from", liar.names.index(liar.me))
    return isinstance(message, Entry) and place.rest[1:2] == (mine,)


def body_of(message: Sendable) -> bytes:
    """The body of an entry. ValueError for another message."""
    if not isinstance(message, Entry):
        raise ValueError(f"a {message.kind} is no entry")
    return message.body


def read_own(form: Form[M], message: Sendable) -> M:
    """What the body of its own entry says."""
    found = form.decode(body_of(message))
    if isinstance(found, Malformed):
        raise ValueError(f"its own entry is none: {found.detail}")
    return found


def variant(liar: Liar, place: Place, message: Sendable, number: int) -> bytes:
    """Another body of one's own entry, for each number another one; its own for 0."""
    if number == 0:
        return body_of(message)
    if place.step == "keys":
        return bytes([body_of(message)[0] ^ number]) + body_of(message)[1:]
    if place.step == "checks":
        return changed_words(message, lambda words: words ^ np.uint64(number))
    n = len(liar.names)
    if not place.of_receipt:
        header = read_own(Header.form(n=n), message)
        return replace(header, coins=header.coins ^ np.uint8(number)).encode()
    receipt = read_own(Receipt.form(n=n), message)
    wrong = np.array(receipt.wrong)
    wrong[number] ^= True
    return replace(receipt, wrong=wrong).encode()


def changed_words(message: Sendable, change: Callable[[Field], Field]) -> bytes:
    """Own words, with others in their place."""
    body = body_of(message)
    dealers = (len(body) - len(Words(np.zeros((0, WORDS), np.uint64)).encode())) // (8 * WORDS)
    words = read_own(Words.form(dealers=dealers), message).words
    return Words(change(words)).encode()

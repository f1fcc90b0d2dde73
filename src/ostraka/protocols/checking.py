"""Checks of all dealers at once: every member's words, the agreed list of them, what it says.

Source: step 4 of the serverless design; the words are those of image_check.py. Parties: the members
of an attempt, up to t of whom lie; dealers deal what they like. Guarantee: one verdict on every
dealer at all honest peers, a function of the agreed list alone. Revealed: the words, which say
nothing but whether all holds. One signed message of six elements for each dealer from everybody to
everybody, and an agreement. A member answers one coin of an attempt, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np

from ostraka.algebra.field import Field, is_canonical
from ostraka.crypto.prg import Key
from ostraka.protocols.board import Entry, Topic
from ostraka.protocols.dealer_list import Dealt
from ostraka.protocols.dealing_messages import SALT_BYTES
from ostraka.protocols.entry_set import EntrySet
from ostraka.protocols.image_check import COPIES, WORDS, Judged, judge, member_words
from ostraka.protocols.image_coefficients import Coefficients, draw_projections
from ostraka.protocols.image_equations import Statement
from ostraka.protocols.scene import Assembly
from ostraka.protocols.shared_submission import member_shares
from ostraka.protocols.waiting import gather
from ostraka.sharing.reed_solomon import Flags
from ostraka.wire import Array, Message, Tensor

USE = "words"


@dataclass(frozen=True)
class Words(Message):
    """A member's A, B and C of both copies for every dealer on the second list."""

    words: Annotated[Array, Tensor("uint64", ("dealers", WORDS))]


@dataclass(frozen=True, eq=False)
class Trial:
    """What the agreed list says. ``names``: all peers, in the order of their points.

    ``coins``: both. ``words`` (N, n, 6) and ``present`` (N,) are of all members and n dealers;
    ``entries`` are the members' signed messages; ``value`` is what was decided.
    """

    statement: Statement
    coins: tuple[Key, Key]
    names: tuple[str, ...]
    dealers: tuple[str, ...]
    words: Field
    present: Flags
    entries: Mapping[str, Entry]
    value: bytes

    @cached_property
    def coefficients(self) -> tuple[Coefficients, ...]:
        """Of both copies; made only where a share is disputed."""
        return coefficients_of(self.statement, self.coins)

    @cached_property
    def judged(self) -> Judged:
        """Who is acceptable, and who agrees with whom."""
        return judge(self.statement, self.words, self.present)

    @cached_property
    def counts(self) -> Flags:
        """Of which dealers the codewords count, bool (n,)."""
        packing = self.statement.packing
        least = 2 * packing.degree + 1 + packing.t
        return np.asarray(self.judged.agrees.sum(axis=1) >= least)

    @property
    def acceptable(self) -> tuple[str, ...]:
        """The dealers whose submissions lie in the image."""
        return tuple(
            d for d, good in zip(self.dealers, self.judged.acceptable, strict=True) if good
        )

    @property
    def refuted(self) -> tuple[str, ...]:
        """Dealers that the list convicts: enough values are there that an honest one's decode."""
        packing = self.statement.packing
        if self.present.sum() < 2 * packing.degree + 1 + 2 * packing.t:
            return ()
        return tuple(d for d in self.dealers if d not in self.acceptable)

    def agrees(self, dealer: str, member: str) -> bool:
        """Whether what a member said of a dealer is what the dealer's codewords say of it."""
        return bool(self.judged.agrees[self.dealers.index(dealer), self.names.index(member)])

    def disputed(self) -> list[tuple[str, str]]:
        """(dealer, member) that disagree, where the dealer's codewords count."""
        found = self.counts[:, None] & self.present[None, :] & ~self.judged.agrees
        return [(self.dealers[d], self.names[m]) for d, m in np.argwhere(found).tolist()]

    def recomputed(self, member: str, first: bytes, second: bytes) -> Field:
        """What a member would say (6,) of a dealer that dealt it these vectors, both sound."""
        at = self.names.index(member)
        shares = member_shares(self.statement, at, [first], [second])
        found: Field = member_words(self.statement, self.coefficients, at, shares)[0]
        return found

    def signed(self, dealer: str, member: str) -> Field:
        """What a member that is present has said (6,)."""
        found: Field = self.words[self.names.index(member), self.dealers.index(dealer)]
        return found

    def codeword(self, dealer: str, member: str) -> Field:
        """What the codewords say (6,) that a member that is present should say."""
        d, m = self.dealers.index(dealer), self.names.index(member)
        return np.array([word.codewords[d, m] for word in self.judged.decoded], np.uint64)


def coefficients_of(statement: Statement, coins: tuple[Key, Key]) -> tuple[Coefficients, ...]:
    """What both copies combine with."""
    words = draw_projections(statement, coins[0])
    return tuple(Coefficients.draw(statement, words, coins[1], copy) for copy in range(COPIES))


async def check(
    assembly: Assembly,
    name: str,
    statement: Statement,
    coins: tuple[Key, Key],
    members: tuple[str, ...],
    dealt: tuple[Dealt, Dealt],
) -> Trial:
    """Say one's own words and agree on all.

    ``dealt``: both messages; the second one's dealers count. ``name``: of the agreement.
    """
    scene, first, second = assembly.scene, *dealt
    dealers = second.dealers
    form = Words.form(dealers=len(dealers))

    def sound(owner: str, body: bytes) -> bool:
        found = form.decode(body)
        return isinstance(found, Words) and is_canonical(found.words)

    topic = Topic(USE, form.max_bytes, members, sound)
    board = assembly.board(name, [topic])
    me = assembly.net.me
    if me in members and all(d in first.plains and d in second.plains for d in dealers):
        payloads = [[memoryview(one.plains[d])[SALT_BYTES:] for d in dealers] for one in dealt]
        shares = member_shares(statement, scene.names.index(me), *payloads)
        own = member_words(
            statement, coefficients_of(statement, coins), scene.names.index(me), shares
        )
        body = Words(own).encode()
        board.publish(0, Entry(body, assembly.signature(USE, body)))
    await gather(assembly, name, board, members)
    subject = EntrySet(board, members, scene.least)
    decision = await assembly.decide(name, subject)
    entries = subject.entries(decision.value)
    table = np.zeros((len(scene.names), len(dealers), WORDS), np.uint64)
    present = np.zeros(len(scene.names), np.bool_)
    for at, peer in enumerate(scene.names):
        found = form.decode(entries[peer].body) if peer in entries else None
        if isinstance(found, Words):
            table[at], present[at] = found.words, True
    return Trial(statement, coins, scene.names, dealers, table, present, entries, decision.value)

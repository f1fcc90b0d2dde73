"""One attempt of a round: from fresh keys to the set of submissions that count, or `void`.

    1  keys      every peer publishes a key for boxes; agreed on: who takes part
    2  deal      first message: shares of the submission; agreed on: who has dealt what, and then,
                 as deal-opened, whose boxes open
    3  coin      random projections
    4  proof     second message: shares of the proof's bits; agreed on in the same two stages
    5  last-coin coefficients of the checks
    6  checks    three words of every member for every dealer and copy; agreed on
    7  a window  bundles, against burnt members
    8  accepted  the set, or void

Source: steps 1 to 6 of the serverless design, which has one agreement for each message: then a
dealer could publish a box that does not open so late that its member cannot say so any more, and
stop everybody. The agreements are named as here. A peer that has waited too long, or has lost what
it held, goes to the last one with nothing in hand: it votes, and learns what is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ostraka.algebra.field import Field
from ostraka.algebra.image_sets import Submission
from ostraka.crypto.prg import KEY_BYTES, Key
from ostraka.crypto.seal import BoxKey
from ostraka.protocols.accepted_set import Accepted, AcceptedSet, Charges, read
from ostraka.protocols.board import Entry, Topic
from ostraka.protocols.burn_defence import Bundles
from ostraka.protocols.checking import Trial, Words, check
from ostraka.protocols.dealer_list import Dealt, deal
from ostraka.protocols.dealing_messages import SALT_BYTES, Header, Own, Receipt, Setting
from ostraka.protocols.entry_set import EntrySet
from ostraka.protocols.image_coefficients import draw_projections
from ostraka.protocols.image_equations import Statement
from ostraka.protocols.public_coin import committed, toss
from ostraka.protocols.scene import Assembly
from ostraka.protocols.shared_submission import First, FirstDeal, Second, SecondDeal, summed
from ostraka.protocols.waiting import gather

KEYS, DEAL, COIN, PROOF, LAST_COIN, CHECKS, ACCEPTED = (
    *("keys", "deal", "coin", "proof", "last-coin", "checks"),
    "accepted",
)


MakeFirst = Callable[[Statement, Submission, Key], FirstDeal]
MakeSecond = Callable[[Statement, Submission, Key, Sequence[Field]], SecondDeal]


@dataclass
class Begun:
    """What a peer brings to an attempt; ``submission`` None: it deals nothing.

    ``patience_s``: after so long it gives up. ``fresh`` gives secrets for one use. ``first`` and
    ``second`` make what it deals.
    """

    statement: Statement
    submission: Submission | None
    fresh: Callable[[], Key]
    patience_s: float
    first: MakeFirst = FirstDeal
    second: MakeSecond = SecondDeal


class Ended(NamedTuple):
    """``accepted``: the decided set, None for void. ``share``: of its sum, where it is good.

    ``trial``: where this peer has followed to the checks.
    """

    accepted: Accepted | None
    share: Field | None
    trial: Trial | None
    charges: Charges


Then = Callable[[Ended], Coroutine[Any, Any, Any]]


class Attempt:
    """One peer's side; `run` to its end, or `follow` with nothing in hand."""

    def __init__(self, assembly: Assembly, begun: Begun) -> None:
        self._assembly, self._begun = assembly, begun
        n = len(assembly.scene.names)
        forms = Header.form(n=n), Receipt.form(n=n), Words.form(dealers=n)
        body_bytes = max(form.max_bytes for form in forms)
        self._charges = Charges(assembly, assembly.at(ACCEPTED), body_bytes)
        self._dealt: tuple[Dealt, Dealt] | None = None

    async def run(self, then: Then) -> Any:
        """Take part in everything; gives what ``then`` gives, which runs beside what serves others.

        Who is behind needs this peer's answers until the round is over.
        """
        net = self._assembly.net
        place, result = await net.race(self._whole(then), self._impatience())
        if place == 0:
            return result
        self._assembly.trace("gave_up", round=self._assembly.scene.round, party=net.me)
        return await self.follow(then)

    async def follow(self, then: Then) -> Any:
        """Vote on the set alone, and learn what it is."""
        subject = AcceptedSet(self._assembly.scene, self._charges)
        decision = await self._assembly.decide(ACCEPTED, subject)
        accepted = None if decision.void else read(self._assembly.scene, decision.value)
        share = None if accepted is None else self._share(accepted)
        self._forget()
        return await then(Ended(accepted, share, self._charges.trial, self._charges))

    async def _impatience(self) -> None:
        net = self._assembly.net
        await net.sleep(self._begun.patience_s)
        while self._charges.trial is not None:  # the set is being agreed on: that ends by itself
            await net.sleep(self._begun.patience_s)

    async def _whole(self, then: Then) -> Any:
        assembly, begun, me = self._assembly, self._begun, self._assembly.net.me
        statement, scene = begun.statement, assembly.scene
        members, secrets = await self._keys()

        # 2. Every dealer commits to its parts of both coins before it knows anything of the others.
        exposed: set[str] = set()
        key, parts = begun.fresh(), (begun.fresh(), begun.fresh())
        deals = me in members and begun.submission is not None
        coins = tuple(committed(scene, at, me, part) for at, part in enumerate(parts, 1))
        shape: First = First(statement)
        own = None
        if deals and begun.submission is not None:
            shape = values = begun.first(statement, begun.submission, key.derive("first"))
            salts = key.derive("salts")
            own = Own(values.vector, salts, (coins[0], coins[1]), values.forget)
        setting = Setting(DEAL, members, members, secrets, shape, exposed)
        first = await deal(assembly, setting, own)

        # 3. and 4. The proof is made, and dealt, before anybody knows what it is checked with.
        coin = await self._toss(COIN, 1, first, first.dealers, parts[0])
        proof: Second = Second(statement)
        own = None
        if deals and me in first.dealers and begun.submission is not None:
            words = draw_projections(statement, coin)
            proof = bits = begun.second(statement, begun.submission, key.derive("second"), words)
            own = Own(bits.vector, key.derive("more salts"), (bytes(32), bytes(32)))
        setting = Setting(PROOF, first.dealers, members, secrets, proof, exposed)
        second = await deal(assembly, setting, own)

        # 5. to 7.
        last = await self._toss(LAST_COIN, 2, first, second.dealers, parts[1])
        self._dealt = dealt = first, second
        trial = await check(assembly, CHECKS, statement, (coin, last), members, dealt)
        bundles = Bundles(assembly, assembly.at(ACCEPTED), trial, dealt)
        await bundles.settle()
        self._charges.join(trial, bundles)
        return await self.follow(then)

    async def _keys(self) -> tuple[tuple[str, ...], dict[str, Key]]:
        """Who has a key for boxes in this attempt, and what this peer shares with each of them."""
        assembly, scene, me = self._assembly, self._assembly.scene, self._assembly.net.me
        own = BoxKey(self._begun.fresh())
        secrets: dict[bytes, Key | None] = {}

        def sound(owner: str, body: bytes) -> bool:
            secrets[body] = own.shared(body)
            return secrets[body] is not None

        board = assembly.board(KEYS, [Topic(KEYS, KEY_BYTES, scene.names, sound)])
        board.publish(0, Entry(own.public, assembly.signature(KEYS, own.public)))
        await gather(assembly, KEYS, board, scene.names)
        subject = EntrySet(board, scene.names, scene.least)
        decision = await assembly.decide(KEYS, subject)
        keys = {name: entry.body for name, entry in subject.entries(decision.value).items()}
        shared = {name: secrets[key] for name, key in keys.items() if name != me}
        return tuple(keys), {name: key for name, key in shared.items() if key is not None}

    async def _toss(
        self, name: str, number: int, first: Dealt, dealers: tuple[str, ...], part: Key
    ) -> Key:
        """A coin from what these dealers have committed to in their first headers."""
        form = Header.form(n=len(self._assembly.scene.names))
        commitments = {}
        for dealer in dealers:
            header = form.decode(first.headers[dealer].body)
            if isinstance(header, Header):
                commitments[dealer] = bytes(header.coins[number - 1])
        own = part if self._assembly.net.me in dealers else None
        return await toss(self._assembly, name, number, commitments, own)

    def _forget(self) -> None:
        """Erase what was dealt to this peer, once the sum of it is made."""
        for dealt in self._dealt or ():
            dealt.plains.clear()
            dealt.dealing.plains.clear()

    def _share(self, accepted: Accepted) -> Field | None:
        """This peer's share of the sum; None where it lacks a part, or was dealt a wrong one."""
        trial, dealt, me = self._charges.trial, self._dealt, self._assembly.net.me
        if trial is None or dealt is None:
            return None
        plains = dealt[0].plains
        good = all(d in plains and trial.agrees(d, me) for d in accepted.dealers)
        if not good:
            return None
        at = self._assembly.scene.names.index(me)
        payloads = [memoryview(plains[dealer])[SALT_BYTES:] for dealer in accepted.dealers]
        return summed(self._begun.statement, at, payloads)

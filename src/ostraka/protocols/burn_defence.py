"""Against burnt members: who was dealt a wrong share shows it, before the sum is opened.

Source: step 5 of the serverless design. The attack: many dealers each give one honest member, each
another one, a share that is not the one of its codeword. Every dealer passes, as one wrong word
decodes, and the sum of all has too many wrong shares to open. The cure: a member that disagrees
with codewords that count publishes all that the dealer dealt it; a dealer publishes all that it
dealt a member whose words are not those that it computes. The headers authenticate both, so the
words that follow from such a bundle are evidence for everybody: against the member where it has
signed others, against the dealer where the codewords, which enough members have signed, say
others. A bundle is the whole of both messages: A alone does not cover the masks, and one wrong mask
would make an honest member look like a liar.

Revealed: what was dealt to liars, and what liars have dealt. One window of time; who is silent in
it is missing, and blamed nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ostraka.net import Arrival, Inbox, Net
from ostraka.protocols.board import body_digest, within
from ostraka.protocols.checking import USE, Trial
from ostraka.protocols.consistent_broadcast import Signature
from ostraka.protocols.dealer_list import Dealt
from ostraka.protocols.dealing_messages import SALT_BYTES, SECOND
from ostraka.protocols.scene import Assembly
from ostraka.protocols.voter import take
from ostraka.wire import Message, Octets

PATH = ("bundle", "of", "to")


@dataclass(frozen=True)
class Bundle(Message):
    """All that one dealer dealt one member: salt and vector of both messages.

    ``signature``: the member's, under the words that it has said.
    """

    first: Annotated[bytes, Octets("first")]
    second: Annotated[bytes, Octets("second")]
    signature: Signature


class Bundles:
    """What one peer knows of disputed shares. ``net``: where bundles are published."""

    def __init__(
        self, assembly: Assembly, net: Net, trial: Trial, dealt: tuple[Dealt, Dealt]
    ) -> None:
        self._assembly, self._net, self._trial, self._dealt = assembly, net, trial, dealt
        self._disputed = trial.disputed()
        self.shown: dict[tuple[str, str], Bundle] = {}
        self.against: dict[str, tuple[str, str]] = {}
        """Who is blamed, and by which bundle."""
        sizes = [SALT_BYTES + one.dealing.setting.shape.longest for one in dealt]
        form = Bundle.form(first=sizes[0], second=sizes[1])
        self.inbox = Inbox(PATH, form, frozenset(assembly.others))

    async def settle(self) -> None:
        """Publish what is due and take what others publish, for one window at most."""
        start, me = self._net.now, self._net.me
        for dealer, member in self._disputed:
            if member == me:
                self._publish(dealer, member)
        turns = self._turns(start)
        until = start + self._assembly.scene.phase_s
        while self._open() and self._net.now < until:
            for member in [m for m, at in turns.items() if at <= self._net.now]:
                del turns[member]
                if (me, member) in self._open():
                    self._publish(me, member)
            wake = min([until, *turns.values()])
            handlers = {self.inbox: self._upon}
            await take(self._net, handlers, wake - self._net.now, self._assembly.trace)

    def _open(self) -> list[tuple[str, str]]:
        """The disputes in which neither side is blamed yet."""
        blamed = self.against
        return [(d, m) for d, m in self._disputed if d not in blamed and m not in blamed]

    def _turns(self, start: float) -> dict[str, float]:
        """When this dealer shows what it dealt a member: one dealer's word is enough, if it holds.

        They take turns, so that a liar does not make all dealers publish at once.
        """
        scene, me = self._assembly.scene, self._net.me
        turn_s = scene.phase_s / (scene.plan.t + 2)
        turns = {}
        for dealer, member in self._disputed:
            if dealer == me:
                same = [d for d, m in self._disputed if m == member]
                place = (same.index(me) + scene.names.index(member)) % len(same)
                turns[member] = start + turn_s * min(place, scene.plan.t + 1)
        return turns

    def _publish(self, dealer: str, member: str) -> None:
        """Show what one was dealt, or has dealt, if that convicts the other side."""
        me = self._net.me
        plains = [self._plain(one, dealer, member) for one in self._dealt]
        if plains[0] is None or plains[1] is None:
            return
        bundle = Bundle(plains[0], plains[1], self._trial.entries[member].signature)
        own = self._dealt[0].dealing.dealer
        convicts = dealer != me or self._blames_member(member, dealer, bundle)
        if not convicts or (dealer == me and own is not None and not own.may_expose(member)):
            return
        self._keep(dealer, member, bundle)
        self._at(dealer, member).broadcast(self._assembly.others, bundle)

    def _plain(self, dealt: Dealt, dealer: str, member: str) -> bytes | None:
        own = dealt.dealing.dealer
        if dealer == self._net.me and own is not None:
            return own.plain(member)
        return dealt.plains.get(dealer)

    def _at(self, dealer: str, member: str) -> Net:
        names = self._assembly.scene.names
        return within(self._net, PATH, 0, names.index(dealer), names.index(member))

    def give(self, to: str, dealer: str, member: str) -> None:
        """Send another peer a bundle that this one holds."""
        self._at(dealer, member).send(to, self.shown[dealer, member])

    def _upon(self, got: Arrival) -> None:
        self.upon(got)

    def upon(self, got: Arrival) -> None:
        """Take a bundle, if there is a dispute that it speaks of and a header that names it."""
        (_, of, to), names = got.index, self._assembly.scene.names
        if max(of, to) >= len(names):
            return
        key = names[of], names[to]
        if key not in self._disputed or key[1] in self.against:
            return
        if key in self.shown and self.shown[key].signature == got.message.signature:
            return
        plains = got.message.first, got.message.second
        for dealt, plain in zip(self._dealt, plains, strict=True):
            what = body_digest(dealt.headers[key[0]].body)
            if not dealt.dealing.matches(SECOND, *key, what, plain):
                return
        self._keep(*key, got.message)

    def _keep(self, dealer: str, member: str, bundle: Bundle) -> None:
        """Note whom a bundle convicts; one with another signature may convict its member."""
        self.shown.setdefault((dealer, member), bundle)
        if self._blames_member(member, dealer, bundle):
            self.shown[dealer, member] = bundle
            self.against.setdefault(member, (dealer, member))
        found = self._recomputed(member, bundle)
        if not np.array_equal(found, self._trial.codeword(dealer, member)):
            self.against.setdefault(dealer, (dealer, member))

    def _blames_member(self, member: str, dealer: str, bundle: Bundle) -> bool:
        """Whether a member has signed other words than follow from what it was dealt.

        This peer may have them from the member's own channel, with a signature that does not hold,
        while others have a good one: so it comes with the bundle.
        """
        found = self._recomputed(member, bundle)
        if np.array_equal(found, self._trial.signed(dealer, member)):
            return False
        body = self._trial.entries[member].body
        return self._assembly.scene.signed(USE, member, body, bundle.signature)

    def _recomputed(self, member: str, bundle: Bundle) -> np.ndarray:
        vectors = bundle.first[SALT_BYTES:], bundle.second[SALT_BYTES:]
        return self._trial.recomputed(member, *vectors)

"""Waits before an agreement, which end where the others' have ended.

A liar can say something to some only. These wait for it, the others do not, and so an honest peer
would fall behind, by one deadline in each step, until nobody waits for what it says itself. So who
has waited for an eighth of the time asks all, and those who wait no longer tell it, now or later,
as they have everything or have come to their deadline. A peer waits no longer once q - t
others do not: with the liars' votes these can decide without it. What it lacks it is given in the
agreement. Where nobody is missing, nobody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ostraka.net import Arrival, Inbox
from ostraka.protocols.board import Board
from ostraka.protocols.scene import Assembly
from ostraka.protocols.voter import Handlers, take
from ostraka.wire import Message

PATH = ("ready",)
PATIENCE = 8
"""The part of a wait after which a peer asks."""


@dataclass(frozen=True)
class Waits(Message):
    """I still wait here: tell me when you do not."""


@dataclass(frozen=True)
class Ready(Message):
    """I wait no longer."""


class Waiting:
    """One peer's waits before the agreement of this name."""

    def __init__(self, assembly: Assembly, name: str) -> None:
        self._net, self._assembly = assembly.at(name), assembly
        plan, others = assembly.scene.plan, frozenset(assembly.others)
        self._enough, self._ready = plan.quorum - plan.t, set[str]()
        self._asked, self._asking = False, set[str]()
        self._answers: Inbox[Any] = Inbox(PATH, Ready.form(), others)
        self._questions: Inbox[Any] = Inbox(PATH, Waits.form(), others)

    async def until(self, handlers: Handlers, enough: Callable[[], bool], seconds: float) -> None:
        """Take what comes until it is enough, the time is over, or the others wait no longer."""
        now = self._net.now
        ask_at, until = now + seconds / PATIENCE, now + seconds
        handlers = {**handlers, self._answers: self._hear, self._questions: self._note}
        while not enough() and self._net.now < until and len(self._ready) < self._enough:
            if self._net.now >= ask_at and not self._asked:
                self._asked = True
                self._net.sub(PATH[0]).broadcast(self._assembly.others, Waits())
            wake = until if self._asked else ask_at
            await take(self._net, handlers, max(0.0, wake - self._net.now), self._assembly.trace)

    async def over(self) -> None:
        """Tell those who ask, from now on."""
        self._net.sub(PATH[0]).broadcast(tuple(sorted(self._asking)), Ready())
        await self._net.beside(self._tell())

    async def _tell(self) -> None:
        while True:
            got = await self._net.arrival(self._questions)
            if got is not None and got.sender not in self._asking:
                self._asking.add(got.sender)
                self._net.sub(PATH[0]).send(got.sender, Ready())

    def _hear(self, got: Arrival) -> None:
        self._ready.add(got.sender)

    def _note(self, got: Arrival) -> None:
        self._asking.add(got.sender)


async def gather(assembly: Assembly, name: str, board: Board, owners: Collection[str]) -> None:
    """Take entries of a board's first topic until each of these owners has one, or it is over."""
    waiting = Waiting(assembly, name)

    def take_entry(got: Arrival) -> None:
        board.upon(got)

    def complete() -> bool:
        return all(board.entries(0, owner) for owner in owners)

    await waiting.until({board.inbox: take_entry}, complete, assembly.scene.phase_s)
    await waiting.over()

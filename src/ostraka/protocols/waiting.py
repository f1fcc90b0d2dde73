"""Waits before an agreement, which end where the others' have ended.

A liar can say something to some only. These wait for it, the others do not, and so an honest peer
would fall behind, by one deadline in each step, until nobody waits for what it says itself. So who
has all that it waits for, or whose time is over, tells all; a peer waits no longer once q - t
others have: with the liars' votes these can decide without it. What it lacks it is given in the
agreement.
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


@dataclass(frozen=True)
class Ready(Message):
    """I wait no longer."""


class Waiting:
    """One peer's waits before the agreement of this name."""

    def __init__(self, assembly: Assembly, name: str) -> None:
        self._net, self._assembly = assembly.at(name), assembly
        plan = assembly.scene.plan
        self._enough, self._ready = plan.quorum - plan.t, set[str]()
        self._inbox: Inbox[Any] = Inbox(PATH, Ready.form(), frozenset(assembly.others))

    async def until(self, handlers: Handlers, enough: Callable[[], bool], seconds: float) -> None:
        """Take what comes until it is enough, the time is over, or the others wait no longer."""
        until = self._net.now + seconds
        handlers = {**handlers, self._inbox: self._upon}
        while not enough() and self._net.now < until and len(self._ready) < self._enough:
            await take(self._net, handlers, until - self._net.now, self._assembly.trace)

    def over(self) -> None:
        """Tell the others."""
        self._net.sub(PATH[0]).broadcast(self._assembly.others, Ready())
        self._net.window(PATH, (1,))  # nobody reads it any more, and it must not pile up

    def _upon(self, got: Arrival) -> None:
        self._ready.add(got.sender)


async def gather(assembly: Assembly, name: str, board: Board, owners: Collection[str]) -> None:
    """Take entries of a board's first topic until each of these owners has one, or it is over."""
    waiting = Waiting(assembly, name)

    def take_entry(got: Arrival) -> None:
        board.upon(got)

    def complete() -> bool:
        return all(board.entries(0, owner) for owner in owners)

    await waiting.until({board.inbox: take_entry}, complete, assembly.scene.phase_s)
    waiting.over()

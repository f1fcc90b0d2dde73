"""A network in memory: seeded, with a virtual clock, faults, and an adversary at its seam.

The seed is the schedule: the same seed replays the same run, event for event. Links behave like
connections that resume: a lost frame is sent again, a partition holds frames until it heals, and
only a crash or a cut that never ends loses anything. Who restarts is sent again every frame whose
label still matters to a sender that lives, as sockets do it (drivers/link.py). The adversary sees
every frame and may delay or drop any, but may alter or forge only what corrupt parties send (links
are authenticated); a corrupt party may also run any other program. Frames are bytes, encoded once
and never shared.

A party's own computing takes no virtual time.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ostraka.mailbox import Limits
from ostraka.net import Abort, Program, Timeout, Trace
from ostraka.party import Frame, Party, Waiting


@dataclass(frozen=True, slots=True)
class Links:
    """How frames travel. Probabilities are per transmission, times in virtual seconds.

    ``reorder`` is the chance of an extra delay of up to ``reorder_s``; ``shuffle`` breaks ties in
    time at random instead of first in, first out.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    resend_s: float = 0.2
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 1.0
    shuffle: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.loss < 1.0:
            raise ValueError(f"loss must be in [0, 1), got {self.loss}")


@dataclass(frozen=True, slots=True)
class Partition:
    """Between two times no frame crosses from inside the group to outside or back."""

    group: frozenset[str]
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Crash:
    """The party stops; with ``restart_s`` its program starts again then, from what it stored."""

    party: str
    at_s: float
    restart_s: float | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A frame that the adversary lets through, so many seconds later than it would come."""

    sender: str
    to: str
    frame: Frame
    delay_s: float = 0.0


class Adversary(Protocol):
    """Sits at the seam: sees every frame sent, decides what is delivered instead."""

    @property
    def corrupt(self) -> frozenset[str]:
        """The parties in whose name it may speak."""

    def on_send(self, now: float, sender: str, to: str, frame: Frame) -> Iterable[Delivery]:
        """What travels in place of this frame; nothing drops it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one party ended: its result, its error, or what it was waiting for."""

    status: Literal["done", "failed", "stuck", "crashed"]
    result: Any = None
    error: Abort | Timeout | None = None
    waiting: tuple[Waiting, ...] = ()


Event = tuple[float, float, int, Callable[[], None]]
"""When, drawn and numbered so that no two are alike, and what happens then."""


class Simulation:
    """Runs programs over simulated links until nothing more can happen, or a limit is reached."""

    def __init__(
        self,
        programs: Mapping[str, Program],
        *,
        seed: int,
        links: Links | None = None,
        partitions: Sequence[Partition] = (),
        crashes: Sequence[Crash] = (),
        adversary: Adversary | None = None,
        trace: Trace | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.now = 0.0
        self.frames = 0
        self.bytes_sent = dict.fromkeys(programs, 0)
        self._programs = programs
        self._links = links or Links()
        self._partitions = tuple(partitions)
        self._adversary = adversary
        self._trace = trace or _no_trace
        self._limits = limits
        self._random = random.Random(seed)
        self._events: list[Event] = []
        self._count = 0
        self._ticks: dict[str, float] = {}
        self._parties: dict[str, Party] = {}
        self._again = any(crash.restart_s is not None for crash in crashes)
        self._kept: dict[str, list[tuple[Party, Frame]]] = {name: [] for name in programs}
        for name in programs:  # before any frame: links open when both ends are there
            self._at(0.0, self._starter(name), tie=-1.0)
        for crash in crashes:
            self._at(crash.at_s, self._crasher(crash.party))
            if crash.restart_s is not None:
                self._at(crash.restart_s, self._restarter(crash.party))

    def run(
        self,
        *,
        until_s: float = math.inf,
        max_events: int = 10_000_000,
        stop: Callable[[], bool] | None = None,
    ) -> dict[str, Outcome]:
        """Let time pass; gives every party's outcome. ``stop`` is asked between events."""
        for _ in range(max_events):
            if not self._events or self._events[0][0] > until_s or (stop is not None and stop()):
                break
            at, _, _, happen = heapq.heappop(self._events)
            self.now = max(self.now, at)
            happen()
        outcomes = {name: self._outcome(name) for name in self._programs}
        for party in self._parties.values():
            party.close()
        return outcomes

    def where(self) -> dict[str, list[Waiting]]:
        """What every running party waits for."""
        return {name: p.where() for name, p in self._parties.items() if p.status == "running"}

    def _outcome(self, name: str) -> Outcome:
        party = self._parties.get(name)
        match party and party.status:
            case "done":
                return Outcome("done", result=party.result if party else None)
            case "failed":
                return Outcome("failed", error=party.error if party else None)
            case "running":
                return Outcome("stuck", waiting=tuple(party.where()) if party else ())
            case _:
                return Outcome("crashed")

    # --- events -----------------------------------------------------------------------------

    def _at(self, time: float, run: Callable[[], None], tie: float | None = None) -> None:
        if tie is None:
            tie = self._random.random() if self._links.shuffle else 0.0
        self._count += 1
        heapq.heappush(self._events, (time, tie, self._count, run))

    def _starter(self, name: str) -> Callable[[], None]:
        def start() -> None:
            party = Party(name, self._programs[name], trace=self._trace, limits=self._limits)
            self._parties[name] = party
            self._ticks.pop(name, None)
            party.start(self.now)
            self._after(party)
            for sender, frame in self._kept[name]:
                if self._matters(sender, frame):
                    self._travel(sender.me, name, frame, 0.0)

        return start

    def _restarter(self, name: str) -> Callable[[], None]:
        def restart() -> None:
            if self._parties[name].status == "closed":  # who had ended before its crash stays so
                self._starter(name)()

        return restart

    def _matters(self, sender: Party, frame: Frame) -> bool:
        """Whether a process that still runs, or has ended well, would send this frame again."""
        alive = sender.status in ("running", "done") and self._parties[sender.me] is sender
        return alive and not sender.over(frame.label)

    def _crasher(self, name: str) -> Callable[[], None]:
        def crash() -> None:
            if (party := self._parties.get(name)) and party.status == "running":
                party.close()
                self._trace("crashed", party=name, at_s=self.now)

        return crash

    def _after(self, party: Party) -> None:
        """Put a party's outbox on the links and its next deadline on the clock."""
        for out in party.drain():
            self._send(party.me, out.to, out.frame)
        deadline = party.deadline
        if deadline is not None and self._ticks.get(party.me) != deadline:
            self._ticks[party.me] = deadline
            self._at(deadline, lambda: self._tick(party, deadline))

    def _tick(self, party: Party, deadline: float) -> None:
        if self._parties[party.me] is party and party.status == "running":
            if self._ticks.get(party.me) == deadline:
                del self._ticks[party.me]
            party.tick(self.now)
            self._after(party)

    # --- links ------------------------------------------------------------------------------

    def _send(self, sender: str, to: str, frame: Frame) -> None:
        if to not in self._programs:
            raise ValueError(f"{sender} sends {frame.kind} to {to}, who is not in this federation")
        self.frames += 1
        self.bytes_sent[sender] += frame.size
        if self._again:
            self._keep(self._parties[sender], to, frame)
        if self._adversary is None:
            self._travel(sender, to, frame, 0.0)
            return
        for delivery in self._adversary.on_send(self.now, sender, to, frame):
            forged = (delivery.sender, delivery.to, delivery.frame) != (sender, to, frame)
            if forged and delivery.sender not in self._adversary.corrupt:
                raise ValueError(f"the adversary cannot speak for {delivery.sender}")
            self._travel(delivery.sender, delivery.to, delivery.frame, delivery.delay_s)

    def _keep(self, sender: Party, to: str, frame: Frame) -> None:
        """Remember a frame for a receiver that may restart, and forget those that are over."""
        kept = self._kept[to] = [k for k in self._kept[to] if self._matters(*k)]
        kept.append((sender, frame))

    def _travel(self, sender: str, to: str, frame: Frame, delay_s: float) -> None:
        links, chance = self._links, self._random.random
        copies = 2 if links.duplicate and chance() < links.duplicate else 1
        for _ in range(copies):
            at = self.now + delay_s + links.latency_s
            if links.jitter_s:
                at += links.jitter_s * chance()
            if links.reorder and chance() < links.reorder:
                at += links.reorder_s * chance()
            wait_s = links.resend_s
            while links.loss and chance() < links.loss:
                at += wait_s
                wait_s *= 2
            if self._partitions:
                at = self._healed(sender, to, at)
            if at < math.inf:
                self._at(at, lambda: self._deliver(sender, to, frame))

    def _healed(self, sender: str, to: str, at: float) -> float:
        """When the frame can cross every partition that it meets; infinity if it never can."""
        blocked = True
        while blocked:
            blocked = False
            for cut in self._partitions:
                crosses = (sender in cut.group) != (to in cut.group)
                if crosses and cut.start_s <= at < cut.end_s:
                    at, blocked = cut.end_s, True
        return at

    def _deliver(self, sender: str, to: str, frame: Frame) -> None:
        party = self._parties.get(to)
        if party is not None and party.status == "running":
            party.deliver(sender, frame, self.now)
            self._after(party)


def _no_trace(event: str, **fields: Any) -> None:
    """Forget an event."""

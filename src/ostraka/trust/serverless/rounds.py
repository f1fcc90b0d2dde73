"""A round: attempts until a set of submissions is decided, then the sum of the set is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ostraka.algebra.field import Field, to_integers
from ostraka.algebra.image_sets import Submission
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import Sign
from ostraka.net import Abort, Net, Trace
from ostraka.protocols.image_equations import Statement
from ostraka.protocols.robust_open import robust_open
from ostraka.protocols.scene import Assembly, Scene, Storage
from ostraka.protocols.shared_submission import FirstDeal, SecondDeal
from ostraka.protocols.votes import Plan as Voters
from ostraka.trust.serverless.attempt import Attempt, Begun, Ended, MakeFirst, MakeSecond

ROUND, ATTEMPT, OPEN = "round", "attempt", "open"
MOST_ATTEMPTS = 8


class Keeping(Storage, Protocol):
    """What a peer keeps of a round on disk, until the next one begins."""

    @property
    def begun(self) -> int:
        """Attempts of this round that earlier processes of this peer took part in."""

    @property
    def opening(self) -> Field | None:
        """The share of the sum that this peer has said that it opens, if it has."""

    def begin(self, attempt: int) -> None:
        """Before anything of an attempt is signed."""

    def open(self, share: Field) -> None:
        """Before the share leaves: of one round one set is opened."""


@dataclass(frozen=True, eq=False)
class Table:
    """What all peers agree on before a round; ``voters.session`` stands for the public state.

    ``phase_s``: how long to wait for others in each step; ``patience_s``: in a whole attempt.
    """

    voters: Voters
    round: int
    statement: Statement
    phase_s: float
    patience_s: float


@dataclass(frozen=True, eq=False)
class Seat:
    """What one peer has: its key for signing, secrets for one use, its disk, its life.

    ``first`` and ``second`` make what it deals.
    """

    sign: Sign
    fresh: Callable[[], Key]
    keeping: Keeping
    trace: Trace
    life: int = 1
    first: MakeFirst = FirstDeal
    second: MakeSecond = SecondDeal


class Opened(NamedTuple):
    """What a round ends with, the same at every honest peer: the sums of the accepted submissions.

    ``after``: the digest of the check messages; ``ended``: how the attempt ended at this peer, with
    the reasons that it knows.
    """

    sums: Submission
    after: bytes
    accepted: tuple[str, ...]
    evicted: tuple[str, ...]
    attempt: int
    ended: Ended


async def play_round(net: Net, table: Table, seat: Seat, submission: Submission | None) -> Opened:
    """One round of one peer. Raises Abort where it can open nothing, which ends the round for good.

    A process that finds attempts which an earlier one took part in follows them: it has lost its
    keys, and signs nothing but votes, which it has stored.
    """
    return await _attempt(net.sub(ROUND, table.round), table, seat, submission, 0)


async def _attempt(
    net: Net, table: Table, seat: Seat, submission: Submission | None, number: int
) -> Opened:
    if number == MOST_ATTEMPTS:
        raise Abort(f"{MOST_ATTEMPTS} attempts of round {table.round} have ended without a set")
    scene = Scene(table.voters, table.round, number, table.phase_s)
    assembly = Assembly(
        net.sub(ATTEMPT, number), scene, seat.sign, seat.keeping, seat.trace, seat.life
    )
    begun = Begun(
        table.statement, submission, seat.fresh, table.patience_s, seat.first, seat.second
    )
    attempt = Attempt(assembly, begun)

    async def then(ended: Ended) -> Opened:
        if ended.accepted is None:
            seat.trace("void", round=table.round, attempt=number, party=net.me)
            return await _attempt(net, table, seat, submission, number + 1)
        return await _open(net, table, seat, scene, ended)

    if number < seat.keeping.begun:
        found: Opened = await attempt.follow(then)
    else:
        seat.keeping.begin(number)
        found = await attempt.run(then)
    return found


async def _open(net: Net, table: Table, seat: Seat, scene: Scene, ended: Ended) -> Opened:
    """Open the sum of a decided set; nobody opens another one in this round."""
    accepted = ended.accepted
    if accepted is None:
        raise ValueError("there is no set to be opened")
    if len(accepted.dealers) < scene.least:
        raise Abort(
            f"{len(accepted.dealers)} submissions count in round {table.round}, fewer than the "
            f"{scene.least} of those who neither lie nor are away: nothing is opened"
        )
    share = seat.keeping.opening
    if share is None and ended.share is not None:
        share = ended.share
        seat.keeping.open(share)
    secrets = await robust_open(
        net.sub(OPEN),
        table.statement.packing,
        scene.names,
        share,
        table.statement.dealt,
        fresh=lambda: seat.fresh().stream(),
        timeout_s=table.patience_s,
    )
    sums = _parts(table.statement, secrets)
    return Opened(sums, accepted.after, accepted.dealers, accepted.evicted, scene.attempt, ended)


def _parts(statement: Statement, secrets: Field) -> Submission:
    """The vectors that opened slots (l, dealt) carry, int64."""
    found = []
    for part, at in zip(statement.image.parts, statement.columns[:-1], strict=True):
        elements = np.ascontiguousarray(secrets[:, at]).reshape(-1)[: part.size]
        values = np.empty(part.size, np.int64)
        to_integers(np.ascontiguousarray(elements), values)
        found.append(values)
    return tuple(found)

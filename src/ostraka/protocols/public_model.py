"""Workers take the public model from one server and its digest from the other.

Goes beyond He, Karimireddy and Jaggi 2020: there a lying server 0 could show one worker a model of
its making and read that worker's data from the sum. Parties: two servers that do not collude,
workers. Guarantee: a worker trains only on a model whose digest both servers state for the same
turn. Revealed: the model to workers. 4 d bytes from server 0 and 33 from server 1 per worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np

from ostraka.crypto.transcript import digest
from ostraka.net import Net
from ostraka.protocols.turns import BEFORE_ALL, PATH
from ostraka.wire import Array, Bool, Exactly, Message, Tensor

STATED = ("stated",)


@dataclass(frozen=True)
class PublicModel(Message):
    """Server 0 to worker: the model before this round; ``final`` after the last one."""

    final: Bool
    vector: Annotated[Array, Tensor("float32", ("d",))]


@dataclass(frozen=True)
class ModelDigest(Message):
    """Server 1 to worker: the digest of the round's model, which it has computed itself."""

    final: Bool
    digest: Annotated[bytes, Exactly(32)]


class Shown(NamedTuple):
    """What both servers said; ``agreed``: they said the same. ``stated``: server 1's last word."""

    turn: tuple[int, ...]
    model: PublicModel
    agreed: bool
    stated: tuple[tuple[int, ...], ModelDigest]


def model_hash(vector: np.ndarray) -> bytes:
    """32 bytes that name a model, float32 (d,)."""
    words = np.ascontiguousarray(vector, "<f4")
    return digest("public model", words.view(np.uint8).data)


def show_model(net: Net, workers: Sequence[str], vector: np.ndarray, *, final: bool) -> None:
    """Server 0's side."""
    net.broadcast(workers, PublicModel(final, vector))


def show_digest(net: Net, workers: Sequence[str], round: int, model: bytes, *, final: bool) -> None:
    """Server 1's side, in a label of the round alone: all its attempts are on one model.

    So its word outlasts it: of a run that is over, server 0 can show the model once more.
    """
    net.sub(STATED[0], round).broadcast(workers, ModelDigest(final, model))


async def next_shown(net: Net, server_0: str, server_1: str, before: Shown | None, d: int) -> Shown:
    """The worker's side: the newest turn after ``before`` of which both servers have spoken."""
    turn: tuple[int, ...] = BEFORE_ALL if before is None else before.turn
    stated_at: tuple[int, ...] = BEFORE_ALL
    if before is not None:
        stated_at, stated = before.stated
    model = None
    while model is None or turn[:1] != stated_at:
        if model is None or turn[:1] < stated_at:
            turn, model = await net.newest(PublicModel.form(d=d), server_0, PATH, after=turn)
        else:
            stated_at, stated = await net.newest(
                ModelDigest.form(), server_1, STATED, after=stated_at
            )
    agreed = stated.digest == model_hash(model.vector) and stated.final == model.final
    return Shown(turn, model, agreed, (stated_at, stated))

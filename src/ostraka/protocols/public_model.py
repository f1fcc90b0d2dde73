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
from ostraka.protocols.turns import BEFORE_ALL, PATH, Turn
from ostraka.wire import Array, Bool, Exactly, Message, Tensor


@dataclass(frozen=True)
class PublicModel(Message):
    """Server 0 to worker: the model before this round; ``final`` after the last one."""

    final: Bool
    vector: Annotated[Array, Tensor("float32", ("d",))]


@dataclass(frozen=True)
class ModelDigest(Message):
    """Server 1 to worker: the digest of the model that it has computed itself."""

    final: Bool
    digest: Annotated[bytes, Exactly(32)]


class Shown(NamedTuple):
    """What both servers said of one turn; ``agreed``: they said the same."""

    turn: Turn
    model: PublicModel
    agreed: bool


def model_hash(vector: np.ndarray) -> bytes:
    """32 bytes that name a model, float32 (d,)."""
    words = np.ascontiguousarray(vector, "<f4")
    return digest("public model", words.view(np.uint8).data)


def show_model(net: Net, workers: Sequence[str], vector: np.ndarray, *, final: bool) -> None:
    """Server 0's side."""
    net.broadcast(workers, PublicModel(final, vector))


def show_digest(net: Net, workers: Sequence[str], model: bytes, *, final: bool) -> None:
    """Server 1's side."""
    net.broadcast(workers, ModelDigest(final, model))


async def next_shown(
    net: Net, server_0: str, server_1: str, after: tuple[int, ...], d: int
) -> Shown:
    """The worker's side: the newest turn above ``after`` of which both servers have spoken."""
    model_at = digest_at = BEFORE_ALL
    while model_at == BEFORE_ALL or model_at != digest_at:
        if model_at <= digest_at:
            model_at, model = await net.newest(
                PublicModel.form(d=d), server_0, PATH, after=max(after, model_at)
            )
        else:
            digest_at, stated = await net.newest(
                ModelDigest.form(), server_1, PATH, after=max(after, digest_at)
            )
    agreed = stated.digest == model_hash(model.vector) and stated.final == model.final
    return Shown((model_at[0], model_at[1]), model, agreed)

"""Server 1 gives the last aggregate back to a server 0 whose newest model was damaged on disk.

Beyond He, Karimireddy and Jaggi 2020. Parties: two servers, in an attempt of the round after that
aggregate's. Guarantee: server 0 goes on with the very model that it had stored, or not at all: it
knows the model's digest and compares. Revealed: nothing, since server 0 computed this aggregate
itself. No attempt of the aggregate's round is made: where server 1 does not have the aggregate
either, it sends the words of its commit point once more (opening.Words), the same as before.
8 d bytes, one message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ostraka.net import Net
from ostraka.wire import Array, Message, Tensor


@dataclass(frozen=True)
class LastAggregate(Message):
    """Server 1 to server 0: the aggregate that leads to the model of the round being opened."""

    vector: Annotated[Array, Tensor("float64", ("d",))]


def give_last(net: Net, server_0: str, aggregate: npt.NDArray[np.float64]) -> None:
    """Server 1: the aggregate float64 (d,) that its own model follows from."""
    net.send(server_0, LastAggregate(aggregate))


async def take_last(
    net: Net, server_1: str, d: int, *, timeout_s: float
) -> npt.NDArray[np.float64]:
    """Server 0: the same, (d,). Whether it leads to the right model is the caller's to check."""
    message = await net.recv(LastAggregate.form(d=d), server_1, timeout_s=timeout_s)
    return message.vector

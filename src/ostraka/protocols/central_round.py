"""One training round with one server that everybody trusts.

Source: the parameter-server round that every robust-aggregation paper starts from (for example
Blanchard et al. 2017, section 2). Parties: a trusted server and n workers, any of them Byzantine.
Network: authenticated links, no assumption on delay; a round ends when all have spoken or at its
deadline. Guarantee: the server holds at most one well-formed update per worker, made for this very
round, and knows who sent something else and who sent nothing. Revealed: the model to all workers,
every update to the server. One exchange: n models out, n updates in, 4 d bytes each.

A label is (epoch, round): a restarted server opens a new epoch, so that workers answer it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from ostraka.net import Net
from ostraka.wire import Array, Bool, Index, Message, Tensor

PATH = ("epoch", "round")
Turn = tuple[int, int]
BEFORE_ALL: tuple[int, ...] = ()


@dataclass(frozen=True)
class Model(Message):
    """Server to worker: the model before this round; ``final`` after the last one."""

    round: Index
    final: Bool
    vector: Annotated[Array, Tensor("float32", ("d",))]


@dataclass(frozen=True)
class Update(Message):
    """Worker to server: the update that it computed for this round."""

    round: Index
    vector: Annotated[Array, Tensor("float32", ("d",))]


@dataclass(frozen=True, slots=True)
class Collected:
    """What a round brought: updates in the order of workers, refusals and their reasons, silence.

    ``refused`` maps a worker to (reason code, detail).
    """

    updates: Mapping[str, Array]
    refused: Mapping[str, tuple[str, str]]
    missing: tuple[str, ...]


async def collect_updates(
    net: Net, workers: Sequence[str], turn: Turn, model: Array, *, deadline_s: float
) -> Collected:
    """The server's side: send the model, take one update per worker until the deadline."""
    scope = net.sub("epoch", turn[0]).sub("round", turn[1])
    net.window(PATH, turn, turn)

    scope.broadcast(workers, Model(turn[1], False, model))
    got = await scope.gather(Update.form(d=model.size), workers, timeout_s=deadline_s)

    refused = {name: ("malformed", bad.detail) for name, bad in got.malformed.items()}
    for name, update in got.messages.items():
        if update.round != turn[1]:
            reason = "replay" if update.round < turn[1] else "malformed"
            refused[name] = (reason, f"round {update.round}, expected {turn[1]}")
    # A worker answers models, so an honest one cannot be ahead of the server.
    ahead = [name for name in net.ahead(PATH) if name in got.missing]
    refused |= dict.fromkeys(ahead, ("malformed", f"a later round, expected {turn[1]}"))
    updates = {name: u.vector for name, u in got.messages.items() if name not in refused}
    return Collected(updates, refused, tuple(n for n in got.missing if n not in ahead))


async def next_model(net: Net, server: str, after: tuple[int, ...], d: int) -> tuple[Turn, Model]:
    """The worker's side, first half: the newest model; rounds slept through are skipped."""
    turn, model = await net.newest(Model.form(d=d), server, PATH, after=after)
    return (turn[0], turn[1]), model


def send_update(net: Net, server: str, turn: Turn, update: Array) -> None:
    """The worker's side, second half: answer the model of this turn."""
    net.sub("epoch", turn[0]).sub("round", turn[1]).send(server, Update(turn[1], update))


def dismiss(net: Net, workers: Sequence[str], turn: Turn, model: Array) -> None:
    """The server's last word: the trained model."""
    scope = net.sub("epoch", turn[0]).sub("round", turn[1])
    scope.broadcast(workers, Model(turn[1], True, model))

"""How three operators begin an attempt of a round together, and begin another when one restarted.

Parties: server 0, which opens attempts; server 1 and the dealer, which follow. A turn is (round,
attempt); attempts only rise, and server 0 stores each before it opens it, so no label is ever used
twice. Who restarted says so (Boot), and server 0 opens a new attempt; whoever is still in an older
one leaves it as soon as the new one is heard of. So nothing of an interrupted attempt is used
again: both holders of every shared key bring a fresh part of it to each attempt. And because a
transport may bring a restarted party the frames of an attempt that it had begun before, everything
after the beginning stands below a label that holds a fresh number of each follower: a process never
goes on with what another one has begun.
Guarantee: an attempt runs only among processes that were all there when it began, with one public
model; a server's state of an earlier round is noticed. Revealed: nothing but the model's digest to
the other server. Server 1 answers with what it needs: nothing, the last aggregate, or to finish a
round that it has committed to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ostraka.crypto.prg import Key
from ostraka.crypto.transcript import digest
from ostraka.net import Net, Path
from ostraka.protocols.exchange import swap
from ostraka.wire import U8, Bool, Exactly, Index, Message

PATH = ("round", "attempt")
OF_SERVER_1, OF_DEALER = ("boot-server",), ("boot-dealer",)
"""Where each follower says that its process has begun; apart, since numbers only rise there."""
RUN = "run"
CATCH_UP, FINISH, RESTORE = "catch-up", "finish", "restore"
"""Where an aggregate travels that server 1 lacks, where a committed round is finished, and where
server 1 gives back the last aggregate to a server 0 whose newest model was damaged."""
BEFORE_ALL: tuple[int, ...] = ()
FRESH, BEHIND, COMMITTED = range(3)
Turn = tuple[int, int]


@dataclass(frozen=True)
class Boot(Message):
    """Server 1 or dealer to server 0: this process has just begun."""

    here: Bool


@dataclass(frozen=True)
class Open(Message):
    """Server 0 to both others: an attempt begins, on this model; ``final`` after the last round.

    ``passed_over``: the round before this one ended without an aggregate. ``lacking``: server 0
    knows this model's digest alone, and asks for the aggregate that leads to it.
    """

    final: Bool
    passed_over: Bool
    model: Annotated[bytes, Exactly(32)]
    lacking: Bool = False


@dataclass(frozen=True)
class Ready(Message):
    """Server 1 or dealer to server 0: where it stands, its process and a fresh number.

    ``attempt``: the one that server 1 has committed to, if so.
    """

    status: Annotated[int, U8]
    attempt: Index
    boot: Index
    nonce: Index


@dataclass(frozen=True)
class Go(Message):
    """Server 0 to both others: the attempt goes on among the processes with these numbers."""

    server_1: Index
    dealer: Index

    @property
    def run(self) -> int:
        """The label's index that everything of this attempt stands under."""
        parts = (part.to_bytes(8, "little") for part in (self.server_1, self.dealer))
        return int.from_bytes(digest("run", *parts)[:8], "little")


@dataclass(frozen=True)
class Part(Message):
    """One holder's fresh part of a key that two share for one attempt."""

    part: Annotated[bytes, Exactly(32)]


def at(net: Net, turn: Turn) -> Net:
    """The label of a turn."""
    return net.sub(PATH[0], turn[0]).sub(PATH[1], turn[1])


def say_boot(net: Net, server_0: str, path: Path, boot: int) -> None:
    """Tell server 0 that this process has begun; ``boot`` counts them and only rises."""
    net.sub(path[0], boot).send(server_0, Boot(True))


async def await_boot(net: Net, party: str, path: Path, after: tuple[int, ...]) -> tuple[int, ...]:
    """Server 0: wait until a later process of this party begins; gives its number."""
    number, _ = await net.newest(Boot.form(), party, path, after=after)
    return number


async def next_turn(net: Net, server_0: str, after: tuple[int, ...]) -> tuple[Turn, Open]:
    """Server 1 and dealer: the newest attempt that server 0 has opened.

    Waits as long as server 0 is connected: how long its round takes nobody else can know.
    """
    turn, message = await net.newest(Open.form(), server_0, PATH, after=after)
    return (turn[0], turn[1]), message


def nonce_of(own: Key) -> int:
    """A follower's fresh number for an attempt, from its fresh key for that attempt."""
    return int(own.derive("nonce").stream().words(1)[0])


def go_on(net: Net, server_1: str, dealer: str, go: Go) -> Net:
    """Server 0: the attempt goes on; gives its label."""
    net.broadcast((server_1, dealer), go)
    return net.sub(RUN, go.run)


async def await_go(
    net: Net, server_0: str, nonce: int, *, dealer: bool = False, timeout_s: float
) -> Net | None:
    """A follower: the label of the attempt; None when it is that of an earlier process."""
    go = await net.recv(Go.form(), server_0, timeout_s=timeout_s)
    return net.sub(RUN, go.run) if nonce == (go.dealer if dealer else go.server_1) else None


async def pair_key(net: Net, peer: str, own: Key, *, timeout_s: float) -> Key:
    """A key that only the two of us have; fresh for this attempt if either part is."""
    part = own.derive("part", peer.encode()).reveal()
    theirs = await swap(net, peer, Part(part), Part.form(), timeout_s)
    first, second = sorted([(net.me, part), (peer, theirs.part)])
    return Key(digest("pair key", first[1], second[1]))

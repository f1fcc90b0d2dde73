"""A worker's upload in parts, and the agreement of three holders on whose uploads count.

Source: He, Karimireddy and Jaggi 2020, section 3.1, with a seed in place of one share. Parties: n
workers, any of them Byzantine; server 0 and the dealer, who get a seed; server 1, who gets the
share and a salt. Each part carries the hash of the other and a signature on both, so all holders
name an upload by the same 32-byte id. Guarantee: an upload counts only when all three have their
part of it; incomplete or mixed ones are ignored and blame nobody; a part that is malformed or does
not fit its hash or signature is refused with its reason. Of several uploads of a worker for one
attempt the first counts at each holder (a mailbox slot holds one message): no counter is needed.
Revealed: the set of active workers. The salt goes to server 1 alone: whoever knows the seed could
otherwise test guesses of the secret against the hash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import numpy as np

from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import SIGNATURE_BYTES, Sign, verifies
from ostraka.crypto.transcript import digest
from ostraka.net import Abort, Net
from ostraka.sharing.additive import Map, hide
from ostraka.wire import Array, Exactly, Form, Message, Tensor

Digest = Annotated[bytes, Exactly(32)]
Signature = Annotated[bytes, Exactly(SIGNATURE_BYTES)]
Turn = tuple[int, int]
MISSING, ACTIVE, MALFORMED, INCONSISTENT = range(4)
_REASONS = {MALFORMED: "malformed", INCONSISTENT: "inconsistent"}
_NO_ID = bytes(32)


@dataclass(frozen=True)
class SeedPart(Message):
    """Worker to server 0 and to the dealer."""

    seed: Digest
    share_hash: Digest
    signature: Signature


@dataclass(frozen=True)
class SharePart(Message):
    """Worker to server 1."""

    share: Annotated[Array, Tensor("uint64", ("d",))]
    salt: Digest
    seed_hash: Digest
    signature: Signature


@dataclass(frozen=True)
class Held(Message):
    """Server 0 and dealer to server 1: what each worker sent, an id where all is well."""

    ids: Annotated[Array, Tensor("uint8", ("n", 32))]
    states: Annotated[Array, Tensor("uint8", ("n",))]


@dataclass(frozen=True)
class Active(Message):
    """Server 1 to server 0 (states) and to the dealer (active or not)."""

    states: Annotated[Array, Tensor("uint8", ("n",))]


P = TypeVar("P", SeedPart, SharePart)


@dataclass(frozen=True)
class Context:
    """What every id and every stream of one attempt is bound to.

    ``keys`` maps the workers, in order, to their raw public keys.
    """

    session: bytes
    turn: Turn
    keys: Mapping[str, bytes]

    @property
    def workers(self) -> tuple[str, ...]:
        """All workers in order."""
        return tuple(self.keys)

    def id(self, worker: str, seed_hash: bytes, share_hash: bytes) -> bytes:
        """The name of an upload: 32 bytes, which the worker signs."""
        where = b"".join(part.to_bytes(8, "little") for part in self.turn)
        return digest("upload", self.session, where, worker.encode(), seed_hash, share_hash)

    def mask(self, worker: str, seed: bytes) -> Key:
        """The stream that hides a worker's vector."""
        return Key(seed).derive("upload mask", self.session, *self.turn, worker.encode())


@dataclass(frozen=True)
class Collected(Generic[P]):
    """What one holder has: good parts with their ids, and what it refuses, worker -> detail."""

    parts: Mapping[str, P]
    ids: Mapping[str, bytes]
    refused: Mapping[str, tuple[int, str]]


@dataclass(frozen=True)
class Roster:
    """Whose uploads count in this attempt, in the order of workers.

    ``refused`` maps a worker to (reason code, detail).
    """

    active: tuple[str, ...]
    refused: Mapping[str, tuple[str, str]]
    missing: tuple[str, ...]


# --- the worker -----------------------------------------------------------------------------


def make_parts(
    context: Context, worker: str, secret: Ring, own: Key, sign: Sign
) -> tuple[SeedPart, SharePart]:
    """Split a vector (d,) under a fresh seed and salt, which follow from ``own``, fresh itself."""
    seed = own.derive("upload seed").reveal()
    salt = own.derive("upload salt").reveal()
    share = hide(secret, context.mask(worker, seed))
    seed_hash, share_hash = _seed_hash(seed), _share_hash(salt, share)
    signature = sign(context.id(worker, seed_hash, share_hash))
    return SeedPart(seed, share_hash, signature), SharePart(share, salt, seed_hash, signature)


# --- the holders ----------------------------------------------------------------------------


async def collect_seeds(net: Net, context: Context, *, timeout_s: float) -> Collected[SeedPart]:
    """Server 0's and the dealer's side: wait for all seeds or the deadline, verify each."""
    return await _collect(net, context, SeedPart.form(), _seed_part_hashes, map, timeout_s)


async def collect_shares(
    net: Net, context: Context, d: int, map: Map, *, timeout_s: float
) -> Collected[SharePart]:
    """Server 1's side: wait for all shares or the deadline, verify each."""
    return await _collect(net, context, SharePart.form(d=d), _share_part_hashes, map, timeout_s)


async def _collect(
    net: Net,
    context: Context,
    form: Form[P],
    hashes: Callable[[P], tuple[bytes, bytes]],
    map: Map,
    timeout_s: float,
) -> Collected[P]:
    got = await net.gather(form, context.workers, timeout_s=timeout_s)
    refused = {name: (MALFORMED, bad.detail) for name, bad in got.malformed.items()}
    ids = {}
    found = map(hashes, got.messages.values())  # long vectors: the work of this function
    for (name, part), both in zip(got.messages.items(), found, strict=True):
        id = context.id(name, *both)
        if verifies(context.keys[name], part.signature, id):
            ids[name] = id
        else:
            refused[name] = (INCONSISTENT, f"the {form.kind} does not fit its signature")
    return Collected({name: got.messages[name] for name in ids}, ids, refused)


def _seed_part_hashes(part: SeedPart) -> tuple[bytes, bytes]:
    return _seed_hash(part.seed), part.share_hash


def _share_part_hashes(part: SharePart) -> tuple[bytes, bytes]:
    return part.seed_hash, _share_hash(part.salt, part.share)


def _seed_hash(seed: bytes) -> bytes:
    return digest("upload seed", seed)


def _share_hash(salt: bytes, share: Ring) -> bytes:
    return digest("upload share", salt, np.ascontiguousarray(share).view(np.uint8).data)


# --- agreement ------------------------------------------------------------------------------


async def agree_1(
    net: Net, server_0: str, dealer: str, context: Context, own: Collected[Any], *, timeout_s: float
) -> Roster:
    """Server 1's side: an upload is active when all three hold it under the same id."""
    form = Held.form(n=len(context.workers))
    reports = [await net.recv(form, name, timeout_s=timeout_s) for name in (server_0, dealer)]
    mine = _report(context, own)
    states = _merge([mine, *reports])
    net.send(server_0, Active(states))
    net.send(dealer, Active(np.where(states == ACTIVE, ACTIVE, MISSING).astype(np.uint8)))
    return _roster(context, states, own.refused)


async def agree(
    net: Net, server_1: str, context: Context, own: Collected[Any], *, timeout_s: float
) -> Roster:
    """Server 0's and the dealer's side: report, then take server 1's word for it."""
    net.send(server_1, _report(context, own))
    form = Active.form(n=len(context.workers))
    active = await net.recv(form, server_1, timeout_s=timeout_s)
    roster = _roster(context, active.states, own.refused)
    unknown = [name for name in roster.active if name not in own.ids]
    if unknown or active.states.max(initial=0) > INCONSISTENT:
        raise Abort(f"{server_1} counts uploads that {net.me} does not hold: {', '.join(unknown)}")
    return roster


def _report(context: Context, own: Collected[Any]) -> Held:
    states = [
        ACTIVE if name in own.ids else own.refused.get(name, (MISSING, ""))[0]
        for name in context.workers
    ]
    ids = b"".join(own.ids.get(name, _NO_ID) for name in context.workers)
    return Held(np.frombuffer(ids, np.uint8).reshape(len(states), 32), np.array(states, np.uint8))


def _merge(reports: Sequence[Held]) -> np.ndarray:
    """Refused where anybody refuses, active where all hold the same id, else missing."""
    states = np.stack([report.states for report in reports])
    same = np.all([r.ids == reports[0].ids for r in reports], axis=(0, 2))
    complete = (states == ACTIVE).all(axis=0) & same
    refused = np.where(states > ACTIVE, states, 0).max(axis=0)
    merged = np.where(refused > 0, np.minimum(refused, INCONSISTENT), np.where(complete, 1, 0))
    return merged.astype(np.uint8)


def _roster(context: Context, states: np.ndarray, own: Mapping[str, tuple[int, str]]) -> Roster:
    named = list(zip(context.workers, states.tolist(), strict=True))
    return Roster(
        tuple(name for name, state in named if state == ACTIVE),
        {
            name: (_REASONS[state], own.get(name, (state, "at another holder"))[1])
            for name, state in named
            if state in _REASONS
        },
        tuple(name for name, state in named if state == MISSING),
    )

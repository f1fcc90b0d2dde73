"""Workers that break the upload of shares: parts that are missing, mixed, forged or too large.

For trust models in which a worker sends a vector of Z_2^64 in parts (protocols/upload.py). Such a
worker computes the honest vector and then sends something else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from ostraka.algebra.ring import Ring
from ostraka.crypto.prg import Key
from ostraka.crypto.sign import Sign
from ostraka.net import Net
from ostraka.protocols.public_model import next_shown
from ostraka.protocols.turns import Turn, at
from ostraka.protocols.upload import Context, SeedPart, SharePart, make_parts
from ostraka.rules.api import whole_number

Holder = Literal["server_0", "server_1", "dealer"]
Lies = Sequence[tuple[Holder, SeedPart | SharePart]]
Vector = Callable[[int, np.ndarray], Ring]


class Upload(NamedTuple):
    """What a worker makes an upload from: where it belongs, its name, a vector, its secrets."""

    context: Context
    worker: str
    words: Ring
    own: Key
    sign: Sign

    def parts(self, use: str = "") -> tuple[SeedPart, SharePart]:
        """Parts that fit together; another ``use`` gives another seed and salt."""
        own = self.own.derive("upload", use.encode())
        return make_parts(self.context, self.worker, self.words, own, self.sign)


class UploadAttack(ABC):
    """What a corrupt worker sends in place of its honest upload.

    `knows` and `controls` state the adversary, the same for all of them.
    """

    name: ClassVar[str]
    knows: ClassVar[str] = "the model and its own data"
    controls: ClassVar[str] = "the messages of its workers"

    @abstractmethod
    def answer(self, upload: Upload) -> Lies:
        """The messages of this turn, each with its receiver."""


async def corrupt_uploader(
    net: Net,
    holders: tuple[str, str, str],
    attack: UploadAttack,
    context: Callable[[Turn], Context],
    vector: Vector,
    d: int,
    own: Key,
    sign: Sign,
) -> None:
    """Follow the turns as an honest worker would, answering with the attack's messages.

    ``holders``: server 0, server 1 and the dealer; ``vector(round, model)`` is the honest one.
    """
    names = dict(zip(("server_0", "server_1", "dealer"), holders, strict=True))
    shown = None
    while True:
        shown = await next_shown(net, holders[0], holders[1], shown, d)
        model, turn = shown.model, (shown.turn[0], shown.turn[1])
        if model.final:
            return
        fresh = own.derive("turn", *turn)
        words = vector(turn[0], model.vector)
        for holder, message in attack.answer(Upload(context(turn), net.me, words, fresh, sign)):
            at(net, turn).send(names[holder], message)


def whole(parts: tuple[SeedPart, SharePart]) -> Lies:
    """The messages of an honest upload."""
    seed, share = parts
    return (("server_0", seed), ("dealer", seed), ("server_1", share))


@dataclass(frozen=True)
class SilentUpload(UploadAttack):
    """Never answers."""

    name: ClassVar[str] = "silent"

    def answer(self, upload: Upload) -> Lies:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class WrongShapeUpload(UploadAttack):
    """Sends a share with one word too few."""

    name: ClassVar[str] = "wrong-shape"

    def answer(self, upload: Upload) -> Lies:
        """Parts that fit together, of a vector that is too short."""
        return whole(upload._replace(words=upload.words[:-1].copy()).parts())


@dataclass(frozen=True)
class WrongDtypeUpload(UploadAttack):
    """Sends a share of signed numbers where words are expected."""

    name: ClassVar[str] = "wrong-dtype"

    def answer(self, upload: Upload) -> Lies:
        """The same bytes under another name."""
        seed, share = upload.parts()
        return whole((seed, replace(share, share=share.share.view(np.int64))))


@dataclass(frozen=True)
class MissingPart(UploadAttack):
    """Leaves out its part for one holder (default server 1), so that its upload is incomplete."""

    holder: str = "server_1"
    name: ClassVar[str] = "missing-part"

    def __post_init__(self) -> None:
        if self.holder not in ("server_0", "server_1", "dealer"):
            raise ValueError(
                f"missing-part needs a holder server_0, server_1 or dealer, got {self.holder!r}"
            )

    def answer(self, upload: Upload) -> Lies:
        """All parts but one."""
        return [lie for lie in whole(upload.parts()) if lie[0] != self.holder]


@dataclass(frozen=True)
class MixedSeeds(UploadAttack):
    """Sends the dealer another seed than server 0, each well signed."""

    name: ClassVar[str] = "mixed-seeds"

    def answer(self, upload: Upload) -> Lies:
        """Two uploads, of which no holder has the whole."""
        other, _ = upload.parts("other")
        seed, share = upload.parts()
        return (("server_0", seed), ("dealer", other), ("server_1", share))


@dataclass(frozen=True)
class ForgedUpload(UploadAttack):
    """Sends a share that does not fit the hash that it signed."""

    name: ClassVar[str] = "forged"

    def answer(self, upload: Upload) -> Lies:
        """One word of the share changed after signing."""
        seed, share = upload.parts()
        words = share.share.copy()
        words[:1] += np.uint64(1)
        return whole((seed, replace(share, share=words)))


@dataclass(frozen=True)
class Overflow(UploadAttack):
    """Adds 2^bit to the first coordinate: with bit 63 no distance changes, with 32 no norm."""

    bit: int = 63
    name: ClassVar[str] = "overflow"

    def __post_init__(self) -> None:
        whole_number("overflow", "bit", self.bit, 0)
        if self.bit > 63:
            raise ValueError(f"overflow needs a bit of at most 63, got {self.bit}")

    def answer(self, upload: Upload) -> Lies:
        """A well-formed upload of the altered vector."""
        words = upload.words.copy()
        words[:1] += np.uint64(1 << self.bit)
        return whole(upload._replace(words=words).parts())


@dataclass(frozen=True)
class DuplicateUpload(UploadAttack):
    """Sends its honest upload several times over."""

    copies: int = 3
    name: ClassVar[str] = "duplicate"

    def __post_init__(self) -> None:
        whole_number("duplicate", "copies", self.copies, 1)

    def answer(self, upload: Upload) -> Lies:
        """Identical messages; one counts."""
        return tuple(whole(upload.parts())) * self.copies


@dataclass(frozen=True)
class ConflictUpload(UploadAttack):
    """Sends its honest upload and then another one of the same vector for the same turn."""

    name: ClassVar[str] = "conflict"

    def answer(self, upload: Upload) -> Lies:
        """Two uploads; the first counts."""
        return (*whole(upload.parts()), *whole(upload.parts("second")))


UPLOAD_ATTACKS: dict[str, type[UploadAttack]] = {
    attack.name: attack
    for attack in (
        SilentUpload,
        WrongShapeUpload,
        WrongDtypeUpload,
        MissingPart,
        MixedSeeds,
        ForgedUpload,
        Overflow,
        DuplicateUpload,
        ConflictUpload,
    )
}

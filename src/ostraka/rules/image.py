"""Image rules: rules that split as Agg o Pre, with a set in between whose members are easy to tell.

`Pre` is computed by each peer alone, from its own update and public values, and is never proven.
What is proven is that its result, the *submission*, lies in the *image* of Pre. Every point of the
image is Pre of some input that is easy to compute, so whoever submits a point of it has only
chosen another input. `Agg` reads nothing but the sum of the accepted submissions, which is opened.

Source: Franzese et al., "Robust and Actively Secure Serverless Collaborative Learning" (2023), for
the idea; images, integers and bounds are ours. Everything between Pre and Agg is whole numbers of a
grid, so a trust model that computes on shares ends with the same bits as `plain` here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ostraka.algebra.image_sets import LONGEST, Image, Submission
from ostraka.algebra.lattice import Float, Integers
from ostraka.rules.api import check_minority

Vector = npt.NDArray[np.float32]

Reads = Literal["nothing", "model", "aggregate", "root"]
"""The public model, the aggregate of the round before, or the gradient of public root data."""

_PRIME = (1 << 61) - 1
_LARGEST = 2.0**100
"""Of a public coordinate: no result can then be too large for float32."""


@dataclass(frozen=True, eq=False)
class Public:
    """What all peers agreed on before the round: the same bits everywhere.

    reference: float32 (d,), the public vector that the rule reads: the previous aggregate (centered
    clipping), the public model (RSA), the root gradient (FLTrust); the others take only d from it.
    coin: a public bit, fixed before anybody deals. ValueError when they are something else.
    """

    reference: Vector
    coin: int = 0

    def __post_init__(self) -> None:
        form = getattr(self.reference, "dtype", None), getattr(self.reference, "ndim", None)
        if form != (np.float32, 1) or not len(self.reference):
            raise ValueError("the public vector must be float32 (d,) with d >= 1")
        if not np.max(np.abs(self.reference)) <= _LARGEST:  # the largest of anything and NaN is NaN
            raise ValueError("the public vector must be finite, and below 2^100 everywhere")
        if self.coin not in (0, 1):
            raise ValueError(f"the public coin is 0 or 1, got {self.coin!r}")

    @classmethod
    def blank(cls, d: int) -> Self:
        """The zero vector: what centered clipping starts from."""
        return cls(np.zeros(d, np.float32))

    @property
    def d(self) -> int:
        """Coordinates of an update."""
        return len(self.reference)


class ImageRule(ABC):
    """A rule for peers that trust no server: `image`, `pre` and `agg`, and nothing else.

    Subclasses are frozen dataclasses whose fields are the paper's parameters.
    """

    name: ClassVar[str]

    @property
    def reads(self) -> Reads:
        """Which public vector it reads; "nothing" takes only its length."""
        return "nothing"

    @abstractmethod
    def image(self, public: Public) -> Image:
        """The image of Pre in this round."""

    @abstractmethod
    def pre(self, update: Float, public: Public, peer: int) -> Submission:
        """The submission of a peer, always in the image; update float64 (d,), finite."""

    @abstractmethod
    def agg(self, sums: Submission, accepted: int, public: Public) -> Float:
        """What becomes public, float64 (d,), from the sums of `accepted` >= 1 submissions.

        Of each coordinate by itself and in one order of operations, each of them correctly
        rounded (IEEE 754), so that all peers get the same bits.
        """

    def check(self, n: int, d: int, f: int | None = None) -> None:
        """ValueError, with what to write instead, unless n peers can run the rule on d coordinates.

        Needs 2f < n, sums of n submissions below p/2 in the field of the shares, and room for the
        longest vector.
        """
        check_minority(self.name, n, f)
        most = (_PRIME // 2) // LONGEST
        if n > most:
            raise ValueError(f"{self.name}: sums of n={n} submissions wrap: at most {most} peers")
        self.image(Public.blank(d))

    def submit(self, update: npt.NDArray[Any], public: Public, peer: int) -> Submission:
        """Pre of a float32 or float64 (d,) update; peer is this peer's number from 0 on.

        ValueError for another dtype or shape, and for an update that is not finite.
        """
        if update.dtype not in (np.float32, np.float64) or update.shape != (public.d,):
            raise ValueError(
                f"an update must be float32 or float64 ({public.d},), "
                f"got {update.dtype} {update.shape}"
            )
        if not np.isfinite(update).all():
            raise ValueError("an update must be finite, and this one has a NaN or an infinity")
        return self.pre(update.astype(np.float64, copy=False), public, peer)

    def aggregate(self, sums: Submission, accepted: int, public: Public) -> Vector:
        """Agg, rounded to float32 (d,) once at the end. ValueError when nothing was accepted."""
        if accepted < 1:
            raise ValueError(f"{self.name}: no submission was accepted, so there is no aggregate")
        return self.agg(sums, accepted, public).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a round ends with: the aggregate float32 (d,), whom it counts, the sums by label."""

    vector: Vector
    accepted: tuple[int, ...]
    opened: dict[str, Integers]


def plain(rule: ImageRule, updates: Sequence[npt.NDArray[Any]], public: Public) -> Outcome:
    """The rule on the updates of peers 0, 1, ...: what the protocol must give, bit for bit."""
    return combine(rule, {i: rule.submit(u, public, i) for i, u in enumerate(updates)}, public)


def combine(rule: ImageRule, submissions: Mapping[int, Submission], public: Public) -> Outcome:
    """Agg of the submissions that lie in the image; peer -> submission, in any order."""
    image = rule.image(public)
    accepted = tuple(sorted(i for i, one in submissions.items() if image.contains(one)))
    sums = tuple(np.zeros(part.size, np.int64) for part in image.parts)
    for peer in accepted:
        for total, vector in zip(sums, submissions[peer], strict=True):
            total += vector
    opened = {part.label: total for part, total in zip(image.parts, sums, strict=True)}
    return Outcome(rule.aggregate(sums, len(accepted), public), accepted, opened)


def sign_bits(above: npt.NDArray[np.bool_], equal: npt.NDArray[np.bool_], tie: int) -> Submission:
    """1 where above, (tie mod 2) where equal, else 0: a point of `Bits`.

    With tie = peer number + public coin one half of the peers says 1 and the other 0, and the coin
    which half, so that what is frozen at all peers is pushed nowhere on average.
    """
    bits = above.astype(np.int64)
    bits[equal] = tie % 2
    return (bits,)


def signed(counts: Integers, accepted: int) -> Float:
    """The sum of signs behind a count of ones among `accepted` bits: 2 counts - accepted."""
    return (2 * counts - accepted).astype(np.float64)

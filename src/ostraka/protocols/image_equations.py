"""What a dealer must prove of a shared submission, as equations over its slots.

Membership in an image (image_sets.py) is that some numbers, made of squares of the submission
and of its products with public vectors, lie within public bounds. A number V with s V + o in
0 .. 2^k - 1 is proven by k shared bits b: s V + o = sum of 2^i b_i, one equation for each bound. Of
numbers that could wrap around in the field, W random projections r of every vector are bounded as
well (the idea of PINE, 2023, arXiv 2311.10237): |<r, y>| < T for r in {-1, 0, 0, 1}. A vector that
wraps passes one of them with probability 1/2 at most; an honest one fails with less than 2^-100.

Parts lie one after the other, each in polynomials of its own; a part that is squared alone shares
none. What is left of a part's last polynomial carries no value, and is proven to be 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from ostraka.algebra.field import Field, Integers, add_ternary_projections, ternary_words
from ostraka.algebra.fixed import squared_norm
from ostraka.algebra.image_sets import (
    PROJECTION_LIMIT,
    Ball,
    Bits,
    Image,
    Product,
    Range,
    Sphere,
    Submission,
)
from ostraka.algebra.lattice import inner
from ostraka.sharing.shamir import Packing

PROJECTION_BITS = (2 * PROJECTION_LIMIT - 1).bit_length()
LEAST_TESTS = 64


@dataclass(frozen=True)
class Bound:
    """One side of a range: sign V + offset lies in 0 .. 2^bits - 1."""

    sign: int
    offset: int
    bits: int


@dataclass(frozen=True, eq=False)
class Number:
    """V: a weighted sum of the parts' squared norms and products with public vectors.

    squares: (part, weight). products: (part, weight, vector int64).
    """

    squares: tuple[tuple[int, int], ...]
    products: tuple[tuple[int, int, Integers], ...]
    bounds: tuple[Bound, ...]

    def of(self, submission: Submission) -> int:
        """V of a submission, exactly."""
        squares = sum(w * squared_norm(submission[part]) for part, w in self.squares)
        return squares + sum(w * inner(submission[part], g) for part, w, g in self.products)


def numbers(image: Image, first: int = 0) -> Iterator[Number]:
    """The numbers of an image whose parts begin with this one. ValueError for unknown images."""
    match image:
        case Bits():
            pass
        case Ball():
            (norm, _) = image.ranges
            yield Number(((first, 1),), (), _above(norm))
        case Sphere():
            sphere, score, match, _ = image.ranges
            along = (first, -1, image.diameter)
            one = (first + 1, 1, np.ones(1, np.int64))
            yield Number(((first, 1),), (along,), _both(sphere))
            yield Number((), (one,), _both(score))
            yield Number(((first + 1, image.kappa),), (along,), _both(match))
        case Product():
            for part in image.images:
                yield from numbers(part, first)
                first += len(part.parts)
        case _:
            raise ValueError(f"no equations are known for an image such as {image!r}")


def first_parts(image: Image, kinds: tuple[type[Image], ...], first: int = 0) -> Iterator[int]:
    """The first part of every image of these kinds that this one is made of."""
    if isinstance(image, Product):
        for part in image.images:
            yield from first_parts(part, kinds, first)
            first += len(part.parts)
    elif isinstance(image, kinds):
        yield first


def _above(found: Range) -> tuple[Bound, ...]:
    return (Bound(-1, found.high, found.bits),)


def _both(found: Range) -> tuple[Bound, ...]:
    return Bound(1, -found.low, found.bits), *_above(found)


@dataclass(frozen=True, eq=False)
class Statement:
    """That a submission lies in this image, in these polynomials; ``tests``: W."""

    image: Image
    packing: Packing
    tests: int

    @classmethod
    def of(cls, image: Image, packing: Packing, dropouts: int) -> Statement:
        """With W as large as the choice among coins and the errors of all dealers ask.

        Whoever knows all parts of the coin but t liars' may choose which parts are missing, of any
        t + dropouts peers: that many coins.
        """
        n, t = packing.n, packing.t
        coins = sum(math.comb(n, missing) for missing in range(t + dropouts + 1))
        spare = 41 + (coins - 1).bit_length() + math.ceil(math.log2(max(t, 1)))
        return cls(image, packing, max(LEAST_TESTS, spare))

    @cached_property
    def numbers(self) -> tuple[Number, ...]:
        """What is within bounds."""
        return tuple(numbers(self.image))

    @cached_property
    def projected(self) -> tuple[int, ...]:
        """The parts whose entries are not proven one by one, so that projections bound them."""
        return tuple(first_parts(self.image, (Ball, Sphere)))

    # --- where things lie -----------------------------------------------------------------------

    @cached_property
    def columns(self) -> tuple[slice, ...]:
        """The columns (polynomials) of each part, and of the bits after them."""
        widths = [self.packing.blocks(size) for size in (*self._sizes, self.bits)]
        ends = list(accumulate(widths))
        return tuple(slice(end - width, end) for end, width in zip(ends, widths, strict=True))

    @property
    def dealt(self) -> int:
        """Columns of the first message, its masks aside."""
        return int(self.columns[-1].start)

    @property
    def width(self) -> int:
        """Columns of both messages, their masks aside."""
        return int(self.columns[-1].stop)

    @cached_property
    def binary(self) -> tuple[slice, ...]:
        """The columns of which every slot is a bit: some parts, and the proof."""
        found = first_parts(self.image, (Bits,))
        return (*(self.columns[part] for part in found), self.columns[-1])

    @property
    def bits(self) -> int:
        """Proof values: bits of all bounds, then of all projections."""
        bounds = sum(bound.bits for number in self.numbers for bound in number.bounds)
        return bounds + len(self.projected) * self.tests * PROJECTION_BITS

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(part.size for part in self.image.parts)

    @cached_property
    def filling(self) -> tuple[tuple[int, int], ...]:
        """(slot, column) of everything that carries no value."""
        found = []
        for size, at in zip((*self._sizes, self.bits), self.columns, strict=True):
            width = at.stop - at.start
            rest = range(size, width * self.packing.slots)
            found += [(place // width, at.start + place % width) for place in rest]
        return tuple(found)

    def lay(self, vectors: Submission, first: int) -> Integers:
        """Vectors, from this part on, as int64 (l, columns): each part's runs are its slots."""
        slots = self.packing.slots
        blocks = []
        for vector, at in zip(vectors, self.columns[first:], strict=False):
            rows = np.zeros(slots * (at.stop - at.start), np.int64)
            rows[: vector.size] = vector
            blocks.append(rows.reshape(slots, -1))
        return np.concatenate(blocks, axis=1)

    # --- the proof ------------------------------------------------------------------------------

    def words(self, part: int) -> tuple[int, int]:
        """The shape of the random words that stand for the projections of a part."""
        at = self.columns[part]
        return (at.stop - at.start) * self.packing.slots, ternary_words(self.tests)

    def prove(self, submission: Submission, words: tuple[Field, ...]) -> Integers:
        """The bits (int64) that prove a submission of the image; words of each projected part.

        ValueError where a number is out of bounds: then there is no proof.
        """
        values = [
            (bound.sign * number.of(submission) + bound.offset, bound.bits)
            for number in self.numbers
            for bound in number.bounds
        ]
        for part, drawn in zip(self.projected, words, strict=True):
            padded = np.zeros(len(drawn), np.int64)
            padded[: submission[part].size] = submission[part]
            found = np.zeros(self.tests, np.int64)
            add_ternary_projections(drawn, padded, found)
            values += [(v + PROJECTION_LIMIT, PROJECTION_BITS) for v in found.tolist()]
        if not all(0 <= value < 1 << bits for value, bits in values):
            raise ValueError("this submission is not in the image, so nothing proves that it is")
        return np.array([v >> i & 1 for v, bits in values for i in range(bits)], np.int64)

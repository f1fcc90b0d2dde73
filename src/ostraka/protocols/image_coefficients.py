"""The public coefficients of an image check, drawn from two coins.

The first coin draws the random projections that bound a vector's entries, before its dealer proves
them; the second draws, after all proofs were dealt, what A, B and C combine with. All are elements
of a stream of their own, never powers of one element: a mask could cancel the term of power 0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ostraka.algebra.field import (
    Field,
    Integers,
    P,
    add,
    combine_ternary,
    from_integers,
    matmul,
    uniform,
)
from ostraka.algebra.image_sets import PROJECTION_LIMIT
from ostraka.crypto.prg import Key
from ostraka.protocols.image_equations import PROJECTION_BITS, Statement


def draw_projections(statement: Statement, coin: Key) -> tuple[Field, ...]:
    """The random words of each projected part, from the first coin: the same for everybody."""
    drawn = []
    for part in statement.projected:
        words = np.empty(statement.words(part), np.uint64)
        coin.derive("projections", part).stream().fill(words)
        drawn.append(words)
    return tuple(drawn)


class Coefficients(NamedTuple):
    """Of one copy: (width,) for A, (bit columns,) for B, and the public vector of C.

    ``c``: its columns (l, ..) part by part, then those of the bits. ``squares``: the weight of each
    part's squared norm. ``constant``: what C's slots sum to beside.
    """

    a: Field
    b: Field
    c: tuple[Field, ...]
    squares: tuple[int, ...]
    constant: int

    @classmethod
    def draw(
        cls, statement: Statement, words: Sequence[Field], coin: Key, copy: int
    ) -> Coefficients:
        """From the second coin; ``words`` as `draw_projections` gave them."""
        stream = coin.derive("coefficients", copy).stream()

        def take(count: int) -> Field:
            out = np.empty(count, np.uint64)
            uniform(stream, out)
            return out

        a = take(statement.width)
        b = take(sum(at.stop - at.start for at in statement.binary))
        equations = _Equations(statement)
        for number in statement.numbers:
            for bound in number.bounds:
                gamma = int(take(1)[0])
                weight = bound.sign * gamma % P
                for part, scale in number.squares:
                    equations.squares[part] += weight * scale
                for part, scale, vector in number.products:
                    equations.add_product(part, weight * scale % P, vector)
                equations.add_bits(gamma, bound.offset, bound.bits)
        for part, drawn in zip(statement.projected, words, strict=True):
            gammas = take(statement.tests)
            equations.add_projections(part, drawn, gammas)
            for gamma in gammas.tolist():
                equations.add_bits(gamma, PROJECTION_LIMIT, PROJECTION_BITS)
        equations.add_filling(take(len(statement.filling)))
        squares = tuple(weight % P for weight in equations.squares)
        return cls(a, b, tuple(equations.q), squares, equations.constant % P)


class _Equations:
    """The one public vector q (l, width) that all equations' linear parts make up."""

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        slots = statement.packing.slots
        widths = (at.stop - at.start for at in statement.columns)
        self.q = [np.zeros((slots, width), np.uint64) for width in widths]
        self.squares = [0] * len(statement.image.parts)
        self.constant = 0
        self._bit = 0

    def add_product(self, part: int, weight: int, vector: Integers) -> None:
        """weight times the product of a part with a public vector."""
        laid = self._laid(part, vector)
        scaled = np.empty_like(laid)
        scale = np.array([[weight]], np.uint64)
        matmul(scale, laid.reshape(1, -1), scaled.reshape(1, -1))
        self._add(part, scaled)

    def add_projections(self, part: int, words: Field, gammas: Field) -> None:
        """The sum of gamma_w <r_w, y> over all w, of every slot of the part's columns."""
        q = np.empty_like(self.q[part])
        combine_ternary(words, gammas, q.reshape(-1))
        self._add(part, q)

    def add_bits(self, gamma: int, offset: int, bits: int) -> None:
        """gamma (offset - sum of 2^i b_i) of the next proof values."""
        self.constant += gamma * offset
        last = self.q[-1].reshape(-1)
        for i in range(bits):
            last[self._bit] = -gamma * (1 << i) % P
            self._bit += 1

    def add_filling(self, coefficients: Field) -> None:
        """A coefficient of its own for every slot without a value."""
        starts = [at.start for at in self._statement.columns]
        places = zip(self._statement.filling, coefficients.tolist(), strict=True)
        for (slot, column), found in places:
            part = bisect_right(starts, column) - 1
            at = slot, column - starts[part]
            self.q[part][at] = (int(self.q[part][at]) + found) % P

    def _laid(self, part: int, vector: Integers) -> Field:
        signed = self._statement.lay((vector,), part)
        out = np.empty(signed.shape, np.uint64)
        from_integers(signed, out)
        return out

    def _add(self, part: int, found: Field) -> None:
        add(self.q[part], found, self.q[part])

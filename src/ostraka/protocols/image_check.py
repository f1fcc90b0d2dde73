"""Checks of shared submissions: three field elements of a member for each dealer and copy.

Source: steps 3 and 4 of the serverless design; the equations are those of image_equations.py.
Parties: N members, up to t of whom lie in what they send, and dealers of whom any number may
deal what they like. A member computes, from its shares s of one dealer and coefficients that a coin
draws after all was dealt, and for each of two copies:

    A = sum a_j s_j + mask              a word of degree D: what was dealt is a sharing
    B = sum b_j s_j (s_j - 1) + mask    a word of degree 2 D, 0 in every slot: bits are bits
    C = sum of c_e times equation e + mask    of degree 2 D, its slots sum to 0: all equations hold

The masks are the dealer's own, so that the words reveal nothing else; they were dealt before the
coin, with coefficient 1, and are of the form that the check demands (uniform of degree D; uniform
of degree 2 D, 0 in every slot; uniform of degree 2 D, slots that sum to 0). A dealer whose
submission is not in the image passes one copy with probability below 2 / p. The words of a dealer
count only where one set of 2 D + 1 + t members or more agrees with all six at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ostraka.algebra.field import Field, P, add, add_bit_sums, add_dots, matmul
from ostraka.protocols.image_coefficients import Coefficients
from ostraka.protocols.image_equations import Statement
from ostraka.sharing.reed_solomon import Code, Decoded, Flags, agreeing

COPIES = 2
WORDS = 3 * COPIES
"""A, B and C of the first copy, then of the second."""


@dataclass(frozen=True, eq=False)
class Shares:
    """What one member holds of n dealers: shares uint64 (n, width), and of their masks.

    masks_a (n, 2) from the first message; masks_b and masks_c (n, 2) from the second.
    """

    values: Field
    masks_a: Field
    masks_b: Field
    masks_c: Field


def member_words(
    statement: Statement, coefficients: Sequence[Coefficients], member: int, shares: Shares
) -> Field:
    """A member's A, B, C of both copies for every dealer, uint64 (n, 6)."""
    out = np.zeros((len(shares.values), WORDS), np.uint64)
    bits = np.ascontiguousarray(
        np.concatenate([shares.values[:, at] for at in statement.binary], axis=1)
    )
    squares = _squares(statement, shares.values)
    one = np.empty(1, np.uint64)
    unit = np.zeros((statement.packing.slots, 1), np.uint64)
    unit[0] = 1
    statement.packing.pack_public(member, unit, one)
    for copy, drawn in enumerate(coefficients):
        packed = np.empty(statement.width, np.uint64)
        for at, of_part in zip(statement.columns, drawn.c, strict=True):
            statement.packing.pack_public(member, of_part, packed[at])
        found = np.zeros((3, len(out), 1), np.uint64)
        for place, masks in enumerate((shares.masks_a, shares.masks_b, shares.masks_c)):
            found[place, :, 0] = masks[:, copy]
        add_dots(shares.values, drawn.a[None], found[0])
        add_bit_sums(bits, drawn.b[None], found[1])
        add_dots(shares.values, packed[None], found[2])
        add_dots(squares, np.array([drawn.squares], np.uint64), found[2])
        constant = np.full((len(out), 1), drawn.constant * int(one[0]) % P, np.uint64)
        add(found[2], constant, found[2])
        out[:, 3 * copy : 3 * copy + 3] = found[:, :, 0].T
    return out


def _squares(statement: Statement, values: Field) -> Field:
    """Of each dealer and part the sum of the squared shares, (n, parts)."""
    parts = statement.columns[:-1]
    out = np.zeros((len(values), len(parts)), np.uint64)
    for dealer, row in enumerate(values):
        for part, at in enumerate(parts):
            found = np.zeros((1, 1), np.uint64)
            add_dots(row[None, at], row[None, at], found)
            out[dealer, part] = found[0, 0]
    return out


class Judged(NamedTuple):
    """Of n dealers: whether each is acceptable, and who agrees with all of its words (n, N)."""

    acceptable: Flags
    agrees: Flags
    decoded: tuple[Decoded, ...]


def judge(statement: Statement, words: Field, present: Flags) -> Judged:
    """Which dealers are acceptable, from all members' words (N, n, 6); a function of them alone.

    present: bool (N,), whose words came. A dealer's codewords count where 2 D + 1 + t members or
    more agree with all six; it is acceptable if they count and say that all checks hold.
    """
    packing = statement.packing
    line, square = (Code(packing.points, k * packing.degree, present) for k in (1, 2))
    decoded = tuple(
        (line if place % 3 == 0 else square).decode(np.ascontiguousarray(words[:, :, place].T))
        for place in range(WORDS)
    )
    agrees = agreeing(*decoded)
    counts = agrees.sum(axis=1) >= 2 * packing.degree + 1 + packing.t
    if counts.any():
        counts &= _holds(statement, decoded, square.members[: 2 * packing.degree + 1])
    return Judged(counts, agrees, decoded)


def _holds(statement: Statement, decoded: Sequence[Decoded], members: np.ndarray) -> Flags:
    """Of which dealers the codewords say that B vanishes and that the slots of C sum to 0."""
    packing = statement.packing
    opening = packing.opening(members.tolist(), 2 * packing.degree)
    holds = np.ones(len(decoded[0].decodes), np.bool_)
    for place in range(WORDS):
        rows = np.ascontiguousarray(decoded[place].codewords.T[members])
        slots = np.empty((packing.slots, rows.shape[1]), np.uint64)
        matmul(opening, rows, slots)
        if place % 3 == 1:
            holds &= ~slots.any(axis=0)
        elif place % 3 == 2:
            sums = np.empty((1, rows.shape[1]), np.uint64)
            matmul(np.ones((1, packing.slots), np.uint64), slots, sums)
            holds &= sums[0] == 0
    return holds

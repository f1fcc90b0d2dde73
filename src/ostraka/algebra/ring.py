"""Placeholder by the lead until part A lands: overwrite this file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.uint64]


def add_gram(block, out, map=map):
    out += block @ block.T


def add_products(a, b, out, map=map):
    out += a @ b.T


def add_squares(block, out):
    out += (block * block).sum(1, dtype=np.uint64)


def add_dots(a, b, out):
    out += (a * b).sum(1, dtype=np.uint64)


def add_signed(block, signs, out, map=map):
    out += block @ signs.T.astype(np.int64).view(np.uint64)


def add_weighted(weights, block, out):
    out += weights.view(np.uint64) @ block


def ternary(words, out):
    K, w = out.shape
    per = -(-w // 32)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little").reshape(K, per * 64)
    out[:] = (bits[:, 0::2].astype(np.int8) - bits[:, 1::2].astype(np.int8))[:, :w]

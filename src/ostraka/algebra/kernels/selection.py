"""Compiled sorting networks: all comparators on a tile of columns that stays in the first cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj

from ostraka.algebra.kernels import inlined, kernel

TILE = 128
"""Columns that go through the network together."""
LANES = 64
"""How many of them are loaded, compared and stored together."""
_STEPS = types.Array(types.int64, 2, "C", readonly=True)
_array_of: Any = arrayobj.make_array


def _emit_exchange(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    tile = _array_of(signature.args[0])(context, builder, args[0])
    row = context.get_value_type(signature.args[0].dtype)
    word = ir.IntType(64)
    vector = ir.VectorType(row, LANES).as_pointer()
    rows = [builder.gep(tile.data, [builder.mul(at, word(TILE))]) for at in args[1:]]
    for start in range(0, TILE, LANES):
        low, high = (builder.bitcast(builder.gep(at, [word(start)]), vector) for at in rows)
        x, y = builder.load(low, align=8), builder.load(high, align=8)
        smaller = builder.fcmp_ordered("<", x, y)
        builder.store(builder.select(smaller, x, y), low, align=8)
        builder.store(builder.select(smaller, y, x), high, align=8)
    return context.get_dummy_value()


def _exchange(typing_context: Any, tile: Any, low: Any, high: Any) -> Any:
    """Put the smaller of two rows of a tile into the first one, the larger into the second."""
    return types.void(tile, types.int64, types.int64), _emit_exchange


exchange: Any = intrinsic(_exchange)


@inlined
def _window_means(
    block: npt.NDArray[Any],
    steps: npt.NDArray[np.int64],
    low: int,
    high: int,
    tile: npt.NDArray[Any],
    out: npt.NDArray[np.float64],
) -> None:
    n, w = block.shape
    for start in range(0, w, TILE):
        many = min(TILE, w - start)
        for i in range(n):
            source, target = block[i, start : start + many], tile[i]
            for k in range(many):
                target[k] = source[k]
        for step in range(steps.shape[0]):
            exchange(tile, steps[step, 0], steps[step, 1])
        found = out[start : start + many]
        for k in range(many):
            found[k] = tile[low, k] + 0.0  # which zero a minimum gives depends on the order
        for i in range(low + 1, high):
            wire = tile[i]
            for k in range(many):
                found[k] += wire[k]
        if high - low > 1:
            for k in range(many):
                found[k] /= np.float64(high - low)


def _arguments(dtype: Any) -> Any:
    block = types.Array(dtype, 2, "C", readonly=True)
    tile, out = types.Array(dtype, 2, "C"), types.Array(types.float64, 1, "C")
    return block, _STEPS, types.int64, types.int64, tile, out


@kernel(*_arguments(types.float32))
def window_means_32(
    block: npt.NDArray[np.float32],
    steps: npt.NDArray[np.int64],
    low: int,
    high: int,
    tile: npt.NDArray[np.float32],
    out: npt.NDArray[np.float64],
) -> None:
    """Write the means of ranks low..high-1 of each column of block (n, w); tile is (n, TILE).

    steps (c, 2): the comparators (i, j) of a network that puts these ranks on these wires.
    """
    _window_means(block, steps, low, high, tile, out)


@kernel(*_arguments(types.float64))
def window_means_64(
    block: npt.NDArray[np.float64],
    steps: npt.NDArray[np.int64],
    low: int,
    high: int,
    tile: npt.NDArray[np.float64],
    out: npt.NDArray[np.float64],
) -> None:
    """The same for float64."""
    _window_means(block, steps, low, high, tile, out)

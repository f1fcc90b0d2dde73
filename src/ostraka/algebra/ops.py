"""The small array interface that rules are written over, and its numpy form.

A rule sees rows as an opaque (n, d) array of float32 or float64 and touches them only through
`Ops`; beyond it, only what numpy and torch spell alike is used on arrays: `shape`, one row, slices
of columns, assignment to them, and in-place ``+=``, ``-=``, ``*=`` and ``/=``. Small n x n matrices
are float64 numpy arrays on every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = Any
Float = npt.NDArray[np.float64]
Network = Callable[[int, int, int], Sequence[tuple[int, int, bool, bool]]]
"""n, low and high to the comparators that put ranks low..high-1 of n wires where they belong."""

BLOCK = 1 << 14
"""Columns that are converted to float64 at a time: n x 128 KiB of extra memory."""

_KEEP = 4 << 20
"""Bytes up to which scratch memory is kept for the next call; beyond it the work outweighs it."""
_SPARE = 8
"""Pieces of it that are kept at most."""


def spans(d: int, width: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Cut range(d) into (low, high) pieces of at most `width` columns."""
    return ((low, min(low + width, d)) for low in range(0, d, width))


def fill(block: Array, rows: Array, low: int, high: int) -> None:
    """Copy these columns of the rows into a block that is used again and again."""
    for at in range(int(block.shape[0])):
        block[at] = rows[at][low:high]


_COMPILED = 1 << 16
"""Entries of a block from which on compiled code works on it."""


class Ops(Protocol):
    """What a backend offers. Arrays named block are (n, w), host results are numpy."""

    def rows(self, data: object) -> Array:
        """Check the caller's rows and give them as one (n, d) array; ValueError says what is wrong.

        A float32 or float64 matrix is passed on without a copy. Of a list of equal vectors the rows
        and slices of columns are what a matrix would give, and there may be no more to it.
        """

    def row(self, data: object, like: Array) -> Array:
        """Check one public vector (d,) against the rows: same d, same dtype, finite."""

    def take(self, x: Array, keep: Sequence[int]) -> Array:
        """Give the named rows alone; of a matrix a contiguous copy."""

    def copy(self, x: Array) -> Array:
        """Give a contiguous copy in the same dtype."""

    def wide(self, x: Array) -> Array:
        """Give a contiguous float64 copy."""

    def scratch(self, x: Array, n: int, wide: bool = False) -> AbstractContextManager[Array]:
        """Lend a block (n, w) of anything, w = min(d, BLOCK), in the dtype of x (.., d) or float64.

        Nothing may read it afterwards.
        """

    def vector(self, x: Array) -> Array:
        """Give an uninitialised (d,) vector of the rows' dtype."""

    def gram(self, block: Array) -> Float:
        """Inner products (n, n) of the rows of a float64 block, on the host."""

    def squares(self, block: Array) -> Float:
        """Squared norms (n,) of the rows of a block, summed in its dtype; may be inf or NaN."""

    def mix(self, matrix: Float, block: Array) -> Array:
        """matrix (k, n) times a float64 block (n, w)."""

    def minimum(self, a: Array, b: Array, out: Array) -> None:
        """Elementwise minimum into `out`, which may be one of the two."""

    def maximum(self, a: Array, b: Array, out: Array) -> None:
        """Elementwise maximum into `out`, which may be one of the two."""

    def window_mean(self, block: Array, network: Network, low: int, high: int) -> Array | None:
        """`selection.window_mean` by compiled code; None where there is none, or it does not pay.

        `network` gives the comparators.
        """

    def sort(self, block: Array) -> Array:
        """Give the block with every column sorted upwards."""

    def finite(self, x: Array) -> bool:
        """Whether every entry is finite."""

    def equal(self, a: Array, b: Array) -> bool:
        """Whether all entries compare equal."""

    def biggest(self, x: Array) -> float:
        """Largest absolute entry."""


def check_dtype(name: str) -> None:
    """Refuse every dtype but float32 and float64, in the machine's byte order."""
    if name not in ("float32", "float64"):
        raise ValueError(f"rows must be float32 or float64, got {name}")


def check_matrix(shape: Sequence[int]) -> None:
    """Refuse anything but a matrix with at least one row and one column."""
    if len(shape) != 2:
        raise ValueError(f"rows must be a matrix (n, d), got {len(shape)} axes: {tuple(shape)}")
    if shape[0] < 1 or shape[1] < 1:
        raise ValueError(f"rows need n >= 1 and d >= 1, got n={shape[0]}, d={shape[1]}")


def check_alike(kinds: Sequence[tuple[tuple[int, ...], str]]) -> None:
    """Refuse a list of vectors unless all have one axis, one length and one dtype."""
    for at, (shape, dtype) in enumerate(kinds):
        if len(shape) != 1:
            raise ValueError(f"row {at} must be a vector (d,), got {len(shape)} axes: {shape}")
        if (shape, dtype) != kinds[0]:
            first_shape, first_dtype = kinds[0]
            raise ValueError(
                f"row {at} has d={shape[0]} and dtype {dtype}, "
                f"row 0 has d={first_shape[0]} and dtype {first_dtype}"
            )


def check_row(shape: Sequence[int], dtype: str, d: int, rows_dtype: str) -> None:
    """Refuse a public vector that does not look like one of the rows."""
    if len(shape) != 1 or shape[0] != d:
        raise ValueError(f"reference must have shape ({d},), got {tuple(shape)}")
    if dtype != rows_dtype:
        raise ValueError(f"reference must be {rows_dtype} like the rows, got {dtype}")


def _dtype_name(x: npt.NDArray[Any]) -> str:
    return x.dtype.name if x.dtype.isnative else str(x.dtype)


def _as_array(data: object, what: str) -> npt.NDArray[Any]:
    if not isinstance(data, np.ndarray):
        raise ValueError(f"{what} must be a numpy array, got {type(data).__name__}")
    if isinstance(data, np.ma.MaskedArray):
        raise ValueError(f"{what} must not be a masked array: drop the masked rows first")
    return np.asarray(data)


class Listed:
    """Equal vectors that lie apart, as one (n, d) array: only what is cut from it is stacked."""

    def __init__(self, parts: Sequence[npt.NDArray[Any]]) -> None:
        self.parts = parts
        self.shape, self.dtype = (len(parts), parts[0].size), parts[0].dtype

    def __getitem__(self, at: int | tuple[slice, slice]) -> npt.NDArray[Any]:
        """Give row ``at``, or a copy of these columns of all rows."""
        if isinstance(at, tuple):
            return np.stack([part[at[1]] for part in self.parts])
        return self.parts[at]


class NumpyOps:
    """`Ops` over numpy arrays."""

    def __init__(self) -> None:
        self._spare: list[npt.NDArray[np.float64]] = []

    def rows(self, data: object) -> Array:
        """See `Ops.rows`."""
        if isinstance(data, (list, tuple)):
            parts = [_as_array(row, f"row {at}") for at, row in enumerate(data)]
            if not parts:
                raise ValueError("rows need n >= 1, got an empty list")
            check_alike([(part.shape, _dtype_name(part)) for part in parts])
            check_dtype(_dtype_name(parts[0]))
            x: Array = Listed(parts)
        else:
            x = _as_array(data, "rows")
            check_dtype(_dtype_name(x))
        check_matrix(x.shape)
        return x

    def row(self, data: object, like: Array) -> Array:
        """See `Ops.row`."""
        x = _as_array(data, "reference")
        check_row(x.shape, _dtype_name(x), like.shape[1], _dtype_name(like))
        if not np.isfinite(x).all():
            raise ValueError("reference must be finite")
        return x

    def take(self, x: Array, keep: Sequence[int]) -> Array:
        """See `Ops.take`."""
        if isinstance(x, Listed):
            return Listed([x.parts[at] for at in keep])
        return np.ascontiguousarray(x[np.asarray(keep, dtype=np.intp)])

    def copy(self, x: Array) -> Array:
        """See `Ops.copy`."""
        return np.array(x, order="C")

    def wide(self, x: Array) -> Array:
        """See `Ops.wide`; a signalling NaN becomes a quiet one without a word."""
        with np.errstate(invalid="ignore"):
            return np.array(x, dtype=np.float64, order="C")

    @contextmanager
    def scratch(self, x: Array, n: int, wide: bool = False) -> Iterator[Array]:
        """See `Ops.scratch`.

        Small blocks are kept: fresh memory can cost more than the work on it, as the system clears
        its pages each time. A list's `pop` and `append` are safe among threads.
        """
        w, dtype = min(int(x.shape[-1]), BLOCK), np.dtype(np.float64) if wide else x.dtype
        size = n * w * dtype.itemsize
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = np.empty(0)
        if memory.nbytes < size:
            memory = np.empty(size // 8 + 1)
        yield memory.view(dtype)[: n * w].reshape(n, w)
        if memory.nbytes <= _KEEP and len(self._spare) < _SPARE:
            self._spare.append(memory)

    def vector(self, x: Array) -> Array:
        """See `Ops.vector`."""
        return np.empty(x.shape[1], dtype=x.dtype)

    def gram(self, block: Array) -> Float:
        """See `Ops.gram`."""
        product: Float = block @ block.T
        return product

    def squares(self, block: Array) -> Float:
        """See `Ops.squares`."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.array([np.dot(row, row) for row in block], dtype=np.float64)

    def mix(self, matrix: Float, block: Array) -> Array:
        """See `Ops.mix`."""
        return matrix @ block

    def minimum(self, a: Array, b: Array, out: Array) -> None:
        """See `Ops.minimum`."""
        np.minimum(a, b, out=out)

    def maximum(self, a: Array, b: Array, out: Array) -> None:
        """See `Ops.maximum`."""
        np.maximum(a, b, out=out)

    def window_mean(self, block: Array, network: Network, low: int, high: int) -> Array | None:
        """See `Ops.window_mean`. Small blocks are not worth the second that loading it takes."""
        if block.size < _COMPILED:
            return None
        from ostraka.algebra.kernels import selection

        n, w = block.shape
        steps = np.array([step[:2] for step in network(n, low, high)], np.int64).reshape(-1, 2)
        out = np.empty(w)
        tile = np.zeros((n, selection.TILE), block.dtype)
        wide = block.dtype == np.float64
        means: Any = selection.window_means_64 if wide else selection.window_means_32
        means(np.ascontiguousarray(block), steps, low, high, tile, out)
        return out

    def sort(self, block: Array) -> Array:
        """See `Ops.sort`."""
        return np.sort(np.ascontiguousarray(block.T), axis=1).T

    def finite(self, x: Array) -> bool:
        """See `Ops.finite`; a finite sum of squares has only finite terms."""
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(np.vdot(x, x))) or bool(np.isfinite(x).all())

    def equal(self, a: Array, b: Array) -> bool:
        """See `Ops.equal`."""
        return bool(np.array_equal(a, b))

    def biggest(self, x: Array) -> float:
        """See `Ops.biggest`."""
        parts = x.parts if isinstance(x, Listed) else [x]
        return float(max(max(abs(part.max()), abs(part.min())) for part in parts))


NUMPY = NumpyOps()

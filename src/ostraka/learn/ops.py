"""The array interface of the rules over torch tensors, on whatever device the rows live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from ostraka.algebra.ops import (
    BLOCK,
    Array,
    Float,
    Network,
    check_alike,
    check_dtype,
    check_matrix,
    check_row,
)


def _dtype_name(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _as_tensor(data: object, what: str) -> torch.Tensor:
    if not isinstance(data, torch.Tensor):
        raise ValueError(f"{what} must be a torch tensor, got {type(data).__name__}")
    if data.layout != torch.strided:
        raise ValueError(f"{what} must be a dense tensor, got layout {data.layout}")
    return data.detach()


class TorchOps:
    """`ostraka.algebra.ops.Ops` over dense float32 and float64 tensors; gradients are dropped."""

    def rows(self, data: object) -> Array:
        """See `Ops.rows`; a list must live on one device."""
        if isinstance(data, (list, tuple)):
            parts = [_as_tensor(row, f"row {at}") for at, row in enumerate(data)]
            if not parts:
                raise ValueError("rows need n >= 1, got an empty list")
            check_alike([(tuple(part.shape), _dtype_name(part)) for part in parts])
            check_dtype(_dtype_name(parts[0]))
            for at, part in enumerate(parts):
                if part.device != parts[0].device:
                    raise ValueError(f"row {at} lives on {part.device}, row 0 on {parts[0].device}")
            x = torch.stack(parts)
        else:
            x = _as_tensor(data, "rows")
            check_dtype(_dtype_name(x))
        check_matrix(tuple(x.shape))
        return x

    def row(self, data: object, like: Array) -> Array:
        """See `Ops.row`; the vector must live where the rows do."""
        x = _as_tensor(data, "reference")
        check_row(tuple(x.shape), _dtype_name(x), int(like.shape[1]), _dtype_name(like))
        if x.device != like.device:
            raise ValueError(f"reference lives on {x.device}, the rows on {like.device}")
        if not self.finite(x):
            raise ValueError("reference must be finite")
        return x

    def take(self, x: Array, keep: Sequence[int]) -> Array:
        """See `Ops.take`."""
        return x[torch.as_tensor(list(keep), dtype=torch.long, device=x.device)]

    def copy(self, x: Array) -> Array:
        """See `Ops.copy`."""
        return x.clone(memory_format=torch.contiguous_format)

    def wide(self, x: Array) -> Array:
        """See `Ops.wide`."""
        return x.to(torch.float64, copy=True, memory_format=torch.contiguous_format)

    @contextmanager
    def scratch(self, x: Array, n: int, wide: bool = False) -> Iterator[Array]:
        """See `Ops.scratch`; torch keeps memory of its own."""
        dtype = torch.float64 if wide else x.dtype
        yield torch.empty((n, min(int(x.shape[-1]), BLOCK)), dtype=dtype, device=x.device)

    def vector(self, x: Array) -> Array:
        """See `Ops.vector`."""
        return torch.empty(x.shape[1], dtype=x.dtype, device=x.device)

    def gram(self, block: Array) -> Float:
        """See `Ops.gram`."""
        return self._host(block @ block.T)

    def squares(self, block: Array) -> Float:
        """See `Ops.squares`."""
        return self._host((block * block).sum(dim=1))

    def mix(self, matrix: Float, block: Array) -> Array:
        """See `Ops.mix`."""
        return torch.as_tensor(np.ascontiguousarray(matrix), device=block.device) @ block

    def minimum(self, a: Array, b: Array, out: Array) -> None:
        """See `Ops.minimum`."""
        torch.minimum(a, b, out=out)

    def maximum(self, a: Array, b: Array, out: Array) -> None:
        """See `Ops.maximum`."""
        torch.maximum(a, b, out=out)

    def window_mean(self, block: Array, network: Network, low: int, high: int) -> Array | None:
        """See `Ops.window_mean`; there is none."""
        return None

    def sort(self, block: Array) -> Array:
        """See `Ops.sort`."""
        return torch.sort(block, dim=0).values

    def finite(self, x: Array) -> bool:
        """See `Ops.finite`."""
        return bool(torch.isfinite(x).all())

    def equal(self, a: Array, b: Array) -> bool:
        """See `Ops.equal`."""
        return bool(torch.equal(a, b))

    def biggest(self, x: Array) -> float:
        """See `Ops.biggest`."""
        return float(max(abs(float(x.max())), abs(float(x.min()))))

    def _host(self, x: torch.Tensor) -> Float:
        return np.asarray(x.cpu().numpy(), dtype=np.float64)


TORCH = TorchOps()

"""Per-example gradients, clipped one by one and summed: what example-level privacy rests on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from ostraka.learn.vectors import FlatModel

CHUNK_FLOATS = 1 << 24
"""At most this many gradient entries are held at once (64 MiB), or one example's if more."""
SHAVE = 1.0 - 2.0**-22
"""Scales a clipped vector so that rounding to float32 cannot lift it above the bound again."""


def clip_factor(norm: float, bound: float) -> float:
    """What to multiply by so that an L2 norm is at most ``bound``; 1.0 if it is already."""
    return 1.0 if norm <= bound else bound / norm * SHAVE


def norm64(vector: np.ndarray) -> float:
    """The L2 norm of a float32 vector, summed in float64 (no overflow below 1e154)."""
    wide = vector.astype(np.float64)
    return math.sqrt(float(wide @ wide))


class PerExample:
    """Gives sums of clipped per-example gradients of one model and loss.

    Uses torch.func (vmap over examples); a module that cannot be mapped is walked example by
    example from then on (``mapped`` tells). Either way the loss is called on batches of one.
    """

    def __init__(self, model: FlatModel, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._model = model
        self._loss = loss
        self.mapped = True
        self.chunk = max(1, CHUNK_FLOATS // model.dimension)

    def clipped_sum(self, inputs: Tensor, targets: Tensor, clip: float) -> np.ndarray:
        """The sum over examples of gradient * min(1, clip / norm), float32 (parameters,).

        A gradient that is not finite counts as zero: the bound must hold for every example. No
        examples give zeros.
        """
        total = torch.zeros(self._model.parameters)
        step = self.chunk if self.mapped else 1
        for x, y in zip(torch.split(inputs, step), torch.split(targets, step), strict=True):
            if len(x):
                total += self._clipped(self._gradients(x, y), clip)
        return total.numpy()

    def _clipped(self, rows: Tensor, clip: float) -> Tensor:
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        finite = torch.isfinite(norms)
        factors = torch.where(norms <= clip, 1.0, clip / norms * SHAVE)
        if not bool(finite.all()):
            rows = torch.where(finite[:, None], rows, 0.0)
            factors = torch.where(finite, factors, 0.0)
        return factors.float() @ rows

    def _gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradients (examples, parameters) of one chunk."""
        if self.mapped:
            drawn = torch.default_generator.get_state()
            try:
                return self._by_map(x, y)
            except (RuntimeError, ValueError):  # not mappable, or an error that the loop repeats
                self.mapped = False
                torch.default_generator.set_state(drawn)
        return torch.stack([self._one(x[k : k + 1], y[k : k + 1]) for k in range(len(x))])

    def _by_map(self, x: Tensor, y: Tensor) -> Tensor:
        module, loss = self._model.module, self._loss
        names = self._model.shapes
        parameters = {n: p.detach() for n, p in module.named_parameters() if n in names}

        def one(values: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
            return loss(functional_call(module, values, (image[None],)), target[None])

        each = vmap(grad(one), in_dims=(None, 0, 0), randomness="different")(parameters, x, y)
        return torch.cat([each[name].flatten(1) for name in names], dim=1)

    def _one(self, x: Tensor, y: Tensor) -> Tensor:
        self._model.zero_gradient()
        torch.autograd.backward(self._loss(self._model.module(x), y))
        return self._model.flat_gradient.clone()

"""A module as one flat float32 vector: the trainable parameters, then the listed buffers.

Parameters and gradients are views into two flat tensors, so loading a vector or reading a gradient
is one copy.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


class FlatModel:
    """One module whose trainable parameters and listed floating buffers live in one flat tensor.

    Order: ``module.named_parameters()`` (trainable ones), then ``buffers`` as listed. Integer
    buffers, frozen parameters and buffers registered with ``persistent=False`` do not travel;
    ``load`` puts such buffers back to what they were, so that a pass is a function of the vector.
    Raises ValueError for parameters or listed buffers that are not float32 on the CPU, for
    floating buffers that are not listed, and for a module without trainable parameters.
    """

    def __init__(self, module: nn.Module, buffers: tuple[str, ...] = ()) -> None:
        self.module = module
        trainable = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        travelling = _listed_buffers(module, buffers)
        _check(trainable, travelling)
        self.parameters = sum(p.numel() for _, p in trainable)
        self.dimension = self.parameters + sum(b.numel() for _, b in travelling)
        self.flat = torch.empty(self.dimension, dtype=torch.float32)
        self.flat_gradient = torch.zeros(self.parameters, dtype=torch.float32)
        self.values = self.flat.numpy()
        self.gradients = self.flat_gradient.numpy()
        start = 0
        self.shapes: dict[str, torch.Size] = {}
        for name, parameter in trainable:
            self.shapes[name] = parameter.shape
            place = slice(start, start + parameter.numel())
            self.flat[place] = parameter.detach().reshape(-1)
            parameter.data = self.flat[place].view(parameter.shape)
            parameter.grad = self.flat_gradient[place].view(parameter.shape)
            start = place.stop
        for name, buffer in travelling:
            place = slice(start, start + buffer.numel())
            self.flat[place] = buffer.detach().reshape(-1)
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, self.flat[place].view(buffer.shape))
            start = place.stop
        names = {name for name, _ in travelling}
        self._resting = [(b, b.clone()) for n, b in module.named_buffers() if n not in names]

    def load(self, vector: np.ndarray) -> None:
        """Take the values of ``vector``, float32 (dimension,); it is copied. ValueError else."""
        if vector.dtype != np.float32 or vector.shape != (self.dimension,):
            raise ValueError(
                f"expected a float32 vector ({self.dimension},), got {vector.dtype} {vector.shape}"
            )
        np.copyto(self.values, vector)
        for buffer, rest in self._resting:
            buffer.copy_(rest)

    def vector(self) -> np.ndarray:
        """The present values, float32 (dimension,), as a copy."""
        return self.values.copy()

    def zero_gradient(self) -> None:
        """Set the flat gradient to zero; ``backward`` adds to it."""
        self.flat_gradient.zero_()

    def gradient(self) -> np.ndarray:
        """The gradient of the trainable parameters, float32 (parameters,), as a copy."""
        return self.gradients.copy()


def _listed_buffers(module: nn.Module, buffers: tuple[str, ...]) -> list[tuple[str, Tensor]]:
    found = dict(module.named_buffers())
    for name in buffers:
        if name not in found:
            raise ValueError(f"the app lists a buffer {name!r} that the model does not have")
    if len(set(buffers)) != len(buffers):
        raise ValueError(f"the app lists a buffer twice: {', '.join(buffers)}")
    persistent = module.state_dict().keys()
    for name, buffer in found.items():
        floating = buffer.is_floating_point() or buffer.is_complex()
        if floating and name in persistent and name not in buffers:
            raise ValueError(
                f"the model keeps a floating buffer {name!r} (as BatchNorm does), which is no "
                "parameter and would stay behind: use GroupNorm instead, or list it in "
                "App.buffers, or register a constant with persistent=False"
            )
    return [(name, found[name]) for name in buffers]


def _check(parameters: list[tuple[str, nn.Parameter]], buffers: list[tuple[str, Tensor]]) -> None:
    for name, tensor in [*parameters, *buffers]:
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"{name!r} has no shape yet; give the lazy layer its sizes")
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            seen = f"{tensor.dtype} on {tensor.device}"
            raise ValueError(f"{name!r} must be float32 on the CPU, got {seen}")
    if not parameters or sum(math.prod(p.shape) for _, p in parameters) == 0:
        raise ValueError("the model has no trainable parameters")

"""The built-in models as plain modules; ``catalogue`` gives their dimensions without torch."""

from __future__ import annotations

import math

from torch import nn

from ostraka.learn.catalogue import CNN, HIDDEN, MODELS, Shape, pooled


def logistic(shape: Shape, classes: int) -> nn.Module:
    """One linear layer: multinomial logistic regression under cross entropy."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def mlp(shape: Shape, classes: int) -> nn.Module:
    """One hidden layer of 100 rectified units."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)
    )


def cnn(shape: Shape, classes: int, size: str = "cnn") -> nn.Module:
    """Two 3x3 convolutions, each rectified and halved by maximum, then one hidden layer."""
    first, second, hidden = CNN[size]
    return nn.Sequential(
        nn.Conv2d(shape[0], first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * pooled(shape), hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def _he(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def build(model: str, shape: Shape, classes: int) -> nn.Module:
    """A built-in model for images (channels, height, width); ValueError names the known ones.

    Rectified models start as He et al. (2015) draw them. With torch's own start they learn much
    later: 12 parties on digits reach 0.94 with the cnn after 80 rounds instead of 40 (measured).
    """
    if model == "logistic":
        return logistic(shape, classes)
    if model == "mlp":
        return _he(mlp(shape, classes))
    if model in CNN:
        return _he(cnn(shape, classes, model))
    raise ValueError(f"unknown model {model!r}, known are: {', '.join(MODELS)}")

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


def build(model: str, shape: Shape, classes: int) -> nn.Module:
    """A built-in model for images (channels, height, width); ValueError names the known ones."""
    if model == "logistic":
        return logistic(shape, classes)
    if model == "mlp":
        return mlp(shape, classes)
    if model in CNN:
        return cnn(shape, classes, model)
    raise ValueError(f"unknown model {model!r}, known are: {', '.join(MODELS)}")

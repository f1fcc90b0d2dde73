"""The data sets and models that are built in, in numbers; needs no torch and reads no file."""

from __future__ import annotations

import math
from dataclasses import dataclass

MODELS = ("logistic", "mlp", "cnn", "cnn-large")
HIDDEN = 100
"""Units of the hidden layer of ``mlp``."""
CNN = {"cnn": (16, 32, 64), "cnn-large": (32, 64, 320)}
"""Channels of the two 3x3 convolutions, and units of the hidden layer."""

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Facts:
    """One data set: image shape (channels, height, width), classes, examples."""

    shape: Shape
    classes: int
    train: int
    test: int


DATASETS = {
    "digits": Facts((1, 8, 8), 10, 1438, 359),
    "mnist": Facts((1, 28, 28), 10, 60_000, 10_000),
    "fashion-mnist": Facts((1, 28, 28), 10, 60_000, 10_000),
    "cifar-10": Facts((3, 32, 32), 10, 50_000, 10_000),
}


def facts(dataset: str) -> Facts:
    """The facts of a data set; snake_case is accepted. ValueError names those that are known."""
    found = DATASETS.get(dataset.replace("_", "-"))
    if found is None:
        raise ValueError(f"unknown data set {dataset!r}, known are: {', '.join(DATASETS)}")
    return found


def pooled(shape: Shape) -> int:
    """Pixels per channel after two halvings of height and width."""
    _, height, width = shape
    if height < 4 or width < 4:
        raise ValueError(f"a cnn needs images of at least 4x4 pixels, got {height}x{width}")
    return (height // 4) * (width // 4)


def model_dimension(model: str, shape: Shape, classes: int) -> int:
    """Trainable parameters of a built-in model, by closed form. ValueError for an unknown model."""
    inputs = math.prod(shape)
    if model == "logistic":
        return (inputs + 1) * classes
    if model == "mlp":
        return (inputs + 1) * HIDDEN + (HIDDEN + 1) * classes
    if model in CNN:
        first, second, hidden = CNN[model]
        convolutions = (9 * shape[0] + 1) * first + (9 * first + 1) * second
        return convolutions + (second * pooled(shape) + 1) * hidden + (hidden + 1) * classes
    raise ValueError(f"unknown model {model!r}, known are: {', '.join(MODELS)}")


def dimension(model: str, dataset: str) -> int:
    """Length d of the vector of a built-in model on a built-in data set."""
    found = facts(dataset)
    return model_dimension(model, found.shape, found.classes)

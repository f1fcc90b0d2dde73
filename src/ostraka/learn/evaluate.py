"""How good a vector is: the app's metric and loss on a set of examples, public or held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ostraka.learn.app import App, AppError, Examples
from ostraka.learn.vectors import FlatModel


@dataclass(frozen=True)
class Evaluation:
    """``accuracy``: the app's metric (by default the fraction right); ``loss``: its loss."""

    accuracy: float
    loss: float


def evaluate(model: FlatModel, app: App, examples: Examples, batch: int = 1024) -> Evaluation:
    """Loss and metric over all examples, in evaluation mode; the module's mode is put back.

    The outputs of all batches are kept (N rows), and loss and metric are computed once over them,
    so neither needs to be a mean. The same model, examples and batch give the same bits on one
    machine with one thread. Raises ValueError for ``batch`` below 1.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    training = model.module.training
    model.module.eval()
    try:
        with torch.no_grad():
            outputs = torch.cat(
                [model.module(part) for part in torch.split(examples.inputs, batch)]
            )
            loss = float(app.loss(outputs, examples.targets))
            metric = float(app.metric(outputs, examples.targets))
    finally:
        model.module.train(training)
    return Evaluation(metric, loss)


HELD_OUT = 5
"""Where there is no public test set, every party keeps each fifth example back."""


def hold_out(own: Examples) -> tuple[Examples, Examples]:
    """A party's examples to train on, and every fifth one for evaluation.

    Raises AppError for fewer than five examples.
    """
    if len(own.inputs) < HELD_OUT:
        raise AppError(
            f"a party with {len(own.inputs)} examples cannot hold any out for evaluation: give "
            "the app test_data, or every party at least five examples"
        )
    kept = torch.arange(len(own.inputs)) % HELD_OUT == HELD_OUT - 1
    return (
        Examples(own.inputs[~kept], own.targets[~kept]),
        Examples(own.inputs[kept], own.targets[kept]),
    )


def joined(parts: Sequence[Examples]) -> Examples:
    """All parts as one set of examples."""
    inputs = torch.cat([part.inputs for part in parts])
    return Examples(inputs, torch.cat([part.targets for part in parts]))

"""One party's part of a round: the vector that it sends, from its examples and the public model.

gradient (or the sum of local steps) -> momentum -> clip -> noise. Simulated and real parties call
this same code; a vector is a function of (round, theta, momentum), nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ostraka.learn.app import App, as_examples
from ostraka.learn.initial import build
from ostraka.learn.per_example import PerExample, clip_factor, norm64
from ostraka.learn.seeds import BATCH, FORWARD, NOISE, SAMPLING, stream, torch_seed
from ostraka.learn.settings import Privacy, Training
from ostraka.learn.vectors import FlatModel


def gaussian(rng: np.random.Generator, size: int, deviation: float) -> np.ndarray:
    """Normal noise, float32 (size,), of this standard deviation.

    For simulations only: the generator follows from the public seed, so whoever reads the
    federation file can subtract the noise. A real party (``join``) must draw its noise and its
    Poisson samples from a cryptographic stream seeded by the operating system; that comes with the
    real transport, and until then nothing here may be called private.
    """
    noise = rng.standard_normal(size, dtype=np.float32)
    noise *= np.float32(deviation)
    return noise


@contextmanager
def _torch_seeded(value: int) -> Iterator[None]:
    """torch's CPU generator at ``value`` inside (for dropout), as it was after."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(value)
    try:
        yield
    finally:
        generator.set_state(before)


class Trainer:
    """One party's training, round after round.

    ``examples`` is what ``App.train_data`` gives. Rounds go forward; they may be skipped (a party
    that was away keeps its momentum). ``model`` may be shared by the trainers of one process: every
    vector is loaded anew, so that nothing of one party reaches another. Raises ValueError when
    ``privacy`` meets listed buffers, and what ``FlatModel`` and ``as_examples`` raise.
    """

    def __init__(
        self,
        app: App,
        examples: Any,
        training: Training,
        privacy: Privacy | None = None,
        seed: int = 0,
        party: int = 0,
        model: FlatModel | None = None,
    ) -> None:
        if privacy is not None and app.buffers:
            raise ValueError(
                f"listed buffers ({', '.join(app.buffers)}) would leave without noise: with "
                "[privacy] the app must list none (use GroupNorm instead of BatchNorm)"
            )
        self._app, self._training, self._privacy = app, training, privacy
        self._seed, self._party = seed, party
        self._inputs, self._targets = as_examples(examples)
        self.model = build(app, seed) if model is None else model
        self.model.module.train()
        self._per_example = PerExample(self.model, app.loss)
        self._momentum = np.zeros(self.model.parameters, np.float32)
        self._next = np.zeros(self.model.parameters, np.float32)
        self._theta = self._sent = np.zeros(self.model.dimension, np.float32)
        self._computed = self._committed = self._before = -1

    @property
    def dimension(self) -> int:
        """The length d of the vectors."""
        return self.model.dimension

    @property
    def sampling_rate(self) -> float:
        """q = min(1, batch_size / examples), each example's chance to be in a Poisson batch."""
        return min(1.0, self._training.batch_size / len(self._inputs))

    def update(self, round: int, theta: np.ndarray) -> np.ndarray:
        """The vector that this party sends in ``round`` for the public model ``theta``.

        float32 (d,) to float32 (d,), read-only. The momentum moves on once; the same round and
        theta again give the same bits. Raises ValueError for a round before the last one, or the
        last one with another theta.
        """
        vector = self.peek(round, theta)
        if self._committed < round:
            self._momentum, self._next = self._next, self._momentum
            self._before, self._committed = self._committed, round
        return vector

    def peek(self, round: int, theta: np.ndarray) -> np.ndarray:
        """What ``update`` would give, without moving the momentum on; ``update`` then reuses it."""
        if round == self._computed and _same_bits(theta, self._theta):
            return self._sent
        if round <= self._committed:
            raise ValueError(
                f"round {round} is over (the last one was {self._committed}): "
                "restore an earlier state to train it again"
            )
        self._computed = -1
        self.model.load(theta)
        self._theta = theta.copy() if theta.flags.writeable else theta
        self._sent = np.empty(self.model.dimension, np.float32)
        with (
            _torch_seeded(torch_seed(self._seed, self._party, round, FORWARD)),
            np.errstate(over="ignore", invalid="ignore", under="ignore"),
        ):
            self._fill(round, self._training.rate(round))
        self._sent.flags.writeable = False
        self._computed = round
        return self._sent

    def state(self, before: int | None = None) -> dict[str, np.ndarray]:
        """What a checkpoint must keep: ``momentum`` float32 (parameters,), ``round`` int64 ().

        With ``before``, as it was before that round: a server that stops in the middle of a round
        stores the state of its beginning, although some workers have answered already. Only the
        latest round can be undone so; ValueError for an earlier one.
        """
        if before is None or self._committed < before:
            return _state(self._momentum, self._committed)
        if self._committed > before or self._computed > before:
            raise ValueError(f"round {before} is long over (the last one was {self._committed})")
        return _state(self._next, self._before)

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from ``state()``, bit for bit. Raises ValueError for another model's state."""
        momentum, last = state["momentum"], state["round"]
        if momentum.dtype != np.float32 or momentum.shape != self._momentum.shape:
            raise ValueError(
                f"expected a momentum float32 {self._momentum.shape}, "
                f"got {momentum.dtype} {momentum.shape}"
            )
        np.copyto(self._momentum, momentum)
        self._committed, self._computed = int(last), -1

    def _fill(self, round: int, rate: float) -> None:
        """Compute ``_next`` and ``_sent`` from the loaded model and ``_momentum``."""
        size = self.model.parameters
        np.multiply(self._momentum, self._training.momentum, out=self._next)
        self._next += self._direction(round, rate)
        sent = self._sent[:size]
        np.copyto(sent, self._next)
        if self._training.clip is not None:
            _clip(sent, self._training.clip)
        if self._privacy is not None and self._privacy.unit == "participant":
            _clip(sent, self._privacy.clip, finite=True)
            rng = stream(self._seed, self._party, round, NOISE)
            sent += gaussian(rng, size, self._privacy.noise_multiplier * self._privacy.clip)
        if size < self.model.dimension:
            np.subtract(self._theta[size:], self.model.values[size:], out=self._sent[size:])
            self._sent[size:] /= rate

    def _direction(self, round: int, rate: float) -> np.ndarray:
        """The gradient of one minibatch, or the sum of those of the local steps.

        The sum is (theta - theta_K) / rate of plain SGD, without its rounding. Weight decay is
        added in every step, as SGD does.
        """
        steps, decay = self._training.local_steps, self._training.weight_decay
        gradients = self._steps(round)
        values = self.model.values[: self.model.parameters]
        total = np.zeros(len(values) if steps > 1 else 0, np.float32)
        for _ in range(steps):
            gradient = next(gradients)
            if decay:
                gradient += np.float32(decay) * values
            if steps == 1:
                return gradient
            total += gradient
            gradient *= rate
            values -= gradient
        return total

    def _steps(self, round: int) -> Iterator[np.ndarray]:
        """Gradients at the model's present values, one per local step; each may be overwritten."""
        if self._privacy is not None and self._privacy.unit == "example":
            return self._private_gradients(round, self._privacy)
        return self._gradients(round)

    def _gradients(self, round: int) -> Iterator[np.ndarray]:
        """Minibatches of ``batch_size`` without replacement, or all examples if there are fewer."""
        count, size = len(self._inputs), self._training.batch_size
        rng = stream(self._seed, self._party, round, BATCH) if size < count else None
        inputs, targets = self._inputs, self._targets
        while True:
            if rng is not None:
                chosen = torch.from_numpy(rng.choice(count, size, replace=False))
                inputs = self._inputs.index_select(0, chosen)
                targets = self._targets.index_select(0, chosen)
            self.model.zero_gradient()
            torch.autograd.backward(self._app.loss(self.model.module(inputs), targets))
            yield self.model.gradients

    def _private_gradients(self, round: int, privacy: Privacy) -> Iterator[np.ndarray]:
        """DP-SGD (Abadi et al. 2016): Poisson batch, clipped sum, noise, over the expected size."""
        sampling = stream(self._seed, self._party, round, SAMPLING)
        noise = stream(self._seed, self._party, round, NOISE)
        count, rate = len(self._inputs), self.sampling_rate
        while True:
            chosen = torch.from_numpy(np.flatnonzero(sampling.random(count) < rate))
            total = self._per_example.clipped_sum(
                self._inputs.index_select(0, chosen),
                self._targets.index_select(0, chosen),
                privacy.clip,
            )
            total += gaussian(noise, len(total), privacy.noise_multiplier * privacy.clip)
            total /= np.float32(rate * count)
            yield total


def _state(momentum: np.ndarray, round: int) -> dict[str, np.ndarray]:
    return {"momentum": momentum.copy(), "round": np.array(round, np.int64)}


def _clip(vector: np.ndarray, bound: float, *, finite: bool = False) -> None:
    """Scale down, in place, to an L2 norm of at most ``bound``.

    A vector that is not finite has no norm: it is left for the receivers to refuse, or becomes
    zero where ``finite`` is promised.
    """
    norm = norm64(vector)
    if np.isfinite(norm):
        vector *= np.float32(clip_factor(norm, bound))
    elif finite:
        vector[:] = 0


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.ctypes.data == b.ctypes.data or np.array_equal(a.view(np.uint32), b.view(np.uint32))

"""The public model: its first vector from the seed, its digest, its file.

Importable without torch; only ``build`` and ``initial_vector`` load it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ostraka.learn.seeds import INITIAL, NO_ROUND, NOBODY, torch_seed

if TYPE_CHECKING:
    from ostraka.learn.app import App
    from ostraka.learn.vectors import FlatModel

_NAME = "vector"
FILE = "initial.safetensors"
"""The initial model's file, beside the federation file that names its digest."""


def build(app: App, seed: int) -> FlatModel:
    """The app's model as every party of the federation first has it, drawn from the seed.

    Parts that do not travel (frozen parameters) agree too. torch's global generator is left as it
    was.
    """
    import torch

    from ostraka.learn.app import AppError
    from ostraka.learn.vectors import FlatModel

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(seed, NOBODY, NO_ROUND, INITIAL))
        module = app.model()
    if not isinstance(module, torch.nn.Module):
        raise AppError(f"App.model() must give a torch.nn.Module, got {type(module).__name__}")
    return FlatModel(module, app.buffers)


def initial_vector(app: App, seed: int) -> np.ndarray:
    """The first public vector, float32 (d,); follows from app, seed and torch's version."""
    return build(app, seed).vector()


def model_digest(theta: np.ndarray) -> str:
    """ "sha256:" and the hex digest of the flat parameters as little-endian float32 bytes.

    ``theta`` is float32 (d,); ValueError else. -0.0 and 0.0 differ, as do NaNs of unlike bits.
    """
    if theta.dtype != np.float32 or theta.ndim != 1:
        raise ValueError(f"expected a float32 vector (d,), got {theta.dtype} {theta.shape}")
    body = np.ascontiguousarray(theta, "<f4")
    return f"sha256:{hashlib.sha256(body.data).hexdigest()}"


def save_vector(path: Path, theta: np.ndarray) -> None:
    """Write float32 (d,) as a safetensors file with the one tensor ``vector``."""
    from safetensors.numpy import save

    if theta.dtype != np.float32 or theta.ndim != 1:
        raise ValueError(f"expected a float32 vector (d,), got {theta.dtype} {theta.shape}")
    Path(path).write_bytes(save({_NAME: np.ascontiguousarray(theta)}))


def load_vector(path: Path, dimension: int | None = None) -> np.ndarray:
    """Read such a file; float32 (d,), finite or not.

    Raises FileNotFoundError, or ValueError when it is no safetensors file, lacks ``vector``, or
    the vector is not float32 of ``dimension`` (None: any).
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = load(Path(path).read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    if set(found) != {_NAME}:
        raise ValueError(f"{path} must hold one tensor {_NAME!r}, has {', '.join(sorted(found))}")
    vector = found[_NAME]
    if vector.dtype != np.float32 or vector.ndim != 1 or dimension not in (None, len(vector)):
        wanted = "(d,)" if dimension is None else f"({dimension},)"
        raise ValueError(
            f"{path}: expected float32 {wanted}, saw {vector.dtype} {tuple(vector.shape)}"
        )
    return vector

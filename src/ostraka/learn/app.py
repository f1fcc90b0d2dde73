"""The user's app: a model and this party's data, in one file; the built-ins are written alike."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, module_from_spec
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ostraka.learn import data, models

_SPEC = re.compile(r"([A-Za-z_][A-Za-z0-9_]*):([A-Za-z_][A-Za-z0-9_]*)")


class AppError(ValueError):
    """The user's app is not what it should be; says what was expected and what was found."""


class AppMissing(FileNotFoundError):  # noqa: N818
    """The user's app file is not there; names the path."""


class Examples(NamedTuple):
    """Tensors of equal length along their first axis; floating ones are float32."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Site:
    """The party whose data is asked for: index of ``parties``, name, public seed, data folder."""

    party: int
    parties: int
    name: str
    seed: int
    data_dir: Path | None = None


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The fraction of rows of ``outputs`` (N, classes) whose largest entry is the target's."""
    return int((outputs.argmax(dim=1) == targets).sum()) / len(targets)


@dataclass(frozen=True)
class App:
    """What a federation trains. Raises AppError for fields of the wrong type.

    ``model()`` builds the module; ``train_data(site)`` gives the party's examples, as ``Examples``
    or as a torch map-style Dataset of (input, target) pairs, which is stacked once;
    ``test_data(data_dir)`` gives public test examples. ``loss(outputs, targets)`` is a mean over
    the batch (cross entropy by default), ``metric(outputs, targets)`` a number over all test
    examples (accuracy by default). ``buffers`` lists the floating buffers that travel.
    """

    model: Callable[[], nn.Module]
    train_data: Callable[[Site], Any]
    test_data: Callable[[Path | None], Any] | None = None
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    metric: Callable[[Tensor, Tensor], float] = accuracy
    buffers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "buffers":
                if not isinstance(value, tuple) or not all(isinstance(b, str) for b in value):
                    raise AppError(f"App.buffers must be a tuple of names, got {value!r}")
            elif not callable(value) and not (field.name == "test_data" and value is None):
                raise AppError(f"App.{field.name} must be a function, got {type(value).__name__}")


def as_examples(found: Any) -> Examples:
    """Examples, a pair of tensors or arrays, or a map-style Dataset, as contiguous tensors.

    float64 and float16 become float32. Raises AppError for anything else, no examples, or lengths
    that differ.
    """
    if isinstance(found, tuple):
        if len(found) != 2:
            raise AppError(f"examples must be (inputs, targets), got {len(found)} parts")
        inputs, targets = (_tensor(part) for part in found)
    elif hasattr(found, "__getitem__") and hasattr(found, "__len__"):
        inputs, targets = _stacked(found)
    else:
        raise AppError(
            "examples must be Examples(inputs, targets) or a Dataset with __len__ and "
            f"__getitem__, got {type(found).__name__}"
        )
    if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets) or not len(inputs):
        raise AppError(
            "inputs and targets must have the same positive length, got shapes "
            f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
        )
    return Examples(inputs, targets)


def _tensor(part: Any) -> Tensor:
    if not isinstance(part, (Tensor, np.ndarray, int, float, list)):
        raise AppError(f"inputs and targets must be tensors or arrays, got {type(part).__name__}")
    tensor = part.detach() if isinstance(part, Tensor) else torch.tensor(part)
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()


def _stacked(dataset: Any) -> tuple[Tensor, Tensor]:
    """Every example of a Dataset, read once."""
    if len(dataset) == 0:
        raise AppError("the Dataset has no examples")
    pairs = []
    for index in range(len(dataset)):
        pair = dataset[index]
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise AppError(f"example {index} of the Dataset is no (input, target) pair")
        pairs.append((_tensor(pair[0]), _tensor(pair[1])))
    for x, y in pairs:
        if x.shape != pairs[0][0].shape or y.shape != pairs[0][1].shape:
            raise AppError("the examples of the Dataset differ in shape; pad or crop them")
    return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])


def app_file(spec: str, folder: Path) -> Path:
    """The file that ``spec`` ("my_app:app") names in ``folder``; AppError for another form."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise AppError(f'app must be "file:name" without .py, as in "my_app:app", got {spec!r}')
    return Path(folder) / f"{match[1]}.py"


class _Exactly(InspectLoader):
    """Runs these very bytes, wherever they were read."""

    def __init__(self, content: bytes, path: Path) -> None:
        self._content, self._path = content, path

    def get_source(self, fullname: str) -> str:
        """The text, for tracebacks."""
        return decode_source(self._content)

    def get_code(self, fullname: str) -> CodeType:
        """The bytes, compiled. Raises SyntaxError."""
        return self.source_to_code(self._content, str(self._path))


def load_app(spec: str, folder: Path, sha256: str | None = None) -> App:
    """The App called NAME in the file MODULE.py of ``folder``, for spec "MODULE:NAME".

    ``sha256``: the hex digest of the only content that may run; the bytes that are compared are the
    bytes that run.

    The file runs under a private module name; sys.path is left alone, so it imports installed
    packages only. Raises AppMissing without the file, AppError when it does not compile, lacks an
    import or the name, or the name is no App. What else it raises while it runs is passed on.
    """
    path = app_file(spec, folder)
    if not path.is_file():
        raise AppMissing(f"the app file {path} does not exist (app = {spec!r})")
    name = spec.partition(":")[2]
    private = f"ostraka_app_{path.stem}"
    content = path.read_bytes()
    if sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise AppError(
            f"{path} is not the file any more whose digest was allowed; nothing of it ran"
        )
    loader = _Exactly(content, path)
    module = module_from_spec(ModuleSpec(private, loader, origin=str(path)))
    module.__file__ = str(path)
    sys.modules[private] = module  # dataclasses look their module up there
    try:
        loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise AppError(f"{path} cannot be imported: {error}") from error
    app = getattr(module, name, None)
    if not isinstance(app, App):
        what = "has no" if app is None else f"has a {type(app).__name__}, not an App, as"
        raise AppError(f"{path} {what} {name!r}; write {name} = App(model=..., train_data=...)")
    return app


def builtin(model: str, dataset: data.Dataset, parts: Sequence[np.ndarray]) -> App:
    """A built-in model on a built-in data set; party k holds the examples of ``parts[k]``."""
    shape = dataset.train_x.shape[1:]

    def build() -> nn.Module:
        return models.build(model, (shape[0], shape[1], shape[2]), dataset.classes)

    def train_data(site: Site) -> Examples:
        mine = parts[site.party]
        inputs, targets = dataset.train_x[mine], dataset.train_y[mine]
        return Examples(torch.from_numpy(inputs), torch.from_numpy(targets))

    def test_data(data_dir: Path | None) -> Examples:
        return Examples(torch.from_numpy(dataset.test_x), torch.from_numpy(dataset.test_y))

    return App(build, train_data, test_data)

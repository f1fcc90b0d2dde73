"""Ostraka: federated learning for institutions that do not trust each other.

The public names are resolved when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ostraka import attacks, rules
    from ostraka.app.errors import UserError
    from ostraka.app.library import Run, aggregate, run
    from ostraka.app.one_round import SecureAggregate, secure_aggregate
    from ostraka.learn.app import App, Examples, Site
    from ostraka.rules.aggregate import Aggregate

__all__ = [
    "Aggregate",
    "App",
    "Examples",
    "Run",
    "SecureAggregate",
    "Site",
    "UserError",
    "aggregate",
    "attacks",
    "rules",
    "run",
    "secure_aggregate",
]

_PLACES = {
    "Aggregate": "ostraka.rules.aggregate",
    "App": "ostraka.learn.app",
    "Examples": "ostraka.learn.app",
    "Run": "ostraka.app.library",
    "SecureAggregate": "ostraka.app.one_round",
    "Site": "ostraka.learn.app",
    "UserError": "ostraka.app.errors",
    "aggregate": "ostraka.app.library",
    "run": "ostraka.app.library",
    "secure_aggregate": "ostraka.app.one_round",
}


def __getattr__(name: str) -> Any:
    if name in ("attacks", "rules"):
        return import_module(f"ostraka.{name}")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'ostraka' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Parameters of rules and attacks as people type them: KEY=VALUE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ostraka.app.errors import UserError


def options(pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """Read KEY=VALUE pairs; a value is a number or a truth value where it looks like one."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals and text):
            raise UserError(f"{flag} {pair!r} is not KEY=VALUE")
        found[key.replace("-", "_")] = _value(text)
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text, text)

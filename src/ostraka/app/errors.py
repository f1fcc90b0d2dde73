"""Every way in which a command ends, with its exit code, and the one exception that users see.

The codes are those of sysexits; docs/exit-codes.md has a paragraph for each.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    REFUSED = 64
    DATA = 65
    MISSING = 66
    UNAVAILABLE = 69
    BUG = 70
    STORAGE = 74
    STOPPED = 75
    PROTOCOL = 76
    IDENTITY = 77
    DIFFERS = 78


class UserError(Exception):
    """A sentence that says what happened, why, and what to do next; ends the command."""

    def __init__(self, message: str, code: Exit = Exit.REFUSED) -> None:
        super().__init__(message)
        self.code = code

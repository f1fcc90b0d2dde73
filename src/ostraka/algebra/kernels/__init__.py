"""Compiled inner loops (numba), one file for each kind of arithmetic, and how they are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def inlined(function: Function) -> Function:
    """Compile a piece of a kernel: it becomes part of every kernel that calls it."""
    piece: Any = njit(nogil=True)(function)
    return cast(Function, piece)


def kernel(*signature: Any) -> Callable[[Function], Function]:
    """Compile an entry for these argument types, free of the GIL, and keep the machine code.

    The code is kept beside the source or, where that folder is read-only, in the user's cache
    folder (numba's NUMBA_CACHE_DIR names another). Where neither can be written, it is compiled
    in every process.
    """

    def compiled(function: Function) -> Function:
        try:
            entry: Any = njit(signature, nogil=True, cache=True)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            entry = njit(signature, nogil=True)(function)
        return cast(Function, entry)

    return compiled

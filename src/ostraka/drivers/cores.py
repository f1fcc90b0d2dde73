"""Work in order on all cores: a map over a pool of threads that takes its items a few at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def all_cores(threads: int | None = None) -> Iterator[Callable[..., Iterator[Any]]]:
    """A ``map`` like the builtin one, whose function runs on so many threads (None: one a core).

    Items are made by the thread that asks for results, at most two for each thread ahead of them,
    so that little memory is in use. What the function raises is raised in the place of its result.
    """
    count = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(count, thread_name_prefix="arithmetic") as pool:

        def spread(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            waiting: deque[Future[Any]] = deque()
            try:
                for item in items:
                    waiting.append(pool.submit(function, item))
                    if len(waiting) > 2 * count:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

        yield spread

"""Work in order on all cores: a map that takes its items a few at a time."""

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

    The thread that asks for results makes the items and is one of the threads: whenever enough
    items are ahead of it, it works on one itself, for one thread more than there are cores would
    only take turns. At most two items for each thread are ahead of the results, so that little
    memory is in use. What the function raises is raised, perhaps before all results of earlier
    items were given.
    """
    count = threads or os.cpu_count() or 1
    if count == 1:
        yield map
        return
    with ThreadPoolExecutor(count - 1, thread_name_prefix="arithmetic") as pool:

        def spread(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            waiting: deque[_Job] = deque()
            try:
                for item in items:
                    waiting.append(_Job(pool, function, item))
                    while len(waiting) > 2 * count:
                        yield _next(waiting)
                while waiting:
                    yield _next(waiting)
            finally:
                for job in waiting:
                    job.future.cancel()

        yield spread


class _Job:
    """One call of the function, by a thread of the pool or by whoever takes it from there."""

    def __init__(self, pool: ThreadPoolExecutor, function: Callable[[Any], Any], item: Any) -> None:
        self.function, self.item = function, item
        self.future: Future[Any] = pool.submit(function, item)

    def take(self) -> bool:
        """Do it here, unless somebody has begun with it."""
        if not self.future.cancel():
            return False
        self.future = Future()
        self.future.set_result(self.function(self.item))
        return True


def _next(waiting: deque[_Job]) -> Any:
    """The first job's result; until it is there, this thread does other jobs."""
    while not waiting[0].future.done() and any(job.take() for job in waiting):
        pass
    return waiting.popleft().future.result()

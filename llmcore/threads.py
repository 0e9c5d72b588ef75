"""`each(work, items)`: how work is spread over the cores.

The number of threads belongs to the process, not to a model: NumPy's BLAS has only one. Who starts the engine
says how many there are and how BLAS is told (`use`); until then one thread does everything.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import pairwise

import numpy as np

ROW_RUN = 1 << 17  # numbers that `across_rows` gives to a function at a time


class _Team:
    """The threads that work is spread over, the calling one among them."""

    size = 1
    pool: ThreadPoolExecutor | None = None
    free = threading.Lock()  # held while they work
    set_blas_threads: Callable[[int], object] = staticmethod(lambda n: None)


def use(n: int, set_blas_threads: Callable[[int], object]) -> None:
    """Compute with n threads from now on; `set_blas_threads` tells BLAS how many a product may take."""
    _Team.set_blas_threads = staticmethod(set_blas_threads)
    set_blas_threads(n)
    if n != _Team.size:
        _Team.size, _Team.pool = n, _pool(n)


def _pool(n):
    return ThreadPoolExecutor(n - 1, "llmcore") if n > 1 else None


def _renew():
    """A forked child has none of its parent's threads, and perhaps a lock that nobody will let go."""
    _Team.pool, _Team.free = _pool(_Team.size), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def n_threads() -> int:
    """How many threads `each` spreads work over."""
    return _Team.size


def each(work: Callable, items: Iterable) -> None:
    """work(item) for each of the items, in any order, spread over the threads, in each of which BLAS has one.

    To start and join them takes as long as a small product: the whole should take a multiple of that. An
    exception is passed on once all have stopped. Where they are busy already (work that calls `each` itself),
    the calling thread does it all.
    """
    todo = deque(items)
    if len(todo) < 2 or _Team.pool is None or not _Team.free.acquire(blocking=False):
        for item in todo:
            work(item)
        return

    def run():
        """What each thread does, until nothing is left."""
        try:
            while True:
                try:
                    item = todo.popleft()
                except IndexError:
                    return
                work(item)
        finally:
            todo.clear()  # after an error or Ctrl-C nobody wants the rest

    helpers: list[Future] = []
    try:
        _Team.set_blas_threads(1)  # two that both ask for BLAS's own threads would wait for each other
        with suppress(RuntimeError):  # where the system allows no more threads, fewer do the work
            for _ in range(min(_Team.size, len(todo)) - 1):
                helpers.append(_Team.pool.submit(run))
        run()
    finally:
        todo.clear()  # where not even the helpers could be started
        wait(helpers)
        _Team.set_blas_threads(_Team.size)
        _Team.free.release()
    for helper in helpers:
        helper.result()


def evenly(n_rows: int, n_parts: int) -> list[slice]:
    """Slices that cut n_rows into n_parts, or into single rows if there are fewer.

    >>> evenly(5, 2)
    [slice(0, 2, None), slice(2, 5, None)]
    """
    n_parts = min(n_rows, n_parts)
    ends = [n_rows * i // n_parts for i in range(n_parts + 1)]
    return [slice(*part) for part in pairwise(ends)]


def for_threads(n_parts: int) -> int:
    """At least n_parts, and equally many for each thread; but one part stays one."""
    return n_parts if n_parts == 1 else -(-n_parts // n_threads()) * n_threads()


def across_rows(function: Callable, *arrays: np.ndarray) -> np.ndarray:
    """function(*arrays), shaped like the first array; each of its rows depends on that row of the arrays.

    The rows of long arrays are spread over the threads, so many at a time that what the function makes on the
    way stays in the cache.
    """
    T, size = len(arrays[0]), arrays[0].size
    if size <= ROW_RUN:
        return function(*arrays)
    y_TX = np.empty(arrays[0].shape, np.float32)

    def run(rows):
        y_TX[rows] = function(*(array[rows] for array in arrays))

    each(run, evenly(T, for_threads(-(-size // ROW_RUN))))
    return y_TX

"""`each(work, items)`: how work is spread over the cores.

The number of threads belongs to the process, not to a model: NumPy's BLAS has only one. Who starts the engine
says how many there are and how they are set to work (`use`); until then one thread does everything.
"""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np

ROW_RUN = 1 << 17  # numbers that `across_rows` gives to a function at a time


class _Team:
    """The threads that work is spread over, the calling one among them."""

    size = 1
    share: Callable[[Callable[[], None], int], None] = staticmethod(lambda run, n_others: run())


def use(n: int, share: Callable[[Callable[[], None], int], None]) -> None:
    """Compute with n threads from now on.

    `share(run, n_others)` calls run() in this thread and, if they are free, in so many others at once, and
    returns when all have returned; an exception of one it passes on.
    """
    _Team.size, _Team.share = n, staticmethod(share)


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

    n_others = min(_Team.size, len(todo)) - 1
    if n_others > 0:
        _Team.share(run, n_others)
    else:
        run()


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

"""Threads that wait for work at a lock each.

A lock wakes a thread in about 10 us, the queue of a pool in 40, which is as long as two threads need for the
product of one row with a matrix of 576 x 576.
"""

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress


class Team:
    """The calling thread and n - 1 others."""

    def __init__(self, n: int, set_blas_threads: Callable[[int], object]):
        """`set_blas_threads` tells BLAS how many a product may take: n, and one while they all work."""
        self.size, self.set_blas_threads = n, set_blas_threads
        self.renew()
        _teams.add(self)

    def renew(self) -> None:
        """A forked child has none of its parent's threads, and perhaps a lock that nobody will let go."""
        self.others: list[_Other] = []  # started when they are first needed
        self.free = threading.Lock()  # held while they work

    def share(self, run: Callable[[], None], n_others: int) -> None:
        """Call run() here and in so many others at once; where they are busy, or there are none, here."""
        if not self.free.acquire(blocking=False):
            run()
            return
        told: list[_Other] = []
        try:
            self.set_blas_threads(1)  # two that both ask for BLAS's own threads would wait for each other
            with suppress(RuntimeError):  # where the system allows no more threads, fewer do the work
                while len(self.others) < n_others:
                    self.others.append(_Other())
            for other in self.others[:n_others]:
                told.append(other)
                other.tell(run)
            run()
        finally:
            error = None
            try:
                for other in told:
                    error = other.join() or error
            except KeyboardInterrupt as interrupt:  # who knows at which of their locks it came: begin anew
                error, self.others = interrupt, []
                for other in told:
                    other.end()
            self.set_blas_threads(self.size)
            self.free.release()
        if error is not None:
            try:
                raise error
            finally:
                del error  # which knows this frame, and the frame it: nobody would ever let go of the team

    def __del__(self):
        """End the others, who wait for work."""
        for other in self.others:
            other.tell(None)


_teams: "weakref.WeakSet[Team]" = weakref.WeakSet()


def _renew_all():
    for team in _teams:
        team.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


class _Other:
    """A thread that works when it is told to."""

    def __init__(self):
        """Raises RuntimeError where the system allows no more threads."""
        self.begin, self.done = threading.Lock(), threading.Lock()
        self.begin.acquire()
        self.done.acquire()
        self.run: Callable[[], None] | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._live, name="llmcore", daemon=True)
        self.thread.start()

    def _live(self):
        """Do what it is told, until that is nothing."""
        while self.begin.acquire() and self.run is not None:
            try:
                self.run()
            except BaseException as error:  # `share` raises it
                self.error = error
            self.done.release()

    def tell(self, run: Callable[[], None] | None) -> None:
        """Begin to do this."""
        self.run = run
        self.begin.release()

    def join(self) -> BaseException | None:
        """Wait until it has done what it was told; what has not begun yet never does. Returns its error."""
        if self.run is not None and not self.begin.acquire(blocking=False):
            self.done.acquire()
        error, self.error, self.run = self.error, None, None
        return error

    def end(self) -> None:
        """Have it end, after the work it may be at, and wait for that."""
        self.run = None
        while self.thread.is_alive():
            with suppress(KeyboardInterrupt, RuntimeError):  # begin may be free already
                self.begin.release()
            with suppress(KeyboardInterrupt):
                self.thread.join(0.01)

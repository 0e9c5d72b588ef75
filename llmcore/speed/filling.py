"""Matrices are filled from the file by jobs that are spread over the threads, while something else goes on."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ..linear import Job
from ..threads import n_threads


@contextmanager
def filling(jobs: list[Job], progress: Callable[[int], object] | None = None) -> Iterator[None]:
    """Fill matrices from the file while the body of the `with` runs; at its end all are filled.

    The jobs are spread over the threads (NumPy lets go of the GIL inside its loops). `progress` hears of the file bytes
    of each that is done.
    """
    # A body of pure Python keeps the GIL for 5 ms at a time, in which these threads would do 0.3 ms of work: with
    # intervals of 0.2 ms Gemma's tokenizer and its weights are made in 0.6 s together; with 5 ms in 0.6 to 1.0.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    with ThreadPoolExecutor(n_threads()) as pool:
        try:
            futures = [pool.submit(job.run) for job in jobs]
            yield
            for future in futures:
                n_bytes = future.result()
                if progress:
                    progress(n_bytes)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an error or Ctrl-C must not wait for gigabytes that nobody wants
            raise
        finally:
            sys.setswitchinterval(interval)

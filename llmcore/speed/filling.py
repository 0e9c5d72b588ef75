"""Matrices are filled from the file by jobs that are spread over the threads, while something else goes on."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ..linear import Job
from ..threads import n_threads


@contextmanager
def filling(jobs: list[Job], progress: bool = False) -> Iterator[None]:
    """Fill matrices from the file while the body of the `with` runs; at its end all are filled.

    The jobs are spread over the threads (NumPy lets go of the GIL inside its loops). With `progress` a bar shows the
    bytes of the file that are done, if standard error is a terminal and it takes a second.
    """
    # A body of pure Python keeps the GIL for 5 ms at a time, in which these threads would do 0.3 ms of work: with
    # intervals of 0.2 ms Gemma's tokenizer and its weights are made in 0.6 s together; with 5 ms in 0.6 to 1.0.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    with ThreadPoolExecutor(n_threads()) as pool:
        try:
            futures = [pool.submit(job.run) for job in jobs]
            yield
            with _progress_bar(progress, jobs) as report:
                for future in futures:
                    report(future.result())
        except BaseException:
            pool.shutdown(
                cancel_futures=True
            )  # an error or Ctrl-C must not wait for gigabytes that nobody wants
            raise
        finally:
            sys.setswitchinterval(interval)


@contextmanager
def _progress_bar(wanted, jobs):
    """The function that is told of bytes: the update of a tqdm bar, or one that does nothing."""
    if not wanted:
        yield lambda n_bytes: None
        return
    from tqdm import tqdm  # here, because its import would slow every start

    total = sum(job.data.nbytes for job in jobs)
    # disable=None: only on a terminal; delay: only for what takes longer than a second
    with tqdm(
        desc="loading", total=total, unit="B", unit_scale=True, delay=1, disable=None, leave=False
    ) as bar:
        yield bar.update

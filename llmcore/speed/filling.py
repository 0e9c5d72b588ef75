"""Matrices are filled from the file, by jobs that are spread over the threads."""

from contextlib import contextmanager
from threading import Lock

from ..linear import Job
from ..threads import each


def fill(jobs: list[Job], progress: bool = False) -> None:
    """Do the jobs; an error or Ctrl-C calls off those that have not begun.

    With `progress` a bar shows the bytes of the file that are done, if standard error is a terminal and it
    takes a second. The tokenizer is not made meanwhile: one after the other is up to 0.17 s faster than both
    at once, whether threads hand on the GIL every 5 ms or every 0.2 ms.
    """
    with _progress_bar(progress, jobs) as report:
        one_at_a_time = Lock()

        def run(job):
            n_bytes = job.run()
            with one_at_a_time:
                report(n_bytes)

        each(run, jobs)


@contextmanager
def _progress_bar(wanted, jobs):
    """The function that is told of bytes: the update of a tqdm bar, or one that does nothing."""
    if not wanted:
        yield lambda n_bytes: None
        return
    from tqdm import tqdm  # here, because its import would slow every start

    # disable=None: only on a terminal; delay: only for what takes longer than a second
    options = {"unit": "B", "unit_scale": True, "delay": 1, "disable": None, "leave": False}
    with tqdm(desc="loading", total=sum(job.data.nbytes for job in jobs), **options) as bar:
        yield bar.update

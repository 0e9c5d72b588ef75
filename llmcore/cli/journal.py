"""The file of answers: lines are only ever added to it, so what is there is done, whatever ended the work.

Each line is on the disk before the next is written, and begins with its name: the job's and the number of the
line that it answers. That is enough to go on where the work was cut.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from .lines import Job
from .records import Record

PARTS = ("another input", "another model", "other options")  # of a job's name, eight digits each
HEAD = re.compile(rb'\{"(?:batch_)?id": "batch_req_([0-9a-f]{24})_(\d+)"')


@contextmanager
def open_answers(path: Path) -> Iterator[FileIO]:
    """The file, to read and to add to, for this process alone. Raises ValueError if another works on it."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file; answers go to one, since it tells what is done")
    is_new = not path.exists()
    with open(path, "a+b", buffering=0) as file:
        _lock(file, path)
        if is_new and os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            with suppress(OSError):  # not every file system can
                os.fsync(folder)
            os.close(folder)
        try:
            yield file
        finally:
            if is_new and not path.stat().st_size:
                path.unlink()


def _lock(file, path):
    """Until the file is closed, or this process ends in whatever way."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{path}: another process is at work on these answers") from None
    except OSError:  # a file system without locks
        return


def n_done(path: Path, file: FileIO, job: Job, records: Iterator[Record]) -> int:
    """How many of the records are answered in the file, the first of them. A torn last line is cut off.

    Raises ValueError if the file holds anything but the first answers of this job.
    """
    n, end = 0, 0
    with open(path, "rb") as lines:
        for line in lines:
            record = next(records, None)
            if not line.endswith(b"\n") and record and _is_torn(line, job.id_of(record.n)):
                break
            check_line(path, n + 1, line, job, record)
            n, end = n + 1, end + len(line)
    if end < path.stat().st_size:
        file.truncate(end)
        os.fsync(file)
    return n


def _is_torn(line, name):
    """Whether it is the beginning of the answer of that name; what a disk never got may be zeros."""
    there = line.rstrip(b"\0")
    heads = [f'{{"{key}": "{name}"'.encode() for key in ("id", "batch_id")]
    return any(head.startswith(there[: len(head)]) for head in heads)


def check_line(path: Path, n: int, line: bytes, job: Job, record: Record | None) -> None:
    """Raises ValueError unless line n of the file is this job's answer to the record."""
    away = "name another file, or move it away"
    found = HEAD.match(line)
    if not found:
        raise ValueError(f"{path}: line {n} is no answer of `llmcore batch`; {away}")
    theirs = found[1].decode()
    other = [part for i, part in enumerate(PARTS) if theirs[8 * i : 8 * i + 8] != job.name[8 * i : 8 * i + 8]]
    if other:
        raise ValueError(f"{path} holds answers of another job, with {' and '.join(other)}; {away}")
    if not line.endswith(b"\n") or record is None or int(found[2]) != record.n:
        raise ValueError(f"{path}: line {n} is not the one that belongs there; {away}")


def append(file: FileIO, line: bytes) -> None:
    """Add a line and see it onto the disk. If there is no room for all of it, nothing of it stays."""
    end = os.fstat(file.fileno()).st_size
    try:
        written = 0
        while written < len(line):
            written += file.write(line[written:]) or 0
        os.fsync(file)
    except BaseException:
        with suppress(OSError):
            file.truncate(end)
        raise

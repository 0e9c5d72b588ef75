"""What the machine has: cores, memory, and a BLAS that is told its number of threads."""

import ctypes
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from .. import threads

# By which names BLAS libraries are told their number of threads: NumPy's own OpenBLAS, others' OpenBLAS, MKL, BLIS.
SETTERS = (
    *("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads64_"),
    *("openblas_set_num_threads", "MKL_Set_Num_Threads", "bli_thread_set_num_threads"),
)
# The same, for libraries that only listen before they are loaded (Apple's Accelerate is one).
VARIABLES = (
    *(
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "BLIS_NUM_THREADS",
    ),
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # options of mallopt, in glibc's malloc.h


def physical_cores(root: Path = Path("/")) -> int:
    """The cores we may use: two threads of one core count once, and a control group may grant fewer (Docker's --cpus).

    Where the system does not say, every processor counts.
    """
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in mine:
        with suppress(OSError):
            cores.add((root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
    n_cores = len(cores) or len(mine)
    for group in _control_groups(root, "cpu"):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with suppress(
                OSError, ValueError
            ):  # "max 100000", or in version 1 -1, where the group has no limit
                quota, period = (
                    int(number) for name in names for number in (group / name).read_text().split()
                )
                n_cores = min(n_cores, max(1, quota // period)) if quota > 0 else n_cores
    return n_cores


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that are free for us, by the system and by the control groups we run in; None if nobody says.

    Pages of files that a group has read count as its memory, but are given back when asked for, so they count as free.
    """
    found = []
    with suppress(OSError, StopIteration, ValueError):  # Linux: "MemAvailable:   24022840 kB"
        found.append(1024 * _number_after("MemAvailable:", root / "proc/meminfo"))
    names = [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ]
    for group in _control_groups(root, "memory"):
        for limit, usage, cached in names:
            with suppress(OSError, StopIteration, ValueError):  # "max" where the group has no limit
                free = int((group / limit).read_text()) - int((group / usage).read_text())
                found.append(max(0, free + _number_after(cached, group / "memory.stat")))
    return min(found, default=None)


def _number_after(name, path):
    return int(next(line.split()[1] for line in path.read_text().splitlines() if line.split()[0] == name))


def _control_groups(root, controller):
    """The folders of the control groups we are in, innermost first; of version 2, and of version 1's controller."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):  # "cpu,cpuacct"
                top = root / "sys/fs/cgroup" / controllers
                folder = top / path.lstrip("/")
                yield from (folder, *(parent for parent in folder.parents if parent.is_relative_to(top)))


@cache
def _blas_setter() -> Callable[[int], object] | None:
    """The function that tells NumPy's BLAS its number of threads; None where nobody knows one."""
    core = sys.modules.get("numpy._core._multiarray_umath") or sys.modules.get("numpy.core._multiarray_umath")
    with suppress(
        OSError, AttributeError
    ):  # a look-up in NumPy's own module finds what that was linked with, too
        library = ctypes.CDLL(core.__file__)
        for name in SETTERS:
            if hasattr(library, name):
                return getattr(library, name)
    with suppress(
        ImportError
    ):  # the extra llmcore[threads]: knows more libraries, but takes 20 ms to look for them
        from threadpoolctl import ThreadpoolController

        libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        if libraries:
            return lambda n: [library.set_num_threads(n) for library in libraries]
    return None


def use_threads(n: int | None = None) -> bool:
    """Compute with n threads from now on; False, with a warning if n was asked for, if NumPy's BLAS cannot be told.

    By default as many as the environment asks for (VARIABLES), else one a core.
    """
    asked = [int(value) for name in VARIABLES if (value := os.environ.get(name, "")).isdecimal()]
    wanted = n or next(filter(None, asked), None) or physical_cores()
    if _blas_setter() is None:
        told = os.environ.get(VARIABLES[0]) == str(wanted)
        if n is not None and not told:
            warnings.warn(
                f"NumPy's BLAS here cannot be told to use {n} threads; set {VARIABLES[0]} before Python starts",
                stacklevel=3,
            )
        return told
    threads.use(wanted, _blas_setter())
    return True


def restart_with_threads(n: int) -> None:
    """Start this command anew with n threads for BLAS in its environment, where BLAS listens to nothing else.

    Returns where it can be told while it runs, or where it has been started anew already.
    """
    asked = dict.fromkeys(VARIABLES, str(n))
    if _blas_setter() is None and asked.items() - os.environ.items():
        os.execve(sys.executable, sys.orig_argv, os.environ | asked)


@cache
def keep_freed_memory() -> None:
    """Have the C library keep what it is given back in pieces of up to 64 MB, and 256 MB of it in all, for the next.

    Else glibc returns every large temporary to the kernel, which hands out zeroed pages anew for the next: with that a
    prompt of 512 tokens takes 690 ms in place of 600. Other C libraries are left alone.
    """
    with suppress(OSError, AttributeError, TypeError):  # musl has no mallopt, Windows no CDLL(None)
        set_option = ctypes.CDLL(None).mallopt
        for option, n_bytes in ((M_MMAP_THRESHOLD, 1 << 26), (M_TRIM_THRESHOLD, 1 << 28)):
            set_option(option, n_bytes)

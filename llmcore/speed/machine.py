"""What the machine has: cores, memory, and a BLAS that is told its number of threads."""

import ctypes
import os
import sys
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from .. import threads
from .team import Team

# What BLAS libraries are told their number of threads by: NumPy's OpenBLAS, others' OpenBLAS, MKL, BLIS.
SETTERS = (
    *("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads64_"),
    *("openblas_set_num_threads", "MKL_Set_Num_Threads", "bli_thread_set_num_threads"),
)
# What NumPy's OpenBLAS, or another, tells the kernels that it chose by.
CORE_NAMES = (
    *("scipy_openblas_get_corename64_", "scipy_openblas_get_corename"),
    *("openblas_get_corename64_", "openblas_get_corename"),
)
# As SETTERS, for libraries that only listen before they are loaded (Apple's Accelerate is one).
VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS"),
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # options of mallopt, in glibc's malloc.h
HOST_VM_INFO64 = 4  # in macOS's mach/host_info.h


def physical_cores(root: Path = Path("/")) -> int:
    """The cores we may use: two threads of one core count once.

    A control group may grant fewer (Docker's --cpus). Where the system does not say, every processor counts.
    """
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in mine:
        with suppress(OSError):
            cores.add((root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
    n_cores = len(cores) or len(mine)
    for group in _control_groups(root, "cpu"):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with suppress(OSError, ValueError):  # "max 100000", or -1 in version 1: no limit
                text = " ".join((group / name).read_text() for name in names)
                quota, period = map(int, text.split())
                n_cores = min(n_cores, max(1, quota // period)) if quota > 0 else n_cores
    return n_cores


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that are free for us, by the system and by the control groups we run in; None if nobody says.

    Pages of files that a group has read count as its memory, but go back when asked for: they are free.
    """
    found = []
    with suppress(OSError, StopIteration, ValueError, AttributeError):
        if sys.platform == "win32":
            found.append(_free_on_windows())
        elif sys.platform == "darwin":
            found.append(_free_on_macos())
        else:  # Linux: "MemAvailable:   24022840 kB"
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


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows, sysinfoapi.h."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("length", "load")),
        *((name, ctypes.c_uint64) for name in ("total", "free", "limit", "to_commit", "_", "__", "___")),
    ]


def _free_on_windows():
    """What can be used again without writing to the disk, and no more than this process may commit."""
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("GlobalMemoryStatusEx")
    return min(status.free, status.to_commit)


def _free_on_macos():
    """Pages that are free, and those not used of late, which make room when they are needed."""
    system = ctypes.CDLL(None)
    counts = (ctypes.c_uint32 * 64)()  # vm_statistics64 begins with the pages that are free, active, inactive
    size = ctypes.c_uint32(len(counts))
    if system.host_statistics64(system.mach_host_self(), HOST_VM_INFO64, counts, ctypes.byref(size)) != 0:
        raise OSError("host_statistics64")
    return (counts[0] + counts[2]) * os.sysconf("SC_PAGE_SIZE")


def _number_after(name, path):
    return int(next(line.split()[1] for line in path.read_text().splitlines() if line.split()[0] == name))


def _control_groups(root, controller):
    """The folders of our control groups, innermost first; of version 2, and of version 1's controller."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):  # "cpu,cpuacct"
                top = root / "sys/fs/cgroup" / controllers
                folder = top / path.lstrip("/")
                yield from (folder, *(parent for parent in folder.parents if parent.is_relative_to(top)))


def _of_blas(names):
    """The first of these functions that NumPy's BLAS has, or None."""
    modules = ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath")
    core: Any = next((sys.modules[name] for name in modules if name in sys.modules), None)
    with suppress(OSError, AttributeError):  # a look-up in NumPy's module finds what that was linked with
        library = ctypes.CDLL(core.__file__)
        return next((getattr(library, name) for name in names if hasattr(library, name)), None)
    return None


@cache
def blas_core() -> str | None:
    """The processor that NumPy's BLAS chose its kernels for, "SkylakeX" or "Haswell"; None if unknown."""
    function = _of_blas(CORE_NAMES)
    if function is None:
        return None
    function.restype = ctypes.c_char_p
    return (function() or b"").decode("ascii", "replace")


@cache
def _blas_setter() -> Callable[[int], object] | None:
    """The function that tells NumPy's BLAS its number of threads; None where nobody knows one."""
    if function := _of_blas(SETTERS):
        return function
    with suppress(ImportError):  # the extra llmcore[threads] knows more libraries; it looks for 20 ms
        from threadpoolctl import ThreadpoolController

        libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        if libraries:
            return lambda n: [library.set_num_threads(n) for library in libraries]
    return None


def use_threads(n: int | None = None) -> bool:
    """Compute with n threads from now on.

    Returns False, and warns if n was asked for, where NumPy's BLAS cannot be told. By default they are as
    many as the environment asks for (VARIABLES), else one a core.
    """
    asked = [int(value) for name in VARIABLES if (value := os.environ.get(name, "")).isdecimal()]
    wanted = n or next(filter(None, asked), None) or physical_cores()
    setter = _blas_setter()
    if setter is None:
        told = os.environ.get(VARIABLES[0]) == str(wanted)
        if n is not None and not told:
            what = f"NumPy's BLAS here cannot be told to use {n} threads"
            warnings.warn(f"{what}; set {VARIABLES[0]} before Python starts", stacklevel=3)
        return told
    setter(wanted)
    if wanted != threads.n_threads():
        threads.use(wanted, Team(wanted, setter).share)
    return True


def restart_with_threads(n: int) -> None:
    """Start this command anew with n threads for BLAS in its environment, where BLAS listens to nothing else.

    Returns where it can be told while it runs, or where it has been started anew already.
    """
    asked = dict.fromkeys(VARIABLES, str(n))
    if _blas_setter() is None and asked.items() - os.environ.items():
        os.execve(sys.executable, sys.orig_argv, os.environ | asked)


def allocate_apart() -> None:
    """Large arrays (128 KB) made from now on go back to the system as soon as they are gone: the weights."""
    _call_libc("mallopt", M_MMAP_THRESHOLD, 1 << 17)


def keep_freed_memory(owner: object = None) -> None:
    """Have the C library keep what it is given back in pieces of up to 64 MB, and 256 MB of it in all.

    Once `owner` is gone, all that is kept goes back to the system. Without this glibc returns every large
    temporary to the kernel, which hands out zeroed pages anew for the next: with that a prompt of 512 tokens
    takes 690 ms in place of 600. Other C libraries are left alone.
    """
    for option, n_bytes in ((M_MMAP_THRESHOLD, 1 << 26), (M_TRIM_THRESHOLD, 1 << 28)):
        _call_libc("mallopt", option, n_bytes)
    if owner is not None:
        weakref.finalize(owner, _call_libc, "malloc_trim", 0).atexit = False


def _call_libc(name, *arguments):
    with suppress(OSError, AttributeError, TypeError):  # musl has neither function, Windows no CDLL(None)
        getattr(ctypes.CDLL(None), name)(*arguments)

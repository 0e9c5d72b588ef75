"""What a machine has, read from trees of files that say so; and work spread over threads."""

import ctypes
import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import llmcore
from llmcore.speed import machine
from llmcore.speed.machine import available_memory, physical_cores, use_threads
from llmcore.threads import each, evenly, for_threads, n_threads


@pytest.fixture
def tree(tmp_path):
    """Write files below a root, tree({path: text}); returns the root."""

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


@pytest.fixture
def four_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = n_threads()
    yield
    machine._blas_setter.cache_clear()
    use_threads(before)


def siblings(*lists):
    """Which processors share a core with processor 0, 1, ..."""
    path = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return {path.format(cpu): text + "\n" for cpu, text in enumerate(lists)}


# Cores


@pytest.mark.parametrize(
    ("lists", "n"),
    [
        (("0-1", "0-1", "2-3", "2-3"), 2),
        (("0,2", "1,3", "0,2", "1,3"), 2),
        (("0", "1", "2", "3"), 4),
        (("0-3",) * 4, 1),
        (("0-1", "0-1", "2-3", "2-3", "4-5", "4-5"), 2),  # processors 4 and 5 are not ours
        ((), 4),
    ],
)
def test_two_threads_of_a_core_count_once(tree, four_processors, lists, n):
    assert physical_cores(tree(siblings(*lists))) == n


def test_without_affinity_every_processor_counts(tree, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert physical_cores(tree({})) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert physical_cores(tree({})) == 1


@pytest.mark.parametrize(
    ("inner", "outer", "n"),
    [
        ("max 100000", "max 100000", 4),
        ("200000 100000", "max 100000", 2),
        ("300000 100000", "150000 100000", 1),  # the group around it is tighter
        ("50000 100000", "max 100000", 1),  # half a core: no less than one thread
        ("800000 100000", "max 100000", 4),
    ],
)
def test_a_control_group_grants_fewer_cores(tree, four_processors, inner, outer, n):
    groups = {
        "proc/self/cgroup": "0::/box/inner\n",
        "sys/fs/cgroup/box/inner/cpu.max": inner + "\n",
        "sys/fs/cgroup/box/cpu.max": outer + "\n",
    }
    assert physical_cores(tree(siblings("0", "1", "2", "3") | groups)) == n


@pytest.mark.parametrize(("quota", "n"), [("-1", 4), ("250000", 2), ("1000", 1)])
@pytest.mark.parametrize("mounted", ["cpu", "cpu,cpuacct"])
def test_a_control_group_of_version_1_grants_fewer_cores(tree, four_processors, quota, n, mounted):
    groups = {
        "proc/self/cgroup": f"5:memory:/docker/1\n3:{mounted}:/docker/1\n",
        f"sys/fs/cgroup/{mounted}/docker/1/cpu.cfs_quota_us": quota + "\n",
        f"sys/fs/cgroup/{mounted}/docker/1/cpu.cfs_period_us": "100000\n",
    }
    assert physical_cores(tree(siblings("0", "1", "2", "3") | groups)) == n


def test_cores_of_this_machine():
    assert 1 <= physical_cores() <= os.cpu_count()


# Memory

MEMINFO = {
    "proc/meminfo": "MemTotal:       24000000 kB\nMemFree:         1000 kB\nMemAvailable:    8000 kB\n"
}


def group2(path, limit, current, inactive_file):
    """The files of a control group of version 2."""
    folder = f"sys/fs/cgroup/{path}".rstrip("/")
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{current}\n",
        f"{folder}/memory.stat": f"anon 5\nfile 7\nactive_file 9\ninactive_file {inactive_file}\n",
    }


def test_memory_where_nobody_says(tree):
    assert available_memory(tree({})) is None


def test_memory_of_the_system(tree):
    assert available_memory(tree(MEMINFO)) == 8000 * 1024


@pytest.mark.parametrize(
    ("inner", "outer", "free"),
    [
        (("max", 10, 0), ("max", 10, 0), 8000 * 1024),
        ((5_000_000, 3_000_000, 0), ("max", 0, 0), 2_000_000),
        ((5_000_000, 3_000_000, 500_000), ("max", 0, 0), 2_500_000),  # what files fill is given back
        ((5_000_000, 3_000_000, 0), (4_000_000, 3_500_000, 0), 500_000),  # the tightest wins ...
        ((5_000_000, 4_900_000, 0), (9_000_000, 5_000_000, 0), 100_000),  # ... wherever it is
        ((5_000_000, 6_000_000, 0), ("max", 0, 0), 0),  # a limit that was lowered afterwards
        ((90_000_000, 0, 0), ("max", 0, 0), 8000 * 1024),
    ],
)
def test_memory_of_nested_control_groups(tree, inner, outer, free):
    groups = group2("a/b", *inner) | group2("a", *outer) | {"proc/self/cgroup": "0::/a/b\n"}
    assert available_memory(tree(MEMINFO | groups)) == free


def test_memory_of_a_control_group_where_the_system_does_not_say(tree):
    assert (
        available_memory(tree(group2("a", 90_000_000, 10_000_000, 0) | {"proc/self/cgroup": "0::/a\n"}))
        == 80_000_000
    )


def test_memory_of_a_control_group_that_is_seen_as_the_root(tree):
    """A container sees its own group at the root, under whatever name the host has for it."""
    files = MEMINFO | group2("", 3_000_000, 1_000_000, 0) | {"proc/self/cgroup": "0::/docker/abc\n"}
    assert available_memory(tree(files)) == 2_000_000


def test_memory_of_a_control_group_of_version_1(tree):
    folder = "sys/fs/cgroup/memory/docker/1"
    files = {
        "proc/self/cgroup": "9:name=systemd:/x\n4:memory:/docker/1\n1:cpu:/\n0::/\n",
        f"{folder}/memory.limit_in_bytes": "5000000\n",
        f"{folder}/memory.usage_in_bytes": "4000000\n",
        f"{folder}/memory.stat": "inactive_file 1\ntotal_inactive_file 700000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "4000000\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
    }
    assert available_memory(tree(MEMINFO | files)) == 1_700_000


@pytest.mark.parametrize(("free", "to_commit"), [(3 << 30, 9 << 30), (9 << 30, 3 << 30), (5 << 40, 3 << 30)])
def test_memory_on_windows(monkeypatch, free, to_commit):
    """A stand-in for GlobalMemoryStatusEx, which fills MEMORYSTATUSEX by its documented offsets."""

    def status_of_memory(reference):
        (length,) = struct.unpack_from("<I", memoryview(reference._obj).cast("B"), 0)
        assert length == 64  # the caller must set it
        numbers = (50, 16 << 40, free, 32 << 40, to_commit, 1 << 47, 1 << 46, 0)
        struct.pack_into("<I7Q", memoryview(reference._obj).cast("B"), 4, *numbers)
        return 1

    kernel32 = SimpleNamespace(GlobalMemoryStatusEx=status_of_memory)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel32), raising=False)
    assert available_memory() == 3 << 30
    kernel32.GlobalMemoryStatusEx = lambda reference: 0
    assert available_memory(Path("/nowhere")) is None


def test_memory_on_macos(monkeypatch):
    """A stand-in for host_statistics64, which fills vm_statistics64 as its header lays it out."""

    def host_statistics(port, flavor, counts, size):
        assert (port, flavor) == (77, 4)  # mach_host_self(), HOST_VM_INFO64
        assert size._obj.value >= 38  # integers of vm_statistics64
        counts[0], counts[1], counts[2], counts[3] = 100_000, 500_000, 3_000_000_000, 200_000
        return 0

    system = SimpleNamespace(mach_host_self=lambda: 77, host_statistics64=host_statistics)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: system)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 16384}.__getitem__)
    assert available_memory() == (100_000 + 3_000_000_000) * 16384
    system.host_statistics64 = lambda *_: 5
    assert available_memory(Path("/nowhere")) is None


@pytest.mark.parametrize("system", ["win32", "darwin", "freebsd14"])
def test_a_system_that_does_not_answer_says_nothing(monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert available_memory(Path("/nowhere")) is None


# Threads


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("n_items", [0, 1, 2, 500])
def test_each_item_is_done_once(threads, n_items):
    use_threads(threads)
    assert n_threads() == threads
    done = []
    each(done.append, range(n_items))
    assert sorted(done) == list(range(n_items))


@pytest.mark.parametrize("threads", [2, 3])
def test_each_works_in_several_threads_at_once(threads):
    use_threads(threads)
    together = threading.Barrier(threads, timeout=60)  # breaks, and so fails, if they come one after another
    each(lambda _: together.wait(), range(threads))


@pytest.mark.parametrize("in_main", [True, False])
def test_an_exception_is_passed_on_after_all_have_stopped(in_main):
    use_threads(2)
    together, finished = threading.Barrier(2, timeout=60), []

    def work(_):
        together.wait()
        if (threading.current_thread() is threading.main_thread()) == in_main:
            raise ArithmeticError("one of them")
        time.sleep(0.1)
        finished.append(1)

    with pytest.raises(ArithmeticError, match="one of them"):
        each(work, range(2))
    assert finished == [1]
    done = []
    each(done.append, range(100))  # and the threads are free again
    assert len(done) == 100


@pytest.mark.parametrize("in_main", [True, False])
def test_after_an_exception_nobody_takes_up_the_rest(in_main):
    use_threads(2)
    done = []

    def work(i):
        if (threading.current_thread() is threading.main_thread()) == in_main:
            raise KeyboardInterrupt
        time.sleep(0.01)
        done.append(i)

    with pytest.raises(KeyboardInterrupt):
        each(work, range(1000))
    assert len(done) < 999


@pytest.mark.parametrize("n_started", [0, 1])
def test_where_no_thread_can_be_started_fewer_do_the_work(n_started, monkeypatch):
    use_threads(5)
    starts, done, start = [], [], threading.Thread.start

    def start_some(thread):
        starts.append(thread)
        if len(starts) > n_started:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    each(done.append, range(1000))
    assert sorted(done) == list(range(1000))
    assert len(starts) == n_started + 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of this kind are of Unix")
def test_ctrl_c_at_any_moment_leaves_threads_that_work(monkeypatch):
    """Whenever it comes, all have stopped when it is passed on, and the next work is done.

    One that comes in a callback of a weak reference is dropped by Python, which says so to unraisablehook.
    """
    use_threads(3)
    interrupted, running, dropped = 0, set(), []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)

    def work(i):
        running.add(i)
        time.sleep(0.0002)
        running.discard(i)

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for n in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + n))
                each(work, range(12))
                for _ in range(100_000):  # the signal may come to another thread, which wakes nobody
                    time.sleep(0.001)
                    if interrupted + len(dropped) > n:
                        break
            except KeyboardInterrupt:
                interrupted += 1
            assert len(running) <= 1, "only the interrupted thread may have left its work undone"
            running.clear()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(isinstance(one.exc_value, KeyboardInterrupt) for one in dropped)
    assert interrupted + len(dropped) == 300
    done = []
    each(done.append, range(100))
    assert sorted(done) == list(range(100))


def test_threads_that_are_needed_no_more_end():
    before = set(threading.enumerate())
    use_threads(4)
    each(lambda _: time.sleep(0.001), range(40))
    with pytest.raises(ZeroDivisionError):
        each(lambda _: 1 / 0, range(40))
    mine = set(threading.enumerate()) - before
    assert len(mine) == 3
    use_threads(2)
    end = time.monotonic() + 60
    while any(thread.is_alive() for thread in mine) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(thread.is_alive() for thread in mine)


@pytest.mark.parametrize("threads", [1, 2])
def test_each_inside_each(threads):
    use_threads(threads)
    done = []

    def both():
        each(lambda i: each(lambda j: done.append((i, j)), range(5)), range(20))

    caller = threading.Thread(target=both, daemon=True)  # if they waited for each other, this test would not
    caller.start()
    caller.join(60)
    assert sorted(done) == [(i, j) for i in range(20) for j in range(5)]


def test_each_from_several_threads_at_once():
    use_threads(2)
    done = []
    callers = [threading.Thread(target=each, args=(done.append, range(i, 1000, 4))) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert sorted(done) == list(range(1000))


def blas_threads():
    """How many threads NumPy's BLAS would use now, as threadpoolctl finds it."""
    threadpoolctl = pytest.importorskip(
        "threadpoolctl", reason="only threadpoolctl can ask BLAS for its threads"
    )
    return {
        library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"
    }


@pytest.mark.parametrize("own", [True, False], ids=["by its own function", "by threadpoolctl"])
def test_blas_has_the_threads_and_gets_them_back(own, monkeypatch):
    blas_threads()  # skips if nobody can tell
    if not own:
        monkeypatch.setattr(machine, "SETTERS", ())
    machine._blas_setter.cache_clear()
    for n in (2, 1, 3):
        assert use_threads(n)
        assert blas_threads() == {n}
    inside = []
    each(lambda _: inside.append(blas_threads()), range(4))
    assert inside == [{1}] * 4
    assert blas_threads() == {3}
    with pytest.raises(ZeroDivisionError):
        each(lambda _: 1 / 0, range(4))
    assert blas_threads() == {3}


def test_the_environment_may_ask_for_another_number_of_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    use_threads()
    assert n_threads() == 3
    use_threads(1)
    assert n_threads() == 1
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "many")
    use_threads()
    assert n_threads() == physical_cores()


def test_by_default_a_thread_for_each_core(monkeypatch):
    for name in machine.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    use_threads()
    assert n_threads() == physical_cores()


def test_a_blas_that_cannot_be_told(llama_path, monkeypatch):
    use_threads(2)
    monkeypatch.setattr(machine, "_blas_setter", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert not use_threads(3)
    assert n_threads() == 2
    with pytest.warns(UserWarning, match="cannot be told to use 3 threads; set OMP_NUM_THREADS"):
        llmcore.load(llama_path, threads=3)


def test_a_command_starts_anew_once_where_blas_listens_to_nothing_else(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    machine.restart_with_threads(3)
    assert not started  # the BLAS here can be told
    monkeypatch.setattr(machine, "_blas_setter", lambda: None)
    for name in machine.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    machine.restart_with_threads(3)
    ((program, arguments, variables),) = started
    assert (program, arguments) == (sys.executable, sys.orig_argv)
    assert variables == dict(os.environ) | dict.fromkeys(machine.VARIABLES, "3")
    for name in machine.VARIABLES:  # in the new process
        monkeypatch.setenv(name, "3")
    machine.restart_with_threads(3)
    assert len(started) == 1
    assert use_threads(3)


@pytest.mark.parametrize(("n_rows", "n_parts"), [(1, 1), (10, 1), (10, 4), (3, 50), (1, 7), (1000, 7)])
def test_rows_cut_evenly(n_rows, n_parts):
    sizes = []
    for part in evenly(n_rows, n_parts):
        assert part.start == sum(sizes)
        sizes.append(part.stop - part.start)
    assert sum(sizes) == n_rows
    assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1
    assert len(sizes) == min(n_rows, n_parts)


@pytest.mark.parametrize(
    ("threads", "parts"), [(1, [1, 2, 3, 7]), (2, [1, 2, 4, 8]), (3, [1, 3, 3, 9]), (5, [1, 5, 5, 10])]
)
def test_equally_many_parts_for_each_thread(threads, parts):
    use_threads(threads)
    assert [for_threads(n) for n in (1, 2, 3, 7)] == parts

"""A model in a process that forks, and what a process keeps of a model that is gone."""

import multiprocessing
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from blocks import computing_with
from conftest import make

import llmcore
from llmcore.linear import TILE
from llmcore.speed.holding import WAYS
from llmcore.threads import each

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning"),
    pytest.mark.skipif(sys.platform != "linux", reason="fork and /proc are of Linux"),
]
LONG = list(range(3, 203))  # its products are spread over the threads
GREEDY = {"max_tokens": 5, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module", params=WAYS)
def llm(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("forks") / "m.gguf"
    make("llama", path, type="Q8_0", layers=2, width=64, heads=4, kv_heads=2, ff=96, vocab=300)
    with computing_with(2):
        yield llmcore.load(path, weights=request.param, threads=2)


def write(llm):
    return "".join(llm.generate(LONG, **GREEDY)), list(llm.generate_batch([LONG, LONG[:70], [5]], **GREEDY))


def in_a_fork(work, *arguments):
    """work(*arguments) in a child of this process; fails if it takes more than a minute."""
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)

    def answer():
        signal.alarm(60)  # ends a child that hangs, and its children
        writing.send(work(*arguments))

    child = context.Process(target=answer)
    child.start()
    try:
        assert reading.poll(70), "the child hangs"
        return reading.recv()
    finally:
        child.kill()
        child.join()


def test_a_fork_writes_what_its_parent_writes(llm):
    text = write(llm)  # the parent's threads have started
    assert in_a_fork(write, llm) == text
    assert write(llm) == text


def test_a_fork_of_a_fork(llm):
    text = write(llm)
    assert in_a_fork(in_a_fork, write, llm) == text


def test_a_fork_while_threads_are_at_work(llm):
    """The child has a copy of their lock, which nobody in it lets go."""
    text, begun, forked = write(llm), threading.Event(), threading.Event()

    def work(_):
        begun.set()
        forked.wait(60)

    worker = threading.Thread(target=each, args=(work, range(2)))
    worker.start()
    begun.wait(60)
    try:
        assert in_a_fork(write, llm) == text
    finally:
        forked.set()
        worker.join()


# What a process takes in memory of its own, in MB: with a model after a text, and when it is gone.
USE = """
import gc, sys, llmcore

def anonymous():
    lines = open("/proc/self/status")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

for path in sys.argv[2:]:
    llm = llmcore.load(path, weights=sys.argv[1], threads=2)
    "".join(llm.generate([1] * 300, max_tokens=2, temperature=0))
    print(anonymous())
    del llm
    gc.collect()
    print(anonymous())
"""


@pytest.mark.parametrize("way", WAYS)
def test_memory_goes_back_with_the_model(way, tmp_path):
    """As `keep_freed_memory` promises; each of the two threads keeps its scratch, a tile in float32."""
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    make("llama", small, type="Q8_0")
    make("llama", large, type="Q8_0", layers=6, width=512, heads=8, kv_heads=2, ff=2048, vocab=8000)
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", USE, way, *map(str, (small, large, large))]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    _, before, used, left, used_again, left_again = map(float, done.stdout.split())
    scratch = 0 if way == "float32" else 2 * 4 * TILE / 2**20
    others = (
        10  # MB: BLAS packs matrices in buffers of its own, Python's small objects leave pages half empty
    )
    assert left <= before + scratch + others
    assert left_again <= left + 2
    assert min(used, used_again) >= left + others  # so there was something to give back

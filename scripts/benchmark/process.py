"""Engines in processes of their own: started, asked, watched as to their memory, and told apart when they
fail.
"""

import json
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from benchmark.engines import ENGINES

# What a worker runs: engines.py, in an interpreter that knows neither our package's path nor the working
# folder.
WORKER = "import sys; sys.path[0] = sys.argv.pop(1); from benchmark.engines import main; main()"
SCRIPTS = Path(__file__).resolve().parents[1]


class EngineFailed(RuntimeError):
    """An engine cannot do what was asked of it; the message is one line."""


def missing(engine: str, python: str) -> str | None:
    """Why an interpreter cannot run an engine, or None if it can."""
    kind = ENGINES[engine]
    advice = f"give the interpreter that has {kind.package}: --peers {engine}=PYTHON"
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({kind.needs!r}) is None)"
    try:
        found = (
            subprocess.run([python, "-c", code], capture_output=True, stdin=subprocess.DEVNULL).returncode
            == 0
        )
    except OSError as error:
        return f"{python}: {error.strerror}; {advice}"
    if found:
        return None
    return f"{python} has no {kind.package}; install it, or {advice}"


def start_seconds(engine: str, python: str, model: str, options: dict) -> float:
    """From process start to the first byte of text."""
    command = [python, *ENGINES[engine].start(model, options)]
    with tempfile.TemporaryFile() as errors:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": errors}
        begin = time.perf_counter()
        with subprocess.Popen(command, **pipes) as process:
            wrote = process.stdout.read(1)
            seconds = time.perf_counter() - begin
            process.stdout.read()
        if not wrote:
            raise EngineFailed(f"it wrote no text and ended with status {process.returncode}: {tail(errors)}")
    return seconds


def tail(errors, n=3) -> str:
    """The last lines of a file of standard error, as one."""
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return " | ".join(line.strip() for line in lines[-n:]) or "nothing on standard error"


class Worker:
    """An engine in a process of its own, which does one thing at a time and sleeps in between."""

    def __init__(self, engine: str, python: str, model: str, options: dict):
        command = [python, "-c", WORKER, str(SCRIPTS), engine, model, json.dumps(options)]
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(command, encoding="utf-8", **pipes)
        self.memory = Memory(self.process.pid)
        try:
            reply = self._answer()
        except EngineFailed:
            self.close()
            raise
        self.load_seconds, self.version = reply["seconds"], reply["version"]
        self.memory.loaded = self.memory.status().get("VmRSS", 0)

    def ask(self, method: str, **arguments):
        """What the engine's method returns."""
        return self._ask(method, arguments)["result"]

    def seconds(self, method: str, **arguments) -> float:
        """The seconds that the engine's method takes."""
        return self._ask(method, arguments)["seconds"]

    def _ask(self, method, arguments):
        with suppress(OSError):  # it is dead: _answer says so
            self.process.stdin.write(json.dumps([method, arguments]) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        with self.memory.watched():
            line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            end = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise EngineFailed(f"its process {end}: {tail(self.errors)}")
        reply = json.loads(line)
        if "error" in reply:
            raise EngineFailed(" ".join(reply["error"].split()))
        self.memory.note(reply.get("peak_bytes", 0))
        return reply

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        with suppress(OSError):  # what was not written yet
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


class Memory:
    """The memory of a process, in bytes: the kernel's own peak, and what of it is anonymous and what mapped
    files.

    The kernel keeps no peak of the parts, so they are looked at every 20 ms while the process works.
    """

    def __init__(self, pid: int):
        self.folder = Path(f"/proc/{pid}")
        self.loaded = self.peak = self.anonymous = self.file = self.since_reset = 0

    def status(self) -> dict[str, int]:
        """Sizes from /proc; empty where there is none."""
        with suppress(OSError, ValueError):
            rows = (line.split() for line in (self.folder / "status").read_text().splitlines())
            return {row[0][:-1]: int(row[1]) * 1024 for row in rows if row[-1] == "kB"}
        return {}

    def look(self) -> None:
        """Keep the largest values seen."""
        now = self.status()
        self.note(now.get("VmHWM", 0))
        self.anonymous = max(self.anonymous, now.get("RssAnon", 0))
        self.file = max(self.file, now.get("RssFile", 0))

    def note(self, peak: int) -> None:
        """A peak that somebody tells."""
        self.peak, self.since_reset = max(self.peak, peak), max(self.since_reset, peak)

    def reset(self) -> None:
        """Begin a new `since_reset`, where the kernel can (proc(5), clear_refs); where not, it stays an upper
        bound.
        """
        with suppress(OSError):
            (self.folder / "clear_refs").write_text("5")
            self.since_reset = 0

    def summary(self) -> dict[str, int]:
        """What there is to tell, in bytes."""
        return {
            "loaded_bytes": self.loaded,
            "peak_bytes": self.peak,
            "peak_anonymous_bytes": self.anonymous,
            "peak_file_bytes": self.file,
        }

    def watched(self):
        """A context in which a thread looks at it, and once more at the end."""
        return _Watch(self)


class _Watch:
    """The thread of `Memory.watched`."""

    def __init__(self, memory):
        self.memory, self.done = memory, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.done.wait(0.02):
            self.memory.look()

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.memory.look()

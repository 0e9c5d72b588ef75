"""A process that is kept to render templates: who renders one each time a message comes starts it once.

A template still has a process of its own, with the limits of `chat.template`: a fork of the one kept, in
which Python and Jinja are imported already. That takes 5 ms in place of 130.
"""

import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..chat import template

CODE = "import sys; sys.path[:] = sys.argv[1:]; from llmcore.serve.rendering import keep; keep()"
SIZE = struct.Struct("<Q")  # before each request and each answer: its length in bytes


class Renderer:
    """The process that is kept, and who may speak to it."""

    def __init__(self):
        """It is started by the first request, and again should it end."""
        self._lock, self._process = threading.Lock(), None

    def ask(self, request: str) -> dict:
        """What `chat.template` answers to a request, from any thread."""
        with self._lock:
            for _ in range(2):
                try:
                    return json.loads(self._answer(request.encode()))
                except (OSError, ValueError, struct.error):
                    self.close()
        return {"broken": "cannot be rendered: the process for it ended"}

    def _answer(self, data):
        if self._process is None:
            path = [*filter(None, sys.path), str(Path(__file__).parents[2])]
            command = [sys.executable, "-I", "-S", "-c", CODE, *path]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = subprocess.Popen(command, **pipes, start_new_session=True)
        self._process.stdin.write(SIZE.pack(len(data)) + data)
        self._process.stdin.flush()
        return read(self._process.stdout)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


@contextmanager
def kept_renderer() -> Iterator[None]:
    """Templates are rendered in children of one process meanwhile, where the system has `fork`."""
    renderer, before = Renderer(), template.ask
    if hasattr(os, "fork"):
        template.ask = renderer.ask
    try:
        yield
    finally:
        template.ask = before
        renderer.close()


def read(stream) -> bytes:
    """The next request or answer. Raises struct.error where the stream has ended."""
    return stream.read(SIZE.unpack(stream.read(SIZE.size))[0])


def keep() -> None:
    """What the process does until its standard input ends: a child for each request."""
    import jinja2.ext
    import jinja2.sandbox  # noqa: F401  (so that no child has to)

    while True:
        try:
            request = read(sys.stdin.buffer)
        except struct.error:
            return
        answer = in_child(request)
        sys.stdout.buffer.write(SIZE.pack(len(answer)) + answer)
        sys.stdout.buffer.flush()


def in_child(request: bytes) -> bytes:
    """The answer of a child to a request; one that says nothing has broken its limits."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ours)
            for number in (0, 1):  # a template that breaks out must not speak in the name of others
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            with open(theirs, "wb") as out:
                out.write(template.respond(request))
        finally:
            os._exit(0)
    os.close(theirs)
    answer = b""
    while select.select([ours], [], [], template.WAIT)[0] and (data := os.read(ours, 1 << 20)):
        answer += data
    os.close(ours)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        json.loads(answer)
    except ValueError:
        return json.dumps(template.TOO_MUCH).encode()
    return answer

"""Listen until told to stop, then finish what runs: uvicorn's server, with our Ctrl-C and SIGTERM."""

import os
import signal
import socket
import threading
from contextlib import contextmanager
from types import FrameType

import uvicorn

from ..cli.command import Say
from .engine import Engine


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError in one line."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address, family=family, backlog=1024)
    except OSError as error:
        n = error.errno or 0
        why = os.strerror(n) if n > 0 else error.strerror or error  # others are not the system's
        raise OSError(f"cannot listen on {host}, port {port}: {why}") from None
    return listener


class Server(uvicorn.Server):
    """uvicorn's, but that it says what it does when it is told to stop."""

    def __init__(self, config: uvicorn.Config, engine: Engine, say: Say):
        """`engine` is drained before the server ends."""
        super().__init__(config)
        self.engine, self.say = engine, say
        self.told: list[int] = []  # the signals that came

    @contextmanager
    def capture_signals(self):
        """Handle Ctrl-C and SIGTERM; afterwards they do what they did before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self.handle_exit) for number in signals]
        try:
            yield
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish what runs; told again, end at once."""
        self.told.append(sig)
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets=None) -> None:
        """Take no more requests, and wait for those that run."""
        self.engine.drain()
        if (n := len(self.engine.running)) and not self.force_exit:
            self.say(f"stopping when what runs is finished ({n}) | Ctrl-C again ends at once")
        await super().shutdown(sockets)


def listen_until_told(app, listener: socket.socket, engine: Engine, say: Say) -> int:
    """Serve until SIGTERM or Ctrl-C, then finish what runs; returns the exit status."""
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=1 << 16,
    )
    server = Server(config, engine, say)
    server.run(sockets=[listener])
    return 130 if server.told[:1] == [signal.SIGINT] else 0

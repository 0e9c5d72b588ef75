"""A server in this process, for tests that look at its engine or its memory."""

import socket
import threading
from contextlib import contextmanager

import uvicorn

from llmcore.serve.app import Served, make_app
from llmcore.serve.engine import Engine


@contextmanager
def served(llm, **terms):
    """(engine, port) of a server of the model, called tiny."""
    engine, listener = Engine(llm), socket.create_server(("127.0.0.1", 0))
    app = make_app(Served(llm, ["tiny"], engine, **terms))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    engine.start()
    thread.start()
    try:
        yield engine, listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        engine.stop()

"""The command `python -m llmcore serve --model M`: load, listen, and finish what runs when told to stop."""

import argparse
import os
import signal
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ..chat import template
from ..cli.command import Say, command_line, find_model, open_model
from ..cli.options import SAMPLING, Parser, count
from ..speed.holding import WEIGHTS

KEY = "LLMCORE_API_KEY"


def serve_parser() -> argparse.ArgumentParser:
    """What `serve` can be told."""
    parser = Parser(
        "python -m llmcore serve",
        description="Serve a model by OpenAI's protocol, with a page to talk to it.",
    )
    names = "a GGUF file, smollm2 or gemma3, or hf:ORG/REPO[/FILE.gguf]; else the one model in models/"
    parser.add_argument("--model", metavar="M", help=names)
    parser.add_argument("--host", metavar="H", default="127.0.0.1", help="where to listen (%(default)s)")
    parser.add_argument("--port", metavar="N", type=count(0), default=8080, help="... (%(default)s; 0: any)")
    parser.add_argument("--api-key", metavar="K", help=f"ask clients for this key; else that in {KEY}")
    parser.add_argument(
        "--cors",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="pages of ORIGIN may ask; may be repeated",
    )
    parser.add_argument(
        "--parallel", metavar="N", type=count(1), default=8, help="texts written together (%(default)s)"
    )
    parser.add_argument(
        "--queue", metavar="N", type=count(0), default=64, help="requests that may wait (%(default)s)"
    )
    parser.add_argument(
        "--alias", metavar="NAME", action="append", default=[], help="a name for the model; may be repeated"
    )
    what = "how hidden states become an embedding (%(default)s)"
    parser.add_argument("--pooling", choices=("mean", "last"), default="mean", help=what)
    parser.add_argument(
        "--context", metavar="N", type=count(1), help="tokens of prompt and text; else as trained on"
    )
    parser.add_argument("--weights", choices=WEIGHTS, default="auto", help="how they are held (%(default)s)")
    parser.add_argument("--threads", metavar="N", type=count(1), help="compute with N; else one a core")
    for flag, name, metavar, kind, text in SAMPLING:
        parser.add_argument(flag, dest=name, metavar=metavar, type=kind, help=text)
    parser.add_argument("--quiet", action="store_true", help="write nothing but errors to standard error")
    # What other commands have, and each request brings
    parser.set_defaults(stop=[], escape=False, logit_bias=None, dry_sequence_breakers=None)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line(serve_parser(), run, argv, check)


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for a host that others can reach without a key, ImportError without the extra."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise ImportError('serve needs starlette and uvicorn; pip install "llmcore[serve]"') from None
    from .guard import is_loopback

    args.api_key = args.api_key or os.environ.get(KEY) or None
    if not is_loopback(args.host) and not args.api_key:
        raise ValueError(f"others can reach --host {args.host}: give a secret with --api-key, or in {KEY}")
    if args.port > 65535:
        raise ValueError(f"--port is {args.port}; it must be at most 65535")


def run(args: argparse.Namespace, given: dict, say: Say) -> int:
    """Load, listen, serve."""
    from .app import Served, make_app
    from .engine import Engine
    from .guard import is_loopback
    from .rendering import Renderer

    listener = listen(args.host, args.port)  # before the model is loaded: a port in use is told at once
    args.model = find_model(args.model, say, args.quiet)
    llm, seconds = open_model(args, say)
    llm.sampling(**given)
    engine = Engine(llm, args.parallel, args.queue)
    names = [*args.alias, Path(args.model).stem]
    terms = {"local": is_loopback(args.host), "key": args.api_key, "origins": args.cors}
    served = Served(llm, names, engine, given, args.pooling, **terms)
    say(f"load {seconds:.2f} s | weights: {llm.held}")
    host, port = listener.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    say(f"{names[0]} is served: a page at {where}/, OpenAI's protocol at {where}/v1 | Ctrl-C stops")
    renderer = Renderer()
    if hasattr(os, "fork"):
        template.ask = renderer.ask
    engine.start()
    try:
        return listen_until_told(make_app(served), listener, engine, say)
    finally:
        engine.stop()
        renderer.close()


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


def listen_until_told(app, listener: socket.socket, engine, say: Say) -> int:
    """Serve until SIGTERM or Ctrl-C, then finish what runs; returns the exit status."""
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn's, but that it says what it does when it is told to stop."""

        told: list[int] = []  # noqa: RUF012

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
            engine.drain()
            if engine.running and not self.force_exit:
                say(
                    f"stopping when what runs is finished ({len(engine.running)}) | Ctrl-C again ends at once"
                )
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=1 << 16,
    )
    server = Server(config)
    server.run(sockets=[listener])
    return 130 if server.told[:1] == [signal.SIGINT] else 0

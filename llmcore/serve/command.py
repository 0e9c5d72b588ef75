"""The command `python -m llmcore serve --model M`: load, listen, and finish what runs when told to stop."""

import argparse
import os
from pathlib import Path

from ..chat import template
from ..cli.command import Say, command_line, find_model, open_model
from ..cli.options import SAMPLING, Parser, add_model, count

KEY = "LLMCORE_API_KEY"


def serve_parser() -> argparse.ArgumentParser:
    """What `serve` can be told."""
    parser = Parser(
        "python -m llmcore serve",
        description="Serve a model by OpenAI's protocol, with a page to talk to it.",
    )
    add_model(parser)
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
    for flag, name, metavar, kind, text in SAMPLING:
        parser.add_argument(flag, dest=name, metavar=metavar, type=kind, help=text)
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
    from .listening import listen, listen_until_told
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

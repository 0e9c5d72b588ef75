"""`python -m llmcore explain --model M --prompt P`: a page on which a prompt is followed through a model.

The page is one HTML file with all the numbers of the run in it; --open shows it in the browser.
"""

import argparse
import secrets
import time
import webbrowser
from pathlib import Path

from ..generate import encode
from ..glass.page import LANGUAGES, write_page
from ..glass.page.scenes import wanted
from ..glass.recording import record
from ..llm import load
from ..loader import read_gguf
from .command import Say, command_line, find_model, read_prompt
from .options import Parser, add_model, add_prompt, add_sampling, add_template, count
from .report import say_choices

TOKENS, MOST_TOKENS = 4, 64  # that are written


def explain_parser() -> argparse.ArgumentParser:
    """What `explain` can be told."""
    parser = Parser("python -m llmcore explain", description="Follow a prompt through a model, on one page.")
    add_prompt(parser)
    parser.add_argument("--ignore-eos", action="store_true", help="go on when the model ends its text")
    tokens = f"write so many tokens, {MOST_TOKENS} at most (%(default)s)"
    parser.add_argument("--max-tokens", metavar="N", type=count(1), default=TOKENS, help=tokens)
    parser.add_argument(
        "--out", metavar="F", type=Path, default=Path("explain.html"), help="the page (%(default)s)"
    )
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="of the page (%(default)s)")
    add_model(parser)
    add_template(parser)
    add_sampling(parser)
    return parser


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for options that mean nothing here."""
    if args.max_tokens > MOST_TOKENS:
        raise ValueError(f"--max-tokens is {args.max_tokens}; a page shows at most {MOST_TOKENS}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line(explain_parser(), run, argv, check)


def run(args: argparse.Namespace, given: dict, say: Say) -> int:
    """Open, encode, run and record, write the page."""
    prompt, out = read_prompt(args), args.out
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out: there is no directory {out.absolute().parent}")
    if out.is_dir():
        raise ValueError(f"--out: {out} is a directory; name a file in it")
    path = find_model(args.model, say, args.quiet)
    options = {"weights": args.weights, "context_length": args.context, "threads": args.threads}
    llm = load(path, progress=not args.quiet, **options)
    ids = encode(args, llm, prompt, say)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    say_choices(say, llm, given, seed)
    begin = time.perf_counter()
    chat = args.chat or args.system is not None or bool(args.template) or args.prefill is not None
    recorded = record(
        llm,
        read_gguf(path),
        ids,
        wanted(),
        max_tokens=args.max_tokens,
        seed=seed,
        sampling=llm.sampling(**given),
        ignore_eos=args.ignore_eos,
        chat=chat,
    )
    size = write_page(recorded, out, args.language)
    say(f"wrote {out}, {size / 1e6:.2f} MB, in {time.perf_counter() - begin:.1f} s")
    if args.open:
        webbrowser.open(out.absolute().as_uri())
    return 0

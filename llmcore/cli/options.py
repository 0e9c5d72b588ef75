"""What every command that runs a model can be told: a row an option."""

import argparse
import sys
from dataclasses import fields

from ..sampling import Sampling
from ..speed.holding import WEIGHTS

DEFAULTS = {field.name: field.default for field in fields(Sampling)}


class Parser(argparse.ArgumentParser):
    """Reads a command line. What it prints is written or an error; argparse's own takes a full disk for
    success.
    """

    def _print_message(self, message, file=None):
        print(message, end="", file=file or sys.stderr, flush=True)


def count(least: int):
    """An argument type: a whole number of at least that much."""

    def parse(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return parse


def draft_tokens(text: str) -> int:
    """An argument type: lookup:N, or lookup for lookup:DRAFT."""
    kind, colon, n = text.partition(":")
    if kind != "lookup" or (colon and not (n.isdecimal() and int(n))):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither lookup nor lookup:N for a whole number N of 1 or more"
        )
    if colon:
        return int(n)
    from ..speed.drafting import DRAFT

    return DRAFT


SAMPLING = [  # flag, its value, its type, what it does; the defaults are those of Sampling
    ("--temperature", "T", float, "0 always takes the most likely token"),
    ("--top-k", "K", count(0), "choose among the K most likely tokens; 0 is off"),
    ("--top-p", "P", float, "choose among the fewest whose probabilities reach P; 1 is off"),
    ("--min-p", "P", float, "drop those less likely than P times the most likely; 0 is off"),
    ("--repeat-penalty", "R", float, "make the last 64 tokens less likely; 1 is off"),
]
OPTIONS = [
    ("--seed", "S", count(0), "the same seed gives the same text; else a new one is taken, and told"),
    ("--max-tokens", "N", count(1), "stop after N tokens; else the text's own end or a full context does"),
    (
        "--context",
        "N",
        count(1),
        "tokens of prompt and text together; else as many as the model was trained on",
    ),
    (
        "--draft",
        "lookup:N",
        draft_tokens,
        "guess up to N tokens ahead where the text repeats itself: the same, sooner",
    ),
    ("--threads", "N", count(1), "compute with N threads; else one for each core"),
]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every command that runs a model can be told."""
    names = "a GGUF file, smollm2 or gemma3, or hf:ORG/REPO[/FILE.gguf]; else the one model in models/"
    parser.add_argument("--model", metavar="M", help=names)
    parser.add_argument(
        "--system", metavar="S", help="the system message: how a chat model shall answer (as --chat)"
    )
    for flag, metavar, kind, text in SAMPLING:
        default = DEFAULTS[flag[2:].replace("-", "_")]
        parser.add_argument(flag, metavar=metavar, type=kind, default=default, help=f"{text} (%(default)s)")
    for flag, metavar, kind, text in OPTIONS:
        parser.add_argument(flag, metavar=metavar, type=kind, help=text)
    parser.add_argument(
        "--stop", metavar="STR", action="append", default=[], help="end before STR; may be repeated"
    )
    parser.add_argument(
        "--weights", choices=WEIGHTS, default="auto", help="how weights are held (%(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="write nothing but errors to standard error")


def sampling_of(args: argparse.Namespace) -> Sampling:
    """The sampling that was asked for. Raises ValueError for a number out of range."""
    return Sampling(**{name: value for name, value in vars(args).items() if name in DEFAULTS})


def check_generate(args: argparse.Namespace) -> None:
    """Raises ValueError for options that mean nothing for one prompt, or for several."""
    if args.prompts_file is not None or args.batch is not None:
        from .batch import check_batch

        check_batch(args)


def generate_parser() -> argparse.ArgumentParser:
    """What `generate` can be told."""
    parser = Parser("python -m llmcore.generate", description="Continue a text with a GGUF model.")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="P", help="the text to continue; - reads it from standard input")
    prompt.add_argument("--prompt-file", metavar="F", help="a file (UTF-8) with the text to continue")
    prompt.add_argument(
        "--prompts-file", metavar="F", help="a file (UTF-8) with a text to continue on each line"
    )
    parser.add_argument("--batch", metavar="N", type=count(1), help="prompts of --prompts-file at a time (8)")
    parser.add_argument("--chat", action="store_true", help="answer the prompt, as a user's message")
    parser.add_argument("--ignore-eos", action="store_true", help="go on when the model ends its text")
    parser.add_argument("--echo", action="store_true", help="print the prompt before the text")
    logprobs = "tell each token's log-probability, and the N best, on standard error"
    parser.add_argument("--logprobs", metavar="N", type=count(1), help=logprobs)
    add_options(parser)
    return parser

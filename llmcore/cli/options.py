"""What every command that runs a model can be told."""

import argparse

from ..speed.holding import WEIGHTS
from ..speed.drafting import DRAFT

def _whole(least):
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
        raise argparse.ArgumentTypeError(f"{text!r} is neither lookup nor lookup:N for a whole number N of 1 or more")
    return int(n) if colon else DRAFT
OPTIONS = [  # flag, its value, its type, its default, what it does
    ("--max-tokens", "N", _whole(1), None, "stop after N tokens; else the text's own end or a full context does"),
    ("--temperature", "T", float, 0.8, "0 always takes the most likely token (%(default)s)"),
    ("--top-k", "K", _whole(0), 40, "choose among the K most likely tokens; 0 is off (%(default)s)"),
    ("--top-p", "P", float, 0.95, "choose among the fewest whose probabilities reach P; 1 is off (%(default)s)"),
    ("--min-p", "P", float, 0.05, "drop those less likely than P times the most likely; 0 is off (%(default)s)"),
    ("--repeat-penalty", "R", float, 1.0, "make the last 64 tokens less likely; 1 is off (%(default)s)"),
    ("--seed", "S", _whole(0), None, "the same seed gives the same text; else a new one is taken, and told"),
    ("--context", "N", _whole(1), None, "tokens of prompt and text together; else as many as the model was trained on"),
    (
        *("--draft", "lookup:N", draft_tokens, None),
        f"guess up to N tokens ahead where the text repeats itself: the same text, sooner (lookup is lookup:{DRAFT})",
    ),
    ("--threads", "N", _whole(1), None, "compute with N threads; else one for each core"),
    ("--logprobs", "N", _whole(1), None, "tell each token's log-probability, and the N best, on standard error"),
]
SWITCHES = [
    ("--chat", "answer the prompt, as a user's message in the model's own chat template"),
    ("--ignore-eos", "go on when the model ends its text"),
    ("--echo", "print the prompt before the text"),
    ("--quiet", "write nothing but errors to standard error"),
]


def add_options(parser, options, switches) -> None:
    """What every command that runs a model can be told."""
    parser.add_argument(
        "--model", metavar="M", help="a GGUF file, or hf:ORG/REPO[/FILE.gguf]; else the one model in models/"
    )
    parser.add_argument("--system", metavar="S", help="the system message: how a chat model shall answer (as --chat)")
    for flag, metavar, kind, default, text in options:
        parser.add_argument(flag, metavar=metavar, type=kind, default=default, help=text)
    parser.add_argument("--stop", metavar="STR", action="append", default=[], help="end before STR; may be repeated")
    parser.add_argument("--weights", choices=WEIGHTS, default="auto", help="how weights are held (%(default)s)")
    for flag, text in switches:
        parser.add_argument(flag, action="store_true", help=text)

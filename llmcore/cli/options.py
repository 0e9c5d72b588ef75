"""What every command that runs a model can be told: a row an option."""

import argparse
import json
import os
import re
import sys
from dataclasses import fields
from typing import Any

from ..samplers.options import Sampling
from ..speed.holding import WEIGHTS

DEFAULTS = {field.name: field.default for field in fields(Sampling)}
# What is text, for the model or the filters, and its flag
TEXTS = {name: f"--{name}" for name in ("prompt", "system", "prefill", "stop")}
TEXTS["dry_sequence_breakers"] = "--dry-sequence-breaker"
ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[nrt'\"\\])")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def on_one_line(text: str) -> str:
    """The text without line ends and control characters, which may come from a stranger's file.

    >>> on_one_line("red \\x1b[31m, new\\nline")
    'red \\\\x1b[31m, new\\\\nline'
    """
    return CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


class Parser(argparse.ArgumentParser):
    """Reads a command line; argparse's own takes a full disk, where help cannot be printed, for success.

    What is wrong with it is told in one line: argparse would list all options before that.
    """

    def error(self, message):
        """Ends the process."""
        self.exit(2, f"{self.prog}: error: {on_one_line(message)}; --help lists all\n")

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


def bias(text: str) -> tuple[int, float]:
    """An argument type: TOKEN_ID+BIAS or TOKEN_ID-BIAS."""
    found = re.fullmatch(r"(\d+)([+-].+)", text)
    try:
        token_id, size = found.groups() if found else ("", "")
        return int(token_id), float(size)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not TOKEN_ID+BIAS or TOKEN_ID-BIAS") from None


def variable(text: str) -> tuple[str, Any]:
    """An argument type: KEY=VALUE, the value JSON or else text."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def names(text: str) -> list[str]:
    """An argument type: names with ; between them."""
    return [name.strip() for name in text.split(";")]


Row = tuple[str, str, str, Any, str]
# fmt: off
# llama.cpp's flag, option of Sampling, its value, its type, what it does
SAMPLING: list[Row] = [
    ("--temperature", "temperature", "T", float, "0 always takes the most likely token"),
    ("--top-k", "top_k", "K", count(0), "choose among the K most likely tokens; 0 is off"),
    ("--top-p", "top_p", "P", float, "choose among the fewest whose probabilities reach P; 1 is off"),
    ("--min-p", "min_p", "P", float, "drop those less likely than P times the most likely; 0 is off"),
    ("--repeat-penalty", "repeat_penalty", "R", float, "make the last tokens less likely; 1 is off"),
    ("--repeat-last-n", "penalty_last_n", "N", count(0), "... so many, for all three penalties; 0 is off"),
    ("--presence-penalty", "presence_penalty", "R", float, "take R off logits of tokens that came; 0 is off"),
    ("--frequency-penalty", "frequency_penalty", "R", float, "... R for each time they came; 0 is off"),
    ("--typical", "typical_p", "P", float, "keep tokens of the most expected surprise, P in all; 1 is off"),
    ("--top-nsigma", "top_n_sigma", "N", float, "keep N standard deviations below the best; 0 is off"),
    ("--xtc-probability", "xtc_probability", "P", float, "leave out the likeliest tokens so often; 0 is off"),
    ("--xtc-threshold", "xtc_threshold", "P", float, "... those above the last one as likely as P"),
    ("--dry-multiplier", "dry_multiplier", "M", float, "punish what makes a repetition longer; 0 is off"),
    ("--dry-base", "dry_base", "B", float, "... by M x B^(its length - the allowed one)"),
    ("--dry-allowed-length", "dry_allowed_length", "N", count(0), "... N tokens may repeat"),
    ("--dry-penalty-last-n", "dry_penalty_last_n", "N", count(0), "... among the last N; 0 is off"),
    ("--samplers", "sequence", "A;B;...", names, "the filters in their order; the others are off"),
]
# The same for what may be repeated, and is put together by `sampling_given`
REPEATED: list[Row] = [
    ("--logit-bias", "logit_bias", "ID+BIAS", bias, "add BIAS (or -inf) to a token's logit; repeatable"),
    ("--dry-sequence-breaker", "dry_sequence_breakers", "STR", str, "repetitions end at STR; none: nowhere"),
]
OPTIONS: list[tuple[str, str, Any, str]] = [
    ("--max-tokens", "N", count(1), "stop after N tokens; else the text's own end or a full context does"),
    ("--draft", "lookup:N", draft_tokens, "guess N tokens ahead where the text repeats itself: same text"),
    ("--draft-model", "M", str, "a smaller model of the same vocabulary, which guesses ahead: the same text"),
]
# fmt: on


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is held."""
    names = "a GGUF file, smollm2 or gemma3, or hf:ORG/REPO[/FILE.gguf]; else the one model in models/"
    parser.add_argument("--model", metavar="M", help=names)
    ways = "how weights are held (%(default)s)"
    parser.add_argument("--weights", choices=WEIGHTS, default="auto", help=ways)
    context = "tokens of prompt and text together; else as many as the model was trained on"
    parser.add_argument("--context", metavar="N", type=count(1), help=context)
    threads = "compute with N threads; else one for each core"
    parser.add_argument("--threads", metavar="N", type=count(1), help=threads)
    parser.add_argument("--quiet", action="store_true", help="write nothing but errors to standard error")


def add_template(parser: argparse.ArgumentParser) -> None:
    """What a chat template gets beside the prompt."""
    system = "the system message: how a chat model shall answer (as --chat)"
    parser.add_argument("--system", metavar="S", help=system)
    parser.add_argument(
        "--template",
        metavar="KEY=VALUE",
        type=variable,
        action="append",
        default=[],
        help="a variable for the chat template, like enable_thinking=false; JSON, else text; may be repeated",
    )
    escapes = r"leave \n, \t, \xHH, ... in --prompt, --system and --stop as they are"
    parser.add_argument("--no-escape", dest="escape", action="store_false", help=escapes)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The way tokens are chosen."""
    for flag, name, metavar, kind, text in SAMPLING:
        default = DEFAULTS[name]
        shown = ";".join(default) if isinstance(default, tuple) else default
        # None: not given, so that the file may have its own
        parser.add_argument(flag, dest=name, metavar=metavar, type=kind, help=f"{text} ({shown})")
    for flag, name, metavar, kind, text in REPEATED:
        parser.add_argument(flag, dest=name, metavar=metavar, type=kind, action="append", help=text)
    seed = "the same seed gives the same text; else a new one is taken, and told"
    parser.add_argument("--seed", metavar="S", type=count(0), help=seed)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every command that writes a text can be told."""
    add_model(parser)
    add_template(parser)
    add_sampling(parser)
    add_constraints(parser)
    for flag, metavar, kind, text in OPTIONS:
        parser.add_argument(flag, metavar=metavar, type=kind, help=text)
    parser.add_argument(
        "--stop", metavar="STR", action="append", default=[], help="end before STR; may be repeated"
    )


def add_prompt(parser: argparse.ArgumentParser):
    """One prompt, to be continued or answered; returns the group in which one of its forms must be given."""
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="P", help="the text to continue; - reads it from standard input")
    prompt.add_argument("--prompt-file", metavar="F", help="a file (UTF-8) with the text to continue")
    parser.add_argument("--chat", action="store_true", help="answer the prompt, as a user's message")
    begun = "the answer begins with S, and goes on from there (as --chat)"
    parser.add_argument("--prefill", metavar="S", help=begun)
    return prompt


def add_constraints(parser: argparse.ArgumentParser) -> None:
    """What the text must be, one of three."""
    group = parser.add_mutually_exclusive_group()
    schema = "the text is JSON that the schema in this file allows"
    group.add_argument("--json-schema", metavar="FILE", help=schema)
    grammar = "the text is one of the grammar in this file (GBNF, or Lark as llguidance reads it)"
    group.add_argument("--grammar", metavar="FILE", help=grammar)
    group.add_argument("--regex", metavar="R", help="the text matches the regular expression R as a whole")


def add_prompt_cache(parser: argparse.ArgumentParser) -> None:
    """Where what was read is kept."""
    kept = "keep what was read of the prompt in FILE: what begins like it need not be read again"
    parser.add_argument("--prompt-cache", metavar="FILE", help=kept)


def is_answer(args: argparse.Namespace) -> bool:
    """Whether the prompt is answered, in the model's chat template, and not continued."""
    return bool(args.chat or args.system is not None or args.template or args.prefill is not None)


def sampling_given(args: argparse.Namespace) -> dict:
    """The options of sampling that were asked for. Raises ValueError for a value out of range."""
    given = {name: value for name in DEFAULTS if (value := getattr(args, name, None)) is not None}
    if "logit_bias" in given:
        given["logit_bias"] = dict(given["logit_bias"])
    if "dry_sequence_breakers" in given:
        given["dry_sequence_breakers"] = [text for text in given["dry_sequence_breakers"] if text != "none"]
    sampling = Sampling(**given)  # checks them
    if sampling.is_constrained:
        from ..samplers.constraint import check  # here, because few texts are

        check(sampling)
    return given


def read_escapes(args: argparse.Namespace) -> None:
    r"""Write out \n, \r, \t, \', \", \\ and \xHH in the texts of the command line, unless --no-escape.

    As llama.cpp does (common/common.cpp), but not in files.
    """
    if not getattr(args, "escape", False):
        return
    for name, texts in texts_of(args).items():
        plain = [unescaped(text) for text in texts]
        setattr(args, name, plain if isinstance(getattr(args, name), list) else plain[0])


def texts_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """The texts of the command line that were given, by their names in TEXTS."""
    given = {name: getattr(args, name, None) for name in TEXTS}
    return {name: [text] if isinstance(text, str) else text for name, text in given.items() if text}


def unescaped(text: str) -> str:
    r"""The text with its escapes written out; what is none stays.

    >>> unescaped(r"a\nb \x41 \d \\n") == "a\nb A \\d \\n"
    True
    """

    def written(match):
        code = match[1]
        return bytes([int(code[1:], 16)]) if code[:1] == b"x" else ESCAPES.get(code, code)

    return os.fsdecode(ESCAPE.sub(written, os.fsencode(text)))


def check_generate(args: argparse.Namespace) -> None:
    """Raises ValueError for options that mean nothing for one prompt, or for several."""
    if args.prompts_file is not None or args.batch is not None:
        from .batch import check_batch

        check_batch(args)


def generate_parser() -> argparse.ArgumentParser:
    """What `generate` can be told."""
    parser = Parser("python -m llmcore.generate", description="Continue a text with a GGUF model.")
    prompts = "a file (UTF-8) with a text to continue on each line"
    add_prompt(parser).add_argument("--prompts-file", metavar="F", help=prompts)
    parser.add_argument("--batch", metavar="N", type=count(1), help="prompts of --prompts-file at a time (8)")
    parser.add_argument("--ignore-eos", action="store_true", help="go on when the model ends its text")
    parser.add_argument("--echo", action="store_true", help="print the prompt before the text")
    logprobs = "tell each token's log-probability, and the N best, on standard error"
    parser.add_argument("--logprobs", metavar="N", type=count(1), help=logprobs)
    add_prompt_cache(parser)
    add_options(parser)
    return parser

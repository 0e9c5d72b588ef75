"""The command line: `python -m llmcore.generate --model M --prompt P`.

With --chat a model that was made for conversations answers the prompt, which is otherwise continued.

Only the text goes to standard output; the seed, a progress bar and one line of timings go to standard error.
Exit status: 0, 1 for a bad file or prompt, 2 for bad arguments, 130 on Ctrl-C.
"""

import argparse
import os
import re
import secrets
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from .chat import encode_chat
from .llm import END_OF_TEXT, LLM, WEIGHTS, load, until_stop
from .ops import log_softmax
from .sampling import Sampling

MODELS = Path("models")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line(_parser(), run, argv)


def command_line(parser, run, argv) -> int:
    """Parse, `run(args, how, say)`, and turn what goes wrong into one line and an exit status."""
    args = parser.parse_args(argv)
    try:
        how = Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.repeat_penalty)
        until_stop((), args.stop)  # refuses an empty stop string before a model is loaded
    except ValueError as error:
        parser.error(str(error))
    say = (lambda text: None) if args.quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    warnings.showwarning = lambda message, *_: say(f"warning: {message}")
    try:
        return run(args, how, say)
    except (ValueError, OSError, ImportError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"error: {error}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"error: {str(error) or 'not enough memory'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(args, how: Sampling, say) -> int:
    """Load, generate, report."""
    sys.stdout.reconfigure(encoding="utf-8")
    prompt = read_prompt(args)
    llm, load_seconds = open_model(args)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    if args.chat or args.system is not None:
        system = [] if args.system is None else [{"role": "system", "content": args.system}]
        prompt_ids = encode_chat(llm.tokenizer, [*system, {"role": "user", "content": prompt}])
    else:
        prompt_ids = llm.encode_prompt(prompt)
        if llm.tokenizer.chat_template is not None:
            say("note: the prompt is continued, not answered; with --chat this model answers it")
    max_tokens = args.max_tokens or llm.context_length
    clock = Clock()
    tokens = clock.watch(llm.tokens(prompt_ids, max_tokens=max_tokens, how=how, seed=seed, ignore_eos=args.ignore_eos))
    if how.temperature > 0:
        say(f"seed {seed}")
    if args.logprobs:
        tokens = report_logprobs(tokens, llm, args.logprobs)
    if args.echo:
        print(prompt, end="", flush=True)
    status = 0
    try:
        for piece in until_stop(llm.text(tokens), args.stop):
            print(piece, end="", flush=True)
        end = clock.end or "stop string"
    except KeyboardInterrupt:
        end, status = "interrupted", 130
    if sys.stdout.isatty():
        print(flush=True)
    say(f"load {load_seconds:.2f} s | {clock.line(len(prompt_ids), end)}")
    return status


def open_model(args) -> tuple[LLM, float]:
    """The model that was asked for, and the seconds it took to load."""
    path = args.model or the_one_model()
    begin = time.perf_counter()
    llm = load(path, weights=args.weights, context_length=args.context, progress=not args.quiet)
    return llm, time.perf_counter() - begin


def read_prompt(args) -> str:
    """The prompt that was asked for; one line end at the very end of standard input or of a file is not part of it."""
    if args.prompt_file is None and args.prompt != "-":
        where, data = "--prompt", os.fsencode(args.prompt)
    elif args.prompt_file is None:
        where, data = "standard input", sys.stdin.buffer.read()
    else:
        where, data = args.prompt_file, Path(args.prompt_file).read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: byte {error.start} is not UTF-8; convert the prompt to UTF-8") from None
    return text if where == "--prompt" else re.sub(r"\r?\n\Z", "", text)


def the_one_model() -> Path:
    """The model in models/, if there is just one; of a split file the first part stands for all."""
    found = sorted(path for path in MODELS.glob("*.gguf") if "-of-" not in path.stem or "-00001-of-" in path.stem)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(
            f"no model in {MODELS.absolute()}; name one with --model, or: python scripts/fetch_model.py smollm2"
        )
    raise ValueError(f"more than one model in {MODELS}/; choose one with --model: {', '.join(map(str, found))}")


class Clock:
    """Watches tokens go by, and says how long they took."""

    def __init__(self):
        self.times = [time.perf_counter()]
        self.end = None

    def watch(self, tokens):
        """The same tokens; notes the time and the end of each."""
        for token in tokens:
            self.times.append(time.perf_counter())
            self.end = token.end
            yield token

    def line(self, n_prompt, end, n_cached=0) -> str:
        """One line of timings: of n_prompt tokens that were processed, after n_cached that need not be.

        The first token comes out of the prompt's pass, so decoding is counted from there.
        """
        n_tokens = len(self.times) - 1
        prompt = f"prompt {n_prompt} tokens" + (f" after {n_cached} in the cache" if n_cached else "")
        if n_tokens == 0:
            return f"{prompt} | {end}"
        n_text = n_tokens - (end == END_OF_TEXT)
        prefill, decode = self.times[1] - self.times[0], self.times[-1] - self.times[1]
        speed = f" ({(n_tokens - 1) / decode:.1f} tokens/s)" if n_tokens > 1 else ""
        return (
            f"{prompt} in {prefill:.2f} s ({n_prompt / prefill:.1f} tokens/s)"
            f" | text {n_text} tokens in {decode:.2f} s{speed} | {end}"
        )


def report_logprobs(tokens, llm: LLM, n: int):
    """The same tokens; writes the log-probability of each to standard error, and those of the n most likely."""

    def shown(token_id):
        return f"{llm.tokenizer.token_text(token_id)!r} {logprobs_V[token_id]:.4f}"

    for token in tokens:
        logprobs_V = log_softmax(token.logits.astype(np.float64))
        best = np.argsort(-logprobs_V, kind="stable")[:n]
        print(f"logprob {shown(token.id)} | best {', '.join(map(shown, best))}", file=sys.stderr, flush=True)
        yield token


def _whole(least):
    """An argument type: a whole number of at least that much."""

    def parse(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return parse


OPTIONS = [  # flag, its value, its type, its default, what it does
    ("--max-tokens", "N", _whole(1), None, "stop after N tokens; else the text's own end or a full context does"),
    ("--temperature", "T", float, 0.8, "0 always takes the most likely token (%(default)s)"),
    ("--top-k", "K", _whole(0), 40, "choose among the K most likely tokens; 0 is off (%(default)s)"),
    ("--top-p", "P", float, 0.95, "choose among the fewest whose probabilities reach P; 1 is off (%(default)s)"),
    ("--min-p", "P", float, 0.05, "drop those less likely than P times the most likely; 0 is off (%(default)s)"),
    ("--repeat-penalty", "R", float, 1.0, "make the last 64 tokens less likely; 1 is off (%(default)s)"),
    ("--seed", "S", _whole(0), None, "the same seed gives the same text; else a new one is taken, and told"),
    ("--context", "N", _whole(1), None, "tokens of prompt and text together; else as many as the model was trained on"),
    ("--logprobs", "N", _whole(1), None, "tell each token's log-probability, and the N best, on standard error"),
]
SWITCHES = [
    ("--chat", "answer the prompt, as a user's message in the model's own chat template"),
    ("--ignore-eos", "go on when the model ends its text"),
    ("--echo", "print the prompt before the text"),
    ("--quiet", "write nothing but errors to standard error"),
]


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m llmcore.generate", description="Continue a text with a GGUF model."
    )
    add_options(parser, OPTIONS, SWITCHES)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="P", help="the text to continue; - reads it from standard input")
    prompt.add_argument("--prompt-file", metavar="F", help="a file (UTF-8) with the text to continue")
    return parser


def add_options(parser, options, switches) -> None:
    """What every command that runs a model can be told."""
    parser.add_argument("--model", metavar="M", help="a GGUF file; else the one model in models/")
    parser.add_argument("--system", metavar="S", help="the system message: how a chat model shall answer (as --chat)")
    for flag, metavar, kind, default, text in options:
        parser.add_argument(flag, metavar=metavar, type=kind, default=default, help=text)
    parser.add_argument("--stop", metavar="STR", action="append", default=[], help="end before STR; may be repeated")
    parser.add_argument("--weights", choices=WEIGHTS, default="auto", help="how weights are held (%(default)s)")
    for flag, text in switches:
        parser.add_argument(flag, action="store_true", help=text)


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `python -m llmcore.generate --model M --prompt P`.

With --chat a model that was made for conversations answers the prompt, which is otherwise continued. --prompts-file has
several prompts continued together, one a line; each line of the output is the text of one, as a JSON string.

Only text goes to standard output; the seed, a progress bar and one line of timings go to standard error.
Exit status: 0, 1 for a bad file or prompt, 2 for bad arguments, 130 on Ctrl-C.
"""

import argparse
import json
import os
import re
import secrets
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from .chat import encode_chat
from .drafting import DRAFT
from .hub import HUB, model_file
from .llm import LLM, WEIGHTS, load
from .machine import restart_with_threads
from .ops import log_softmax
from .sampling import Sampling
from .writing import END_OF_TEXT, STOP_STRING, until_stop

MODELS = Path("models")
BATCH = 8  # texts that are written together; a pass over 8 rows costs little more than over 2


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line(_parser(), run, argv, check_batch)


def command_line(parser, run, argv, check=lambda args: None) -> int:
    """Parse, `check(args)`, `run(args, how, say)`, and turn what goes wrong into one line and an exit status."""
    args = parser.parse_args(argv)
    try:
        check(args)
        how = Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.repeat_penalty)
        until_stop((), args.stop)  # refuses an empty stop string before a model is loaded
    except ValueError as error:
        parser.error(str(error))
    if args.threads is not None:
        restart_with_threads(args.threads)
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


def check_batch(args) -> None:
    """Raises ValueError for options that mean nothing for one prompt, or for several."""
    if args.prompts_file is None and args.batch is not None:
        raise ValueError("--batch is for several prompts: it needs --prompts-file")
    for name in ("logprobs", "echo", "draft"):
        if args.prompts_file is not None and getattr(args, name):
            raise ValueError(f"--{name} is for one prompt, not for --prompts-file")


def run(args, how: Sampling, say) -> int:
    """Load, generate, report."""
    sys.stdout.reconfigure(encoding="utf-8")
    if args.prompts_file is not None:
        return run_batch(args, how, say)
    prompt = read_prompt(args)
    llm, load_seconds = open_model(args, say)
    (prompt_ids,), options = what_to_do(args, how, say, llm, [prompt])
    clock = Clock()
    tokens = clock.watch(llm.tokens(prompt_ids, draft=args.draft, **options))
    say_how(say, llm, how, options["seed"])
    if args.logprobs:
        tokens = report_logprobs(tokens, llm, args.logprobs)
    if args.echo:
        print(prompt, end="", flush=True)
    status = 0
    try:
        for piece in until_stop(llm.text(tokens), args.stop):
            print(piece, end="", flush=True)
        end = clock.end or STOP_STRING
    except KeyboardInterrupt:
        end, status = "interrupted", 130
    if sys.stdout.isatty():
        print(flush=True)
    say(f"load {load_seconds:.2f} s | {clock.line(len(prompt_ids), end)}")
    return status


def run_batch(args, how: Sampling, say) -> int:
    """Load, generate all texts together, report."""
    prompts = read_prompts(args.prompts_file)
    llm, load_seconds = open_model(args, say)
    prompts_ids, options = what_to_do(args, how, say, llm, prompts)
    begin = time.perf_counter()
    texts = llm.texts(prompts_ids, batch=args.batch or BATCH, stop=args.stop, **options)
    say_how(say, llm, how, options["seed"])
    n_texts, n_tokens, status, end = 0, 0, 0, ""
    try:
        for text in texts:
            print(json.dumps(text.text, ensure_ascii=False), flush=True)
            n_texts, n_tokens = n_texts + 1, n_tokens + text.n_tokens
    except KeyboardInterrupt:
        status, end = 130, " | interrupted"
    seconds = time.perf_counter() - begin
    say(
        f"load {load_seconds:.2f} s | {len(prompts)} prompts of {sum(map(len, prompts_ids))} tokens | {n_texts} texts"
        f" of {n_tokens} tokens, all in {seconds:.2f} s ({n_tokens / seconds:.1f} tokens/s){end}"
    )
    return status


def say_how(say, llm, how, seed) -> None:
    """Say what was chosen for the user: how weights are held, and the seed."""
    if how.temperature > 0:
        say(f"seed {seed}")
    say(f"weights: {llm.held}")


def what_to_do(args, how, say, llm, prompts):
    """The ids of each prompt, put into the chat template if that is wanted, and the options all texts share."""
    if args.chat or args.system is not None:
        system = [] if args.system is None else [{"role": "system", "content": args.system}]
        ids = [encode_chat(llm.tokenizer, [*system, {"role": "user", "content": prompt}]) for prompt in prompts]
    else:
        ids = [llm.encode_prompt(prompt) for prompt in prompts]
        if llm.tokenizer.chat_template is not None:
            say("note: the prompt is continued, not answered; with --chat this model answers it")
    seed = secrets.randbits(32) if args.seed is None else args.seed
    max_tokens = args.max_tokens or llm.context_length
    return ids, {"max_tokens": max_tokens, "how": how, "seed": seed, "ignore_eos": args.ignore_eos}


def open_model(args, say) -> tuple[LLM, float]:
    """The model that was asked for, fetched if it is on the hub, and the seconds it took to load."""
    path = args.model or the_one_model()
    if args.model and args.model.startswith(HUB):
        path = model_file(args.model, MODELS, say, progress=not args.quiet)
    begin = time.perf_counter()
    options = {"weights": args.weights, "context_length": args.context, "threads": args.threads}
    llm = load(path, progress=not args.quiet, **options)
    return llm, time.perf_counter() - begin


def read_prompt(args) -> str:
    """The prompt that was asked for."""
    if args.prompt_file is None and args.prompt != "-":
        return decoded("--prompt", os.fsencode(args.prompt))
    return read_text(args.prompt_file or "-")


def read_prompts(path) -> list[str]:
    """The prompts of a file, one a line."""
    prompts = re.split(r"\r?\n", read_text(path))
    for n, prompt in enumerate(prompts, 1):
        if not prompt:
            raise ValueError(f"{path}: line {n} is empty; write one prompt on each line")
    return prompts


def read_text(path) -> str:
    """The text of a file, or of standard input (-); one line end at its very end is not part of it."""
    where, data = ("standard input", sys.stdin.buffer.read()) if path == "-" else (path, Path(path).read_bytes())
    return re.sub(r"\r?\n\Z", "", decoded(where, data))


def decoded(where, data) -> str:
    """The text of bytes in UTF-8; `where` they come from is for the error."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: byte {error.start} is not UTF-8; convert the prompt to UTF-8") from None


def the_one_model() -> Path:
    """The model in models/, if there is just one; of a split file the first part stands for all."""
    paths = [*MODELS.glob("*.gguf"), *MODELS.glob("hf/**/*.gguf")]
    found = sorted(path for path in paths if "-of-" not in path.stem or "-00001-of-" in path.stem)
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


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m llmcore.generate", description="Continue a text with a GGUF model."
    )
    add_options(parser, OPTIONS, SWITCHES)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="P", help="the text to continue; - reads it from standard input")
    prompt.add_argument("--prompt-file", metavar="F", help="a file (UTF-8) with the text to continue")
    prompt.add_argument("--prompts-file", metavar="F", help="a file (UTF-8) with a text to continue on each line")
    parser.add_argument("--batch", metavar="N", type=_whole(1), help=f"prompts of --prompts-file at a time ({BATCH})")
    return parser


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


if __name__ == "__main__":
    sys.exit(main())

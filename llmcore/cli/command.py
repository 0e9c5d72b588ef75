"""How a command runs: parse, open the model, work, and turn what goes wrong into one line and an exit status."""

import argparse
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from ..llm import LLM, load
from ..speed.machine import restart_with_threads
from ..tokenizers.streaming import stop_strings
from .options import read_escapes, sampling_given

MODELS = Path("models")
Say = Callable[[str], None]  # writes a line to standard error, unless the command is to be quiet


def open_standard_streams() -> None:
    """Standard streams as every command needs them: there, and in UTF-8.

    A stream that the caller has closed is None to Python, and its number would go to the next file that is
    opened.
    """
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
        elif hasattr(stream, "reconfigure"):  # a test's stand-in for a stream has none
            stream.reconfigure(
                encoding="utf-8", errors={"stdin": "replace", "stderr": "backslashreplace"}.get(name)
            )


def command_line(parser: argparse.ArgumentParser, run, argv=None, check=lambda args: None) -> int:
    """Parse, `check(args)`, `run(args, given, say)`, of sampling what was given; returns the exit status."""
    args = parser.parse_args(argv)
    try:
        check(args)
        read_escapes(args)
        given = sampling_given(args)
        stop_strings(args.stop)
    except ValueError as error:
        parser.error(str(error))
    if args.threads is not None:
        restart_with_threads(args.threads)
    say = (lambda text: None) if args.quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    return status_of(lambda: run(args, given, say), say)


def status_of(work: Callable[[], int], say: Say = print) -> int:
    """The exit status of `work()`; what goes wrong is one line on standard error: what, where and what to do."""
    open_standard_streams()
    warnings.showwarning = lambda message, *_: say(f"warning: {message}")
    try:
        status = work()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        print(f"error: {on_one_line(str(error) or 'not enough memory')}", file=sys.stderr)
        return 1


def on_one_line(text: str) -> str:
    """The text without line ends and control characters, which may come from a stranger's file.

    >>> on_one_line("red \\x1b[31m, new\\nline")
    'red \\\\x1b[31m, new\\\\nline'
    """
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", lambda match: repr(match[0])[1:-1], text)


def open_model(args: argparse.Namespace, say: Say) -> tuple[LLM, float]:
    """The model that was asked for, fetched if it has a name and is not here, and the seconds it took to
    load.
    """
    path = find_model(args.model, say, args.quiet)
    begin = time.perf_counter()
    options = {"weights": args.weights, "context_length": args.context, "threads": args.threads}
    llm = load(path, progress=not args.quiet, **options)
    return llm, time.perf_counter() - begin


def find_model(name: str | None, say: Say, quiet: bool = False) -> str | Path:
    """The path of a model by its path, its name, or none: then the one model in models/."""
    if name is None:
        return the_one_model()
    if name.startswith("hf:") or (not os.path.exists(name) and re.fullmatch(r"\w+", name)):
        from .get import get  # here, because a file needs no network

        return get(name, say, progress=not quiet)
    return name


def the_one_model() -> Path:
    """The model in models/, if there is just one; of a split file the first part stands for all."""
    paths = [*MODELS.glob("*.gguf"), *MODELS.glob("hf/**/*.gguf")]
    part = re.compile(r".*-\d{5}-of-\d{5}")
    found = sorted(
        path
        for path in paths
        if not (part.fullmatch(path.stem) and "-00001-of-" not in path.stem)
        and not path.name.startswith("mmproj")
    )
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(
            f"no model in {MODELS.absolute()}; name one with --model: a file, smollm2, or hf:ORG/REPO"
        )
    raise ValueError(
        f"more than one model in {MODELS}/; choose one with --model: {', '.join(map(str, found))}"
    )


def read_prompt(args: argparse.Namespace) -> str:
    """The prompt that was asked for."""
    if args.prompt_file is None and args.prompt != "-":
        return decoded("--prompt", os.fsencode(args.prompt))
    return read_text(args.prompt_file or "-")


def read_text(path: str) -> str:
    """The text of a file, or of standard input (-); one line end at its very end is not part of it."""
    where, data = (
        ("standard input", sys.stdin.buffer.read()) if path == "-" else (path, Path(path).read_bytes())
    )
    return re.sub(r"\r?\n\Z", "", decoded(where, data))


def decoded(where: str, data: bytes) -> str:
    """The text of bytes in UTF-8, without a byte order mark; `where` they come from is for the error."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: byte {error.start} is not UTF-8; convert it to UTF-8") from None

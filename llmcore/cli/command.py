"""How a command runs: parse, open the model, work; what goes wrong is one line and an exit status."""

import argparse
import errno
import io
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..cache import KVCache
from ..llm import LLM, load
from ..samplers.options import Sampling
from ..speed.machine import restart_with_threads
from ..tokenizers.streaming import stop_strings
from .interrupt import handle_again, raise_interrupts
from .options import TEXTS, is_answer, on_one_line, read_escapes, sampling_given, texts_of

MODELS = Path("models")
# What lies beside models: a projector of images, statistics of activations.
NO_MODEL = re.compile(r"(?<![^\W_])(mmproj|imatrix)(?![^\W_])", re.I)
Say = Callable[..., None]  # `note`, which writes a line to standard error, unless the command is to be quiet

# Control characters, line ends, and marks that change the direction of what follows.


class Notes(io.FileIO):
    """Standard error, which never fails: a note that nobody can read must not cost the text."""

    def write(self, data) -> int:
        """As many bytes as there are, written or not."""
        with suppress(OSError):
            return super().write(data)
        return len(data)


def open_standard_streams() -> None:
    """Standard streams as every command needs them: there, in UTF-8, and with one purpose each.

    A stream that the caller has closed is None to Python, and its number would go to the next file that is
    opened. In its place comes one from which nothing can be read, or to which nothing can be written: a text
    for a closed standard output is an error, since it is lost.
    """
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (it stays open)
    for name, errors in (("stdin", "replace"), ("stdout", None), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):  # a test's stand-in for a stream has none
            stream.reconfigure(encoding="utf-8", errors=errors)
    if sys.stderr is sys.__stderr__ or sys.__stderr__ is None:
        raw = io.BufferedWriter(Notes(2, "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)


def command_line(parser: argparse.ArgumentParser, run, argv=None, check=lambda args: None) -> int:
    """Parse, `check(args)`, `run(args, given, say)`, of sampling what was given; returns the exit status."""

    def work():
        """All of it, under `status_of`."""
        args = parser.parse_args(argv)
        read_escapes(args)
        for name, texts in texts_of(args).items():
            for text in texts:
                decoded(TEXTS[name], os.fsencode(text))
        read_constraint(args)
        try:
            check(args)
            given = sampling_given(args)
            stop_strings(getattr(args, "stop", ()))
        except ValueError as error:
            parser.error(str(error))
        if args.threads is not None:
            restart_with_threads(args.threads)
        if args.quiet:
            warnings.showwarning = lambda *_: None
        return run(args, given, (lambda *_, **__: None) if args.quiet else note)

    return status_of(work)


def note(text: str, dim: bool = False) -> None:
    """Write a line to standard error; what it quotes may be a stranger's, so it is plain text on one line."""
    text = on_one_line(text)
    print(dimmed(text) if dim else text, file=sys.stderr, flush=True)


def dimmed(text: str) -> str:
    """The text as a terminal shows it dimmed."""
    return f"\033[2m{text}\033[0m" if text else text


def status_of(work: Callable[[], int]) -> int:
    """The exit status of `work()`; what goes wrong is one line: what, where and what to do."""
    open_standard_streams()
    warnings.showwarning = lambda message, *_: note(f"warning: {message}")
    before, interrupts = raise_interrupts()
    try:
        return _finished(work)
    except BrokenPipeError:  # the reader of our output has seen enough
        _forget_output()
        return 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if interrupts:
            return 130
        note(f"error: {sentence(error)}")
        _forget_output()
        return 1
    finally:
        handle_again(before)


def _forget_output():
    """What standard output does not take, although it was told once, is not told again when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _finished(work):
    """The status of the work; what it printed is out, or an error, also where --help ends it."""
    try:
        status = work()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return status


def sentence(error: Exception) -> str:
    """What an error says, or what it should have said."""
    if isinstance(error, MemoryError):
        return str(error) or "not enough memory"
    if str(error) == "can't start new thread":
        return "this process may start no more threads (see ulimit -u, or the limits of the container)"
    if isinstance(error, OSError) and error.errno == errno.EBADF:
        return "standard output is closed, so the text is lost; send it to a file or to /dev/null"
    return str(error) or type(error).__name__


def open_model(args: argparse.Namespace, say: Say) -> tuple[LLM, float]:
    """The model that was asked for, fetched if need be, and the seconds it took to load."""
    path = find_model(args.model, say, args.quiet)
    begin = time.perf_counter()
    options = {"weights": args.weights, "context_length": args.context, "threads": args.threads}
    llm = load(path, progress=not args.quiet, **options)
    return llm, time.perf_counter() - begin


def open_draft_model(args: argparse.Namespace, say: Say) -> LLM | None:
    """The model that guesses ahead, if one was asked for."""
    if args.draft_model is None:
        return None
    return load(find_model(args.draft_model, say, args.quiet), threads=args.threads)


def find_model(name: str | None, say: Say, quiet: bool = False) -> str | Path:
    """The path of a model by its path, its name, or none: then the one model in models/."""
    if name is None:
        return the_one_model()
    if "://" in name:
        return name  # `load` says what to do with an address
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
        and not NO_MODEL.search(path.name)
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


def read_constraint(args: argparse.Namespace) -> None:
    """Read the file of --json-schema or --grammar. Raises ValueError, with its name, if it is wrong."""
    for name in ("json_schema", "grammar"):
        if path := getattr(args, name, None):
            from ..samplers.constraint import check  # here, because few texts have one

            setattr(args, name, read_text(path))
            try:
                check(Sampling(**{name: getattr(args, name)}))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None


def sampling_for(args: argparse.Namespace, llm: LLM, given: dict) -> Sampling:
    """The options of sampling; those of an answer know the markers of the thought it may begin with."""
    if is_answer(args) and llm.tokenizer.chat_template:
        from ..chat import reasoning_of  # here, because few texts are answers

        given = given | {"thought": reasoning_of(llm.tokenizer.chat_template)}
    return llm.sampling(**given)


def cached_prompt(args: argparse.Namespace, llm: LLM, ids: list[int], encode) -> tuple[KVCache | None, int]:
    """A cache with all of a prompt but its last token, and how many tokens of it the file had; without
    --prompt-cache there is none.

    `encode(prompt)` gives the ids of another prompt; what they begin with, too, is what most will share.
    """
    if not args.prompt_cache or len(ids) > llm.context_length:  # which will be refused
        return None, 0
    from ..speed.cache_file import n_common, read_ahead  # here, because few prompts are kept

    def n_fixed():
        """Tokens of the system message and the markup: of two other prompts one at least begins otherwise."""
        return min(n_common(ids, encode(other)) for other in ("?", "A b")) if is_answer(args) else 0

    return read_ahead(llm, args.prompt_cache, ids[:-1], n_fixed)


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

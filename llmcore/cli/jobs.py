"""The command `python -m llmcore batch IN.jsonl OUT.jsonl --model M`: answer the requests of a file.

IN has a request on each line, in OpenAI's batch format or plain ({"prompt": ...}, {"messages": ...}), or is a
parquet file with these as columns. OUT gets an answer on each line, in the order of IN; the answer to a bad
line says what is wrong with it. Whatever ends the work, the same command goes on with it: no line is lost or
doubled. --ray has it done by the machines of a Ray cluster, with the same answers.

Exit status: 0 once all lines are answered, 1 for a bad file, 2 for bad arguments, 130 on Ctrl-C.
"""

import argparse
import hashlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..loader import GGUF, read_gguf
from .batch import BATCH
from .choices import Defaults
from .command import Say, command_line, find_model, open_model
from .journal import append, n_done, open_answers
from .lines import Answer, Job, answers
from .options import Parser, add_options, count
from .records import read_records
from .report import said_by_file

SAMPLE = 4096  # bytes of each tensor that tell a model from another; reading all would take minutes


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line(_parser(), run, argv, check)


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for options that mean nothing here."""
    for name in ("draft", "draft_model"):
        if getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} is for one prompt, not for many that are written together")
    if args.cpus is not None and args.ray is None:
        raise ValueError("--cpus is for --ray; here --threads says with how many threads to compute")
    if args.threads is not None and args.ray is not None:
        raise ValueError("--threads is for this machine; with --ray, --cpus says how many a model gets")
    if args.output.suffix == ".parquet":
        raise ValueError(f"{args.output}: answers are lines of JSON, which can be added to; name it .jsonl")


def run(args: argparse.Namespace, given: dict, say: Say) -> int:
    """Find what is done, answer the rest, report."""
    if args.output.exists() and args.output.samefile(args.input):
        raise ValueError(f"{args.output} is the input, too; name another file for the answers")
    args.model = str(Path(find_model(args.model, say, args.quiet)).absolute())
    job, n_all = describe(args, given)
    if not n_all:
        raise ValueError(f"{args.input}: there is no request in it; write one on each line")
    with open_answers(args.output) as file:
        before = n_done(args.output, file, job, read_records(args.input))
        if before:
            say(f"{args.output}: {before} of {_lines(n_all)} done before")
        if before == n_all:
            return 0
        rest = itertools.islice(read_records(args.input), before, None)
        source = _here(args, given, job, rest, say) if args.ray is None else _on_ray(args, job, rest, say)
        return write(args, file, source, before, n_all, say)


def describe(args: argparse.Namespace, given: dict) -> tuple[Job, int]:
    """The job, and how many lines it has. The same input, model and options have the same name."""
    defaults = Defaults(
        sampling=given,
        max_tokens=args.max_tokens,
        seed=args.seed,
        stop=args.stop,
        ignore_eos=args.ignore_eos,
        chat=args.chat or args.system is not None,
        system=args.system,
        template=dict(args.template),
    )
    digests = (
        _digest(pieces_of(args.input)),
        _digest(marks_of(read_gguf(args.model))),
        _digest([repr((defaults, args.context)).encode()]),
    )
    job = Job("".join(digests), Path(args.model).stem, defaults)
    return job, sum(1 for _ in read_records(args.input))


def pieces_of(path: Path) -> Iterator[bytes]:
    """What is in a file, a megabyte at a time."""
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            yield data


def marks_of(file: GGUF) -> Iterator[bytes]:
    """What tells a model from others: all of its HEAD, and the first bytes of each tensor."""
    for key, value in file.metadata.items():
        yield key.encode()
        for item in value if isinstance(value, list) else [value]:
            yield item.tobytes() if isinstance(item, np.ndarray) else repr(item).encode()
    for name, tensor in file.tensors.items():
        yield f"{name} {tensor.type} {tensor.shape}".encode()
        yield tensor.data.reshape(-1)[:SAMPLE].tobytes()


def _digest(pieces):
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()[:8]


def _here(args, given, job, records, say):
    """The answers to the records, by a model in this process."""
    llm, seconds = open_model(args, say)
    for line in said_by_file(llm, given):
        say(line)
    say(f"weights: {llm.held}; loaded in {seconds:.2f} s")
    return answers(llm, job, records, args.batch)


def _on_ray(args, job, records, say):
    """The same, by the machines of a Ray cluster."""
    from .fleet import answers_on_ray  # here, because one machine needs no fleet

    return answers_on_ray(args, job, records, say)


def write(args, file, source, before: int, n_all: int, say: Say) -> int:
    """Add the answers to the file as they come; returns the exit status."""
    begin, bad, n_tokens, n, status = time.perf_counter(), list[Answer](), 0, before, 0
    try:
        with tqdm(total=n_all, initial=before, unit="line", disable=True if args.quiet else None) as bar:
            for answer in source:
                append(file, answer.line)
                n, n_tokens = n + 1, n_tokens + answer.n_tokens
                bad += [answer] if answer.problem else []
                bar.update()
    except KeyboardInterrupt:
        status = 130
    seconds = time.perf_counter() - begin
    if bad:
        say(f"not answered: {_lines(len(bad))}; the first is line {bad[0].n}: {bad[0].problem}")
    end = f" | interrupted at {n} of {n_all}; the same command goes on" if status else ""
    speed = f"({n_tokens / seconds:.1f} tokens/s)"
    say(f"{_lines(n - before)} of {n_tokens} tokens in {seconds:.2f} s {speed}{end}")
    return status


def _lines(n):
    return f"{n} line" if n == 1 else f"{n} lines"


def _parser():
    lines = (
        'Lines of IN: {"prompt": "..."} or {"messages": [...]}, with max_tokens, temperature and so on;'
        ' or OpenAI\'s {"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}.'
    )
    what = "Answer the requests of a file, a line each."
    parser = Parser("python -m llmcore batch", description=what, epilog=lines)
    parser.add_argument(
        "input", metavar="IN", type=Path, help="requests: .jsonl (OpenAI's, plain) or .parquet"
    )
    parser.add_argument(
        "output", metavar="OUT", type=Path, help="answers: .jsonl; if it is there, go on with it"
    )
    parser.add_argument(
        "--batch", metavar="N", type=count(1), default=BATCH, help="write N texts together (%(default)s)"
    )
    parser.add_argument("--chat", action="store_true", help="answer plain prompts, as a user's messages")
    parser.add_argument("--ignore-eos", action="store_true", help="go on when the model ends its text")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const="",
        help="have a Ray cluster do it: the one at ADDRESS, else the one of this machine, else a new one",
    )
    parser.add_argument("--cpus", metavar="N", type=count(1), help="with --ray: cores for each model (1)")
    add_options(parser)
    return parser

"""How fast: `python scripts/bench.py --model M` measures llmcore, its roof, and with --peers other engines
beside it.

Tests, each done -r times, the engines taking turns, since only ratios from one run mean much on a shared
machine:
  start              process start to the first token of text, prompt "Hello" (seconds)
  load               opening the file and making it ready, in a new process each time (seconds)
  prefill P          reading a prompt of -p tokens
  decode N           writing -n tokens, one at a time, after a prompt of 8
  decode N after C   after C tokens, for each C of --context (read once; the runs follow in the same text)
  decode N, text that repeats itself   plain, and with drafts (--draft)
  K x decode N       after K prompts of 8 tokens, prompts included: one alone, and --batch K together
The roof is the model's matrix products alone, with P rows and with one. The peers llama.cpp and transformers
are looked for in this Python, or in the one that --peers llama.cpp=PYTHON names; the peer gguf reads the
file's HEAD with gguf.GGUFReader. An engine that has spent 10 seconds on starting or loading does not do it
again.

With --profile there are no tests, but a table of where the time of prefill and decode goes.
"""

import argparse
import importlib.util
import json
import sys
from contextlib import closing
from pathlib import Path

import command_line
from benchmark import report
from benchmark.process import EngineFailed, Worker, missing
from benchmark.runs import PEERS, Bench

from llmcore.cli.options import draft_tokens
from llmcore.speed.drafting import DRAFT
from llmcore.speed.holding import WEIGHTS


def main() -> None:
    """Run the command line."""
    parser = _parser()
    args = parser.parse_args()
    refuse(parser, args)
    command_line.run(lambda: (profile if args.profile else bench)(args))


def bench(args) -> None:
    """Measure, and report in the way that was asked for."""
    pythons = {"llmcore": sys.executable} | dict(args.peers)
    with closing(Bench(args, pythons)) as run:
        for engine in args.peers:
            if engine != "gguf" and (why := missing(engine, pythons[engine])):
                run.leave_out(engine, why)
        run.measure()
    result = report.result(run)
    print(json.dumps(result, indent=1) if args.json else "\n".join(report.lines(result)))
    if args.plot:
        report.plot(result, args.plot)


def profile(args) -> None:
    """Where the time goes."""
    options = {"weights": args.weights, "threads": args.threads, "context": max(args.p, args.n + 8) + 8}
    try:
        with closing(Worker("llmcore", sys.executable, args.model, options)) as worker:
            tables = worker.ask("profile", p=args.p, n=args.n, runs=args.r)
    except EngineFailed as error:
        raise EngineFailed(f"llmcore: {error}") from None
    if args.json:
        print(json.dumps(tables, indent=1))
        return
    from benchmark.profiler import lines

    print("\n\n".join("\n".join(lines(test, table)) for test, table in tables.items()))


def refuse(parser, args) -> None:
    """Say what cannot be done before a minute is spent on what can."""
    if not Path(args.model).is_file():
        parser.error(f"--model {args.model}: there is no such file")
    if args.profile and (args.peers or args.context or args.draft or args.batch or args.plot):
        parser.error("--profile stands alone: it takes no --peers, --context, --draft, --batch or --plot")
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install -e '.[plot]'")
    if args.plot and not Path(args.plot).parent.is_dir():
        parser.error(f"--plot {args.plot}: there is no such folder")
    if args.plot and Path(args.plot).suffix != ".png":
        parser.error(f"--plot {args.plot}: the name must end in .png")


def _whole(text):
    """An argument type: a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _wholes(text):
    """An argument type: several of them."""
    return [_whole(part) for part in text.split(",")]


def _peers(text):
    """An argument type: NAME=PYTHON,... or NAME,... as {name: interpreter}."""
    found = {}
    for part in text.split(","):
        name, _, python = part.partition("=")
        if name not in PEERS:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not NAME or NAME=PYTHON with one of {', '.join(PEERS)}"
            )
        found[name] = python or sys.executable
    return found


def _parser():
    parser = argparse.ArgumentParser(
        prog="bench.py", description="Measure llmcore, its roof, and peers beside it."
    )
    add = parser.add_argument
    add("--model", required=True, metavar="M", help="a GGUF file")
    add("-p", type=_whole, default=512, metavar="N", help="tokens of the prefill test (%(default)s)")
    add("-n", type=_whole, default=64, metavar="N", help="tokens of the decode test (%(default)s)")
    add("-r", type=_whole, default=5, metavar="N", help="runs of each test (%(default)s)")
    add("--weights", choices=WEIGHTS, help="how llmcore holds weights")
    add("--threads", type=_whole, metavar="N", help="threads of every engine; else one a core")
    add("--context", type=_wholes, default=[], metavar="N,...", help="also decode after N tokens")
    add(
        "--draft",
        type=draft_tokens,
        metavar="lookup[:N]",
        help=f"also decode with drafts of N tokens ({DRAFT})",
    )
    add("--batch", type=_whole, metavar="N", help="also decode N prompts together")
    add("--peers", type=_peers, default={}, metavar="NAME[=PYTHON],...", help=f"of {', '.join(PEERS)}")
    add("--json", action="store_true", help="print JSON and nothing else")
    add("--plot", metavar="OUT.png", help="also draw a picture")
    add("--profile", action="store_true", help="tell where a token's time goes, instead")
    return parser


if __name__ == "__main__":
    main()

"""How a command runs: parse, open the model, work, and one line and an exit status for what goes wrong."""

import os
import sys
import time
import warnings
from pathlib import Path

from ..llm import LLM, load
from ..sampling import Sampling
from ..speed.machine import restart_with_threads
from ..writing import until_stop
from .hub import HUB, model_file

def command_line(parser, run, argv, check=lambda args: None) -> int:
    """Parse, `check(args)`, `run(args, sampling, say)`, and turn what goes wrong into one line and an exit status."""
    args = parser.parse_args(argv)
    try:
        check(args)
        sampling = Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.repeat_penalty)
        until_stop((), args.stop)  # refuses an empty stop string before a model is loaded
    except ValueError as error:
        parser.error(str(error))
    if args.threads is not None:
        restart_with_threads(args.threads)
    say = (lambda text: None) if args.quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    warnings.showwarning = lambda message, *_: say(f"warning: {message}")
    try:
        return run(args, sampling, say)
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


def open_model(args, say) -> tuple[LLM, float]:
    """The model that was asked for, fetched if it is on the hub, and the seconds it took to load."""
    path = args.model or the_one_model()
    if args.model and args.model.startswith(HUB):
        path = model_file(args.model, MODELS, say, progress=not args.quiet)
    begin = time.perf_counter()
    options = {"weights": args.weights, "context_length": args.context, "threads": args.threads}
    llm = load(path, progress=not args.quiet, **options)
    return llm, time.perf_counter() - begin


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
MODELS = Path("models")

"""A file of requests answered by the machines of a Ray cluster, with the answers of one machine.

Ray Data does all that is of machines: it starts a model in each of its actors, hands lines to those that are
free, gives a dead machine's lines to another, and returns the answers in the order of the lines. The model's
file must be at the same path on all of them, and llmcore be installed.
"""

import logging
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from typing import Any

from ..llm import LLM, load
from .command import Say, sentence
from .lines import Answer, Job, answers
from .records import Record

LINES = 4  # times the texts written together: what an actor is given at a time, and does again if it dies
ADDRESS, SECONDS = re.compile(r"(?:ray://)?([^/:]+):(\d+)"), 10
FAILED = -1  # the line number of an answer that tells why its machine can answer nothing


class Answerer:
    """A model in a process of its own, which answers lines: an actor of Ray."""

    def __init__(self, path: str, job: Job, batch: int, options: dict):
        """Load the model; `options` are those of `load`. What goes wrong is told by the first answer."""
        self.job, self.batch, self.problem = job, batch, ""
        self.llm: LLM | None = None
        try:
            self.llm = load(path, **options)
        except (ValueError, OSError, MemoryError) as error:
            self.problem = sentence(error)

    def __call__(self, table) -> dict[str, list]:
        """The answers to a table (of Arrow) of records."""
        records, found = [Record(**row) for row in table.to_pylist()], list[Answer]()
        try:
            found = list(answers(self.llm, self.job, records, self.batch)) if self.llm else []
        except (ImportError, OSError, MemoryError) as error:
            self.problem = sentence(error)
        if self.problem:
            found = [Answer(FAILED, b"", 0, self.problem)]
        return {name: [getattr(answer, name) for answer in found] for name in Answer.__dataclass_fields__}


def answers_on_ray(args, job: Job, records: Iterable[Record], say: Say) -> Iterator[Answer]:
    """The answers to the records, in their order. Raises ImportError, and ValueError for what goes wrong."""
    ray = _ray()
    with redirect_stdout(sys.stderr):  # where Ray tells of machines that die
        _connect(ray, args.ray, say)
        try:
            for answer in _answers(ray, args, job, records):
                if answer.n == FAILED:
                    raise ValueError(f"a machine of the cluster can answer nothing: {answer.problem}")
                yield answer
        except ray.exceptions.RayError as error:
            raise ValueError(f"the cluster of Ray gave up: {_cause(error)}") from None
        finally:
            ray.shutdown()


def _answers(ray, args, job, records):
    cpus, size = args.cpus or 1, args.batch * LINES
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    rows = [{"n": record.n, "data": record.data, "problem": record.problem} for record in records]
    options: dict[str, Any] = {"weights": args.weights, "context_length": args.context, "threads": cpus}
    free = int(ray.available_resources().get("CPU", 0)) // cpus
    found = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // size)).map_batches(
        Answerer,
        fn_constructor_args=(args.model, job, args.batch, options),
        batch_size=size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=None, initial_size=max(free, 1)),
        num_cpus=cpus,
    )
    for table in found.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from (Answer(**row) for row in table.to_pylist())


def _ray():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that we start reports to nobody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong is told by an exception
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError('--ray needs Ray; get it with: pip install "llmcore[ray]"') from None
    return ray


def _connect(ray, address, say):
    """Join the cluster at the address; without one that of this machine, else a new one."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        if found := ADDRESS.fullmatch(address):
            socket.create_connection((found[1], int(found[2])), SECONDS).close()  # Ray would ask for minutes
        ray.init(address or None, logging_level=logging.CRITICAL, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"no cluster of Ray at {address or 'this machine'}: {_cause(error)}") from None
    nodes = [node for node in ray.nodes() if node["Alive"]]
    say(f"ray: {len(nodes)} machines, {ray.cluster_resources().get('CPU', 0):g} cores")


def _cause(error):
    """The last line of an error that came through several processes: what went wrong in the first."""
    lines = sentence(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__

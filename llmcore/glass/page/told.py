"""What several scenes work out of a run together, once: the stream as a sum, its votes, its lens.

Shape key: R rows kept, P points of the stream, D model width, V vocabulary.
"""

import functools
from typing import Any

import numpy as np

from ...model import prefill
from ..lens import RowLens, row_lens
from ..memory import Memory
from ..recording import Run
from ..stream import POINTS, Point, points_in
from ..votes import RowVotes, row_votes
from .run import candidates

LENS_PRODUCTS = 6e10  # additions and multiplications that the lens may take: a second, or two
HEAD_PRODUCTS = 4e10  # and the votes of heads
OF_VOTES = frozenset({*POINTS, "kqv_out", "attn_out"})


def once(work):
    """The same function of a run, worked out once for each run."""

    @functools.wraps(work)
    def found(run: Run) -> Any:
        if work.__name__ not in run.worked_out:
            run.worked_out[work.__name__] = work(run)
        return run.worked_out[work.__name__]

    return found


@once
def points(run: Run) -> list[Point]:
    """The stream after the embedding and after each half layer, (R, D) each."""
    return points_in(run.kept, run.llm.config)


@once
def targets(run: Run) -> np.ndarray:
    """(R, 2): the token that came after each row, and the likeliest other one."""
    pairs = zip(run.targets, candidates(run), strict=True)
    return np.array([[target, next(int(i) for i in found["ids"] if i != target)] for target, found in pairs])


def last_rows(run: Run, cost_of_one: float, most: float) -> int:
    """The first of the last rows that `most` is enough for; at least those that the model wrote after.

    A page that would cost too much keeps less of the prompt, from its beginning.
    """
    n = max(run.n_new, int(most / max(cost_of_one, 1e-9)))
    return max(0, len(run.rows) - n)


def first_steps(run: Run, bytes_of_one: int, most: int) -> list[int]:
    """Rows that the model wrote after: the first of them, as many as `most` bytes are enough for, at least
    one.
    """
    rows = sorted(run.step_rows)
    return rows[: max(1, most // max(bytes_of_one, 1))]


@once
def lens(run: Run) -> tuple[int, RowLens]:
    """The first row that the lens reads, and the lens from there on."""
    config = run.llm.config
    cost = 2 * len(points(run)) * config.d_model * config.vocab_size
    start = last_rows(run, cost, LENS_PRODUCTS)
    return start, row_lens(run.llm, _from(points(run), start), targets(run)[start:])


@once
def votes(run: Run) -> tuple[int, RowVotes]:
    """The first row whose heads' votes are counted, and the votes of all rows from there on."""
    found = {key: rows for key, rows in run.kept.items() if key[0] == "kqv_out"}
    heads = [run.llm.config.layers[layer].mixer for _, layer in found]
    n_heads = [getattr(plan, "attention", plan).n_heads for plan in heads]
    widths = [rows.shape[1] for rows in found.values()]
    cost = sum(2 * n * width * run.llm.config.d_model for n, width in zip(n_heads, widths, strict=True))
    start = last_rows(run, cost, HEAD_PRODUCTS)
    kept = {key: rows[start:] for key, rows in run.kept.items() if key[0] in ("kqv_out", "attn_out")}
    return start, row_votes(run.llm, _from(points(run), start), kept, targets(run)[start:])


def _from(found: list[Point], start: int) -> list[Point]:
    return [Point(point.piece, point.layer, point.x_TD[start:]) for point in found]


@once
def memory(run: Run) -> Memory:
    """What recurrent layers keep, followed through the passes of the run, gone through once more."""
    found = Memory(run.llm, run.rows)
    watched = run.llm.watched(found.see, found.names)
    cache, ids = watched.empty_cache(), np.array(run.ids[:-1])
    for part in np.split(ids, np.arange(run.n_prompt, len(ids))):
        if len(part):
            list(prefill(watched.weights, run.llm.config, part.tolist(), cache))
    return found

"""What a recurrent layer keeps: how its state grows and fades, and how much of each token is left in it.

Shape key: R rows kept, C columns, H heads or groups of them.
"""

import sys

import numpy as np

from ...memory import INPUTS, Kept, recurrent_of
from ...recording import Run
from ..arrays import exact, shares
from ..told import memory

WANTED: frozenset[str] = frozenset()
LANES = 400_000  # bytes for what heads keep
PATTERNS = 800_000  # bytes for what is left of tokens and what is read of them


def part(run: Run) -> dict | None:
    """All recurrent layers, from row `start` on where all rows would be too much."""
    found = memory(run).kept if has_states(run) else {}
    if not found:
        return None
    n_rows, start, size = len(run.rows), len(run.rows), 0
    while start and (start > min(run.step_rows) or size + 6 * len(found) * start <= PATTERNS):
        size, start = size + 6 * len(found) * start, start - 1
    plan, _ = recurrent_of(run.llm, min(found))
    kind = type(plan).__module__.rsplit(".", 1)[1]
    lanes = len(next(iter(found.values())).lanes[0])
    lanes_from = max(0, n_rows - max(run.n_new, LANES // (2 * lanes * len(found))))
    states = {i: memory(run).states[i] for i in found}
    return {
        "kind": kind,
        "start": start,
        "lanes_from": lanes_from,
        "shape": list(next(iter(states.values())).shape),
        "numbers": sum(state.size for state in states.values()),
        "layers": {i: of_layer(run, kept, start, lanes_from) for i, kept in sorted(found.items())},
    }


def has_states(run: Run) -> bool:
    """Whether a layer of the model has a state."""
    plans = (recurrent_of(run.llm, i)[0] for i in range(len(run.llm.config.layers)))
    return any(isinstance(plan, tuple(INPUTS)) for plan in plans)


def of_layer(run: Run, kept: Kept, start: int, lanes_from: int) -> dict:
    """One layer: sizes of all rows; shares kept by head; triangles of what is left and of what is read."""
    left = [kept.left[row] for row in range(start, len(run.rows))]
    read = [with_between(run, row, kept.read[row]) for row in range(start, len(run.rows))]
    return {
        "size": exact(kept.size),
        "written": exact(kept.written),
        "lanes": shares(np.stack(kept.lanes[lanes_from:])),
        "left": shares(np.concatenate(left)),
        "read": exact(np.concatenate(read)),
    }


def with_between(run: Run, row: int, read_M: np.ndarray) -> np.ndarray:
    """What a row reads, by column: the tokens between have what is missing to 1."""
    if not run.n_between or row == 0:
        return read_M
    return np.concatenate([read_M[:1], [1 - read_M.sum()], read_M[1:]])


def code(run: Run) -> list:
    """The recurrence of the model's kind."""
    from ....mixers import delta_rule, duality

    plan, _ = recurrent_of(run.llm, min(memory(run).kept))
    module = sys.modules[type(plan).__module__]
    name = module.__name__.rsplit(".", 1)[1]
    if name == "mamba2":
        return [duality.scan_token, module.run]
    if name in ("deltanet", "kda"):
        return [delta_rule.scan_chunk, module.run]
    return [module.scan, module.run]

"""Scores become chances: e to the score, divided by the sum.

Shape key: R rows, P places on the curve.
"""

import numpy as np

from ....ops import softmax
from ...recording import Run
from ..arrays import exact
from ..run import logits_after

WANTED: frozenset[str] = frozenset({"l_out"})
PLACES = 96  # points of the curve of all scores


def part(run: Run) -> dict | None:
    """All scores after each row, sorted, at some places: the first, the last, and between them by powers."""
    V, steps = run.llm.config.vocab_size, run.step_rows
    places = np.unique(np.rint(np.geomspace(1, V, PLACES)).astype(int)) - 1
    others = [row for row in range(len(run.rows)) if row not in steps]
    found = dict(zip(others, logits_after(run, others), strict=True))
    curves = [
        np.sort(run.logits[steps[row]] if row in steps else found[row])[::-1][places]
        for row in range(len(run.rows))
    ]
    cap = run.llm.config.final_softcap
    return {
        "places": places.tolist(),
        "curves": exact(np.array(curves)),
        "softcap": None if cap is None else float(cap),
    }


def code(run: Run) -> list:
    """Softmax."""
    return [softmax]

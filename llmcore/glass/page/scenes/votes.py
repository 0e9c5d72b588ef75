"""Who voted for the next token: its score as a sum over the embedding, each half layer, each head.

Shape key: R rows kept, P points of the stream, N heads; the last axis is the token that came, and its rival.
"""

import numpy as np

from ...recording import Run
from ..arrays import exact
from ..told import OF_VOTES, points, votes

WANTED = OF_VOTES


def part(run: Run) -> dict | None:
    """Votes from row `start` on."""
    start, found = votes(run)
    return {
        "start": start,
        "points": [[point.piece, point.layer] for point in points(run)],
        "pieces": exact(found.pieces),  # (P, R, 2)
        "heads": {layer: exact(heads_RN2) for layer, heads_RN2 in sorted(found.heads.items())},
        "heads_are_all": [layer for layer in sorted(found.heads) if heads_are_all(run, layer)],
        "bias": exact(found.bias),
        "logits": exact(found.logits),
        "softcap": run.llm.config.final_softcap,
        "first": first_head(run),
    }


def heads_are_all(run: Run, layer: int) -> bool:
    """Whether a layer's mixer adds what its heads add: no bias, nothing beside attention."""
    weights = run.llm.weights.layers[layer].mixer
    return not hasattr(weights, "attention") and weights.attn_output.bias is None


def first_head(run: Run) -> dict:
    """The head with most to say for the first token written, rather than for its rival."""
    start, found = votes(run)
    row = min(run.step_rows) - start
    best = [
        (float(np.subtract(*heads_RN2[row].T).max()), layer, int(np.subtract(*heads_RN2[row].T).argmax()))
        for layer, heads_RN2 in found.heads.items()
    ]
    _, layer, head = max(best, default=(0.0, len(run.llm.config.layers) // 2, 0))
    return {"layer": layer, "head": head}


def code(run: Run) -> list:
    """The sum, and the product that turns it into a score."""
    from ....model import add, unembed

    return [add, unembed]

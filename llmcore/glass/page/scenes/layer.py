"""What happens in a layer: two halves add to the stream; how large it is after each; its numbers.

Shape key: R rows kept, W rows whose numbers are kept, P points of the stream, L layers, D model width.
"""

import numpy as np

from ...recording import Run
from ...stream import POINTS, scale_of
from ..arrays import drawn, exact
from ..told import first_steps, points

WANTED = frozenset(POINTS)
STRIPS = 400_000  # bytes for the numbers of the stream


def part(run: Run) -> dict | None:
    """Sizes of the stream and of what is added to it, and the stream itself for a few rows."""
    found, config = points(run), run.llm.config
    scales = [scale_of(run.llm, i) for i in range(len(config.layers))]
    x_PRD = [point.x_TD for point in found]
    before_PRD = [np.zeros_like(x_PRD[0]), *x_PRD[:-1]]
    ends = [p for p, point in enumerate(found) if p + 1 == len(found) or found[p + 1].layer != point.layer]
    strips = first_steps(run, len(ends) * config.d_model, STRIPS)
    return {
        "points": [[point.piece, point.layer] for point in found],
        "mixers": [kinds_of(plan.mixer) for plan in config.layers],
        "ffns": [None if plan.ffn is None else type(plan.ffn).__name__.lower() for plan in config.layers],
        "parallel": config.parallel,
        "scales": scales if any(scale != 1 for scale in scales) else None,
        "sizes": exact([np.linalg.norm(x_RD, axis=1) for x_RD in x_PRD]),
        "added": exact(
            [np.linalg.norm(x - before, axis=1) for x, before in zip(x_PRD, before_PRD, strict=True)]
        ),
        "strip_rows": strips,
        "strips": drawn(np.stack([x_PRD[p][strips] for p in ends], axis=1)),  # (W, L + 1, D)
    }


def kinds_of(mixer) -> list[str]:
    """The kinds of mixer that a layer has: none, one, or attention and another beside it."""
    if mixer is None:
        return []
    if hasattr(mixer, "mamba2"):
        return ["attention", "mamba2"]
    return [type(mixer).__module__.rsplit(".", 1)[1]]


def code(run: Run) -> list:
    """The block, and the sum."""
    from ....model import add, block

    return [block, add]

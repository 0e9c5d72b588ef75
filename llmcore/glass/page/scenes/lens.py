"""What the model would say after each half layer.

Shape key: R rows kept, P points of the stream, K best, F followed.
"""

from ...recording import Run
from ...stream import POINTS
from ..arrays import exact, whole
from ..run import texts_of
from ..told import lens, points

WANTED = frozenset(POINTS)


def part(run: Run) -> dict | None:
    """The lens from row `start` on."""
    start, found = lens(run)
    ids = {int(i) for i in found.top_ids.ravel()} | {int(i) for i in found.followed.ravel() if i >= 0}
    return {
        "start": start,
        "points": [[point.piece, point.layer] for point in points(run)],
        "top_ids": whole(found.top_ids),  # (P, R, K)
        "top": exact(found.top_probabilities),
        "followed": whole(found.followed),  # (R, F)
        "ranks": whole(found.ranks),  # (P, R, F)
        "chances": exact(found.probabilities),
        "last": exact(found.last_logits),  # (R, K)
        "tokens": texts_of(run, ids),
    }


def code(run: Run) -> list:
    """The product with the output matrix."""
    from ....model import unembed
    from ...lens import row_lens

    return [unembed, row_lens]

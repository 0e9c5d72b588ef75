"""What happened, from end to end, in seven boxes."""

import math

from ....sampling import filters_on
from ...recording import Run

WANTED: frozenset[str] = frozenset()


def part(run: Run) -> dict | None:
    """The figures of the boxes."""
    tensors = run.file.tensors.values()
    return {
        "bytes": sum(path.stat().st_size for path in {tensor.path for tensor in tensors}),
        "weights": sum(math.prod(tensor.shape) for tensor in tensors),
        "filters": filters_on(run.sampling),
    }


def code(run: Run) -> list:
    """The loop that does it all."""
    from ....writing import write

    return [write]

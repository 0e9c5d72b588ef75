"""What happened, from end to end, in seven boxes."""

import math

from ....ffn.experts import Experts
from ....mixers import kind_of
from ....sampling import filters_on
from ....writing import write
from ...recording import Run

WANTED: frozenset[str] = frozenset()


def part(run: Run) -> dict | None:
    """The figures of the boxes."""
    tensors, layers = run.file.tensors.values(), run.llm.config.layers
    mixers = [layer.mixer for layer in layers if layer.mixer is not None]
    return {
        "bytes": sum(path.stat().st_size for path in {tensor.path for tensor in tensors}),
        "weights": sum(math.prod(tensor.shape) for tensor in tensors),
        "mixers": sorted({kind_of(mixer).__name__.rpartition(".")[2] for mixer in mixers}),
        "ffn": any(layer.ffn is not None for layer in layers),
        "experts": any(isinstance(getattr(layer.ffn, "experts", layer.ffn), Experts) for layer in layers),
        "filters": filters_on(run.sampling),
    }


def code(run: Run) -> list:
    """The loop that does it all."""
    return [write]

"""And then the next token: what the cache keeps, so that only the new token is worked on."""

from ....cache import KVCache, Rows
from ....cli.inspect import row_bytes
from ....mixers.state import State
from ....model import CHUNK
from ....tokenizers.streaming import CONTEXT_FULL, END_OF_TEXT
from ...recording import Run

WANTED: frozenset[str] = frozenset()


def part(run: Run) -> dict | None:
    """What each layer keeps: rows, of a window or of all tokens, or a state; and the bytes."""
    llm = run.llm
    cache = llm.empty_cache()
    layers = []
    for layer, plan in zip(cache.layers, llm.config.layers, strict=True):
        inner = getattr(plan.mixer, "attention", plan.mixer)
        kind = "state" if isinstance(layer, State) else "rows"
        if plan.mixer is None or getattr(inner, "rows_of", None) is not None:
            kind = "none"
        elif inner is not plan.mixer:
            kind = "both"
        size = sum(array.nbytes for array in layer.arrays) if isinstance(layer, State) else 0
        layers.append(
            {
                "kind": kind,
                "window": getattr(inner, "window", None),
                "chunked": bool(getattr(inner, "chunked", False)),
                "row": row_bytes(plan.mixer),
                "state": size,
            }
        )
    return {
        "layers": layers,
        "context": llm.context_length,
        "shared": sum(getattr(p.mixer, "rows_of", None) is not None for p in llm.config.layers),
        "ended": run.end == END_OF_TEXT,
        "full": run.end == CONTEXT_FULL,
        "passes": -(-run.n_prompt // CHUNK),
        "chunk": CHUNK,
    }


def code(run: Run) -> list:
    """What the cache does with new rows, or with a state."""
    kinds = {type(layer) for layer in run.llm.empty_cache().layers}
    return [KVCache.append, *([Rows.append] if Rows in kinds else []), *([State] if State in kinds else [])]

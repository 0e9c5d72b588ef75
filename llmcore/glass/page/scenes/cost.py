"""What it cost: time of each step, measured when nobody looked on, and the weights that took part."""

import math

from ....ffn.experts import Experts
from ....model import CHUNK
from ....speed.holding import WAYS
from ....writing import write
from ...recording import Run

WANTED: frozenset[str] = frozenset({"l_out"})


def part(run: Run) -> dict | None:
    """Milliseconds, multiplications, and how the weights are held."""
    tensors = run.file.tensors
    matrices = {name: math.prod(t.shape) for name, t in tensors.items() if len(t.shape) > 1}
    looked_up = {name for name in matrices if "_embd" in name and name != run.llm.weights.output_rows.name}
    experts = {name: n for name, n in matrices.items() if "_exps" in name}
    dense = sum(n for name, n in matrices.items() if name not in experts and name not in looked_up)
    later = run.layer_seconds[-(run.n_new - 1) :] if run.n_new > 1 else run.layer_seconds[:0]
    used = 0
    for i, layer in enumerate(run.llm.config.layers):
        plan = getattr(layer.ffn, "experts", layer.ffn)
        if isinstance(plan, Experts):
            of_layer = sum(n for name, n in experts.items() if name.startswith(f"blk.{i}."))
            used += of_layer * plan.used // plan.count
    return {
        "ms": [1000 * seconds for seconds in run.seconds],
        "layers_ms": (1000 * later.min(axis=0)).tolist() if len(later) else None,
        "weights": dense + used,
        "passes": -(-run.n_prompt // CHUNK),
        "idle": sum(experts.values()) - used,
        "way": next((way for way in WAYS if run.llm.held.startswith(way)), ""),
    }


def code(run: Run) -> list:
    """The loop that was timed."""
    return [write]

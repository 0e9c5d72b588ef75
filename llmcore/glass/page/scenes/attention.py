"""Where each head looks: all shares of all heads, and of one head its queries, keys and values.

Shape key: R rows kept, C columns, S row of a triangle's start, N heads, K key/value heads, H head width, V
width of a value head, Z rotating pairs.
"""

import numpy as np

from ....mixers.heads import growth
from ....mixers.rope import rope_table
from ...recording import Run
from ..arrays import exact, shares
from ..told import votes

WANTED = frozenset({"kq_soft_max", "Qcur", "Kcur", "Vcur", "kqv_out"})
PATTERNS = 1_500_000  # bytes of all shares
SINGLE = 200_000  # bytes for single queries, keys and values


def part(run: Run) -> dict | None:
    """Shares of the last rows as far as they fit, and the products of a head for each token written."""
    patterns = run.stack("kq_soft_max")
    if not patterns:
        return None
    n_heads = sum(len(shares_NRC) for shares_NRC in patterns.values())
    start, size = len(run.rows), 0
    while start and (start > min(run.step_rows) or size + 2 * n_heads * start <= PATTERNS):
        size, start = size + 2 * n_heads * start, start - 1
    return {
        "start": start,
        "layers": {i: of_layer(run, i, patterns[i][:, start:]) for i in sorted(patterns)},
        "single": singles(run),
    }


def of_layer(run: Run, i: int, shares_NRC: np.ndarray) -> dict:
    """One layer: what can be seen of it at most, and its shares as far as a row can see."""
    plan = attention_plan(run, i)
    first = len(run.rows) - shares_NRC.shape[1]
    gap = 1 if run.n_between else 0
    widths = [row + 1 + (gap if row else 0) for row in range(first, len(run.rows))]
    flat_NS = np.concatenate([shares_NRC[:, r, :width] for r, width in enumerate(widths)], axis=1)
    return {
        "heads": plan.n_heads,
        "keys": getattr(plan, "n_kv_heads", None),
        "window": getattr(plan, "window", None),
        "rows_of": getattr(plan, "rows_of", None),
        "sinks": bool(getattr(plan, "sinks", False)),
        "shares": shares(flat_NS),
    }


def attention_plan(run: Run, i: int):
    """The plan of the attention of layer i, which may stand beside another mixer."""
    plan = run.llm.config.layers[i].mixer
    return getattr(plan, "attention", plan)


def singles(run: Run) -> list[dict]:
    """For each token written, as far as they fit, the head with most to say for it rather than its rival."""
    start, found = votes(run)
    made: list[dict] = []
    size = 0
    for row in sorted(run.step_rows):
        best = [
            (float((heads[row - start, :, 0] - heads[row - start, :, 1]).max()), layer)
            for layer, heads in found.heads.items()
        ]
        layer = max(best)[1]
        head = int(np.subtract(*found.heads[layer][row - start].T).argmax())
        made.append(single(run, row, layer, head))
        size += sum(4 * int(np.prod(x["s"])) for x in made[-1].values() if isinstance(x, dict))
        if size > SINGLE:
            break
    return made


def single(run: Run, row: int, layer: int, head: int) -> dict:
    """The query of a head at a row, and the keys and values of all rows up to there."""
    plan, source = attention_plan(run, layer), layer
    if getattr(plan, "rows_of", None) is not None:
        source = plan.rows_of
    latent = not hasattr(plan, "n_kv_heads")
    q_H = run.kept["Qcur", layer][row, head]
    temperature = getattr(plan, "temperature", None)
    if temperature is not None:
        q_H = q_H * growth(run.rows[row : row + 1], temperature)[0]
    of_key = 0 if latent else head // (plan.n_heads // plan.n_kv_heads)
    k_RH = run.kept["Kcur", source][: row + 1, of_key]
    made = {
        "row": row,
        "layer": layer,
        "head": head,
        "scale": float(plan.scale),
        "softcap": getattr(plan, "softcap", None),
        "query": exact(q_H),
        "keys": exact(k_RH),
        "angles": exact(angles(run, plan)),
        "pairs": plan.rope.pairs if plan.rope is not None else None,
        "rotated_from": plan.rank if latent else 0,
    }
    if not getattr(plan, "gated", False) and getattr(plan, "sub_norm_eps", None) is None:
        values_RV = (
            k_RH[:, : plan.rank] @ attention_weights(run, layer).attn_v_b[head].T
            if latent
            else run.kept["Vcur", source][: row + 1, of_key]
        )
        made["values"] = exact(values_RV)
        made["found"] = exact(run.kept["kqv_out", layer][row].reshape(plan.n_heads, -1)[head])
    return made


def attention_weights(run: Run, i: int):
    """The weights of the attention of layer i."""
    weights = run.llm.weights.layers[i].mixer
    return getattr(weights, "attention", weights)


def angles(run: Run, plan) -> np.ndarray:
    """By how much each pair is rotated from one position to the next, in radians; (Z,)."""
    if plan.rope is None:
        return np.zeros(0)
    return np.angle(rope_table(plan.rope, np.array([1]), run.llm.weights.rope_factors)[0])


def code(run: Run) -> list:
    """Where shares are made and taken, and the rotation of queries and keys."""
    from ....mixers.attend import attend_block
    from ....mixers.rope import rotate

    return [attend_block, rotate]

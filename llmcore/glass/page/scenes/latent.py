"""Latent attention: what is kept of a token is one small row, from which all heads' keys and values come."""

from ....mixers.latent import Latent
from ...recording import Run
from ..arrays import drawn
from ..told import first_steps

WANTED = frozenset({"Kcur"})


def part(run: Run) -> dict | None:
    """Sizes, and the rows that are kept at the tokens of the run."""
    plans = {
        i: layer.mixer for i, layer in enumerate(run.llm.config.layers) if isinstance(layer.mixer, Latent)
    }
    if not plans:
        return None
    plan = next(iter(plans.values()))
    n_rows = len(first_steps(run, len(plans) * (plan.rank + plan.n_position), 200_000))
    rows = list(range(max(0, len(run.rows) - max(n_rows, 6)), len(run.rows)))
    return {
        "heads": plan.n_heads,
        "rank": plan.rank,
        "position": plan.n_position,
        "key": plan.key_length,
        "value": plan.value_length,
        "query_rank": plan.query_rank,
        "rotates": plan.rope is not None,
        "rows": rows,
        "kept": {i: drawn(run.kept["Kcur", i][rows, 0]) for i in plans},
    }


def code(run: Run) -> list:
    """The whole mixer."""
    from ....mixers import latent

    return [latent.run]

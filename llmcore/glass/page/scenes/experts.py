"""Which experts work on a token: the router's scores, its choice, and how much each expert is heeded.

Shape key: R rows kept, E experts, U experts used.
"""

import numpy as np

from ...recording import Run
from ..arrays import exact, whole

WANTED = frozenset({"ffn_moe_logits", "ffn_moe_topk", "ffn_moe_weights"})
SHOWN = 12  # best scores of a router


def part(run: Run) -> dict | None:
    """The router of each layer that has one."""
    chosen = run.stack("ffn_moe_topk")
    return {"layers": {i: of_layer(run, i) for i in sorted(chosen)}} if chosen else None


def of_layer(run: Run, i: int) -> dict:
    """One layer."""
    plan = plan_of(run.llm.config.layers[i].ffn)
    logits_RE = run.kept["ffn_moe_logits", i]
    best_RB = np.argsort(-logits_RE, axis=1, kind="stable")[:, :SHOWN]
    return {
        "count": plan.count,
        "used": plan.used,
        "shared": plan.shared is not None,
        "groups": plan.groups,
        "ids": whole(run.kept["ffn_moe_topk", i]),
        "weights": exact(run.kept["ffn_moe_weights", i]),
        "sum": float(plan.scale) if plan.renormalize or plan.gating == "softmax of the chosen" else None,
        "chosen_scores": exact(np.take_along_axis(logits_RE, run.kept["ffn_moe_topk", i], axis=1)),
        "best": whole(best_RB),
        "scores": exact(np.take_along_axis(logits_RE, best_RB, axis=1)),
        "biased": biased(run, i),
    }


def plan_of(plan):
    """The plan of the experts, which may stand beside a dense feed-forward."""
    return getattr(plan, "experts", plan)


def biased(run: Run, i: int) -> bool:
    """Whether a bias takes part in the choice, so that the chosen need not have the best scores."""
    weights = run.llm.weights.layers[i].ffn
    return getattr(weights, "experts", weights).exp_probs_b is not None


def code(run: Run) -> list:
    """The router, and the sum of what the experts say."""
    from ....ffn.experts import mix, route

    return [route, mix]

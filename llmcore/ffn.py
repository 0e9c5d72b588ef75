"""The feed-forward half of a block: each token by itself, widened, bent, narrowed; or by a few experts of many.

Shape key: T new tokens, D model width, F feed-forward width, E experts, U experts used for a token,
X tokens that chose an expert.
"""

import numpy as np

from .config import Architecture, Experts
from .linear import across_rows, linear
from .ops import ACTIVATIONS, sigmoid, softmax
from .weights import FeedForward, Mixture


def dense_ffn(x_TD: np.ndarray, w: FeedForward, family: Architecture) -> np.ndarray:
    """act(x W_gate, x W_up) W_down, or without a gate act(x W_up) W_down; (T, D) -> (T, D)."""
    return linear(activate(linear(x_TD, w.ffn_up), family), w.ffn_down)


def activate(hidden_TX: np.ndarray, family: Architecture) -> np.ndarray:
    """act(gate, up) of a row that holds both, (T, 2F) -> (T, F); act(up) in a family without gates."""
    act = ACTIVATIONS[family.activation]
    if not family.gated:
        return across_rows(act, hidden_TX)
    F = hidden_TX.shape[1] // 2
    return across_rows(act, hidden_TX[:, :F], hidden_TX[:, F:])


def mixture_of_experts(x_TD: np.ndarray, w: Mixture, family: Architecture, experts: Experts) -> np.ndarray:
    """The sum of what the chosen experts say, each times its weight; (T, D) -> (T, D). arXiv:1701.06538.

    Rows are grouped by expert: an expert is multiplied once for all the tokens that chose it, others not at all.
    """
    chosen_TU, weights_TU = route(linear(x_TD, w.ffn_gate_inp), experts, w.exp_probs_b)
    y_TD = np.zeros_like(x_TD)
    for e in np.unique(chosen_TU):
        rows, slots = np.nonzero(chosen_TU == e)
        out_XD = linear(activate(linear(x_TD[rows], w.ffn_up_exps[e]), family), w.ffn_down_exps[e])
        y_TD[rows] += weights_TU[rows, slots][:, None] * out_XD
    if w.shared is not None:
        shared_TD = dense_ffn(x_TD, w.shared, family)
        y_TD += shared_TD * sigmoid(linear(x_TD, w.ffn_gate_inp_shexp)) if family.shared_gate else shared_TD
    return y_TD


def route(logits_TE: np.ndarray, experts: Experts, exp_probs_b=None) -> tuple[np.ndarray, np.ndarray]:
    """Which experts each token uses and how much it heeds them; (T, E) -> ids (T, U), weights (T, U).

    The bias exp_probs_b (E,) takes part in the choice and not in the weights (DeepSeek-V3, arXiv:2412.19437).
    """
    probs_TE = logits_TE
    if experts.gating == "softmax":
        probs_TE = softmax(logits_TE)
    elif experts.gating == "sigmoid":
        probs_TE = sigmoid(logits_TE)
    scores_TE = probs_TE if exp_probs_b is None else probs_TE + exp_probs_b
    if experts.groups > 1:
        scores_TE = keep_best_groups(scores_TE, experts.groups, experts.groups_used)
    chosen_TU = np.argsort(-scores_TE, axis=1, kind="stable")[:, : experts.used]
    weights_TU = np.take_along_axis(probs_TE, chosen_TU, axis=1)
    if experts.gating == "softmax of the chosen":
        weights_TU = softmax(weights_TU)
    if experts.renormalize:
        weights_TU = weights_TU / np.maximum(weights_TU.sum(axis=1, keepdims=True), np.float32(2**-14))
    return chosen_TU, weights_TU * np.float32(experts.scale)


def keep_best_groups(scores_TE, n_groups, n_used):
    """-inf for the experts of all groups but the n_used whose two best scores have the largest sums."""
    groups_TGE = scores_TE.reshape(len(scores_TE), n_groups, -1)
    sums_TG = np.sort(groups_TGE, axis=2)[:, :, -2:].sum(axis=2)
    best_TG = np.argsort(-sums_TG, axis=1, kind="stable")[:, :n_used]
    kept_TGE = np.full_like(groups_TGE, -np.inf)
    np.put_along_axis(
        kept_TGE, best_TG[:, :, None], np.take_along_axis(groups_TGE, best_TG[:, :, None], axis=1), axis=1
    )
    return kept_TGE.reshape(scores_TE.shape)

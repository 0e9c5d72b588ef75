"""A mixture of experts: a router chooses a few of many feed-forwards for each token, and weighs what they
say.

Shape key: T new tokens, D model width, F feed-forward width, E experts, U experts used for a token,
X tokens that chose an expert, Z latent width: what experts read and write, D where it is not another.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import UnsupportedModel
from ..linear import Float32, Matrix, linear
from ..mixers.step import Step
from ..ops import sigmoid, softmax
from . import dense
from .dense import Dense, activate

GATINGS = {1: "softmax", 2: "sigmoid", 3: "softmax of the chosen"}  # {arch}.expert_gating_func


@dataclass(frozen=True)
class Experts:
    """The plan of a mixture of experts: how each token chooses among several feed-forwards."""

    count: int  # {arch}.expert_count
    used: int  # {arch}.expert_used_count
    expert: Dense  # {arch}.expert_feed_forward_length
    shared: Dense | None  # {arch}.expert_shared_feed_forward_length: the expert that all tokens use
    shared_gate: bool  # whether it has a gate
    gating: str  # a value of GATINGS
    renormalize: bool  # {arch}.expert_weights_norm
    scale: float  # {arch}.expert_weights_scale
    groups: int  # {arch}.expert_group_count: experts stand in so many groups ...
    groups_used: int  # {arch}.expert_group_used_count: ... of which so many are chosen from
    early_router: bool = False  # the router reads the layer's input as it is
    weighted_inputs: bool = False  # weights multiply what experts read, not what they say
    latent: int | None = None  # {arch}.moe_latent_size: the width of what experts read and write, if not D


@dataclass(frozen=True)
class Weights:
    """The numbers of a mixture of experts; None where the plan or the file has no such part."""

    ffn_gate_inp: Matrix  # D -> E, the router
    exp_probs_b: np.ndarray | None  # (E,)
    ffn_up_exps: list[Matrix]  # E times D -> 2F: gate and up
    ffn_down_exps: list[Matrix]  # E times F -> D
    shared: dense.Weights | None  # the expert that all tokens use
    ffn_gate_inp_shexp: Matrix | None  # D -> 1, its gate
    ffn_latent_down: Matrix | None = None  # D -> Z
    ffn_latent_up: Matrix | None = None  # Z -> D


def read(keys, family, i: int) -> Experts:
    """The plan of layer i's mixture of experts. Raises ModelFileError and UnsupportedModel."""
    count, used = keys.get("expert_count", int), keys.of_layer("expert_used_count", int, i, least=1)
    groups = keys.get("expert_group_count", int, 1, least=0) or 1
    groups_used = keys.get("expert_group_used_count", int, groups, least=0) or groups
    if used > count or count % groups or groups_used > groups or used > groups_used * (count // groups):
        raise keys.error(
            "expert_used_count", f"is {used} of {count} in {groups_used} of {groups} groups: impossible"
        )
    n_ff = keys.of_layer("feed_forward_length", int, i, 0, least=0)
    n_ff_expert = keys.of_layer(
        "expert_feed_forward_length", int, i, n_ff // used if family.split_experts else n_ff, least=1
    )
    n_ff_shared = keys.get("expert_shared_count", int, int(family.shared_expert), least=0) * n_ff_expert
    n_ff_shared = keys.get(
        "expert_shared_feed_forward_length", int, n_ff if family.shared_gate else n_ff_shared
    )
    gating = keys.get("expert_gating_func", int, 0, least=0)
    if gating not in (0, *GATINGS):
        known = ", ".join(f"{number} ({meaning})" for number, meaning in GATINGS.items())
        raise UnsupportedModel(f"{keys.path}: expert_gating_func {gating} is not supported; we have {known}")
    return Experts(
        count=count,
        used=used,
        expert=Dense(n_ff_expert, family.activation, family.gated),
        shared=Dense(n_ff_shared, family.activation, family.gated) if n_ff_shared else None,
        shared_gate=family.shared_gate,
        gating=GATINGS.get(gating, family.gating),
        renormalize=keys.get("expert_weights_norm", bool, family.renormalize),
        scale=keys.get("expert_weights_scale", float, 0.0) or 1.0,
        groups=groups,
        groups_used=groups_used,
        early_router=family.early_router,
        weighted_inputs=family.weighted_inputs,
        latent=keys.get("moe_latent_size", int, 0, least=0) or None,
    )


def take(tensors, plan: Experts, d_model: int, blk: str) -> Weights:
    """The weights of a mixture of experts."""
    E, F, Z = plan.count, plan.expert.n_ff, plan.latent or d_model
    up = {"ffn_gate_exps": F, "ffn_up_exps": F} if plan.expert.gated else {"ffn_up_exps": F}
    gate = tensors.vector(blk + "ffn_gate_inp_shexp", d_model) if plan.shared and plan.shared_gate else None
    return Weights(
        ffn_gate_inp=tensors.matrix(blk + "ffn_gate_inp", d_model, E),
        exp_probs_b=tensors.vector(blk + "exp_probs_b", E, optional=True, suffix=".bias"),
        ffn_up_exps=tensors.experts(blk, "ffn_gate_up_exps", E, Z, up),
        ffn_down_exps=tensors.experts(blk, "ffn_down_exps", E, F, {"ffn_down_exps": Z}),
        shared=dense.take(tensors, plan.shared, d_model, blk, "_shexp") if plan.shared else None,
        ffn_gate_inp_shexp=None if gate is None else Matrix(d_model, 1, Float32(gate[None])),
        ffn_latent_down=tensors.matrix(blk + "ffn_latent_down", d_model, Z) if plan.latent else None,
        ffn_latent_up=tensors.matrix(blk + "ffn_latent_up", Z, d_model) if plan.latent else None,
    )


def run(x_TD: np.ndarray, w: Weights, plan: Experts, start_TD, step: Step, i: int) -> np.ndarray:
    """`mix` where the router reads what the experts read, or the layer's input."""
    return mix(x_TD, start_TD if plan.early_router else x_TD, w, plan, step, i)


def mix(x_TD: np.ndarray, router_TD: np.ndarray, w: Weights, plan: Experts, step: Step, i: int) -> np.ndarray:
    """The sum of what the chosen experts say, each times its weight; (T, D) -> (T, D). arXiv:1701.06538.

    Rows are grouped by expert: an expert is multiplied once for all the tokens that chose it, others not at
    all.
    """
    logits_TE = step.see("ffn_moe_logits", i, linear(router_TD, w.ffn_gate_inp))
    chosen_TU, weights_TU = route(logits_TE, plan, w.exp_probs_b)
    chosen_TU = step.see("ffn_moe_topk", i, chosen_TU)
    weights_TU = step.see("ffn_moe_weights", i, weights_TU)
    x_TZ = x_TD if w.ffn_latent_down is None else linear(x_TD, w.ffn_latent_down)
    y_TZ = np.zeros_like(x_TZ)
    for e in np.unique(chosen_TU):
        rows, slots = np.nonzero(chosen_TU == e)
        x_XZ, weights_X1 = x_TZ[rows], weights_TU[rows, slots][:, None]
        if plan.weighted_inputs:
            x_XZ, weights_X1 = x_XZ * weights_X1, np.ones_like(weights_X1)
        out_XZ = linear(activate(linear(x_XZ, w.ffn_up_exps[e]), plan.expert), w.ffn_down_exps[e])
        y_TZ[rows] += weights_X1 * out_XZ
    y_TD = step.see("ffn_moe_out", i, y_TZ if w.ffn_latent_up is None else linear(y_TZ, w.ffn_latent_up))
    if w.shared is not None and plan.shared is not None:
        shared_TD = dense.run(x_TD, w.shared, plan.shared, None, step, i)
        gate = w.ffn_gate_inp_shexp
        if gate is not None:
            shared_TD *= sigmoid(linear(x_TD, gate))
        y_TD = y_TD + step.see("ffn_shexp", i, shared_TD)
    return y_TD


def route(logits_TE: np.ndarray, plan: Experts, exp_probs_b=None) -> tuple[np.ndarray, np.ndarray]:
    """Which experts each token uses and how much it heeds them; (T, E) -> ids (T, U), weights (T, U).

    The bias exp_probs_b (E,) takes part in the choice and not in the weights (DeepSeek-V3, arXiv:2412.19437).
    """
    probs_TE = logits_TE
    if plan.gating == "softmax":
        probs_TE = softmax(logits_TE)
    elif plan.gating == "sigmoid":
        probs_TE = sigmoid(logits_TE)
    scores_TE = probs_TE if exp_probs_b is None else probs_TE + exp_probs_b
    if plan.groups > 1:
        scores_TE = keep_best_groups(scores_TE, plan.groups, plan.groups_used)
    chosen_TU = np.argsort(-scores_TE, axis=1, kind="stable")[:, : plan.used]
    weights_TU = np.take_along_axis(probs_TE, chosen_TU, axis=1)
    if plan.gating == "softmax of the chosen":
        weights_TU = softmax(weights_TU)
    if plan.renormalize:
        weights_TU = weights_TU / np.maximum(weights_TU.sum(axis=1, keepdims=True), np.float32(2**-14))
    return chosen_TU, weights_TU * np.float32(plan.scale)


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

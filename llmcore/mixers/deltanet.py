"""The gated delta net: the delta rule with one decay a head, between a short convolution and a gated norm.

    [q k v | z | beta | alpha] = x W_in      q, k, v <- silu(conv(q, k, v))      q, k <- q / |q|, k / |k|
    S, o = the delta rule with sigmoid(beta) and g = a softplus(alpha + dt)      y = (rms(o) * silu(z)) W_out

delta_rule.py says what the rule does, and why prompts may take it by chunks. The convolution, over the
last W tokens of each channel, lets a key carry what stands just before its token. Several value heads
share a query and key head. Yang et al. 2025, arXiv:2412.06464; Qwen3-Next and Qwen3.5 have three such
layers to each that attends.

Cached: S and the last W - 1 rows before the convolution, 4 (H P P + (W - 1) C) bytes a layer, 2.2 MB
for 32 value and 16 key heads of 128 and W = 4, and nothing a token.

Shape key: T new tokens, D model width, H value heads, K key heads, M = H + 2 K, P width of a head, U =
H P, W width of the convolution, C = M P numbers that pass through it.
"""

from dataclasses import dataclass

import numpy as np

from ..cache import State
from ..linear import Matrix, linear
from ..ops import rms_norm, sigmoid, silu
from .conv import causal_conv, softplus
from .delta_rule import of_length_1, scan, see_heads
from .keys import read_norm_eps
from .step import Step


@dataclass(frozen=True)
class DeltaNet:
    """The plan of a gated delta net."""

    n_heads: int  # {arch}.ssm.time_step_rank: value heads
    n_key_heads: int  # {arch}.ssm.group_count
    head_width: int  # {arch}.ssm.state_size, which {arch}.ssm.inner_size is n_heads times
    conv_width: int  # {arch}.ssm.conv_kernel
    grouped: bool  # value heads k J ... k J + J - 1 share key head k (J = H/K); else k, k + K, ... do
    eps: float
    rope: None = None  # positions do not rotate


@dataclass(frozen=True)
class Weights:
    """The numbers of a gated delta net."""

    ssm_in: Matrix  # D -> C + U + 2H: attn_qkv, attn_gate (z), ssm_beta, ssm_alpha
    order: np.ndarray | None  # (C + U + 2H,): where in its outputs these stand; None: as named
    ssm_conv1d: np.ndarray  # (C, W)
    ssm_dt: np.ndarray  # (H,), a bias
    ssm_a: np.ndarray  # (H,): a, negative
    ssm_norm: np.ndarray  # (P,)
    ssm_out: Matrix  # U -> D


def read(keys, family, i: int) -> DeltaNet:
    """The plan of layer i. Raises ModelFileError."""
    H, K, P = (
        keys.get(f"ssm.{name}", int, least=1) for name in ("time_step_rank", "group_count", "state_size")
    )
    if keys.get("ssm.inner_size", int) != H * P:
        raise keys.error("ssm.inner_size", f"is not ssm.time_step_rank {H} times ssm.state_size {P}")
    if H % K:
        raise keys.error("ssm.group_count", f"is {K}, which does not divide the {H} value heads")
    conv_width = keys.get("ssm.conv_kernel", int, least=2)
    return DeltaNet(H, K, P, conv_width, family.grouped_values, read_norm_eps(keys, family))


def take(tensors, plan: DeltaNet, d_model: int, blk: str) -> Weights:
    """The weights of the layer whose tensors begin with `blk`."""
    H, K, P = plan.n_heads, plan.n_key_heads, plan.head_width
    U, C, order = H * P, (H + 2 * K) * P, None
    parts = {"attn_qkv": C, "attn_gate": U, "ssm_beta": H, "ssm_alpha": H}
    if plan.grouped:
        # The outputs of a key head stand together: of older files q, k, v and z, of all beta and alpha.
        J, joined = H // K, blk + "ssm_in.weight" in tensors.file.tensors
        parts = (
            {"ssm_in": C + U, "ssm_ba": 2 * H} if joined else {"attn_qkv": C, "attn_gate": U, "ssm_ba": 2 * H}
        )
        first = by_kind(K, P, P, J * P, J * P) if joined else np.arange(C + U)
        order = np.concatenate([first, C + U + by_kind(K, J, J)])
    return Weights(
        ssm_in=tensors.fused(blk, "ssm_in", d_model, parts),
        order=order,
        ssm_conv1d=tensors.vector(blk + "ssm_conv1d", C, plan.conv_width),
        ssm_dt=tensors.vector(blk + "ssm_dt", H, suffix=".bias"),
        ssm_a=tensors.vector(blk + "ssm_a", H, suffix=""),
        ssm_norm=tensors.vector(blk + "ssm_norm", P),
        ssm_out=tensors.matrix(blk + "ssm_out", U, d_model),
    )


def by_kind(n_groups: int, *widths: int) -> np.ndarray:
    """Where outputs that stand group by group, of each kind so many, stand kind by kind.

    >>> by_kind(2, 1, 2).tolist()  # a bb a bb -> a a bb bb
    [0, 3, 1, 2, 4, 5]
    """
    at_GF = np.arange(n_groups * sum(widths)).reshape(n_groups, -1)
    return np.concatenate([part.ravel() for part in np.split(at_GF, np.cumsum(widths)[:-1], axis=1)])


def state(plan: DeltaNet) -> State:
    """What the cache keeps: S, and what the convolution still needs."""
    H, P = plan.n_heads, plan.head_width
    return State((H, P, P), (plan.conv_width - 1, (H + 2 * plan.n_key_heads) * P))


def run(x_TD: np.ndarray, w: Weights, plan: DeltaNet, step: Step, i: int) -> np.ndarray:
    """The gated delta net of layer i; (T, D) -> (T, D). A token sees no text but its own."""
    T, H, P = len(x_TD), plan.n_heads, plan.head_width
    U, C = H * P, w.ssm_conv1d.shape[0]
    in_TF = linear(x_TD, w.ssm_in)
    if w.order is not None:
        in_TF = in_TF[:, w.order]
    qkv_TC, z_TU, beta_TH, alpha_TH = np.split(in_TF, [C, C + U, C + U + H], axis=1)
    g_TH1 = step.see("gate", i, w.ssm_a * softplus(alpha_TH + w.ssm_dt))[:, :, None]
    beta_TH = step.see("beta", i, sigmoid(beta_TH))
    heads_H = np.arange(H)
    key_head_H = heads_H // (H // plan.n_key_heads) if plan.grouped else heads_H % plan.n_key_heads
    y_THP = np.empty((T, H, P), np.float32)
    for rows, cache in step.texts:
        s_HPP, before_WC = cache.state(i)
        qkv_TC[rows], before_WC = causal_conv(qkv_TC[rows], before_WC, w.ssm_conv1d)
        heads_TMP = silu(qkv_TC[rows]).reshape(-1, C // P, P)
        q_TKP, k_TKP, v_THP = np.split(heads_TMP, [plan.n_key_heads, 2 * plan.n_key_heads], axis=1)
        q_THP, k_THP = (of_length_1(x_TKP, plan.eps)[:, key_head_H] for x_TKP in (q_TKP, k_TKP))
        q_THP, k_THP, v_THP = see_heads(step, i, q_THP, k_THP, v_THP)
        y_THP[rows], s_HPP = scan(q_THP, k_THP, v_THP, g_TH1[rows], beta_TH[rows], s_HPP)
        cache.layers[i].replace(step.see("new_state", i, s_HPP), step.see("new_conv", i, before_WC))
    y_THP = rms_norm(step.see("attn_output", i, y_THP), w.ssm_norm, plan.eps)
    return linear(step.see("final_output", i, y_THP.reshape(T, U) * silu(z_TU)), w.ssm_out)

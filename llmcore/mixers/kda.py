"""Kimi's delta attention: the delta rule with a decay for each channel of a key.

    S <- diag(e^g) S          u = beta (v - S^T k)          S <- S + k u^T          y = S^T q / sqrt(P)

g = a softplus(W_fb W_fa x + b) is a vector: what was written under some directions of the key may fade
fast and under others stay. Between two tokens of a chunk e^(G_t - G_s) then stands inside their
product, sum over p of k_tp k_sp e^(G_tp - G_sp), so that chunks are shorter; all else is
delta_rule.py's. Kimi Team 2025, arXiv:2510.26692.

Cached: S and the last W - 1 rows before the convolutions, 4 (H P P + 3 (W - 1) H P) bytes a layer and
nothing a token.

Shape key: T new tokens, D model width, H heads of width P, U = H P, W width of the convolutions.
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
class KDA:
    """The plan of a layer with Kimi's delta attention."""

    n_heads: int  # {arch}.attention.head_count
    head_width: int  # {arch}.kda.head_dim
    conv_width: int  # {arch}.ssm.conv_kernel
    eps: float
    rope: None = None  # positions do not rotate


@dataclass(frozen=True)
class Weights:
    """The numbers of such a layer."""

    attn_qkv: Matrix  # D -> 3U
    ssm_conv1d: np.ndarray  # (3U, W): ssm_conv1d_q, ssm_conv1d_k, ssm_conv1d_v
    ssm_in: Matrix  # D -> 2P + H: ssm_f_a, ssm_g_a, ssm_beta
    ssm_f_b: Matrix  # P -> U
    ssm_dt: np.ndarray  # (U,), a bias
    ssm_a: np.ndarray  # (H, 1): a, negative
    ssm_g_b: Matrix  # P -> U
    ssm_norm: np.ndarray  # (P,)
    attn_output: Matrix  # U -> D


def read(keys, family, i: int) -> KDA:
    """The plan of layer i. Raises ModelFileError."""
    return KDA(
        n_heads=keys.of_layer("attention.head_count", int, i, least=1),
        head_width=keys.get("kda.head_dim", int, least=1),
        conv_width=keys.get("ssm.conv_kernel", int, least=2),
        eps=read_norm_eps(keys, family),
    )


def take(tensors, plan: KDA, d_model: int, blk: str) -> Weights:
    """The weights of the layer whose tensors begin with `blk`."""
    H, P, W = plan.n_heads, plan.head_width, plan.conv_width
    U = H * P
    kernels = [tensors.vector(f"{blk}ssm_conv1d_{x}", U, 1, W)[:, 0] for x in "qkv"]
    return Weights(
        attn_qkv=tensors.fused(blk, "attn_qkv", d_model, {"attn_q": U, "attn_k": U, "attn_v": U}),
        ssm_conv1d=np.concatenate(kernels),
        ssm_in=tensors.fused(blk, "ssm_in", d_model, {"ssm_f_a": P, "ssm_g_a": P, "ssm_beta": H}),
        ssm_f_b=tensors.matrix(blk + "ssm_f_b", P, U),
        ssm_dt=tensors.vector(blk + "ssm_dt", U, suffix=".bias"),
        ssm_a=tensors.vector(blk + "ssm_a", H, 1, suffix=""),
        ssm_g_b=tensors.matrix(blk + "ssm_g_b", P, U),
        ssm_norm=tensors.vector(blk + "ssm_norm", P),
        attn_output=tensors.matrix(blk + "attn_output", U, d_model),
    )


def state(plan: KDA) -> State:
    """What the cache keeps: S, and what the convolutions still need."""
    H, P = plan.n_heads, plan.head_width
    return State((H, P, P), (plan.conv_width - 1, 3 * H * P))


def run(x_TD: np.ndarray, w: Weights, plan: KDA, step: Step, i: int) -> np.ndarray:
    """Kimi's delta attention of layer i; (T, D) -> (T, D). A token sees no text but its own."""
    T, H, P = len(x_TD), plan.n_heads, plan.head_width
    qkv_TC = linear(x_TD, w.attn_qkv)
    f_TP, gate_TP, beta_TH = np.split(linear(x_TD, w.ssm_in), [P, 2 * P], axis=1)
    g_THP = w.ssm_a * softplus(linear(f_TP, w.ssm_f_b) + w.ssm_dt).reshape(T, H, P)
    g_THP = step.see("gate", i, g_THP)
    gate_THP = sigmoid(linear(gate_TP, w.ssm_g_b)).reshape(T, H, P)
    beta_TH = step.see("beta", i, sigmoid(beta_TH))
    y_THP = np.empty((T, H, P), np.float32)
    for rows, cache in step.texts:
        s_HPP, before_WC = cache.state(i)
        conv_TC, before_WC = causal_conv(qkv_TC[rows], before_WC, w.ssm_conv1d)
        q_THP, k_THP, v_THP = np.split(silu(conv_TC).reshape(-1, 3 * H, P), 3, axis=1)
        q_THP, k_THP = (of_length_1(x_THP, plan.eps) for x_THP in (q_THP, k_THP))
        q_THP, k_THP, v_THP = see_heads(step, i, q_THP, k_THP, v_THP)
        y_THP[rows], s_HPP = scan(q_THP, k_THP, v_THP, g_THP[rows], beta_TH[rows], s_HPP)
        cache.layers[i].replace(step.see("new_state", i, s_HPP), step.see("new_conv", i, before_WC))
    y_THP = rms_norm(step.see("attn_output", i, y_THP), w.ssm_norm, plan.eps) * gate_THP
    return linear(step.see("final_output", i, y_THP.reshape(T, -1)), w.attn_output)

"""Attention: each token looks back over the tokens before it and takes up what it needs.

    weights = softmax(scale q k^T)  over the keys of this and all earlier tokens         y = weights v

Every head has queries of its own; G query heads share a key and a value head. What the cache keeps is each token's keys
and values. Vaswani et al. 2017, arXiv:1706.03762; grouped queries: Ainslie et al. 2023, arXiv:2305.13245.

Shape key: T new tokens, S cached + new, D model width, N query heads, K key/value heads, G = N/K, M = N + K, H head
width, V width of a value head, R rotating pairs, B queries of a block.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..cache import Rows, Step
from ..linear import Matrix, linear
from ..ops import layer_norm, rms_norm, sigmoid
from ..threads import across_rows
from .attend import attend, each_text
from .keys import read_head_counts, read_norm_eps, read_window
from .rope import Rope, read_rope, read_window_rope, rotate


@dataclass(frozen=True)
class HeadNorm:
    """The norm of queries and keys before RoPE."""

    span: str  # of each "head" with one gain, of each with its "own gain", or of all heads of a token as a "row"
    layer_norm: bool
    eps: float


@dataclass(frozen=True)
class Attention:
    """The plan of a layer with grouped-query attention."""

    n_heads: int  # {arch}.attention.head_count
    n_kv_heads: int  # {arch}.attention.head_count_kv
    key_length: int  # {arch}.attention.key_length: the width of a query or key head
    value_length: int  # {arch}.attention.value_length: the width of a value head
    scale: float  # {arch}.attention.scale, else 1/sqrt(key_length)
    rope: Rope | None
    window: int | None  # {arch}.attention.sliding_window: a query at p sees the keys after p - window
    softcap: float | None  # {arch}.attn_logit_softcapping
    norm: HeadNorm | None
    sinks: bool  # a logit for each head that takes part in its softmax and has no value: attention to nothing
    gated: bool = False  # attn_q makes for each head a query and a gate; sigmoid(gate) multiplies the head's result


@dataclass(frozen=True)
class Weights:
    """The numbers of a layer with grouped-query attention; None where the plan has no such part."""

    attn_qkv: Matrix  # D -> N H + K H + K V: attn_q, attn_k and attn_v as one; gated D -> 2 N H + K H + K V
    attn_qk_norm: np.ndarray | None  # (N + K, H): the gains attn_q_norm and attn_k_norm, for each head
    attn_sinks: np.ndarray | None  # (N,)
    attn_output: Matrix  # N V -> D


def read(keys, family, i: int) -> Attention:
    """The plan of layer i. Raises ModelFileError and UnsupportedModel."""
    n_heads, n_kv_heads = read_head_counts(keys, i)
    head_width = keys.get("embedding_length", int) // n_heads
    key_length = keys.get("attention.key_length", int, head_width, least=1)
    window = read_window(keys, family, i)
    rope = read_rope(keys, family, key_length)
    if window is not None:
        rope = read_window_rope(keys, family, rope)
    if family.no_rope_every is not None and (i + 1) % family.no_rope_every == 0:
        rope = None
    n_layers = keys.get("block_count", int) - keys.get("nextn_predict_layers", int, 0)
    scaled_width = key_length
    if n_layers == family.d_model_scale_at:
        scaled_width = keys.get("embedding_length", int) / n_heads
    value_length = keys.get("attention.value_length", int, head_width, least=1)
    if family.gated_attention and value_length != key_length:
        raise keys.error("attention.value_length", f"is {value_length}; gates are {key_length} wide, as keys are")
    norm = None
    if family.qk_norm is not None and n_layers >= family.qk_norm_from:
        norm = HeadNorm(family.qk_norm, family.layer_norm, read_norm_eps(keys, family))
    return Attention(
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        key_length=key_length,
        value_length=value_length,
        scale=keys.get("attention.scale", float, 0.0) or 1 / math.sqrt(scaled_width),
        rope=rope,
        window=window,
        softcap=keys.get("attn_logit_softcapping", float, family.attention_softcap) or None,
        norm=norm,
        sinks=family.sinks,
        gated=family.gated_attention,
    )


def take(tensors, plan: Attention, d_model: int, blk: str) -> Weights:
    """The weights of the layer whose tensors begin with `blk`."""
    N, K, H, V = plan.n_heads, plan.n_kv_heads, plan.key_length, plan.value_length
    n_q = 2 * N * H if plan.gated else N * H
    return Weights(
        attn_qkv=tensors.fused(blk, "attn_qkv", d_model, {"attn_q": n_q, "attn_k": K * H, "attn_v": K * V}),
        attn_qk_norm=None if plan.norm is None else _take_gains(tensors, plan, blk),
        attn_sinks=tensors.vector(blk + "attn_sinks", N) if plan.sinks else None,
        attn_output=tensors.matrix(blk + "attn_output", N * V, d_model),
    )


def _take_gains(tensors, plan, blk):
    """The gains of all query heads and all key heads, (N + K, H)."""
    H, gains = plan.key_length, []
    for name, n_heads in (("attn_q_norm", plan.n_heads), ("attn_k_norm", plan.n_kv_heads)):
        shape = {"head": (H,), "own gain": (n_heads, H), "row": (n_heads * H,)}[plan.norm.span]
        gains.append(np.broadcast_to(tensors.vector(blk + name, *shape).reshape(-1, H), (n_heads, H)))
    return np.concatenate(gains)


def state(plan: Attention) -> Rows:
    """What the cache keeps: K key heads and K value heads a token."""
    return Rows(plan.window)


def run(x_TD: np.ndarray, w: Weights, plan: Attention, step: Step, i: int) -> np.ndarray:
    """The attention of layer i; (T, D) -> (T, D). A token sees no text but its own."""
    T, N, K = len(x_TD), plan.n_heads, plan.n_kv_heads
    qkv_TF, gate_TF = linear(x_TD, w.attn_qkv), None
    if plan.gated:
        qkv_TF, gate_TF = split_gates(qkv_TF, plan)
    qk_TMH, v_TKV = split_heads(qkv_TF, plan)
    if plan.norm is not None:
        qk_TMH = norm_heads(qk_TMH, w.attn_qk_norm, plan)
    if plan.rope is not None:
        rotations_TR = step.rotations[plan.rope]
        qk_TMH = across_rows(lambda x_TMH, r_TR: rotate(x_TMH, r_TR, plan.rope.pairs), qk_TMH, rotations_TR)
    q_TNH, k_TKH = qk_TMH[:, :N], qk_TMH[:, N:]
    # Query heads n = k G ... k G + G - 1 share the key/value head k.
    q_KTGH = q_TNH.reshape(T, K, N // K, -1).swapaxes(0, 1) * np.float32(plan.scale)

    def attend_in(rows, cache):
        k_KSH, v_KSV = cache.append(i, k_TKH[rows], v_TKV[rows])
        return attend(q_KTGH[:, rows], k_KSH, v_KSV, plan.window, plan.softcap, w.attn_sinks)

    y_TF = each_text(step, attend_in).swapaxes(0, 1).reshape(T, -1)
    if plan.gated:
        y_TF = y_TF * sigmoid(gate_TF)
    return linear(y_TF, w.attn_output)


def split_gates(qkv_TF, plan):
    """What `split_heads` takes, and the gates (T, N H); in a row each query head is followed by its gate."""
    T, N, H = len(qkv_TF), plan.n_heads, plan.key_length
    pairs_TN2H = qkv_TF[:, : 2 * N * H].reshape(T, N, 2, H)
    q_TF, gate_TF = pairs_TN2H.swapaxes(1, 2).reshape(T, 2, N * H).swapaxes(0, 1)
    return np.concatenate([q_TF, qkv_TF[:, 2 * N * H :]], axis=1), gate_TF


def split_heads(qkv_TF, plan):
    """The rows of one product, query then key then value, as heads: queries and keys (T, M, H), values (T, K, V)."""
    T, M = len(qkv_TF), plan.n_heads + plan.n_kv_heads
    n_qk = M * plan.key_length
    qk_TMH = qkv_TF[:, :n_qk].reshape(T, M, plan.key_length)
    return qk_TMH, qkv_TF[:, n_qk:].reshape(T, plan.n_kv_heads, plan.value_length)


def norm_heads(qk_TMH, gain_MH, plan):
    """The norm of each query and key head, or of all query heads of a token and all its key heads as a row."""
    if plan.norm.span == "row":
        ends = ((0, plan.n_heads), (plan.n_heads, len(gain_MH)))
        return np.concatenate(
            [_norm_row(qk_TMH[:, a:b], gain_MH[a:b], plan.norm.eps) for a, b in ends], axis=1
        )
    if plan.norm.layer_norm:
        return layer_norm(qk_TMH, gain_MH, None, plan.norm.eps)
    return across_rows(lambda x_TMH: rms_norm(x_TMH, gain_MH, plan.norm.eps), qk_TMH)


def _norm_row(x_TMH, gain_MH, eps):
    row_TF = x_TMH.reshape(len(x_TMH), -1)
    return rms_norm(row_TF, gain_MH.ravel(), eps).reshape(x_TMH.shape)

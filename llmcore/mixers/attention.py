"""Attention: each token looks back over the tokens before it and takes up what it needs.

    weights = softmax(scale q k^T)  over the keys of this and all earlier tokens         y = weights v

Every head has queries of its own; G query heads share a key and a value head. What the cache keeps is each
token's keys and values. Vaswani et al. 2017, arXiv:1706.03762; grouped queries: Ainslie et al. 2023,
arXiv:2305.13245.

Shape key: T new tokens, S cached + new, D model width, N query heads, K key/value heads, G = N/K, M = N + K,
H head width, V width of a value head, R rotating pairs, B queries of a block.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..cache import Rows
from ..linear import Matrix, linear
from ..ops import rms_norm, sigmoid
from .attend import attend, attend_chunk, attend_seen, each_text
from .heads import (
    HeadNorm,
    Temperature,
    growth,
    place,
    read_head_norm,
    read_rows_of,
    read_temperature,
    split_gates,
    split_heads,
)
from .keys import read_head_counts, read_n_layers, read_norm_eps, read_window, read_window_width
from .rope import Rope, read_rope, read_window_rope
from .step import Step


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
    temperature: Temperature | None = None
    chunked: bool = False  # the window does not slide: a query sees the keys of its own chunk of that length
    rows_of: int | None = None  # the layer whose keys and values it reads; None: it has its own
    value_eps: float | None = None  # that of a norm of values, without a gain
    sub_norm_eps: float | None = None  # that of a norm of the heads' results, with a gain
    # attn_q makes for each head a query and a gate; sigmoid(gate) multiplies the head's result
    gated: bool = False


@dataclass(frozen=True)
class Weights:
    """The numbers of a layer with grouped-query attention; None where the plan has no such part."""

    attn_qkv: Matrix  # D -> N H + K H + K V: attn_q, attn_k and attn_v as one; gated D -> 2 N H + K H + K V
    attn_qk_norm: np.ndarray | None  # (N + K, H): the gains attn_q_norm and attn_k_norm, for each head
    attn_sinks: np.ndarray | None  # (N,)
    attn_sub_norm: np.ndarray | None  # (N V,)
    attn_output: Matrix  # N V -> D


def read(keys, family, i: int) -> Attention:
    """The plan of layer i. Raises ModelFileError and UnsupportedModel."""
    rows_of = read_rows_of(keys, family, i)
    n_heads, n_kv_heads = read_head_counts(keys, i if rows_of is None else rows_of)
    head_width = keys.get("embedding_length", int) // n_heads
    key_length = keys.get("attention.key_length", int, head_width, least=1)
    value_length = keys.get("attention.value_length", int, head_width, least=1)
    window = read_window(keys, family, i)
    rope = read_rope(keys, family, key_length)
    if window is not None:
        key_length = keys.get("attention.key_length_swa", int, key_length, least=1)
        value_length = keys.get("attention.value_length_swa", int, value_length, least=1)
        rope = read_window_rope(keys, family, rope, key_length)
    elif family.window_rope == "only" and read_window_width(keys, family) is not None:
        rope = None
    if family.no_rope_every is not None and (i + 1) % family.no_rope_every == 0:
        rope = None
    scaled_width = key_length
    if read_n_layers(keys) == family.d_model_scale_at:
        scaled_width = keys.get("embedding_length", int) / n_heads
    if family.gated_attention and value_length != key_length:
        raise keys.error(
            "attention.value_length", f"is {value_length}; gates are {key_length} wide, as keys are"
        )
    eps = read_norm_eps(keys, family)
    return Attention(
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        key_length=key_length,
        value_length=value_length,
        scale=keys.get("attention.scale", float, 0.0)
        or family.attention_scale
        or 1 / math.sqrt(scaled_width),
        rope=rope,
        window=window,
        softcap=keys.get("attn_logit_softcapping", float, family.attention_softcap) or None,
        norm=read_head_norm(keys, family, rope, eps),
        sinks=family.sinks,
        temperature=read_temperature(keys, family, rope),
        chunked=window is not None and family.chunked,
        rows_of=rows_of,
        value_eps=eps if family.value_norm else None,
        sub_norm_eps=eps if family.sub_norms else None,
        gated=family.gated_attention,
    )


def take(tensors, plan: Attention, d_model: int, blk: str) -> Weights:
    """The weights of the layer whose tensors begin with `blk`."""
    N, K, H, V = plan.n_heads, plan.n_kv_heads, plan.key_length, plan.value_length
    parts = {"attn_q": 2 * N * H if plan.gated else N * H, "attn_k": K * H, "attn_v": K * V}
    if plan.rows_of is not None:
        del parts["attn_k"], parts["attn_v"]
        tensors.pass_over(blk + "attn_k.", blk + "attn_v.", blk + "attn_k_norm.")
    elif plan.value_eps is not None and not tensors.has(blk + "attn_v.weight", blk + "attn_qkv.weight"):
        del parts["attn_v"]
    return Weights(
        attn_qkv=tensors.fused(blk, "attn_qkv", d_model, parts),
        attn_qk_norm=None if plan.norm is None else _take_gains(tensors, plan, blk),
        attn_sinks=tensors.vector(blk + "attn_sinks", N) if plan.sinks else None,
        attn_sub_norm=None if plan.sub_norm_eps is None else tensors.vector(blk + "attn_sub_norm", N * V),
        attn_output=tensors.matrix(blk + "attn_output", N * V, d_model),
    )


def _take_gains(tensors, plan, blk):
    """The gains of all query heads and all key heads that the layer makes, (N + K, H)."""
    H, gains = plan.key_length, []
    if plan.norm.span == "no gain":
        return np.ones((plan.n_heads + plan.n_kv_heads, H), np.float32)
    if plan.norm.optional and not tensors.has(blk + "attn_q_norm.weight", blk + "attn_k_norm.weight"):
        return None
    heads = {"attn_q_norm": plan.n_heads} | (
        {} if plan.rows_of is not None else {"attn_k_norm": plan.n_kv_heads}
    )
    for name, n_heads in heads.items():
        shape = {"head": (H,), "own gain": (n_heads, H), "row": (n_heads * H,)}[plan.norm.span]
        gains.append(np.broadcast_to(tensors.vector(blk + name, *shape).reshape(-1, H), (n_heads, H)))
    return np.concatenate(gains)


def state(plan: Attention) -> Rows:
    """What the cache keeps: K key heads and K value heads a token; nothing where it reads another layer's."""
    return Rows(plan.window)


def run(x_TD: np.ndarray, w: Weights, plan: Attention, step: Step, i: int) -> np.ndarray:
    """The attention of layer i; (T, D) -> (T, D). A token sees no text but its own."""
    T, N, K = len(x_TD), plan.n_heads, plan.n_kv_heads
    qkv_TF, gate_TF = linear(x_TD, w.attn_qkv), None
    if plan.gated:
        qkv_TF, gate_TF = split_gates(qkv_TF, plan)
    qk_TMH, v_TKV = split_heads(qkv_TF, plan)
    qk_TMH = place(qk_TMH, w, plan, step)
    if plan.value_eps is not None:
        v_TKV = rms_norm(v_TKV, np.float32(1), plan.value_eps)
    q_TNH, k_TKH = step.see("Qcur", i, qk_TMH[:, :N]), step.see("Kcur", i, qk_TMH[:, N:])
    v_TKV = step.see("Vcur", i, v_TKV)
    if plan.temperature is not None:
        q_TNH = q_TNH * growth(step.positions_T, plan.temperature)[:, None, None]
    # Query heads n = k G ... k G + G - 1 share the key/value head k.
    q_KTGH = q_TNH.reshape(T, K, N // K, -1).swapaxes(0, 1) * np.float32(plan.scale)

    seen = partial(attend_seen, step, i)

    def attend_in(rows, cache):
        """What the new tokens of one text, in these rows, find; (K, T', G, V)."""
        if plan.rows_of is None:
            k_KSH, v_KSV = cache.append(i, k_TKH[rows], v_TKV[rows])
        else:
            k_KSH, v_KSV = cache.read(plan.rows_of, rows.stop - rows.start)
        if plan.chunked:
            return seen(attend_chunk, q_KTGH[:, rows], k_KSH, v_KSV, plan.window, cache.length)
        return seen(attend, q_KTGH[:, rows], k_KSH, v_KSV, plan.window, plan.softcap, w.attn_sinks)

    y_TF = each_text(step, attend_in).swapaxes(0, 1).reshape(T, -1)
    if plan.gated:
        y_TF = y_TF * sigmoid(gate_TF)
    if plan.sub_norm_eps is not None:
        y_TF = rms_norm(y_TF, w.attn_sub_norm, plan.sub_norm_eps)
    return linear(step.see("kqv_out", i, y_TF), w.attn_output)

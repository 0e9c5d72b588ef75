"""Multi-head latent attention: the keys and values of all heads are made from one small row a token.

Only that row c is cached, and a key of R pairs that all heads share for the position. Since q . (W_k c) = (q
W_k) . c, the keys are never made: each head's query goes into the space of c, attends there as if c were its
key and its value, and W_v makes its result. DeepSeek-V2, arXiv:2405.04434.

Shape key: T new tokens, S cached + new, D model width, N heads, H = P + Z width of a head, of which Z = 2R
dimensions rotate and P do not, V width of a value head, Q rank of the queries, C rank of keys and values, A =
C + Z what is cached of a token.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from ..cache import Rows
from ..linear import Matrix, linear
from ..ops import rms_norm
from .attend import attend, attend_seen, each_text
from .keys import read_head_counts, read_norm_eps
from .rope import Rope, read_rope, rotate
from .step import Step


@dataclass(frozen=True)
class Latent:
    """The plan of a layer with multi-head latent attention."""

    n_heads: int  # {arch}.attention.head_count
    key_length: int  # {arch}.attention.key_length_mla, or key_length where both matrices are one
    value_length: int  # {arch}.attention.value_length_mla, or value_length
    query_rank: int | None  # {arch}.attention.q_lora_rank; None: queries come straight from the input
    rank: int  # {arch}.attention.kv_lora_rank: the width of the row that is cached, beside n_position
    split: bool  # whether the file holds attn_k_b and attn_v_b, or both in attn_kv_b as older ones do
    scale: float  # {arch}.attention.scale, else gain^2/sqrt(key_length)
    # {arch}.rope.dimension_count: the numbers of a key that all heads share, for the position
    n_position: int
    rope: Rope | None  # None: they do not rotate
    eps: float


@dataclass(frozen=True)
class Weights:
    """The numbers of a layer with latent attention; None where the plan has no such part."""

    attn_q_a: Matrix | None  # D -> Q
    attn_q_a_norm: np.ndarray | None  # (Q,)
    attn_q_b: Matrix  # Q -> N H; where there is no attn_q_a it is attn_q, D -> N H
    attn_kv_a_mqa: Matrix  # D -> C + Z
    attn_kv_a_norm: np.ndarray  # (C,)
    attn_k_b: np.ndarray  # (N, C, P)
    attn_v_b: np.ndarray  # (N, V, C)
    attn_output: Matrix  # N V -> D


def read(keys, family, i: int) -> Latent:
    """The plan of layer i. Raises ModelFileError and UnsupportedModel."""
    n_heads, _ = read_head_counts(keys, i)
    split = "attention.key_length_mla" in keys
    mla, head_width = "_mla" if split else "", keys.get("embedding_length", int) // n_heads
    key_length = keys.get(f"attention.key_length{mla}", int, head_width, least=1)
    rope, gain = read_rope(keys, family, key_length), 1.0
    if rope is not None:
        rope, gain = with_gain(keys, rope)
    n_position = keys.get("rope.dimension_count", int, key_length, least=0)
    if n_position > key_length:
        raise keys.error("rope.dimension_count", f"is {n_position}, more than a head is wide ({key_length})")
    return Latent(
        n_heads=n_heads,
        key_length=key_length,
        value_length=keys.get(f"attention.value_length{mla}", int, head_width, least=1),
        query_rank=keys.get("attention.q_lora_rank", int, 0, least=0) or None,
        rank=keys.get("attention.kv_lora_rank", int, least=1),
        split=split,
        scale=keys.get("attention.scale", float, 0.0) or gain**2 / math.sqrt(key_length),
        n_position=n_position,
        rope=rope,
        eps=read_norm_eps(keys, family),
    )


def with_gain(keys, rope):
    """The rope, and what scores are multiplied by twice."""
    log_multiplier = keys.get("rope.scaling.yarn_log_multiplier", float, 0.0)
    if log_multiplier and rope.yarn_context is not None:
        # Where this key stands, YaRN's gain belongs to the attention scale alone.
        rope = replace(rope, gain=keys.get("rope.scaling.attn_factor", float, 1.0))
    return rope, rope.gain * (1 + log_multiplier * math.log(rope.factor))


def take(tensors, plan: Latent, d_model: int, blk: str) -> Weights:
    """The weights of the layer whose tensors begin with `blk`."""
    D, N, H, V, Q, C = d_model, plan.n_heads, plan.key_length, plan.value_length, plan.query_rank, plan.rank
    Z = plan.n_position
    P = H - Z
    if plan.split:
        k_b_NCP = tensors.array(blk + "attn_k_b", N, C, P)
        v_b_NVC = tensors.array(blk + "attn_v_b", N, V, C)
    else:  # one matrix for both
        kv_b_NFC = tensors.array(blk + "attn_kv_b", N * (P + V), C).reshape(N, P + V, C)
        k_b_NCP, v_b_NVC = kv_b_NFC[:, :P].swapaxes(1, 2), kv_b_NFC[:, P:]
    return Weights(
        attn_q_a=tensors.matrix(blk + "attn_q_a", D, Q) if Q else None,
        attn_q_a_norm=tensors.vector(blk + "attn_q_a_norm", Q) if Q else None,
        attn_q_b=tensors.matrix(blk + "attn_q_b", Q, N * H)
        if Q
        else tensors.matrix(blk + "attn_q", D, N * H),
        attn_kv_a_mqa=tensors.matrix(blk + "attn_kv_a_mqa", D, C + Z),
        attn_kv_a_norm=tensors.vector(blk + "attn_kv_a_norm", C),
        attn_k_b=k_b_NCP,
        attn_v_b=v_b_NVC,
        attn_output=tensors.matrix(blk + "attn_output", N * V, D),
    )


def state(plan: Latent) -> Rows:
    """What the cache keeps: one row of C + Z numbers a token."""
    return Rows()


def run(x_TD: np.ndarray, w: Weights, plan: Latent, step: Step, i: int) -> np.ndarray:
    """The latent attention of layer i; (T, D) -> (T, D). A token sees no text but its own."""
    T, N, C, P = len(x_TD), plan.n_heads, plan.rank, plan.key_length - plan.n_position
    q_in_TQ = x_TD
    if w.attn_q_a is not None:
        q_in_TQ = rms_norm(linear(x_TD, w.attn_q_a), w.attn_q_a_norm, plan.eps)
    q_TNH = linear(q_in_TQ, w.attn_q_b).reshape(T, N, plan.key_length)
    q_TNC = (q_TNH[..., :P].swapaxes(0, 1) @ w.attn_k_b.swapaxes(1, 2)).swapaxes(0, 1)
    position_TNZ = rotated(q_TNH[..., P:], plan, step)

    row_T1A = linear(x_TD, w.attn_kv_a_mqa)[:, None]
    c_T1C = rms_norm(row_T1A[..., :C], w.attn_kv_a_norm, plan.eps)
    position_T1Z = rotated(row_T1A[..., C:], plan, step)
    row_T1A = step.see("Kcur", i, np.concatenate([c_T1C, position_T1Z], axis=-1))
    q_TNA = step.see("Qcur", i, np.concatenate([q_TNC, position_TNZ], axis=-1))
    q_1TNA = q_TNA[None] * np.float32(plan.scale)

    def attend_in(rows, cache):
        (row_1SA,) = cache.append(i, row_T1A[rows])
        return attend_seen(step, i, attend, q_1TNA[:, rows], row_1SA, row_1SA[..., :C])

    y_1TNC = each_text(step, attend_in)
    y_NTV = y_1TNC[0].swapaxes(0, 1) @ w.attn_v_b.swapaxes(1, 2)
    return linear(step.see("kqv_out", i, y_NTV.swapaxes(0, 1).reshape(T, -1)), w.attn_output)


def rotated(x_TNZ, plan, step):
    """The numbers for the position, rotated where the plan says so."""
    return x_TNZ if plan.rope is None else rotate(x_TNZ, step.rotations[plan.rope], plan.rope.pairs)

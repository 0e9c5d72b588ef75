"""Queries, keys and values as heads: how one product is cut into them, and what is done to them before they
meet.

Shape key: T new tokens, N query heads, K key/value heads, M = N + K, H head width, V width of a value head, R
rotating pairs, F all numbers of a row.
"""

from dataclasses import dataclass

import numpy as np

from ..ops import layer_norm, rms_norm
from ..threads import across_rows
from .keys import read_n_layers, read_window
from .rope import rotate


@dataclass(frozen=True)
class HeadNorm:
    """The norm of queries and keys."""

    # Of each "head" with one gain, with its "own gain" or "no gain", or of all heads of a token as a "row"
    span: str
    layer_norm: bool
    eps: float
    last: bool = False  # after RoPE, not before
    optional: bool = False  # a layer without the gains has no norm


@dataclass(frozen=True)
class Temperature:
    """Queries grow with their position p: q *= 1 + scale ln(1 + floor((p + offset)/span))."""

    scale: float  # {arch}.attention.temperature_scale
    span: int  # {arch}.rope.scaling.original_context_length
    offset: int = 0


def read_head_norm(keys, family, rope, eps):
    """The norm of queries and keys, or None."""
    few = read_n_layers(keys) < family.qk_norm_from
    if family.qk_norm is None or few or keys.get("expert_count", int, 0) == family.no_qk_norm_at:
        return None
    if family.qk_norm == "no gain" and rope is None:
        return None
    return HeadNorm(family.qk_norm, family.layer_norm, eps, family.qk_norm_last, family.qk_norm_optional)


def read_temperature(keys, family, rope):
    """How queries grow, or None: the file says so of all layers, or the family of those without RoPE."""
    if family.temperature is not None:
        return Temperature(*family.temperature) if rope is None else None
    scale = keys.get("attention.temperature_scale", float, 0.0)
    context = keys.get("rope.scaling.original_context_length", int, keys.get("context_length", int), least=1)
    return Temperature(scale, context) if scale else None


def read_rows_of(keys, family, i):
    """The layer whose keys and values layer i reads: the last of its kind that has its own. None: it has."""
    n_own = read_n_layers(keys) - keys.get("attention.shared_kv_layers", int, 0, least=0)
    if i < n_own:
        return None
    windowed = read_window(keys, family, i) is not None
    for source in reversed(range(n_own)):
        if (read_window(keys, family, source) is not None) == windowed:
            return source
    raise keys.error("attention.shared_kv_layers", f"leaves no keys and values that layer {i} could read")


def place(qk_TMH, w, plan, step):
    """Norm and RoPE of queries and keys, in the plan's order."""

    def normed(x_TMH, here):
        return x_TMH if w.attn_qk_norm is None or not here else norm_heads(x_TMH, w.attn_qk_norm, plan)

    last = plan.norm is not None and plan.norm.last
    qk_TMH = normed(qk_TMH, not last)
    if plan.rope is not None:
        rotations_TR = step.rotations[plan.rope]
        qk_TMH = across_rows(lambda x_TMH, r_TR: rotate(x_TMH, r_TR, plan.rope.pairs), qk_TMH, rotations_TR)
    return normed(qk_TMH, last)


def growth(positions_T, temperature):
    """The factor of the queries at each position, (T,)."""
    spans_T = (positions_T + temperature.offset) // temperature.span
    return (1 + temperature.scale * np.log1p(spans_T)).astype(np.float32)


def split_gates(qkv_TF, plan):
    """What `split_heads` takes, and the gates (T, N H); in a row each query head is followed by its gate."""
    T, N, H = len(qkv_TF), plan.n_heads, plan.key_length
    pairs_TN2H = qkv_TF[:, : 2 * N * H].reshape(T, N, 2, H)
    q_TF, gate_TF = pairs_TN2H.swapaxes(1, 2).reshape(T, 2, N * H).swapaxes(0, 1)
    return np.concatenate([q_TF, qkv_TF[:, 2 * N * H :]], axis=1), gate_TF


def split_heads(qkv_TF, plan):
    """The rows of one product, query then key then value, as heads: queries and keys (T, M, H), values (T, K,
    V).

    Rows without values mean that the keys are the values as well.
    """
    T = len(qkv_TF)
    M = plan.n_heads if plan.rows_of is not None else plan.n_heads + plan.n_kv_heads
    n_qk = M * plan.key_length
    qk_TMH = qkv_TF[:, :n_qk].reshape(T, M, plan.key_length)
    if qkv_TF.shape[1] == n_qk:
        return qk_TMH, qk_TMH[:, plan.n_heads :]
    return qk_TMH, qkv_TF[:, n_qk:].reshape(T, plan.n_kv_heads, plan.value_length)


def norm_heads(qk_TMH, gain_MH, plan):
    """The norm of each query and key head, or of all query heads and all key heads as a row."""
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

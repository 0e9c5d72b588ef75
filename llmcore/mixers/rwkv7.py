"""RWKV-7: a recurrent block, whose state is a table from keys to values that each token corrects.

    S_t = S_(t-1) (diag(w_t) - c_t (a_t * c_t)^T) + v_t k_t^T              y_t = S_t r_t

for each head: what is stored fades, by w_t in each channel of the keys; what is found at the key c_t is taken
back, as far as the rates a_t say; v_t is stored at k_t; r_t reads. A delta rule (delta_rule.py) by channel.
All are made from the token and the one before it, x + (before - x) lerp. Peng et al. 2025, arXiv:2503.14456.

The feed-forward looks back by a token, too, so it is none of ffn/: the whole block is this mixer. The first
block's values go into those of all others. Cached: S and two rows, 4 (D K + 2 D) bytes a layer, none a token.

Shape key: T new tokens, D model width, H heads of width K, F feed-forward width, R rank.
"""

from dataclasses import dataclass

import numpy as np

from ..cache import State
from ..linear import Matrix, linear
from ..ops import layer_norm, sigmoid
from .keys import read_norm_eps
from .step import Step

PRODUCTS = ("receptance", "key", "value", "output")
RANKS = {"w": "decay", "a": "iclr", "v": "value_residual_mix", "g": "gate"}


@dataclass(frozen=True)
class Rwkv7:
    """The plan of a block."""

    d_model: int  # {arch}.embedding_length
    head_width: int  # {arch}.wkv.head_size
    n_ff: int  # {arch}.feed_forward_length
    ranks: tuple[tuple[str, int], ...]  # {arch}.attention.*_lora_rank; that of v in all blocks but the first
    eps: float
    rope: None = None  # positions do not rotate


@dataclass(frozen=True)
class Weights:
    """The numbers of a block, under the file's names: time_mix_*, channel_mix_*."""

    norms: list[tuple[np.ndarray, np.ndarray]]  # gain and bias (D,) of attn_norm, attn_norm_2, time_mix_ln
    lerps: np.ndarray  # (6, D): of r, w, k, v, a, g
    low_rank: dict[str, tuple]  # of w, a, g, and v but in the first block: D -> R, R -> D, and a bias (D,)
    vectors: dict[str, np.ndarray]  # k_k, k_a, r_k: (D,)
    products: dict[str, Matrix]  # the PRODUCTS, D -> D each
    channel_lerp: np.ndarray  # (D,)
    channel_key: Matrix  # D -> F
    channel_value: Matrix  # F -> D


def read(keys, family, i: int) -> Rwkv7:
    """The plan of block i. Raises ModelFileError."""
    head_width, d_model = keys.get("wkv.head_size", int, least=1), keys.get("embedding_length", int)
    if d_model % head_width:
        raise keys.error("wkv.head_size", f"is {head_width}, which does not divide the width {d_model}")
    if keys.get("token_shift_count", int, 2) != 2:
        raise keys.error("token_shift_count", "is not 2: both halves of a block look back by a token")
    all_ranks = [(name, keys.get(f"attention.{of}_lora_rank", int, least=1)) for name, of in RANKS.items()]
    ranks = tuple((name, rank) for name, rank in all_ranks if name != "v" or i > 0)
    n_ff, eps = keys.of_layer("feed_forward_length", int, i, least=1), read_norm_eps(keys, family)
    return Rwkv7(d_model, head_width, n_ff, ranks, eps)


def take(tensors, plan: Rwkv7, d_model: int, blk: str) -> Weights:
    """The weights of the block whose tensors begin with `blk`."""
    D, mix, channel = d_model, blk + "time_mix_", blk + "channel_mix_"
    norms = [blk + name for name in ("attn_norm", "attn_norm_2", "time_mix_ln")]

    def low_rank_of(name, rank):
        bias_D = np.float32(0) if name == "g" else tensors.vector(f"{mix}{name}0", D)
        return tensors.matrix(f"{mix}{name}1", D, rank), tensors.matrix(f"{mix}{name}2", rank, D), bias_D

    return Weights(
        norms=[(tensors.vector(name, D), tensors.vector(name, D, suffix=".bias")) for name in norms],
        lerps=tensors.vector(mix + "lerp_fused", 6, 1, 1, D)[:, 0, 0],
        low_rank={name: low_rank_of(name, rank) for name, rank in plan.ranks},
        vectors={name: tensors.vector(mix + name, D) for name in ("k_k", "k_a", "r_k")},
        products={name: tensors.matrix(mix + name, D, D) for name in PRODUCTS},
        channel_lerp=tensors.vector(channel + "lerp_k", D),
        channel_key=tensors.matrix(channel + "key", D, plan.n_ff),
        channel_value=tensors.matrix(channel + "value", plan.n_ff, D),
    )


def state(plan: Rwkv7) -> State:
    """What the cache keeps: S, and the last row that each half has seen."""
    return State((plan.d_model // plan.head_width, *2 * (plan.head_width,)), (2, plan.d_model))


def run(x_TD: np.ndarray, w: Weights, plan: Rwkv7, step: Step, i: int) -> np.ndarray:
    """What block i adds to x; (T, D) -> (T, D). A token sees no text but its own."""
    h_TD = layer_norm(x_TD, *w.norms[0], plan.eps)
    y_TD, tables = time_mix(step.see("time_mix_norm", i, h_TD), w, plan, step, i)
    y_TD = step.see("time_mix_out", i, y_TD)
    f_TD = layer_norm(x_TD + y_TD, *w.norms[1], plan.eps)
    k_TD = f_TD + look_back(f_TD, step, i, half=1) * w.channel_lerp
    hidden_TF = step.see("ffn_hidden", i, np.square(np.maximum(linear(k_TD, w.channel_key), 0)))
    y_TD = y_TD + step.see("channel_mix_out", i, linear(hidden_TF, w.channel_value))
    for (rows, cache), s_HKK in zip(step.texts, tables, strict=True):
        cache.layers[i].replace(s_HKK, np.stack([h_TD[rows.stop - 1], f_TD[rows.stop - 1]]))
    return y_TD


def look_back(x_TD, step, i, half):
    """The row before each, less the row itself; before a text's new rows stands the last that it has kept."""
    before_TD = np.roll(x_TD, 1, axis=0)
    for rows, cache in step.texts:
        before_TD[rows.start] = cache.state(i)[1][half]
    return before_TD - x_TD


def time_mix(h_TD, w, plan, step, i):
    """y (T, D), and the table S of each text after its new tokens."""
    r_TD, w_TD, k_TD, v_TD, a_TD, g_TD = h_TD + look_back(h_TD, step, i, half=0) * w.lerps[:, None]
    r_TD, k_TD = linear(r_TD, w.products["receptance"]), linear(k_TD, w.products["key"])
    own_TD = linear(v_TD, w.products["value"])
    first_TD = step.handed.setdefault("values", own_TD)
    if "v" in w.low_rank:
        own_TD = own_TD + (first_TD - own_TD) * sigmoid(low_rank(v_TD, w.low_rank["v"]))
    w_TD = np.exp(np.float32(-np.exp(-0.5)) * sigmoid(low_rank(w_TD, w.low_rank["w"], np.tanh)))
    a_TD, g_TD = sigmoid(low_rank(a_TD, w.low_rank["a"])), low_rank(g_TD, w.low_rank["g"], sigmoid)
    c_TD = k_TD * w.vectors["k_k"]
    k_TD = k_TD * (1 + (a_TD - 1) * w.vectors["k_a"])
    H, K = plan.d_model // plan.head_width, plan.head_width
    all_6THK = np.stack([r_TD, w_TD, k_TD, own_TD, a_TD, c_TD]).reshape(6, -1, H, K)
    r_THK, _, k_THK, v_THK, _, c_THK = all_6THK
    c_THK /= np.maximum(np.linalg.norm(c_THK, axis=-1, keepdims=True), np.float32(1e-12))
    all_6THK = step.see("rwkv", i, all_6THK.swapaxes(0, 1)).swapaxes(0, 1)
    r_THK, _, k_THK, v_THK, _, _ = all_6THK
    y_THK, tables = np.empty_like(v_THK), []
    for rows, cache in step.texts:
        y_THK[rows], s_HKK = scan(*all_6THK[:, rows], cache.state(i)[0])
        tables.append(step.see("new_state", i, s_HKK))
    gain_HK, bias_HK, bonus_HK = (x_D.reshape(H, K) for x_D in (*w.norms[2], w.vectors["r_k"]))
    y_THK = layer_norm(y_THK, gain_HK, bias_HK, eps=64e-5)
    y_THK += (r_THK * k_THK * bonus_HK).sum(axis=-1, keepdims=True) * v_THK
    return linear(y_THK.reshape(h_TD.shape) * g_TD, w.products["output"]), tables


def low_rank(x_TD, weights, act=lambda x: x):
    """act(x down) up + bias; (T, D) -> (T, D)."""
    down, up, bias_D = weights
    return linear(act(linear(x_TD, down)), up) + bias_D


def scan(r_THK, w_THK, k_THK, v_THK, a_THK, c_THK, s_HKK):
    """y (T, H, K) of T tokens, and the table after them.

    With a rate of 1, what is stored at a key is corrected from 3 to 5, and with 1/2 half of the way:
    >>> one = np.ones((1, 1, 1))
    >>> [scan(one, one, a * one, 5 * one, a * one, one, 3 * one[0])[0].item() for a in (1.0, 0.5)]
    [5.0, 4.0]
    """
    y_THK = np.empty_like(v_THK)
    for t in range(len(r_THK)):
        found_HK1 = s_HKK @ c_THK[t, :, :, None]
        s_HKK = s_HKK * w_THK[t, :, None] - found_HK1 * (a_THK[t] * c_THK[t])[:, None]
        s_HKK += v_THK[t, :, :, None] * k_THK[t, :, None]
        y_THK[t] = (s_HKK @ r_THK[t, :, :, None])[..., 0]
    return y_THK, s_HKK

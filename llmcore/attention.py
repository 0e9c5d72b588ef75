"""Attention: each token looks back over the tokens before it and takes up what it needs.

Shape key: T new tokens, S cached + new, D model width, N query heads, K key/value heads, G = N/K, H head width.
"""

import numpy as np

from .cache import KVCache
from .config import Config
from .linear import linear
from .ops import rms_norm, rope, softmax
from .weights import Layer

# Queries of a prompt are taken so many at a time: the keys after the last of them need no work at all, which saves
# nearly half of a prompt's scores, and the scores never take more than N x 64 x S floats. With 128 at a time attention
# of 512 tokens takes 1.1 to 1.6 times as long, with 32 as long.
QUERY_BLOCK = 64


def attention(x_TD: np.ndarray, layer: Layer, config: Config, i: int, cache: KVCache, rotation) -> np.ndarray:
    """Grouped-query attention of layer i; (T, D) -> (T, D). Vaswani et al. 2017; Ainslie et al. 2023, arXiv:2305.13245.

    `rotation` holds the cosines and sines (T, R), (T, R) of the new positions. The cache takes their keys and values.
    """
    T, N, K = len(x_TD), config.n_heads, config.n_kv_heads
    q_TNH, k_TKH, v_TKH = split_heads(linear(x_TD, layer.attn_qkv), config)
    if config.qk_norm:
        q_TNH = rms_norm(q_TNH, layer.attn_q_norm, config.norm_eps)
        k_TKH = rms_norm(k_TKH, layer.attn_k_norm, config.norm_eps)
    pairs, window = config.layers[i].rope.pairs, config.layers[i].window
    q_TNH, k_TKH = rope(q_TNH, *rotation, pairs), rope(k_TKH, *rotation, pairs)
    k_KSH, v_KSH = cache.append(i, k_TKH, v_TKH)
    # Query heads n = k G ... k G + G - 1 share the key/value head k.
    q_KTGH = q_TNH.reshape(T, K, N // K, -1).transpose(1, 0, 2, 3) * np.float32(config.attention_scale)
    y_KTGH = attend(q_KTGH, k_KSH, v_KSH, window)
    return linear(y_KTGH.transpose(1, 0, 2, 3).reshape(T, -1), layer.attn_output)


def split_heads(qkv_TF, config):
    """The rows of one product, query then key then value, as heads: (T, N, H), (T, K, H), (T, K, H)."""
    T, n_q = len(qkv_TF), config.n_heads * config.key_length
    n_qk = n_q + config.n_kv_heads * config.key_length
    q_TF, k_TF, v_TF = qkv_TF[:, :n_q], qkv_TF[:, n_q:n_qk], qkv_TF[:, n_qk:]
    return (
        q_TF.reshape(T, config.n_heads, config.key_length),
        k_TF.reshape(T, config.n_kv_heads, config.key_length),
        v_TF.reshape(T, config.n_kv_heads, config.value_length),
    )


def attend(q_KTGH, k_KSH, v_KSH, window=None):
    """softmax(q k^T) v of scaled queries, causal: the T queries belong to the last T of the S keys.

    With a window w, a query at position p sees the keys at positions p - w + 1 ... p.
    """
    K, T, G, _ = q_KTGH.shape
    S = k_KSH.shape[1]
    y_KTGH = np.empty((K, T, G, v_KSH.shape[2]), np.float32)
    for t in range(0, T, QUERY_BLOCK):
        q_KBH = q_KTGH[:, t : t + QUERY_BLOCK]
        B = q_KBH.shape[1]
        stop = S - T + t + B  # the last query of the block sees the keys before this one
        start = 0 if window is None else max(0, stop - B - window + 1)  # the first one sees the keys from this one on
        scores_KXS = q_KBH.reshape(K, B * G, -1) @ k_KSH[:, start:stop].swapaxes(1, 2)
        if B > 1:
            scores_KBGS = scores_KXS.reshape(K, B, G, -1)
            scores_KBGS += mask(B, start, stop, window)[:, None]
        y_KXH = softmax(scores_KXS, out=scores_KXS) @ v_KSH[:, start:stop]
        y_KTGH[:, t : t + B] = y_KXH.reshape(K, B, G, -1)
    return y_KTGH


def mask(n_queries, start, stop, window=None):
    """0 where a query may look and -inf where not, (n_queries, stop - start); the last query stands at stop - 1."""
    query_B1 = np.arange(stop - n_queries, stop)[:, None]
    key_S = np.arange(start, stop)
    hidden_BS = key_S > query_B1
    if window is not None:
        hidden_BS |= key_S <= query_B1 - window
    return np.where(hidden_BS, np.float32(-np.inf), np.float32(0))

"""Attention: each token looks back over the tokens before it and takes up what it needs.

Shape key: T new tokens, S cached + new, D model width, N query heads, K key/value heads, G = N/K, H head width,
V width of a value head, R rotating pairs, B queries of a block. Latent attention: P + Z = H, where Z = 2R dimensions
of a head rotate and P do not; C width of the latent row, A = C + Z what is cached of a token.
"""

import numpy as np

from .cache import KVCache
from .config import Config
from .linear import linear
from .ops import layer_norm, rms_norm, rope, softcap, softmax
from .weights import Attention, LatentAttention

# Queries of a prompt are taken so many at a time: the keys after the last of them need no work at all, which saves
# nearly half of a prompt's scores, and the scores never take more than N x 64 x S floats. With 128 at a time attention
# of 512 tokens takes 1.1 to 1.6 times as long, with 32 as long.
QUERY_BLOCK = 64


def attention(x_TD: np.ndarray, w: Attention, config: Config, i: int, cache: KVCache, rotation) -> np.ndarray:
    """Grouped-query attention of layer i; (T, D) -> (T, D). arXiv:1706.03762, 2305.13245.

    `rotation` holds the cosines and sines (T, R), (T, R) of the new positions, or is None in a layer without RoPE.
    """
    T, N, K = len(x_TD), config.n_heads, config.n_kv_heads
    q_TNH, k_TKH, v_TKV = split_heads(linear(x_TD, w.attn_qkv), config)
    if config.qk_norm:
        q_TNH = norm_heads(q_TNH, w.attn_q_norm, config)
        k_TKH = norm_heads(k_TKH, w.attn_k_norm, config)
    if rotation is not None:
        pairs = config.family.rope_pairs
        q_TNH, k_TKH = rope(q_TNH, *rotation, pairs), rope(k_TKH, *rotation, pairs)
    k_KSH, v_KSV = cache.append(i, k_TKH, v_TKV)
    # Query heads n = k G ... k G + G - 1 share the key/value head k.
    q_KTGH = q_TNH.reshape(T, K, N // K, -1).swapaxes(0, 1) * np.float32(config.attention_scale)
    window, sinks_N = config.layers[i].window, w.attn_sinks
    y_KTGV = attend(q_KTGH, k_KSH, v_KSV, window, config.attention_softcap, sinks_N)
    return linear(y_KTGV.swapaxes(0, 1).reshape(T, -1), w.attn_output)


def latent_attention(
    x_TD: np.ndarray, w: LatentAttention, config: Config, i: int, cache: KVCache, rotation
) -> np.ndarray:
    """Multi-head latent attention of layer i; (T, D) -> (T, D). DeepSeek-V2, arXiv:2405.04434.

    A token's keys and values of all heads are W_k c and W_v c for one small row c; only c, and a key of R pairs that
    all heads share for the position, are cached. Since q . (W_k c) = (q W_k) . c, the keys are never made: each head's
    query goes into the space of c, attends there as if c were its key and its value, and W_v makes its result.
    """
    T, N, C = len(x_TD), config.n_heads, config.latent.rank
    q_in_TQ = x_TD
    if config.latent.query_rank is not None:
        q_in_TQ = rms_norm(linear(x_TD, w.attn_q_a), w.attn_q_a_norm, config.norm_eps)
    q_TNH = linear(q_in_TQ, w.attn_q_b).reshape(T, N, config.key_length)
    P = config.key_length - 2 * rotation[0].shape[1]
    q_TNC = (q_TNH[..., :P].swapaxes(0, 1) @ w.attn_k_b).swapaxes(0, 1)
    position_TNZ = rope(q_TNH[..., P:], *rotation, config.family.rope_pairs)

    row_T1A = linear(x_TD, w.attn_kv_a_mqa)[:, None]
    c_T1C = rms_norm(row_T1A[..., :C], w.attn_kv_a_norm, config.norm_eps)
    position_T1Z = rope(row_T1A[..., C:], *rotation, config.family.rope_pairs)
    (row_1SA,) = cache.append(i, np.concatenate([c_T1C, position_T1Z], axis=-1))

    q_1TNA = np.concatenate([q_TNC, position_TNZ], axis=-1)[None] * np.float32(config.attention_scale)
    y_1TNC = attend(q_1TNA, row_1SA, row_1SA[..., :C])
    y_NTV = y_1TNC[0].swapaxes(0, 1) @ w.attn_v_b
    return linear(y_NTV.swapaxes(0, 1).reshape(T, -1), w.attn_output)


def split_heads(qkv_TF, config):
    """The rows of one product, query then key then value, as heads: (T, N, H), (T, K, H), (T, K, V)."""
    T, n_q = len(qkv_TF), config.n_heads * config.key_length
    n_qk = n_q + config.n_kv_heads * config.key_length
    q_TF, k_TF, v_TF = qkv_TF[:, :n_q], qkv_TF[:, n_q:n_qk], qkv_TF[:, n_qk:]
    return (
        q_TF.reshape(T, config.n_heads, config.key_length),
        k_TF.reshape(T, config.n_kv_heads, config.key_length),
        v_TF.reshape(T, config.n_kv_heads, config.value_length),
    )


def norm_heads(x_TNH, gain, config):
    """The family's norm of each head, gain (H,) or (N, H), or of all heads of a token as one row, gain (N H,)."""
    if config.qk_norm == "row":
        return rms_norm(x_TNH.reshape(len(x_TNH), -1), gain, config.norm_eps).reshape(x_TNH.shape)
    if config.family.layer_norm:
        return layer_norm(x_TNH, gain, None, config.norm_eps)
    return rms_norm(x_TNH, gain, config.norm_eps)


def attend(q_KTGH, k_KSH, v_KSV, window=None, cap=None, sinks_N=None):
    """softmax(q k^T) v of scaled queries, causal: the T queries belong to the last T of the S keys.

    window   a query at position p sees the keys at positions p - window + 1 ... p
    cap      scores are softcapped
    sinks_N  a logit for each head that takes part in its softmax and has no value: attention to nothing
    """
    K, T, G, _ = q_KTGH.shape
    S = k_KSH.shape[1]
    y_KTGV = np.empty((K, T, G, v_KSV.shape[2]), np.float32)
    for t in range(0, T, QUERY_BLOCK):
        q_KBGH = q_KTGH[:, t : t + QUERY_BLOCK]
        B = q_KBGH.shape[1]
        stop = S - T + t + B  # the last query of the block sees the keys before this one
        start = 0 if window is None else max(0, stop - B - window + 1)  # the first one sees the keys from this one on
        scores_KBGS = (q_KBGH.reshape(K, B * G, -1) @ k_KSH[:, start:stop].swapaxes(1, 2)).reshape(K, B, G, -1)
        if cap is not None:
            scores_KBGS = softcap(scores_KBGS, cap)
        if B > 1:
            scores_KBGS += mask(B, start, stop, window)[:, None]
        if sinks_N is None:
            weights_KBGS = softmax(scores_KBGS, out=scores_KBGS)
        else:
            sinks_KBG1 = np.broadcast_to(sinks_N.reshape(K, 1, G, 1), (K, B, G, 1))
            weights_KBGS = softmax(np.concatenate([scores_KBGS, sinks_KBG1], axis=-1))[..., :-1]
        y_KBGV = (weights_KBGS.reshape(K, B * G, -1) @ v_KSV[:, start:stop]).reshape(K, B, G, -1)
        y_KTGV[:, t : t + B] = y_KBGV
    return y_KTGV


def mask(n_queries, start, stop, window=None):
    """0 where a query may look and -inf where not, (n_queries, stop - start); the last query stands at stop - 1."""
    query_B1 = np.arange(stop - n_queries, stop)[:, None]
    key_S = np.arange(start, stop)
    hidden_BS = key_S > query_B1
    if window is not None:
        hidden_BS |= key_S <= query_B1 - window
    return np.where(hidden_BS, np.float32(-np.inf), np.float32(0))

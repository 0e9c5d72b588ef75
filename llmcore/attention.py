"""Attention: each token looks back over the tokens before it and takes up what it needs.

Shape key: T new tokens, S cached + new, D model width, N query heads, K key/value heads, G = N/K, M = N + K, H head
width, V width of a value head, R rotating pairs, B queries of a block. Latent attention: P + Z = H, where Z = 2R
dimensions of a head rotate and P do not; C width of the latent row, A = C + Z what is cached of a token.
"""

import numpy as np

from .cache import KVCache
from .config import Config
from .linear import across_rows, linear
from .machine import each
from .ops import layer_norm, rms_norm, rope, softcap
from .weights import Attention, LatentAttention

# Queries of a prompt are taken so many at a time: the keys after the last of them need no work at all, which saves
# nearly half of a prompt's scores, and the scores never take more than N x 32 x S floats a thread. Attention of 512
# tokens takes 2.2 ms a layer of SmolLM2 with 32 queries at a time, 2.4 with 64, 2.7 with 128.
QUERY_BLOCK = 32


def attention(
    x_TD: np.ndarray, w: Attention, config: Config, i: int, texts: list[tuple[slice, KVCache]], rotation
) -> np.ndarray:
    """Grouped-query attention of layer i; (T, D) -> (T, D). arXiv:1706.03762, 2305.13245.

    `texts` says which rows belong to which cache: a token sees no text but its own. `rotation` holds the turns of the
    new positions, complex (T, R), or is None in a layer without RoPE.
    """
    T, N, K = len(x_TD), config.n_heads, config.n_kv_heads
    qk_TMH, v_TKV = split_heads(linear(x_TD, w.attn_qkv), config)
    if config.qk_norm:
        qk_TMH = norm_heads(qk_TMH, w.attn_qk_norm, config)
    if rotation is not None:
        qk_TMH = across_rows(lambda x_TMH, turns_TR: rope(x_TMH, turns_TR, config.family.rope_pairs), qk_TMH, rotation)
    q_TNH, k_TKH = qk_TMH[:, :N], qk_TMH[:, N:]
    # Query heads n = k G ... k G + G - 1 share the key/value head k.
    q_KTGH = q_TNH.reshape(T, K, N // K, -1).swapaxes(0, 1) * np.float32(config.attention_scale)
    window, sinks_N = config.layers[i].window, w.attn_sinks

    def attend_in(rows, cache):
        k_KSH, v_KSV = cache.append(i, k_TKH[rows], v_TKV[rows])
        return attend(q_KTGH[:, rows], k_KSH, v_KSV, window, config.attention_softcap, sinks_N)

    y_KTGV = each_text(texts, attend_in)
    return linear(y_KTGV.swapaxes(0, 1).reshape(T, -1), w.attn_output)


def latent_attention(
    x_TD: np.ndarray, w: LatentAttention, config: Config, i: int, texts: list[tuple[slice, KVCache]], rotation
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
    P = config.key_length - 2 * rotation.shape[1]
    q_TNC = (q_TNH[..., :P].swapaxes(0, 1) @ w.attn_k_b.swapaxes(1, 2)).swapaxes(0, 1)
    position_TNZ = rope(q_TNH[..., P:], rotation, config.family.rope_pairs)

    row_T1A = linear(x_TD, w.attn_kv_a_mqa)[:, None]
    c_T1C = rms_norm(row_T1A[..., :C], w.attn_kv_a_norm, config.norm_eps)
    position_T1Z = rope(row_T1A[..., C:], rotation, config.family.rope_pairs)
    row_T1A = np.concatenate([c_T1C, position_T1Z], axis=-1)
    q_1TNA = np.concatenate([q_TNC, position_TNZ], axis=-1)[None] * np.float32(config.attention_scale)

    def attend_in(rows, cache):
        (row_1SA,) = cache.append(i, row_T1A[rows])
        return attend(q_1TNA[:, rows], row_1SA, row_1SA[..., :C])

    y_1TNC = each_text(texts, attend_in)
    y_NTV = y_1TNC[0].swapaxes(0, 1) @ w.attn_v_b.swapaxes(1, 2)
    return linear(y_NTV.swapaxes(0, 1).reshape(T, -1), w.attn_output)


def each_text(texts, attend_in):
    """`attend_in(rows, cache)` of every text, (K, T', G, V) each, as one (K, T, G, V)."""
    parts = [attend_in(rows, cache) for rows, cache in texts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def split_heads(qkv_TF, config):
    """The rows of one product, query then key then value, as heads: queries and keys (T, M, H), values (T, K, V)."""
    T, M = len(qkv_TF), config.n_heads + config.n_kv_heads
    n_qk = M * config.key_length
    qk_TMH = qkv_TF[:, :n_qk].reshape(T, M, config.key_length)
    return qk_TMH, qkv_TF[:, n_qk:].reshape(T, config.n_kv_heads, config.value_length)


def norm_heads(qk_TMH, gain_MH, config):
    """The family's norm of each query and key head, or of all query heads of a token and all its key heads as a row."""
    if config.qk_norm == "row":
        ends = ((0, config.n_heads), (config.n_heads, len(gain_MH)))
        return np.concatenate([_norm_row(qk_TMH[:, a:b], gain_MH[a:b], config) for a, b in ends], axis=1)
    if config.family.layer_norm:
        return layer_norm(qk_TMH, gain_MH, None, config.norm_eps)
    return across_rows(lambda x_TMH: rms_norm(x_TMH, gain_MH, config.norm_eps), qk_TMH)


def _norm_row(x_TMH, gain_MH, config):
    row_TF = x_TMH.reshape(len(x_TMH), -1)
    return rms_norm(row_TF, gain_MH.ravel(), config.norm_eps).reshape(x_TMH.shape)


def attend(q_KTGH, k_KSH, v_KSV, window=None, cap=None, sinks_N=None):
    """softmax(q k^T) v of scaled queries, causal: the T queries belong to the last T of the S keys.

    window   a query at position p sees the keys at positions p - window + 1 ... p
    cap      scores are softcapped
    sinks_N  a logit for each head that takes part in its softmax and has no value: attention to nothing
    """
    K, T, G, _ = q_KTGH.shape
    S = k_KSH.shape[1]
    y_KTGV = np.empty((K, T, G, v_KSV.shape[2]), np.float32)
    sinks_K1G1 = None if sinks_N is None else sinks_N.reshape(K, 1, G, 1)

    def run(t):  # the queries from t on
        q_KBGH = q_KTGH[:, t : t + QUERY_BLOCK]
        B = q_KBGH.shape[1]
        stop = S - T + t + B  # the last query of the block sees the keys before this one
        start = 0 if window is None else max(0, stop - B - window + 1)  # the first one sees the keys from this one on
        k_KSH_seen, v_KSV_seen = k_KSH[:, start:stop], v_KSV[:, start:stop]
        y_KTGV[:, t : t + B] = attend_block(q_KBGH, k_KSH_seen, v_KSV_seen, window, cap, sinks_K1G1)

    each(run, range(0, T, QUERY_BLOCK))
    return y_KTGV


def attend_block(q_KBGH, k_KSH, v_KSV, window, cap, sinks_K1G1):
    """`attend` for B queries that belong to the last B of the S keys: exp(q k^T - max) v / sum(exp(q k^T - max))."""
    scores_KBGS = for_each_head(q_KBGH, k_KSH.swapaxes(1, 2))
    if cap is not None:
        scores_KBGS = softcap(scores_KBGS, cap)
    if q_KBGH.shape[1] > 1:
        hide(scores_KBGS, window)
    top_KBG1 = scores_KBGS.max(axis=-1, keepdims=True)
    if sinks_K1G1 is not None:
        top_KBG1 = np.maximum(top_KBG1, sinks_K1G1)
    scores_KBGS -= top_KBG1
    weights_KBGS = np.exp(scores_KBGS, out=scores_KBGS)
    sum_KBG1 = weights_KBGS.sum(axis=-1, keepdims=True)
    if sinks_K1G1 is not None:
        sum_KBG1 += np.exp(sinks_K1G1 - top_KBG1)
    y_KBGV = for_each_head(weights_KBGS, v_KSV)
    y_KBGV /= sum_KBG1  # here there is less to divide than before the product
    return y_KBGV


def for_each_head(x_KBGI, w_KIO):
    """x W for the B queries of the G heads that share each W; (K, B, G, I), (K, I, O) -> (K, B, G, O)."""
    K, B, G, _ = x_KBGI.shape
    if B == 1:  # a product for each head: as fast as one for all on long texts, twice as fast on short ones
        return (x_KBGI.swapaxes(1, 2) @ w_KIO[:, None]).swapaxes(1, 2)
    return (x_KBGI.reshape(K, B * G, -1) @ w_KIO).reshape(K, B, G, -1)


def hide(scores_KBGS, window):
    """Set to -inf what the B queries, at the last B of S positions, may not see: what is ahead or behind the window."""
    B, S = scores_KBGS.shape[1], scores_KBGS.shape[3]
    query_B1 = np.arange(S - B, S)[:, None]
    ahead_BB = np.arange(S - B, S) > query_B1
    np.copyto(scores_KBGS[..., S - B :], -np.inf, where=ahead_BB[:, None])
    if window is not None and window < S:
        behind_BS = np.arange(S - window) <= query_B1 - window
        np.copyto(scores_KBGS[..., : S - window], -np.inf, where=behind_BS[:, None])

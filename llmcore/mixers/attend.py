"""What all kinds of attention do with queries, keys and values: look back, and take up what matters.

    weights = softmax(q k^T)  over the keys of this and all earlier tokens         y = weights v

Shape key: T new tokens, S cached + new, K key/value heads, G query heads that share one, H head width, V
width of a value head, B queries of a block.
"""

import numpy as np

from ..ops import softcap
from ..threads import each

# Queries of a prompt are taken so many at a time: the keys after the last of them need no work at all, which
# saves nearly half of a prompt's scores, and the scores never take more than N x 32 x S floats a thread.
QUERY_BLOCK = 32


def each_text(step, attend_in):
    """`attend_in(rows, cache)` of every text, (K, T', G, V) each, as one (K, T, G, V)."""
    parts = [attend_in(rows, cache) for rows, cache in step.texts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def attend_seen(step, i, attend, q_KTGH, k_KSH, v_KSV, *rest):
    """`attend(q, k, v, *rest)`, whose shares, (N, T, S) of one text, are seen by who asks for them.

    A share says how much of the value of each key a query takes up. The last of the keys is the last token.
    """
    if not step.watcher.shares:
        return attend(q_KTGH, k_KSH, v_KSV, *rest)
    (K, T, G, _), S = q_KTGH.shape, k_KSH.shape[1]
    shares_KGTS = np.zeros((K, G, T, S), np.float32)
    y_KTGV = attend(q_KTGH, k_KSH, v_KSV, *rest, shares_KTGS=shares_KGTS.swapaxes(1, 2))
    shares_NTS = shares_KGTS.reshape(K * G, T, S)
    seen_NTS = step.see("kq_soft_max", i, shares_NTS)
    if seen_NTS is shares_NTS:
        return y_KTGV
    return (seen_NTS.reshape(K, G * T, S) @ v_KSV).reshape(K, G, T, -1).swapaxes(1, 2)


def attend_chunk(q_KTGH, k_KSH, v_KSV, chunk, position, shares_KTGS=None):
    """`attend` where a text is cut into chunks of so many tokens, and a query sees those of its own chunk
    alone.

    position  that of the first query
    """
    T, S = q_KTGH.shape[1], k_KSH.shape[1]
    parts, t = [], 0
    while t < T:
        before = (position + t) % chunk  # tokens of its chunk that stand before query t
        stop = min(T, t + chunk - before)
        keys = slice(S - T + t - before, S - T + stop)
        shares = None if shares_KTGS is None else shares_KTGS[:, t:stop, :, keys]
        parts.append(attend(q_KTGH[:, t:stop], k_KSH[:, keys], v_KSV[:, keys], shares_KTGS=shares))
        t = stop
    return np.concatenate(parts, axis=1)


def attend(q_KTGH, k_KSH, v_KSV, window=None, cap=None, sinks_N=None, shares_KTGS=None):
    """softmax(q k^T) v of scaled queries, causal: the T queries belong to the last T of the S keys.

    window       a query at position p sees the keys at positions p - window + 1 ... p
    cap          scores are softcapped
    sinks_N      a logit for each head that takes part in its softmax and has no value: attention to nothing
    shares_KTGS  zeros, to be filled with the softmax; None: nobody looks
    """
    K, T, G, _ = q_KTGH.shape
    S = k_KSH.shape[1]
    y_KTGV = np.empty((K, T, G, v_KSV.shape[2]), np.float32)
    sinks_K1G1 = None if sinks_N is None else sinks_N.reshape(K, 1, G, 1)

    def run(t):
        """The block of queries that begins with query t."""
        q_KBGH = q_KTGH[:, t : t + QUERY_BLOCK]
        B = q_KBGH.shape[1]
        stop = S - T + t + B  # the last query of the block sees the keys before this one
        # ... and the first one sees those from this one on
        start = 0 if window is None else max(0, stop - B - window + 1)
        k_KSH_seen, v_KSV_seen = k_KSH[:, start:stop], v_KSV[:, start:stop]
        shares = None if shares_KTGS is None else shares_KTGS[:, t : t + B, :, start:stop]
        y_KTGV[:, t : t + B] = attend_block(q_KBGH, k_KSH_seen, v_KSV_seen, window, cap, sinks_K1G1, shares)

    each(run, range(0, T, QUERY_BLOCK))
    return y_KTGV


def attend_block(q_KBGH, k_KSH, v_KSV, window, cap, sinks_K1G1, shares_KBGS=None):
    """`attend` for B queries, of the last B of the S keys: exp(q k^T - max) v / sum(exp(q k^T - max))."""
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
    if shares_KBGS is not None:
        np.divide(weights_KBGS, sum_KBG1, out=shares_KBGS)
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
    """Set to -inf what the B queries, the last B of S, may not see: what is ahead or behind the window."""
    B, S = scores_KBGS.shape[1], scores_KBGS.shape[3]
    query_B1 = np.arange(S - B, S)[:, None]
    ahead_BB = np.arange(S - B, S) > query_B1
    np.copyto(scores_KBGS[..., S - B :], -np.inf, where=ahead_BB[:, None])
    if window is not None and window < S:
        behind_BS = np.arange(S - window) <= query_B1 - window
        np.copyto(scores_KBGS[..., : S - window], -np.inf, where=behind_BS[:, None])

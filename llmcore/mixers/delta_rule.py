"""The delta rule: a memory that is corrected, not only added to, and that fades.

    S <- e^g S          u = beta (v - S^T k)          S <- S + k u^T          y = S^T q / sqrt(P)

For each head S is a linear map from keys to values. S^T k is what it holds under the key k; the write
puts v there instead, to the degree beta in (0, 1), where plain linear attention would add k v^T to
whatever lies there. g <= 0 says how much fades first: one number a head (deltanet.py), or one for each
channel of the key (kda.py). Keys have length 1. Schlag et al. 2021, arXiv:2102.11174; Yang et al. 2025,
arXiv:2412.06464.

Why a chunk of a prompt needs no loop over S. Let G_t be the sum of g up to token t of the chunk, and
S_0 the state before it. Unrolled, S_t = e^(G_t) S_0 + sum over s <= t of e^(G_t - G_s) k_s u_s^T. Put
that into the formula of u:

    u_t + beta_t sum over s < t of  (k_t . e^(G_t - G_s) k_s) u_s  =  beta_t (v_t - S_0^T e^(G_t) k_t)

These are linear equations (I + L) U = B with L strictly lower triangular, solved from the top, row by
row. With U known, what the queries read and the next state are products of matrices, as in attention
(the WY form, arXiv:2406.06484). A chunk of one token has no L, and what is left is the recurrence
itself: the two forms are one function here.

Shape key: T tokens, Q of a chunk, H heads, P width of a head, X decays of a head, 1 or P.
"""

import math

import numpy as np

from ..threads import each, evenly, n_threads

CHUNK = 64  # tokens of a matrix with one decay a head ...
CHANNEL_CHUNK = 16  # ... and with one a channel, which takes Q x Q x P factors


def see_heads(step, i, q_THP, k_THP, v_THP):
    """Queries, keys and values of one text's new tokens, past who looks on."""
    named = {"q_conv": q_THP, "k_conv": k_THP, "v_conv": v_THP}
    return (step.see(name, i, x_THP) for name, x_THP in named.items())


def of_length_1(x, eps):
    """x / sqrt(sum(x^2) + eps) over the last axis."""
    return x / np.sqrt(np.einsum("...p,...p->...", x, x)[..., None] + np.float32(eps))


def scan(q_THP, k_THP, v_THP, g_THX, beta_TH, s_HPP):
    """The y (T, H, P) of T tokens, and the state after them.

    A head of width 1. Half of what is there fades at each token; the second write (beta 1) replaces the
    rest, the third (beta 1/2) only half of it:
    >>> one, v = np.ones((3, 1, 1), np.float32), np.float32([8, 2, 4]).reshape(3, 1, 1)
    >>> beta, nothing = np.float32([[1], [1], [0.5]]), np.zeros((1, 1, 1), np.float32)
    >>> scan(one, one, v, np.log(one / 2), beta, nothing)[0].ravel().tolist()
    [8.0, 2.0, 2.5]
    """
    T, H, P = q_THP.shape
    chunk = CHUNK if g_THX.shape[2] == 1 else CHANNEL_CHUNK
    inputs = q_THP * np.float32(1 / math.sqrt(P)), k_THP, v_THP, g_THX, beta_TH[:, :, None]
    y_THP, last_HPP = np.empty_like(v_THP), np.empty_like(s_HPP)

    def run(heads):
        """Some heads, through all chunks."""
        s_hPP = s_HPP[heads]
        for at in range(0, T, chunk):
            of = slice(at, at + chunk), heads
            y_hQP, s_hPP = scan_chunk(*(x[of].swapaxes(0, 1) for x in inputs), s_hPP)
            y_THP[of] = y_hQP.swapaxes(0, 1)
        last_HPP[heads] = s_hPP

    each(run, evenly(H, n_threads() if T > 1 else 1))
    return y_THP, last_HPP


def scan_chunk(q_HQP, k_HQP, v_HQP, g_HQX, beta_HQ1, s_HPP):
    """`scan` of one chunk, heads first: (I + L) U = B, then y and the next state, as above."""
    Q = k_HQP.shape[1]
    sum_HQX = np.cumsum(g_HQX, axis=1, dtype=np.float64)  # in float32 differences of sums lose digits
    fade_HQX = np.exp(sum_HQX).astype(np.float32)
    left_HQX = np.exp(sum_HQX[:, -1:] - sum_HQX).astype(np.float32)
    between_HQQX = np.where(
        np.tri(Q, dtype=bool)[:, :, None], sum_HQX[:, :, None] - sum_HQX[:, None], -np.inf
    )
    decay_HQQX = np.exp(between_HQQX.astype(np.float32))

    u_HQP = beta_HQ1 * (v_HQP - (fade_HQX * k_HQP) @ s_HPP)
    lower_HQQ = beta_HQ1 * faded_products(k_HQP, k_HQP, decay_HQQX)
    for t in range(1, Q):
        u_HQP[:, t] -= (lower_HQQ[:, t, None, :t] @ u_HQP[:, :t])[:, 0]
    y_HQP = (fade_HQX * q_HQP) @ s_HPP + faded_products(q_HQP, k_HQP, decay_HQQX) @ u_HQP
    next_HPP = sum_of_outer(left_HQX * k_HQP, u_HQP)
    next_HPP += fade_HQX[:, -1, :, None] * s_HPP
    return y_HQP, next_HPP


def faded_products(a_HQP, b_HQP, decay_HQQX):
    """sum over p of a_tp b_sp decay_tsp, (H, Q, Q)."""
    if decay_HQQX.shape[3] == 1:
        return decay_HQQX[..., 0] * (a_HQP @ b_HQP.swapaxes(1, 2))
    return np.einsum("hqsp,hsp->hqs", decay_HQQX * a_HQP[:, :, None], b_HQP)


def sum_of_outer(a_HQP, b_HQP):
    """sum over q of a_q b_q^T, (H, P, P); for one q broadcasting is faster than a product of matrices."""
    if a_HQP.shape[1] == 1:
        return a_HQP.swapaxes(1, 2) * b_HQP
    return a_HQP.swapaxes(1, 2) @ b_HQP

"""State-space duality: Mamba-2's recurrence, and the same as attention with a decay in place of the softmax.

    S_t = e^(a_t) S_(t-1) + x_t B_t^T        y_t = S_t C_t        a = D A, and x is the input times D

for each head. Unrolled, y_t is a sum over all tokens up to t of what they have written and is still there:

    y_t = sum over s <= t of  e^(a_(s+1) + ... + a_t) (C_t . B_s) x_s

That is attention with queries C, keys B and values x. With running sums of a the weights are one matrix,
L * (C B^T) with L_ts = e^(sum_t - sum_s), so a few products do for many tokens what the recurrence does for
one. But the matrix grows with T^2. So a prompt goes in chunks: the matrix within a chunk, and for what came
before it the state at its start, faded by e^(sum_t) when token t reads it. L's last row says what is left of
each token at the chunk's end, where the next one starts. Dao & Gu 2024, arXiv:2405.21060.

Shape key: T new tokens, Q of a chunk, H heads of width P, N state width, G groups of J = H/G heads that share
B and C, F = J P.
"""

import numpy as np

CHUNK = 64  # tokens of a matrix: more cost more products within, fewer cost more passes over the state


def scan(x_THP, dt_TH, b_TGN, c_TGN, a_H, s_HPN):
    """y (T, H, P) of T tokens, and the state after them: by the recurrence for one token, by chunks for more.

    x and a are without their step, dt. Three tokens write 1, 2 and 4 at the same place and read there, and
    half of the past fades at each:
    >>> x, one = np.float32([1, 2, 4]).reshape(3, 1, 1), np.ones((3, 1, 1), np.float32)
    >>> y, s = scan(x, one[:, 0], one, one, np.log(np.float32([0.5])), np.zeros((1, 1, 1), np.float32))
    >>> y.ravel().tolist(), s.ravel().tolist()
    ([1.0, 2.5, 5.25], [5.25])
    """
    x_THP, a_TH = x_THP * dt_TH[:, :, None], dt_TH * a_H
    if len(x_THP) == 1:
        y_HP, s_HPN = scan_token(x_THP[0], a_TH[0], b_TGN[0], c_TGN[0], s_HPN)
        return y_HP[None], s_HPN
    y_THP = np.empty_like(x_THP)
    for at in range(0, len(x_THP), CHUNK):
        of = slice(at, at + CHUNK)
        y_THP[of], s_HPN = scan_chunk(x_THP[of], a_TH[of], b_TGN[of], c_TGN[of], s_HPN)
    return y_THP, s_HPN


def scan_token(x_HP, a_H, b_GN, c_GN, s_HPN):
    """The recurrence: y (H, P) of one token and the next state. Heads g J ... g J + J - 1 are group g."""
    H, P, N = s_HPN.shape
    G = len(b_GN)
    s_GFN = (np.exp(a_H)[:, None, None] * s_HPN).reshape(G, -1, N)
    s_GFN += x_HP.reshape(G, -1, 1) * b_GN[:, None]
    return (s_GFN @ c_GN[:, :, None]).reshape(H, P), s_GFN.reshape(H, P, N)


def scan_chunk(x_QHP, a_QH, b_QGN, c_QGN, s_HPN):
    """The matrix form of at most CHUNK tokens: y (Q, H, P) and the next state."""
    Q, H, P = x_QHP.shape
    G, N = b_QGN.shape[1:]
    sum_HQ = np.cumsum(a_QH, axis=0, dtype=np.float64).T  # in float32 differences of sums lose digits
    exponent_HQQ = np.where(np.tri(Q, dtype=bool), sum_HQ[:, :, None] - sum_HQ[:, None], -np.inf)
    decay_HQQ = np.exp(exponent_HQQ.astype(np.float32))
    fade_HQ1 = np.exp(sum_HQ).astype(np.float32)[:, :, None]
    x_HQP, b_GQN, c_GQN = x_QHP.swapaxes(0, 1), b_QGN.swapaxes(0, 1), c_QGN.swapaxes(0, 1)

    weights_HQQ = decay_HQQ * np.repeat(c_GQN @ b_GQN.swapaxes(1, 2), H // G, axis=0)
    past_HQP = (c_GQN[:, None] @ s_HPN.reshape(G, -1, P, N).swapaxes(2, 3)).reshape(H, Q, P)
    y_HQP = weights_HQQ @ x_HQP + fade_HQ1 * past_HQP

    left_HQP = (decay_HQQ[:, -1, :, None] * x_HQP).reshape(G, -1, Q, P)
    written_HPN = (left_HQP.swapaxes(2, 3) @ b_GQN[:, None]).reshape(H, P, N)
    return y_HQP.swapaxes(0, 1), fade_HQ1[:, -1:] * s_HPN + written_HPN

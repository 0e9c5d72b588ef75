"""The small mathematics of a transformer: norms, softmax, activations, rotary positions. Pure functions on float32.

Shape key: T new tokens, S cached + new, D model width, N query heads, K key/value heads, G = N/K, H head width,
R = n_rot/2 rotating pairs, F feed-forward width, V vocabulary.
"""

import math

import numpy as np


def rms_norm(x, gain, eps):
    """x / sqrt(mean(x^2) + eps) * gain over the last axis; (..., D), (D,) -> (..., D).

    Zhang & Sennrich 2019, arXiv:1910.07467.
    """
    mean_square = np.einsum("...d,...d->...", x, x)[..., None] / np.float32(x.shape[-1])
    y = x / np.sqrt(mean_square + np.float32(eps))
    y *= gain
    return y


def layer_norm(x, gain, bias, eps):
    """(x - mean(x)) / sqrt(var(x) + eps) * gain (+ bias) over the last axis. Ba et al. 2016, arXiv:1607.06450."""
    y = rms_norm(x - x.mean(axis=-1, keepdims=True), gain, eps)
    return y if bias is None else y + bias


def softmax(x):
    """exp(x - max) / sum(exp(x - max)) over the last axis; the maximum is taken out so that exp cannot overflow."""
    out = x - x.max(axis=-1, keepdims=True)
    np.exp(out, out=out)
    out /= out.sum(axis=-1, keepdims=True)
    return out


def log_softmax(x):
    """x - max - log(sum(exp(x - max))) over the last axis: the log-probabilities of logits."""
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    y = -x
    with np.errstate(over="ignore"):  # exp(-x) is inf below -88, and 1 / inf is the right answer, 0
        np.exp(y, out=y)
    y += 1
    return np.divide(1, y, out=y)


def gelu(x):
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the tanh form. Hendrycks & Gimpel 2016, arXiv:1606.08415."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (1 + np.tanh(inner))


def geglu(gate, up):
    """gelu(gate) * up. Shazeer 2020, arXiv:2002.05202."""
    y = gelu(gate)
    y *= up
    return y


def silu(x):
    """x sigmoid(x) = x / (1 + exp(-x)). Hendrycks & Gimpel 2016, arXiv:1606.08415."""
    y = -x
    with np.errstate(over="ignore"):  # as in sigmoid
        np.exp(y, out=y)
    y += 1
    return np.divide(x, y, out=y)


def swiglu(gate, up):
    """silu(gate) * up. Shazeer 2020, arXiv:2002.05202."""
    y = silu(gate)
    y *= up
    return y


def swiglu_clamped(gate, up, alpha=1.702, limit=7.0):
    """g sigmoid(alpha g) (u + 1) with g = min(gate, limit), u = up within +-limit: gpt-oss's, arXiv:2508.10925."""
    gate, up = np.minimum(gate, np.float32(limit)), np.clip(up, np.float32(-limit), np.float32(limit))
    return gate * sigmoid(np.float32(alpha) * gate) * (up + 1)


# Of the feed-forward: with a gate f(gate, up), without one f(up).
ACTIVATIONS = {"swiglu": swiglu, "swiglu_clamped": swiglu_clamped, "geglu": geglu, "gelu": gelu}


def softcap(x, cap):
    """cap tanh(x / cap): leaves small numbers alone and keeps large ones within +-cap. Gemma 2, arXiv:2408.00118."""
    return np.float32(cap) * np.tanh(x / np.float32(cap))


def rope_table(rope, positions_T, factors_R=None):
    """The turns cos(angle) + i sin(angle) of each position; `config.Rope`, (T,) -> complex (T, R).

    angle = p / factor * base^(-2i / n_rot), that of pair i divided by factors_R[i] where the file has such factors.
    Su et al. 2021, arXiv:2104.09864. Angles are made in float64: at position 8,000 a float32 has lost three digits.
    """
    frequency_R = rope.base ** (-np.arange(0, rope.n_rot, 2) / rope.n_rot)
    if factors_R is not None:
        frequency_R = frequency_R / factors_R
    if rope.yarn_context is None:
        frequency_R = frequency_R / rope.factor
    else:
        keep_R = yarn_ramp(rope)
        frequency_R = frequency_R * (keep_R + (1 - keep_R) / rope.factor)
    return (rope.gain * np.exp(1j * np.outer(positions_T, frequency_R))).astype(np.complex64)


def yarn_ramp(rope, beta_fast=32.0, beta_slow=1.0):
    """Per pair, how much of its original frequency YaRN keeps: 1 where it turns beta_fast times or more within the
    original context, 0 where it turns less than beta_slow times, a line between. Peng et al. 2023, arXiv:2309.00071.
    """

    def pair_turning(times):  # the (fractional) index of the pair that turns so many times within the original context
        return rope.n_rot * math.log(rope.yarn_context / (times * 2 * math.pi)) / (2 * math.log(rope.base))

    low = max(0, math.floor(pair_turning(beta_fast)))
    high = min(rope.n_rot - 1, math.ceil(pair_turning(beta_slow)))
    return 1 - np.clip((np.arange(rope.n_rot // 2) - low) / max(0.001, high - low), 0, 1)


def rope(x_TNH, turns_TR, pairs):
    """Turn each pair (a, b) of a head by its angle: (a cos - b sin, a sin + b cos); dimensions past 2R pass through.

    pairs "adjacent": (x[2i], x[2i + 1]); "halves": (x[i], x[i + R]). That is the complex product (a + ib) turn.
    """
    R = turns_TR.shape[1]
    if pairs == "adjacent":
        out_TNH = np.array(x_TNH, order="C")
        pairs_TNR = out_TNH[..., : 2 * R].view(np.complex64)
        pairs_TNR *= turns_TR[:, None]
        return out_TNH
    cos_T1R, sin_T1R = turns_TR.real[:, None], turns_TR.imag[:, None]
    a, b = x_TNH[..., :R], x_TNH[..., R : 2 * R]
    out_TNH = x_TNH.copy()
    out_TNH[..., :R] = a * cos_T1R - b * sin_T1R
    out_TNH[..., R : 2 * R] = a * sin_T1R + b * cos_T1R
    return out_TNH

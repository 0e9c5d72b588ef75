"""The small mathematics of a transformer: norms, softmax, activations, rotary positions. Pure functions on
float32.

Shape key: T new tokens, S cached + new, D model width, N query heads, K key/value heads, G = N/K, H head
width, R = n_rot/2 rotating pairs, F feed-forward width, V vocabulary.
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
    """(x - mean(x)) / sqrt(var(x) + eps) * gain (+ bias) over the last axis. Ba et al. 2016,
    arXiv:1607.06450.
    """
    y = rms_norm(x - x.mean(axis=-1, keepdims=True), gain, eps)
    return y if bias is None else y + bias


def softmax(x):
    """exp(x - max) / sum(exp(x - max)) over the last axis; the maximum is taken out so that exp cannot
    overflow.
    """
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
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the tanh form. Hendrycks & Gimpel 2016,
    arXiv:1606.08415.
    """
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
    """g sigmoid(alpha g) (u + 1) with g = min(gate, limit), u = up within +-limit: gpt-oss's,
    arXiv:2508.10925.
    """
    gate, up = np.minimum(gate, np.float32(limit)), np.clip(up, np.float32(-limit), np.float32(limit))
    return gate * sigmoid(np.float32(alpha) * gate) * (up + 1)


def reglu(gate, up):
    """max(gate, 0) * up. Shazeer 2020, arXiv:2002.05202."""
    y = np.maximum(gate, 0)
    y *= up
    return y


def relu_squared(x):
    """max(x, 0)^2. So et al. 2021, arXiv:2109.08668."""
    y = np.maximum(x, 0)
    y *= y
    return y


# Of the feed-forward: with a gate f(gate, up), without one f(up).
ACTIVATIONS = {
    "swiglu": swiglu,
    "swiglu_clamped": swiglu_clamped,
    "geglu": geglu,
    "reglu": reglu,
    "gelu": gelu,
    "relu_squared": relu_squared,
}


def softcap(x, cap):
    """cap tanh(x / cap): leaves small numbers alone and keeps large ones within +-cap. Gemma 2,
    arXiv:2408.00118.
    """
    return np.float32(cap) * np.tanh(x / np.float32(cap))

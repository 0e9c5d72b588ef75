"""The small mathematics of a transformer: norms, softmax, activations, rotary positions. Pure functions on
float32.

Shape key: T new tokens, S cached + new, D model width, N query heads, K key/value heads, G = N/K, H head
width, R = n_rot/2 rotating pairs, F feed-forward width, V vocabulary.
"""

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
    """(x - mean(x)) / sqrt(var(x) + eps) * gain (+ bias) over the last axis. arXiv:1607.06450."""
    y = rms_norm(x - x.mean(axis=-1, keepdims=True), gain, eps)
    return y if bias is None else y + bias


def softmax(x):
    """exp(x - max) / sum(exp(x - max)) over the last axis; less max, so that exp cannot overflow."""
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


def silu(x):
    """x sigmoid(x) = x / (1 + exp(-x)). Hendrycks & Gimpel 2016, arXiv:1606.08415."""
    y = -x
    with np.errstate(over="ignore"):  # as in sigmoid
        np.exp(y, out=y)
    y += 1
    return np.divide(x, y, out=y)


def softcap(x, cap):
    """cap tanh(x / cap): leaves small numbers alone, keeps large ones within +-cap. arXiv:2408.00118."""
    return np.float32(cap) * np.tanh(x / np.float32(cap))

"""What bends the hidden numbers of a feed-forward: with a gate f(gate, up), without one f(up)."""

import math
from collections.abc import Callable

import numpy as np

from ..ops import sigmoid, silu


def gelu(x):
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the tanh form. arXiv:1606.08415."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (1 + np.tanh(inner))


def geglu(gate, up):
    """gelu(gate) * up. Shazeer 2020, arXiv:2002.05202."""
    y = gelu(gate)
    y *= up
    return y


def swiglu(gate, up):
    """silu(gate) * up. Shazeer 2020, arXiv:2002.05202."""
    y = silu(gate)
    y *= up
    return y


def swiglu_clamped(gate, up, alpha=1.702, limit=7.0):
    """g sigmoid(alpha g) (u + 1), g = min(gate, limit), u = up within +-limit: arXiv:2508.10925."""
    gate, up = np.minimum(gate, np.float32(limit)), np.clip(up, np.float32(-limit), np.float32(limit))
    return gate * sigmoid(np.float32(alpha) * gate) * (up + 1)


def relu_squared(x):
    """max(x, 0)^2. So et al. 2021, arXiv:2109.08668."""
    y = np.maximum(x, 0)
    y *= y
    return y


def reglu(gate, up):
    """max(gate, 0) * up. Shazeer 2020, arXiv:2002.05202."""
    y = np.maximum(gate, 0)
    y *= up
    return y


ACTIVATIONS: dict[str, Callable[..., np.ndarray]] = {
    "swiglu": swiglu,
    "swiglu_clamped": swiglu_clamped,
    "geglu": geglu,
    "reglu": reglu,
    "gelu": gelu,
    "relu_squared": relu_squared,
}

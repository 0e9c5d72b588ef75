"""The feed-forward half of a block: each token by itself, widened, gated, narrowed.

Shape key: T new tokens, D model width, F feed-forward width.
"""

import numpy as np

from .linear import linear
from .ops import ACTIVATIONS
from .weights import Layer


def gated_ffn(x_TD: np.ndarray, layer: Layer, activation: str) -> np.ndarray:
    """(act(x W_gate) * (x W_up)) W_down; (T, D) -> (T, D). Shazeer 2020, arXiv:2002.05202."""
    gate_TF, up_TF = np.split(linear(x_TD, layer.ffn_gate_up), 2, axis=1)
    hidden_TF = ACTIVATIONS[activation](gate_TF)
    hidden_TF *= up_TF
    return linear(hidden_TF, layer.ffn_down)

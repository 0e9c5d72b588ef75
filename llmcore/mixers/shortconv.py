"""The gated short convolution: each channel mixes its last few tokens, between two gates of the token.

    [b | c | u] = x W_in                 y = (c * conv(b * u)) W_out
    conv(z)_t = sum over w of kernel_w * z_(t - W + 1 + w)

The gate b decides what of a token enters, the kernel weighs it against the W - 1 tokens before, the
gate c decides what leaves. Nothing older is seen: these layers do the local work cheaply, and a few
attention layers between them look far back. There is no activation; the two products are what bends.
LFM2: Liquid AI 2025, arXiv:2511.23404.

A prompt is W shifted sums over all its rows at once, a token the same sum over W rows: one formula,
nothing to choose. Cached are the last W - 1 rows of b * u: 4 D (W - 1) bytes a layer, 16 KB at D = 2048
and W = 3, and nothing a token (an attention layer of 8 key/value heads of 64 needs as much for four
tokens).

Shape key: T new tokens, D model width, W width of the kernel.
"""

from dataclasses import dataclass

import numpy as np

from ..cache import State
from ..linear import Matrix, linear
from .conv import causal_conv
from .step import Step


@dataclass(frozen=True)
class ShortConv:
    """The plan of a layer with a short convolution."""

    d_model: int  # {arch}.embedding_length
    kernel_width: int  # {arch}.shortconv.l_cache
    rope: None = None  # positions do not rotate


@dataclass(frozen=True)
class Weights:
    """The numbers of a short convolution, under GGUF's names without "shortconv."."""

    in_proj: Matrix  # D -> 3D: b, c, u
    conv: np.ndarray  # (D, W)
    out_proj: Matrix  # D -> D


def read(keys, family, i: int) -> ShortConv:
    """The plan of layer i. Raises ModelFileError."""
    return ShortConv(keys.get("embedding_length", int, least=1), keys.get("shortconv.l_cache", int, least=2))


def take(tensors, plan: ShortConv, d_model: int, blk: str) -> Weights:
    """The weights of the layer whose tensors begin with `blk`."""
    blk += "shortconv."
    return Weights(
        in_proj=tensors.matrix(blk + "in_proj", d_model, 3 * d_model),
        conv=tensors.vector(blk + "conv", d_model, plan.kernel_width),
        out_proj=tensors.matrix(blk + "out_proj", d_model, d_model),
    )


def state(plan: ShortConv) -> State:
    """What the cache keeps: the last W - 1 rows of b * u."""
    return State((plan.kernel_width - 1, plan.d_model))


def run(x_TD: np.ndarray, w: Weights, plan: ShortConv, step: Step, i: int) -> np.ndarray:
    """The short convolution of layer i; (T, D) -> (T, D). A token sees no text but its own."""
    bcu_TF = step.see("bcx", i, linear(x_TD, w.in_proj))
    y_TD = np.empty_like(x_TD)
    for rows, cache in step.texts:
        b_TD, c_TD, u_TD = np.split(bcu_TF[rows], 3, axis=1)
        y_TD[rows], last_WD = mix(b_TD, c_TD, u_TD, cache.state(i)[0], w.conv)
        cache.layers[i].replace(step.see("new_conv", i, last_WD))
    return linear(step.see("conv_output_gated", i, y_TD), w.out_proj)


def mix(b_TD, c_TD, u_TD, before_WD, kernel_DW):
    """c * conv(b * u) (T, D), and the rows of b * u that the next tokens need; before_WD are those before.

    One channel, a kernel that adds the token before; the third token lets nothing in, the second nothing out:
    >>> b, c, u = (np.float32(x).reshape(3, 1) for x in ([1, 1, 0], [1, 0, 1], [2, 3, 4]))
    >>> y, last = mix(b, c, u, np.float32([[10]]), np.float32([[1, 1]]))
    >>> y.ravel().tolist(), last.ravel().tolist()
    ([12.0, 0.0, 3.0], [0.0])
    """
    y_TD, last_WD = causal_conv(b_TD * u_TD, before_WD, kernel_DW)
    y_TD *= c_TD
    return y_TD, last_WD

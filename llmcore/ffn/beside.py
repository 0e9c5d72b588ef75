"""A dense feed-forward and a mixture of experts beside each other, each between norms of its own (Gemma 4).

    rms(dense(rms(x; ffn_norm)); post_ffw_norm_1) + rms(experts(rms(x; pre_ffw_norm_2)); post_ffw_norm_2)

The router reads neither norm's result but rms(x) / sqrt(D) with a gain of its own.

Shape key: T new tokens, D model width.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..mixers.keys import read_norm_eps
from ..mixers.step import Step
from ..ops import rms_norm
from . import dense, experts


@dataclass(frozen=True)
class Beside:
    """The plan of both."""

    dense: dense.Dense
    experts: experts.Experts
    eps: float


@dataclass(frozen=True)
class Weights:
    """The numbers of both; norms are (D,)."""

    ffn_norm: np.ndarray
    dense: dense.Weights
    post_ffw_norm_1: np.ndarray
    router_norm: np.ndarray  # ffn_gate_inp.scale / sqrt(D)
    pre_ffw_norm_2: np.ndarray
    experts: experts.Weights
    post_ffw_norm_2: np.ndarray


def read(keys, family, i: int, plan: dense.Dense) -> Beside:
    """The plan of layer i, whose dense half is `plan`. Raises ModelFileError and UnsupportedModel."""
    return Beside(plan, experts.read(keys, family, i), read_norm_eps(keys, family))


def take(tensors, plan: Beside, d_model: int, blk: str) -> Weights:
    """The weights of the layer whose tensors begin with `blk`."""
    gain = tensors.vector(blk + "ffn_gate_inp", d_model, suffix=".scale")
    return Weights(
        ffn_norm=tensors.vector(blk + "ffn_norm", d_model),
        dense=dense.take(tensors, plan.dense, d_model, blk),
        post_ffw_norm_1=tensors.vector(blk + "post_ffw_norm_1", d_model),
        router_norm=gain / np.float32(math.sqrt(d_model)),
        pre_ffw_norm_2=tensors.vector(blk + "pre_ffw_norm_2", d_model),
        experts=experts.take(tensors, plan.experts, d_model, blk),
        post_ffw_norm_2=tensors.vector(blk + "post_ffw_norm_2", d_model),
    )


def run(x_TD: np.ndarray, w: Weights, plan: Beside, start_TD, step: Step, i: int) -> np.ndarray:
    """The sum of both; (T, D) -> (T, D)."""

    def normed(x_TD, gain_D):
        return rms_norm(x_TD, gain_D, plan.eps)

    dense_TD = dense.run(normed(x_TD, w.ffn_norm), w.dense, plan.dense, start_TD, step, i)
    router_TD = normed(x_TD, w.router_norm)
    experts_TD = experts.mix(normed(x_TD, w.pre_ffw_norm_2), router_TD, w.experts, plan.experts, step, i)
    return normed(dense_TD, w.post_ffw_norm_1) + normed(experts_TD, w.post_ffw_norm_2)

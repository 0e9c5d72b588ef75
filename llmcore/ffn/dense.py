"""The dense feed-forward: each token's row is widened, bent and narrowed again.

Shape key: T new tokens, D model width, F feed-forward width.
"""

from dataclasses import dataclass

import numpy as np

from ..linear import Matrix, linear
from ..mixers.step import Step
from ..ops import rms_norm
from ..threads import across_rows
from .activations import ACTIVATIONS


@dataclass(frozen=True)
class Dense:
    """The plan of a dense feed-forward."""

    n_ff: int  # {arch}.feed_forward_length
    activation: str  # a row of ACTIVATIONS
    gated: bool  # act(x W_gate, x W_up) W_down, or act(x W_up) W_down
    sub_norm_eps: float | None = None  # that of a norm before W_down


@dataclass(frozen=True)
class Weights:
    """The numbers of a dense feed-forward."""

    ffn_up: Matrix  # D -> 2F, ffn_gate and ffn_up as one; D -> F without a gate
    ffn_down: Matrix  # F -> D
    ffn_sub_norm: np.ndarray | None = None  # (F,)


def take(tensors, plan: Dense, d_model: int, blk: str, suffix: str = "") -> Weights:
    """The weights of a dense feed-forward, or of the expert that the names' suffix tells."""
    up, gate = f"ffn_up{suffix}", f"ffn_gate{suffix}"
    parts = {gate: plan.n_ff, up: plan.n_ff} if plan.gated else {up: plan.n_ff}
    return Weights(
        ffn_up=tensors.fused(blk, up, d_model, parts),
        ffn_down=tensors.matrix(f"{blk}ffn_down{suffix}", plan.n_ff, d_model),
        ffn_sub_norm=None if plan.sub_norm_eps is None else tensors.vector(blk + "ffn_sub_norm", plan.n_ff),
    )


def run(x_TD: np.ndarray, w: Weights, plan: Dense, start_TD, step: Step, i: int) -> np.ndarray:
    """act(x W_gate, x W_up) W_down, or without a gate act(x W_up) W_down; (T, D) -> (T, D)."""
    hidden_TX = step.see("ffn_gate_up" if plan.gated else "ffn_up", i, linear(x_TD, w.ffn_up))
    hidden_TF = activate(hidden_TX, plan)
    if w.ffn_sub_norm is not None:
        hidden_TF = rms_norm(hidden_TF, w.ffn_sub_norm, plan.sub_norm_eps)
    return linear(step.see("ffn_hidden", i, hidden_TF), w.ffn_down)


def activate(hidden_TX: np.ndarray, plan: Dense) -> np.ndarray:
    """act(gate, up) of a row that holds both, (T, 2F) -> (T, F); act(up) where there is no gate."""
    act = ACTIVATIONS[plan.activation]
    if not plan.gated:
        return across_rows(act, hidden_TX)
    F = hidden_TX.shape[1] // 2
    return across_rows(act, hidden_TX[:, :F], hidden_TX[:, F:])

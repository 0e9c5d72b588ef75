"""Mamba-2: a text is read into a state of fixed size, which fades a little at each token and is written to.

    S_t = e^(D_t A) S_(t-1) + D_t x_t B_t^T              y_t = S_t C_t + d x_t

for each head: x_t is written, at B_t, and C_t is where to read. The step D_t = softplus(dt_t + bias) says how
much of the past fades (A < 0) and how strongly x_t is written. Dao & Gu 2024, arXiv:2405.21060; duality.py
has the two ways to compute it.

First x, B and C pass a convolution over the last W tokens; at last y is gated by z and normed. Cached: S and
the last W - 1 rows before the convolution, 4 (H P N + (W - 1) C) bytes a layer and nothing a token.

Shape key: T new tokens, D model width, H heads of width P, U = H P, N state width, G groups of heads with one
B and C, W width of the convolution, C = U + 2 G N numbers that pass through it.
"""

from dataclasses import dataclass

import numpy as np

from ..cache import State
from ..linear import Matrix, linear
from ..ops import rms_norm, silu
from .conv import causal_conv, softplus
from .duality import scan
from .keys import read_norm_eps
from .step import Step


@dataclass(frozen=True)
class Mamba2:
    """The plan of a Mamba-2 layer."""

    n_heads: int  # {arch}.ssm.time_step_rank
    n_inner: int  # {arch}.ssm.inner_size: the width of all heads
    state_width: int  # {arch}.ssm.state_size
    n_groups: int  # {arch}.ssm.group_count
    conv_width: int  # {arch}.ssm.conv_kernel
    eps: float
    must_norm: bool = True  # whether a file without ssm_norm is refused
    rope: None = None  # positions do not rotate

    @property
    def n_conv(self) -> int:
        """How many channels pass through the convolution: x, B and C."""
        return self.n_inner + 2 * self.n_groups * self.state_width


@dataclass(frozen=True)
class Weights:
    """The numbers of a Mamba-2 layer; None where the file has no such tensor."""

    ssm_in: Matrix  # D -> U + C + H: z, what is convolved, dt
    ssm_conv1d: np.ndarray  # (C, W)
    ssm_conv1d_bias: np.ndarray | None  # (C,)
    ssm_dt: np.ndarray  # (H,), a bias
    ssm_a: np.ndarray  # (H,): A, negative
    ssm_d: np.ndarray  # (H,): d
    ssm_norm: np.ndarray | None  # (G, U/G)
    ssm_out: Matrix  # U -> D


def read(keys, family, i: int) -> Mamba2:
    """The plan of layer i. Raises ModelFileError."""
    names = "ssm.inner_size", "ssm.time_step_rank", "ssm.group_count"
    n_inner, n_heads, n_groups = (keys.get(name, int, least=1) for name in names)
    if n_inner % n_heads or n_heads % n_groups:
        wanted = f"must divide the inner size {n_inner} and be a multiple of the {n_groups} groups"
        raise keys.error(names[1], f"is {n_heads}; it {wanted}")
    return Mamba2(
        n_heads=n_heads,
        n_inner=n_inner,
        state_width=keys.get("ssm.state_size", int, least=1),
        n_groups=n_groups,
        conv_width=keys.get("ssm.conv_kernel", int, least=1),
        eps=read_norm_eps(keys, family),
    )


def take(tensors, plan: Mamba2, d_model: int, blk: str) -> Weights:
    """The weights of the layer whose tensors begin with `blk`."""
    H, G, U, C = plan.n_heads, plan.n_groups, plan.n_inner, plan.n_conv
    return Weights(
        ssm_in=tensors.matrix(blk + "ssm_in", d_model, U + C + H),
        ssm_conv1d=tensors.vector(blk + "ssm_conv1d", C, plan.conv_width),
        ssm_conv1d_bias=tensors.vector(blk + "ssm_conv1d", C, optional=True, suffix=".bias"),
        ssm_dt=tensors.vector(blk + "ssm_dt", H, suffix=".bias"),
        ssm_a=tensors.vector(blk + "ssm_a", H, 1, suffix="")[:, 0],
        ssm_d=tensors.vector(blk + "ssm_d", H, 1, suffix="")[:, 0],
        ssm_norm=tensors.vector(blk + "ssm_norm", G, U // G, optional=not plan.must_norm),
        ssm_out=tensors.matrix(blk + "ssm_out", U, d_model),
    )


def state(plan: Mamba2) -> State:
    """What the cache keeps: S, and what the convolution still needs."""
    H, U = plan.n_heads, plan.n_inner
    return State((H, U // H, plan.state_width), (plan.conv_width - 1, plan.n_conv))


def run(x_TD: np.ndarray, w: Weights, plan: Mamba2, step: Step, i: int) -> np.ndarray:
    """The Mamba-2 of layer i; (T, D) -> (T, D). A token sees no text but its own."""
    T, U, G = len(x_TD), plan.n_inner, plan.n_groups
    z_TU, xbc_TC, dt_TH = np.split(linear(x_TD, w.ssm_in), [U, U + plan.n_conv], axis=1)
    dt_TH = step.see("dt", i, softplus(dt_TH + w.ssm_dt))
    y_TU = np.empty((T, U), np.float32)
    for rows, cache in step.texts:
        s_HPN, before_WC = cache.state(i)
        conv_TC, before_WC = causal_conv(xbc_TC[rows], before_WC, w.ssm_conv1d, w.ssm_conv1d_bias)
        x_TU, bc_TF = np.split(silu(conv_TC), [U], axis=1)
        x_THP = x_TU.reshape(-1, plan.n_heads, U // plan.n_heads)
        b_TGN, c_TGN = bc_TF.reshape(-1, 2, G, plan.state_width).swapaxes(0, 1)
        x_THP, b_TGN = step.see("conv_out", i, x_THP), step.see("B", i, b_TGN)
        c_TGN = step.see("C", i, c_TGN)
        y_THP, s_HPN = scan(x_THP, dt_TH[rows], b_TGN, c_TGN, w.ssm_a, s_HPN)
        y_TU[rows] = (y_THP + w.ssm_d[:, None] * x_THP).reshape(-1, U)
        cache.layers[i].replace(step.see("new_state", i, s_HPN), step.see("new_conv", i, before_WC))
    y_TU *= silu(z_TU)
    if w.ssm_norm is not None:
        y_TU = rms_norm(y_TU.reshape(T, G, -1), w.ssm_norm, plan.eps).reshape(T, U)
    return linear(step.see("final_output", i, y_TU), w.ssm_out)

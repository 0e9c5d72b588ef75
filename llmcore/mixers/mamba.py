"""Mamba: a text is read into a state of fixed size, with a decay of its own for each number in it.

    S_t = e^(D_t A) * S_(t-1) + (D_t u_t) B_t^T              y_t = S_t C_t + d * u_t

Each of U channels keeps N numbers. The step D_t (U,), B_t and C_t (N,) are made from the token: it chooses
what to keep ("selective state space"), where an older S4 layer treats every token alike. Gu & Dao 2023,
arXiv:2312.00752.

A (U, N) decays each number at its own rate, so the weights of the tokens before differ from number to number,
and there is no one matrix of them as in Mamba-2: prompts, too, go token by token, all channels at once.

Cached: S and the last W - 1 rows before the convolution, 4 U (N + W - 1) bytes a layer and nothing a token.

Shape key: T new tokens, D model width, U inner width, N state width, R rank of the step, W width of the
convolution.
"""

from dataclasses import dataclass

import numpy as np

from ..cache import State
from ..linear import Matrix, linear
from ..ops import rms_norm, silu
from .conv import causal_conv, softplus
from .keys import read_norm_eps
from .step import Step


@dataclass(frozen=True)
class Mamba:
    """The plan of a Mamba layer."""

    n_inner: int  # {arch}.ssm.inner_size
    state_width: int  # {arch}.ssm.state_size
    step_rank: int  # {arch}.ssm.time_step_rank
    conv_width: int  # {arch}.ssm.conv_kernel
    norm: bool  # {arch}.ssm.dt_b_c_rms: the step, B and C are normed, without gains (Falcon Mamba)
    eps: float
    rope: None = None  # positions do not rotate


@dataclass(frozen=True)
class Weights:
    """The numbers of a Mamba layer."""

    ssm_in: Matrix  # D -> 2U: what is convolved, and the gate z
    ssm_conv1d: np.ndarray  # (U, W)
    ssm_conv1d_bias: np.ndarray | None  # (U,)
    ssm_x: Matrix  # U -> R + 2N: the step before ssm_dt, B, C
    ssm_dt: Matrix  # R -> U
    ssm_a: np.ndarray  # (U, N): A, negative
    ssm_d: np.ndarray  # (U,): d
    ssm_out: Matrix  # U -> D


def read(keys, family, i: int) -> Mamba:
    """The plan of layer i. Raises ModelFileError."""
    return Mamba(
        n_inner=keys.get("ssm.inner_size", int, least=1),
        state_width=keys.get("ssm.state_size", int, least=1),
        step_rank=keys.get("ssm.time_step_rank", int, least=1),
        conv_width=keys.get("ssm.conv_kernel", int, least=1),
        norm=keys.get("ssm.dt_b_c_rms", bool, False),
        eps=read_norm_eps(keys, family),
    )


def take(tensors, plan: Mamba, d_model: int, blk: str) -> Weights:
    """The weights of the layer whose tensors begin with `blk`."""
    U, N, R = plan.n_inner, plan.state_width, plan.step_rank
    return Weights(
        ssm_in=tensors.matrix(blk + "ssm_in", d_model, 2 * U),
        ssm_conv1d=tensors.vector(blk + "ssm_conv1d", U, plan.conv_width),
        ssm_conv1d_bias=tensors.vector(blk + "ssm_conv1d", U, optional=True, suffix=".bias"),
        ssm_x=tensors.matrix(blk + "ssm_x", U, R + 2 * N),
        ssm_dt=tensors.matrix(blk + "ssm_dt", R, U),
        ssm_a=tensors.vector(blk + "ssm_a", U, N, suffix=""),
        ssm_d=tensors.vector(blk + "ssm_d", U, suffix=""),
        ssm_out=tensors.matrix(blk + "ssm_out", U, d_model),
    )


def state(plan: Mamba) -> State:
    """What the cache keeps: S, and what the convolution still needs."""
    return State((plan.n_inner, plan.state_width), (plan.conv_width - 1, plan.n_inner))


def run(x_TD: np.ndarray, w: Weights, plan: Mamba, step: Step, i: int) -> np.ndarray:
    """The Mamba of layer i; (T, D) -> (T, D). A token sees no text but its own."""
    in_TU, z_TU = np.split(linear(x_TD, w.ssm_in), 2, axis=1)
    y_TU = np.empty_like(in_TU)
    for rows, cache in step.texts:
        s_UN, before_WU = cache.state(i)
        u_TU, before_WU = causal_conv(in_TU[rows], before_WU, w.ssm_conv1d, w.ssm_conv1d_bias)
        u_TU = step.see("conv_out", i, silu(u_TU))
        dt_TU, b_TN, c_TN = choose(u_TU, w, plan)
        dt_TU = step.see("dt", i, dt_TU)
        b_TN, c_TN = step.see("B", i, b_TN), step.see("C", i, c_TN)
        y_TU[rows], s_UN = scan(u_TU, dt_TU, b_TN, c_TN, w.ssm_a, s_UN)
        y_TU[rows] += w.ssm_d * u_TU
        cache.layers[i].replace(step.see("new_state", i, s_UN), step.see("new_conv", i, before_WU))
    return linear(step.see("final_output", i, y_TU * silu(z_TU)), w.ssm_out)


def choose(u_TU, w, plan):
    """The step (T, U), B and C (T, N) of each token."""
    R, N = plan.step_rank, plan.state_width
    parts = np.split(linear(u_TU, w.ssm_x), [R, R + N], axis=1)
    if plan.norm:
        parts = [rms_norm(part, np.float32(1), plan.eps) for part in parts]
    step_TR, b_TN, c_TN = parts
    return softplus(linear(step_TR, w.ssm_dt)), b_TN, c_TN


def scan(u_TU, dt_TU, b_TN, c_TN, a_UN, s_UN):
    """The y (T, U) of T tokens without d u, and the state after them.

    Three tokens write 1, 2 and 4 into one number, and half of the past fades at each:
    >>> u, one = np.float32([[1], [2], [4]]), np.ones((3, 1), np.float32)
    >>> y, s = scan(u, one, one, one, np.log(np.float32([[0.5]])), np.zeros((1, 1), np.float32))
    >>> y.ravel().tolist(), s.ravel().tolist()
    ([1.0, 2.5, 5.25], [5.25])
    """
    y_TU = np.empty_like(u_TU)
    for t, dt_U in enumerate(dt_TU):
        s_UN = np.exp(dt_U[:, None] * a_UN) * s_UN + (dt_U * u_TU[t])[:, None] * b_TN[t]
        y_TU[t] = s_UN @ c_TN[t]
    return y_TU, s_UN

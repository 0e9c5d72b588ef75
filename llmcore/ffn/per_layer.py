"""Per-layer embeddings: every layer has an embedding of its own for each token, and adds what it makes of it.

    p = (rms(W_model x_0 / sqrt(D); g) + sqrt(E) embedding[id]) / sqrt(2)   for all layers; x_0 a token's row
    x + rms(W_proj (gelu(W_gate x) * p_i); g_i)                                at the end of layer i

The table is as large as the rest of a small model, but only rows of it are read, so it can stay on disk: a
model of 5 billion weights runs in the memory of 2 billion. Gemma 3n and 4 (E2B, E4B).

Shape key: T new tokens, D model width, L layers, E width of an embedding of one layer, V vocabulary.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..linear import Matrix, linear, look_up
from ..loader import Tensor
from ..ops import rms_norm
from .activations import geglu


@dataclass(frozen=True)
class PerLayer:
    """The plan of a model with per-layer embeddings."""

    width: int  # {arch}.embedding_length_per_layer_input
    n_layers: int
    eps: float


@dataclass(frozen=True)
class Embedding:
    """What all layers share."""

    per_layer_token_embd: Tensor  # (V, L E), left in the file's map
    per_layer_model_proj: Matrix  # D -> L E
    per_layer_proj_norm: np.ndarray  # (E,)


@dataclass(frozen=True)
class Weights:
    """The numbers of one layer."""

    inp_gate: Matrix  # D -> E
    proj: Matrix  # E -> D
    post_norm: np.ndarray  # (D,)


def take_embedding(tensors, plan: PerLayer, d_model: int, vocab_size: int) -> Embedding:
    """What all layers share."""
    n_out = plan.n_layers * plan.width
    return Embedding(
        per_layer_token_embd=tensors.take("per_layer_token_embd.weight", (vocab_size, n_out)),
        per_layer_model_proj=tensors.matrix("per_layer_model_proj", d_model, n_out),
        per_layer_proj_norm=tensors.vector("per_layer_proj_norm", plan.width),
    )


def take(tensors, plan: PerLayer, d_model: int, blk: str) -> Weights:
    """The weights of the layer whose tensors begin with `blk`."""
    return Weights(
        inp_gate=tensors.matrix(blk + "inp_gate", d_model, plan.width),
        proj=tensors.matrix(blk + "proj", plan.width, d_model),
        post_norm=tensors.vector(blk + "post_norm", d_model),
    )


def embed(x_TD: np.ndarray, ids_T: np.ndarray, w: Embedding, plan: PerLayer) -> np.ndarray:
    """The embeddings p of new tokens for every layer, (L, T, E)."""
    shape = (len(ids_T), plan.n_layers, plan.width)
    context_TLE = (linear(x_TD, w.per_layer_model_proj) / np.float32(math.sqrt(x_TD.shape[1]))).reshape(shape)
    p_TLE = rms_norm(context_TLE, w.per_layer_proj_norm, plan.eps)
    p_TLE += np.float32(math.sqrt(plan.width)) * look_up(w.per_layer_token_embd, ids_T).reshape(shape)
    p_TLE *= np.float32(math.sqrt(0.5))
    return p_TLE.swapaxes(0, 1)


def run(x_TD: np.ndarray, p_TE: np.ndarray, w: Weights, plan: PerLayer) -> np.ndarray:
    """x + rms(W_proj (gelu(W_gate x) * p)); (T, D), (T, E) -> (T, D)."""
    y_TD = linear(geglu(linear(x_TD, w.inp_gate), p_TE), w.proj)
    return x_TD + rms_norm(y_TD, w.post_norm, plan.eps)

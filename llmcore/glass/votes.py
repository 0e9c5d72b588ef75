"""Who voted for a token: its logit, split into what the embedding, each half layer and each head brings.

The stream after the last layer is a sum of pieces, and but for a norm, whose size is that of the whole, all
that follows is linear: logit = sum over pieces of (piece gain / size) . w, with w the token's row of the
output matrix. So the votes sum to the logit. They are direct effects only: what a piece does by changing what
later layers do is counted there. Wang et al. 2022, arXiv:2211.00593 (direct logit attribution).

Shape key: T tokens, K targets, P pieces, D model width, L layers, N heads, V width of a value head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..linear import look_up
from .keeping import keep
from .stream import Point, back_through_norm, pieces_of, points_of, scale_of, through_norm


@dataclass(frozen=True)
class Votes:
    """The parts of the logit of `target`, or of its difference to that of `rather_than`."""

    target: int
    rather_than: int | None
    pieces: list[tuple[str, int, float]]  # what, layer, vote: "embedding", "mixer", "ffn", "layer_embedding"
    heads: dict[int, np.ndarray]  # layer: (N,), each a part of the mixer's vote
    bias: float  # of the final norm and the output matrix
    logit: float  # what the engine says, before a final softcap

    @property
    def total(self) -> float:
        """The sum of all votes, which is the logit up to rounding."""
        return sum(vote for _, _, vote in self.pieces) + self.bias


def votes(
    llm, ids: Sequence[int], target: int, *, rather_than: int | None = None, position: int = -1
) -> Votes:
    """The votes for `target` as the token after `position`, or for it rather than for another.

    The difference is the better question: what lifts all likely tokens alike has no part in it.
    """
    row = [range(len(ids))[position]]
    points = points_of(llm, ids, row)
    pieces_PD, x_D = pieces_of(llm, points)[:, 0], points[-1].x_TD[0]
    direction_D, constant = direction(llm, target, rather_than)
    norm = llm.weights.output_norm
    bias = constant + (0.0 if norm.bias is None else float(norm.bias @ direction_D))
    votes_P = through_norm(pieces_PD, x_D, norm, llm.config) @ direction_D
    brought = heads_of(llm, ids, row)
    scales = np.cumprod([scale_of(llm, i) for i in reversed(range(len(llm.config.layers)))])[::-1]
    heads = {
        i: through_norm(scales[i] * brought_ND, x_D, norm, llm.config) @ direction_D
        for i, brought_ND in brought.items()
    }
    named = [(point.piece, point.layer, float(vote)) for point, vote in zip(points, votes_P, strict=True)]
    x_normed_D = through_norm(x_D.astype(np.float64)[None], x_D, norm, llm.config)[0]
    return Votes(target, rather_than, named, heads, bias, float(x_normed_D @ direction_D) + bias)


def direction(llm, target: int, rather_than: int | None = None) -> tuple[np.ndarray, float]:
    """What multiplies the normed stream to give a token's logit, (D,), and what is added then."""
    weights, scale = llm.weights, llm.config.logit_scale or 1.0
    ids = [target] if rather_than is None else [target, rather_than]
    rows = look_up(weights.output_rows, np.array(ids)).astype(np.float64) * scale
    constants = np.zeros(len(ids))
    if weights.output.scale is not None:
        rows *= np.asarray(weights.output.scale, np.float64)[ids, None]
    if weights.output.bias is not None:
        constants += weights.output.bias[ids].astype(np.float64) * scale
    signs = np.array([1.0, -1.0])[: len(ids)]
    return signs @ rows, float(signs @ constants)


def heads_of(llm, ids: Sequence[int], row: list[int]) -> dict[int, np.ndarray]:
    """What each head of each attending layer adds to the stream of one token, {layer: (N, D)} in float64.

    Biases of attn_output belong to no head; a norm after the mixer is linear with the size of its input.
    """
    kept = keep(llm, ids, ("kqv_out", "attn_out"), row)
    brought = {}
    for (name, i), found_1F in kept.items():
        if name != "kqv_out":
            continue
        layer = attention_of(llm, i)[2]
        said_ND = said_by_heads(llm, i, found_1F)[0]
        said_ND = through_norm(said_ND, kept["attn_out", i][0], layer.post_attention_norm, llm.config)
        brought[i] = said_ND * (llm.config.residual_scale or 1.0)
    return brought


def said_by_heads(llm, i: int, found_TF: np.ndarray) -> np.ndarray:
    """What attn_output of layer i makes of each head alone, no bias; (T, N V) -> float64 (T, N, D)."""
    mixer, plan, _ = attention_of(llm, i)
    T, N = len(found_TF), plan.n_heads
    heads_TNNV = np.zeros((T, N, N, found_TF.shape[1] // N), np.float32)
    heads_TNNV[:, np.arange(N), np.arange(N)] = found_TF.reshape(T, N, -1)
    said_TND = mixer.attn_output.held.multiply(heads_TNNV.reshape(T * N, -1)).reshape(T, N, -1)
    said_TND = said_TND.astype(np.float64)
    return said_TND if mixer.attn_output.scale is None else said_TND * mixer.attn_output.scale


def attention_of(llm, i: int):
    """The attention of layer i, which may stand beside another mixer: its weights, its plan, the layer's."""
    layer, plan = llm.weights.layers[i], llm.config.layers[i].mixer
    inner = getattr(plan, "attention", plan)
    return (layer.mixer if inner is plan else layer.mixer.attention), inner, layer


@dataclass(frozen=True)
class RowVotes:
    """The votes at many tokens of a run, each for K targets of its own."""

    pieces: np.ndarray  # (P, T, K) for the points of the stream
    heads: dict[int, np.ndarray]  # layer: (T, N, K)
    bias: np.ndarray  # (T, K)
    logits: np.ndarray  # (T, K): what the engine says, before a final softcap


def row_votes(
    llm, points: list[Point], kept: Mapping[tuple[str, int], np.ndarray], targets_TK: np.ndarray
) -> RowVotes:
    """The votes of a recorded run, with no pass of its own.

    kept  {("kqv_out", layer), ("attn_out", layer)} of the same tokens as the points, as `keep` returns them
    """
    norm, x_TD = llm.weights.output_norm, points[-1].x_TD
    found = [[direction(llm, int(target)) for target in row] for row in targets_TK]
    directions_TKD = np.array([[one[0] for one in row] for row in found])
    bias_TK = np.array([[one[1] for one in row] for row in found])
    if norm.bias is not None:
        bias_TK = bias_TK + directions_TKD @ norm.bias
    w_TKD = back_through_norm(directions_TKD, x_TD, norm, llm.config)
    scales = np.cumprod([scale_of(llm, i) for i in reversed(range(len(llm.config.layers)))])[::-1]
    heads = {}
    for (name, i), found_TF in kept.items():
        if name == "kqv_out":
            post, size = attention_of(llm, i)[2].post_attention_norm, llm.config.residual_scale or 1.0
            w_of_layer_TKD = back_through_norm(w_TKD, kept["attn_out", i], post, llm.config)
            said_TND = said_by_heads(llm, i, found_TF)
            heads[i] = scales[i] * size * (said_TND @ w_of_layer_TKD.swapaxes(1, 2))
    pieces_PTK = np.stack([np.einsum("td,tkd->tk", piece, w_TKD) for piece in pieces_of(llm, points)])
    logits_TK = np.einsum("td,tkd->tk", x_TD.astype(np.float64), w_TKD) + bias_TK
    return RowVotes(pieces_PTK, heads, bias_TK, logits_TK)

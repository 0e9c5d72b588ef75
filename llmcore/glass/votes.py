"""Who voted for a token: its logit, split into what the embedding, each half layer and each head brings.

The stream after the last layer is a sum of pieces, and but for a norm, whose size is that of the whole, all
that follows is linear: logit = sum over pieces of (piece gain / size) . w, with w the token's row of the
output matrix. So the votes sum to the logit. They are direct effects only: what a piece does by changing what
later layers do is counted there. Wang et al. 2022, arXiv:2211.00593 (direct logit attribution).

Shape key: P pieces, D model width, L layers, N heads, V width of a value head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..linear import look_up
from .keeping import keep
from .stream import pieces_of, points_of, scale_of, through_norm


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
        mixer, plan, layer = attention_of(llm, i)
        N = plan.n_heads
        heads_NNV = np.zeros((N, N, found_1F.shape[1] // N), np.float32)
        heads_NNV[np.arange(N), np.arange(N)] = found_1F.reshape(N, -1)
        said_ND = mixer.attn_output.held.multiply(heads_NNV.reshape(N, -1)).astype(np.float64)
        if mixer.attn_output.scale is not None:
            said_ND *= mixer.attn_output.scale
        said_ND = through_norm(said_ND, kept["attn_out", i][0], layer.post_attention_norm, llm.config)
        brought[i] = said_ND * (llm.config.residual_scale or 1.0)
    return brought


def attention_of(llm, i: int):
    """The attention of layer i, which may stand beside another mixer: its weights, its plan, the layer's."""
    layer, plan = llm.weights.layers[i], llm.config.layers[i].mixer
    inner = getattr(plan, "attention", plan)
    return (layer.mixer if inner is plan else layer.mixer.attention), inner, layer

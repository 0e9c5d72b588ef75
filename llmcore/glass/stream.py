"""The residual stream as a sum: what each half layer adds to it.

Shape key: T tokens, D model width, P pieces of the sum, L layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import Config
from ..weights import Norm
from .keeping import keep

POINTS = ("inp_embd", "ffn_inp", "pe_in", "l_out")  # where the stream is seen


@dataclass(frozen=True)
class Point:
    """A place in the stream, after a piece was added to it."""

    piece: str  # "embedding", "mixer", "ffn" or "layer_embedding"
    layer: int  # -1 for the embedding
    x_TD: np.ndarray  # the stream there


def points_of(llm, ids: Sequence[int], rows: Sequence[int] | slice = slice(None)) -> list[Point]:
    """The stream of a text after the embedding and after each half layer that the model has."""
    return points_in(keep(llm, ids, POINTS, rows), llm.config)


def points_in(kept: Mapping[tuple[str, int], np.ndarray], config: Config) -> list[Point]:
    """The same of a run whose arrays POINTS are kept already, {(name, layer): (T, D)}."""
    points = [Point("embedding", -1, kept["inp_embd", -1])]
    for i, plan in enumerate(config.layers):
        halves = {"mixer": "ffn_inp"} if plan.mixer is not None else {}
        halves |= {"ffn": "l_out"} if plan.ffn is not None else {}
        if config.per_layer is not None:
            halves |= {"ffn": "pe_in", "layer_embedding": "l_out"}
        names = list(halves.values())
        if names and names[-1] != "l_out":
            halves[list(halves)[-1]] = "l_out"  # the last half may be scaled with the layer
        points += [Point(piece, i, kept[name, i]) for piece, name in halves.items()]
    return points


def scale_of(llm, layer: int) -> float:
    """What multiplies the stream at the end of a layer, 1 in most models."""
    scale = llm.weights.layers[layer].output_scale
    return 1.0 if scale is None else float(np.ravel(scale)[0])


def pieces_of(llm, points: list[Point]) -> np.ndarray:
    """What each piece brings to the stream after the last layer, (P, T, D) float64; they sum to it.

    Where a layer is scaled at its end, so is all that came before.
    """
    pieces: list[np.ndarray] = []
    before = np.zeros(())
    for point, after in zip(points, [*points[1:], None], strict=True):
        ends = point.layer >= 0 and (after is None or after.layer != point.layer)
        scale = scale_of(llm, point.layer) if ends else 1.0
        x_TD = point.x_TD.astype(np.float64)
        pieces.append(x_TD / scale - before)
        if scale != 1.0:
            pieces = [scale * piece for piece in pieces]
        before = x_TD
    return np.stack(pieces)


def through_norm(pieces_PD: np.ndarray, x_D: np.ndarray, norm: Norm | None, config: Config) -> np.ndarray:
    """Pieces of x as pieces of norm(x) without its bias, in float64: with x's own size a norm is linear.

    rms: piece gain / sqrt(mean(x^2) + eps); LayerNorm takes the mean out of each piece and of x before.
    """
    if norm is None:
        return pieces_PD
    if config.family.layer_norm:
        pieces_PD = pieces_PD - pieces_PD.mean(axis=-1, keepdims=True)
        x_D = x_D - x_D.mean(axis=-1, keepdims=True)
    x_D = np.asarray(x_D, np.float64)
    return pieces_PD * norm.gain / np.sqrt((x_D**2).mean(axis=-1, keepdims=True) + config.norm_eps)


def back_through_norm(
    directions_TKD: np.ndarray, x_TD: np.ndarray, norm: Norm | None, config: Config
) -> np.ndarray:
    """Directions w with  piece . w = through_norm(piece) . direction  for every piece of x; (T, K, D).

    So many pieces are weighed by one product each, and none of them has to go through the norm.
    """
    if norm is None:
        return directions_TKD
    x_TD = np.asarray(x_TD, np.float64)
    w_TKD = directions_TKD * norm.gain
    if config.family.layer_norm:
        w_TKD = w_TKD - w_TKD.mean(axis=-1, keepdims=True)
        x_TD = x_TD - x_TD.mean(axis=-1, keepdims=True)
    size_T = np.sqrt((x_TD**2).mean(axis=-1) + config.norm_eps)
    return w_TKD / size_T[:, None, None]

"""What a token is inside the model: its row of the embedding, and the tokens whose rows point the same way.

Shape key: U different tokens, D model width, V vocabulary.
"""

import numpy as np

from ....linear import look_up
from ....model import embed
from ...recording import Run
from ..arrays import drawn, exact, whole
from ..run import texts_of

WANTED: frozenset[str] = frozenset()
NEAREST = 6
PRINTED = 12  # numbers of a row that are shown as numbers
TILE = 8192  # rows of the embedding at a time


def part(run: Run) -> dict | None:
    """Rows of the tokens that have a row in this run, and their neighbours."""
    ids = list(dict.fromkeys(run.ids[position] for position in run.rows))
    rows_UD = look_up(run.llm.weights.token_embd, np.array(ids))
    near, cosines = neighbours(run.llm.weights.token_embd, np.array(ids), rows_UD)
    scale = run.llm.config.embedding_scale
    return {
        "ids": ids,
        "first": exact(rows_UD[:, :PRINTED]),
        "strips": drawn(rows_UD),
        "near": whole(near),
        "cosines": exact(cosines),
        "telling": telling(run, ids, cosines),
        "scale": None if scale is None else float(scale),
        "positions": run.llm.weights.position_embd is not None,
        "tokens": texts_of(run, {int(i) for i in near.ravel()}),
    }


def code(run: Run) -> list:
    """The look-up."""
    return [look_up, embed]


def neighbours(tensor, ids_U: np.ndarray, rows_UD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tokens whose rows have the largest cosine with each of some rows, without itself; (U, NEAREST)."""
    n = min(NEAREST, tensor.shape[0] - 1)
    units_UD = rows_UD / np.maximum(np.linalg.norm(rows_UD, axis=1, keepdims=True), 1e-12)
    best_ids = np.zeros((len(ids_U), 0), np.int64)
    best = np.zeros((len(ids_U), 0), np.float32)
    for start in range(0, tensor.shape[0], TILE):
        tile_ID = look_up(tensor, np.arange(start, min(start + TILE, tensor.shape[0])))
        sizes_I = np.maximum(np.sqrt(np.einsum("id,id->i", tile_ID, tile_ID)), 1e-12)
        cosines_UI = units_UD @ tile_ID.T / sizes_I
        here = np.arange(start, start + len(tile_ID))
        cosines_UI[ids_U[:, None] == here] = -2
        some = np.argpartition(-cosines_UI, min(n, len(here)) - 1, axis=1)[:, :n]
        best = np.concatenate([best, np.take_along_axis(cosines_UI, some, axis=1)], axis=1)
        best_ids = np.concatenate([best_ids, here[some]], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :n]
        best = np.take_along_axis(best, order, axis=1)
        best_ids = np.take_along_axis(best_ids, order, axis=1)
    return best_ids, best


def telling(run: Run, ids: list[int], cosines: np.ndarray) -> list[int]:
    """The rows of up to three tokens of letters whose neighbours are nearest: the ones worth a look."""
    texts = [run.llm.tokenizer.token_text(i).strip() for i in ids]
    order = np.argsort(-cosines[:, : min(4, cosines.shape[1])].mean(axis=1), kind="stable")
    at = [run.ids[position] for position in run.rows]
    return [at.index(ids[i]) for i in order if len(texts[i]) > 3 and texts[i].isalpha()][:3]

"""The logit lens: what would the model say if it stopped after this half layer?

    logits = unembed(x)    for the residual stream x after the embedding and after each half layer

nostalgebraist 2020, "interpreting GPT: the logit lens". What stands in the early layers is not meant for the
output matrix, so that their first places say little; ranks of a token tell more than its probability there.

Shape key: P points of the stream, T tokens, D model width, V vocabulary, K best, F followed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..mixers.step import NOBODY
from ..model import unembed
from ..ops import log_softmax
from .stream import Point, points_of

ROWS = 128  # rows of a product: of more the logits take much memory, of fewer each costs more


@dataclass(frozen=True)
class Lens:
    """What the model would say after each half layer."""

    points: list[Point]
    top_ids: np.ndarray  # (P, T, K), the likeliest first
    top_logits: np.ndarray  # (P, T, K)
    top_probabilities: np.ndarray  # (P, T, K)
    ranks: np.ndarray  # (P, T, F) of the tokens followed, 0 is the first
    probabilities: np.ndarray  # (P, T, F)


def logit_lens(
    llm,
    ids: Sequence[int],
    *,
    best: int = 5,
    follow: Sequence[int] = (),
    rows: Sequence[int] | slice = slice(None),
) -> Lens:
    """The `best` next tokens after each half layer, and how those that we `follow` fare.

    rows  the tokens of the text after which it is asked, all by default
    """
    points = points_of(llm, ids, rows)
    parts = list(read_stream(llm, np.concatenate([point.x_TD for point in points]), best, follow))
    arrays = [
        np.concatenate(part).reshape(len(points), -1, part[0].shape[1]) for part in zip(*parts, strict=True)
    ]
    return Lens(points, *arrays)


def read_stream(llm, x_TD: np.ndarray, best: int, follow: Sequence[int]):
    """For some rows of x at a time: best ids, their logits and probabilities; ranks and probabilities of
    those followed.
    """
    weights, follow_F = replace(llm.weights, watcher=NOBODY), np.asarray(follow, np.int64)
    for start in range(0, len(x_TD), ROWS):
        logits_TV = unembed(weights, llm.config, x_TD[start : start + ROWS])
        log_p_TV = log_softmax(logits_TV)
        top_TK = best_of(logits_TV, best)
        followed_TF = logits_TV[:, follow_F]
        ranks_TF = (
            np.stack([(logits_TV > one_T[:, None]).sum(axis=1) for one_T in followed_TF.T], axis=1)
            if len(follow_F)
            else np.zeros((len(logits_TV), 0), np.int64)
        )
        at = [np.take_along_axis(values, top_TK, axis=1) for values in (logits_TV, log_p_TV)]
        yield top_TK, at[0], np.exp(at[1]), ranks_TF, np.exp(log_p_TV[:, follow_F])


def best_of(logits_TV: np.ndarray, n: int) -> np.ndarray:
    """The ids of the n largest of each row, largest first, of equal ones the smaller id; (T, n)."""
    n = min(n, logits_TV.shape[1])
    top_TK = np.sort(np.argpartition(logits_TV, -n, axis=1)[:, -n:], axis=1)
    order = np.argsort(-np.take_along_axis(logits_TV, top_TK, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top_TK, order, axis=1)

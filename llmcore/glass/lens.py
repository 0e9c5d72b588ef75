"""The logit lens: what would the model say if it stopped after this half layer?

    logits = unembed(x)    for the residual stream x after the embedding and after each half layer

nostalgebraist 2020, "interpreting GPT: the logit lens". What stands in the early layers is not meant for the
output matrix, so that their first places say little; ranks of a token tell more than its probability there.

Shape key: P points of the stream, T tokens, D model width, V vocabulary, K best, F followed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..mixers.step import NOBODY
from ..model import unembed
from ..ops import log_softmax
from .stream import Point, points_of

FEW = 8  # so many of the best are found one by one
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
        np.concatenate(part).reshape(len(points), len(points[0].x_TD), part[0].shape[1])
        for part in zip(*parts, strict=True)
    ]
    return Lens(points, *arrays)


def read_stream(llm, x_TD: np.ndarray, best: int, follow: Sequence[int]):
    """For some rows of x at a time: best ids, their logits and probabilities; ranks and probabilities of
    those followed.
    """
    follow_F = np.asarray(follow, np.int64)
    for logits_TV in unembedded(llm, x_TD):
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


def unembedded(llm, x_TD: np.ndarray, rows: int = ROWS) -> Iterator[np.ndarray]:
    """The logits (T, V) of hidden states, so many rows at a time; nobody looks on."""
    weights = replace(llm.weights, watcher=NOBODY)
    for start in range(0, len(x_TD), rows):
        yield unembed(weights, llm.config, x_TD[start : start + rows])


def best_of(logits_TV: np.ndarray, n: int) -> np.ndarray:
    """The ids of the n largest of each row, largest first, of equal ones the smaller id; (T, n)."""
    n = min(n, logits_TV.shape[1])
    if n <= FEW:  # a look at all for each of them is faster than sorting parts
        rest_TV, rows_T, best_Tn = logits_TV.copy(), np.arange(len(logits_TV)), []
        for _ in range(n):
            best_Tn.append(rest_TV.argmax(axis=1))
            rest_TV[rows_T, best_Tn[-1]] = -np.inf
        return np.stack(best_Tn, axis=1)
    best = []
    for row_V, least in zip(logits_TV, np.partition(logits_TV, -n, axis=1)[:, -n], strict=True):
        among = np.flatnonzero(row_V >= least)  # more than n where some equal the least
        best.append(among[np.argsort(-row_V[among], kind="stable")[:n]])
    return np.stack(best)


@dataclass(frozen=True)
class RowLens:
    """The lens at many tokens of a run, each with tokens of its own that are followed."""

    top_ids: np.ndarray  # (P, T, K), the likeliest first
    top_probabilities: np.ndarray  # (P, T, K)
    followed: np.ndarray  # (T, F): the ids given, then those that led longest on the way; -1 fills up
    ranks: np.ndarray  # (P, T, F), 0 is the first
    probabilities: np.ndarray  # (P, T, F)
    last_logits: np.ndarray  # (T, K): those of the last point's likeliest


def row_lens(
    llm, points: list[Point], targets_TK: np.ndarray, *, best: int = 5, n_followed: int = 6
) -> RowLens:
    """The lens of a recorded run. Followed are the targets, the likeliest in the end, and who led longest."""
    P, x_TPD = len(points), np.stack([point.x_TD for point in points], axis=1)
    targets, found = iter(targets_TK), []
    for logits_MV in unembedded(llm, x_TPD.reshape(-1, x_TPD.shape[2]), max(1, ROWS // P) * P):
        for logits_PV in np.ascontiguousarray(logits_MV).reshape(-1, P, logits_MV.shape[1]):
            found.append(_lens_of_token(logits_PV, next(targets), best, n_followed))
    stacked = [
        np.stack(part, axis=axis)
        for part, axis in zip(zip(*found, strict=True), (1, 1, 0, 1, 1, 0), strict=True)
    ]
    return RowLens(*stacked)


def _lens_of_token(logits_PV, targets_K, best, n_followed):
    """The parts of a `RowLens` at one token."""
    top_PK = best_of(logits_PV, best)
    largest_P1 = np.take_along_axis(logits_PV, top_PK[:, :1], axis=1)
    sum_P1 = np.exp(logits_PV - largest_P1).sum(axis=1, keepdims=True)
    leaders, times = np.unique(top_PK[:, 0], return_counts=True)
    wanted = [*targets_K, *top_PK[-1, :3], *leaders[np.argsort(-times, kind="stable")]]
    followed = list(dict.fromkeys(int(one) for one in wanted))[:n_followed]
    ranks_FP = [[int(np.count_nonzero(row_V > row_V[one])) for row_V in logits_PV] for one in followed]
    chances_PF = np.exp(logits_PV[:, followed] - largest_P1) / sum_P1
    top_logits_PK = np.take_along_axis(logits_PV, top_PK, axis=1)
    missing = n_followed - len(followed)
    return (
        top_PK,
        np.exp(top_logits_PK - largest_P1) / sum_P1,
        np.array([*followed, *[-1] * missing]),
        np.pad(np.array(ranks_FP).T, ((0, 0), (0, missing))),
        np.pad(chances_PF, ((0, 0), (0, missing))),
        top_logits_PK[-1],
    )

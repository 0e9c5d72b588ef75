"""Logits -> one token id: a pipeline of pure filters, then a draw.

The candidates are a pair of arrays, ids and logits, that each filter shortens. The order is llama.cpp's: repeat
penalty, top-k, top-p, min-p, temperature, draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .ops import softmax

REPEAT_WINDOW = 64  # the repeat penalty looks back over so many tokens, as llama.cpp's does


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. Raises ValueError where a number is out of range."""

    temperature: float = 0.8  # 0 or less: always the most likely token
    top_k: int = 40  # 0: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.05  # 0: off
    repeat_penalty: float = 1.0  # 1: off

    def __post_init__(self):
        for name, sound, want in [
            ("temperature", np.isfinite(self.temperature), "a finite number (0 takes the most likely token)"),
            (
                "top_k",
                self.top_k >= 0 and self.top_k == int(self.top_k),
                "a whole number, 0 or more (0 is off)",
            ),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (1 is off)"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 (off) and 1"),
            ("repeat_penalty", 0 < self.repeat_penalty < np.inf, "above 0 (1 is off)"),
        ]:
            if not sound:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {want}")


def sample(
    logits_V: np.ndarray, recent_ids: Sequence[int], sampling: Sampling, rng: np.random.Generator
) -> int:
    """Choose the next token from its logits (V,); `recent_ids` are the tokens before it, for the repeat penalty."""
    if sampling.repeat_penalty != 1:
        logits_V = penalize_repeats(logits_V, recent_ids[-REPEAT_WINDOW:], sampling.repeat_penalty)
    if sampling.temperature <= 0:
        return int(logits_V.argmax())  # the first maximum wins
    ids, logits = keep_top_k(np.arange(len(logits_V)), logits_V, sampling.top_k)
    ids, logits = keep_top_p(ids, logits, sampling.top_p)
    ids, logits = keep_min_p(ids, logits, sampling.min_p)
    # In the order of ids: of logits that differ by rounding alone either may be the larger, and the draw must not care.
    order = np.argsort(ids)
    ids, logits = ids[order], logits[order]
    with np.errstate(over="ignore"):  # a tiny temperature makes all but the largest as good as impossible
        scaled = (logits.astype(np.float64) - logits.max()) / sampling.temperature
    return int(rng.choice(ids, p=softmax(scaled)))


def penalize_repeats(logits_V, ids, penalty):
    """Make each token that is in `ids` less likely: a positive logit is divided by the penalty, a negative one
    multiplied. Keskar et al. 2019, arXiv:1909.05858."""
    logits_V = logits_V.copy()
    seen = np.unique(np.asarray(ids, dtype=np.int64))
    logits_V[seen] = np.where(logits_V[seen] > 0, logits_V[seen] / penalty, logits_V[seen] * penalty)
    return logits_V


def keep_top_k(ids, logits, k):
    """The k candidates with the largest logits, largest first; all of them for k = 0."""
    if 0 < k < len(logits):
        largest = np.argpartition(logits, -k)[-k:]
        ids, logits = ids[largest], logits[largest]
    order = np.argsort(-logits, kind="stable")
    return ids[order], logits[order]


def keep_top_p(ids, logits, p):
    """Of candidates sorted by logit, the fewest whose probabilities reach p. Holtzman et al. 2019, arXiv:1904.09751."""
    if p >= 1:
        return ids, logits
    reached = np.cumsum(softmax(logits.astype(np.float64))) >= p
    n = int(reached.argmax()) + 1 if reached.any() else len(ids)
    return ids[:n], logits[:n]


def keep_min_p(ids, logits, p):
    """The candidates at least p times as likely as the most likely one: logit >= max + ln p. arXiv:2407.01082."""
    if p <= 0:
        return ids, logits
    likely = logits >= logits.max() + np.log(p)
    return ids[likely], logits[likely]

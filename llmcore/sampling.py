"""Logits -> one token id: a pipeline of filters, then a draw.

The candidates are a pair of arrays, ids and logits, that each filter shortens or changes. The order is
llama.cpp's (common/sampling.cpp): logit bias, a constraint, the filters of `Sampling.sequence`, the draw.
What most runs use stands here; each of the rarer filters is a file of samplers/, loaded when asked for.
"""

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from .ops import softmax
from .samplers.options import Sampling


class Text(NamedTuple):
    """What a filter may look at beside the candidates."""

    so_far: Sequence[int]  # the ids before the token that is chosen
    rng: np.random.Generator  # the text's own, so that the same seed gives the same text
    breakers: Mapping[int, Sequence] = {}  # of DRY, see samplers/dry.py
    constraint: Any = None  # what the text must be, see samplers/constraint.py


def sample(
    logits_V: np.ndarray, so_far: Sequence[int], sampling: Sampling, rng: np.random.Generator, *prepared
) -> int:
    """Choose the next token from its logits (V,); the rest is for filters, see `Text`."""
    text = Text(so_far, rng, *prepared)
    ids, logits = np.arange(len(logits_V)), logits_V
    for name in filters_on(sampling):
        keep = FILTERS.get(name) or import_module(f".samplers.{name}", __package__).keep
        ids, logits = keep(ids, logits, sampling, text)
    if sampling.temperature <= 0:
        return int(ids[logits == logits.max()].min())  # the first maximum wins
    # In the order of ids: of logits that differ by rounding either may be the larger, and no draw must care.
    order = np.argsort(ids)
    return int(rng.choice(ids[order], p=softmax(logits[order].astype(np.float64))))


def filters_on(sampling: Sampling) -> list[str]:
    """The names of the filters that do anything, in their order."""
    s = sampling
    penalties = (s.repeat_penalty, s.frequency_penalty, s.presence_penalty) != (1, 0, 0)
    # Without a draw a filter that cuts matters only beside one of these two, which may drop the likeliest.
    cut = s.temperature > 0 or s.typical_p < 1 or s.xtc_probability > 0
    on = {
        "penalties": s.penalty_last_n and penalties,
        "dry": s.dry_multiplier,
        "temperature": s.temperature > 0,
    }
    on |= {"top_n_sigma": cut and s.top_n_sigma > 0, "top_k": cut and s.top_k, "typ_p": s.typical_p < 1}
    on |= {"top_p": cut and s.top_p < 1, "min_p": cut and s.min_p, "xtc": s.xtc_probability}
    first = ["logit_bias"] * bool(s.logit_bias) + ["constraint"] * s.is_constrained
    return first + [name for name in s.sequence if on[name]]


def keep_top_k(ids, logits, k):
    """The k candidates with the largest logits, largest first; all of them for k = 0."""
    if 0 < k < len(logits):
        largest = np.argpartition(logits, -k)[-k:]
        ids, logits = ids[largest], logits[largest]
    return by_logit(ids, logits)


def by_logit(ids, logits):
    """The candidates, largest logit first."""
    order = np.argsort(-logits, kind="stable")
    return ids[order], logits[order]


def keep_top_p(ids, logits, p):
    """The fewest candidates whose probabilities reach p, most likely first. arXiv:1904.09751."""
    ids, logits = by_logit(ids, logits)
    reached = np.cumsum(softmax(logits.astype(np.float64))) >= p
    n = int(reached.argmax()) + 1 if reached.any() else len(ids)
    return ids[:n], logits[:n]


def keep_min_p(ids, logits, p):
    """Candidates at least p times as likely as the likeliest: logit >= max + ln p. arXiv:2407.01082."""
    likely = logits >= logits.max() + (math.log(p) if p else -math.inf)
    return ids[likely], logits[likely]


def heat(ids, logits, temperature):
    """Logits over the temperature; first the largest is moved to 0, which no draw sees."""
    # The others may overflow to -inf, which is right: near a temperature of 0 they are not likely.
    with np.errstate(over="ignore"):
        return ids, (logits.astype(np.float64) - logits.max()) / temperature


FILTERS = {  # those of this file; each takes candidates, options and text, and returns candidates
    "top_k": lambda ids, logits, sampling, text: keep_top_k(ids, logits, sampling.top_k),
    "top_p": lambda ids, logits, sampling, text: keep_top_p(ids, logits, sampling.top_p),
    "min_p": lambda ids, logits, sampling, text: keep_min_p(ids, logits, sampling.min_p),
    "temperature": lambda ids, logits, sampling, text: heat(ids, logits, sampling.temperature),
}

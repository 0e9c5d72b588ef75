"""Penalties for tokens that stand in the text already: repeat, frequency and presence."""

import numpy as np


def penalize(logits, counts, repeat=1.0, frequency=0.0, presence=0.0):
    """Logits of candidates that stand in the text `counts` times: where that is not 0, less likely ones.

    A positive logit is divided by `repeat`, a negative one multiplied (Keskar et al. 2019, arXiv:1909.05858);
    then counts x frequency + presence is taken off (OpenAI's API reference).
    """
    repeated = np.where(logits > 0, logits / repeat, logits * repeat) - counts * frequency - presence
    return np.where(counts > 0, repeated, logits)


def keep(ids, logits, sampling, text):
    """The candidates, those that stand in the last `penalty_last_n` tokens made less likely."""
    recent = text.so_far[-sampling.penalty_last_n :]
    counts = np.bincount(np.array(recent, np.int64), minlength=ids.max() + 1)[ids]
    penalties = sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty
    return ids, penalize(logits, counts, *penalties)

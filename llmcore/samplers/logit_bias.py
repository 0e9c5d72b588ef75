"""Logit bias: what a caller adds to the logits of single tokens (OpenAI's API reference)."""

import numpy as np


def keep(ids, logits, sampling, text):
    """Each candidate's logit plus its bias; those with a bias of minus infinity are dropped.

    Raises ValueError if none is left.
    """
    biased = logits.copy()
    biased[list(sampling.logit_bias)] += np.float32(list(sampling.logit_bias.values()))
    stays = biased > -np.inf
    if not stays.any():
        raise ValueError("logit_bias bans every token; leave at least one")
    return ids[stays], biased[stays]


def check(sampling, n_vocab: int) -> None:
    """Raises ValueError for a bias of a token that the model does not have."""
    for token_id in sampling.logit_bias or ():
        if token_id >= n_vocab:
            raise ValueError(f"logit_bias: token id {token_id} is not in the vocabulary of {n_vocab} tokens")

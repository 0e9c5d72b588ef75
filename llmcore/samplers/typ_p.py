"""Locally typical sampling. Meister et al. 2022, arXiv:2202.00666."""

import numpy as np

from ..ops import log_softmax
from ..sampling import by_logit


def keep(ids, logits, sampling, text):
    """The candidates whose surprise, -ln p, is nearest to the expected one, the entropy: the fewest of them
    whose probabilities together exceed typical_p, the most typical first.
    """
    ids, logits = by_logit(ids[logits > -np.inf], logits[logits > -np.inf])
    logp = log_softmax(logits.astype(np.float64))
    p = np.exp(logp)
    order = np.argsort(np.abs(-logp + (p * logp).sum()), kind="stable")
    exceeds = np.cumsum(p[order]) > sampling.typical_p
    n = int(exceeds.argmax()) + 1 if exceeds.any() else len(order)
    return ids[order[:n]], logits[order[:n]]

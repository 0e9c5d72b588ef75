"""XTC, exclude top choices: now and then the likeliest tokens are left out, for livelier text.

Proposed in text-generation-webui's pull request 6335 (2024).
"""

import numpy as np

from ..ops import softmax
from ..sampling import by_logit


def keep(ids, logits, sampling, text):
    """With probability xtc_probability: of the candidates at least as likely as xtc_threshold, the least
    likely, and all that are less likely; else all of them.

    One number is drawn for each token, whatever the candidates, so that the draws after it do not depend on
    rounding.
    """
    excludes = text.rng.random() < sampling.xtc_probability
    if not excludes or sampling.xtc_threshold > 0.5:
        return ids, logits
    ids, logits = by_logit(ids, logits)
    n_likely = int(np.count_nonzero(softmax(logits.astype(np.float64)) >= sampling.xtc_threshold))
    first = max(n_likely - 1, 0)
    return ids[first:], logits[first:]

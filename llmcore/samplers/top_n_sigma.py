"""Top-n-sigma: candidates within n standard deviations of the largest logit. Tang et al. 2024,
arXiv:2411.07641.
"""

import numpy as np


def keep(ids, logits, sampling, text):
    """The candidates with logit >= max - n x sigma, sigma the standard deviation of all their logits.

    The temperature does not change what it keeps: a factor on all logits is one on sigma too.
    """
    known = logits[logits > -np.inf].astype(np.float64)
    stays = logits >= float(known.max()) - sampling.top_n_sigma * float(known.std())
    return ids[stays], logits[stays]

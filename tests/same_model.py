"""How tests tell that two computations are of the same model."""

import numpy as np
import pytest

import llmcore
from llmcore.model import forward, unembed

LONG = np.random.default_rng(5).integers(3, 288, 600)
SHORT = LONG[:40]


def nmse(ours, theirs):
    return float(((ours - theirs) ** 2).sum() / (theirs**2).sum())


def logits_of(llm, ids, cache):
    return unembed(llm.weights, llm.config, forward(llm.weights, llm.config, [(np.asarray(ids), cache)]))


def kinds(*types):
    """Types of quantized matrices to try: the first and the last always, the others among the slow tests."""
    ends = types[0], types[-1]
    return [pytest.param(type, marks=[pytest.mark.slow] * (type not in ends)) for type in types]


def in_steps(llm, ids, sizes):
    cache, logits = llm.empty_cache(), []
    for size in sizes:
        logits.append(logits_of(llm, ids[cache.length : cache.length + size], cache))
    return np.concatenate(logits)


def loaded_or_refused(path):
    """The logits of a changed file, or the line with which it is refused."""
    try:
        return llmcore.load(path).logits(SHORT)
    except llmcore.ModelFileError as error:
        return str(error)


def assert_close(ours, theirs):
    """Other orders of summing move logits by 1e-6 of the largest, and a state carries that on."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5 * np.abs(theirs).max())

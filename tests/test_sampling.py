"""Each filter against a case worked out by hand, and draws against the probabilities they should have."""

import math

import numpy as np
import pytest

from llmcore.samplers.penalties import penalize
from llmcore.sampling import Sampling, keep_min_p, keep_top_k, keep_top_p, sample

# Probabilities 0.5, 0.3, 0.15, 0.05 in the order of ids 2, 0, 3, 1
LOGITS = np.log(np.float32([0.3, 0.05, 0.5, 0.15]))
SORTED = (np.array([2, 0, 3, 1]), np.log(np.float32([0.5, 0.3, 0.15, 0.05])))
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def test_top_k_sorts_and_cuts():
    assert keep_top_k(np.arange(4), LOGITS, 3)[0].tolist() == [2, 0, 3]
    assert keep_top_k(np.arange(4), LOGITS, 0)[0].tolist() == [2, 0, 3, 1]
    assert keep_top_k(np.arange(4), LOGITS, 9)[0].tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize(
    ("p", "ids"), [(0.3, [2]), (0.6, [2, 0]), (0.79, [2, 0]), (0.9, [2, 0, 3]), (1.0, [2, 0, 3, 1])]
)
def test_top_p_keeps_the_token_that_crosses_the_threshold(p, ids):
    assert keep_top_p(*SORTED, p)[0].tolist() == ids


@pytest.mark.parametrize(
    ("p", "ids"), [(0.0, [2, 0, 3, 1]), (0.09, [2, 0, 3, 1]), (0.2, [2, 0, 3]), (0.5, [2, 0]), (1.0, [2])]
)
def test_min_p_is_relative_to_the_most_likely(p, ids):
    assert keep_min_p(*SORTED, p)[0].tolist() == ids


def test_repeat_penalty_divides_positive_logits_and_multiplies_negative_ones():
    logits = np.float32([2, -2, 3, -3])
    assert penalize(logits, np.array([2, 2, 0, 0]), 2.0).tolist() == [1, -4, 3, -3]
    assert logits.tolist() == [2, -2, 3, -3]  # the model's own logits stay as they are


def test_repeat_penalty_looks_back_64_tokens():
    how, rng = Sampling(temperature=0, repeat_penalty=2.0), np.random.default_rng(0)
    logits = np.float32([4, 3, 0])
    assert sample(logits, [0] + [2] * 63, how, rng) == 1
    assert sample(logits, [0] + [2] * 64, how, rng) == 0


@pytest.mark.parametrize("temperature", [0, -1])
def test_temperature_zero_takes_the_first_maximum(temperature):
    how = Sampling(temperature=temperature)
    assert sample(np.float32([1, 7, 7, 0]), [], how, np.random.default_rng(0)) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_have_the_probabilities_of_the_temperature(temperature):
    how, rng = Sampling(temperature=temperature, **OFF), np.random.default_rng(1)
    n = 20_000
    counts = np.bincount([sample(LOGITS, [], how, rng) for _ in range(n)], minlength=4)
    want = np.array([0.3, 0.05, 0.5, 0.15]) ** (1 / temperature)
    want /= want.sum()
    # five standard deviations of a binomial count
    assert (np.abs(counts - n * want) < 5 * np.sqrt(n * want * (1 - want))).all()


def test_filters_come_before_the_temperature():
    # top_p 0.6 keeps ids 2 and 0; a temperature applied first would flatten the distribution and let more in
    how, rng = Sampling(temperature=100.0, top_k=0, top_p=0.6, min_p=0.0), np.random.default_rng(0)
    assert {sample(LOGITS, [], how, rng) for _ in range(200)} == {0, 2}


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 2.0},
        {"repeat_penalty": 0.0},
        {"repeat_penalty": math.nan},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} is "):
        Sampling(**wrong)


def test_rounding_does_not_change_the_draw():
    """Logits that differ by rounding alone give the same tokens, though it changes their order."""
    logits_V = np.float32([1, 1, 1, 2, 2])
    rounded_V = logits_V + np.float32([0, 1e-6, 2e-6, 0, 1e-6])
    how = Sampling(temperature=1, top_k=0, top_p=1, min_p=0)
    for seed in range(100):
        drawn = [sample(x_V, [], how, np.random.default_rng(seed)) for x_V in (logits_V, rounded_V)]
        assert drawn[0] == drawn[1]

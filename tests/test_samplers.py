"""Rarer filters worked out by hand, all filters against llama.cpp's, and what a file names."""

import gzip
import json
import math
import warnings

import numpy as np
import pytest
from conftest import DATA, tiny_llama
from rewrite import rewrite

import llmcore
from llmcore.samplers import dry, logit_bias, penalties, top_n_sigma, typ_p, xtc
from llmcore.samplers.penalties import penalize
from llmcore.sampling import FILTERS, Sampling, Text, sample

with gzip.open(DATA / "samplers.json.gz") as file:
    RECORDED = json.load(file)
RARE = {
    "penalties": penalties,
    "dry": dry,
    "logit_bias": logit_bias,
    "top_n_sigma": top_n_sigma,
    "typ_p": typ_p,
    "xtc": xtc,
}
NAMES = {
    "penalties": ("repeat_penalty", "frequency_penalty", "presence_penalty"),
    "dry": ("dry_multiplier", "dry_base", "dry_allowed_length"),
    "typ_p": ("typical_p",),
    "xtc": ("xtc_threshold",),
}
SEQUENCE = "penalties dry top_n_sigma top_k typ_p top_p min_p xtc temperature"
LOGITS = np.log(np.float32([0.5, 0.3, 0.15, 0.05]))
IDS = np.array([2, 0, 3, 1])


def text(so_far=(), breakers=None, seed=0):
    return Text(list(so_far), np.random.default_rng(seed), breakers or {})


def kept(filter_, sampling, logits=LOGITS, **seen):
    return filter_.keep(IDS, logits, sampling, text(**seen))[0].tolist()


# Worked out by hand


def test_presence_is_taken_off_once_and_frequency_as_often_as_the_token_came():
    logits = np.float32([2, 2, 2, -2])
    assert penalize(logits, np.array([0, 1, 3, 2]), 1.0, 0.5, 0.25).tolist() == [2, 1.25, 0.25, -3.25]
    assert penalize(logits, np.array([0, 1, 3, 2]), 2.0, 0.5, 0.0).tolist() == [2, 0.5, -0.5, -5]


def test_biases_are_added_and_minus_infinity_bans():
    logits = np.float32([1, 2, 3, 4])
    ids, biased = logit_bias.keep(np.arange(4), logits, Sampling(logit_bias={1: 5, 3: -math.inf}), text())
    assert (ids.tolist(), biased.tolist()) == ([0, 1, 2], [1, 7, 3])
    with pytest.raises(ValueError, match="bans every token"):
        sample(logits, [], Sampling(logit_bias=dict.fromkeys(range(4), -math.inf)), text().rng)


@pytest.mark.parametrize(("n", "ids"), [(0.5, [2]), (1, [2, 0]), (1.5, [2, 0, 3]), (3, [2, 0, 3, 1])])
def test_top_n_sigma(n, ids):
    # Logits 4, 3, 2, -1: mean 2, variance 3.5, sigma 1.871; cuts at 3.06, 2.13, 1.19, -1.6
    assert kept(top_n_sigma, Sampling(top_n_sigma=n), np.float32([4, 3, 2, -1])) == ids


@pytest.mark.parametrize(("p", "ids"), [(0.2, [0]), (0.5, [0, 2]), (0.9, [0, 2, 3]), (0.99, [0, 2, 3, 1])])
def test_typical(p, ids):
    # Entropy 1.142. Surprises 0.693, 1.204, 1.897, 2.996 are 0.449, 0.062, 0.755, 1.853 away from it.
    assert kept(typ_p, Sampling(typical_p=p)) == ids


@pytest.mark.parametrize(
    ("threshold", "ids"),
    [(0.4, [2, 0, 3, 1]), (0.2, [0, 3, 1]), (0.1, [3, 1]), (0.04, [1]), (0.51, [2, 0, 3, 1])],
)
def test_xtc_leaves_the_least_likely_of_the_likely(threshold, ids):
    assert kept(xtc, Sampling(xtc_probability=1, xtc_threshold=threshold)) == ids


def test_xtc_comes_as_often_as_it_should():
    seen, rng, s = 0, np.random.default_rng(0), Sampling(xtc_probability=0.3, xtc_threshold=0.2)
    for _ in range(10_000):
        seen += len(xtc.keep(IDS, LOGITS, s, Text([], rng, {}))[0]) == 3
    assert abs(seen - 3000) < 5 * math.sqrt(10_000 * 0.3 * 0.7)


def test_dry_punishes_what_would_lengthen_a_repetition():
    # 1 2 3 came before, and 9 followed; 2 3 came too, and 8 followed. Allowed are 2 tokens.
    so_far = [1, 2, 3, 9, 2, 3, 8, 1, 2, 3]
    _, logits = dry.keep(np.arange(10), np.zeros(10), Sampling(dry_multiplier=0.5, dry_base=3), text(so_far))
    assert logits.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, -0.5, -1.5]


@pytest.mark.parametrize(
    ("breakers", "found"),
    [
        ({}, {9: 3, 8: 2}),
        ({2: [()]}, {}),  # one token is left after it
        ({1: [()]}, {9: 2, 8: 2}),
        ({8: [(1,)]}, {9: 2, 8: 2}),
        ({8: [(1,), (1, 2)]}, {}),  # the longest counts
        ({8: [(7,)]}, {9: 3, 8: 2}),
    ],
    ids=str,
)
def test_no_repetition_reaches_over_a_breaker(breakers, found):
    assert dry.repetitions([1, 2, 3, 9, 2, 3, 8, 1, 2, 3], 2, breakers) == found


def test_suffix_lengths_by_a_plain_loop():
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(0, 3, rng.integers(1, 20)).tolist()
        plain = [
            max(n for n in range(end + 1) if ids[end - n : end] == ids[len(ids) - n :])
            for end in range(1, 1 + len(ids))
        ]
        assert dry.suffix_lengths(ids) == plain


# Against llama.cpp


def inputs(seed):
    """As tests/record_samplers.py has them."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=200) * rng.choice([1.0, 3.0])).astype(np.float32)
    so_far = rng.choice(rng.choice(200, rng.integers(2, 9)), rng.integers(1, 120)).tolist()
    return logits, so_far


def given(name, values):
    """The options of Sampling for a filter of a recorded chain."""
    if name == "logit_bias":
        return {"logit_bias": {int(i): float(bias) for i, bias in values[0].items()}}
    return dict(zip(NAMES.get(name, (name,)), values, strict=True)) | {"xtc_probability": 1}


@pytest.mark.parametrize("i", range(len(RECORDED)))
def test_the_candidates_and_their_order_are_those_of_llama_cpp(i):
    case = RECORDED[i]
    ids, (logits, so_far) = np.arange(200), inputs(case["seed"])
    for name, values in case["chain"]:
        options = given(name, values)
        if name == "dry" and values[0] > 1e6:  # past our range; there it is as good as infinite
            options["dry_multiplier"] = 1e6
        sampling = Sampling(**options)
        breakers = (
            dry.find_breakers(llmcore.load_tokenizer(tiny_llama()), tuple(case["breakers"]))
            if name == "dry"
            else {}
        )
        keep = FILTERS.get(name) or RARE[name].keep
        ids, logits = keep(ids, logits, sampling, text(so_far, breakers))
    finite = logits > -1e30
    ids, logits = ids[finite], logits[finite]
    assert ids.tolist() == case["ids"]
    # Recorded to 4 decimals, computed there in float32: four operations on a logit of 30 err by 4 x 2^-20.
    shown = logits[:: max(1, len(logits) // 5)]
    big = np.abs(shown) < 1e4
    np.testing.assert_allclose(shown[big], np.array(case["logits"])[big], atol=1e-4, rtol=1e-5)


def test_every_filter_is_recorded_and_in_the_order_of_llama_cpp():
    assert {name for case in RECORDED for name, _ in case["chain"]} >= {*RARE, *FILTERS} - {"temperature"}
    order = ["logit_bias", *Sampling().sequence]
    assert order == ["logit_bias", *SEQUENCE.split()]


# In a text


EVERYTHING = {
    **{
        "temperature": 1.5,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.2,
        "typical_p": 0.95,
        "top_n_sigma": 3,
    },
    **{"xtc_probability": 0.5, "xtc_threshold": 0.05, "dry_multiplier": 0.8, "logit_bias": {5: 2.0}},
}


def test_drafts_and_company_do_not_change_a_text(llama):
    options = {"max_tokens": 60, "seed": 3, "ignore_eos": True, **EVERYTHING}
    alone = ["".join(llama.generate(prompt, **options)) for prompt in ("aaaaaa", "he two")]
    assert ["".join(llama.generate(prompt, draft=7, **options)) for prompt in ("aaaaaa", "he two")] == alone
    assert list(llama.generate_batch(["aaaaaa", "he two"], **options)) == alone
    greedy = options | {"temperature": 0}
    assert "".join(llama.generate("aaaaaa", draft=7, **greedy)) == "".join(llama.generate("aaaaaa", **greedy))


def test_a_banned_token_never_comes(llama):
    ids = llama.encode_prompt("he two")
    options = {"max_tokens": 40, "seed": 0, "ignore_eos": True}
    first = [token.id for token in llama.tokens(ids, sampling=llama.sampling(temperature=0), **options)]
    banned = llama.sampling(temperature=0, logit_bias={first[0]: -math.inf})
    assert first[0] not in [token.id for token in llama.tokens(ids, sampling=banned, **options)]
    with pytest.raises(ValueError, match="token id 288 is not in the vocabulary of 288 tokens"):
        llama.generate("a", max_tokens=1, logit_bias={288: 1.0})


@pytest.mark.parametrize("name", ["logit_biases", "tools"])
def test_a_name_that_is_no_option_is_refused(llama, name):
    with pytest.raises(
        ValueError, match=f"^there is no option {name!r}.*; of sampling there are temperature, top_k"
    ):
        llama.generate("a", max_tokens=1, **{name: 1})


# What the file says


def opened(tmp_path, **keys):
    path = tmp_path / "named.gguf"
    rewrite(tiny_llama(), path, {f"general.sampling.{key}": value for key, value in keys.items()})
    return llmcore.load(path)


def test_argument_then_file_then_default(tmp_path):
    llm = opened(
        tmp_path,
        temp=0.6,
        top_k=20,
        penalty_repeat=1.1,
        penalty_last_n=32,
        xtc_threshold=0.2,
        sequence="dry;Top-K;temp",
    )
    chosen = llm.sampling(top_k=7)
    assert (chosen.temperature, chosen.top_k, chosen.min_p) == (0.6, 7, 0.05)
    assert (chosen.repeat_penalty, chosen.penalty_last_n, chosen.xtc_threshold) == (1.1, 32, 0.2)
    assert chosen.sequence == ("dry", "top_k", "temperature")
    options = {"max_tokens": 20, "seed": 1, "ignore_eos": True}
    same = llmcore.load(tiny_llama()).generate("a", **options, **llm.file_sampling)
    assert "".join(llm.generate("a", **options)) == "".join(same)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("top_p", 3.0),
        ("temp", math.nan),
        ("top_k", -1),
        ("min_p", "much"),
        ("sequence", "infill"),
        ("penalty_last_n", -5),
    ],
)
def test_what_is_out_of_range_in_the_file_is_told_and_the_default_taken(tmp_path, key, value):
    with pytest.warns(UserWarning, match=f"general.sampling.{key} "):
        llm = opened(tmp_path, **{key: value})
    assert llm.sampling() == Sampling()


def test_a_file_without_opinions_has_the_defaults(llama):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert llama.sampling() == Sampling()

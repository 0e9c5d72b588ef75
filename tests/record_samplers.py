"""Records what llama.cpp's filters keep of random logits; run with a Python that has llama-cpp-python 0.3.36.

    python tests/record_samplers.py TINY.gguf TARGET.json.gz

TINY.gguf is the model of tests/conftest.py's tiny_llama; only its vocabulary is read, for DRY's breakers.
"""

import ctypes
import gzip
import json
import sys

import llama_cpp.llama_cpp as api
import numpy as np

N = 200  # candidates
OPTIONS = {  # filter -> its options, of which some are drawn
    "penalties": [
        (1.0, 0.5, 0.0),
        (1.3, 0.0, 0.7),
        (0.8, -0.4, 0.3),
        (1.1, 0.2, -0.5),
    ],  # repeat, frequency, presence
    "dry": [
        (0.8, 1.75, 2),
        (2.0, 1.2, 1),
        (0.5, 3.0, 0),
        (1.0, 1.0, 3),
        (1e30, 100.0, 1),
    ],  # multiplier, base, allowed
    "top_n_sigma": [(0.5,), (1.0,), (2.0,), (1000.0,)],
    "top_k": [(1,), (40,), (199,), (1000,)],
    "typ_p": [(0.1,), (0.5,), (0.9,), (0.999,)],
    "top_p": [(0.1,), (0.5,), (0.95,)],
    "min_p": [(0.001,), (0.05,), (0.5,), (1.0,)],
    "xtc": [(0.01,), (0.1,), (0.3,), (0.5,)],  # threshold; the probability is 1, whatever the generator
    "logit_bias": [({"0": 3.0, "7": -2.5},), ({"3": "-inf", "199": 10.0},)],
}
BREAKERS = [[], ["\n", ":", '"', "*"], ["the", "ab", "\u2581"]]


def sampler(name, options, vocab, breakers):
    """llama.cpp's sampler of that name."""
    if name == "dry":
        texts = (ctypes.c_char_p * max(1, len(breakers)))(*(text.encode() for text in breakers))
        multiplier, base, allowed = options
        return api.llama_sampler_init_dry(vocab, multiplier, base, allowed, 64, texts, len(breakers))
    if name == "logit_bias":
        biases = [api.llama_logit_bias(int(i), float(bias)) for i, bias in options[0].items()]
        return api.llama_sampler_init_logit_bias(
            N, len(biases), (api.llama_logit_bias * len(biases))(*biases)
        )
    if name == "penalties":
        return api.llama_sampler_init_penalties(N, 64, *options)
    if name == "xtc":
        return api.llama_sampler_init_xtc(1.0, *options, 0, 1)
    name, keep = {"typ_p": ("typical", (0,)), "top_p": ("top_p", (0,)), "min_p": ("min_p", (0,))}.get(
        name, (name, ())
    )
    return getattr(api, f"llama_sampler_init_{name}")(*options, *keep)


def kept(chain, so_far, logits):
    """The candidates (id, logit) after a chain of samplers that has seen the tokens so far."""
    data = (api.llama_token_data * N)(*(api.llama_token_data(i, float(x), 0.0) for i, x in enumerate(logits)))
    array = api.llama_token_data_array(data, N, -1, False)
    for one in chain:
        for token in so_far:
            api.llama_sampler_accept(one, token)
        api.llama_sampler_apply(one, ctypes.byref(array))
        api.llama_sampler_free(one)
    left = [array.data[i] for i in range(array.size)]
    return [(one.id, one.logit) for one in left if one.logit > -np.inf]


def cases(vocab):
    """A case a filter and options, then chains of all of them in llama.cpp's order."""
    rng = np.random.default_rng(7)
    chains = [[(name, list(one))] for name, many in OPTIONS.items() for one in many for _ in range(3)]
    order = ["logit_bias", *(name for name in OPTIONS if name != "logit_bias")]
    for _ in range(60):
        names = [name for name in order if rng.random() < 0.6]
        if {"top_n_sigma", "logit_bias"} & {*names} and "typ_p" in names:
            names.remove(
                "typ_p"
            )  # after a logit of minus infinity llama.cpp's entropy is 0 x -inf, no number
        chains.append([(name, list(OPTIONS[name][rng.integers(len(OPTIONS[name]))])) for name in names])
    for i, chain in enumerate(chains):
        seed, breakers = int(rng.integers(1 << 30)), BREAKERS[i % len(BREAKERS)]
        logits, so_far = inputs(seed)
        left = kept([sampler(name, one, vocab, breakers) for name, one in chain], so_far, logits)
        ids, last = [i for i, _ in left], [round(float(x), 4) for _, x in left[:: max(1, len(left) // 5)]]
        yield {"chain": chain, "seed": seed, "breakers": breakers, "ids": ids, "logits": last}


def inputs(seed):
    """Random logits, and a text of few different tokens, which repeats itself."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=N) * rng.choice([1.0, 3.0])).astype(np.float32)
    so_far = rng.choice(rng.choice(N, rng.integers(2, 9)), rng.integers(1, 120)).tolist()
    return logits, so_far


def main(model, target):
    """Record all cases."""
    options = api.llama_model_default_params()
    options.vocab_only = True
    loaded = api.llama_model_load_from_file(model.encode(), options)
    rows = list(cases(api.llama_model_get_vocab(loaded)))
    with gzip.GzipFile(target, "wb", mtime=0) as file:
        file.write(json.dumps(rows, separators=(",", ":")).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])

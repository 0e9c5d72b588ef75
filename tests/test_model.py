"""The transformer against logits and texts that other engines computed."""

import json

import numpy as np
import pytest
from conftest import DATA, real_model, reference

import llmcore
from llmcore.cache import KVCache
from llmcore.model import CHUNK, forward, prefill, unembed
from llmcore.sampling import Sampling

TINY = [
    *("command-r", "deepseek2", "deepseek2-lite", "gemma", "gemma2", "gemma3", "gpt-oss", "gpt2", "granite", "llama"),
    *("llama-biased", "llama-linear", "llama-moe", "llama-ropefreqs", "llama-yarn", "olmo2", "phi3", "phi3-longrope"),
    *("qwen2", "qwen2moe", "qwen3", "qwen3moe", "smollm3", "starcoder2"),
]
GELU = ("gemma", "gpt2", "starcoder2")  # llama.cpp reads GELU from a float16 table
TRANSFORMERS = np.load(DATA / "transformers" / "logits.npz")
REAL = json.loads((DATA / "real.json").read_text(encoding="utf-8"))
# How far top-10 logits and mean negative log-likelihood may be from those of transformers.
TOLERANCES = {"SmolLM2-135M-Instruct.Q4_1.gguf": (0.001, 0.0005), "gemma-3-270m-q4_k_m.gguf": (0.03, 0.005)}


def nmse(ours, theirs):
    return float(((ours - theirs) ** 2).sum() / (theirs**2).sum())


def assert_same_logits(ours, theirs, near_zero=3e-6):
    """Equal to 1e-4 of each logit; of one that happens to be near zero, to so much of the largest."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=near_zero * np.abs(theirs).max())


def in_steps(llm, ids, steps):
    """Logits of a text that is given to the model in steps of these sizes."""
    cache, logits = KVCache(llm.config), []
    for size in steps:
        step = ids[cache.length : cache.length + size]
        logits.append(unembed(llm.weights, llm.config, forward(llm.weights, llm.config, step, cache)))
    return np.concatenate(logits)


@pytest.mark.parametrize("name", TINY)
def test_logits_are_those_of_llama_cpp(name):
    path, ids, logits = reference(name)
    assert nmse(llmcore.load(path).logits(ids), logits) < (1e-5 if name.startswith(GELU) else 1e-9)


@pytest.mark.parametrize("name", TRANSFORMERS.files[1:])
def test_logits_are_those_of_transformers(name):
    """Weights went from transformers' names and layouts to GGUF's by a recipe of our own, record_transformers.py."""
    path = DATA / "transformers" / f"{name}.gguf"
    assert nmse(llmcore.load(path).logits(TRANSFORMERS["ids"]), TRANSFORMERS[name]) < 1e-9


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("steps", [[1] * 40, [7, 1, 13, 19], [39, 1]], ids=["ones", "mixed", "last"])
def test_decoding_in_steps_equals_one_prefill(name, steps):
    path, ids, _ = reference(name)
    llm = llmcore.load(path)
    # 27 random layers make rounding errors grow: llama.cpp and we differ by NMSE 4e-11 there, elsewhere by 1e-12.
    near_zero = 1e-5 if name == "deepseek2-lite" else 3e-6
    assert_same_logits(in_steps(llm, ids, steps), in_steps(llm, ids, [40]), near_zero)


@pytest.mark.parametrize("name", TRANSFORMERS.files[1:])
@pytest.mark.parametrize("chunk", [1, 5, 23])
def test_chunk_size_changes_nothing(name, chunk, monkeypatch):
    """Windows are 8 wide where there are any; the text has 24 tokens."""
    llm = llmcore.load(DATA / "transformers" / f"{name}.gguf")
    monkeypatch.setattr("llmcore.model.CHUNK", chunk)
    assert nmse(llm.logits(TRANSFORMERS["ids"]), TRANSFORMERS[name]) < 1e-9


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "gpt-oss", "llama"])
@pytest.mark.parametrize("chunk", [64, 300])
def test_a_text_longer_than_what_windowed_layers_hold(name, chunk, monkeypatch):
    llm = llmcore.load(DATA / "transformers" / f"{name}.gguf")
    ids = np.random.default_rng(0).integers(3, 288, 500)
    whole = llm.logits(ids)
    assert CHUNK >= 500  # that was one chunk
    monkeypatch.setattr("llmcore.model.CHUNK", chunk)
    assert_same_logits(llm.logits(ids), whole)


def test_an_exception_leaves_the_cache_as_it_was(llama, monkeypatch):
    ids = np.random.default_rng(0).integers(3, 288, 40)
    cache = KVCache(llama.config)
    forward(llama.weights, llama.config, ids[:20], cache)
    with monkeypatch.context() as broken:
        broken.setattr("llmcore.model.dense_ffn", lambda *_: 1 / 0)  # after the first layer has appended its rows
        with pytest.raises(ZeroDivisionError):
            forward(llama.weights, llama.config, ids[3:9], cache)
    assert cache.length == 20
    after = unembed(llama.weights, llama.config, forward(llama.weights, llama.config, ids[20:], cache))
    assert_same_logits(after, llama.logits(ids)[20:])


@pytest.mark.parametrize(
    ("file", "case"),
    [(file, case) for file in REAL for case in REAL[file]],
    ids=lambda x: x if isinstance(x, str) else x["name"],
)
def test_real_models_are_exact(file, case):
    llm = real_model(file)
    logit_bound, nll_bound = TOLERANCES[file]
    ids = llm.encode_prompt(case["prompt"])
    assert ids == case["ids"]

    hidden_TD = np.concatenate(list(prefill(llm.weights, llm.config, np.array(ids), KVCache(llm.config))))
    nll = 0.0
    for start in range(0, len(ids), 128):  # all logits of 900 tokens at once would be a gigabyte for Gemma
        logits_TV = unembed(llm.weights, llm.config, hidden_TD[start : start + 128]).astype(np.float64)
        peak_T1 = logits_TV.max(axis=1, keepdims=True)
        for t, (row, peak) in enumerate(zip(logits_TV, peak_T1[:, 0], strict=True), start + 1):
            if t < len(ids):
                nll -= row[ids[t]] - peak - np.log(np.exp(row - peak).sum())
    assert abs(nll / (len(ids) - 1) - case["mean_nll"]) < nll_bound
    np.testing.assert_allclose(logits_TV[-1][case["top10"]["ids"]], case["top10"]["logits"], rtol=0, atol=logit_bound)

    tokens = llm.tokens(ids, max_tokens=48, how=Sampling(temperature=0), seed=0, ignore_eos=True)
    assert [token.id for token in tokens] == case["greedy"]

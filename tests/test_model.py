"""The transformer against logits and texts that other engines computed."""

import json

import numpy as np
import pytest
from conftest import DATA, make, real_model, reference
from make_tiny_model import FAMILIES

import llmcore
from llmcore.model import CHUNK, forward, prefill, unembed
from llmcore.sampling import Sampling
from llmcore.speed.holding import WAYS
from llmcore.speed.int8 import Tile
from llmcore.speed.mapped import FileRows

TINY = [
    *(
        "command-r",
        "deepseek2",
        "deepseek2-lite",
        "gemma",
        "gemma2",
        "gemma3",
        "gpt-oss",
        "gpt2",
        "granite",
        "llama",
    ),
    *(
        "llama-biased",
        "llama-linear",
        "llama-moe",
        "llama-ropefreqs",
        "llama-yarn",
        "olmo2",
        "phi3",
        "phi3-longrope",
    ),
    *("qwen2", "qwen2moe", "qwen3", "qwen3moe", "smollm3", "starcoder2"),
]
# Families whose matrices all have rows of whole blocks of 256 weights: the plain one, a mixture, latent
# attention.
WIDE = {
    "llama": {"width": 256, "ff": 512, "tied": False},
    "qwen3moe": {"width": 256, "head_width": 64, "expert_ff": 256},
    "deepseek2": {
        **{"width": 256, "ff": 256, "expert_ff": 256, "q_lora": 256, "kv_lora": 256},
        **{"heads": 2, "head_width": 264, "rope_dims": 8, "value_width": 128},
    },
}
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
    cache, logits = llm.empty_cache(), []
    for size in steps:
        step = ids[cache.length : cache.length + size]
        logits.append(unembed(llm.weights, llm.config, forward(llm.weights, llm.config, [(step, cache)])))
    return np.concatenate(logits)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("way", WAYS)
def test_logits_are_those_of_llama_cpp(name, way):
    path, ids, logits = reference(name)
    assert nmse(llmcore.load(path, weights=way).logits(ids), logits) < (
        1e-5 if name.startswith(GELU) else 1e-9
    )


@pytest.mark.parametrize("name", TRANSFORMERS.files[1:])
def test_logits_are_those_of_transformers(name):
    """Weights went from transformers' names and layouts to GGUF's by a recipe of our own,
    record_transformers.py.
    """
    path = DATA / "transformers" / f"{name}.gguf"
    assert nmse(llmcore.load(path).logits(TRANSFORMERS["ids"]), TRANSFORMERS[name]) < 1e-9


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("steps", [[1] * 40, [7, 1, 13, 19], [39, 1]], ids=["ones", "mixed", "last"])
def test_decoding_in_steps_equals_one_prefill(name, steps):
    path, ids, _ = reference(name)
    llm = llmcore.load(path)
    # Rounding in latent attention moves logits by 4e-6 of the largest; in 27 random layers such errors grow,
    # too.
    near_zero = 1e-5 if name.startswith("deepseek2") else 3e-6
    assert_same_logits(in_steps(llm, ids, steps), in_steps(llm, ids, [40]), near_zero)


@pytest.mark.parametrize("family", WIDE)
@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q8_0", "Q4_1", "Q2_K", "Q3_K", "Q5_K", "IQ4_XS", "MXFP4"])
def test_all_ways_to_hold_quantized_matrices_are_the_same_model(family, kind, tmp_path):
    """In one pass, and in steps: one row takes another way than several."""
    make(family, tmp_path / "m.gguf", type=kind, **WIDE[family])
    ids = np.random.default_rng(0).integers(3, 288, 30)
    models = {way: llmcore.load(tmp_path / "m.gguf", weights=way) for way in WAYS}
    whole, steps = models["float32"].logits(ids), [20, 1, 1, 5, 1, 1, 1]
    for way, piece in (("int8", Tile), ("mapped", FileRows)):
        held = models[way].weights.layers[0].mixer.attn_output.held
        assert {type(part) for _, part in held.pieces} == {piece}
        assert nmse(models[way].logits(ids), whole) < 1e-9
        assert nmse(in_steps(models[way], ids, steps), whole) < 1e-9


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
    cache = llama.empty_cache()
    forward(llama.weights, llama.config, [(ids[:20], cache)])
    with monkeypatch.context() as broken:
        broken.setattr("llmcore.ffn.run", lambda *_: 1 / 0)  # after the first layer has appended its rows
        with pytest.raises(ZeroDivisionError):
            forward(llama.weights, llama.config, [(ids[3:9], cache)])
    assert cache.length == 20
    after = unembed(llama.weights, llama.config, forward(llama.weights, llama.config, [(ids[20:], cache)]))
    assert_same_logits(after, llama.logits(ids)[20:])


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_share_a_pass_do_not_see_each_other(family, tmp_path):
    """Steps of several sizes, some long, some single, some past the windows (8 wide)."""
    make(family, tmp_path / "m.gguf")
    llm = llmcore.load(tmp_path / "m.gguf")
    rng = np.random.default_rng(0)
    steps = [[9, 1, 1, 20], [1, 1, 1, 1], [30, 5, 1, 1]]
    texts = [(rng.integers(3, 288, sum(sizes)), llm.empty_cache()) for sizes in steps]
    logits = [[], [], []]
    for sizes in zip(*steps, strict=True):
        news = [
            (ids[cache.length : cache.length + size], cache)
            for (ids, cache), size in zip(texts, sizes, strict=True)
        ]
        logits_TV = unembed(llm.weights, llm.config, forward(llm.weights, llm.config, news))
        for parts, part in zip(logits, np.split(logits_TV, np.cumsum(sizes)[:-1]), strict=True):
            parts.append(part)
    for (ids, cache), parts in zip(texts, logits, strict=True):
        assert cache.length == len(ids)
        assert_same_logits(np.concatenate(parts), llm.logits(ids))


def test_an_exception_leaves_all_caches_of_a_pass_as_they_were(llama, monkeypatch):
    caches = [llama.empty_cache(), llama.empty_cache()]
    forward(llama.weights, llama.config, [(np.arange(3, 8), caches[0]), (np.arange(9, 11), caches[1])])
    with monkeypatch.context() as broken:
        broken.setattr("llmcore.ffn.run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            forward(llama.weights, llama.config, [(np.array([5]), cache) for cache in caches])
    assert [cache.length for cache in caches] == [5, 2]
    x_TD = forward(llama.weights, llama.config, [(np.array([7]), cache) for cache in caches])
    logits_TV = unembed(llama.weights, llama.config, x_TD)
    assert_same_logits(logits_TV[0], llama.logits([3, 4, 5, 6, 7, 7])[-1])
    assert_same_logits(logits_TV[1], llama.logits([9, 10, 7])[-1])


# In each way the first prompt, and the others in the slow tests; of mapped matrices, which take
# 0.1 s a token, a few tokens.
@pytest.mark.parametrize(
    ("file", "case", "way", "max_tokens"),
    [
        pytest.param(file, case, way, n_tokens, marks=[pytest.mark.slow] * (i >= n_quick))
        for file in REAL
        for way, n_tokens, n_quick in (("float32", 48, 1), ("int8", 48, 1), ("mapped", 16, 1))
        for i, case in enumerate(REAL[file])
    ],
    ids=lambda x: x["name"] if isinstance(x, dict) else str(x),
)
def test_real_models_are_exact(file, case, way, max_tokens):
    llm = real_model(file, way)
    logit_bound, nll_bound = TOLERANCES[file]
    ids = llm.encode_prompt(case["prompt"])
    assert ids == case["ids"]

    hidden_TD = np.concatenate(list(prefill(llm.weights, llm.config, np.array(ids), llm.empty_cache())))
    nll = 0.0
    for start in range(0, len(ids), 128):  # all logits of 900 tokens at once would be a gigabyte for Gemma
        logits_TV = unembed(llm.weights, llm.config, hidden_TD[start : start + 128]).astype(np.float64)
        peak_T1 = logits_TV.max(axis=1, keepdims=True)
        for t, (row, peak) in enumerate(zip(logits_TV, peak_T1[:, 0], strict=True), start + 1):
            if t < len(ids):
                nll -= row[ids[t]] - peak - np.log(np.exp(row - peak).sum())
    assert abs(nll / (len(ids) - 1) - case["mean_nll"]) < nll_bound
    np.testing.assert_allclose(
        logits_TV[-1][case["top10"]["ids"]], case["top10"]["logits"], rtol=0, atol=logit_bound
    )

    tokens = llm.tokens(ids, max_tokens=max_tokens, sampling=Sampling(temperature=0), seed=0, ignore_eos=True)
    assert [token.id for token in tokens] == case["greedy"][:max_tokens]

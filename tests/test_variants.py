"""Models of every family in shapes that the reference models do not have, against what llama.cpp computed
from them.
"""

import sys

import numpy as np
import pytest
from conftest import ROOT
from record_llama_cpp import CONTEXT, IDS, POSITIONS, RECORD, VARIANTS, checksum

import llmcore
from llmcore.model import forward, unembed

sys.path.insert(0, str(ROOT / "scripts"))
import make_tiny_model

with np.load(RECORD) as record:
    RECORDED = dict(
        zip(record["names"].tolist(), zip(record["checksums"], record["logits"], strict=True), strict=True)
    )
GELU = ("gemma", "gpt2", "starcoder2")  # llama.cpp reads it from a float16 table, which costs up to 5e-7


def nmse(ours, theirs):
    return float(((ours - theirs) ** 2).sum() / (theirs**2).sum())


def test_every_variant_is_recorded():
    assert not set(VARIANTS) - set(RECORDED), "python tests/record_llama_cpp.py"
    with np.load(RECORD) as record:
        np.testing.assert_array_equal(record["ids"], IDS)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.filterwarnings("ignore:a context of 512 tokens is more")
def test_logits_are_those_of_llama_cpp(name, tmp_path):
    family, options = VARIANTS[name]
    made, theirs = RECORDED[name]
    path = tmp_path / "model.gguf"
    make_tiny_model.make(family, path, **options)
    error = nmse(llmcore.load(path, context_length=CONTEXT).logits(IDS)[POSITIONS], theirs)
    again = (
        ""
        if checksum(path) == made
        else "; make_tiny_model writes other models than were recorded: record anew"
    )
    assert error < (1e-6 if family.startswith(GELU) else 1e-9), f"NMSE {error:.1e}{again}"


@pytest.mark.parametrize("family", make_tiny_model.FAMILIES)
def test_decoding_in_steps_equals_one_prefill(family, tmp_path):
    make_tiny_model.make(family, tmp_path / "model.gguf", seed=1)
    llm = llmcore.load(tmp_path / "model.gguf")
    whole = llm.logits(IDS)
    for steps in ([1] * 30, [7, 1, 13, 9], [29, 1]):
        cache, logits = llm.empty_cache(), []
        for size in steps:
            step = IDS[cache.length : cache.length + size]
            logits.append(unembed(llm.weights, llm.config, forward(llm.weights, llm.config, [(step, cache)])))
        np.testing.assert_allclose(np.concatenate(logits), whole, rtol=1e-4, atol=3e-6 * np.abs(whole).max())

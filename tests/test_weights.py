"""Every tensor has its use and every use its tensor; fused and separate matrices are the same model."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from conftest import ROOT, make
from rewrite import rewrite

import llmcore
from llmcore.loader import read_gguf
from llmcore.quants import dequantize
from llmcore.speed import holding
from llmcore.speed.holding import RESERVE, choose


@pytest.fixture(autouse=True)
def _rows(monkeypatch):
    """float32 matrices as they lie on most machines, so that what is said of them is the same on all."""
    monkeypatch.setenv(holding.PANELS_VARIABLE, "0")


@pytest.fixture
def changed(llama_path, tmp_path):
    """The path of the reference model, with changes."""
    return lambda **changes: rewrite(llama_path, tmp_path / "changed.gguf", **changes)


def refusal(path, kind=llmcore.ModelFileError):
    with pytest.raises(kind) as caught:
        llmcore.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def arrays_of(path):
    return {name: dequantize(t.data, t.type, t.byte_order) for name, t in read_gguf(path).tensors.items()}


def assert_same_model(path, other, ids=range(3, 40)):
    theirs = llmcore.load(other).logits(list(ids))
    np.testing.assert_allclose(
        llmcore.load(path).logits(list(ids)), theirs, rtol=1e-4, atol=1e-6 * np.abs(theirs).max()
    )


@pytest.mark.parametrize(
    "name", ["token_embd.weight", "output_norm.weight", "blk.1.attn_k.weight", "blk.2.ffn_down.weight"]
)
def test_a_missing_tensor_is_named(changed, name):
    assert f"tensor {name!r} is missing" in refusal(changed(drop=[name]))


@pytest.mark.parametrize(
    "name", ["blk.1.attn_sinks.weight", "blk.3.attn_norm.weight", "rope_factors_short.weight", "x"]
)
def test_a_tensor_that_nothing_reads_is_refused_by_name(changed, name):
    message = refusal(changed(tensors={name: np.ones(64)}))
    assert repr(name) in message
    assert "nothing in this architecture reads" in message


def test_tensors_that_inference_never_needs_are_passed_over(changed, llama_path):
    path = changed(tensors={"blk.0.attn_rot_embd.weight": np.ones(8)})
    assert_same_model(path, llama_path)


def test_a_wrong_shape_is_told_with_both(changed):
    message = refusal(changed(tensors={"blk.1.ffn_up.weight": np.ones((95, 64))}))
    assert "'blk.1.ffn_up.weight' has shape (95, 64); the metadata asks for (96, 64)" in message


def test_an_embedding_of_another_size_than_the_vocabulary_is_refused(changed):
    tensors = {"token_embd.weight": np.ones((300, 64)), "output.weight": np.ones((300, 64))}
    with pytest.warns(UserWarning, match="vocab_size is 300, but there are 288 tokens; taken as 288"):
        message = refusal(changed(keys={"llama.vocab_size": 300}, tensors=tensors))
    assert "tensor 'token_embd.weight' has shape (300, 64); the metadata asks for (288, 64)" in message


def test_a_type_that_cannot_be_expanded_is_named_before_anything_is_read(llama_path, tmp_path):
    """Q8_K holds intermediate sums of llama.cpp; no file should have it, and nothing expands it."""
    data = llama_path.read_bytes()
    tensor = read_gguf(llama_path).tensors["output_norm.weight"]
    # After the name: a dimension count, a dimension
    at = data.index(b"output_norm.weight") + len(tensor.name) + 4 + 8
    path = tmp_path / "type.gguf"
    path.write_bytes(data[:at] + (24).to_bytes(4, "little") + data[at + 4 :])  # I8
    message = refusal(path, llmcore.UnsupportedModel)
    assert "'output_norm.weight' has type I8; we can expand " in message
    assert "Q4_K" in message


def test_fused_matrices_of_the_file_are_the_same_model(changed, llama_path):
    arrays = arrays_of(llama_path)
    fused = {
        f"blk.{i}.attn_qkv.weight": np.concatenate([arrays[f"blk.{i}.attn_{x}.weight"] for x in "qkv"])
        for i in range(3)
    }
    path = changed(tensors=fused, drop=[f"blk.{i}.attn_{x}.weight" for i in range(3) for x in "qkv"])
    assert_same_model(path, llama_path)


def test_a_missing_bias_is_zero(changed, llama_path):
    """Only the keys have a bias; the rest is as if it had none."""
    bias = np.random.default_rng(0).standard_normal(32)
    zeros = {f"blk.1.attn_{x}.bias": np.zeros(n) for x, n in (("q", 64), ("v", 32))}
    one = changed(tensors={"blk.1.attn_k.bias": bias})
    logits = llmcore.load(one).logits(range(3, 40))
    assert np.abs(logits - llmcore.load(llama_path).logits(range(3, 40))).max() > 0.01
    np.testing.assert_array_equal(
        llmcore.load(changed(tensors={"blk.1.attn_k.bias": bias} | zeros)).logits(range(3, 40)), logits
    )
    fused = {"blk.1.attn_qkv.bias": np.concatenate([np.zeros(64), bias, np.zeros(32)])}
    np.testing.assert_array_equal(llmcore.load(changed(tensors=fused)).logits(range(3, 40)), logits)


def test_without_an_output_matrix_the_embedding_is_used(changed, llama_path):
    tied = changed(drop=["output.weight"])
    same = rewrite(
        llama_path,
        tied.with_name("same.gguf"),
        tensors={"output.weight": arrays_of(llama_path)["token_embd.weight"]},
    )
    assert_same_model(tied, same)


def test_big_endian_files_are_the_same_model(changed, llama_path):
    path = changed(endianess=gguf.GGUFEndian.BIG)
    assert read_gguf(path).byte_order == ">"
    assert_same_model(path, llama_path)


# Which way to hold matrices


def sizes(**tensors):
    """As much of a file as `choose` looks at: types and shapes."""
    named = {
        name: SimpleNamespace(name=name, type=kind, shape=shape)
        for name, (kind, shape) in {name.replace("__", "."): rest for name, rest in tensors.items()}.items()
    }
    return SimpleNamespace(path=Path("big.gguf"), tensors=named)


# 2.048e9 weights in Q4_K: 8.192 GB in float32, and 1 + 2 (4 + 8) / 256 bytes a weight as int8, 2.24 GB.
# 1e8 weights in F16: 0.4 GB in float32, none as int8. A vector and the embedding count for nothing.
BIG = sizes(
    token_embd__weight=("Q4_K", (100_000, 2048)),
    blk__0__ffn_up__weight=("Q4_K", (1_000_000, 2048)),
    blk__0__attn_norm__weight=("F32", (2048,)),
    output__weight=("F16", (100_000, 1000)),
)
FLOAT32, INT8 = 8_592_000_000, 2_240_000_000


@pytest.mark.parametrize(
    ("available", "how", "why"),
    [
        (FLOAT32 + RESERVE, "float32", "float32, 8.6 GB: 9.7 GB of memory are free"),
        (FLOAT32 + RESERVE - 1, "int8", "int8, 2.2 GB: 9.7 GB of memory are free, float32 would take 8.6 GB"),
        (INT8 + RESERVE, "int8", "int8, 2.2 GB: 3.3 GB of memory are free, float32 would take 8.6 GB"),
        (
            *(INT8 + RESERVE - 1, "mapped"),
            "mapped, 0.0 GB: 3.3 GB of memory are free, float32 would take 8.6 GB, int8 would take 2.2 GB",
        ),
        (
            0,
            "mapped",
            "mapped, 0.0 GB: 0.0 GB of memory are free, float32 would take 8.6 GB, int8 would take 2.2 GB",
        ),
        (None, "float32", "float32, 8.6 GB; nobody says how much memory is free"),
    ],
)
def test_auto_takes_the_fastest_way_that_fits(available, how, why):
    assert choose(BIG, "auto", available) == (how, why)


@pytest.mark.parametrize(
    ("how", "needed", "gb"), [("float32", FLOAT32, 8.6), ("int8", INT8, 2.2), ("mapped", 0, 0.0)]
)
def test_what_is_asked_for_is_done_if_it_fits_without_a_reserve(how, needed, gb):
    assert choose(BIG, how, needed) == (how, f"{how}, {gb} GB: {gb} GB of memory are free")
    assert choose(BIG, how, None) == (how, f"{how}, {gb} GB; nobody says how much memory is free")


@pytest.mark.parametrize(
    ("how", "available", "instead"),
    [
        ("float32", FLOAT32 - 1, "int8"),
        ("float32", INT8 + RESERVE, "int8"),
        ("float32", INT8 + RESERVE - 1, "mapped"),
        ("int8", INT8 - 1, "mapped"),
    ],
)
def test_a_way_that_does_not_fit_is_refused_and_one_that_does_is_named(how, available, instead):
    takes = {"float32": 8.6, "int8": 2.2}[how]
    words = f"big.gguf: takes {takes} GB as {how}, and {available / 1e9:.1f} GB of memory are free"
    words += f"; take --weights {instead}"
    with pytest.raises(MemoryError, match=f"^{re.escape(words)}$"):
        choose(BIG, how, available)


def test_an_embedding_that_is_the_output_matrix_too_counts():
    tied = sizes(token_embd__weight=("Q8_0", (1_000_000, 3200)), output_norm__weight=("F32", (3200,)))
    assert choose(tied, "float32", None)[1].startswith("float32, 12.8 GB")
    assert choose(tied, "int8", None)[1].startswith("int8, 3.6 GB")  # a scale of 4 bytes for each 32


def test_what_latent_attention_expands_counts_in_every_way():
    """1e9 weights in attn_k_b, 1e9 in attn_v_b and 2e9 in attn_kv_b: 16 GB, however the rest is held."""
    latent = sizes(
        blk__0__attn_k_b__weight=("Q4_0", (1000, 1000, 1000)),
        blk__0__attn_v_b__weight=("Q4_0", (1000, 1000, 1000)),
        blk__1__attn_kv_b__weight=("Q4_0", (2_000_000, 1000)),
    )
    for how in ("float32", "int8", "mapped"):
        assert choose(latent, how, None)[1].startswith(f"{how}, 16.0 GB")
    for how in ("auto", "mapped"):
        with pytest.raises(MemoryError, match=r"takes 16\.0 GB as mapped, and 15\.0 GB of memory are free$"):
            choose(latent, how, 15_000_000_000)


@pytest.mark.parametrize(
    ("core", "asked", "panels"),
    [
        ("SkylakeX", None, True),
        ("Cooperlake", None, True),
        ("Haswell", None, False),
        ("Zen", None, False),
        (None, None, False),
        ("SkylakeX", "0", False),
        ("Haswell", "1", True),
        ("Haswell", "yes", False),
    ],
)
def test_float32_lies_in_panels_where_blas_is_good_at_them(llama_path, monkeypatch, core, asked, panels):
    monkeypatch.setattr(holding, "blas_core", lambda: core)
    monkeypatch.delenv("LLMCORE_PANELS", raising=False)
    if asked is not None:
        monkeypatch.setenv("LLMCORE_PANELS", asked)
    llm = llmcore.load(llama_path, weights="float32")
    assert llm.held.startswith("float32 in panels, 0.0 GB: " if panels else "float32, 0.0 GB: ")
    assert hasattr(llm.weights.output.held, "w_PIC") == panels


def test_a_model_says_how_it_is_held_and_why(llama_path, monkeypatch):
    gb = r"\d+\.\d GB"
    assert re.fullmatch(rf"float32, 0\.0 GB: {gb} of memory are free", llmcore.load(llama_path).held)
    assert re.fullmatch(
        rf"int8, 0\.0 GB: {gb} of memory are free", llmcore.load(llama_path, weights="int8").held
    )
    monkeypatch.setattr("llmcore.llm.available_memory", lambda: 500_000)
    assert llmcore.load(llama_path).held.startswith(
        "mapped, 0.0 GB: 0.0 GB of memory are free, float32 would take 0.0"
    )
    monkeypatch.setattr("llmcore.llm.available_memory", lambda: None)
    assert llmcore.load(llama_path).held == "float32, 0.0 GB; nobody says how much memory is free"


PEAK = """
import sys, llmcore
llm = llmcore.load(sys.argv[1], weights=sys.argv[2], threads=2)
llm.logits([1, 2, 3])
llm.logits([1])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak memory this way"
)
def test_memory_follows_the_way(tmp_path):
    """99e6 weights in Q4_K: 56 MB in the file, 108 as int8, 396 in float32; a tile takes 4 MB a thread.

    All of the file is read in each way, and its pages count while they are in memory. (ru_maxrss would not
    do: a process starts with the peak of the one that started it.)
    """
    make(
        "llama",
        tmp_path / "m.gguf",
        layers=14,
        width=768,
        heads=12,
        kv_heads=12,
        ff=2048,
        tied=False,
        type="Q4_K",
    )
    peak = {}
    for how in ("float32", "int8", "mapped"):
        command = [sys.executable, "-c", PEAK, str(tmp_path / "m.gguf"), how]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peak[how] = int(run.stdout) * 1024
    assert peak["float32"] > 396e6
    assert peak["int8"] < peak["float32"] - 200e6
    assert peak["mapped"] < peak["int8"] - (108e6 - 56e6 - 2 * 4e6)
    assert peak["mapped"] < 250e6

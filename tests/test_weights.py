"""Every tensor has its use and every use its tensor; fused and separate matrices are the same model."""

import gguf
import numpy as np
import pytest
from rewrite import rewrite

import llmcore
from llmcore.loader import read_gguf
from llmcore.quants import dequantize


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


def test_a_vocabulary_of_another_size_is_refused(changed):
    tensors = {"token_embd.weight": np.ones((300, 64)), "output.weight": np.ones((300, 64))}
    message = refusal(changed(keys={"llama.vocab_size": 300}, tensors=tensors))
    assert "the tokenizer has 288 tokens, but the model 300" in message


def test_a_type_that_cannot_be_expanded_is_named_before_anything_is_read(llama_path, tmp_path):
    """Q8_K holds intermediate sums of llama.cpp; no file should have it, and nothing expands it."""
    data = llama_path.read_bytes()
    tensor = read_gguf(llama_path).tensors["output_norm.weight"]
    at = data.index(b"output_norm.weight") + len(tensor.name) + 4 + 8  # after the name: a dimension count, a dimension
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
        llama_path, tied.with_name("same.gguf"), tensors={"output.weight": arrays_of(llama_path)["token_embd.weight"]}
    )
    assert_same_model(tied, same)


def test_big_endian_files_are_the_same_model(changed, llama_path):
    path = changed(endianess=gguf.GGUFEndian.BIG)
    assert read_gguf(path).byte_order == ">"
    assert_same_model(path, llama_path)

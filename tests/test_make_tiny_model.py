"""What scripts/make_tiny_model.py writes is what was asked for, as the gguf package reads it."""

import subprocess
import sys

import gguf
import numpy as np
import pytest
from conftest import ROOT, reference
from make_tiny_model import FAMILIES, TYPES, make

import llmcore

SCRIPT = ROOT / "scripts" / "make_tiny_model.py"
BLOCKS_OF_256 = {"width": 256, "ff": 256, "heads": 8, "layers": 1}


def read(path):
    """Keys, and tensors as (type, shape as NumPy has it, float32)."""
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        tensor.name: (
            tensor.tensor_type.name,
            tuple(tensor.shape.tolist()[::-1]),
            gguf.quants.dequantize(tensor.data, tensor.tensor_type),
        )
        for tensor in reader.tensors
    }
    return keys, tensors


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_each_family(family, tmp_path):
    path = tmp_path / "model.gguf"
    shapes = make(family, path)
    keys, tensors = read(path)
    assert keys["general.architecture"] == FAMILIES[family].arch
    assert {name: shape for name, (_, shape, _) in tensors.items()} == shapes
    assert path.stat().st_size < 600_000
    for kind, _, values in tensors.values():
        assert kind == "F32"
        assert np.isfinite(values).all()
        assert len(np.unique(values)) > values.size // 2  # no zeros, no constants: each number matters
    llm = llmcore.load(path)  # which refuses a tensor that it does not read
    logits = llm.logits([1, *llm.tokenizer.encode("the tale", add_special=False)])
    assert 0.3 < logits.std() < 10


def test_each_tensor_has_numbers_of_its_own(tmp_path):
    make("llama", tmp_path / "tied.gguf", tied=True)
    make("llama", tmp_path / "untied.gguf", layers=3)
    tied, untied = read(tmp_path / "tied.gguf")[1], read(tmp_path / "untied.gguf")[1]
    assert "output.weight" not in tied
    for name in tied:
        np.testing.assert_array_equal(tied[name][2], untied[name][2])
    assert len({values.tobytes() for _, _, values in untied.values()}) == len(untied)


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        make("gpt-oss", tmp_path / name, seed=seed, type="Q4_0")
    a, b, c = (tmp_path.joinpath(name).read_bytes() for name in "abc")
    assert a == b
    assert len(a) == len(c)
    assert a != c


def test_the_vocabulary_is_that_of_the_reference_models(tmp_path):
    make("llama", tmp_path / "model.gguf", vocab=300)
    ours, theirs = read(tmp_path / "model.gguf")[0], read(reference("llama")[0])[0]
    for name, value in theirs.items():
        if name.startswith("tokenizer."):
            assert (ours[name][:288] if isinstance(value, list) else ours[name]) == value
    assert len(ours["tokenizer.ggml.tokens"]) == ours["llama.vocab_size"] == 300


def test_sizes_and_keys(tmp_path):
    path = tmp_path / "model.gguf"
    options = {"layers": 3, "width": 24, "heads": 6, "kv_heads": 2, "head_width": 10, "ff": 33, "context": 77}
    make(
        "llama",
        path,
        **options,
        biases=True,
        rope_freqs=True,
        rope_base=500.0,
        set={"x": [True, False], "y": "z"},
    )
    keys, tensors = read(path)
    assert {
        name.removeprefix("llama."): value for name, value in keys.items() if name.startswith("llama.")
    } == {
        "context_length": 77,
        "embedding_length": 24,
        "block_count": 3,
        "feed_forward_length": 33,
        "vocab_size": 288,
        "attention.head_count": 6,
        "attention.head_count_kv": 2,
        "attention.key_length": 10,
        "attention.value_length": 10,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "rope.dimension_count": 10,
        "rope.freq_base": 500.0,
        "x": [True, False],
        "y": "z",
    }
    shapes = {name: shape for name, (_, shape, _) in tensors.items()}
    assert shapes["blk.2.attn_q.weight"] == (60, 24)
    assert shapes["blk.2.attn_k.weight"] == (20, 24)
    assert shapes["blk.2.attn_v.bias"] == (20,)
    assert shapes["blk.2.attn_output.weight"] == (24, 60)
    assert shapes["blk.2.ffn_down.weight"] == (24, 33)
    assert shapes["rope_freqs.weight"] == (5,)
    assert "blk.3.attn_q.weight" not in shapes


def test_latent_attention(tmp_path):
    sizes = {"heads": 3, "head_width": 14, "rope_dims": 4, "value_width": 6, "kv_lora": 20, "experts": 6}
    new = make("deepseek2", tmp_path / "new", q_lora=18, **sizes)
    old = make(
        "deepseek2", tmp_path / "old", q_lora=0, joined_kv_b=True, dense_layers=0, router_bias=False, **sizes
    )
    assert new["blk.0.attn_q_b.weight"] == (3 * 14, 18)
    assert new["blk.0.attn_kv_a_mqa.weight"] == (24, 32)
    assert new["blk.0.attn_k_b.weight"] == (3, 20, 10)
    assert new["blk.0.attn_v_b.weight"] == (3, 6, 20)
    assert old["blk.0.attn_q.weight"] == (3 * 14, 32)
    assert old["blk.0.attn_kv_b.weight"] == (3 * 16, 20)
    assert ("blk.0.ffn_gate.weight" in new, "blk.0.ffn_gate.weight" in old) == (True, False)
    assert ("blk.1.exp_probs_b.bias" in new, "blk.1.exp_probs_b.bias" in old) == (True, False)


@pytest.mark.parametrize("layers", [25, 26, 27, 28])
def test_deepseek2_of_any_depth_loads(layers, tmp_path):
    """Engines take 26 and 27 layers for models whose queries have no low rank."""
    shapes = make("deepseek2", tmp_path / "model.gguf", layers=layers)
    assert ("blk.0.attn_q.weight" in shapes) == (layers in (26, 27))
    assert llmcore.load(tmp_path / "model.gguf").logits([1, 5]).shape == (2, 288)


@pytest.mark.parametrize("kind", TYPES)
def test_types(kind, tmp_path):
    make("llama-moe", tmp_path / "quantized", type=kind, **BLOCKS_OF_256)
    make("llama-moe", tmp_path / "expanded", type=kind, as_float32=True, **BLOCKS_OF_256)
    quantized, expanded = read(tmp_path / "quantized")[1], read(tmp_path / "expanded")[1]
    for name, (stored, shape, values) in quantized.items():
        matrix = len(shape) > 1 and "ffn_gate_inp" not in name
        assert stored == (kind if matrix else "F32")
        assert expanded[name][0] == "F32"
        np.testing.assert_array_equal(values, expanded[name][2])
    for name in ("blk.0.attn_v.weight", "blk.0.ffn_gate_exps.weight"):
        assert 0.8 < quantized[name][2].std() * 16 < 1.3
    llmcore.load(tmp_path / "quantized")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bert"], "no family 'bert'"),
        (["llama", "--experts", "4"], "llama has no --experts"),
        (["gemma2", "--untied"], "gemma2 is tied or not by its nature"),
        (["llama", "--layers", "0"], "--layers is 0"),
        (["llama", "--layers", "few"], "invalid int value"),
        (["llama", "--vocab", "100"], "--vocab is 100"),
        (["llama", "--kv-heads", "3"], "--kv-heads 3 does not divide --heads 4"),
        (["llama", "--heads", "3", "--kv-heads", "1"], "--heads 3 does not divide --width 32"),
        (["gpt2", "--kv-heads", "2"], "gpt2 has as many"),
        (["deepseek2", "--kv-heads", "2"], "deepseek2 has no --kv-heads"),
        (["phi3", "--rope-dims", "7"], "--rope-dims 7 must be even"),
        (["deepseek2", "--rope-dims", "24"], "unrotated"),
        (["qwen2", "--rope-scaling", "longrope"], "qwen2 has no longrope"),
        (["llama", "--rope-scaling", "magic"], "none, linear, yarn, longrope"),
        (["llama", "--type", "Q9_9"], "it must be one of F32"),
        (
            ["llama", "--type", "Q4_K"],
            "Q4_K needs rows of a multiple of 256; token_embd.weight has rows of 32",
        ),
        (["qwen3moe", "--experts-used", "5"], "--experts-used 5 is more than --experts 4"),
        (["deepseek2", "--groups", "3"], "--groups 3 must divide --experts 4"),
        (["deepseek2", "--groups", "4"], "one expert a group"),
        (["deepseek2", "--experts", "6", "--groups", "3", "--experts-used", "3"], "too few experts"),
        (["deepseek2", "--layers", "26", "--q-lora", "16"], "must have --q-lora 0"),
        (["deepseek2", "--shared-experts", "0"], "--shared-experts is 0"),
        (["qwen3", "--heads", "64"], "--heads 64 is more than --width 32"),
        (["gemma3", "--rope-base", "1"], "--rope-base is 1.0"),
        (["llama", "--rope-freqs", "--rope-scaling", "longrope"], "choose one"),
        (["llama", "--set", "novalue"], "is not KEY=VALUE"),
        (["llama", "--set", "x={}"], "must be a number"),
        (["llama", "--set", "x=[1, 'a']"], "same type"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_nonsense_is_refused_in_one_line(arguments, said, tmp_path):
    family, *options = arguments
    result = run(family, tmp_path / "model.gguf", *options)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_line(tmp_path):
    path = tmp_path / "model.gguf"
    options = [
        "--layers",
        "2",
        "--untied",
        "--set",
        "rope.freq_base_swa=20000.0",
        "--set",
        "a=[1, 2]",
        "--set",
        "b=text",
    ]
    result = run("gemma3", path, *options)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"wrote {path}: 29 tensors, ")
    keys, tensors = read(path)
    assert "output.weight" in tensors
    assert (keys["gemma3.rope.freq_base_swa"], keys["gemma3.a"], keys["gemma3.b"]) == (
        20000.0,
        [1, 2],
        "text",
    )
    before = path.read_bytes()
    assert "--force" in run("llama", path).stderr
    assert path.read_bytes() == before
    assert run("llama", path, "--force").returncode == 0
    assert read(path)[0]["general.architecture"] == "llama"
    assert list(tmp_path.iterdir()) == [path]


def test_what_make_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"--layers is 1\.5"):
        make("llama", tmp_path / "model.gguf", layers=1.5)
    (tmp_path / "there").write_text("mine")
    with pytest.raises(FileExistsError, match="there is there already"):
        make("llama", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"

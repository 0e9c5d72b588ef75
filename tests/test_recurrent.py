"""Models with recurrent layers: the logits of other engines, and that they are the same model in steps,
drafts, batches and after going back.

A family joins by its name in FAMILIES; record_delta.py has its shapes beside the given references.
"""

import functools
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, FOLDER, SHARED, make
from record_delta import IDS, POSITIONS, RECORD, VARIANTS
from record_llama_cpp import checksum
from rewrite import rewrite
from same_model import SHORT, assert_close, in_steps, kinds, loaded_or_refused, logits_of, nmse

import llmcore
from llmcore.loader import read_gguf
from llmcore.quants import dequantize
from llmcore.speed.holding import WAYS

FAMILIES = (
    "lfm2",
    "lfm2-window",
    "lfm2moe",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "qwen3next-joined",
    "kimi-linear",
)
GIVEN = (
    "lfm2",
    "lfm2-window",
    "lfm2moe",
    "qwen35",
    "qwen35-mtp",
    "qwen35moe",
    "qwen3next",
    "qwen3next-ssmin",
)
GIVEN = (*GIVEN, "kimi-linear")
TRANSFORMERS = np.load(DATA / "delta" / "logits.npz")
RECORDED = np.load(RECORD)
# Matrices whose rows are whole blocks of 256 weights.
WIDE = {"width": 256, "ff": 256}
DELTA = WIDE | {"ssm_state": 64, "ssm_heads": 4, "heads": 4, "head_width": 64}
QUANTIZED = {
    "lfm2": WIDE,
    "lfm2moe": WIDE | {"expert_ff": 256},
    "qwen35": DELTA,
    "qwen3next": DELTA | {"expert_ff": 256, "shared_ff": 256, "joined_in": True},
    "kimi-linear": WIDE
    | {"ssm_state": 256, "heads": 2, "head_width": 264, "rope_dims": 8, "value_width": 128}
    | {"kv_lora": 256, "expert_ff": 256},
}


@functools.cache
def made(name):
    """The path of a random model."""
    path = Path(FOLDER.name) / f"recurrent-{name}.gguf"
    family, options = VARIANTS[name]
    make(family, path, **options)
    return path


@functools.cache
def model(name):
    return llmcore.load(made(name))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", GIVEN)
def test_logits_are_those_of_llama_cpp(name, way):
    path = SHARED / "reference" / "tiny2" / f"{name}.gguf"
    if not path.exists():
        pytest.skip(
            f"{path.name} is not in ../shared/reference/tiny2; the recorded variants cover its family"
        )
    record = np.load(path.with_suffix(".npz"))
    error = nmse(llmcore.load(path, weights=way).logits(record["ids"]), record["logits"])
    assert error < max(1e-9, 10 * record["nmse_self"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", VARIANTS)
def test_logits_of_other_shapes_are_those_of_llama_cpp(name, way):
    """150 tokens, two ends of chunks."""
    np.testing.assert_array_equal(RECORDED["ids"], IDS)
    at = RECORDED["names"].tolist().index(name)
    error = nmse(llmcore.load(made(name), weights=way).logits(IDS)[POSITIONS], RECORDED["logits"][at])
    same = checksum(made(name)) == RECORDED["checksums"][at]
    again = "" if same else "; make_tiny_model writes other models than were recorded: record anew"
    assert error < 1e-9, f"NMSE {error:.1e}{again}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TRANSFORMERS.files[1:])
def test_logits_are_those_of_transformers(name, way):
    llm = llmcore.load(DATA / "delta" / f"{name}.gguf", weights=way)
    assert nmse(llm.logits(TRANSFORMERS["ids"])[::8], TRANSFORMERS[name]) < 1e-9


@pytest.mark.parametrize("family", QUANTIZED)
@pytest.mark.parametrize("kind", kinds("Q4_K", "Q6_K", "Q8_0", "Q4_0", "IQ4_XS", "MXFP4", "F16", "BF16"))
def test_quantized_matrices_are_the_same_model_in_every_way(family, kind, tmp_path):
    make(family, tmp_path / "m.gguf", type=kind, **QUANTIZED[family])
    make(family, tmp_path / "f.gguf", type=kind, as_float32=True, **QUANTIZED[family])
    theirs = llmcore.load(tmp_path / "f.gguf").logits(SHORT)
    for way in WAYS:
        llm = llmcore.load(tmp_path / "m.gguf", weights=way)
        assert nmse(llm.logits(SHORT), theirs) < 1e-9
        assert nmse(in_steps(llm, SHORT, [20, 1, 1, 5, 1, 12]), theirs) < 1e-9


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exception_in_any_half_of_a_layer_leaves_the_cache_as_it_was(name, monkeypatch):
    llm, real, whole = model(name), llmcore.model.add, model(name).logits(SHORT)
    for n in range(2 * len(llm.config.layers)):
        cache, calls = llm.empty_cache(), []
        logits_of(llm, SHORT[:20], cache)
        before = cache.nbytes

        def broken(*arguments, n=n, calls=calls):
            calls.append(1)
            return 1 / 0 if len(calls) > n else real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr("llmcore.model.add", broken)
            with pytest.raises(ZeroDivisionError):
                logits_of(llm, [4, 4, 4], cache)
        assert (cache.length, cache.nbytes) == (20, before)
        assert_close(logits_of(llm, SHORT[20:], cache), whole[20:])


# What a file says must show in the logits, or be refused.

FREE = {  # keys that change nothing: what they say is said by shapes, or text does not need it
    "context_length": (*FAMILIES, "qwen35-array"),
    "rope.dimension_sections": (*FAMILIES, "qwen35-array"),  # where the positions of images rotate
    "feed_forward_length": ("qwen35moe", "qwen3next"),
    "attention.key_length": ("kimi-linear",),  # those of the cached row; the heads' end in _mla
    "attention.value_length": ("kimi-linear",),
    "attention.head_count_kv": ("kimi-linear",),  # but for its zeros
}


def changed_keys(metadata, arch):
    """Each key of the architecture with another value, and each array with one value changed."""
    for key, value in metadata.items():
        name = key.removeprefix(f"{arch}.")
        if name in (key, "vocab_size"):
            continue
        if isinstance(value, np.ndarray):
            for at in range(len(value)):
                for new in (not value[at],) if value.dtype == bool else (0, value[at] + 1, 2 * value[at]):
                    other = value.copy()
                    other[at] = new
                    if new != value[at]:
                        yield name, {key: other}
        else:
            other = value * (1000 if "epsilon" in name else 1.5)
            if type(value) in (bool, int):
                other = not value if type(value) is bool else value + 1
            yield name, {key: other}


@pytest.mark.parametrize("name", [*FAMILIES, "qwen35-array"])
def test_every_key_shows_or_is_refused(name, tmp_path):
    before, file = model(name).logits(SHORT), read_gguf(made(name))
    for key, change in changed_keys(file.metadata, file.metadata["general.architecture"]):
        path = rewrite(made(name), tmp_path / "changed.gguf", keys=change)
        after = loaded_or_refused(path)
        if isinstance(after, str):
            assert after.startswith(f"{path}: ")
            assert "\n" not in after
        elif (name, key) != ("qwen35-array", "full_attention_interval"):  # the array has the last word
            assert nmse(after, before) > 1e-7 or name in FREE.get(key, ()), f"{change} shows nowhere"
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_shows(name, tmp_path):
    """Each is moved by a tenth of its size; the router's bias, which counts in the choice alone, by more."""
    before, file = model(name).logits(SHORT), read_gguf(made(name))
    rng = np.random.default_rng(0)
    for tensor in file.tensors.values():
        array = dequantize(tensor.data, tensor.type, tensor.byte_order)
        size = 1.0 if "exp_probs_b" in tensor.name else 0.1 * array.std()
        moved = {tensor.name: array + size * rng.standard_normal(array.shape)}
        path = rewrite(made(name), tmp_path / "changed.gguf", tensors=moved)
        assert nmse(llmcore.load(path).logits(SHORT), before) > 1e-8, f"{tensor.name} shows nowhere"
        path.unlink()


OPTIONAL = ("exp_probs_b.bias", "output.weight")  # behind the layer; a file without them says something else


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_without_a_tensor_is_refused_or_another_model(name, tmp_path):
    before = model(name).logits(SHORT)
    for tensor in read_gguf(made(name)).tensors:
        path = rewrite(made(name), tmp_path / "changed.gguf", drop=[tensor])
        after = loaded_or_refused(path)
        if tensor.split(".", 2)[-1] in OPTIONAL or tensor in OPTIONAL:
            assert nmse(after, before) > 1e-8, f"{tensor} shows nowhere"
        else:
            assert isinstance(after, str)
            assert after.startswith(f"{path}: ")
        path.unlink()

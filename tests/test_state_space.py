"""State-space models: the logits of other engines, and what must hold of every recurrent layer."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, FOLDER, SHARED, make
from record_state_space import IDS, POSITIONS, RECORD, VARIANTS
from rewrite import rewrite
from same_model import LONG, SHORT, assert_close, in_steps, kinds, loaded_or_refused, logits_of, nmse

import llmcore
from llmcore.loader import read_gguf
from llmcore.quants import dequantize
from llmcore.speed.holding import WAYS

GIVEN = ("granitehybrid", "granitehybrid-moe", "nemotron_h", "nemotron_h_moe", "nemotron_h_moe-latent")
GIVEN = (*GIVEN, "falcon-h1", "falcon-h1-norm", "mamba2", "mamba", "rwkv7")
FAMILIES = (
    "granitehybrid",
    "granitehybrid-moe",
    "nemotron_h",
    "nemotron_h_moe",
    "falcon-h1",
    "mamba2",
    "mamba",
    "rwkv7",
)
TRANSFORMERS = np.load(DATA / "state_space" / "logits.npz")
RECORDED = np.load(RECORD)
WIDE = {"width": 256, "ff": 256, "ssm_state": 8}
QUANTIZED = {
    "granitehybrid": WIDE,
    "nemotron_h_moe": WIDE | {"expert_ff": 256, "shared_ff": 256, "latent": 256},
    "falcon-h1": WIDE,
    "mamba2": WIDE,
    "mamba": WIDE | {"ssm_heads": 256},
    "rwkv7": {"width": 256, "ff": 256, "q_lora": 256},
}


@functools.cache
def made(name):
    """The path of a random model."""
    path = Path(FOLDER.name) / f"state-space-{name}.gguf"
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
    theirs = RECORDED["logits"][RECORDED["names"].tolist().index(name)]
    assert nmse(llmcore.load(made(name), weights=way).logits(IDS)[POSITIONS], theirs) < 1e-9


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TRANSFORMERS.files[1:])
def test_logits_are_those_of_transformers(name, way):
    llm = llmcore.load(DATA / "state_space" / f"{name}.gguf", weights=way)
    assert nmse(llm.logits(TRANSFORMERS["ids"])[::8], TRANSFORMERS[name]) < 1e-9


@pytest.mark.parametrize("family", QUANTIZED)
@pytest.mark.parametrize(
    "kind", kinds("Q4_K", "Q6_K", "Q8_0", "Q4_0", "Q5_1", "IQ4_XS", "MXFP4", "F16", "BF16")
)
def test_quantized_matrices_are_the_same_model_in_every_way(family, kind, tmp_path):
    make(family, tmp_path / "m.gguf", type=kind, **QUANTIZED[family])
    make(family, tmp_path / "f.gguf", type=kind, as_float32=True, **QUANTIZED[family])
    theirs = llmcore.load(tmp_path / "f.gguf").logits(SHORT)
    for way in WAYS:
        llm = llmcore.load(tmp_path / "m.gguf", weights=way)
        assert nmse(llm.logits(SHORT), theirs) < 1e-9
        assert nmse(in_steps(llm, SHORT, [20, 1, 1, 5, 1, 12]), theirs) < 1e-9


@pytest.mark.parametrize("name", FAMILIES)
def test_a_place_that_was_given_up_is_forgotten(name):
    """The state after 20 tokens of one text is not that after 20 tokens of another."""
    llm, cache, other = model(name), model(name).empty_cache(), LONG[100:140]
    for stop in (10, 20, 25):
        logits_of(llm, SHORT[cache.length : stop], cache)
        cache.keep()
    assert cache.truncate(10) == 10
    text = np.concatenate([SHORT[:10], other])
    logits_of(llm, text[10:25], cache)
    logits_of(llm, text[25:30], cache)
    reached = cache.truncate(20)
    assert reached == 10
    assert_close(logits_of(llm, text[reached:], cache), llm.logits(text)[reached:])


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exception_in_any_layer_leaves_the_cache_as_it_was(name, monkeypatch):
    llm, real, whole = model(name), llmcore.model.add, model(name).logits(SHORT)
    for n in range(2 * len(llm.config.layers)):
        cache, calls = llm.empty_cache(), []
        logits_of(llm, SHORT[:20], cache)
        bytes_before = cache.nbytes

        def broken(*arguments, n=n, calls=calls):
            calls.append(1)
            return 1 / 0 if len(calls) > n else real(*arguments)

        monkeypatch.setattr("llmcore.model.add", broken)
        halves = sum((plan.mixer is not None) + (plan.ffn is not None) for plan in llm.config.layers)
        if n < halves:
            with pytest.raises(ZeroDivisionError):
                logits_of(llm, [4, 4, 4], cache)
        monkeypatch.undo()
        assert (cache.length, cache.nbytes) == (20, bytes_before)
        assert_close(logits_of(llm, SHORT[20:], cache), whole[20:])


def test_what_the_cache_costs():
    """S and the convolution's rows in each recurrent layer, whatever the text; rows where a layer attends."""
    (mamba2, attends), (mamba, _) = (
        (model(name), model(name).empty_cache()) for name in ("falcon-h1", "mamba")
    )
    H, P, N, W, C = 4, 16, 8, 4, 64 + 2 * 8
    logits_of(mamba2, SHORT[:1], attends)
    rows = 4 * 2 * 2 * 8 * 256  # keys and values of two heads of 8, room for 256 tokens
    assert attends.nbytes == 2 * (4 * (H * P * N + (W - 1) * C) + rows)
    cache = mamba.empty_cache()
    for size in (1, 500):
        logits_of(mamba, LONG[:size], cache)
        assert cache.nbytes == 2 * 4 * 64 * (8 + 3)
    for name in FAMILIES:
        cache = model(name).empty_cache()
        logits_of(model(name), LONG[:500], cache)
        states = [array for layer in cache.layers for array in layer.arrays]
        assert all(
            array.base is None or array.base.nbytes == array.nbytes for array in states
        )  # no larger one


# What a file says must show in the logits, or be refused.

UNUSED = re.compile(
    r"blk\.0\.time_mix_v[012]\.weight"
)  # RWKV-7's first block has no earlier values to mix in

FREE = {  # keys that change nothing: what they say is said by shapes, or no layer of the model needs it
    "context_length": FAMILIES,
    "rope.dimension_count": ("granitehybrid", "granitehybrid-moe"),  # nothing rotates
    "attention.head_count": ("mamba", "mamba2", "rwkv7"),
    "attention.head_count_kv": ("nemotron_h", "nemotron_h_moe"),  # of layers that are feed-forwards
    "feed_forward_length": ("nemotron_h_moe",),  # but for its zeros; experts have a width of their own
}


def changed_keys(metadata, arch):
    """Each key of the architecture with another value, and each array with one value changed."""
    for key, value in metadata.items():
        name = key.removeprefix(f"{arch}.")
        if name == key or name == "vocab_size":
            continue
        if isinstance(value, np.ndarray):
            for at in range(len(value)):
                other = value.copy()
                other[at] = 0 if other[at] else 2
                yield name, {key: other}
                if value[at] and name != "feed_forward_length":
                    other = value.copy()
                    other[at] += 1
                    yield name, {key: other}
        else:
            factor = 1000 if "epsilon" in name else 1.5
            other = (
                not value if isinstance(value, bool) else value + 1 if type(value) is int else value * factor
            )
            yield name, {key: other}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_key_shows_or_is_refused(name, tmp_path):
    before, seen = model(name).logits(SHORT), set()
    file = read_gguf(made(name))
    for key, change in changed_keys(file.metadata, file.metadata["general.architecture"]):
        path = rewrite(made(name), tmp_path / "changed.gguf", keys=change)
        after = loaded_or_refused(path)
        if isinstance(after, str):
            assert after.startswith(f"{path}: ")
        else:
            assert nmse(after, before) > 1e-7 or name in FREE.get(key, ()), f"{change} shows nowhere"
        seen.add(key)
        path.unlink()
    assert name == "rwkv7" or {"ssm.inner_size", "ssm.state_size", "ssm.conv_kernel"} <= seen


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_shows(name, tmp_path):
    """Each is moved by a tenth of its size; the router's bias, which counts in the choice alone, by more."""
    before, file = model(name).logits(SHORT), read_gguf(made(name))
    rng = np.random.default_rng(0)
    for tensor in file.tensors.values():
        if UNUSED.fullmatch(tensor.name):
            continue
        array = dequantize(tensor.data, tensor.type, tensor.byte_order)
        size = 1.0 if "exp_probs_b" in tensor.name else 0.1 * array.std()
        moved = {tensor.name: array + size * rng.standard_normal(array.shape)}
        path = rewrite(made(name), tmp_path / "changed.gguf", tensors=moved)
        assert nmse(llmcore.load(path).logits(SHORT), before) > 1e-8, f"{tensor.name} shows nowhere"
        path.unlink()


# What a file may lack, and so says something else without.
OPTIONAL = dict.fromkeys(FAMILIES, ("ssm_conv1d.bias", "exp_probs_b.bias", "output.weight"))
OPTIONAL |= {
    "falcon-h1": (*OPTIONAL["falcon-h1"], "ssm_norm.weight"),
    "mamba": (*OPTIONAL["mamba"], "ssm_dt.bias"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_without_a_tensor_is_refused_or_another_model(name, tmp_path):
    before = model(name).logits(SHORT)
    for tensor in read_gguf(made(name)).tensors:
        path = rewrite(made(name), tmp_path / "changed.gguf", drop=[tensor])
        after = loaded_or_refused(path)
        if UNUSED.fullmatch(tensor):
            np.testing.assert_array_equal(after, before)
        elif re.sub(r"blk\.\d+\.", "", tensor) in OPTIONAL[name]:
            assert nmse(after, before) > 1e-8, f"{tensor} shows nowhere"
        else:
            assert after.startswith(f"{path}: tensor '{tensor}")
            assert after.endswith("' is missing; is the file whole?")
        path.unlink()


@pytest.mark.parametrize("name", ["granitehybrid", "falcon-h1", "mamba2"])
def test_leading_ones_of_a_shape_may_be_missing(name, tmp_path):
    """A file that llama.cpp has written anew says (64,) where the converter said (1, 64)."""
    file = read_gguf(made(name))
    flat = {
        t.name: dequantize(t.data, t.type, t.byte_order)[0] for t in file.tensors.values() if t.shape[0] == 1
    }
    flat = {name: array for name, array in flat.items() if array.ndim}
    assert {name.split(".")[-2] for name in flat} == {"ssm_norm"}
    again = llmcore.load(rewrite(made(name), tmp_path / "flat.gguf", tensors=flat)).logits(SHORT)
    np.testing.assert_array_equal(again, model(name).logits(SHORT))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"mamba2.ssm.time_step_rank": 3},
            "it must divide the inner size 64 and be a multiple of the 1 groups",
        ),
        ({"mamba2.ssm.group_count": 3}, "it must divide the inner size 64 and be a multiple of the 3 groups"),
        ({"mamba2.ssm.state_size": 0}, "ssm.state_size is 0; the least that makes sense is 1"),
        (
            {"mamba2.ssm.conv_kernel": 3},
            "ssm_conv1d.weight' has shape (80, 4); the metadata asks for (80, 3)",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_a_line(keys, said, tmp_path):
    path = rewrite(made("mamba2"), tmp_path / "changed.gguf", keys=keys)
    with pytest.raises(llmcore.ModelFileError) as caught:
        llmcore.load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)

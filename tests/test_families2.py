"""Families of attention alone that came second: what other engines computed, and what must hold of each of
them.
"""

import functools
import gzip
import re
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import DATA, FOLDER, SHARED, make
from record_rows import RECORD, VARIANTS, text_of
from rewrite import rewrite
from same_model import LONG, SHORT, in_steps, kinds, loaded_or_refused, logits_of, nmse

import llmcore
from llmcore.ffn import activations
from llmcore.loader import read_gguf
from llmcore.model import forward, prefill, unembed
from llmcore.quants import dequantize
from llmcore.sampling import Sampling
from llmcore.speed.holding import WAYS
from llmcore.writing import Writer, write

GIVEN = (
    "qwen2vl",
    "qwen3vl",
    "qwen3vlmoe",
    "mistral3",
    "mistral3-plain",
    "glm4",
    "glm4moe",
    "deepseek2-glm47",
)
GIVEN = (
    *GIVEN,
    "seed_oss",
    "granitemoe",
    "granitemoe-shared",
    "ernie4_5",
    "ernie4_5-moe",
    "minimax-m2",
    "dots1",
)
GIVEN = (
    *GIVEN,
    "olmoe",
    "phimoe",
    "hunyuan-dense",
    "hunyuan-moe",
    "cohere2",
    "exaone4",
    "exaone4-window",
    "bitnet",
)
GIVEN = (
    *GIVEN,
    "gptneox",
    "phi2",
    "falcon",
    "stablelm",
    "llama4",
    "smallthinker",
    "gemma4",
    "gemma4-ple",
    "gemma4-moe",
)
RECORDED = np.load(RECORD)
CONVERTED, STEP = DATA / "rows", 20
TRANSFORMERS = np.load(CONVERTED / "logits.npz")
# Of each family one shape that has all its parts; what a text of 40 tokens can tell.
FAMILIES = (
    *(
        "qwen2vl",
        "qwen3vl",
        "qwen3vlmoe",
        "mistral3",
        "gemma4-ple",
        "gemma4-moe-ple",
        "gemma4-keys-as-values",
    ),
    *(
        "glm4",
        "glm4moe",
        "seed_oss",
        "granitemoe",
        "ernie4_5",
        "ernie4_5-moe",
        "minimax-m2",
        "dots1",
        "olmoe",
    ),
    *(
        "phimoe-long",
        "hunyuan-dense",
        "hunyuan-moe",
        "cohere2",
        "exaone4",
        "bitnet",
        "smallthinker",
        "llama4",
    ),
    *("gptneox", "phi2", "falcon-two-norms", "stablelm"),
)


@functools.cache
def made(name):
    """The path of a random model."""
    path = Path(FOLDER.name) / f"rows-{name}.gguf"
    family, options = VARIANTS[name]
    make(family, path, **options)
    return path


@functools.cache
def model(name):
    return llmcore.load(made(name))


def assert_close(ours, theirs):
    """Other orders of summing move logits by 1e-6 of the largest."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5 * np.abs(theirs).max())


def tabled_gelu(x, gelu=activations.gelu):
    """GELU as llama.cpp computes it on a CPU: between -10 and 10 input and result are rounded to float16."""
    y = gelu(x.astype(np.float16).astype(np.float32)).astype(np.float16).astype(np.float32)
    return np.where(np.abs(x) < 10, y, np.maximum(x, 0))


@pytest.fixture
def table(monkeypatch):
    """llama.cpp's GELU in the place of ours."""
    monkeypatch.setattr(activations, "gelu", tabled_gelu)
    monkeypatch.setitem(activations.ACTIVATIONS, "gelu", tabled_gelu)


def has_gelu(llm):
    return llm.config.family.activation in ("gelu", "geglu")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", GIVEN)
def test_logits_are_those_of_llama_cpp(name, way):
    path = SHARED / "reference" / "tiny2" / f"{name}.gguf"
    if not path.exists():
        pytest.skip(
            f"{path.name} is not in ../shared/reference/tiny2; the recorded variants cover its family"
        )
    record, llm = np.load(path.with_suffix(".npz")), llmcore.load(path, weights=way)
    limit = 2e-7 if has_gelu(llm) else max(1e-9, 10 * record["nmse_self"])  # the table costs 1e-8 to 2e-7
    assert nmse(llm.logits(record["ids"]), record["logits"]) < limit


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", VARIANTS)
def test_logits_of_other_shapes_are_those_of_llama_cpp(name, way, table):
    """With its GELU; each that falls on the other side of a rounding moves the logits by up to 1e-8."""
    if name == "llama4-long" and way != "float32":
        pytest.skip("8,300 tokens once are enough")
    theirs = RECORDED["logits"][RECORDED["names"].tolist().index(name)]
    llm = llmcore.load(made(name), weights=way)
    ids, positions = text_of(name)
    # llama.cpp never reads qwen2vl's epsilon and takes 0, which transformers does not, and we do not
    limit = 5e-8 if has_gelu(llm) else 5e-9 if name == "qwen2vl" else 1e-9
    assert nmse(llm.logits(ids)[positions], theirs) < limit


@functools.cache
def converted(name):
    """The path of a model that was born in transformers."""
    path = Path(FOLDER.name) / f"converted-{name}.gguf"
    path.write_bytes(gzip.decompress((CONVERTED / f"{name}.gguf.gz").read_bytes()))
    return path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TRANSFORMERS.files[1:])
def test_logits_are_those_of_transformers(name, way):
    ours = llmcore.load(converted(name), weights=way).logits(TRANSFORMERS["ids"])[::STEP]
    assert nmse(ours, TRANSFORMERS[name]) < 1e-9


WIDE = {"width": 256, "ff": 256, "heads": 4, "kv_heads": 2}
QUANTIZED = {
    "gemma4": WIDE | {"head_width": 64, "per_layer": 256, "experts": 2, "expert_ff": 256, "shared_layers": 2},
    "glm4moe": WIDE | {"head_width": 64, "rope_dims": 16, "expert_ff": 256},
    "bitnet": WIDE,
    "llama4": WIDE | {"expert_ff": 256},
    "falcon": WIDE | {"kv_heads": 1},
}


@pytest.mark.parametrize("family", QUANTIZED)
@pytest.mark.parametrize(
    "kind", kinds("Q4_K", "Q6_K", "Q8_0", "Q4_0", "IQ4_XS", "MXFP4", "F16", "BF16", "TQ2_0")
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
@pytest.mark.parametrize("sizes", [[1] * 40, [7, 1, 13, 19], [39, 1]], ids=["ones", "mixed", "last"])
def test_steps_equal_one_pass(name, sizes):
    assert_close(in_steps(model(name), SHORT, sizes), in_steps(model(name), SHORT, [40]))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_of_600_tokens(name):
    llm = model(name)
    chunks = prefill(llm.weights, llm.config, LONG, llm.empty_cache())
    whole = in_steps(llm, LONG, [600])
    assert_close(np.concatenate([unembed(llm.weights, llm.config, x_TD) for x_TD in chunks]), whole)
    assert_close(in_steps(llm, LONG, [300, *[1] * 40, 260]), whole)


@pytest.mark.parametrize("name", FAMILIES)
def test_drafts_equal_no_drafts(name):
    """Guesses of which some are right, some wrong in the first token, some later."""
    llm = model(name)

    def text(guesser=lambda ids, n: []):
        writer = Writer([5, 6, 7], Sampling(temperature=0), 1, max_tokens=60, context_length=512, end_ids=())
        return [token.id for token in write(llm.weights, llm.config, writer, llm.empty_cache(), guesser)]

    plain = text()
    known = [5, 6, 7, *plain]

    def guess(ids, n_most):
        draft = known[len(ids) : len(ids) + min(5, n_most)]
        at = int(np.random.default_rng(len(ids)).integers(8))
        if at < len(draft):
            draft[at] = (draft[at] + 1) % 288
        return draft

    assert text(guess) == plain


@pytest.mark.parametrize("name", FAMILIES)
def test_truncate_to_every_length_and_on(name):
    llm = model(name)
    for length in range(0, 41, 3):
        cache = llm.empty_cache()
        for size in (20, 10, 1, 1, 8):
            logits_of(llm, SHORT[cache.length : cache.length + size], cache)
        reached = cache.truncate(length)
        assert reached == cache.length == length  # a window's rows have room for all of them here
        other = [*SHORT[:length], 9, 8, 7]
        assert_close(logits_of(llm, other[reached:], cache), llm.logits(other)[reached:])


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_that_share_a_pass_do_not_see_each_other(name):
    llm, one, two = model(name), model(name).empty_cache(), model(name).empty_cache()
    alone, other = llm.logits(SHORT), llm.logits(LONG[::-1][:200])
    for a, b, c, d in ((0, 9, 0, 1), (9, 10, 1, 100), (10, 40, 100, 101), (40, 40, 101, 200)):
        texts = [(ids, cache) for ids, cache in ((SHORT[a:b], one), (LONG[::-1][c:d], two)) if len(ids)]
        logits_TV = unembed(llm.weights, llm.config, forward(llm.weights, llm.config, texts))
        if b > a:
            assert_close(logits_TV[: b - a], alone[a:b])
        assert_close(logits_TV[b - a :], other[c:d])


# What a file says must show in the logits, or be refused.

FREE = {  # keys that change nothing: what they say is said by shapes, or no layer of the model needs it
    "context_length": FAMILIES,
    "rope.dimension_sections": FAMILIES,  # where the positions of images rotate
    "n_deepstack_layers": FAMILIES,  # what layers get of images
    "feed_forward_length": (
        "qwen3vlmoe",
        "smallthinker",
        "minimax-m2",
        "hunyuan-moe",
    ),  # experts have their own
    "rope.scaling.original_context_length": ("phimoe-long",),  # 256 and 257 are both less than the context
    "attention.sliding_window": ("smallthinker",),  # but for 0
    "use_parallel_residual": ("stablelm",),  # some files of models that are serial say true
    "rope.scaling.type": ("phimoe-long",),  # its factors are tensors
    "attention.head_count_kv": ("gemma4-ple", "gemma4-moe-ple"),  # of layers that read another's
}


def changed_keys(metadata, arch):
    """Each key of the architecture with another value, and each array with one value changed."""
    for key, value in metadata.items():
        name = key.removeprefix(f"{arch}.")
        if name in (key, "vocab_size"):
            continue
        if isinstance(value, np.ndarray):
            for at in range(len(value)):
                other = value.copy()
                other[at] = not value[at] if value.dtype == bool else value[at] + 1
                yield name, {key: other}
        else:
            changes = {bool: lambda x: not x, int: lambda x: x + 1, str: lambda x: "linear"}
            factor = 1000 if "epsilon" in name else 1.5
            change = changes.get(type(value), lambda x, factor=factor: x * factor)
            yield name, {key: change(value)}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_key_shows_or_is_refused(name, tmp_path):
    before, file = model(name).logits(SHORT), read_gguf(made(name))
    for key, change in changed_keys(file.metadata, file.metadata["general.architecture"]):
        path = rewrite(made(name), tmp_path / "changed.gguf", keys=change)
        after = loaded_or_refused(path)
        if isinstance(after, str):
            assert after.startswith(f"{path}: ")
            assert "\n" not in after
        else:
            assert nmse(after, before) > 1e-7 or name in FREE.get(key, ()), f"{change} shows nowhere"
        path.unlink()


def is_undone(name, tensor):
    """In bitnet, factors of all that a norm reads."""
    return name == "bitnet" and tensor.endswith(("attn_v.scale", "ffn_up.scale"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_shows(name, tmp_path):
    """Each is moved by a tenth of its size; the router's bias, which counts in the choice alone, by more."""
    before, file = model(name).logits(SHORT), read_gguf(made(name))
    last = (
        f"blk.{len(model(name).config.layers) - 1}.layer_output_scale.weight"  # the norm after it undoes it
    )
    rng = np.random.default_rng(0)
    for tensor in file.tensors.values():
        if tensor.name in (last, "rope_factors_short.weight") or is_undone(name, tensor.name):
            continue
        array = dequantize(tensor.data, tensor.type, tensor.byte_order)
        size = 1.0 if "exp_probs_b" in tensor.name else 0.1 * (array.std() or 1)
        moved = {tensor.name: array + size * rng.standard_normal(array.shape)}
        path = rewrite(made(name), tmp_path / "changed.gguf", tensors=moved)
        assert nmse(llmcore.load(path).logits(SHORT), before) > 1e-8, f"{tensor.name} shows nowhere"
        path.unlink()


# What a file may lack, and so says something else without.
OPTIONAL = ("exp_probs_b.bias", "output.weight", ".scale", "layer_output_scale.weight")
OPTIONAL = (*OPTIONAL, "attn_norm_2.weight", "output.bias")
BIASES = re.compile(r"(attn_(q|k|v|qkv|output)|ffn_(up|down))\.bias")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_without_a_tensor_is_refused_or_another_model(name, tmp_path):
    before = model(name).logits(SHORT)
    for tensor in read_gguf(made(name)).tensors:
        last = f"blk.{len(model(name).config.layers) - 1}.layer_output_scale.weight"
        if tensor == last or is_undone(name, tensor):
            continue
        path = rewrite(made(name), tmp_path / "changed.gguf", drop=[tensor])
        after = loaded_or_refused(path)
        if isinstance(after, str):
            assert after.startswith(f"{path}: ")
        else:
            may_go = tensor.endswith(OPTIONAL) or BIASES.search(tensor)
            assert may_go or ("gemma4" in name and tensor.endswith("attn_v.weight")), tensor
            assert nmse(after, before) > 1e-8, f"{tensor} shows nowhere"
        path.unlink()


def test_a_projector_of_images_is_refused_plainly(tmp_path):
    path = tmp_path / "mmproj.gguf"
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_tensor("v.patch_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(llmcore.UnsupportedModel, match="looks at images") as caught:
        llmcore.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_one_expert_is_none(tmp_path):
    """So Hunyuan's dense models say."""
    options = VARIANTS["hunyuan-dense"][1]
    keys = options["set"] | {"expert_count": 1, "expert_used_count": 1}
    make("hunyuan-dense", tmp_path / "one.gguf", **options | {"set": keys})
    ours = llmcore.load(tmp_path / "one.gguf").logits(SHORT)
    np.testing.assert_array_equal(ours, model("hunyuan-dense").logits(SHORT))


def test_sections_of_published_files(tmp_path):
    """Qwen3-VL's say how 64 pairs are shared out among the coordinates of a place; text needs none."""
    for name, sections in (("a", [24, 20, 20, 0]), ("b", [22, 21, 21, 0])):
        keys = {"rope.dimension_sections": sections}
        make("qwen3vl", tmp_path / f"{name}.gguf", head_width=128, heads=2, kv_heads=1, set=keys)
    ours, theirs = (llmcore.load(tmp_path / f"{name}.gguf").logits(SHORT) for name in "ab")
    np.testing.assert_array_equal(ours, theirs)


def test_windows_are_those_of_a_model_of_64_layers():
    """exaone4 has windows, and RoPE in windowed layers alone, in one size; else RoPE everywhere."""
    small, large = model("exaone4").config.layers, model("exaone4-windows").config.layers
    assert {plan.mixer.window for plan in small} == {None}
    assert all(plan.mixer.rope is not None for plan in small)
    assert [plan.mixer.window for plan in large] == [5, 5, 5, None] * 16
    assert all((plan.mixer.rope is None) == (plan.mixer.window is None) for plan in large)


def test_chunks_of_a_text_do_not_see_each_other():
    """A query sees the keys of its own chunk; in pieces of any size, as in one."""
    from llmcore.mixers.attend import attend, attend_chunk

    rng = np.random.default_rng(0)
    q, k, v = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((2, 23, 3, 4), (2, 23, 4), (2, 23, 5))
    )
    alone = [attend(q[:, a : a + 5], k[:, a : a + 5], v[:, a : a + 5]) for a in range(0, 23, 5)]
    np.testing.assert_allclose(
        attend_chunk(q, k, v, 5, 0), np.concatenate(alone, axis=1), rtol=1e-5, atol=1e-6
    )
    for start in (1, 4, 5, 12):
        part = attend_chunk(q[:, start:], k[:, max(0, start - 4) :], v[:, max(0, start - 4) :], 5, start)
        np.testing.assert_allclose(part, np.concatenate(alone, axis=1)[:, start:], rtol=1e-5, atol=1e-6)

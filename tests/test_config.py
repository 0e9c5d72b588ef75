"""Metadata to Config: each rule of the keys, and each way to break one."""

import math

import numpy as np
import pytest

from llmcore.config import read_config
from llmcore.errors import ModelFileError, UnsupportedModel
from llmcore.families import ARCHITECTURES


def metadata(arch="llama", **changes):
    """The fewest keys that make a model, with changes; a key set to None is left out. `__` stands for a
    point.
    """
    keys = {
        "context_length": 128,
        "embedding_length": 48,
        "block_count": 7,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "vocab_size": 300,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    return {"general.architecture": arch} | {
        f"{arch}.{key}": value for key, value in keys.items() if value is not None
    }


def read(arch="llama", **changes):
    return read_config(metadata(arch, **changes), "x.gguf")


def test_defaults():
    config = read()
    attention = config.layers[0].mixer
    assert (attention.n_kv_heads, attention.key_length, attention.value_length) == (4, 12, 12)
    assert attention.scale == 1 / math.sqrt(12)
    rope = attention.rope
    assert (rope.n_rot, rope.base, rope.factor, rope.yarn_context, rope.gain) == (12, 10000, 1, None, 1)
    assert [layer.ffn.n_ff for layer in config.layers] == [96] * 7
    assert {layer.mixer.window for layer in config.layers} == {None}


def test_vocab_size_is_else_the_number_of_tokens():
    keys = metadata(vocab_size=None) | {"tokenizer.ggml.tokens": ["a", "b"]}
    assert read_config(keys, "x.gguf").vocab_size == 2


def test_one_feed_forward_length_a_layer():
    config = read(feed_forward_length=np.arange(1, 8, dtype=np.int32))
    assert [layer.ffn.n_ff for layer in config.layers] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("keys", "factor"),
    [
        ({"rope__scaling__factor": 8.0}, 8),
        ({"rope__scale_linear": 2.0}, 2),
        ({"rope__scaling__factor": 0.0}, 1),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 8.0}, 1),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 8.0}, 8),
    ],
)
def test_rope_scaling_factor(keys, factor):
    assert read(**keys).layers[0].mixer.rope.factor == factor


def test_yarn_context_is_by_default_the_whole():
    keys = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0}
    assert read(**keys).layers[0].mixer.rope.yarn_context == 128
    assert read(**keys).layers[0].mixer.rope.gain == 1 + 0.1 * math.log(4)
    assert read(**keys, rope__scaling__original_context_length=32).layers[0].mixer.rope.yarn_context == 32


def test_gemma3_sees_a_window_in_five_layers_of_six():
    config = read("gemma3", attention__sliding_window=16, rope__freq_base=1e6, rope__scaling__factor=8.0)
    assert [layer.mixer.window for layer in config.layers] == [16] * 5 + [None] + [16]
    near, far = config.layers[0].mixer.rope, config.layers[5].mixer.rope
    assert (near.base, near.factor, far.base, far.factor) == (10000, 1, 1e6, 8)
    assert config.embedding_scale == math.sqrt(48)


def test_window_patterns_of_the_file():
    third = read("gemma3", attention__sliding_window=16, attention__sliding_window_pattern=3)
    assert [layer.mixer.window for layer in third.layers] == [16, 16, None, 16, 16, None, 16]
    flags = np.array([True, False, False, True, True, False, True])
    each = read("gemma3", attention__sliding_window=16, attention__sliding_window_pattern=flags)
    assert [layer.mixer.window is not None for layer in each.layers] == flags.tolist()
    assert {layer.mixer.window for layer in read("gemma3").layers} == {None}


def test_gemma3_27b_scales_by_the_model_width():
    assert read("gemma3", block_count=62, attention__key_length=32).layers[0].mixer.scale == 1 / math.sqrt(
        48 / 4
    )
    assert read("gemma3", block_count=61, attention__key_length=32).layers[0].mixer.scale == 1 / math.sqrt(32)


def test_an_architecture_we_lack_lists_those_we_have():
    with pytest.raises(UnsupportedModel, match=r"x\.gguf: architecture 'eliza'") as error:
        read("eliza")
    assert all(name in str(error.value) for name in ARCHITECTURES)


def test_a_scaling_we_lack_is_refused():
    with pytest.raises(UnsupportedModel, match=r"rope\.scaling\.type 'cubic'"):
        read(rope__scaling__type="cubic")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_count": None}, "no llama.block_count"),
        ({"block_count": 0}, "block_count is 0"),
        ({"block_count": 10**9}, "block_count is 1000000000"),
        ({"block_count": True}, "block_count is 'True'"),
        ({"block_count": 7.0}, "block_count is '7.0'"),
        ({"embedding_length": "wide"}, "embedding_length is 'wide'"),
        ({"embedding_length": 2**62}, "embedding_length is 4611686018427387904"),
        ({"attention__head_count": -4}, "head_count is -4"),
        ({"attention__head_count": 49}, "head_count is 49, more than the model is wide (48)"),
        ({"attention__head_count_kv": 3}, "head_count_kv is 3, which does not divide the 4"),
        ({"attention__key_length": 0}, "key_length is 0"),
        ({"attention__layer_norm_rms_epsilon": None}, "no llama.attention.layer_norm_rms_epsilon"),
        ({"attention__layer_norm_rms_epsilon": math.nan}, "epsilon is nan"),
        ({"feed_forward_length": np.arange(1, 5)}, "feed_forward_length has 4 values for 7 layers"),
        ({"feed_forward_length": np.zeros(7, np.int64)}, "feed_forward_length is 0"),
        ({"rope__dimension_count": 7}, "dimension_count is 7"),
        (
            {"rope__dimension_count": 14},
            "dimension_count is 14; it must be even and at most the head width 12",
        ),
        ({"rope__freq_base": 1.0}, "freq_base is 1.0"),
        ({"rope__scaling__factor": -2.0}, "scaling.factor is -2.0"),
        ({"vocab_size": 0}, "vocab_size is 0"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_by_key(changes, words):
    with pytest.raises(ModelFileError, match=r"^x\.gguf: ") as error:
        read(**changes)
    assert words in str(error.value)


def test_head_counts_may_come_for_each_layer():
    config = read(attention__head_count_kv=np.array([1, 2, 4, 2, 1, 4, 4]))
    assert [layer.mixer.n_kv_heads for layer in config.layers] == [1, 2, 4, 2, 1, 4, 4]
    with pytest.raises(ModelFileError, match="head_count_kv is 3, which does not divide the 4 query heads"):
        read(attention__head_count_kv=np.array([1, 2, 4, 3, 1, 4, 4]))


def test_spare_layers_are_neither_run_nor_counted():
    widths = np.arange(1, 8, dtype=np.int32)
    config = read(nextn_predict_layers=2, feed_forward_length=widths)
    assert (len(config.layers), config.n_spare_layers) == (5, 2)
    assert [layer.ffn.n_ff for layer in config.layers] == [1, 2, 3, 4, 5]


def test_an_encoder_is_refused():
    with pytest.raises(UnsupportedModel, match=r"attention\.causal is false"):
        read(attention__causal=False)


def test_granite_without_rope():
    keys = {"attention__layer_norm_rms_epsilon": 1e-5, "rope__scaling__finetuned": False}
    assert {layer.mixer.rope for layer in read("granite", **keys).layers} == {None}
    assert {layer.mixer.rope for layer in read("llama", **keys).layers} != {None}


@pytest.mark.parametrize("name", [None, 7])
def test_a_file_without_an_architecture_is_no_language_model(name):
    with pytest.raises(ModelFileError, match=r"no general\.architecture"):
        read_config({"general.architecture": name}, "x.gguf")

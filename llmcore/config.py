"""Metadata -> one frozen `Config`: every number that decides how a model computes.

What a family's name alone decides stands in the table `ARCHITECTURES`; everything else is read from the metadata. The
rooms below branch on a field of `Config`, never on a name. Rules of the keys: llama.cpp's src/llama-model.cpp.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .errors import ModelFileError, UnsupportedModel


@dataclass(frozen=True)
class Architecture:
    """What the name in `general.architecture` says and no key repeats."""

    rope_pairs: str  # dimensions that rotate together: "adjacent" is (2i, 2i + 1), "halves" is (i, i + n_rot/2)
    activation: str = "silu"  # of the gated feed-forward; "gelu" is the tanh form
    scale_embeddings: bool = False  # embeddings times sqrt(d_model)
    qk_norm: bool = False  # RMS norm of each head's query and key, before RoPE
    post_norms: bool = False  # a norm after attention and after the feed-forward, before each is added
    window_pattern: int | None = None  # of this many layers the last sees all, the others a window
    d_model_scale_at: int | None = None  # the number of layers at which attention scales by 1/sqrt(d_model / n_heads)


ARCHITECTURES = {
    "llama": Architecture(rope_pairs="adjacent"),
    "gemma3": Architecture(
        rope_pairs="halves",
        activation="gelu",
        scale_embeddings=True,
        qk_norm=True,
        post_norms=True,
        window_pattern=6,
        d_model_scale_at=62,
    ),
}


@dataclass(frozen=True)
class Rope:
    """How positions turn into angles; `ops.rope_table` has the formulas."""

    n_rot: int  # {arch}.rope.dimension_count: the dimensions of a head that rotate, the rest pass through
    pairs: str  # see Architecture
    base: float  # {arch}.rope.freq_base
    factor: float = 1.0  # {arch}.rope.scaling.factor: linear scaling divides positions by it
    yarn_context: int | None = None  # {arch}.rope.scaling.original_context_length, set where the scaling type is yarn
    gain: float = 1.0  # {arch}.rope.scaling.attn_factor: multiplies cos and sin


@dataclass(frozen=True)
class LayerConfig:
    """What may differ from layer to layer."""

    rope: Rope
    n_ff: int  # {arch}.feed_forward_length
    window: int | None = None  # {arch}.attention.sliding_window: a query at p sees the keys after p - window


@dataclass(frozen=True)
class Config:
    """The shape of a model."""

    architecture: str  # general.architecture
    context_length: int  # {arch}.context_length: the longest text the model was trained on
    vocab_size: int  # {arch}.vocab_size, else the number of tokenizer.ggml.tokens
    n_layers: int  # {arch}.block_count
    d_model: int  # {arch}.embedding_length
    n_heads: int  # {arch}.attention.head_count
    n_kv_heads: int  # {arch}.attention.head_count_kv
    key_length: int  # {arch}.attention.key_length: the width of a query or key head
    value_length: int  # {arch}.attention.value_length: the width of a value head
    norm_eps: float  # {arch}.attention.layer_norm_rms_epsilon
    attention_scale: float
    embedding_scale: float | None
    activation: str
    qk_norm: bool
    post_norms: bool
    layers: tuple[LayerConfig, ...]


_REQUIRED: Any = object()
_LARGEST = 2**31 - 1  # of any whole number: what a damaged file says past this would only break later and less clearly
_MOST_LAYERS = 1000  # twice what llama.cpp allows; bounds what is made before the tensors are looked at


class _Keys:
    """Checked reading of the metadata keys that begin with the architecture's name."""

    def __init__(self, metadata: dict, path, architecture: str):
        self.metadata, self.path, self.architecture = metadata, path, architecture

    def get(self, key, kind, default=_REQUIRED, least=None):
        """The value of `{arch}.key`, of type `kind` (int, float, bool or str) and at least `least`; else `default`."""
        name = f"{self.architecture}.{key}"
        if name in self.metadata:
            return self._checked(name, self.metadata[name], kind, least)
        if default is _REQUIRED:
            raise ModelFileError(f"{self.path}: the metadata has no {name}; {self.architecture} models need it")
        return default

    def per_layer(self, key, kind, n_layers, default=_REQUIRED, least=None):
        """The same as a tuple with a value for each layer; the file holds an array, or one value for all layers."""
        name = f"{self.architecture}.{key}"
        values = self.metadata.get(name)
        if not isinstance(values, np.ndarray):
            return (self.get(key, kind, default, least),) * n_layers
        if len(values) != n_layers:
            raise self.error(key, f"has {len(values)} values for {n_layers} layers")
        return tuple(self._checked(name, value, kind, least) for value in values.tolist())

    def error(self, key, what):
        """The error that says what is wrong with `{arch}.key`."""
        return ModelFileError(f"{self.path}: {self.architecture}.{key} {what}")

    def _checked(self, name, value, kind, least):
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:  # not isinstance: to Python True is an int
            raise ModelFileError(f"{self.path}: {name} is {str(value)[:60]!r}, which is not of type {kind.__name__}")
        if kind is float and not math.isfinite(value):
            raise ModelFileError(f"{self.path}: {name} is {value}, not a finite number")
        if least is not None and value < least:
            raise ModelFileError(f"{self.path}: {name} is {value}; the least that makes sense is {least}")
        if kind is int and value > _LARGEST:
            raise ModelFileError(f"{self.path}: {name} is {value}; the most that makes sense is {_LARGEST}")
        return value


def read_config(metadata: dict, path) -> Config:
    """The `Config` of a file's metadata; `path` is for error messages. Raises ModelFileError and UnsupportedModel."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise ModelFileError(f"{path}: the metadata has no general.architecture, so this file holds no language model")
    if name not in ARCHITECTURES:
        raise UnsupportedModel(f"{path}: architecture {name!r} is not supported; we have {', '.join(ARCHITECTURES)}")
    row, keys = ARCHITECTURES[name], _Keys(metadata, path, name)
    d_model = keys.get("embedding_length", int, least=1)
    n_layers = keys.get("block_count", int, least=1)
    if n_layers > _MOST_LAYERS:
        raise keys.error("block_count", f"is {n_layers}; the most that makes sense is {_MOST_LAYERS}")
    n_heads = keys.get("attention.head_count", int, least=1)
    if n_heads > d_model:
        raise keys.error("attention.head_count", f"is {n_heads}, more than the model is wide ({d_model})")
    n_kv_heads = keys.get("attention.head_count_kv", int, n_heads, least=1)
    if n_heads % n_kv_heads:
        raise keys.error("attention.head_count_kv", f"is {n_kv_heads}, which does not divide the {n_heads} query heads")
    key_length = keys.get("attention.key_length", int, d_model // n_heads, least=1)
    n_tokens = len(metadata.get("tokenizer.ggml.tokens", ()))
    wide_scale = n_layers == row.d_model_scale_at
    return Config(
        architecture=name,
        context_length=keys.get("context_length", int, least=1),
        vocab_size=keys.get("vocab_size", int, n_tokens, least=1),
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        key_length=key_length,
        value_length=keys.get("attention.value_length", int, d_model // n_heads, least=1),
        norm_eps=keys.get("attention.layer_norm_rms_epsilon", float, least=0.0),
        attention_scale=1 / math.sqrt(d_model / n_heads if wide_scale else key_length),
        embedding_scale=math.sqrt(d_model) if row.scale_embeddings else None,
        activation=row.activation,
        qk_norm=row.qk_norm,
        post_norms=row.post_norms,
        layers=_read_layers(keys, row, n_layers, key_length),
    )


def _read_layers(keys, row, n_layers, key_length):
    """One LayerConfig a layer: its window, the RoPE that goes with it, the width of its feed-forward."""
    n_ff = keys.per_layer("feed_forward_length", int, n_layers, least=1)
    rope = _read_rope(keys, row, key_length)
    window = keys.get("attention.sliding_window", int, 0, least=0) if row.window_pattern else 0
    windowed = [window > 0 and in_window for in_window in _read_window_pattern(keys, row, n_layers)]
    # A windowed layer never sees far, so it has a base of its own and needs no scaling to see farther.
    near = Rope(rope.n_rot, rope.pairs, base=keys.get("rope.freq_base_swa", float, 10000.0, least=1.0))
    return tuple(
        LayerConfig(near, n_ff[i], window) if windowed[i] else LayerConfig(rope, n_ff[i]) for i in range(n_layers)
    )


def _read_window_pattern(keys, row, n_layers):
    """For each layer, whether it sees a window: an array in the file says so, or n does for n - 1 in n."""
    key = "attention.sliding_window_pattern"
    if isinstance(keys.metadata.get(f"{keys.architecture}.{key}"), np.ndarray):
        return keys.per_layer(key, bool, n_layers)
    n = keys.get(key, int, row.window_pattern or 1, least=0)
    return [n == 0 or i % n < n - 1 for i in range(n_layers)]


def _read_rope(keys, row, key_length):
    """RoPE of the layers that see everything, with the scaling that stretches it past the context it was trained on."""
    n_rot = keys.get("rope.dimension_count", int, key_length, least=2)
    if n_rot > key_length or n_rot % 2:
        raise keys.error("rope.dimension_count", f"is {n_rot}; it must be even and at most the head width {key_length}")
    base = keys.get("rope.freq_base", float, 10000.0)
    if base <= 1:
        raise keys.error("rope.freq_base", f"is {base}; angles need a base above 1")
    scaling = keys.get("rope.scaling.type", str, "linear")  # files older than this key have a factor alone
    factor = keys.get("rope.scaling.factor", float, keys.get("rope.scale_linear", float, 0.0), least=0.0) or 1.0
    rope = Rope(n_rot, row.rope_pairs, base, factor, gain=keys.get("rope.scaling.attn_factor", float, 1.0))
    if scaling == "none":
        return replace(rope, factor=1.0)
    if scaling == "linear":
        return rope
    if scaling == "yarn":
        trained = keys.get("context_length", int, least=1)
        return replace(rope, yarn_context=keys.get("rope.scaling.original_context_length", int, trained, least=1))
    raise UnsupportedModel(f"{keys.path}: rope.scaling.type {scaling!r} is not supported; we have none, linear, yarn")

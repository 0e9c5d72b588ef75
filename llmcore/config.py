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
    """What the name in `general.architecture` says and no key repeats. The defaults are Llama's."""

    rope_pairs: str | None = "adjacent"  # what rotates together: "adjacent" is (2i, 2i + 1), "halves" (i, i + n_rot/2)
    layer_norm: bool = False  # LayerNorm in place of RMS norm ...
    norm_bias: bool = False  # ... with biases
    norms: str = "pre"  # where a block's norms stand: "pre" attention and feed-forward, "post", or "both"
    ffn_norm: str = "ffn_norm"  # the tensor that holds the norm before the feed-forward
    qk_norm: str | None = None  # norm of queries and keys before RoPE: of each "head", of each with its "own gain", ...
    qk_norm_from: int = 0  # ... or of all heads as a "row"; only models of at least so many layers have it
    activation: str = "swiglu"  # a row of ops.ACTIVATIONS
    gated: bool = True  # whether the feed-forward has a gate
    parallel: bool = False  # attention and feed-forward both read the block's input, under one norm
    scale_embeddings: bool = False  # embeddings times sqrt(d_model)
    positions: bool = False  # learned positions, added to the embeddings
    latent: bool = False  # multi-head latent attention
    sinks: bool = False  # a logit for "none of the keys" in each head's softmax
    attention_softcap: float = 0.0  # if {arch}.attn_logit_softcapping does not say it; 0: none
    final_softcap: float = 0.0  # if {arch}.final_logit_softcapping does not say it
    logit_power: int = 1  # {arch}.logit_scale multiplies the logits (1) or divides them (-1)
    d_model_scale_at: int | None = None  # the number of layers at which attention scales by 1/sqrt(d_model / n_heads)
    no_rope_every: int | None = None  # every n-th layer has no RoPE
    rope_switch: bool = False  # {arch}.rope.scaling.finetuned false means: no RoPE at all
    window_pattern: int | None = None  # of so many layers the last sees all, the others a window
    window: int = 0  # how wide it is if {arch}.attention.sliding_window does not say so; 0: all layers see all
    window_rope: str = "same"  # RoPE of windowed layers: the "same", "unscaled", or with a base of its "own"
    gating: str = "softmax"  # of a mixture of experts: a value of GATINGS
    renormalize: bool = True  # whether the chosen experts' weights are made to sum to 1
    split_experts: bool = True  # whether experts share feed_forward_length if no key gives their own
    shared_gate: bool = False  # whether the shared expert has a gate


_GEMMA = Architecture("halves", activation="geglu", scale_embeddings=True)
_QWEN = Architecture("halves")
ARCHITECTURES = {
    "llama": Architecture(split_experts=False),
    "qwen2": _QWEN,
    "qwen2moe": replace(_QWEN, renormalize=False, shared_gate=True),
    "qwen3": replace(_QWEN, qk_norm="head"),
    "qwen3moe": replace(_QWEN, qk_norm="head"),
    "gemma": _GEMMA,
    "gemma2": replace(
        _GEMMA,
        norms="both",
        window_pattern=2,
        window=4096,
        d_model_scale_at=46,
        attention_softcap=50.0,
        final_softcap=30.0,
    ),
    "gemma3": replace(_GEMMA, norms="both", qk_norm="head", window_pattern=6, window_rope="own", d_model_scale_at=62),
    "phi3": Architecture("halves"),  # its files name a window, which llama.cpp does not use either
    "gpt2": Architecture(None, layer_norm=True, norm_bias=True, activation="gelu", gated=False, positions=True),
    "deepseek2": Architecture(latent=True, renormalize=False),
    "olmo2": Architecture("halves", norms="post", qk_norm="row", window_pattern=4, window_rope="unscaled"),
    "granite": Architecture(logit_power=-1, rope_switch=True),
    "command-r": Architecture(layer_norm=True, parallel=True, qk_norm="own gain", qk_norm_from=64),
    "starcoder2": Architecture("halves", layer_norm=True, norm_bias=True, activation="gelu", gated=False),
    "smollm3": Architecture(no_rope_every=4),
    "gpt-oss": Architecture(
        "halves",
        ffn_norm="post_attention_norm",
        activation="swiglu_clamped",
        sinks=True,
        window_pattern=2,
        gating="softmax of the chosen",
        renormalize=False,
    ),
}
SCALINGS = ("none", "linear", "yarn", "longrope")  # {arch}.rope.scaling.type; longrope's factors are tensors
GATINGS = {1: "softmax", 2: "sigmoid", 3: "softmax of the chosen"}  # {arch}.expert_gating_func


@dataclass(frozen=True, eq=False)  # told apart by identity: to look one up by its numbers would take 1 us a layer
class Rope:
    """How positions turn into angles; `ops.rope_table` has the formulas. Layers that do alike share one."""

    n_rot: int  # {arch}.rope.dimension_count: the dimensions of a head that rotate, the rest pass through
    pairs: str  # see Architecture
    base: float  # {arch}.rope.freq_base
    factor: float = 1.0  # {arch}.rope.scaling.factor: linear scaling divides positions by it
    yarn_context: int | None = None  # {arch}.rope.scaling.original_context_length, set where the scaling type is yarn
    gain: float = 1.0  # multiplies cos and sin


@dataclass(frozen=True)
class Latent:
    """Widths of multi-head latent attention: keys and values of all heads are made from one small row a token."""

    query_rank: int | None  # {arch}.attention.q_lora_rank; None: queries come straight from the input
    rank: int  # {arch}.attention.kv_lora_rank: the width of the row that is cached, beside n_rot for the position
    split: bool  # whether the file holds attn_k_b and attn_v_b, or both in attn_kv_b as older ones do


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: how each token chooses among several feed-forwards."""

    count: int  # {arch}.expert_count
    used: int  # {arch}.expert_used_count
    n_ff: int  # {arch}.expert_feed_forward_length
    n_ff_shared: int  # {arch}.expert_shared_feed_forward_length, of the expert that all tokens use; 0: there is none
    gating: str  # a value of GATINGS
    renormalize: bool  # {arch}.expert_weights_norm
    scale: float  # {arch}.expert_weights_scale
    groups: int  # {arch}.expert_group_count: experts stand in so many groups ...
    groups_used: int  # {arch}.expert_group_used_count: ... of which so many are chosen from


@dataclass(frozen=True)
class LayerConfig:
    """What may differ from layer to layer."""

    rope: Rope | None
    n_ff: int  # {arch}.feed_forward_length
    window: int | None  # {arch}.attention.sliding_window: a query at p sees the keys after p - window
    experts: Experts | None


@dataclass(frozen=True)
class Config:
    """The shape of a model."""

    architecture: str  # general.architecture
    family: Architecture
    context_length: int  # {arch}.context_length: the longest text the model was trained on
    original_context: int  # {arch}.rope.scaling.original_context_length: the one before it was stretched
    vocab_size: int  # {arch}.vocab_size, else the number of tokenizer.ggml.tokens
    n_layers: int  # {arch}.block_count, less the spare ones
    n_spare_layers: int  # {arch}.nextn_predict_layers: at the end, to guess further tokens with; we never run them
    d_model: int  # {arch}.embedding_length
    n_heads: int  # {arch}.attention.head_count
    n_kv_heads: int  # {arch}.attention.head_count_kv
    key_length: int  # {arch}.attention.key_length (key_length_mla): the width of a query or key head
    value_length: int  # {arch}.attention.value_length (value_length_mla): the width of a value head
    latent: Latent | None
    layers: tuple[LayerConfig, ...]
    qk_norm: str | None  # the family's, if the model is as deep as it takes
    norm_eps: float  # {arch}.attention.layer_norm_rms_epsilon, or layer_norm_epsilon
    attention_scale: float  # {arch}.attention.scale
    attention_softcap: float | None  # {arch}.attn_logit_softcapping
    final_softcap: float | None  # {arch}.final_logit_softcapping
    embedding_scale: float | None  # {arch}.embedding_scale
    residual_scale: float | None  # {arch}.residual_scale
    logit_scale: float | None  # {arch}.logit_scale, as a factor


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
        n_blocks = self.get("block_count", int)  # spare layers at the end included
        if len(values) != n_blocks:
            raise self.error(key, f"has {len(values)} values for {n_blocks} layers")
        return tuple(self._checked(name, value, kind, least) for value in values[:n_layers].tolist())

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
    family, keys = ARCHITECTURES[name], _Keys(metadata, path, name)
    if not keys.get("attention.causal", bool, True):
        raise UnsupportedModel(f"{path}: {name}.attention.causal is false: an encoder, not a model that continues text")
    context_length = keys.get("context_length", int, least=1)
    d_model = keys.get("embedding_length", int, least=1)
    n_layers, n_spare = _read_layer_counts(keys)
    n_heads, n_kv_heads = _read_head_counts(keys, n_layers, d_model)
    mla = "_mla" if _has_mla_lengths(keys) else ""
    key_length = keys.get(f"attention.key_length{mla}", int, d_model // n_heads, least=1)
    value_length = keys.get(f"attention.value_length{mla}", int, d_model // n_heads, least=1)
    rope = _read_rope(keys, family, key_length)
    scaled_width = d_model / n_heads if n_layers == family.d_model_scale_at else key_length
    embedding_scale = math.sqrt(d_model) if family.scale_embeddings else 0.0
    logit_scale = keys.get("logit_scale", float, 0.0)
    return Config(
        architecture=name,
        family=family,
        context_length=context_length,
        original_context=keys.get("rope.scaling.original_context_length", int, context_length, least=1),
        vocab_size=keys.get("vocab_size", int, len(metadata.get("tokenizer.ggml.tokens", ())), least=1),
        n_layers=n_layers,
        n_spare_layers=n_spare,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        key_length=key_length,
        value_length=value_length,
        latent=_read_latent(keys) if family.latent else None,
        layers=_read_layers(keys, family, n_layers, rope),
        qk_norm=family.qk_norm if n_layers >= family.qk_norm_from else None,
        norm_eps=keys.get(f"attention.layer_norm_{'' if family.layer_norm else 'rms_'}epsilon", float, least=0.0),
        attention_scale=keys.get("attention.scale", float, 0.0)
        or _gain_of_latent(keys, family, rope) ** 2 / math.sqrt(scaled_width),
        attention_softcap=keys.get("attn_logit_softcapping", float, family.attention_softcap) or None,
        final_softcap=keys.get("final_logit_softcapping", float, family.final_softcap) or None,
        embedding_scale=keys.get("embedding_scale", float, embedding_scale) or None,
        residual_scale=keys.get("residual_scale", float, 0.0) or None,
        logit_scale=logit_scale**family.logit_power if logit_scale else None,
    )


def _read_layer_counts(keys):
    """The number of layers that run, and of those at the end that do not."""
    n_blocks = keys.get("block_count", int, least=1)
    if n_blocks > _MOST_LAYERS:
        raise keys.error("block_count", f"is {n_blocks}; the most that makes sense is {_MOST_LAYERS}")
    n_spare = keys.get("nextn_predict_layers", int, 0, least=0)
    if n_spare >= n_blocks:
        raise keys.error("nextn_predict_layers", f"is {n_spare}, of {n_blocks} layers in all")
    return n_blocks - n_spare, n_spare


def _read_head_counts(keys, n_layers, d_model):
    n_heads = _same_in_all(keys, "attention.head_count", n_layers, _REQUIRED)
    if n_heads > d_model:
        raise keys.error("attention.head_count", f"is {n_heads}, more than the model is wide ({d_model})")
    n_kv_heads = _same_in_all(keys, "attention.head_count_kv", n_layers, n_heads)
    if n_heads % n_kv_heads:
        raise keys.error("attention.head_count_kv", f"is {n_kv_heads}, which does not divide the {n_heads} query heads")
    return n_heads, n_kv_heads


def _same_in_all(keys, key, n_layers, default):
    """A number that a file may give for each layer, but that must be the same in all."""
    numbers = set(keys.per_layer(key, int, n_layers, default, least=1))
    if len(numbers) > 1:
        raise UnsupportedModel(f"{keys.path}: {keys.architecture}.{key} differs between layers, which is not supported")
    return numbers.pop()


def _has_mla_lengths(keys):
    """Whether the lengths of heads stand in keys of their own: in files with latent attention that is split."""
    return f"{keys.architecture}.attention.key_length_mla" in keys.metadata


def _read_latent(keys):
    """Widths of multi-head latent attention."""
    query_rank = keys.get("attention.q_lora_rank", int, 0, least=0) or None
    return Latent(query_rank, keys.get("attention.kv_lora_rank", int, least=1), split=_has_mla_lengths(keys))


def _read_layers(keys, family, n_layers, rope):
    """One LayerConfig a layer."""
    n_ff = keys.per_layer("feed_forward_length", int, n_layers, 0, least=0)
    experts = _read_experts(keys, family, n_ff[0])
    n_dense = keys.get("leading_dense_block_count", int, 0, least=0) if experts else n_layers
    if 0 in n_ff[:n_dense]:
        raise keys.error("feed_forward_length", "is 0 or missing")
    windows = _read_windows(keys, family, n_layers)
    near = _read_window_rope(keys, family, rope)
    layers = []
    for i in range(n_layers):
        turns = family.no_rope_every is None or (i + 1) % family.no_rope_every
        layer_rope = (near if windows[i] else rope) if turns else None
        layers.append(LayerConfig(layer_rope, n_ff[i], windows[i], experts if i >= n_dense else None))
    return tuple(layers)


def _read_windows(keys, family, n_layers):
    """The window of each layer or None: an array says which have one, or a number n that n - 1 in n have."""
    if family.window_pattern is None:
        return [None] * n_layers
    key = "attention.sliding_window_pattern"
    if isinstance(keys.metadata.get(f"{keys.architecture}.{key}"), np.ndarray):
        flags = keys.metadata[f"{keys.architecture}.{key}"]
        windowed = keys.per_layer(key, bool if flags.dtype == bool else int, n_layers)
    else:
        n = keys.get(key, int, family.window_pattern, least=0)
        windowed = [n == 0 or i % n < n - 1 for i in range(n_layers)]
    window = keys.get("attention.sliding_window", int, family.window, least=0)
    return [window or None if here else None for here in windowed]


def _read_window_rope(keys, family, rope):
    """RoPE of windowed layers. They never see far, so most families stretch nothing there."""
    if rope is None:
        return None
    base = keys.get("rope.freq_base_swa", float, 10000.0 if family.window_rope == "own" else rope.base)
    _check_base(keys, "rope.freq_base_swa", base)
    return replace(rope, base=base) if family.window_rope == "same" else Rope(rope.n_rot, rope.pairs, base)


def _read_rope(keys, family, key_length):
    """RoPE of the layers that see everything, with the scaling that stretches it past the context it was trained on."""
    if family.rope_pairs is None or (family.rope_switch and not keys.get("rope.scaling.finetuned", bool, True)):
        return None
    n_rot = keys.get("rope.dimension_count", int, key_length, least=2)
    if n_rot > key_length or n_rot % 2:
        raise keys.error("rope.dimension_count", f"is {n_rot}; it must be even and at most the head width {key_length}")
    base = keys.get("rope.freq_base", float, 10000.0)
    _check_base(keys, "rope.freq_base", base)
    scaling = keys.get("rope.scaling.type", str, "linear")  # files older than this key have a factor alone
    if scaling not in SCALINGS:
        raise UnsupportedModel(
            f"{keys.path}: rope.scaling.type {scaling!r} is not supported; ours: {', '.join(SCALINGS)}"
        )
    factor = keys.get("rope.scaling.factor", float, keys.get("rope.scale_linear", float, 0.0), least=0.0) or 1.0
    rope = Rope(n_rot, family.rope_pairs, base, factor, gain=keys.get("rope.scaling.attn_factor", float, 1.0))
    if scaling == "none":
        return replace(rope, factor=1.0)
    if scaling == "yarn":
        context = keys.get("rope.scaling.original_context_length", int, keys.get("context_length", int), least=1)
        # Where yarn_log_multiplier stands, the gain belongs to the attention scale alone: _gain_of_latent.
        gain = 1.0 if family.latent and _log_multiplier(keys) else 1 + 0.1 * math.log(factor)
        return replace(rope, yarn_context=context, gain=rope.gain * gain)
    return rope


def _gain_of_latent(keys, family, rope):
    """What YaRN multiplies each of query and key with in latent attention, where only a part of them rotates."""
    return rope.gain * (1 + _log_multiplier(keys) * math.log(rope.factor)) if family.latent else 1.0


def _log_multiplier(keys):
    return keys.get("rope.scaling.yarn_log_multiplier", float, 0.0)


def _check_base(keys, key, base):
    if base <= 1:
        raise keys.error(key, f"is {base}; angles need a base above 1")


def _read_experts(keys, family, n_ff):
    """The mixture of experts, if there is one."""
    count = keys.get("expert_count", int, 0, least=0)
    if not count:
        return None
    used = keys.get("expert_used_count", int, least=1)
    groups = keys.get("expert_group_count", int, 1, least=0) or 1
    groups_used = keys.get("expert_group_used_count", int, groups, least=0) or groups
    if used > count or count % groups or groups_used > groups or used > groups_used * (count // groups):
        raise keys.error("expert_used_count", f"is {used} of {count} in {groups_used} of {groups} groups: impossible")
    default_n_ff = n_ff // used if family.split_experts else n_ff
    n_ff_expert = keys.get("expert_feed_forward_length", int, default_n_ff, least=1)
    n_ff_shared = keys.get("expert_shared_count", int, 0, least=0) * n_ff_expert
    gating = keys.get("expert_gating_func", int, 0, least=0)
    if gating not in (0, *GATINGS):
        known = ", ".join(f"{number} ({meaning})" for number, meaning in GATINGS.items())
        raise UnsupportedModel(f"{keys.path}: expert_gating_func {gating} is not supported; we have {known}")
    return Experts(
        count=count,
        used=used,
        n_ff=n_ff_expert,
        n_ff_shared=keys.get("expert_shared_feed_forward_length", int, n_ff if family.shared_gate else n_ff_shared),
        gating=GATINGS.get(gating, family.gating),
        renormalize=keys.get("expert_weights_norm", bool, family.renormalize),
        scale=keys.get("expert_weights_scale", float, 0.0) or 1.0,
        groups=groups,
        groups_used=groups_used,
    )

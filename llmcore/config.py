"""Metadata -> one frozen `Config`: what is true of the whole model, and a `LayerPlan` for each layer.

What a family's name alone decides stands in families.py; everything else is read from the metadata, each
number by the room that computes with it. The rooms below branch on a field of a plan, never on a name. Rules
of the keys: llama.cpp's src/llama-model.cpp.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

from . import ffn
from .errors import ModelFileError, UnsupportedModel
from .families import ARCHITECTURES, Family
from .formats.mistaken import kind_of_file
from .metadata import Keys
from .mixers import kind
from .mixers.keys import read_norm_eps
from .mixers.rope import Rope

MOST_LAYERS = 1000  # twice what llama.cpp allows; bounds what is made before the tensors are looked at


@dataclass(frozen=True)
class LayerPlan:
    """What one layer is made of; one of its halves may be None."""

    mixer: Any  # the plan of a mixer, see mixers/
    ffn: Any  # the plan of a feed-forward, see ffn/
    ffn_norm: str | None  # the tensor of the norm before it; None: there is none, or it norms for itself


@dataclass(frozen=True)
class Config:
    """The shape of a model."""

    architecture: str  # general.architecture
    family: Family
    context_length: int  # {arch}.context_length: the longest text the model was trained on
    original_context: int  # {arch}.rope.scaling.original_context_length: the one before it was stretched
    vocab_size: int  # the number of tokenizer.ggml.tokens, else {arch}.vocab_size
    n_spare_layers: int  # {arch}.nextn_predict_layers: at the end, to guess more tokens with; we run none
    d_model: int  # {arch}.embedding_length
    layers: tuple[LayerPlan, ...]  # {arch}.block_count, less the spare ones
    norm_eps: float  # {arch}.attention.layer_norm_rms_epsilon, or layer_norm_epsilon
    per_layer: Any  # the plan of per-layer embeddings, see ffn/per_layer.py, or None
    parallel: bool  # {arch}.use_parallel_residual: both halves of a block read its input
    final_softcap: float | None  # {arch}.final_logit_softcapping
    embedding_scale: float | None  # {arch}.embedding_scale
    residual_scale: float | None  # {arch}.residual_scale
    logit_scale: float | None  # {arch}.logit_scale, as a factor

    @cached_property
    def ropes(self) -> set[Rope]:
        """The ways in which positions rotate queries and keys in this model."""
        return {layer.mixer.rope for layer in self.layers if layer.mixer is not None} - {None}


def read_config(metadata: dict, path) -> Config:
    """The `Config` of a file; `path` is for errors. Raises ModelFileError and UnsupportedModel."""
    if (found := kind_of_file(metadata)) is not None:
        raise UnsupportedModel(f"{path}: this is {found}")
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise ModelFileError(
            f"{path}: there is no general.architecture, so this file holds no language model"
        )
    if name not in ARCHITECTURES:
        ours = ", ".join(ARCHITECTURES)
        raise UnsupportedModel(f"{path}: architecture {name!r} is not supported; we have {ours}")
    family, keys = ARCHITECTURES[name], Keys(metadata, path, name)
    if not keys.get("attention.causal", bool, True):
        raise UnsupportedModel(f"{path}: {name}.attention.causal is false: an encoder, which writes no text")
    context_length = keys.get("context_length", int, least=1)
    d_model = keys.get("embedding_length", int, least=1)
    n_layers, n_spare = read_layer_counts(keys)
    logit_scale = keys.get("logit_scale", float, 0.0)
    embedding_scale = math.sqrt(d_model) if family.scale_embeddings else 0.0
    return Config(
        architecture=name,
        family=family,
        context_length=context_length,
        original_context=keys.get("rope.scaling.original_context_length", int, context_length, least=1),
        vocab_size=read_vocab_size(keys, len(metadata.get("tokenizer.ggml.tokens", ()))),
        n_spare_layers=n_spare,
        d_model=d_model,
        layers=tuple(read_layer(keys, family, i) for i in range(n_layers)),
        norm_eps=read_norm_eps(keys, family),
        per_layer=ffn.read_per_layer(keys, family, n_layers),
        parallel=family.parallel and keys.get("use_parallel_residual", bool, True),
        final_softcap=keys.get("final_logit_softcapping", float, family.final_softcap) or None,
        embedding_scale=keys.get("embedding_scale", float, embedding_scale) or None,
        residual_scale=keys.get("residual_scale", float, 0.0) or None,
        logit_scale=logit_scale**family.logit_power if logit_scale else None,
    )


def read_vocab_size(keys: Keys, n_tokens: int) -> int:
    """The number of tokens: of those that the file lists, as in llama.cpp, whatever a key says."""
    size = keys.get("vocab_size", int, n_tokens, least=1)
    if n_tokens and size != n_tokens:
        keys.warn("vocab_size", f"is {size}, but there are {n_tokens} tokens; taken as {n_tokens}")
    return n_tokens or size


def read_layer(keys: Keys, family: Family, i: int) -> LayerPlan:
    """The plan of layer i."""
    has_ffn = not family.whole_block
    if family.one_half:
        has_ffn = keys.of_layer("feed_forward_length", int, i, 0, least=0) > 0
    has_mixer = not family.one_half or not has_ffn
    plan = ffn.read(keys, family, i) if has_ffn else None
    beside = family.experts_beside and ffn.has_experts(keys, i)
    has_norm = has_ffn and family.norms != "post" and not beside
    return LayerPlan(
        mixer=mixer_of(keys, family, i).read(keys, family, i) if has_mixer else None,
        ffn=plan,
        ffn_norm=family.ffn_norm if has_norm else None,
    )


def mixer_of(keys: Keys, family: Family, i: int) -> ModuleType:
    """The kind of mixer of layer i. Where a family has two, a key says which layers are recurrent."""
    if family.recurrent is None:
        return kind(family.mixer)
    if family.attention_every is None:
        recurrent = keys.of_layer("attention.head_count_kv", int, i, 1, least=0) == 0
    else:
        n = keys.get("full_attention_interval", int, family.attention_every, least=1)
        recurrent = keys.of_layer("attention.recurrent_layers", bool, i, (i + 1) % n != 0)
    return kind(family.recurrent if recurrent else family.mixer)


def read_layer_counts(keys: Keys) -> tuple[int, int]:
    """The number of layers that run, and of those at the end that do not."""
    n_blocks = keys.get("block_count", int, least=1)
    if n_blocks > MOST_LAYERS:
        raise keys.error("block_count", f"is {n_blocks}; the most that makes sense is {MOST_LAYERS}")
    n_spare = keys.get("nextn_predict_layers", int, 0, least=0)
    if n_spare >= n_blocks:
        raise keys.error("nextn_predict_layers", f"is {n_spare}, of {n_blocks} layers in all")
    return n_blocks - n_spare, n_spare

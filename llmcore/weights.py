"""Plans and tensors joined -> `Weights`: every number of a model under GGUF's own name.

Shapes are checked against the plans before a byte is expanded. Matrices that multiply the same input are held
as one (query, key and value; gate and up), since one large product is faster than several small ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import ffn
from .config import Config, LayerPlan
from .linear import Held, Job, Matrix
from .loader import GGUF, Tensor
from .mixers import kind_of
from .mixers.step import NOBODY, Watcher
from .tensors import Tensors


@dataclass(frozen=True)
class Norm:
    """A norm's gain (D,), and its bias (D,) where the family has one."""

    gain: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class Layer:
    """The weights of one block; None for a norm or a half that the layer does not have."""

    attn_norm: Norm | None
    mixer: Any  # what the plan's mixer takes
    post_attention_norm: Norm | None
    ffn_norm: Norm | None
    ffn: Any  # what the plan's feed-forward takes
    post_ffw_norm: Norm | None
    per_layer: Any  # what the plan of per-layer embeddings takes, or None
    output_scale: np.ndarray | None  # (1,): layer_output_scale, which multiplies what the block says


@dataclass(frozen=True)
class Weights:
    """All the numbers of a model."""

    token_embd: Tensor  # (V, D), left in the file's map: rows are expanded when they are looked up
    position_embd: Tensor | None  # (context_length, D), likewise
    embedding_norm: Norm | None  # after the embedding
    per_layer: Any  # what the plan of per-layer embeddings takes of the whole model, or None
    rope_factors: np.ndarray | None  # (R,): divides RoPE's frequencies
    layers: tuple[Layer, ...]
    output_norm: Norm
    output: Matrix  # D -> V; token_embd where the file has no output.weight ("tied")
    output_rows: Tensor  # the same, left in the file's map: for the row of a single token
    watcher: Watcher = NOBODY  # who looks at the arrays of each pass


def map_weights(
    file: GGUF,
    config: Config,
    context_length: int,
    empty: Callable[[list[Tensor]], tuple[Held, list[Job]]],
) -> tuple[Weights, list[Job]]:
    """The weights of a model, still empty, and the jobs that fill them; `empty` makes room for matrices in
    some way.

    Raises ModelFileError for a missing or unused tensor or a wrong shape, UnsupportedModel for a type we
    cannot expand.
    """
    tensors = Tensors(file, empty)
    D, V = config.d_model, config.vocab_size
    has_positions = config.family.positions
    output = "output" if "output.weight" in file.tensors else "token_embd"
    weights = Weights(
        token_embd=tensors.take("token_embd.weight", (V, D)),
        position_embd=tensors.take("position_embd.weight", (config.context_length, D))
        if has_positions
        else None,
        embedding_norm=_take_norm(tensors, "token_embd_norm", config)
        if config.family.embedding_norm
        else None,
        per_layer=config.per_layer
        and kind_of(config.per_layer).take_embedding(tensors, config.per_layer, D, V),
        rope_factors=_rope_factors(tensors, config, context_length),
        layers=tuple(_take_layer(tensors, config, plan, f"blk.{i}.") for i, plan in enumerate(config.layers)),
        output_norm=_take_norm(tensors, config.family.output_norm, config),
        output=tensors.matrix(output, D, V),
        output_rows=file.tensors[f"{output}.weight"],
    )
    n_layers = len(config.layers)
    tensors.refuse_unused(spare=tuple(f"blk.{n_layers + i}." for i in range(config.n_spare_layers)))
    return weights, tensors.jobs


def _rope_factors(tensors, config, context_length):
    """What divides RoPE's frequencies: rope_freqs (Llama 3.1), or one of two sets (longrope,
    arXiv:2402.13753): the long one if the context asked for is longer than the one the model was first
    trained on.
    """
    rope = next((rope for rope in config.ropes if rope.divided), None)
    if rope is None:
        return None
    if "rope_factors_long.weight" not in tensors.file.tensors:
        return tensors.vector("rope_freqs", rope.n_rot // 2, optional=not config.family.full_rope_freqs)
    short, long = (tensors.vector(f"rope_factors_{name}", rope.n_rot // 2) for name in ("short", "long"))
    return long if context_length > config.original_context else short


def _take_layer(tensors, config: Config, plan: LayerPlan, blk: str) -> Layer:
    family, D = config.family, config.d_model
    pre, post = family.norms != "post" and not family.whole_block, family.norms != "pre"
    mixes, feeds = plan.mixer is not None, plan.ffn is not None

    def norm(name, present):
        return _take_norm(tensors, blk + name, config) if present else None

    return Layer(
        attn_norm=norm(
            family.attn_norm if tensors.has(f"{blk}{family.attn_norm}.weight") else "attn_norm", pre and mixes
        ),
        mixer=kind_of(plan.mixer).take(tensors, plan.mixer, D, blk) if mixes else None,
        post_attention_norm=norm("post_attention_norm", post and mixes),
        ffn_norm=norm(plan.ffn_norm, plan.ffn_norm is not None),
        ffn=ffn.take(tensors, plan.ffn, D, blk) if feeds else None,
        post_ffw_norm=norm("post_ffw_norm", post and feeds),
        per_layer=config.per_layer and kind_of(config.per_layer).take(tensors, config.per_layer, D, blk),
        output_scale=tensors.vector(blk + "layer_output_scale", 1, optional=True),
    )


def _take_norm(tensors, name, config):
    bias = tensors.vector(name, config.d_model, suffix=".bias") if config.family.norm_bias else None
    suffix = "" if name in tensors.file.tensors else ".weight"  # falcon-h1's ffn_norm has none
    return Norm(tensors.vector(name, config.d_model, suffix=suffix), bias)

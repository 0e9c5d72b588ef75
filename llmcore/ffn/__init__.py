"""The feed-forward half of a block: each token by itself. A file each: dense, and a mixture of experts.

As with mixers, each has `take` and `run`, and the type of a layer's plan chooses which; experts are loaded by
the models that have some.
"""

from ..mixers import kind_of
from ..mixers.keys import read_norm_eps
from .dense import Dense


def read(keys, family, i: int):
    """The plan of layer i's feed-forward. Raises ModelFileError and UnsupportedModel."""
    if has_experts(keys, i) and not family.experts_beside:
        from . import experts

        return experts.read(keys, family, i)
    n_ff = keys.of_layer("feed_forward_length", int, i, 0, least=0)
    if n_ff == 0:
        raise keys.error("feed_forward_length", "is 0 or missing")
    sub_norm_eps = read_norm_eps(keys, family) if family.sub_norms else None
    dense = Dense(n_ff, family.activation, family.gated, sub_norm_eps)
    if has_experts(keys, i):
        from . import beside

        return beside.read(keys, family, i, dense)
    return dense


def has_experts(keys, i: int) -> bool:
    """Whether layer i has experts; files of Hunyuan's dense models say that they have one."""
    first = keys.get("leading_dense_block_count", int, 0, least=0)
    every = keys.get("interleave_moe_layer_step", int, 1, least=1)
    return keys.get("expert_count", int, 0, least=0) > 1 and i >= first and (i + 1) % every == 0


def read_per_layer(keys, family, n_layers: int):
    """The plan of per-layer embeddings, or None."""
    width = keys.get("embedding_length_per_layer_input", int, 0, least=0)
    if width == 0:
        return None
    from . import per_layer

    return per_layer.PerLayer(width, n_layers, read_norm_eps(keys, family))


def take(tensors, plan, d_model: int, blk: str):
    """The weights of the layer whose tensors begin with `blk`."""
    return kind_of(plan).take(tensors, plan, d_model, blk)


def run(x_TD, w, plan, start_TD, step, i):
    """The feed-forward of layer i, whose input was start_TD; (T, D) -> (T, D)."""
    return kind_of(plan).run(x_TD, w, plan, start_TD, step, i)

"""The transformer: embed, a stack of blocks, unembed. From token ids to the scores of every possible next token.

Shape key: T new tokens (of all texts together), S cached + new, D model width, V vocabulary.
"""

from collections.abc import Iterator
from itertools import accumulate

import numpy as np

from .attention import attention, latent_attention
from .cache import KVCache
from .config import Config
from .ffn import dense_ffn, mixture_of_experts
from .linear import across_rows, linear, rows
from .ops import layer_norm, rms_norm, softcap
from .weights import Layer, Norm, Weights

# Prompts run in chunks of so many tokens, so that memory does not grow with the square of the prompt.
CHUNK = 512


def prefill(weights: Weights, config: Config, ids_T: np.ndarray, cache: KVCache) -> Iterator[np.ndarray]:
    """`forward` over a text of any length, chunk by chunk; yields the hidden states (at most CHUNK, D) of each."""
    for start in range(0, len(ids_T), CHUNK):
        yield forward(weights, config, ids_T[start : start + CHUNK], cache)


def forward(weights: Weights, config: Config, ids_T: np.ndarray, cache: KVCache) -> np.ndarray:
    """The last hidden states of T new tokens, (T,) -> (T, D), after those in the cache; appends their rows to it."""
    return forward_batch(weights, config, [(ids_T, cache)])


def forward_batch(weights: Weights, config: Config, texts: list[tuple[np.ndarray, KVCache]]) -> np.ndarray:
    """`forward` of several texts at once, each with a cache of its own; their rows follow one another in (T, D).

    Reading a matrix from memory takes longer than multiplying a few rows by it, so a few texts cost little more than
    one. All rows go through each matrix together; attention alone looks at one text at a time.
    """
    ids_T = np.concatenate([ids for ids, _ in texts])
    stops = accumulate(len(ids) for ids, _ in texts)
    parts = [(slice(stop - len(ids), stop), cache) for stop, (ids, cache) in zip(stops, texts, strict=True)]
    rotations = {rope: _turns(rope, texts, weights.rope_factors) for rope in {layer.rope for layer in config.layers}}
    x_TD = rows(weights.token_embd, ids_T)
    if config.embedding_scale is not None:
        x_TD *= np.float32(config.embedding_scale)
    if config.family.positions:
        positions_T = np.concatenate([np.arange(cache.length, cache.length + len(ids)) for ids, cache in texts])
        x_TD += rows(weights.position_embd, positions_T)
    for i, layer in enumerate(weights.layers):
        x_TD = block(x_TD, layer, config, i, parts, rotations[config.layers[i].rope])
    for ids, cache in texts:
        cache.commit(len(ids))
    return x_TD


def _turns(rope, texts, factors_R):
    """RoPE's turns for the rows of all texts, complex (T, R); None for layers without RoPE."""
    if rope is None:
        return None
    turns = [cache.turns(rope, len(ids), factors_R) for ids, cache in texts]
    return turns[0] if len(turns) == 1 else np.concatenate(turns)


def block(
    x_TD: np.ndarray, layer: Layer, config: Config, i: int, texts: list[tuple[slice, KVCache]], rotation
) -> np.ndarray:
    """Layer i: x + attention(norm(x)), then x + ffn(norm(x)); (T, D) -> (T, D). A norm that a family lacks is None."""
    attend = attention if config.latent is None else latent_attention
    h_TD = norm(x_TD, layer.attn_norm, config)
    y_TD = norm(attend(h_TD, layer.attn, config, i, texts, rotation), layer.post_attention_norm, config)
    if config.family.parallel:
        return x_TD + y_TD + feed_forward(h_TD, layer.ffn, config, i)
    x_TD = add(x_TD, y_TD, config.residual_scale)
    y_TD = norm(feed_forward(norm(x_TD, layer.ffn_norm, config), layer.ffn, config, i), layer.post_ffw_norm, config)
    return add(x_TD, y_TD, config.residual_scale)


def feed_forward(x_TD, w, config, i):
    """The feed-forward of layer i, dense or a mixture of experts; (T, D) -> (T, D)."""
    if config.layers[i].experts is None:
        return dense_ffn(x_TD, w, config.family)
    return mixture_of_experts(x_TD, w, config.family, config.layers[i].experts)


def add(x_TD, y_TD, scale):
    """x + scale y, in y's place; scale None is 1."""
    if scale is not None:
        y_TD *= np.float32(scale)
    y_TD += x_TD
    return y_TD


def norm(x_TD: np.ndarray, weights: Norm | None, config: Config) -> np.ndarray:
    """The family's norm, or x itself where it has none in this place."""
    if weights is None:
        return x_TD
    if config.family.layer_norm:
        return across_rows(lambda x_TD: layer_norm(x_TD, weights.gain, weights.bias, config.norm_eps), x_TD)
    return across_rows(lambda x_TD: rms_norm(x_TD, weights.gain, config.norm_eps), x_TD)


def unembed(weights: Weights, config: Config, x_TD: np.ndarray) -> np.ndarray:
    """The logits of hidden states: how strongly each token of the vocabulary is expected next; (T, D) -> (T, V)."""
    logits_TV = linear(norm(x_TD, weights.output_norm, config), weights.output)
    if config.logit_scale is not None:
        logits_TV *= np.float32(config.logit_scale)
    return logits_TV if config.final_softcap is None else softcap(logits_TV, config.final_softcap)

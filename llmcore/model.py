"""The transformer: embed, a stack of blocks, unembed. From token ids to the scores of every possible next token.

Shape key: T new tokens, S cached + new, D model width, V vocabulary.
"""

import numpy as np

from .attention import attention
from .cache import KVCache
from .config import Config
from .ffn import gated_ffn
from .linear import linear, rows
from .ops import rms_norm, rope_table
from .weights import Layer, Weights

# Prompts run in chunks of so many tokens, so that memory does not grow with the square of the prompt.
CHUNK = 512


def forward(weights: Weights, config: Config, ids_T: np.ndarray, cache: KVCache) -> np.ndarray:
    """The last hidden states of T new tokens, (T,) -> (T, D), after those in the cache; appends their rows to it."""
    positions_T = np.arange(cache.length, cache.length + len(ids_T))
    rotations = {
        rope: rope_table(rope, positions_T, weights.rope_freqs) for rope in {layer.rope for layer in config.layers}
    }
    x_TD = rows(weights.token_embd, ids_T)
    if config.embedding_scale is not None:
        x_TD *= np.float32(config.embedding_scale)
    for i, layer in enumerate(weights.layers):
        x_TD = block(x_TD, layer, config, i, cache, rotations[config.layers[i].rope])
    cache.commit(len(ids_T))
    return x_TD


def block(x_TD: np.ndarray, layer: Layer, config: Config, i: int, cache: KVCache, rotation) -> np.ndarray:
    """Layer i: x + attention(norm(x)), then x + ffn(norm(x)); (T, D) -> (T, D)."""
    y_TD = attention(rms_norm(x_TD, layer.attn_norm, config.norm_eps), layer, config, i, cache, rotation)
    if config.post_norms:
        y_TD = rms_norm(y_TD, layer.post_attention_norm, config.norm_eps)
    y_TD += x_TD
    x_TD = y_TD
    y_TD = gated_ffn(rms_norm(x_TD, layer.ffn_norm, config.norm_eps), layer, config.activation)
    if config.post_norms:
        y_TD = rms_norm(y_TD, layer.post_ffw_norm, config.norm_eps)
    y_TD += x_TD
    return y_TD


def unembed(weights: Weights, config: Config, x_TD: np.ndarray) -> np.ndarray:
    """The logits of hidden states: how strongly each token of the vocabulary is expected next; (T, D) -> (T, V)."""
    return linear(rms_norm(x_TD, weights.output_norm, config.norm_eps), weights.output)


def prefill(weights: Weights, config: Config, ids_T: np.ndarray, cache: KVCache):
    """`forward` over a text of any length, chunk by chunk; yields the hidden states (at most CHUNK, D) of each."""
    for start in range(0, len(ids_T), CHUNK):
        yield forward(weights, config, ids_T[start : start + CHUNK], cache)

"""The transformer: embed, a stack of blocks, unembed; from token ids to the scores of every next token.

Shape key: T new tokens (of all texts together), D model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from . import ffn
from .cache import KVCache, Rows
from .config import Config, LayerPlan
from .linear import linear, look_up
from .mixers import kind_of
from .mixers.step import Step, make_step
from .ops import layer_norm, rms_norm, softcap
from .threads import across_rows
from .weights import Layer, Norm, Weights

# Prompts run in chunks of so many tokens, so that memory does not grow with the square of the prompt.
CHUNK = 512


def empty_cache(config: Config) -> KVCache:
    """A cache for one text, of what the mixer of each layer keeps."""
    mixers = [plan.mixer for plan in config.layers]
    return KVCache(Rows() if mixer is None else kind_of(mixer).state(mixer) for mixer in mixers)


def prefill(weights: Weights, config: Config, ids: Sequence[int], cache: KVCache) -> Iterator[np.ndarray]:
    """`forward` over a text of any length; yields the hidden states (at most CHUNK, D) of each chunk.

    The short chunk comes first: the last one holds the rows that a draft is checked by.
    """
    ids_T = np.asarray(ids)
    ends = range(len(ids_T) % CHUNK, len(ids_T) + 1, CHUNK)
    for start, end in pairwise([0, *ends] if ends[0] else ends):
        yield forward(weights, config, [(ids_T[start:end], cache)])


def forward(weights: Weights, config: Config, texts: Sequence[tuple[np.ndarray, KVCache]]) -> np.ndarray:
    """The last hidden states (T, D) of the new tokens of texts, after those in each one's cache.

    Their rows follow one another. The caches take the new tokens in. Reading a matrix from memory takes
    longer than multiplying a few rows by it, so a few texts cost little more than one: all rows go through
    each matrix together, and only a mixer looks at one text at a time.
    """
    step = make_step(texts, config.ropes, weights.rope_factors, weights.watcher)
    x_TD = step.see("inp_embd", -1, embed(weights, config, step))
    if config.per_layer is not None:
        rows_LTE = kind_of(config.per_layer).embed(x_TD, step.ids_T, weights.per_layer, config.per_layer)
        step = replace(step, per_layer_LTE=rows_LTE)
    for i, (layer, plan) in enumerate(zip(weights.layers, config.layers, strict=True)):
        x_TD = block(x_TD, layer, plan, config, step, i)
    for ids, cache in texts:
        cache.commit(len(ids))
    return x_TD


def embed(weights: Weights, config: Config, step: Step) -> np.ndarray:
    """The row of each new token in the embedding, and of its position where those are learned; (T, D)."""
    x_TD = look_up(weights.token_embd, step.ids_T)
    if config.embedding_scale is not None:
        x_TD *= np.float32(config.embedding_scale)
    if weights.position_embd is not None:
        x_TD += look_up(weights.position_embd, step.positions_T)
    return norm(x_TD, weights.embedding_norm, config)


def block(x_TD: np.ndarray, layer: Layer, plan: LayerPlan, config: Config, step: Step, i: int) -> np.ndarray:
    """Layer i: x + mixer(norm(x)), then x + ffn(norm(x)); (T, D) -> (T, D). What a layer lacks is None."""
    start_TD = x_TD
    if plan.mixer is not None:
        h_TD = step.see("attn_norm", i, norm(x_TD, layer.attn_norm, config))
        y_TD = step.see("attn_out", i, kind_of(plan.mixer).run(h_TD, layer.mixer, plan.mixer, step, i))
        y_TD = norm(y_TD, layer.post_attention_norm, config)
        x_TD = step.see("ffn_inp", i, add(x_TD, y_TD, config.residual_scale))
    if plan.ffn is not None:
        h_TD = norm(start_TD if config.parallel else x_TD, layer.ffn_norm, config)
        h_TD = step.see("ffn_norm", i, h_TD)
        y_TD = step.see("ffn_out", i, ffn.run(h_TD, layer.ffn, plan.ffn, start_TD, step, i))
        y_TD = norm(y_TD, layer.post_ffw_norm, config)
        x_TD = add(x_TD, y_TD, config.residual_scale)
    if config.per_layer is not None:
        x_TD, rows_TE = step.see("pe_in", i, x_TD), step.per_layer_LTE[i]
        x_TD = kind_of(config.per_layer).run(x_TD, rows_TE, layer.per_layer, config.per_layer)
    return step.see("l_out", i, x_TD if layer.output_scale is None else x_TD * layer.output_scale)


def add(x_TD: np.ndarray, y_TD: np.ndarray, scale: float | None) -> np.ndarray:
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
    y_TD = across_rows(lambda x_TD: rms_norm(x_TD, weights.gain, config.norm_eps), x_TD)
    return y_TD if weights.bias is None else y_TD + weights.bias


def unembed(weights: Weights, config: Config, x_TD: np.ndarray) -> np.ndarray:
    """The logits of hidden states: how strongly each token is expected next; (T, D) -> (T, V)."""
    h_TD = weights.watcher.see("result_norm", -1, norm(x_TD, weights.output_norm, config))
    logits_TV = linear(h_TD, weights.output)
    if config.logit_scale is not None:
        logits_TV *= np.float32(config.logit_scale)
    if config.final_softcap is not None:
        logits_TV = softcap(logits_TV, config.final_softcap)
    return weights.watcher.see("result_output", -1, logits_TV)

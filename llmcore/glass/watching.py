"""What has a name in a pass, and a model that is watched.

Names are those of llama.cpp's graph where it has one for the thing. Layers count from 0; what belongs to no
layer is seen with -1. Of several texts together arrays (T, ...) hold all rows, one text after another, and
what belongs to one text alone (marked "a text") is seen once for each.

Shape key: T new tokens, S cached + new, D model width, N query heads, K key/value heads, H head width, V
width of a value head or vocabulary, F feed-forward width, E experts, U experts used, P and Q widths of a
state.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from ..mixers.step import Watcher

NAMES = {  # name: shape and meaning, in the order of a pass
    "inp_embd": "(T, D): the rows of the tokens, before the first layer; layer -1",
    "attn_norm": "(T, D): the residual stream as the mixer reads it, normed",
    "Qcur": "(T, N, H): queries, after norm and RoPE; of latent attention in the space of its rows",
    "Kcur": "(T, K, H): keys, after norm and RoPE; of latent attention the rows that are cached",
    "Vcur": "(T, K, V): values",
    "kq_soft_max": "(N, T, S) a text: how much of each key's value a query takes; the last key is the newest",
    "kqv_out": "(T, N V): what each head found, before attn_output",
    "bcx": "(T, 3 D): the short convolution's two gates and its input: what enters, what leaves, what",
    "conv_output_gated": "(T, D): what the short convolution found, before its output",
    "gate": "(T, H) or (T, H, P): log of what a delta net keeps of its state, 0 or below",
    "beta": "(T, H): how far a delta net corrects what it finds under a key, 0 to 1",
    "q_conv": "(T, H, P) a text: a delta net's queries, of length 1",
    "k_conv": "(T, H, P) a text: a delta net's keys, of length 1",
    "v_conv": "(T, H, P) a text: a delta net's values",
    "attn_output": "(T, H, P): what a delta net read from its state",
    "dt": "(T, U) or (T, H): Mamba's step: how much of the past fades, how strongly a token is written",
    "conv_out": "(T, U) or (T, H, P) a text: what Mamba writes, after its convolution",
    "B": "(T, Q) or (T, G, Q) a text: where in the state Mamba writes",
    "C": "(T, Q) or (T, G, Q) a text: where in the state Mamba reads",
    "time_mix_norm": "(T, D): RWKV's row as its state reads it, normed",
    "rwkv": "(T, 6, H, K): what RWKV reads by, keeps, writes at, writes, corrects by and takes back at",
    "time_mix_out": "(T, D): what RWKV's state brings",
    "channel_mix_out": "(T, D): what RWKV's feed-forward brings",
    "new_state": "(H, P, Q) a text: the state of a recurrent layer after the new tokens",
    "new_conv": "(W, C) a text: the last rows that a convolution still needs",
    "final_output": "(T, U): what a recurrent mixer found, gated, before its output",
    "attn_out": "(T, D): what the mixer says, before a post norm",
    "ffn_inp": "(T, D): the residual stream after the mixer",
    "ffn_norm": "(T, D): the residual stream as the feed-forward reads it, normed",
    "ffn_moe_logits": "(T, E): the router's scores",
    "ffn_moe_topk": "(T, U): the experts chosen, best first",
    "ffn_moe_weights": "(T, U): how much each of them is heeded",
    "ffn_moe_out": "(T, D): what the experts say together",
    "ffn_shexp": "(T, D): what the shared expert says",
    "ffn_gate_up": "(T, 2 F): gates, then the hidden numbers that they let through",
    "ffn_up": "(T, F): hidden numbers, where there is no gate",
    "ffn_hidden": "(T, F): hidden numbers after activation and gate, before ffn_down",
    "ffn_out": "(T, D): what the feed-forward says, before a post norm",
    "pe_in": "(T, D): the residual stream before a layer's own embedding is added",
    "l_out": "(T, D): the residual stream after the layer",
    "result_norm": "(T, D): the residual stream as the output matrix reads it, normed; layer -1",
    "result_output": "(T, V): the logits; layer -1",
}


def watched(llm, see: Callable, names: Iterable[str] | None = None):
    """The same model, all of whose passes `see(name, layer, array)` looks at; see `LLM.watched`.

    A model that is watched already is seen by both, the first one first. Raises ValueError for a name that
    is none, and from a pass whose `see` returns an array of another shape.
    """
    wanted = frozenset(NAMES if names is None else [names] if isinstance(names, str) else names)
    if unknown := sorted(wanted - NAMES.keys()):
        raise ValueError(f"nothing is named {unknown[0]!r} in a pass; there are {', '.join(NAMES)}")
    before = llm.weights.watcher

    def look(name: str, layer: int, array: np.ndarray) -> np.ndarray:
        array = before.see(name, layer, array)
        return _asked(see, name, layer, array) if name in wanted else array

    watcher = Watcher(look, shares=before.shares or "kq_soft_max" in wanted)
    return replace(llm, weights=replace(llm.weights, watcher=watcher))


def _asked(see, name, layer, array):
    """The array, or a copy of what `see` puts in its place: the pass writes into its own arrays."""
    view = array.view()
    view.flags.writeable = False
    seen = see(name, layer, view)
    if seen is None or seen is view:
        return array
    new = np.array(seen, array.dtype)
    if new.shape != array.shape:
        where = "" if layer < 0 else f" of layer {layer}"
        raise ValueError(
            f"{name}{where} has the shape {array.shape}; what should take its place, {new.shape}"
        )
    return new

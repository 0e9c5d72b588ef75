"""Run a text with something changed: an array of another run put in its place, or nothing.

What changes in the answer tells what the array does: direct votes (votes.py) do not count what later layers
make of it. Vig et al. 2020, arXiv:2004.12265; Wang et al. 2022, arXiv:2211.00593.

Shape key: T tokens, N heads, V width of a value head or vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .keeping import STATES, keep
from .votes import attention_of


def head_at(llm, layer: int, head: int) -> tuple[slice, slice]:
    """Where in `kqv_out` (T, N V) of a layer one head stands."""
    _, plan, _ = attention_of(llm, layer)
    if not hasattr(plan, "n_heads") or not 0 <= head < plan.n_heads:
        raise ValueError(f"layer {layer} has no attention head {head}")
    width = plan.value_length
    return slice(None), slice(head * width, (head + 1) * width)


def ablate(llm, ids: Sequence[int], name: str, layer: int, at: Any = ..., value=0.0) -> np.ndarray:
    """The logits (T, V) of a text in whose run `array[at]` of one array (T, ...) is `value`.

    at  an index of the array: its first axis are the tokens of the text
    """

    def change(array):
        array[at] = value

    return _changed(llm, ids, name, layer, change)


def patch(llm, ids: Sequence[int], other_ids: Sequence[int], name: str, layer: int, at: Any = ...):
    """The logits (T, V) of a text in whose run `array[at]` is what it is in the run of another text.

    Texts of different length are patched at tokens that both have: `at` says which, and is the same in both.
    """
    there = keep(llm, other_ids, [name])
    if (name, layer) not in there:
        raise ValueError(f"layer {layer} has no {name}")
    source = there[name, layer]

    def change(array):
        array[at] = source[at]

    return _changed(llm, ids, name, layer, change)


def _changed(llm, ids, name, layer, change):
    """The logits of a run in which one array of the whole text was changed."""
    if name in (*STATES, "kq_soft_max"):
        raise ValueError(
            f"{name} is not a row for each token: change it in a `see` of your own, with LLM.watch"
        )
    kept = keep(llm, ids, [name])
    if (name, layer) not in kept:
        raise ValueError(f"layer {layer} has no {name}")
    new, n_seen = kept[name, layer], 0
    change(new)

    def see(_, i, array):
        nonlocal n_seen
        if i != layer:
            return None
        n_seen += len(array)
        return new[n_seen - len(array) : n_seen]

    return llm.watch(ids, see, [name])

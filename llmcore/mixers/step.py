"""What the layers are told of a pass: the new tokens, of one text or of several, and who looks on.

Arrays that have a name pass through `step.see(name, layer, array)`, so that somebody may look at them, or put
others in their place; glass/ lists the names. Where nobody looks they go on as they are.

Shape key: T new tokens, N query heads, S cached + new, L layers, R rotating pairs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from ..cache import KVCache
from .rope import Rope


@dataclass(frozen=True)
class Watcher:
    """Who looks on: `see(name, layer, array)` returns the array, or another, which goes on in its place."""

    see: Callable[[str, int, np.ndarray], np.ndarray] = lambda name, layer, array: array
    shares: bool = False  # whether attention's shares are made to be seen; nothing else needs them


NOBODY = Watcher()


@dataclass(frozen=True)
class Step:
    """The new tokens of one pass, of one text or of several; made once, read by every layer."""

    ids_T: np.ndarray
    positions_T: np.ndarray
    texts: list[tuple[slice, KVCache]]  # which rows of x are whose
    rotations: dict[Rope, np.ndarray]  # complex (T, R)
    # What a layer hands to later ones of this pass
    handed: dict[str, np.ndarray] = field(default_factory=dict)
    per_layer_LTE: Any = None  # see ffn/per_layer.py
    watcher: Watcher = NOBODY

    @property
    def see(self) -> Callable[[str, int, np.ndarray], np.ndarray]:
        """What every array that has a name passes through: `see(name, layer, array) -> array`."""
        return self.watcher.see


def make_step(
    texts: Sequence[tuple[np.ndarray, KVCache]],
    ropes: Iterable[Rope],
    factors_R: np.ndarray | None,
    watcher: Watcher = NOBODY,
) -> Step:
    """The step in which each text's new ids (T,) follow what its cache holds, one text after another."""
    stops = accumulate(len(ids) for ids, _ in texts)

    def joined(parts):
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return Step(
        ids_T=joined([ids for ids, _ in texts]),
        positions_T=joined([np.arange(cache.length, cache.length + len(ids)) for ids, cache in texts]),
        texts=[
            (slice(stop - len(ids), stop), cache) for stop, (ids, cache) in zip(stops, texts, strict=True)
        ],
        rotations={
            rope: joined([cache.rotations(rope, len(ids), factors_R) for ids, cache in texts])
            for rope in ropes
        },
        watcher=watcher,
    )

"""The KV cache: what the layers keep of every token so far, so that a new token costs one row and not the
whole text.

An attention layer keeps `Rows`, a key and a value a token, which are only ever added to. A recurrent layer
keeps a `State`, which every pass replaces.

Shape key: T new tokens, S rows held + new, K key/value heads, H head width, R rotating pairs.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .mixers.rope import Rope, rope_table
from .mixers.state import State

ROOM = 256  # rows that a layer has room for at first, and by which a windowed layer's room exceeds its window


class Rows:
    """The rows of one layer from token `first` on; a windowed layer forgets those that no query will see."""

    def __init__(self, window: int | None = None):
        """An empty one; memory is taken as it fills, not for the whole context."""
        self.window, self.first = window, 0
        self.arrays: list[np.ndarray] = []

    def append(self, length: int, new_TKH: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Write rows behind the first `length` tokens; returns views (K, S, H) of all rows up to the last."""
        n_new = len(new_TKH[0])
        if not self.arrays:
            self.arrays = [np.empty((new.shape[1], 0, new.shape[2]), np.float32) for new in new_TKH]
        if length + n_new - self.first > self.arrays[0].shape[1]:
            self._make_room(length, n_new)
        start = length - self.first
        for array, new in zip(self.arrays, new_TKH, strict=True):
            array[:, start : start + n_new] = new.swapaxes(0, 1)
        return self.read(length + n_new)

    def read(self, length: int) -> list[np.ndarray]:
        """Views (K, S, H) of all rows up to that of the last of `length` tokens."""
        return [array[:, : length - self.first] for array in self.arrays]

    def _make_room(self, length, n_new):
        """Move the rows that may still be seen to the front of arrays with room for the new ones."""
        room = max(ROOM, 2 * self.arrays[0].shape[1])
        keep_from = self.first
        if self.window is not None:
            keep_from = max(self.first, length + 1 - self.window)  # the next query stands at `length`
            room = min(room, self.window + ROOM)
        n_kept, arrays = length - keep_from, []
        for array in self.arrays:
            n_heads, _, width = array.shape
            arrays.append(np.empty((n_heads, max(room, n_kept + n_new), width), np.float32))
            arrays[-1][:, :n_kept] = array[:, keep_from - self.first : length - self.first]
        self.first, self.arrays = keep_from, arrays  # together, so that an interrupt finds the old or the new

    def commit(self, before: int, after: int) -> None:
        """Nothing to do: rows past the committed length are written over."""

    def keep(self, length: int) -> None:
        """Nothing to do: rows stay until no query will see them."""

    def reach(self, length: int) -> int:
        """How many tokens it can go back to: `length`, or 0 where a row that is needed is forgotten."""
        return length if self.first <= (0 if self.window is None else max(0, length + 1 - self.window)) else 0

    def truncate(self, length: int) -> None:
        """Forget the tokens past `length`, which `reach` has found."""
        if length == 0:
            self.first, self.arrays = 0, []


class KVCache:
    """What each layer keeps of one text, and `length`, the number of tokens that all layers have taken in.

    The one mutable object of the engine, owned by the caller of `model.forward`. Layers write what is new
    during a pass; `commit` counts it once all have, so that an exception in between leaves the cache as it
    was.
    """

    def __init__(self, layers: Iterable[Rows | State]):
        """An empty cache; `mixers.empty_cache` makes the layers of a model."""
        self.length = 0
        self.layers: list[Any] = list(layers)
        self._rotations: dict[Rope, np.ndarray] = {}

    def append(self, i: int, *new_TKH: np.ndarray) -> list[np.ndarray]:
        """Write the rows of T new tokens of layer i behind the committed ones: keys and values, or what else
        it keeps.

        Returns for each (T, K, H) a view (K, S, H) of the rows a query may see, which end with the new ones.
        """
        return self.layers[i].append(self.length, new_TKH)

    def read(self, i: int, n_new: int) -> list[np.ndarray]:
        """What `append` returned to layer i in this pass of n_new tokens."""
        return self.layers[i].read(self.length + n_new)

    def state(self, i: int) -> list[np.ndarray]:
        """The state of recurrent layer i after the committed tokens."""
        return self.layers[i].read(self.length)

    def rotations(self, rope: Rope, n_tokens: int, factors_R: np.ndarray | None) -> np.ndarray:
        """RoPE's rotations at the next positions, complex (n_tokens, R), out of a table that grows."""
        stop = self.length + n_tokens
        if rope not in self._rotations or len(self._rotations[rope]) < stop:
            self._rotations[rope] = rope_table(rope, np.arange(max(ROOM, 2 * stop)), factors_R)
        return self._rotations[rope][self.length : stop]

    def commit(self, n_tokens: int) -> None:
        """Count n_tokens more, once every layer has taken them in."""
        for layer in self.layers:
            layer.commit(self.length, self.length + n_tokens)
        self.length += n_tokens

    def keep(self) -> None:
        """Remember this place: `truncate` can come back to it though a layer is recurrent. Few count."""
        for layer in self.layers:
            layer.keep(self.length)

    def truncate(self, length: int) -> int:
        """Forget the tokens past `length`; returns how many are left, which the caller must heed.

        They may be fewer: a windowed layer may have forgotten rows that the next query would see, and a
        recurrent layer can go back only to the states that are kept. The caller processes what the cache then
        lacks.
        """
        if length >= self.length:
            return self.length
        while (reached := min((layer.reach(length) for layer in self.layers), default=length)) < length:
            length = reached
        for layer in self.layers:
            layer.truncate(length)
        self.length = length
        return length

    @property
    def nbytes(self) -> int:
        """Bytes of memory held now."""
        return sum(array.nbytes for layer in self.layers for array in layer.arrays)

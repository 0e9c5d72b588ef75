"""The KV cache: what attention keeps of every token so far, so that a new token costs one row and not the whole text.

Shape key: T new tokens, S rows held + new, K key/value heads, H head width, R rotating pairs.
"""

import numpy as np

from .config import Config, Rope
from .ops import rope_table

ROOM = 256  # rows that a layer has room for at first, and by which a windowed layer's room exceeds its window


class KVCache:
    """Rows of each layer, and `length`, the number of tokens whose rows are complete.

    The one mutable object of the engine, owned by the caller of `model.forward`. Every layer appends its rows; `commit`
    counts them once all layers have, so that an exception in between leaves the cache as it was.
    """

    def __init__(self, config: Config):
        """An empty cache; memory is taken as it fills, not for the whole context."""
        self.length = 0
        self._layers = [_Rows(layer.window) for layer in config.layers]
        self._turns: dict[Rope, np.ndarray] = {}

    def append(self, layer: int, *new_TKH: np.ndarray) -> list[np.ndarray]:
        """Write the rows of T new tokens behind the committed ones: keys and values, or what else a layer keeps.

        Returns for each (T, K, H) a view (K, S, H) of the rows a query may see, which end with the new ones.
        """
        return self._layers[layer].append(self.length, new_TKH)

    def turns(self, rope: Rope, n_tokens: int, factors_R: np.ndarray | None) -> np.ndarray:
        """RoPE's turns at the positions of the next tokens, complex (n_tokens, R), out of a table that grows with use.

        To work out one row for each token would take 0.03 ms of 13.
        """
        stop = self.length + n_tokens
        if rope not in self._turns or len(self._turns[rope]) < stop:
            self._turns[rope] = rope_table(rope, np.arange(max(ROOM, 2 * stop)), factors_R)
        return self._turns[rope][self.length : stop]

    def commit(self, n_tokens: int) -> None:
        """Count n_tokens more, once every layer has appended them."""
        self.length += n_tokens

    def truncate(self, length: int) -> int:
        """Forget the tokens past `length`; returns how many are left: `length`, or 0 where a windowed layer has already
        forgotten rows that the next query would see."""
        if not all(rows.reaches_back_from(length) for rows in self._layers):
            length = 0
            self._layers = [_Rows(rows.window) for rows in self._layers]
        self.length = min(length, self.length)
        return self.length

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return sum(array.nbytes for rows in self._layers for array in rows.arrays)


class _Rows:
    """The rows of one layer, from that of token `first` on; a windowed layer forgets those that no query will see."""

    def __init__(self, window):
        self.window, self.first, self.arrays = window, 0, []

    def reaches_back_from(self, length):
        """Whether all rows are held that a query at position `length` would see."""
        return self.first <= (0 if self.window is None else max(0, length + 1 - self.window))

    def append(self, length, new_TKH):
        """Write rows behind the first `length` tokens; returns views of all rows held up to the last of them."""
        n_new = len(new_TKH[0])
        if not self.arrays:
            self.arrays = [np.empty((new.shape[1], 0, new.shape[2]), np.float32) for new in new_TKH]
        if length + n_new - self.first > self.arrays[0].shape[1]:
            self._make_room(length, n_new)
        start = length - self.first
        for array, new in zip(self.arrays, new_TKH, strict=True):
            array[:, start : start + n_new] = new.swapaxes(0, 1)
        return [array[:, : start + n_new] for array in self.arrays]

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

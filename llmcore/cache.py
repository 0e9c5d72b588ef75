"""The KV cache: the keys and values of every token so far, so that a new token costs one row and not the whole text.

Shape key: T new tokens, S cached + new, K key/value heads, H head width.
"""

import numpy as np

from .config import Config

FIRST_ROWS = 256  # the room a layer starts with; it doubles whenever it is full


class KVCache:
    """Keys and values of each layer, (K, rows, H), and `length`, the number of tokens whose rows are complete.

    The one mutable object of the engine, owned by the caller of `model.forward`. Every layer appends its rows; `commit`
    counts them once all layers have, so that an exception in between leaves the cache as it was.
    """

    def __init__(self, config: Config):
        """An empty cache; memory is taken as it fills, not for the whole context."""
        self.length = 0
        widths = (config.key_length, config.value_length)
        self._layers = [
            [np.empty((config.n_kv_heads, 0, width), np.float32) for width in widths] for _ in config.layers
        ]

    def append(self, layer: int, k_TKH: np.ndarray, v_TKH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Write the rows of T new tokens behind the committed ones; returns views of all S rows, (K, S, H) each."""
        start, stop = self.length, self.length + len(k_TKH)
        store = self._layers[layer]
        for i, new_TKH in enumerate((k_TKH, v_TKH)):
            if stop > store[i].shape[1]:
                store[i] = _with_room(store[i], start, stop)
            store[i][:, start:stop] = new_TKH.swapaxes(0, 1)
        return store[0][:, :stop], store[1][:, :stop]

    def commit(self, n_tokens: int) -> None:
        """Count n_tokens more, once every layer has appended them."""
        self.length += n_tokens

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return sum(rows.nbytes for store in self._layers for rows in store)


def _with_room(rows_KSH, used, needed):
    """A copy of the `used` rows in an array with room for twice as many, and at least for those `needed`."""
    n_heads, room, width = rows_KSH.shape
    larger_KSH = np.empty((n_heads, max(2 * room, needed, FIRST_ROWS), width), np.float32)
    larger_KSH[:, :used] = rows_KSH[:, :used]
    return larger_KSH

"""The caches of texts that were read, so that a prompt that begins like one of them is not read again."""

from collections import deque
from collections.abc import Iterable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass

import numpy as np

from ..cache import KVCache, Rows

LEAST = 16  # tokens in common that are worth the search and the copy


@dataclass(frozen=True, eq=False)
class Read:
    """A text that was read: the cache holds the first `cache.length` of its ids."""

    ids: Sequence[int]
    cache: KVCache


class Prefixes:
    """Caches of texts that are over, the latest last; at most `n_most` and `n_bytes` of them."""

    def __init__(self, n_most: int, n_bytes: int):
        """None yet."""
        self.n_most, self.n_bytes = n_most, n_bytes
        self._kept: deque[Read] = deque()

    @property
    def nbytes(self) -> int:
        """Bytes of memory held now."""
        return sum(read.cache.nbytes for read in self._kept)

    def keep(self, read: Read) -> None:
        """Keep the cache of a text that is over, and forget the oldest ones where they become too many."""
        if read.cache.length >= LEAST:
            self._kept.append(read)
        while self._kept and (len(self._kept) > self.n_most or self.nbytes > self.n_bytes):
            self._kept.popleft()

    def forget(self) -> bool:
        """Forget all of them; returns whether there were any."""
        there = bool(self._kept)
        self._kept.clear()
        return there

    def take(self, ids: Sequence[int], running: Iterable[Read]) -> KVCache | None:
        """A cache that holds the first tokens of `ids`, as many as any has, but never all; None if none has.

        A cache that is kept is handed out itself where the new text goes on from most of it. Else, and from
        the texts that are `running`, what is common is copied: the others need theirs.
        """
        found = [(in_common(read, ids), read) for read in (*self._kept, *running)]
        n, best = max(found, key=lambda pair: pair[0], default=(0, None))
        if best is None or n < LEAST:
            return None
        if best in self._kept and n >= best.cache.length // 2:
            self._kept.remove(best)
            cache = best.cache
        else:
            cache = copied(best.cache, n)
        cache.truncate(n)
        return cache


def in_common(read: Read, ids: Sequence[int]) -> int:
    """How many of the ids a cache holds, and can go back to. One is left out: its logits choose the next."""
    most = min(read.cache.length, len(ids) - 1)
    different = np.flatnonzero(np.asarray(read.ids[:most]) != np.asarray(ids[:most]))
    return reach(read.cache, int(different[0]) if len(different) else most)


def reach(cache: KVCache, length: int) -> int:
    """What `cache.truncate(length)` would return."""
    while (reached := min((layer.reach(length) for layer in cache.layers), default=length)) < length:
        length = reached
    return length


def copied(cache: KVCache, length: int) -> KVCache:
    """Another cache that holds what this one does, at least of the first `length` tokens."""
    other = copy(cache)  # the rotations are shared: they are the same for every text
    other.layers = [copied_layer(layer, length) for layer in cache.layers]
    return other


def copied_layer(layer, length):
    """The same layer with arrays of its own; of rows only those of the first `length` tokens."""
    if not isinstance(layer, Rows):
        return deepcopy(layer)
    other = copy(layer)
    other.arrays = [array[:, : length - layer.first].copy() for array in layer.arrays]
    return other

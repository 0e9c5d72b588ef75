"""Keep arrays of a run, whole texts at a time.

Shape key: T tokens of the text, S keys, N query heads.
"""

from collections.abc import Iterable, Sequence

import numpy as np

STATES = ("new_state", "new_conv")  # of these the last of a run is kept


def keep(
    llm, ids: Sequence[int], names: Iterable[str], rows: Sequence[int] | slice = slice(None)
) -> dict[tuple[str, int], np.ndarray]:
    """The arrays of these names in one run over a text, {(name, layer): array}.

    rows  the tokens whose rows are kept: of (T, ...) the first axis, of (N, T, S) the second

    Shares are padded with zeros to S = T keys. A long text runs in chunks; its rows are put together.
    """
    names = [names] if isinstance(names, str) else list(names)
    wanted = np.arange(len(ids))[rows]
    keeper = Keeper(wanted, len(ids))
    llm.watch(ids, keeper.see, {"inp_embd", *names})
    return {key: array for key, array in keeper.arrays.items() if key[0] in names}


class Keeper:
    """A watcher that keeps copies of some rows of what it sees in the passes over one text."""

    def __init__(self, rows: np.ndarray, n_tokens: int):
        """Of a text of n_tokens, these rows."""
        self.arrays: dict[tuple[str, int], np.ndarray] = {}
        self._rows, self._n_tokens = rows, n_tokens
        self._start = self._stop = 0

    def see(self, name: str, layer: int, array: np.ndarray) -> None:
        """Copy what is wanted, in the same order in memory, which decides the last bits of later products."""
        if name == "inp_embd":  # the first of a pass
            self._start, self._stop = self._stop, self._stop + len(array)
        here = (self._rows >= self._start) & (self._rows < self._stop)
        at = self._rows[here] - self._start
        shares = name == "kq_soft_max"
        whole = not shares and len(at) == len(array) == len(self._rows)
        if name in STATES or whole:
            self.arrays[name, layer] = array.copy("K")
        elif shares:
            self._put((name, layer), here, self._padded(array[:, at]), axis=1)
        else:
            self._put((name, layer), here, array[at], axis=0)

    def _padded(self, shares_NTS):
        """The same with a column for each token of the text: the last of S is the newest so far."""
        N, T, S = shares_NTS.shape
        padded = np.zeros((N, T, self._n_tokens), np.float32)
        padded[:, :, self._stop - S : self._stop] = shares_NTS
        return padded

    def _put(self, key, here, part, axis):
        if key not in self.arrays:
            shape = list(part.shape)
            shape[axis] = len(self._rows)
            self.arrays[key] = np.zeros(shape, part.dtype)
        self.arrays[key][(slice(None),) * axis + (here,)] = part

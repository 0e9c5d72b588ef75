"""Keep arrays of a run over a text.

Shape key: T tokens of a pass, S cached + new, R rows kept, C columns kept, N query heads.
"""

from collections.abc import Iterable, Sequence

import numpy as np

STATES = ("new_state", "new_conv")  # no row a token, but one array a pass
BETWEEN = -1  # the column that sums the tokens which have none of their own


def keep(
    llm, ids: Sequence[int], names: Iterable[str], rows: Sequence[int] | slice = slice(None)
) -> dict[tuple[str, int], np.ndarray]:
    """The arrays of these names in one run over a text, {(name, layer): array}.

    rows  the tokens whose rows are kept: of (T, ...) the first axis, of (N, T, S) the second

    Shares have a column for each token of the text, 0 where a query sees none. A long text runs in chunks;
    its rows are put together, and of states the last is kept.
    """
    names = [names] if isinstance(names, str) else list(names)
    every = np.arange(len(ids))
    keeper = Keeper(every[rows], every)
    llm.watch(ids, keeper.see, {"inp_embd", *names})
    found = keeper.arrays | {key: arrays[-1] for key, arrays in keeper.states.items()}
    return {key: array for key, array in found.items() if key[0] in names}


class Keeper:
    """A watcher that keeps copies of some rows of what it sees in the passes over one text, reduced array by
    array: whole patterns of a long text are too much to keep.
    """

    def __init__(self, rows: np.ndarray, columns: np.ndarray):
        """Of a text, the rows at these positions; of shares also these columns, BETWEEN among them or not."""
        self.arrays: dict[tuple[str, int], np.ndarray] = {}
        self.states: dict[tuple[str, int], list[np.ndarray]] = {}
        self._rows, self._columns = rows, columns
        self._stop = 0  # the position after the last token of the pass

    def see(self, name: str, layer: int, array: np.ndarray) -> None:
        """Keep what is wanted of an array."""
        if name == "inp_embd":  # the first of a pass
            self._stop += len(array)
        if name in STATES:
            self.states.setdefault((name, layer), []).append(array.copy())
            return
        axis = 1 if name == "kq_soft_max" else 0
        start = self._stop - array.shape[axis]
        here = (self._rows >= start) & (self._rows < self._stop)
        if axis == 0 and len(self._rows) == len(array) and here.all():
            # The same order in memory, which decides the last bits of later products
            self.arrays[name, layer] = array.copy("K")
            return
        found = array.take(self._rows[here] - start, axis)
        if axis:
            found = self._columns_of(found)
        if (name, layer) not in self.arrays:
            shape = list(found.shape)
            shape[axis] = len(self._rows)
            self.arrays[name, layer] = np.zeros(shape, found.dtype)
        self.arrays[name, layer][(slice(None),) * axis + (here,)] = found

    def _columns_of(self, shares_NTS):
        """(N, T, S) -> (N, T, C); the last of S is the newest key so far, and a window has cut the first."""
        first = self._stop - shares_NTS.shape[2]
        out = np.zeros((*shares_NTS.shape[:2], len(self._columns)), np.float32)
        there = (self._columns >= first) & (self._columns < self._stop)
        out[:, :, there] = shares_NTS[:, :, self._columns[there] - first]
        for c in np.flatnonzero(self._columns == BETWEEN):
            begin, end = self._columns[c - 1] + 1, self._columns[c + 1]
            between = shares_NTS[:, :, max(begin - first, 0) : max(end - first, 0)]
            out[:, :, c] = between.sum(axis=2)
        return out

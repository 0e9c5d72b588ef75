"""What a recurrent layer keeps of a text, in place of a row for each token."""

import numpy as np

MARKS = 4  # states that `KVCache.keep` holds on to


class State:
    """What a recurrent layer keeps: arrays of fixed shapes, replaced at each pass, zeros before the first
    token.

    Earlier states are gone, but for a few that are kept by reference: that before the last pass, so that a
    guess which was wrong costs one pass, and those that `keep` was asked for.
    """

    def __init__(self, *shapes: tuple[int, ...]):
        """The state before the first token."""
        self.arrays: list[np.ndarray] = [np.zeros(shape, np.float32) for shape in shapes]
        self._pending: list[np.ndarray] | None = None
        self._at = {0: self.arrays}  # number of tokens -> the state after them
        self._marks: list[int] = []

    def read(self, length: int) -> list[np.ndarray]:
        """The arrays after the first `length` tokens, to be read and not to be written to."""
        return self._at[length]

    def replace(self, *arrays: np.ndarray) -> None:
        """The arrays after the tokens of this pass; they count once it is committed."""
        self._pending = list(arrays)

    def commit(self, before: int, after: int) -> None:
        """The pass that led from the first `before` tokens to `after` is complete."""
        keep = {0, before, *self._marks}
        kept = {length: arrays for length, arrays in self._at.items() if length in keep}
        assert self._pending is not None  # every pass replaces the state
        kept[after] = self.arrays = self._pending
        self._at, self._pending = kept, None

    def keep(self, length: int) -> None:
        """Hold on to the state after `length` tokens; of so many MARKS the latest stay."""
        self._marks = [*(mark for mark in self._marks if mark < length), length][-MARKS:]

    def kept(self) -> tuple[dict[int, list[np.ndarray]], list[int]]:
        """The states that are kept, by the number of tokens before each, and the marks; see `restore`."""
        return {length: arrays for length, arrays in self._at.items() if length}, list(self._marks)

    def restore(self, at: dict[int, list[np.ndarray]], marks: list[int]) -> None:
        """Have what `kept` told."""
        self._at, self._marks = {0: self._at[0], **at}, list(marks)
        self.arrays = self._at[max(self._at)]

    def reach(self, length: int) -> int:
        """How many tokens it can go back to, at most `length`."""
        return max(at for at in self._at if at <= length)

    def truncate(self, length: int) -> None:
        """Forget the tokens past `length`, which `reach` has found."""
        self._at = {at: arrays for at, arrays in self._at.items() if at <= length}
        self._marks = [mark for mark in self._marks if mark <= length]
        self.arrays = self._at[length]

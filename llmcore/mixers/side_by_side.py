"""Attention and Mamba-2 side by side: both read one normed input, and what they say is added (Falcon-H1).

    y = attention(x) + mamba2(x)

Attention finds any single token again, at the cost of a row for each; the state sums up the whole text at no
cost a token. Zuo et al. 2025, arXiv:2507.22448. Cached: what both keep.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..cache import Rows, State
from . import attention, mamba2
from .rope import Rope
from .step import Step


@dataclass(frozen=True)
class SideBySide:
    """The plan of a layer with both."""

    attention: attention.Attention
    mamba2: mamba2.Mamba2

    @property
    def rope(self) -> Rope | None:
        """How positions rotate attention's queries and keys."""
        return self.attention.rope


@dataclass(frozen=True)
class Weights:
    """The numbers of both."""

    attention: attention.Weights
    mamba2: mamba2.Weights


class RowsAndState:
    """What a layer keeps that attends and is recurrent as well."""

    def __init__(self, rows: Rows, state: State):
        """Both, empty; each of them is used as if it were alone."""
        self._rows, self._state = rows, state
        self.append, self.read, self.replace = rows.append, state.read, state.replace

    @property
    def arrays(self) -> list[np.ndarray]:
        """The arrays of both."""
        return self._rows.arrays + self._state.arrays

    def commit(self, before: int, after: int) -> None:
        """The pass that led from the first `before` tokens to `after` is complete."""
        self._state.commit(before, after)

    def keep(self, length: int) -> None:
        """Hold on to the state after `length` tokens."""
        self._state.keep(length)

    def reach(self, length: int) -> int:
        """How many tokens it can go back to, at most `length`; the rows may have to ask again from there."""
        return min(self._rows.reach(length), self._state.reach(length))

    def truncate(self, length: int) -> None:
        """Forget the tokens past `length`, which `reach` has found."""
        self._rows.truncate(length)
        self._state.truncate(length)


def read(keys, family, i: int) -> SideBySide:
    """The plan of layer i. Raises ModelFileError and UnsupportedModel."""
    recurrent = replace(mamba2.read(keys, family, i), must_norm=False)
    return SideBySide(attention.read(keys, family, i), recurrent)


def take(tensors, plan: SideBySide, d_model: int, blk: str) -> Weights:
    """The weights of the layer whose tensors begin with `blk`."""
    return Weights(
        attention.take(tensors, plan.attention, d_model, blk), mamba2.take(tensors, plan.mamba2, d_model, blk)
    )


def state(plan: SideBySide) -> RowsAndState:
    """What the cache keeps: attention's rows and Mamba-2's state."""
    return RowsAndState(attention.state(plan.attention), mamba2.state(plan.mamba2))


def run(x_TD: np.ndarray, w: Weights, plan: SideBySide, step: Step, i: int) -> np.ndarray:
    """The sum of both for layer i; (T, D) -> (T, D)."""
    y_TD = attention.run(x_TD, w.attention, plan.attention, step, i)
    y_TD += mamba2.run(x_TD, w.mamba2, plan.mamba2, step, i)
    return y_TD

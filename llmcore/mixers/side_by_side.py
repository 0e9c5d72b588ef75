"""Attention and Mamba-2 side by side: both read the same normed input, and what they say is added (Falcon-H1).

    y = attention(x) + mamba2(x)

Attention finds any single token again, at the cost of a row for each; the state sums up the whole text at no
cost a token. Zuo et al. 2025, arXiv:2507.22448. Cached: what both keep.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..cache import RowsAndState, Step
from ..rope import Rope
from . import attention, mamba2


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

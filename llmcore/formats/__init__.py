"""Block formats: packed bits -> integers and scales. A file for each kind, loaded when a model has tensors of it.

A decoder is named after its format. It takes the fields of n blocks, in the order of `quants.FORMATS`: float16 as float32
(n, 1), anything else as bytes (n, size); it returns a `Block`. Layouts are those of ggml (ggml-common.h) as the gguf
package reads them; "bits" is bits per weight with everything included. Bits move up by multiplication: in NumPy, `q << 4`
on bytes takes ten times as long as `q * 16`.
"""

from typing import NamedTuple

import numpy as np


class Scales(NamedTuple):
    """Scales (or offsets) of groups of weights: a number for each, or that of its block times a small integer."""

    unit: np.ndarray  # float32 (..., blocks, 1)
    steps: np.ndarray | None = None  # int8 (..., blocks, groups of a block); None: a block is one group

    def product(self) -> np.ndarray:
        """The scale of each group, float32 (..., blocks, groups of a block)."""
        return self.unit if self.steps is None else self.unit * self.steps


class Block(NamedTuple):
    """What n blocks say: weight = q * scale (+ offset)."""

    q: np.ndarray  # (n, weights of a block), bytes
    scale: Scales
    offset: Scales | None = None


def split(packed: np.ndarray, bits: int, run: int) -> np.ndarray:
    """Cut bytes (n, size) into fields of `bits` bits: (n, size * 8 // bits).

    Each `run` bytes of a block hold 8 // bits runs of fields: first the lowest bits of all of them, then the next, ...

    >>> split(np.array([[0x21, 0x43]], np.uint8), bits=4, run=2)
    array([[1, 3, 2, 4]], dtype=uint8)
    """
    item = f"V{run}"  # a run moves as one item: runs of 16 bytes split 2.5 times faster than byte by byte
    fields = np.empty((packed.size // run, 8 // bits), item)
    for i in range(8 // bits):
        fields[:, i] = (packed >> bits * i).ravel().view(item)
    fields = fields.view(np.uint8).reshape(len(packed), packed.shape[1] * 8 // bits)
    fields &= (1 << bits) - 1
    return fields


def signed(q: np.ndarray, zero: int) -> np.ndarray:
    """Unsigned fields that count from `-zero` -> int8."""
    q = q.view(np.int8)
    q -= zero
    return q

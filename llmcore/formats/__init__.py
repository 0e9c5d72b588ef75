"""Block formats: packed bits -> integers and scales. A file a kind, loaded when a model has tensors of it.

A decoder is named after its format. It takes the fields of n blocks, in the order of `FORMATS`: float16 as
float32 (n, 1), anything else as bytes (n, size); it returns a `Block`. Layouts are those of ggml
(ggml-common.h) as the gguf package reads them; "bits" is bits per weight with everything included. Bits move
up by multiplication: in NumPy `q * 16` is much faster than `q << 4` on bytes.
"""

from typing import NamedTuple

import numpy as np


class Scales(NamedTuple):
    """Scales (or offsets) of groups of weights: a number each, or that of the block times a small integer."""

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

    Each `run` bytes of a block hold 8 // bits runs of fields: first the lowest bits of all of them, then the
    next, ...

    >>> split(np.array([[0x21, 0x43]], np.uint8), bits=4, run=2)
    array([[1, 3, 2, 4]], dtype=uint8)
    """
    item = f"V{run}"  # a run moves as one item: faster than byte by byte
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


class Format(NamedTuple):
    """The layout of a block."""

    file: str  # of formats/, which holds the decoder
    weights: int  # in a block
    group: int  # weights that share a scale
    dtype: np.dtype  # of a block

    @property
    def has_offset(self) -> bool:
        """Whether weights are q * scale + offset."""
        return "offset" in (self.dtype.names or ())


def fields(text: str) -> np.dtype:
    """The name and type of each field, in the order of the file; "16u1" is 16 bytes.

    Made once, at import: NumPy reads "16u1" by `ast`, which fails if threads of Python 3.11 meet in it.
    """
    return np.dtype([tuple(field.split()) for field in text.split(", ")])


FORMATS = {
    "Q4_0": Format("simple", 32, 32, fields("scale <f2, q 16u1")),
    "Q4_1": Format("simple", 32, 32, fields("scale <f2, offset <f2, q 16u1")),
    "Q5_0": Format("simple", 32, 32, fields("scale <f2, high <u4, low 16u1")),
    "Q5_1": Format("simple", 32, 32, fields("scale <f2, offset <f2, high <u4, low 16u1")),
    "Q8_0": Format("simple", 32, 32, fields("scale <f2, q 32i1")),
    "Q2_K": Format("k", 256, 16, fields("scales 16u1, q 64u1, scale <f2, offset <f2")),
    "Q3_K": Format("k", 256, 16, fields("high 32u1, low 64u1, scales_low 8u1, scales_high 4u1, scale <f2")),
    "Q4_K": Format("k", 256, 32, fields("scale <f2, offset <f2, scales 4u1, offsets 4u1, rest 4u1, q 128u1")),
    "Q5_K": Format(
        "k", 256, 32, fields("scale <f2, offset <f2, scales 4u1, offsets 4u1, rest 4u1, high 32u1, low 128u1")
    ),
    "Q6_K": Format("k", 256, 16, fields("low 128u1, high 64u1, scales 16i1, scale <f2")),
    "IQ4_NL": Format("other", 32, 32, fields("scale <f2, q 16u1")),
    "IQ4_XS": Format("other", 256, 32, fields("scale <f2, scales_high <u2, scales_low 4u1, q 128u1")),
    "MXFP4": Format("other", 32, 32, fields("exponent u1, q 16u1")),
    "TQ1_0": Format("other", 256, 256, fields("q32 32u1, q16 16u1, q4 4u1, scale <f2")),
    "TQ2_0": Format("other", 256, 256, fields("q 64u1, scale <f2")),
}

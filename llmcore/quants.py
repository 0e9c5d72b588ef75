"""Block quantization: the packed bits of a tensor -> integers, scales and offsets -> float32.

A quantized tensor is a run of blocks. Whatever its format, a block says one thing:

    weight = q * scale (+ offset)        q a small integer; scale and offset shared by a group of 16, 32 or 256 weights

Formats differ in how many bits q has and in where those bits are. The "K" formats, 256 weights to a block, quantize the
scales of their groups too: a group's scale is a small integer times the block's own float16. Layouts are those of ggml
(ggml-common.h) as the gguf package reads them; "bits" below is bits per weight with everything included.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .errors import UnsupportedModel

# Weights expanded at a time: few enough for the cache (1 MB of float32), many enough to hide the cost of NumPy calls
# and, with threads, of passing the GIL around. Half as many take 1.1 to 1.35 times as long, twice as many 1 to 1.1.
TILE = 1 << 18


def _split(packed, bits, run):
    """Cut bytes (n, size) into fields of `bits` bits: (n, size * 8 // bits).

    Each `run` bytes of a block hold 8 // bits runs of fields: first the lowest bits of all of them, then the next, ...
    """
    item = f"V{run}"  # a run moves as one item: runs of 16 bytes split 2.5 times faster than byte by byte
    fields = np.empty((packed.size // run, 8 // bits), item)
    for i in range(8 // bits):
        fields[:, i] = (packed >> bits * i).ravel().view(item)
    fields = fields.view(np.uint8).reshape(len(packed), packed.shape[1] * 8 // bits)
    fields &= (1 << bits) - 1
    return fields


def _signed(q, zero):
    """Unsigned fields that count from `-zero` -> int8."""
    q = q.view(np.int8)
    q -= zero
    return q


class Format(NamedTuple):
    """A block format: layout, decoder, weights in a block, weights that share a scale."""

    dtype: np.dtype
    decode: Callable
    weights: int
    group: int

    @property
    def has_offset(self) -> bool:
        """Whether weights are q * scale + offset."""
        return "offset" in self.dtype.names


FORMATS = {}


def _block_format(name, *, weights, group, **fields):
    """Enter a block format in FORMATS: its fields in the order of the file, "16u1" for 16 bytes, and its decoder.

    The decoder takes the fields of n blocks: float16 as float32 (n, 1), anything else as bytes (n, size). It returns
    q (n, weights), scale (n, groups) and offset, the same or None; in the K formats each of the two as its factors,
    (n, 1) and integers (n, groups). Bits move up by multiplication: in NumPy, `q << 4` on bytes takes ten times as long
    as `q * 16`.
    """

    def register(decode):
        FORMATS[name] = Format(np.dtype(list(fields.items())), decode, weights, group)
        return decode

    return register


@_block_format("Q4_0", weights=32, group=32, scale="<f2", q="16u1")
def _q4_0(scale, q):
    """18 bytes, 4.5 bits. Byte i: weight i in the low half, weight i + 16 in the high half; 8 stands for 0."""
    return _signed(_split(q, 4, run=16), 8), scale, None


@_block_format("Q4_1", weights=32, group=32, scale="<f2", offset="<f2", q="16u1")
def _q4_1(scale, offset, q):
    """20 bytes, 5 bits. As Q4_0, but 0 stands for the offset, the smallest weight."""
    return _split(q, 4, run=16), scale, offset


@_block_format("Q5_0", weights=32, group=32, scale="<f2", high="<u4", low="16u1")
def _q5_0(scale, high, low):
    """22 bytes, 5.5 bits. As Q4_0, with bit i of `high` as the fifth bit of weight i; 16 stands for 0."""
    return _signed(_split(low, 4, run=16) | np.unpackbits(high, axis=1, bitorder="little") * 16, 16), scale, None


@_block_format("Q5_1", weights=32, group=32, scale="<f2", offset="<f2", high="<u4", low="16u1")
def _q5_1(scale, offset, high, low):
    """24 bytes, 6 bits. The bits of Q5_0, the offset of Q4_1."""
    return _split(low, 4, run=16) | np.unpackbits(high, axis=1, bitorder="little") * 16, scale, offset


@_block_format("Q8_0", weights=32, group=32, scale="<f2", q="32i1")
def _q8_0(scale, q):
    """34 bytes, 8.5 bits. One signed byte a weight."""
    return q, scale, None


@_block_format("Q2_K", weights=256, group=16, scales="16u1", q="64u1", scale="<f2", offset="<f2")
def _q2_k(scales, q, scale, offset):
    """84 bytes, 2.625 bits. Byte g of `scales`: the scale of group g in the low half, its offset in the high half.

    32 bytes of q hold 128 weights: bits 0-1 the first 32, bits 2-3 the next 32, and so on.
    """
    return _split(q, 2, run=32), (scale, scales & 15), (-offset, scales >> 4)


@_block_format("Q3_K", weights=256, group=16, high="32u1", low="64u1", scales_low="8u1", scales_high="4u1", scale="<f2")
def _q3_k(high, low, scales_low, scales_high, scale):
    """110 bytes, 3.4375 bits. Two bits as in Q2_K, and a third from `high`; 4 stands for 0.

    Bit k of byte i of `high` belongs to weight 32 k + i. The 6-bit scales count from -32: scales g and g + 8 share a
    byte for their low four bits; scales g, g + 4, g + 8 and g + 12 share one for their high two.
    """
    scales = _signed(_split(scales_low, 4, run=8) | _split(scales_high, 2, run=4) * 16, 32)
    return _signed(_split(low, 2, run=32) | _split(high, 1, run=32) * 4, 4), (scale, scales), None


_K_SCALES = {"scale": "<f2", "offset": "<f2", "scales": "4u1", "offsets": "4u1", "rest": "4u1"}


@_block_format("Q4_K", weights=256, group=32, **_K_SCALES, q="128u1")
def _q4_k(scale, offset, scales, offsets, rest, q):
    """144 bytes, 4.5 bits. 32 bytes of q hold two groups, the first in the low halves.

    Scales and offsets have 6 bits. Those of groups 0-3 are the low six of `scales` and `offsets`; those of groups 4-7
    take their low four from the halves of `rest` and their high two from the bits left over in `scales` and `offsets`.
    """
    scales = np.concatenate([scales & 63, (scales & 192) >> 2 | rest & 15], axis=1)
    offsets = np.concatenate([offsets & 63, (offsets & 192) >> 2 | rest >> 4], axis=1)
    return _split(q, 4, run=32), (scale, scales), (-offset, offsets)


@_block_format("Q5_K", weights=256, group=32, **_K_SCALES, high="32u1", low="128u1")
def _q5_k(scale, offset, scales, offsets, rest, high, low):
    """176 bytes, 5.5 bits. As Q4_K, with bit g of byte i of `high` as the fifth bit of weight i of group g."""
    q, scale, offset = _q4_k(scale, offset, scales, offsets, rest, low)
    return q | _split(high, 1, run=32) * 16, scale, offset


@_block_format("Q6_K", weights=256, group=16, low="128u1", high="64u1", scales="16i1", scale="<f2")
def _q6_k(low, high, scales, scale):
    """210 bytes, 6.5625 bits. 64 bytes of `low` hold the low four bits of 128 weights, low halves first.

    32 bytes of `high` hold their high two bits as in Q2_K; 32 stands for 0.
    """
    return _signed(_split(low, 4, run=64) | _split(high, 2, run=32) * 16, 32), (scale, scales), None


_IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


@_block_format("IQ4_NL", weights=32, group=32, scale="<f2", q="16u1")
def _iq4_nl(scale, q):
    """18 bytes, 4.5 bits. As Q4_0, but the four bits choose one of 16 unevenly spaced integers."""
    return _IQ4_VALUES.take(_split(q, 4, run=16)), scale, None


@_block_format("IQ4_XS", weights=256, group=32, scale="<f2", scales_high="<u2", scales_low="4u1", q="128u1")
def _iq4_xs(scale, scales_high, scales_low, q):
    """136 bytes, 4.25 bits. Eight groups laid out as in IQ4_NL.

    The 6-bit scales count from -32: their low four bits stand two to a byte, their high two eight to a 16-bit word.
    """
    scales = _signed(_split(scales_low, 4, run=1) | _split(scales_high, 2, run=1) * 16, 32)
    return _IQ4_VALUES.take(_split(q, 4, run=16)), (scale, scales), None


_MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


@_block_format("MXFP4", weights=32, group=32, exponent="u1", q="16u1")
def _mxfp4(exponent, q):
    """17 bytes, 4.25 bits. As Q4_0, but each half byte is a float: 1 sign bit, 2 of exponent, 1 of mantissa.

    The table holds them doubled, as integers; so the scale is half of 2^(exponent - 127). OCP Microscaling Formats 1.0.
    """
    scale = np.ldexp(np.float32(1), exponent.astype(np.int32) - 128, dtype=np.float32)
    return _MXFP4_VALUES.take(_split(q, 4, run=16)), scale, None


@_block_format("TQ1_0", weights=256, group=256, q32="32u1", q16="16u1", q4="4u1", scale="<f2")
def _tq1_0(q32, q16, q4, scale):
    """54 bytes, 1.6875 bits. Weights are -1, 0 or 1, five to a byte b: the first five digits of b / 256 to base 3.

    The five are 32 weights apart, then 16 apart; the last 16 weights stand four to a byte, 4 apart.
    """
    # b * 3^k modulo 256 drops the first k digits; the next one is the integer part of 3 b / 256.
    digits = [b * np.uint8(3**k) for b, count in ((q32, 5), (q16, 5), (q4, 4)) for k in range(count)]
    q = np.concatenate(digits, axis=1).astype(np.uint16) * 3 >> 8
    return _signed(q.astype(np.uint8), 1), scale, None


@_block_format("TQ2_0", weights=256, group=256, q="64u1", scale="<f2")
def _tq2_0(q, scale):
    """66 bytes, 2.0625 bits. Weights are -1, 0 or 1: two bits each, laid out as in Q2_K; 1 stands for 0."""
    return _signed(_split(q, 2, run=32), 1), scale, None


FLOATS = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<u2"), "BF16": np.dtype("<u2")}
# Left to the gguf package: rare, and most of them choose from long tables. Type -> bytes and weights of a block.
FOREIGN = {
    "IQ1_S": (50, 256), "IQ1_M": (56, 256), "IQ2_XXS": (66, 256), "IQ2_XS": (74, 256), "IQ2_S": (82, 256),
    "IQ3_XXS": (98, 256), "IQ3_S": (110, 256), "NVFP4": (36, 64),
}  # fmt: skip
SUPPORTED = (*FLOATS, *FORMATS, *FOREIGN)

# NumPy converts float16 in 1.7 to 2.8 ns a number; a look-up among all 65,536 of them takes 0.65.
_FLOAT16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def dequantize(raw, type, byte_order="<", out=None):
    """Weights of a tensor: bytes (..., bytes per row) -> float32 (..., row length), bit for bit those of `gguf.quants`.

    raw         uint8, as `loader` gives it; if it is not contiguous, it is copied first
    type        GGUF's name of the type, such as "Q4_K"; one of SUPPORTED, else UnsupportedModel
    byte_order  "<" or ">", that of the file
    out         C-contiguous float32 array to fill and return; without it, little-endian F32 is a view of raw, no copy
    """
    dtype, weights = _block(type, byte_order)
    blocks = np.ascontiguousarray(raw).view(dtype)
    if out is None and dtype == np.float32:
        return blocks
    shape = (*blocks.shape[:-1], blocks.shape[-1] * weights)
    if out is None:
        out = np.empty(shape, np.float32)
    if out.shape != shape or not out.flags.c_contiguous:
        raise ValueError(f"dequantize: out has shape {out.shape}; it must be C-contiguous and of shape {shape}")
    blocks, flat = blocks.reshape(1, -1), out.reshape(1, -1)
    step = TILE // weights
    for i in range(0, blocks.size, step):
        _expand(type, blocks[:, i : i + step], flat[:, i * weights : (i + step) * weights])
    return out


class Scales(NamedTuple):
    """Scales (or offsets) of groups of weights: a number for each, or that of its block times a small integer."""

    unit: np.ndarray  # float32 (..., blocks, 1)
    steps: np.ndarray | None  # int8 (..., blocks, groups of a block); None: a block is one group

    def product(self) -> np.ndarray:
        """The scale of each group, float32 (..., blocks, groups of a block)."""
        return self.unit if self.steps is None else self.unit * self.steps


def unpack(raw, type, byte_order="<"):
    """Integers of a block format, a key of FORMATS, and the `Scales` of their groups and of the groups' offsets.

    bytes (..., bytes per row) -> q int8 (..., blocks, groups of a block, weights of a group), scale, offset (or None).
    q * scale.product()[..., None] (+ offset.product()[..., None]) are the weights, to the last bit. All is done at
    once: give it no more than the cache holds.
    """
    if type not in FORMATS:
        raise UnsupportedModel(f"tensor type {type} has no integers to unpack; those that have: {', '.join(FORMATS)}")
    dtype, weights = _block(type, byte_order)
    blocks = np.ascontiguousarray(raw).view(dtype)
    q, *scales = _factors(type, blocks.ravel())
    groups = weights // FORMATS[type].group

    def shaped(unit, steps):
        steps = steps if steps is None else steps.view(np.int8).reshape(*blocks.shape, groups)
        return Scales(unit.reshape(*blocks.shape, 1), steps)

    scale, offset = (None if factors is None else shaped(*factors) for factors in scales)
    return q.reshape(*blocks.shape, groups, FORMATS[type].group), scale, offset


def _block(type, byte_order):
    """The dtype of one block and how many weights it holds."""
    if type in FORMATS:
        dtype, weights = FORMATS[type].dtype, FORMATS[type].weights
    elif type in FLOATS:
        dtype, weights = FLOATS[type], 1
    elif type in FOREIGN:
        size, weights = FOREIGN[type]
        dtype = np.dtype(f"V{size}")
        if byte_order == ">":
            known = ", ".join((*FLOATS, *FORMATS))
            raise UnsupportedModel(f"tensor type {type} is not supported in big-endian files; supported: {known}")
    else:
        raise UnsupportedModel(f"tensor type {type} is not supported; supported: {', '.join(SUPPORTED)}")
    return dtype.newbyteorder(byte_order), weights


def _expand(type, blocks, out):
    """One tile: blocks (R, n) of any supported type -> out (R, n * weights) in float32."""
    if type in FORMATS:
        q, scale, offset = _decode(type, blocks.ravel())
        groups = (len(out), -1, FORMATS[type].group)
        out = out.reshape(groups)  # a view: only the last axis is split
        out[...] = q.reshape(groups)
        # Broadcast, since np.repeat holds the GIL: repeated scales take 0.9 of the time on one thread, but 1.4 on two.
        out *= scale.reshape(len(out), -1, 1)
        if offset is not None:
            out += offset.reshape(len(out), -1, 1)
    elif type == "F16":
        out[...] = _FLOAT16.take(blocks)
    elif type == "BF16":  # the upper half of a float32
        np.left_shift(blocks, 16, out=out.view(np.uint32), dtype=np.uint32)
    elif type in FLOATS:
        out[...] = blocks
    else:
        out[...] = _expand_foreign(type, blocks.ravel().view(np.uint8)).reshape(out.shape)


def _expand_foreign(type, raw):
    """Bytes -> float32 by the gguf package, imported here because that takes 0.1 s."""
    from gguf import GGMLQuantizationType
    from gguf import quants as gguf_quants

    try:
        return gguf_quants.dequantize(raw, GGMLQuantizationType[type])
    except (KeyError, NotImplementedError):
        raise UnsupportedModel(f"tensor type {type} needs a newer gguf package: pip install --upgrade gguf") from None


def _decode(type, blocks):
    """Blocks (n,) -> q int8 (n, weights), scale (n, groups) and offset, the same or None."""
    q, *scales = _factors(type, blocks)
    return q, *(factors and (factors[0] if factors[1] is None else factors[0] * factors[1]) for factors in scales)


def _factors(type, blocks):
    """Blocks (n,) -> q int8 (n, weights), and of scale and offset the factors: (n, 1) and integers (n, groups) or None.

    An offset that the format does not have is None itself.
    """
    q, *scales = FORMATS[type].decode(*(_field(blocks[name]) for name in blocks.dtype.names))
    return q.view(np.int8), *((s, None) if isinstance(s, np.ndarray) else s for s in scales)


def _field(values):
    """One field of n blocks: float16 -> float32 (n, 1); anything else -> its little-endian bytes (n, size)."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)[:, None]
    if values.ndim == 1:
        return values.astype(values.dtype.newbyteorder("<"))[:, None].view(np.uint8)
    items = values.view(f"V{values.shape[1]}")  # moved as one item: 7 times faster than byte by byte
    return np.ascontiguousarray(items).view(values.dtype)

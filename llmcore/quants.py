"""Block quantization: the packed bits of a tensor -> integers, scales and offsets -> float32.

A quantized tensor is a run of blocks. Whatever its format, a block says one thing:

    weight = q * scale (+ offset)      q a small integer; scale and offset shared by 16, 32 or 256 weights

Formats differ in how many bits q has and in where those bits are; `formats/` takes them apart, `FORMATS` says
how a block lies in the file.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from .errors import UnsupportedModel
from .formats import FORMATS, Block, Scales
from .formats.foreign import FOREIGN, expand_foreign

# Weights expanded at a time: few enough for the cache, many enough to hide the cost of NumPy calls.
TILE = 1 << 18
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<u2", "BF16": "<u2"}  # 16-bit ones as the bits they are
SUPPORTED = (*FLOATS, *FORMATS, *FOREIGN)
# A look-up among all 65,536 float16 numbers is faster than NumPy's own conversion.
FLOAT16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def dequantize(
    raw: np.ndarray, type: str, byte_order: str = "<", out: np.ndarray | None = None
) -> np.ndarray:
    """Weights: bytes (..., bytes per row) -> float32 (..., row length), bit for bit those of `gguf.quants`.

    raw         uint8, as `loader` gives it; if it is not contiguous, it is copied first
    type        GGUF's name of the type, such as "Q4_K"; one of SUPPORTED, else UnsupportedModel
    byte_order  "<" or ">", that of the file
    out         C-contiguous float32 array to fill and return; without it, little-endian F32 is a view of raw
    """
    dtype, weights = block_of(type, byte_order)
    blocks = np.ascontiguousarray(raw).view(dtype)
    if out is None and dtype == np.float32:
        return blocks
    shape = (*blocks.shape[:-1], blocks.shape[-1] * weights)
    if out is None:
        out = np.empty(shape, np.float32)
    if out.shape != shape or not out.flags.c_contiguous:
        raise ValueError(f"out has shape {out.shape}; it must be C-contiguous and of shape {shape}")
    blocks, flat = blocks.reshape(1, -1), out.reshape(1, -1)
    step = TILE // weights
    for i in range(0, blocks.size, step):
        _expand(type, blocks[:, i : i + step], flat[:, i * weights : (i + step) * weights])
    return out


def unpack(raw: np.ndarray, type: str, byte_order: str = "<") -> Block:
    """Integers of a block format (a key of FORMATS), the scales of their groups, and the groups' offsets.

    bytes (..., bytes per row) -> q int8 (..., blocks, groups of a block, weights of a group), scale, offset
    (or None). q * scale.product()[..., None] (+ offset.product()[..., None]) are the weights, to the last
    bit. All is done at once: give it no more than the cache holds.
    """
    if type not in FORMATS:
        raise UnsupportedModel(f"tensor type {type} has no integers; those that have: {', '.join(FORMATS)}")
    blocks = np.ascontiguousarray(raw).view(block_of(type, byte_order)[0])
    block, group = _decode(type, blocks.ravel()), FORMATS[type].group
    groups = FORMATS[type].weights // group

    def shaped(scales):
        steps = None if scales.steps is None else scales.steps.view(np.int8).reshape(*blocks.shape, groups)
        return Scales(scales.unit.reshape(*blocks.shape, 1), steps)

    offset = None if block.offset is None else shaped(block.offset)
    return Block(block.q.view(np.int8).reshape(*blocks.shape, groups, group), shaped(block.scale), offset)


def block_of(type: str, byte_order: str) -> tuple[np.dtype, int]:
    """The dtype of one block and how many weights it holds. Raises UnsupportedModel."""
    dtype: Any
    if type in FORMATS:
        dtype, weights = FORMATS[type].dtype, FORMATS[type].weights
    elif type in FLOATS:
        dtype, weights = np.dtype(FLOATS[type]), 1
    elif type in FOREIGN:
        size, weights = FOREIGN[type]
        dtype = np.dtype(f"V{size}")
        if byte_order == ">":
            known = ", ".join((*FLOATS, *FORMATS))
            raise UnsupportedModel(f"type {type} is not supported in big-endian files; supported: {known}")
    else:
        raise UnsupportedModel(f"tensor type {type} is not supported; supported: {', '.join(SUPPORTED)}")
    return dtype.newbyteorder(byte_order), weights


def _expand(type, blocks, out):
    """One tile: blocks (1, n) of any supported type -> out (1, n * weights) in float32."""
    if type in FORMATS:
        block = _decode(type, blocks.ravel())
        out = out.reshape(-1, FORMATS[type].group)  # a view
        out[...] = block.q.view(np.int8).reshape(out.shape)
        # Broadcast, since np.repeat holds the GIL.
        out *= block.scale.product().reshape(-1, 1)
        if block.offset is not None:
            out += block.offset.product().reshape(-1, 1)
    elif type == "F16":
        out[...] = FLOAT16.take(blocks)
    elif type == "BF16":  # the upper half of a float32
        np.left_shift(blocks, 16, out=out.view(np.uint32), dtype=np.uint32)
    elif type in FLOATS:
        out[...] = blocks
    else:
        out[...] = expand_foreign(type, blocks.ravel().view(np.uint8)).reshape(out.shape)


def _decode(type, blocks):
    """What n blocks say."""
    decoder: Callable[..., Block] = getattr(
        import_module(f"llmcore.formats.{FORMATS[type].file}"), type.lower()
    )
    return decoder(*(_field(blocks[name]) for name in blocks.dtype.names))


def _field(values):
    """One field of n blocks: float16 -> float32 (n, 1); all else -> its little-endian bytes (n, size)."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)[:, None]
    if values.ndim == 1:
        return values.astype(values.dtype.newbyteorder("<"))[:, None].view(np.uint8)
    items = values.view(f"V{values.shape[1]}")  # moved as one item: much faster than byte by byte
    return np.ascontiguousarray(items).view(values.dtype)

"""Quantized blocks of random bits, matrices made of them, and what the gguf package makes of them."""

from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf import quants as gguf_quants

from llmcore import linear
from llmcore.linear import Matrix
from llmcore.loader import Tensor
from llmcore.quants import FORMATS
from llmcore.speed import int8, mapped, panels
from llmcore.speed.filling import fill
from llmcore.speed.machine import use_threads
from llmcore.threads import n_threads


class Words(NamedTuple):
    """Where the multi-byte numbers of a block start, as gguf/quants.py reads them: float16, 2- and 4-byte
    integers.
    """

    float16: tuple = ()
    u2: tuple = ()
    u4: tuple = ()


WORDS = {
    "Q4_0": Words((0,)),
    "Q4_1": Words((0, 2)),
    "Q5_0": Words((0,), u4=(2,)),
    "Q5_1": Words((0, 2), u4=(4,)),
    "Q8_0": Words((0,)),
    "Q2_K": Words((80, 82)),
    "Q3_K": Words((108,)),
    "Q4_K": Words((0, 2)),
    "Q5_K": Words((0, 2)),
    "Q6_K": Words((208,)),
    "IQ4_NL": Words((0,)),
    "IQ4_XS": Words((0,), u2=(2,)),
    "MXFP4": Words(),
    "TQ1_0": Words((52,)),
    "TQ2_0": Words((64,)),
}


def random_blocks(name, n, *, finite=True):
    """Blocks (n, bytes) of random bits; `finite` keeps infinities and NaNs out of the scales."""
    size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    blocks = np.random.default_rng(len(name) + n).integers(0, 256, (n, size), dtype=np.uint8)
    if finite and name in WORDS:
        for start in WORDS[name].float16:
            blocks[:, start + 1] &= 0b10111111
    return blocks


def big_endian(blocks, name):
    swapped = blocks.copy()
    words = WORDS[name]
    for start, size in [*((s, 2) for s in words.float16 + words.u2), *((s, 4) for s in words.u4)]:
        swapped[:, start : start + size] = blocks[:, start : start + size][:, ::-1]
    return swapped


def by_gguf(raw, name):
    return gguf_quants.dequantize(raw, GGMLQuantizationType[name])


def assert_same_bits(ours, theirs):
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
TYPES = [*FORMATS, *FLOATS, "IQ3_XXS"]
HELD = {"rows": linear, "panels": panels, "int8": int8, "mapped": mapped}  # every way to hold a matrix
SMALL = [(1 << 20, 256), (1500, 8), (1, 1)]  # for `cut_into_tiles`: large, several tiles, the least there is


def tensor(kind, n_out, n_in, byte_order="<"):
    """A matrix of the file, and its weights (out, in)."""
    per_block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if kind in FLOATS:
        values = np.random.default_rng(n_out).standard_normal((n_out, n_in), np.float32)
        little = (
            (values.view(np.uint32) >> 16).astype("<u2") if kind == "BF16" else values.astype(FLOATS[kind])
        )
        raw = little.astype(little.dtype.newbyteorder(byte_order)).view(np.uint8)
        weights = by_gguf(little.view(np.uint8), kind)
    else:
        blocks = random_blocks(kind, n_out * n_in // per_block)
        if kind == "MXFP4":
            blocks[:, 0] = 120 + blocks[:, 0] % 8  # exponents from 2^-7 on; most others would swamp or vanish
        if kind == "IQ3_XXS":
            blocks[:, 1] &= 0b10111111  # finite
        weights = by_gguf(blocks, kind).reshape(n_out, n_in)
        raw = (blocks if byte_order == "<" else big_endian(blocks, kind)).reshape(n_out, -1)
    assert raw.shape == (n_out, n_in // per_block * size)
    raw.flags.writeable = False  # as the file's map is
    return Tensor(kind, kind, (n_out, n_in), 0, raw, byte_order, Path("x.gguf")), weights


def matrix(tensors, way, bias=None):
    held, jobs = HELD[way].empty(tensors)
    fill(jobs)
    return Matrix(tensors[0].shape[1], sum(t.shape[0] for t in tensors), held, bias)


def cut_into_tiles(monkeypatch, weights, outputs):
    """Let tiles have so many weights, and at least so many outputs; panels come to 1/64 of that at a time."""
    monkeypatch.setattr("llmcore.linear.TILE", weights)
    monkeypatch.setattr(int8, "TILE", weights)
    monkeypatch.setattr(int8, "FLOATS", weights)
    monkeypatch.setattr(int8, "TILE_OUTPUTS", outputs)
    for name in ("TILE", "BLOCK", "SMALL", "WORTH_SHARING"):
        monkeypatch.setattr(panels, name, max(1, weights // 64))


@contextmanager
def computing_with(threads):
    """So many threads while the body of the `with` runs."""
    before = n_threads()
    use_threads(threads)
    try:
        yield
    finally:
        use_threads(before)

"""Matrices as the integers of their blocks, a byte each, and their scales: 1.1 to 1.25 bytes a weight.

Shape key: T new tokens, I in, C outputs of a tile. Blocks of a quantized matrix: B along the input, each of K
groups of U weights that share a scale; G = B K.
"""

from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from ..formats import Scales
from ..linear import Job
from ..loader import Tensor
from ..quants import FORMATS, unpack
from ..threads import evenly, for_threads, n_threads
from . import mapped
from .mapped import scratch

TILE = 1 << 20  # weights of a tile at most
WORTH_SHARING = 1 << 17  # weights of a tile for each thread, where a matrix is not larger
TILE_OUTPUTS = 256  # at least, in a tile: shorter inner loops would cost more to start than to run
FLOATS = 1 << 20  # integers that become floats at a time
FEW_ROWS = 16  # up to so many are multiplied by integers
TRANSPOSED_TOGETHER = 256  # inputs of a tile, so that they stay in the cache
CACHE_LINE = 64  # bytes


@dataclass(frozen=True)
class Tile:
    """Some outputs of a matrix as integers: weight = q * scale (+ offset). Transposed: outputs adjoin."""

    q_GUC: np.ndarray  # int8
    scale: Scales  # units (B, 1, C), steps (B, K, C)
    offset: Scales | None

    def multiply_into(self, x_TI: np.ndarray, y_TC: np.ndarray) -> None:
        """y = x W^T; the integers become floats in the cache, some groups at a time.

        With w = q s + o in each group, y = sum over groups of s (x . q) + o (sum of x): for a few rows the
        integers need not be multiplied by their scales one by one, which takes as long as all the rest.
        """
        T, (G, U, C) = len(x_TI), self.q_GUC.shape
        scale_GC = self.scale.product().reshape(G, C)
        x_GTU = x_TI.reshape(T, G, U).swapaxes(0, 1)
        step = max(1, FLOATS // (U * C))
        for g in range(0, G, step):
            q_GUC = self.q_GUC[g : g + step]
            w_GUC = scratch(*q_GUC.shape)
            w_GUC[...] = q_GUC
            if T <= FEW_ROWS:
                dots_GTC = x_GTU[g : g + step] @ w_GUC
                product_TC = np.einsum("gtc,gc->tc", dots_GTC, scale_GC[g : g + step])
            else:
                w_GUC *= scale_GC[g : g + step, None]
                product_TC = x_TI[:, g * U : (g + len(q_GUC)) * U] @ w_GUC.reshape(-1, C)
            if g == 0:
                y_TC[...] = product_TC
            else:
                y_TC += product_TC
        if self.offset is not None:
            sums_TG = x_TI.reshape(T, G, U) @ np.ones(U, np.float32)
            y_TC += sums_TG @ self.offset.product().reshape(G, C)


def bytes_for(tensor: Tensor) -> int:
    """The memory that a matrix takes; one without integers stays in the file."""
    if tensor.type not in FORMATS:
        return mapped.bytes_for(tensor)
    form, n_weights = FORMATS[tensor.type], prod(tensor.shape)
    steps = form.weights // form.group if form.group < form.weights else 0
    return n_weights + n_weights // form.weights * (4 + steps) * (1 + form.has_offset)


def empty(tensors: list[Tensor]) -> tuple[mapped.Pieces, list[Job]]:
    """Room for matrices (out, in) of the file, the outputs of one after those of the other, and jobs to fill
    it.

    What has no integers (floats, and the formats that the gguf package expands) is mapped.
    """
    matrices, jobs = [], []
    for tensor in tensors:
        pieces, more = tiles(tensor) if tensor.type in FORMATS else (mapped.file_rows(tensor), [])
        matrices.append((tensor.shape[0], pieces))
        jobs += more
    return mapped.side_by_side(matrices), jobs


def tiles(tensor: Tensor) -> tuple[list[tuple[slice, Tile]], list[Job]]:
    """A matrix as integers: its tiles, still empty, and the jobs that fill them."""
    (n_out, n_in), form = tensor.shape, FORMATS[tensor.type]
    B, K, U = n_in // form.weights, form.weights // form.group, form.group
    q = np.empty(n_out * n_in, np.int8)  # of all tiles, since the kernel gives large pages to large arrays

    def scales(C):
        return Scales(np.empty((B, 1, C), np.float32), np.empty((B, K, C), np.int8) if K > 1 else None)

    tiles, jobs = [], []
    n_tiles = max(-(-n_out * n_in // TILE), min(n_threads(), n_out * n_in // WORTH_SHARING), 1)
    for part in evenly(n_out, for_threads(min(n_tiles, -(-n_out // TILE_OUTPUTS)))):
        C, rows = part.stop - part.start, mapped.rows_of(tensor, part)
        q_GUC = q[part.start * n_in : part.stop * n_in].reshape(B * K, U, C)
        tile = Tile(q_GUC, scales(C), scales(C) if form.has_offset else None)
        tiles.append((part, tile))
        jobs.append(Job(partial(_fill_tile, tile, rows), rows.data))
    return tiles, jobs


def _fill_tile(tile, rows):
    q_CBKU, *scales = unpack(rows.data, rows.type, rows.byte_order)
    w_IC = tile.q_GUC.reshape(-1, tile.q_GUC.shape[2])
    n_in, C = w_IC.shape
    # Without a gap between rows a column falls on few sets of the cache: transposing is 6 times slower.
    q_CI = np.empty((C, n_in + CACHE_LINE), np.int8)[:, :n_in]
    q_CI[...] = q_CBKU.reshape(C, n_in)
    for i in range(0, n_in, TRANSPOSED_TOGETHER):
        w_IC[i : i + TRANSPOSED_TOGETHER] = q_CI[:, i : i + TRANSPOSED_TOGETHER].T
    for kept, found in zip((tile.scale, tile.offset), scales, strict=True):
        for array, values in zip(kept or (), found or (), strict=True):
            if array is not None:
                array[...] = np.moveaxis(values, 0, -1)

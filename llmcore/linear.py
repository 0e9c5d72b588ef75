"""`y = x W`, for each of three ways to hold a matrix, and rows of one left in the file. The room of the speed tricks.

    float32   expanded when the model is loaded: 4 bytes a weight, and the fastest
    int8      the integers of its blocks, a byte each, and their scales: 1.1 to 1.25 bytes a weight
    mapped    left in the file's map, expanded at every product and forgotten again: no memory, and slow

All three are the file's own weights, to the last bit. Matrices lie as the file has them, (out, in), and as papers write
them: y = W x, with a column for each token. Our tokens are rows, x_TI, so that the product is x W^T; see `multiply`.

Shape key: T new tokens, I in, O out, C outputs of a tile. Blocks of a quantized matrix: B along the input, each of K
groups of U weights that share a scale; G = B K.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from .loader import Tensor
from .machine import each, evenly, n_threads
from .quants import Scales, dequantize

# Up to so many rows W x^T is faster than x W^T. All matrices of SmolLM2 on a Zen 5, with AVX-512 and two threads: 1 row
# 10.7 ms both ways, 8 rows 31 and 41, 16 rows 32 and 49, 64 rows 50 and 62; with AVX2 alike within 10%. Held as (in,
# out) they would take 12.8 ms for one row, 32 for 8 and 38 for 16, and loading would have to turn them.
FEW_ROWS = 64
# More than two of these come in multiples of so many: 7 rows take 30 ms and 15 rows 40, 8 and 16 rows 24.
ROWS_TOGETHER = 8

TILE = 1 << 20  # weights expanded at a time, 4 MB in float32; half as many take 1.1 times as long, a quarter 1.5 times
ROW_RUN = 1 << 17  # numbers that `across_rows` gives to a function at a time


@dataclass(frozen=True)
class Tile:
    """Some outputs of a matrix as integers: weight = q * scale (+ offset). Turned, so that outputs lie side by side."""

    q_GUC: np.ndarray  # int8
    scale: Scales  # units (B, 1, C), steps (B, K, C)
    offset: Scales | None


@dataclass(frozen=True)
class Rows:
    """Some rows (outputs) of a matrix, as they lie in the file."""

    data: np.ndarray  # uint8 (C, bytes in a row)
    type: str
    byte_order: str


@dataclass(frozen=True)
class Matrix:
    """A matrix held in one of three ways, and the bias (out,) that is added to its product where the model has one."""

    n_in: int
    n_out: int
    held: np.ndarray | list[tuple[slice, Tile | Rows]]  # float32 (out, in), or which outputs each piece gives
    bias: np.ndarray | None = None


def linear(x_TI: np.ndarray, matrix: Matrix) -> np.ndarray:
    """y = x W^T + b; (T, in) -> (T, out)."""
    if isinstance(matrix.held, np.ndarray):
        y_TO = multiply(x_TI, matrix.held)
    else:
        y_TO = np.empty((len(x_TI), matrix.n_out), np.float32)

        def work(outputs_and_piece):
            outputs, piece = outputs_and_piece
            product = multiply_tile if isinstance(piece, Tile) else multiply_rows
            product(x_TI, piece, y_TO[:, outputs])

        each(work, matrix.held)
    if matrix.bias is not None:
        y_TO += matrix.bias
    return y_TO


def multiply(x_TI, w_OI):
    """x W^T, or as (W x^T)^T, which is the same: BLAS is not equally fast at both.

    Many rows are shared out to our own threads, since BLAS's would go on spinning for 25 ms after each product and keep
    ours from the cores: attention of 512 tokens then takes 4.5 ms a layer in place of 2.3.
    """
    T = len(x_TI)
    if T > FEW_ROWS:
        y_TO = np.empty((T, len(w_OI)), np.float32)
        each(lambda rows: multiply_into(x_TI[rows], w_OI, y_TO[rows]), evenly(T, n_threads()))
        return y_TO
    if T <= 2 or T % ROWS_TOGETHER == 0:
        return (w_OI @ x_TI.T).T
    padded_TI = np.zeros((T + -T % ROWS_TOGETHER, x_TI.shape[1]), np.float32)
    padded_TI[:T] = x_TI
    return (w_OI @ padded_TI.T).T[:T]


def multiply_into(x_TI, w_OI, y_TO):
    """y = x W^T."""
    np.matmul(x_TI, w_OI.T, out=y_TO)


def multiply_rows(x_TI, rows, y_TC):
    """y = x W^T, where W is expanded from the file for this product alone."""
    if rows.type == "F32":  # a view, no copy
        w_CI = dequantize(rows.data, rows.type, rows.byte_order)
    else:
        w_CI = dequantize(rows.data, rows.type, rows.byte_order, out=scratch(len(rows.data), x_TI.shape[1]))
    y_TC[...] = multiply(x_TI, w_CI)


def multiply_tile(x_TI, tile, y_TC):
    """y = x W^T for a tile of integers, which become floats in the cache, some groups at a time.

    With w = q s + o in each group, y = sum over groups of s (x . q) + o (sum of x): for one row the integers need not
    be multiplied by their scales one by one, which takes half as long. For more rows one large product is faster.
    """
    T, (G, U, C) = len(x_TI), tile.q_GUC.shape
    scale_GC = tile.scale.product().reshape(G, C)
    step = max(1, TILE // (U * C))
    for g in range(0, G, step):
        q_GUC = tile.q_GUC[g : g + step]
        w_GUC = scratch(*q_GUC.shape)
        w_GUC[...] = q_GUC
        x_TR = x_TI[:, g * U : (g + len(q_GUC)) * U]
        if T == 1:
            dots_GC = (x_TR.reshape(-1, 1, U) @ w_GUC)[:, 0]
            product_TC = np.einsum("gc,gc->c", dots_GC, scale_GC[g : g + step])
        else:
            w_GUC *= scale_GC[g : g + step, None]
            product_TC = x_TR @ w_GUC.reshape(-1, C)
        if g == 0:
            y_TC[...] = product_TC
        else:
            y_TC += product_TC
    if tile.offset is not None:
        sums_TG = x_TI.reshape(T, G, U) @ np.ones(U, np.float32)
        y_TC += sums_TG @ tile.offset.product().reshape(G, C)


def across_rows(function: Callable, *arrays: np.ndarray) -> np.ndarray:
    """function(*arrays), where a row of the result, which is shaped like the first array, depends on that row of each.

    The rows of long arrays are spread over the threads, so many at a time that what the function makes on the way stays
    in the cache.
    """
    T, size = len(arrays[0]), arrays[0].size
    if size <= ROW_RUN:
        return function(*arrays)
    y_TX = np.empty(arrays[0].shape, np.float32)

    def run(rows):
        y_TX[rows] = function(*(array[rows] for array in arrays))

    each(run, evenly(T, -(-size // ROW_RUN)))
    return y_TX


_SCRATCH = threading.local()


def scratch(*shape) -> np.ndarray:
    """Memory of this thread to expand a tile in. New memory each time would be as slow to get as to fill."""
    size = prod(shape)
    if getattr(_SCRATCH, "size", 0) < size:
        _SCRATCH.size, _SCRATCH.array = size, np.empty(size, np.float32)
    return _SCRATCH.array[:size].reshape(shape)


def rows(tensor: Tensor, ids_T: np.ndarray) -> np.ndarray:
    """The rows `ids_T` of a matrix that stays in the file's map, in float32; (T,) -> (T, D).

    An embedding is looked up, never multiplied: to expand a few rows when they are asked for costs microseconds and
    saves the float32 copy of what is often the largest matrix of the file.
    """
    return dequantize(tensor.data[ids_T], tensor.type, tensor.byte_order)

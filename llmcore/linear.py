"""`y = x W^T + b`: the one product that a transformer is made of, and the float32 way to hold its matrices.

`Matrix.held` is a way to hold a matrix; all that the rest of the engine asks of it is `held.multiply(x)`. The
others, in `speed/`, take less memory; all are the file's own weights, to the last bit.

Matrices lie as the file has them, (out, in), and as papers write them: y = W x, with a column for each token.
Our tokens are rows, x_TI, so that the product is x W^T.

Shape key: T new tokens, I in, O out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import Protocol

import numpy as np

from .loader import Tensor, give_back
from .quants import dequantize
from .threads import each, evenly, for_threads, n_threads

FEW_ROWS = 64  # up to so many rows W x^T is faster than x W^T; benchmark/README.md has the figures
ROWS_TOGETHER = 8  # more than two of these come in multiples of so many, which is faster
TILE = 1 << 20  # weights expanded at a time


class Held(Protocol):
    """A way to hold the numbers of a matrix."""

    def multiply(self, x_TI: np.ndarray) -> np.ndarray:
        """x W^T; (T, in) -> (T, out)."""


@dataclass(frozen=True)
class Matrix:
    """A matrix, and what the model multiplies its product by and adds to it, each (out,) or None."""

    n_in: int
    n_out: int
    held: Held
    bias: np.ndarray | None = None
    scale: np.ndarray | None = None


def linear(x_TI: np.ndarray, matrix: Matrix) -> np.ndarray:
    """y = x W^T + b, x W^T scaled before where the matrix has a scale; (T, in) -> (T, out)."""
    y_TO = matrix.held.multiply(x_TI)
    if matrix.scale is not None:
        y_TO *= matrix.scale
    if matrix.bias is not None:
        y_TO += matrix.bias
    return y_TO


@dataclass(frozen=True)
class Float32:
    """A matrix expanded when the model is loaded: 4 bytes a weight, and the fastest."""

    w_OI: np.ndarray

    def multiply(self, x_TI: np.ndarray) -> np.ndarray:
        """x W^T; (T, in) -> (T, out)."""
        return multiply(x_TI, self.w_OI)


def multiply(x_TI: np.ndarray, w_OI: np.ndarray) -> np.ndarray:
    """x W^T, or as (W x^T)^T, which is the same: BLAS is not equally fast at both.

    Many rows are shared out to our own threads, since BLAS's would go on spinning after each product and keep
    ours from the cores.
    """
    T = len(x_TI)
    if T > FEW_ROWS:
        y_TO = np.empty((T, len(w_OI)), np.float32)
        each(lambda rows: np.matmul(x_TI[rows], w_OI.T, out=y_TO[rows]), evenly(T, n_threads()))
        return y_TO
    if T <= 2 or T % ROWS_TOGETHER == 0:
        return (w_OI @ x_TI.T).T
    padded_TI = np.zeros((T + -T % ROWS_TOGETHER, x_TI.shape[1]), np.float32)
    padded_TI[:T] = x_TI
    return (w_OI @ padded_TI.T).T[:T]


@dataclass(frozen=True)
class Job:
    """A part of loading: `fill()` copies what `data`, a part of the file, says to where it is held."""

    fill: Callable[[], object]
    data: np.ndarray

    def run(self) -> int:
        """Do it; returns the bytes of the file that it read, which are needed no more."""
        self.fill()
        give_back(self.data)
        return self.data.nbytes


def bytes_for(tensor: Tensor) -> int:
    """The memory that a matrix of the file takes in float32."""
    return 4 * prod(tensor.shape)


def empty(tensors: list[Tensor]) -> tuple[Float32, list[Job]]:
    """Room for matrices (out, in) of the file, side by side by their outputs, and jobs to fill it."""
    ends = [0, *accumulate(tensor.shape[0] for tensor in tensors)]
    w_OI = np.empty((ends[-1], tensors[0].shape[1]), np.float32)
    places = [w_OI[start:end] for start, end in pairwise(ends)]
    jobs = [job for tensor, place in zip(tensors, places, strict=True) for job in fill_jobs(tensor, place)]
    return Float32(w_OI), jobs


def fill_jobs(tensor: Tensor, w_OI: np.ndarray) -> list[Job]:
    """Jobs that expand a matrix of the file into w_OI."""

    def job(part):
        data = tensor.data[part]
        return Job(lambda: dequantize(data, tensor.type, tensor.byte_order, out=w_OI[part]), data)

    return [job(part) for part in cut(*tensor.shape)]


def cut(n_out: int, n_in: int, least: int = 1) -> list[slice]:
    """Slices of the outputs of a matrix, about TILE weights in each, and about `least` outputs at least."""
    return evenly(n_out, for_threads(-(-n_out // max(least, TILE // n_in))))


def look_up(tensor: Tensor, ids_T: np.ndarray) -> np.ndarray:
    """The rows `ids_T` of a matrix that stays in the file's map, in float32; (T,) -> (T, D).

    An embedding is looked up, never multiplied: to expand a few rows when they are asked for costs
    little and saves the float32 copy of what is often the largest matrix of the file.
    """
    return dequantize(tensor.data[ids_T], tensor.type, tensor.byte_order)

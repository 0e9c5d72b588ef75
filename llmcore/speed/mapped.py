"""Matrices left in the file's map, expanded at every product and forgotten again: no memory, and slow.

Shape key: T new tokens, I in, O out, C outputs of a piece.
"""

import threading
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from ..linear import Job, cut, multiply
from ..loader import Tensor
from ..quants import dequantize
from ..threads import each


class Piece(Protocol):
    """Some outputs of a matrix."""

    def multiply_into(self, x_TI: np.ndarray, y_TC: np.ndarray) -> None:
        """y = x W^T."""


@dataclass(frozen=True)
class Pieces:
    """A matrix in pieces, and which outputs each of them gives; the pieces are spread over the threads."""

    n_out: int
    pieces: list[tuple[slice, Piece]]

    def multiply(self, x_TI: np.ndarray) -> np.ndarray:
        """x W^T; (T, in) -> (T, out)."""
        y_TO = np.empty((len(x_TI), self.n_out), np.float32)
        each(lambda item: item[1].multiply_into(x_TI, y_TO[:, item[0]]), self.pieces)
        return y_TO


@dataclass(frozen=True)
class FileRows:
    """Some rows (outputs) of a matrix, as they lie in the file."""

    data: np.ndarray  # uint8 (C, bytes in a row)
    type: str
    byte_order: str

    def multiply_into(self, x_TI: np.ndarray, y_TC: np.ndarray) -> None:
        """y = x W^T, where W is expanded from the file for this product alone."""
        if self.type == "F32":  # a view, no copy
            w_CI = dequantize(self.data, self.type, self.byte_order)
        else:
            room_CI = scratch(len(self.data), x_TI.shape[1])
            w_CI = dequantize(self.data, self.type, self.byte_order, out=room_CI)
        y_TC[...] = multiply(x_TI, w_CI)


def bytes_for(tensor: Tensor) -> int:
    """The memory that a matrix takes: none."""
    return 0


def empty(tensors: list[Tensor]) -> tuple[Pieces, list[Job]]:
    """Matrices (out, in) of the file, side by side by their outputs; there is nothing to fill."""
    return side_by_side([(tensor.shape[0], file_rows(tensor)) for tensor in tensors]), []


def file_rows(tensor: Tensor) -> list[tuple[slice, FileRows]]:
    """The pieces of one matrix."""
    return [(part, rows_of(tensor, part)) for part in cut(*tensor.shape)]


def rows_of(tensor: Tensor, part: slice) -> FileRows:
    """Some rows of a matrix."""
    return FileRows(tensor.data[part], tensor.type, tensor.byte_order)


def side_by_side(matrices: list[tuple[int, list]]) -> Pieces:
    """Matrices (number of outputs, pieces) as one, the outputs of one after those of the other."""
    pieces, start = [], 0
    for n_out, found in matrices:
        pieces += [(slice(start + part.start, start + part.stop), piece) for part, piece in found]
        start += n_out
    return Pieces(start, pieces)


_SCRATCH = threading.local()


def scratch(*shape: int) -> np.ndarray:
    """Memory of this thread to expand a tile in. New memory each time would be as slow to get as to fill."""
    size = prod(shape)
    if getattr(_SCRATCH, "size", 0) < size:
        _SCRATCH.size, _SCRATCH.array = size, np.empty(size, np.float32)
    return _SCRATCH.array[:size].reshape(shape)

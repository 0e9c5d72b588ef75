"""float32 matrices in panels of 32 outputs: the fastest way where BLAS has kernels for small products.

BLAS rewrites a matrix before it multiplies more than one row by it, at every call, which takes as long as to
read it two or three times. OpenBLAS's kernels for AVX-512 do without in products of up to a million
multiply-adds. A panel is so narrow that its product with some rows is such a small one, and it lies in one
piece, which is the fastest to read as well: eight rows take hardly longer than one.

Shape key: T new tokens, I in, O out, P panels, C outputs of a panel.
"""

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ..linear import Job, cut
from ..loader import Tensor
from ..quants import FORMATS, dequantize, unpack
from ..threads import each, evenly, for_threads, n_threads

WIDTH = 32  # outputs of a panel: two registers of 16 floats
SMALL = 10**6  # multiply-adds of the largest product that is not rewritten (gemm_small_matrix_permit)
ROWS, MOST_ROWS = 12, 48  # the kernels are fastest with a multiple of 12 rows; 48 are as good as more
BLOCK = 1 << 18  # weights that stay in the cache while more rows are multiplied by them
WORTH_SHARING = 1 << 17  # multiply-adds that take longer than to wake a thread
TILE = 1 << 19  # weights expanded and transposed at a time
CACHE_LINE = 64  # bytes


@dataclass(frozen=True)
class Panels:
    """A matrix in panels; the last one is filled up with zeros."""

    w_PIC: np.ndarray
    n_out: int

    @property
    def w_OI(self) -> np.ndarray:
        """The matrix as the file has it, copied."""
        return self.w_PIC.swapaxes(1, 2).reshape(-1, self.w_PIC.shape[1])[: self.n_out].copy()

    def multiply(self, x_TI: np.ndarray) -> np.ndarray:
        """x W^T; (T, in) -> (T, out)."""
        T, (P, n_in, C) = len(x_TI), self.w_PIC.shape
        # The product with a single row would be of another kind, which reads more slowly.
        x_TI = np.concatenate([x_TI, x_TI]) if T == 1 else np.ascontiguousarray(x_TI)
        y_TPC = np.empty((len(x_TI), P, C), np.float32)
        n_rows, n_runs = small_product(len(x_TI), n_in)

        def run(panels):
            """The outputs of some panels."""
            for t in range(0, len(x_TI), n_rows):
                y_PTC = y_TPC[t : t + n_rows, panels].swapaxes(0, 1)
                for i, inputs in enumerate(evenly(n_in, n_runs)):
                    x_TR, w_PRC = x_TI[t : t + n_rows, inputs], self.w_PIC[panels, inputs]
                    if i == 0:
                        np.matmul(x_TR, w_PRC, out=y_PTC)
                    else:
                        y_PTC += x_TR @ w_PRC

        if T * P * n_in * C < WORTH_SHARING:
            run(slice(0, P))
        else:  # where all rows fit into one product each thread reads its panels from memory once
            each(run, evenly(P, n_threads() if n_rows >= T else for_threads(-(-P * n_in * C // BLOCK))))
        return y_TPC.reshape(len(x_TI), P * C)[:T, : self.n_out]


def small_product(n_rows: int, n_in: int) -> tuple[int, int]:
    """How many of the rows a product with a panel takes to be small, and of how many runs of inputs."""
    most = SMALL // (n_in * WIDTH)
    if n_rows <= min(most, MOST_ROWS):
        return n_rows, 1
    if most >= ROWS:
        return min(most // ROWS * ROWS, MOST_ROWS), 1
    n_rows = min(n_rows, 2 * ROWS)
    return n_rows, -(-n_rows * n_in * WIDTH // SMALL)


def bytes_for(tensor: Tensor) -> int:
    """The memory that a matrix of the file takes."""
    return 4 * tensor.shape[1] * -(-tensor.shape[0] // WIDTH) * WIDTH


def empty(tensors: list[Tensor]) -> tuple[Panels, list[Job]]:
    """Room for matrices (out, in) of the file, side by side by their outputs, and jobs to fill it."""
    starts = list(accumulate((tensor.shape[0] for tensor in tensors), initial=0))
    w_PIC = np.empty((-(-starts[-1] // WIDTH), tensors[0].shape[1], WIDTH), np.float32)
    w_PIC[-1, :, (starts[-1] - 1) % WIDTH + 1 :] = 0
    jobs = [
        job for tensor, start in zip(tensors, starts, strict=False) for job in fill_jobs(tensor, w_PIC, start)
    ]
    return Panels(w_PIC, starts[-1]), jobs


def fill_jobs(tensor: Tensor, w_PIC: np.ndarray, start: int) -> list[Job]:
    """Jobs that expand a matrix of the file into the panels, from output `start` on."""

    def job(part):
        data = tensor.data[part]
        return Job(lambda: _fill(tensor, data, w_PIC, start + part.start), data)

    return [job(part) for part in cut(*tensor.shape)]


def _fill(tensor, data, w_PIC, start):
    """Expand some rows of a matrix, a tile at a time, and transpose them into the panels from `start` on."""
    n_in, at = w_PIC.shape[1], 0
    fill_tile = _fill_by_integers if tensor.type in FORMATS else _fill_by_floats
    while at < len(data):
        p, c = divmod(start + at, WIDTH)
        n = min(WIDTH - c, len(data) - at)  # outputs in each of some panels, or in a part of one
        n_panels = max(1, min((len(data) - at) // WIDTH, TILE // (WIDTH * n_in))) if n == WIDTH else 1
        fill_tile(tensor, data[at : at + n_panels * n], w_PIC[p : p + n_panels], slice(c, c + n))
        at += n_panels * n


def _fill_by_floats(tensor, data, w_PIC, columns):
    w_CI = dequantize(data, tensor.type, tensor.byte_order)
    w_PIC[:, :, columns] = _transposed(w_CI, len(w_PIC))


def _fill_by_integers(tensor, data, w_PIC, columns):
    """The same weights, bit for bit: bytes are transposed sooner than floats."""
    q_CBKU, *scales = unpack(data, tensor.type, tensor.byte_order)
    (n_panels, n_in, C), (B, K, U) = w_PIC.shape, q_CBKU.shape[1:]
    q_PIC = np.ascontiguousarray(_transposed(q_CBKU.reshape(len(data), n_in), n_panels))
    w_PGUC = w_PIC.reshape(n_panels, B * K, U, C)[..., columns]  # a view
    w_PGUC[...] = q_PIC.reshape(n_panels, B * K, U, -1)
    for apply, found in zip((np.multiply, np.add), scales, strict=True):
        if found is not None:
            values_CG = found.product().reshape(len(data), B * K)
            apply(w_PGUC, np.ascontiguousarray(_transposed(values_CG, n_panels))[:, :, None], out=w_PGUC)


def _transposed(x_CI, n_panels):
    """(P C, in) as a view (P, in, C) of a copy."""
    C, n_in = len(x_CI) // n_panels, x_CI.shape[1]
    # Without a gap between rows a column falls on few sets of the cache: transposing is twice as slow.
    padded_PCI = np.empty((n_panels, C, n_in + CACHE_LINE // x_CI.itemsize), x_CI.dtype)[:, :, :n_in]
    padded_PCI[...] = x_CI.reshape(n_panels, C, n_in)
    return padded_PCI.swapaxes(1, 2)

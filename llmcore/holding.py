"""Matrices from the file into memory, in each of the three ways that linear.py multiplies by.

What is to be filled is made at once and empty; jobs that fill it are spread over the threads, while something else may
go on.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from math import prod

import numpy as np

from .linear import TILE, Rows, Tile
from .loader import Tensor, give_back
from .machine import evenly, n_threads
from .quants import FORMATS, Scales, dequantize, unpack

WAYS = ("float32", "int8", "mapped")  # the fastest first

TILE_OUTPUTS = 512  # at least, in a tile: shorter inner loops would cost more to start than to run
TURNED = 256  # inputs of a tile that are turned at a time
CACHE_LINE = 64  # bytes


@dataclass(frozen=True)
class Job:
    """A part of the work of loading: `fill()` copies what `data`, a part of the file, says to where it is held."""

    fill: Callable[[], object]
    data: np.ndarray

    def run(self) -> int:
        """Do it; returns the bytes of the file that it read, which are needed no more."""
        self.fill()
        give_back(self.data)
        return self.data.nbytes


def held_bytes(tensor: Tensor, how: str) -> int:
    """The memory that a matrix of the file will take."""
    n_weights = prod(tensor.shape)
    if how == "float32":
        return 4 * n_weights
    if how == "mapped" or tensor.type not in FORMATS:
        return 0
    form = FORMATS[tensor.type]
    steps = form.weights // form.group if form.group < form.weights else 0
    return n_weights + n_weights // form.weights * (4 + steps) * (1 + form.has_offset)


def hold(tensors: list[Tensor], how: str) -> tuple[np.ndarray | list, list[Job]]:
    """Matrices (out, in) of the file, the outputs of one after those of the other: `Matrix.held`, and jobs to fill it.

    What has no integers (floats, and the formats that the gguf package expands) is mapped where the rest is int8.
    """
    if how == "float32":
        return _hold_float32(tensors)
    pieces, jobs, start = [], [], 0
    for tensor in tensors:
        found, more = (_hold_tiles if how == "int8" and tensor.type in FORMATS else _hold_rows)(tensor)
        pieces += [(slice(start + part.start, start + part.stop), piece) for part, piece in found]
        jobs += more
        start += tensor.shape[0]
    return pieces, jobs


def _hold_float32(tensors):
    ends = [0, *accumulate(tensor.shape[0] for tensor in tensors)]
    w_OI = np.empty((ends[-1], tensors[0].shape[1]), np.float32)
    jobs = [
        job
        for tensor, start, end in zip(tensors, ends, ends[1:], strict=False)
        for job in fill_jobs(tensor, w_OI[start:end])
    ]
    return w_OI, jobs


def fill_jobs(tensor: Tensor, w_OI: np.ndarray) -> list[Job]:
    """Jobs that expand a matrix of the file into w_OI."""

    def job(part):
        run = tensor.data[part]
        return Job(lambda: dequantize(run, tensor.type, tensor.byte_order, out=w_OI[part]), run)

    return [job(part) for part in _cut(*tensor.shape)]


def _cut(n_out, n_in, least=1):
    """Slices of the outputs, about TILE weights in each, and about `least` outputs at least."""
    return evenly(n_out, -(-n_out // max(least, TILE // n_in)))


def _rows(tensor, part):
    return Rows(tensor.data[part], tensor.type, tensor.byte_order)


def _hold_rows(tensor):
    """A matrix left in the file: its pieces, and no jobs."""
    return [(part, _rows(tensor, part)) for part in _cut(*tensor.shape)], []


def _hold_tiles(tensor):
    """A matrix as integers: its tiles, still empty, and the jobs that fill them."""
    (n_out, n_in), form = tensor.shape, FORMATS[tensor.type]
    B, K, U = n_in // form.weights, form.weights // form.group, form.group
    q = np.empty(n_out * n_in, np.int8)  # of all tiles, since the kernel gives large pages to large arrays

    def scales(C):
        return Scales(np.empty((B, 1, C), np.float32), np.empty((B, K, C), np.int8) if K > 1 else None)

    tiles, jobs = [], []
    for part in _cut(n_out, n_in, TILE_OUTPUTS):
        C, rows = part.stop - part.start, _rows(tensor, part)
        q_GUC = q[part.start * n_in : part.stop * n_in].reshape(B * K, U, C)
        tile = Tile(q_GUC, scales(C), scales(C) if form.has_offset else None)
        tiles.append((part, tile))
        jobs.append(Job(partial(_fill_tile, tile, rows), rows.data))
    return tiles, jobs


def _fill_tile(tile, rows):
    q_CBKU, *scales = unpack(rows.data, rows.type, rows.byte_order)
    w_IC = tile.q_GUC.reshape(-1, tile.q_GUC.shape[2])
    n_in, C = w_IC.shape
    # Without a gap between rows a column of them would fall on few sets of the cache, and turning take 6 times as long.
    q_CI = np.empty((C, n_in + CACHE_LINE), np.int8)[:, :n_in]
    q_CI[...] = q_CBKU.reshape(C, n_in)
    for i in range(0, n_in, TURNED):
        w_IC[i : i + TURNED] = q_CI[:, i : i + TURNED].T
    for kept, found in zip((tile.scale, tile.offset), scales, strict=True):
        for array, values in zip(kept or (), found or (), strict=True):
            if array is not None:
                array[...] = np.moveaxis(values, 0, -1)


@contextmanager
def filling(jobs: list[Job], progress: Callable[[int], object] | None = None) -> Iterator[None]:
    """Fill matrices from the file while the body of the `with` runs; at its end all are filled.

    The jobs are spread over the threads (NumPy lets go of the GIL inside its loops). `progress` hears of the file bytes
    of each that is done.
    """
    # A body of pure Python keeps the GIL for 5 ms at a time, in which these threads would do 0.3 ms of work: with turns
    # of 0.2 ms Gemma's tokenizer and its weights are made in 0.6 s together; with turns of 5 ms in 0.6 to 1.0.
    turn = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    with ThreadPoolExecutor(n_threads()) as pool:
        try:
            futures = [pool.submit(job.run) for job in jobs]
            yield
            for future in futures:
                n_bytes = future.result()
                if progress:
                    progress(n_bytes)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an error or Ctrl-C must not wait for gigabytes that nobody wants
            raise
        finally:
            sys.setswitchinterval(turn)

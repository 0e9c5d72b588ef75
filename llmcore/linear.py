"""`y = x W` for a matrix held in memory, and rows of a matrix left in the file. The one room where speed tricks live.

The file holds a matrix as (out, in), quantized; we hold it as (in, out), float32, so that `y_TF = x_TD @ w_DF` reads as
it is written. The turn is made once, at load. It is also the faster layout: OpenBLAS multiplies a handful of rows by an
(in, out) matrix in about half the time, since it need not repack the matrix at every call.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .quants import dequantize, dequantize_transposed

# Rows of one run of `expanding`: enough work to hide the cost of a thread's turn, small enough for an even split.
JOB_ROWS = 1024


@dataclass(frozen=True)
class Matrix:
    """A matrix (in, out) in float32, and the bias (out,) that is added to its product where the model has one."""

    weight: np.ndarray
    bias: np.ndarray | None = None


def linear(x_TI: np.ndarray, matrix: Matrix) -> np.ndarray:
    """y = x W + b; (T, in) -> (T, out)."""
    y_TO = x_TI @ matrix.weight
    if matrix.bias is not None:
        y_TO += matrix.bias
    return y_TO


def rows(tensor, ids_T: np.ndarray) -> np.ndarray:
    """The rows `ids_T` of a matrix that stays in the file's map, in float32; (T,) -> (T, D).

    An embedding is looked up, never multiplied: to expand a few rows when they are asked for costs microseconds and
    saves the float32 copy of what is often the largest matrix of the file.
    """
    return dequantize(tensor.data[ids_T], tensor.type, tensor.byte_order)


def available_memory() -> int | None:
    """Bytes of memory that are free for us, by the system and by the control group we run in; None if nobody says."""
    found = []
    with suppress(OSError, StopIteration):  # Linux: "MemAvailable:   24022840 kB"
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with suppress(OSError, ValueError):  # "max" where the group has no limit
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found, default=None)


@contextmanager
def expanding(jobs: list, progress: Callable[[int], object] | None = None):
    """Fill float32 matrices from the file while the body of the `with` runs; at its end all are filled.

    Each job is (tensor of shape (out, in), array (in, out) to fill). They are cut into runs of rows and spread over the
    cores (NumPy lets go of the GIL inside its loops). `progress` hears of the file bytes of each run that is done.
    """

    def fill(tensor, weight_IO, start):
        run = tensor.data[start : start + JOB_ROWS]
        dequantize_transposed(run, tensor.type, tensor.byte_order, out=weight_IO[:, start : start + JOB_ROWS])
        return run.nbytes

    # A body of pure Python keeps the GIL for 5 ms at a time, in which these threads would do 0.3 ms of work: with turns
    # of 0.2 ms Gemma's tokenizer and its weights are made in 0.6 s together; with turns of 5 ms in 0.6 to 1.0.
    turn = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            runs = [
                pool.submit(fill, tensor, weight_IO, start)
                for tensor, weight_IO in jobs
                for start in range(0, len(tensor.data), JOB_ROWS)
            ]
            yield
            for run in runs:
                n_bytes = run.result()
                if progress:
                    progress(n_bytes)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an error or Ctrl-C must not wait for gigabytes that nobody wants
            raise
        finally:
            sys.setswitchinterval(turn)

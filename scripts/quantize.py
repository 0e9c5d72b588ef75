"""Write a model anew with its matrices in another type: `python scripts/quantize.py IN.gguf OUT.gguf --type
Q4_K`.

Every matrix gets the type asked for, embedding and output too (llama-quantize calls that --pure). The
exceptions:

- norms, biases and all else that has one dimension, routers and learned positions stay floats, in F32: they
  are small, and much depends on each of their numbers. llama.cpp leaves the same tensors alone
  (llama_tensor_allows_quantization);
- a matrix whose rows do not divide into blocks gets a type of smaller blocks, as llama.cpp does: see
  FALLBACKS;
- a matrix that has the type already is copied.

All metadata is copied, but for general.file_type and general.quantization_version, which say what was done. A
split model is opened by its first part and written as one file. One matrix at a time is in memory.
"""

import argparse
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import command_line
import gguf
import gguf_file
import numpy as np
from gguf import quants as gguf_quants
from gguf_file import n_bytes
from quantization import kquants
from tqdm import tqdm

from llmcore.errors import ModelFileError
from llmcore.loader import GGUF, TENSOR_TYPES, Tensor, read_gguf
from llmcore.quants import FLOATS, dequantize
from llmcore.speed.machine import use_threads
from llmcore.threads import each

FILE_TYPES = {
    "Q8_0": "MOSTLY_Q8_0", "Q5_0": "MOSTLY_Q5_0", "Q4_0": "MOSTLY_Q4_0", "Q4_1": "MOSTLY_Q4_1",
    "Q4_K": "MOSTLY_Q4_K_S", "Q6_K": "MOSTLY_Q6_K", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16",
}  # fmt: skip
# What a matrix gets whose rows do not divide into blocks of 256, of 32.
FALLBACKS = {"Q4_K": "Q5_0", "Q6_K": "Q8_0", "Q8_0": "F16", "Q5_0": "F16", "Q4_0": "F16", "Q4_1": "F16"}
KEPT = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "position_embd.weight",
    "token_types.weight",
)  # how their names end
BLOCK = {name: weights for name, weights, _ in TENSOR_TYPES.values()}  # weights in a block
# Weights quantized at a time, a multiple of every block: the K quantizers use a dozen arrays of that size.
TILE = 1 << 16


@dataclass(frozen=True)
class Written:
    """A tensor of the new file."""

    name: str
    shape: tuple[int, ...]
    before: str  # its type in the old file
    type: str
    n_bytes: int
    error: float  # RMS error / RMS of the weights as they were in the old file


def quantize_file(source, target, type: str, *, force: bool = False, progress: bool = False) -> list[Written]:
    """Write the model `source` to `target` with its matrices in `type`, a key of FILE_TYPES; `progress` shows
    a bar.

    Raises ModelFileError for a damaged file or weights that the type cannot hold, FileExistsError where
    `target` is there and `force` is not given. It appears under its name only when it is whole.
    """
    file, target = read_gguf(source), Path(target)
    if not file.tensors:
        raise ModelFileError(
            f"{file.path}: holds a vocabulary and no tensors, so there is nothing to quantize"
        )
    if target.exists():
        if any(target.samefile(tensor.path) for tensor in file.tensors.values()):
            raise FileExistsError(f"{target} is the model to read; give the new one another name")
        if not force:
            raise FileExistsError(f"{target} is there already; --force replaces it")
    types = {name: type_for(tensor, type) for name, tensor in file.tensors.items()}
    stored = {name: (tensor.shape, types[name]) for name, tensor in file.tensors.items()}
    rows = []
    gguf_file.write(target, _keys(file, type), stored, _arrays(file, types, rows, progress), file.types)
    return rows


def type_for(tensor: Tensor, type: str) -> str:
    """The type that a tensor gets when `type` is asked for."""
    if len(tensor.shape) < 2 or not tensor.name.endswith("weight") or tensor.name.endswith(KEPT):
        return "F32"
    while tensor.shape[-1] % BLOCK[type]:
        type = FALLBACKS[type]
    return type


def _keys(file: GGUF, type: str) -> dict:
    """The keys of the new file."""
    new = {"general.file_type": int(gguf.LlamaFileType[FILE_TYPES[type]])}
    new["general.quantization_version"] = int(gguf.GGML_QUANT_VERSION)
    kept = {
        key: value for key, value in file.metadata.items() if key not in new and not key.startswith("split.")
    }
    return kept | new


def _arrays(file: GGUF, types: dict[str, str], rows: list[Written], progress: bool) -> Iterator[np.ndarray]:
    """The contents of all tensors, and a row on each."""
    total = sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    # disable=None: only on a terminal
    with tqdm(
        desc="quantizing", total=total, unit="w", unit_scale=True, disable=None if progress else True
    ) as bar:
        for name, tensor in file.tensors.items():
            raw, error = quantize_tensor(tensor, types[name], bar.update)
            rows.append(Written(name, tensor.shape, tensor.type, types[name], raw.nbytes, error))
            yield raw


def quantize_tensor(tensor: Tensor, type: str, report=lambda n: None) -> tuple[np.ndarray, float]:
    """A tensor in another type: its bytes, uint8, and its relative error. Raises ModelFileError as
    `quantize_file`.

    Tiles are expanded, quantized and expanded again while they are in the cache, spread over the threads.
    `report` is told how many weights are done.
    """
    total = math.prod(tensor.shape)
    if tensor.type == type and tensor.byte_order == "<":
        report(total)
        return tensor.data.reshape(-1), 0.0
    source, out = tensor.data.reshape(-1), np.empty(n_bytes(total, type), np.uint8)
    squares = np.zeros((2, -(-total // TILE)))  # of the errors and of the weights, for each tile

    def work(i):
        start, stop = i * TILE, min((i + 1) * TILE, total)
        raw = source[n_bytes(start, tensor.type) : n_bytes(stop, tensor.type)]
        weights = dequantize(raw, tensor.type, tensor.byte_order)
        if not np.isfinite(weights).all():
            at = start + int(np.argmin(np.isfinite(weights)))
            raise ModelFileError(
                f"{tensor.path}: tensor {tensor.name!r}: weight {at} is {weights[at - start]}"
            )
        raw = encode(weights, type)
        with np.errstate(invalid="ignore"):  # infinity times 0, seen below
            back = dequantize(raw, type)
        if not np.isfinite(back).all():
            largest = f"weights up to {np.abs(weights).max():.3g}"
            raise ModelFileError(f"{tensor.path}: tensor {tensor.name!r} has {largest}, too large for {type}")
        out[n_bytes(start, type) : n_bytes(stop, type)] = raw
        weights = weights.astype(np.float64)
        squares[:, i] = np.square(back - weights).sum(), np.square(weights).sum()
        report(stop - start)

    each(work, range(squares.shape[1]))
    errors, weights = squares.sum(axis=1)
    return out, math.sqrt(errors / weights) if errors else 0.0


def encode(weights: np.ndarray, type: str) -> np.ndarray:
    """Finite float32 weights (n,), whole blocks -> bytes of `type`, uint8. Out of range becomes infinite."""
    if type in ("Q4_K", "Q6_K"):
        return kquants.quantize(weights, type)
    with np.errstate(all="ignore"):  # the package computes 0 * inf where a block is nearly 0
        return gguf_quants.quantize(weights, gguf.GGMLQuantizationType[type]).view(np.uint8)


def table(rows: list[Written]) -> Iterator[str]:
    """The lines of a table of all tensors."""
    width = max(len(row.name) for row in rows)
    yield f"{'name':{width}}  {'shape':>18}  {'was':>5}  {'type':>5}  {'bytes':>12}  relative error"
    for row in rows:
        shape, error = " x ".join(map(str, row.shape)), f"{row.error:.3%}" if row.error else "0"
        types = f"{row.before:>5}  {row.type:>5}"
        yield f"{row.name:{width}}  {shape:>18}  {types}  {row.n_bytes:>12,}  {error:>14}"


def notes(rows: list[Written], type: str) -> Iterator[str]:
    """What a reader of the table should know: totals, exceptions, errors that the old file has already."""
    weights, n_bytes = sum(math.prod(row.shape) for row in rows), sum(row.n_bytes for row in rows)
    size = f"{n_bytes / 1e6:,.1f} MB, {8 * n_bytes / weights:.2f} bits per weight"
    yield f"total: {len(rows)} tensors, {weights:,} weights, {size}"
    for other, count in Counter(row.type for row in rows).items():
        if other == "F32":
            yield f"note: {count} tensors stay floats: norms, biases and other small ones"
        elif other != type:
            yield f"note: {count} tensors are {other}: their rows do not divide into blocks of {BLOCK[type]}"
    before = {row.before for row in rows if row.before not in FLOATS and row.before != row.type}
    if before:
        was = ", ".join(sorted(before))
        yield f"note: the model was {was} before: the errors of that are not counted again"


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN.gguf", help="model to read; of a split one, the first part")
    parser.add_argument("target", metavar="OUT.gguf", help="model to write")
    parser.add_argument("--type", required=True, choices=FILE_TYPES, help="the type of all matrices")
    parser.add_argument("--force", action="store_true", help="replace OUT.gguf if it is there")
    return parser


def run(args) -> None:
    """Quantize, and say what came of it."""
    use_threads()
    rows = quantize_file(args.source, args.target, args.type, force=args.force, progress=True)
    print(*table(rows), *notes(rows, args.type), sep="\n")
    print(f"wrote {args.target}: {os.path.getsize(args.target) / 1e6:,.1f} MB")


def main() -> None:
    """Run the command line."""
    args = _parser().parse_args()
    command_line.run(lambda: run(args))


if __name__ == "__main__":
    main()

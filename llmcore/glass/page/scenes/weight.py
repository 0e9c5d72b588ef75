"""What a weight looks like: the bits of one block of each format that the file has.

Which bits belong to which weight is found by experiment: each bit of the block is turned over, and what
changes is looked at.
"""

import math

import numpy as np

from ....formats import FORMATS
from ....loader import Tensor
from ....quants import FLOATS, _expand, block_of, dequantize, unpack
from ...recording import Run
from ..arrays import exact, whole

WANTED: frozenset[str] = frozenset()
FEW = 16  # numbers that are shown of a format without blocks
FRACTION = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}  # bits after the point


def part(run: Run) -> dict | None:
    """A block of each type, the types that hold most weights first."""
    of_type: dict[str, list[Tensor]] = {}
    for tensor in run.file.tensors.values():
        of_type.setdefault(tensor.type, []).append(tensor)
    counts = {kind: sum(math.prod(t.shape) for t in tensors) for kind, tensors in of_type.items()}
    total = sum(counts.values())
    found = []
    for kind in sorted(counts, key=lambda kind: -counts[kind]):
        about = block_of_file(example(of_type[kind]))
        if about is not None:
            bits = 8 * sum(t.nbytes for t in of_type[kind]) / counts[kind]
            found.append(about | {"weights": counts[kind], "share": counts[kind] / total, "bits_each": bits})
    return {"blocks": found} if found else None


def code(run: Run) -> list:
    """The decoders of the formats shown, and what multiplies."""
    from importlib import import_module

    kinds = {tensor.type for tensor in run.file.tensors.values()}
    return [
        *(
            getattr(import_module(f"llmcore.formats.{FORMATS[kind].file}"), kind.lower())
            for kind in sorted(kinds & FORMATS.keys())
        ),
        _expand,
    ]


def example(tensors: list[Tensor]) -> Tensor:
    """The tensor that stands for a type: a query's matrix, else any matrix, else any."""
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1] or tensors
    return next((tensor for tensor in matrices if "attn_q" in tensor.name), matrices[0])


def block_of_file(tensor: Tensor) -> dict | None:
    """The first block of a tensor that is not all zeros; None for a format that is left to gguf."""
    name = {"tensor": tensor.name, "type": tensor.type}
    if tensor.type in FLOATS:
        size = tensor.data.shape[-1] // tensor.shape[-1]
        n = min(FEW, tensor.shape[-1])
        raw = tensor.data.reshape(-1, tensor.data.shape[-1])[0, : n * size]
        about = floats_in(raw, tensor.type, tensor.byte_order)
        return name | {"start": tensor.offset, "values": about}
    if tensor.type not in FORMATS:
        return None
    dtype, _ = block_of(tensor.type, tensor.byte_order)
    row = tensor.data.reshape(-1, tensor.data.shape[-1])[0].reshape(-1, dtype.itemsize)
    at = next((i for i, raw in enumerate(row) if dequantize(raw, tensor.type, tensor.byte_order).any()), 0)
    start = tensor.offset + at * dtype.itemsize
    return name | {"start": start} | bits_of(row[at], tensor.type, tensor.byte_order)


def floats_in(raw: np.ndarray, kind: str, byte_order: str) -> list[dict]:
    """Each number of a few: its bits, the highest first, and sign, exponent and fraction; as text what a
    reader sees of a number that is none.
    """
    size = np.dtype(FLOATS[kind]).itemsize
    fraction = FRACTION[kind]
    bias = 2 ** (8 * size - fraction - 2) - 1
    values = dequantize(raw, kind, byte_order).ravel()
    found = []
    for word, value in zip(raw.reshape(-1, size), values, strict=True):
        number = int.from_bytes(word.tobytes(), "little" if byte_order == "<" else "big")
        exponent = number >> fraction & (1 << 8 * size - 1 - fraction) - 1
        found.append(
            {
                "bits": f"{number:0{8 * size}b}",
                "sign": number >> 8 * size - 1,
                "exponent": exponent,
                "bias": bias,
                "fraction": number & (1 << fraction) - 1,
                "width": fraction,
                "value": f"{value:.9g}",
            }
        )
    return found


def bits_of(raw: np.ndarray, kind: str, byte_order: str) -> dict:
    """A block: bytes, fields, integers, scales, offsets, weights; and for each bit what it is for."""
    dtype, n_weights = block_of(kind, byte_order)
    n_bits = 8 * len(raw)
    # The block with each of its bits flipped, then as it is
    turned = np.repeat(raw[None], n_bits + 1, axis=0)
    at = np.arange(n_bits)
    turned[at, at // 8] ^= (0x80 >> at % 8).astype(np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        block = unpack(turned, kind, byte_order)
    q = block.q.reshape(n_bits + 1, -1)
    known: dict = dict(dtype.fields or {})
    fields = [[name, about[1], about[0].itemsize] for name, about in known.items()]
    return {
        "bytes": raw.tolist(),
        "fields": sorted(fields, key=lambda field: field[1]),
        "group": FORMATS[kind].group,
        "q": q[-1].tolist(),
        **{
            name: {
                "unit": exact(scales.unit[-1].ravel()),
                "steps": None if scales.steps is None else whole(scales.steps[-1].ravel()),
            }
            for name, scales in (("scale", block.scale), ("offset", block.offset))
            if scales is not None
        },
        "values": exact(dequantize(raw, kind, byte_order)),
        "bits": purposes(block, q, n_weights // FORMATS[kind].group),
    }


def purposes(block, q: np.ndarray, groups: int) -> list[list]:
    """For each bit that was flipped: which weights' integers it changes, which groups' scales and offsets.

    A scale of the whole block is told without its groups.
    """
    n_rows = len(q)
    roles = {"q": changed(q)}
    for name, scales in (("scale", block.scale), ("offset", block.offset)):
        if scales is not None:
            roles[name] = changed(np.broadcast_to(scales.unit.reshape(n_rows, 1), (n_rows, groups)))
            if scales.steps is not None:
                roles[f"{name}_step"] = changed(scales.steps.reshape(n_rows, groups))
    bits: list[list] = [[] for _ in range(n_rows - 1)]
    for name, found in roles.items():
        for bit, items in zip(bits, found, strict=True):
            if items:
                whole_block = len(items) == groups and name in ("scale", "offset")
                bit.append([name, *([] if whole_block else items)])
    return bits


def changed(values: np.ndarray) -> list[list[int]]:
    """For each row but the last, in which places its bytes differ from those of the last."""
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape, -1)
    differs = (raw != raw[-1:]).any(axis=-1)
    return [np.flatnonzero(row).tolist() for row in differs[:-1]]

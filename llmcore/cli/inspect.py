"""What is in a model file, for people: `python -m llmcore.loader FILE` prints its HEAD, its BODY and the
totals.
"""

import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from ..config import Config, read_config
from ..errors import ModelFileError
from ..loader import GGUF, Tensor, read_gguf
from ..mixers import kind_of
from ..mixers.attention import Attention
from ..mixers.latent import Latent
from ..model import empty_cache
from .command import on_one_line, status_of
from .options import Parser


def describe(gguf: GGUF, width: int = 100) -> Iterator[str]:
    """Yield the lines of a listing: a title, HEAD key by key, BODY tensor by tensor, totals by type."""
    tensors = list(gguf.tensors.values())
    paths = dict.fromkeys([gguf.path, *(tensor.path for tensor in tensors)])
    size = sum(path.stat().st_size for path in paths)
    endian = {"<": "little", ">": "big"}[gguf.byte_order]
    name = on_one_line(gguf.path.name)
    yield f"{name}: GGUF version {gguf.version}, {endian} endian, {_size(size)}, aligned to {gguf.alignment}"

    yield f"\nHEAD: {len(gguf.metadata)} keys"
    rows = _table(((_cut(key, 48), type_) for key, type_ in gguf.types.items()), "<<")
    for row, (key, value) in zip(rows, gguf.metadata.items(), strict=True):
        yield f"{row}  {_show(value, width - len(row) - 2, gguf.types[key])}"

    for path, part in itertools.groupby(tensors, key=lambda tensor: tensor.path):
        yield "\nBODY" + (f" in {on_one_line(path.name)}" if len(paths) > 1 else "")
        yield from _table(_body_rows(part, size), "<<<>>>")
    if tensors:
        yield f"\nTOTAL: {len(tensors)} tensors"
        yield from _table(_total_rows(tensors, size), "<>>>>>")
        with suppress(ModelFileError):  # of another kind of model, or for us to refuse: the listing stands
            yield f"\nLAYERS: {layers_and_cache(read_config(gguf.metadata, gguf.path))}"


def layers_and_cache(config: Config) -> str:
    """What kinds of layers there are, and what a text costs in the cache, in a line."""
    plans = [plan.mixer for plan in config.layers]
    kinds = Counter("no mixer" if p is None else kind_of(p).__name__.rpartition(".")[2] for p in plans)
    states = [array for layer in empty_cache(config).layers for array in layer.arrays]
    always, windowed = 0, Counter[int]()
    for plan in plans:
        window = getattr(getattr(plan, "attention", plan), "window", None)
        if window is None:
            always += row_bytes(plan)
        else:
            windowed[window] += row_bytes(plan)
    parts = [f"{n} {name}" for name, n in kinds.items()]
    cost = [f"{_size(always + sum(windowed.values()))} a token"]
    cost += [f"{_size(n)} of it for the last {window} tokens alone" for window, n in windowed.items()]
    cost += [f"states of {_size(sum(array.nbytes for array in states))}"] if states else []
    return f"{', '.join(parts)} | cache: {', '.join(cost)}"


def row_bytes(plan: Any) -> int:
    """Bytes that a layer of this plan adds to the cache with each token; 0 for recurrent ones."""
    plan = getattr(plan, "attention", plan)
    if isinstance(plan, Latent):
        return 4 * (plan.rank + plan.n_position)
    if isinstance(plan, Attention) and plan.rows_of is None:
        return 4 * plan.n_kv_heads * (plan.key_length + plan.value_length)
    return 0


def _body_rows(tensors: Iterator[Tensor], size: int) -> Iterator[tuple[str, ...]]:
    yield "name", "type", "shape", "offset", "bytes", "share"
    for t in tensors:
        shape = " x ".join(map(str, t.shape))
        yield _cut(t.name, 44), t.type, shape, str(t.offset), str(t.nbytes), f"{t.nbytes / size:.1%}"


def _total_rows(tensors: list[Tensor], size: int) -> Iterator[tuple[str, ...]]:
    groups = {type_: [t for t in tensors if t.type == type_] for type_ in sorted({t.type for t in tensors})}
    yield "type", "tensors", "weights", "size", "bits per weight", "share"
    for label, group in [*groups.items(), ("sum", tensors)]:
        weights, n_bytes = sum(math.prod(t.shape) for t in group), sum(t.nbytes for t in group)
        bits = f"{8 * n_bytes / weights:.2f}"
        yield label, str(len(group)), f"{weights:,}", _size(n_bytes), bits, f"{n_bytes / size:.1%}"


def _table(rows: Iterable[tuple[str, ...]], alignments: str) -> Iterator[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, alignments, widths, strict=True))


def _show(value: Any, width: int, type_: str = "") -> str:
    """A metadata value on one line, cut to the width; strings are quoted and escaped."""
    if isinstance(value, str):
        return _cut(repr(value[:width]), width)
    if isinstance(value, list | np.ndarray):
        return _cut(f"[{', '.join(_show(item, width) for item in value[:width])}]", width)
    return str(np.float32(value) if type_ == "f32" else value)  # an f32 prints with the digits it has, 1e-05


def _cut(text: str, width: int) -> str:
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= width else text[: width - 3] + "..."


def _size(n_bytes: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {name}"
    return f"{n_bytes} bytes"


def main(argv: list[str] | None = None) -> int:
    """Print what is in a model file; returns the exit status."""
    parser = Parser("python -m llmcore inspect", description="Print what is in a model file.")
    parser.add_argument("file", help="a GGUF file; of a split model, the first")

    def work():
        """All of it, under `status_of`."""
        file = parser.parse_args(argv).file
        if hasattr(sys.stdout, "reconfigure"):  # the terminal may lack some characters of the vocabulary
            sys.stdout.reconfigure(errors="backslashreplace")
        for line in describe(read_gguf(file)):
            print(line)
        return 0

    return status_of(work)

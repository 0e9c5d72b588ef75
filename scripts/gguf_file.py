"""The one writer of GGUF files: `write(path, keys, tensors, arrays)`.

HEAD is the keys and a line for each tensor; in BODY each tensor begins at a multiple of the alignment. Types
have the names of llmcore/loader.py, which reads what is written here. Source: ggml's docs/gguf.md, version 3.
"""

import os
import struct
from collections.abc import Iterable, Mapping
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from llmcore.formats.cursor import VALUE_TYPES
from llmcore.loader import TENSOR_TYPES

VALUES = {name: (id_, code) for id_, (name, code) in VALUE_TYPES.items()}
ITEMS = {np.dtype(code): name for name, (_, code) in VALUES.items() if code is not None}
TENSORS = {name: (id_, weights, n_bytes) for id_, (name, weights, n_bytes) in TENSOR_TYPES.items()}


def write(
    path: Path,
    keys: Mapping[str, Any],
    tensors: Mapping[str, tuple[tuple[int, ...], str]],
    arrays: Iterable[np.ndarray],
    types: Mapping[str, str] | None = None,
) -> None:
    """Write a file, under another name until it is whole.

    `tensors` are (shape, type) by name, and `arrays` their contents in the same order, which may be made one
    at a time. `types` says how a key is stored ("u32", "arr[str,5]", as `loader.GGUF.types`) where it is not
    as `type_of` has it. Raises ValueError for a key that GGUF cannot hold.
    """
    alignment = keys.get("general.alignment", 32)
    head = _head(keys, tensors, types or {}, alignment)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(head)
            for (name, (shape, type)), array in zip(tensors.items(), arrays, strict=True):
                raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                assert raw.nbytes == n_bytes(prod(shape), type), name
                file.write(raw)
                file.write(bytes(-raw.nbytes % alignment))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def n_bytes(n_weights: int, type: str) -> int:
    """The bytes that whole blocks of weights take.

    >>> n_bytes(128, "Q8_0")  # four blocks of 32 weights, with a float16 each
    136
    """
    _, weights, block_bytes = TENSORS[type]
    return n_weights // weights * block_bytes


def _head(keys, tensors, types, alignment):
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    for key, value in keys.items():
        try:
            kind = types.get(key) or type_of(value)
            out += [_text(key), struct.pack("<I", VALUES[kind.partition("[")[0]][0]), _value(value, kind)]
        except (ValueError, OverflowError, struct.error) as error:
            raise ValueError(f"key {key!r} cannot be written: {error}") from error
    sizes = [n_bytes(prod(shape), type) for shape, type in tensors.values()]
    offsets = accumulate((size + -size % alignment for size in sizes), initial=0)
    for (name, (shape, type)), offset in zip(tensors.items(), offsets, strict=False):
        out += [_text(name), struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))]
        out.append(struct.pack("<IQ", TENSORS[type][0], offset))
    head = b"".join(out)
    return head + bytes(-len(head) % alignment)


def type_of(value: Any) -> str:
    """How converters store a value: whole numbers unsigned, but signed in lists; in 32 bits where they fit.

    >>> type_of(7), type_of(-7), type_of([1, 2]), type_of([["a"], []])
    ('u32', 'i32', 'arr[i32,2]', 'arr[arr,2]')
    """
    if isinstance(value, np.ndarray):
        return f"arr[{ITEMS[value.dtype.newbyteorder('=')]},{len(value)}]"
    if isinstance(value, list):
        kinds = {_kind(one) for one in value}
        if len(kinds) > 1:
            raise ValueError("the items of a list must all have the same type")
        kind = kinds.pop() if kinds else "str"  # the loader returns empty arrays of numbers as NumPy's
        if kind == "int":
            kind = next((name for name in ("i32", "i64") if all(_fits(one, name) for one in value)), "u64")
        return f"arr[{kind},{len(value)}]"
    if (kind := _kind(value)) != "int":
        return kind
    return next((name for name in ("u32", "i32", "u64", "i64") if _fits(value, name)), "i64")


def _kind(value):
    """The kind of a value, with "int" for whole numbers of every width."""
    kinds = {bool: "bool", int: "int", float: "f32", str: "str", list: "arr", np.ndarray: "arr"}
    if type(value) not in kinds:
        raise ValueError(f"{value!r:.40} is no number, text, truth value or list of those")
    return kinds[type(value)]


def _fits(number, name):
    limits = np.iinfo(VALUES[name][1])
    return limits.min <= number <= limits.max


def _value(value, type):
    """The bytes of a value; those of an array begin with the type and the number of its items."""
    kind, _, item = type.partition("[")
    if kind == "str":
        return _text(value)
    if kind != "arr":
        return struct.pack("<" + VALUES[kind][1], value)
    item = item.split(",")[0]
    id_, code = VALUES[item]
    if item == "arr":
        items = b"".join(_value(one, type_of(one)) for one in value)
    else:
        items = b"".join(map(_text, value)) if item == "str" else np.asarray(value, "<" + code).tobytes()
    return struct.pack("<IQ", id_, len(value)) + items


def _text(text):
    """A string; bytes that were no UTF-8 are those that the loader read."""
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw

"""What a model file is: GGUF -> metadata and views of the tensors, over one memory map and without a copy.

A GGUF file is an archive of two parts. HEAD says what the model is; BODY is a long run of numbers.

          "GGUF"  version: u32  tensor count: u64  key count: u64
    HEAD  per key     key: string  type: u32  value
          per tensor  name: string  n: u32  n dimensions: u64 each, fastest first  type: u32  offset: u64
          zeros up to a multiple of the alignment (key `general.alignment`, 32 if absent)
    BODY  per tensor  its bytes, `offset` bytes into BODY, a multiple of the alignment

    string = length: u64, that many bytes of UTF-8         array = item type: u32, count: u64, the items

A tensor is a grid of weights with up to four dimensions, stored row by row. A row is cut into blocks: one
float for F32, or 256 weights squeezed into 144 bytes for Q4_K (quants.py unpacks them). A large model may be
split into files NAME-00001-of-00003.gguf and so on, each a GGUF file of its own; the first one holds the
metadata.

Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
`python -m llmcore.loader FILE` prints what is in a file.
"""

if __name__ == "__main__":  # before the imports
    from .cli.interrupt import leave_at_once

    leave_at_once()

import itertools
import math
import mmap
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelFileError, UnsupportedModel
from .formats.cursor import Cursor
from .formats.mistaken import PIECE, address, cut_short, format_of, joined_parts
from .metadata import Keys

# Type of a tensor: id -> (name, weights in a block, bytes in a block). Missing ids were withdrawn.
TENSOR_TYPES = {
    0: ("F32", 1, 4),         1: ("F16", 1, 2),         30: ("BF16", 1, 2),       28: ("F64", 1, 8),
    24: ("I8", 1, 1),         25: ("I16", 1, 2),        26: ("I32", 1, 4),        27: ("I64", 1, 8),
    2: ("Q4_0", 32, 18),      3: ("Q4_1", 32, 20),      6: ("Q5_0", 32, 22),      7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),      9: ("Q8_1", 32, 40),      20: ("IQ4_NL", 32, 18),   39: ("MXFP4", 32, 17),
    10: ("Q2_K", 256, 84),    11: ("Q3_K", 256, 110),   12: ("Q4_K", 256, 144),   13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),   15: ("Q8_K", 256, 292),   34: ("TQ1_0", 256, 54),   35: ("TQ2_0", 256, 66),
    19: ("IQ1_S", 256, 50),   29: ("IQ1_M", 256, 56),   16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    22: ("IQ2_S", 256, 82),   18: ("IQ3_XXS", 256, 98), 21: ("IQ3_S", 256, 110),  23: ("IQ4_XS", 256, 136),
    40: ("NVFP4", 64, 36),    41: ("Q1_0", 128, 18),
}  # fmt: skip

# The fewest that a key with its value, and a tensor's line in HEAD, can take
KEY_BYTES, TENSOR_BYTES = 14, 25


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """One tensor as it is stored: `data` is a read-only view into the memory map, nothing is unpacked."""

    name: str
    type: str  # "F32", "Q4_K", ...: a name in TENSOR_TYPES
    shape: tuple[int, ...]  # NumPy order, slowest first: a matrix is (out, in)
    offset: int  # bytes from the start of the file `path`
    data: np.ndarray = field(repr=False)  # uint8 (*shape[:-1], bytes in a row)
    byte_order: str  # of the numbers in `data`: "<" little or ">" big endian, as NumPy writes it
    path: Path

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the file."""
        return self.data.nbytes

    @property
    def matrix(self) -> "Tensor":
        """The same with two dimensions: all rows one below the other."""
        data = self.data.reshape(-1, self.data.shape[-1])
        return replace(self, shape=(len(data), self.shape[-1]), data=data)

    def part(self, i: int) -> "Tensor":
        """One of the tensors that lie one behind another along the first axis, such as an expert's matrix."""
        data = self.data[i]
        return replace(self, shape=self.shape[1:], offset=self.offset + i * data.nbytes, data=data)


@dataclass(frozen=True, eq=False)
class GGUF:
    """A model file, read. Metadata are int, float, bool, str, list[str], arrays, or lists of arrays."""

    path: Path
    version: int
    byte_order: str
    alignment: int
    metadata: dict[str, Any] = field(repr=False)
    types: dict[str, str] = field(repr=False)  # how each value is stored: "u32", "str", "arr[str,49152]"
    tensors: dict[str, Tensor] = field(repr=False)  # in the order of the file


def give_back(data: np.ndarray) -> None:
    """Take a part of a tensor's `data` off our account: its pages are mapped anew if they are read again.

    Pages of a mapped file count as memory of the process that has read them, though the system may drop them.
    """
    file: Any = data
    while isinstance(file, np.ndarray):
        file = file.base
    if isinstance(file, mmap.mmap) and hasattr(file, "madvise"):
        start = data.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data
        first, last = -(-start // mmap.PAGESIZE), (start + data.nbytes) // mmap.PAGESIZE  # whole pages
        if last > first:
            file.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)


def read_gguf(path: str | os.PathLike) -> GGUF:
    """Open a GGUF file, or all parts of a split one, given the first.

    The map of a file lives as long as a view of one of its tensors: a file that another process cuts short
    meanwhile ends this process with SIGBUS. Raises ModelFileError for whatever is wrong with the file, and
    UnsupportedModel for a tensor type that we have never heard of.
    """
    if "://" in str(path):
        raise ModelFileError(f"{path}: {address(str(path))}")
    first = _read_file(Path(path))
    if "split.count" not in first.metadata:
        return first
    number, count = _place(first)
    if count <= 1:
        return first
    ending = f"-{number:05d}-of-{count:05d}.gguf"
    if joined_parts(first.path, max((t.offset + t.nbytes for t in first.tensors.values()), default=4)):
        raise ModelFileError(
            f"{first.path}: {count} parts were joined into this one file, but each is a file of its own: keep"
            f" them as NAME-00001-of-{count:05d}.gguf and so on, and open the first"
        )
    if not first.path.name.endswith(ending):
        raise ModelFileError(f"{first.path}: this is part {number} of {count}; rename it to NAME{ending}")
    stem = first.path.name.removesuffix(ending)
    paths = [first.path.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)]
    if number != 1:
        raise ModelFileError(f"{first.path}: this is part {number} of {count}; open the first, {paths[0]}")
    tensors = dict(first.tensors)
    for n, path in enumerate(paths[1:], 2):
        if not path.is_file():
            raise ModelFileError(f"{first.path}: part {n} of {count} is missing: no file {path}")
        part = _read_file(path)
        if _place(part) != (n, count):
            found = "part {} of {}".format(*_place(part))
            raise ModelFileError(f"{path}: this is {found}, not {n} of {count}; was it renamed?")
        if twice := tensors.keys() & part.tensors.keys():
            name = min(twice)
            raise ModelFileError(f"{path}: tensor {name!r} is in {tensors[name].path} as well")
        tensors |= part.tensors
    expected = Keys(first.metadata, first.path, "split").get("tensors.count", int)
    if len(tensors) != expected:
        raise ModelFileError(f"{first.path}: split.tensors.count is {expected}; there are {len(tensors)}")
    return replace(first, tensors=tensors)


def _place(part: GGUF) -> tuple[int, int]:
    """Which part of how many a file is, counted from 1."""
    keys = Keys(part.metadata, part.path, "split")
    return keys.get("no", int) + 1, keys.get("count", int)


def _read_file(path: Path) -> GGUF:
    cursor = Cursor(path, _map_file(path))
    version = _read_version(cursor)
    n_tensors, n_keys = cursor.number("Q"), cursor.number("Q")
    cursor.reading = f"HEAD (keys: {n_keys}, tensors: {n_tensors})"
    cursor.require(n_tensors * TENSOR_BYTES + n_keys * KEY_BYTES)
    metadata, types = {}, {}
    for i in range(n_keys):
        cursor.reading = f"key {i + 1} of {n_keys}"
        key = cursor.name()
        cursor.reading = f"key {key!r}"
        if key in metadata:
            raise cursor.error("appears twice")
        metadata[key], types[key] = cursor.value()
    alignment = metadata.get("general.alignment", 32)
    if types.get("general.alignment", "u32") != "u32" or alignment.bit_count() != 1:
        cursor.reading, kind = "key 'general.alignment'", types["general.alignment"]
        raise cursor.error(f"is {alignment!r:.60} ({kind}), but must be a power of two (u32)")
    tensors = _read_tensors(cursor, n_tensors, alignment)
    return GGUF(path, version, cursor.byte_order, alignment, metadata, types, tensors)


def _map_file(path: Path) -> mmap.mmap:
    if not path.is_file():  # and opening a pipe would wait for ever
        is_there = "this is a directory; name a file in it" if path.is_dir() else "not a regular file"
        raise ModelFileError(f"{path}: {is_there if path.exists() else 'no such file'}")
    if path.stat().st_size == 0:
        raise ModelFileError(f"{path}: the file is empty; download it again")
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error


def _read_version(cursor: Cursor) -> int:
    """Read the first eight bytes, which also tell the byte order of all that follows."""
    cursor.reading = "the header"
    start = cursor.map[:64]
    if not b"GGUF".startswith(start[:4]):
        piece = "; " + cut_short(cursor.path) if PIECE.fullmatch(cursor.path.name) else ""
        raise ModelFileError(f"{cursor.path}: not a GGUF file: {format_of(start)}{piece}")
    cursor.advance(4)
    version = cursor.number("I")
    if version & 0xFFFF == 0:  # a small number read the wrong way round
        cursor.byte_order = ">"
        cursor.at -= 4
        version = cursor.number("I")
    if version not in (2, 3):
        advice = "update llmcore" if version > 3 else "convert the model again with a newer llama.cpp"
        raise ModelFileError(f"{cursor.path}: GGUF version {version}, but we read versions 2 and 3; {advice}")
    return version


def _read_tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, Tensor]:
    """Read the list of tensors that ends HEAD, and lay a view over the place of each in BODY."""
    entries = [_read_entry(cursor, f"tensor {i + 1} of {count}") for i in range(count)]
    body = cursor.at + -cursor.at % alignment
    size = len(cursor.map)
    tensors = {}
    for name, type_, shape, stored, offset in entries:
        cursor.reading = f"tensor {name!r}"
        start, end = body + offset, body + offset + math.prod(stored)
        if name in tensors:
            raise cursor.error("appears twice")
        if offset % alignment:
            raise cursor.error(f"has offset {offset}, not a multiple of the alignment {alignment}")
        if end > size:
            raise cursor.error(
                f"ends at byte {end}, past the end of the file ({size}); {cut_short(cursor.path)}"
            )
        data = np.ndarray(stored, np.uint8, cursor.map, start)
        tensors[name] = Tensor(name, type_, shape, start, data, cursor.byte_order, cursor.path)

    for one, two in itertools.pairwise(sorted(tensors.values(), key=lambda tensor: tensor.offset)):
        end = one.offset + one.nbytes
        if end > two.offset:
            cursor.reading = f"tensor {two.name!r}"
            raise cursor.error(
                f"at byte {two.offset} overlaps tensor {one.name!r}, from {one.offset} to {end}"
            )
    return tensors


def _read_entry(cursor: Cursor, reading: str) -> tuple[str, str, tuple[int, ...], tuple[int, ...], int]:
    """Read a line of the list: name, type, shape, shape in bytes as stored, and offset into BODY."""
    cursor.reading = reading
    name = cursor.name()
    cursor.reading = f"tensor {name!r}"
    n_dims = cursor.number("I")
    if n_dims > 4:
        raise cursor.error(f"has {n_dims} dimensions; at most 4 are allowed")
    shape = tuple(cursor.numbers("Q", n_dims).tolist()[::-1]) or (1,)  # ggml stores a scalar as a row of one
    type_id, offset = cursor.number("I"), cursor.number("Q")
    if type_id not in TENSOR_TYPES:
        known = ", ".join(type_ for type_, _, _ in TENSOR_TYPES.values())
        raise UnsupportedModel(f"{cursor.path}: tensor {name!r} is of type {type_id}; we know {known}")
    type_, weights, n_bytes = TENSOR_TYPES[type_id]
    if not 0 < math.prod(shape) < 2**63:
        raise cursor.error(f"has shape {shape}, {math.prod(shape)} weights; 1 to 2^63 - 1 are allowed")
    if shape[-1] % weights:
        raise cursor.error(
            f"has rows of {shape[-1]} weights, not a multiple of the {weights} in a block of {type_}"
        )
    return name, type_, shape, (*shape[:-1], shape[-1] // weights * n_bytes), offset


if __name__ == "__main__":
    from .cli.inspect import main

    sys.exit(main())

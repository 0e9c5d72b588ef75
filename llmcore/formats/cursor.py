"""The values of a GGUF file's HEAD, one after another: numbers, strings and arrays, none of them trusted."""

import mmap
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelFileError

# Type of a metadata value: id -> (name, the letter that both struct and NumPy use for it).
VALUE_TYPES: dict[int, tuple[str, Any]] = {
    0: ("u8", "B"), 2: ("u16", "H"), 4: ("u32", "I"), 10: ("u64", "Q"), 6: ("f32", "f"), 8: ("str", None),
    1: ("i8", "b"), 3: ("i16", "h"), 5: ("i32", "i"), 11: ("i64", "q"), 12: ("f64", "d"), 9: ("arr", None),
    7: ("bool", "?"),
}  # fmt: skip
STRING, ARRAY = 8, 9
MAX_NAME = 65535  # bytes, the specification's limit for a key; we hold the names of tensors to it as well
MAX_NESTING = 16  # of arrays in arrays: the specification has no limit, llama.cpp does not read nested ones
ARRAY_BYTES = 12  # the fewest that an array inside an array can take


class Cursor:
    """A place in a mapped file, which moves on as values are read.

    The numbers in a file are not to be trusted: `require` compares each count and length with the bytes that
    are left before anything of that size is made. Python's integers are exact, so a product cannot wrap
    around.
    """

    def __init__(self, path: Path, file: mmap.mmap):
        self.path, self.map, self.at, self.byte_order = path, file, 0, "<"
        self.reading = ""  # what is being read, for error messages

    def error(self, problem: str) -> ModelFileError:
        """The error that says what is wrong with what is being read."""
        return ModelFileError(f"{self.path}: {self.reading} {problem}")

    def require(self, n_bytes: int) -> None:
        """Raises ModelFileError if fewer bytes are left."""
        size = len(self.map)
        if n_bytes > size - self.at:
            where = f"at byte {self.at}, past the end of the file ({size})"
            raise self.error(f"needs {n_bytes} bytes {where}; is the download complete?")

    def advance(self, n_bytes: int) -> int:
        """Move past the next bytes; returns where they start."""
        self.require(n_bytes)
        self.at += n_bytes
        return self.at - n_bytes

    def number(self, code: str) -> Any:
        """Read one number, of the type that struct calls `code`."""
        return self.numbers(code, 1).item()

    def numbers(self, code: str, count: int) -> np.ndarray:
        """Read an array, in the byte order of this machine."""
        if count == 0:
            return _empty(code)
        dtype = np.dtype(self.byte_order + code)
        values = np.ndarray(count, dtype, self.map, self.advance(count * dtype.itemsize))
        if code == "?" and (largest := values.view(np.uint8).max()) > 1:
            raise self.error(f"has the byte {largest} for a bool, which must be 0 or 1")
        return values.astype(dtype.newbyteorder("="))

    def name(self) -> str:
        """Read a key, or the name of a tensor."""
        length = self.number("Q")
        if not 1 <= length <= MAX_NAME:
            raise self.error(f"has a name of {length} bytes; 1 to {MAX_NAME} are allowed")
        start = self.advance(length)
        try:
            return self.map[start : self.at].decode()
        except UnicodeDecodeError as error:
            raise self.error(f"has a name that is not UTF-8, {error.object[:100]!r}") from error

    def strings(self, count: int) -> list[str]:
        """Read strings, one after another, in one loop: `number` and `advance` for each would be slow.

        Bytes that are not UTF-8 become lone surrogates, so that nothing is lost.
        """
        self.require(8 * count)
        read_length, texts = struct.Struct(self.byte_order + "Q").unpack_from, list[str]()
        file, size, end = self.map, len(self.map), self.at
        # Each string must end before `limit`, which leaves room for the lengths of those that follow.
        for limit in range(size - 8 * (count - 1), size + 1, 8):
            start = end + 8
            end = start + read_length(file, end)[0]
            if end > limit:
                raise self.error(
                    f"has {end - start} bytes in string {len(texts) + 1} of {count} at byte {start}, but the "
                    f"file ({size} bytes) has {limit - start} left for it; is the download complete?"
                )
            texts.append(file[start:end].decode("utf-8", "surrogateescape"))
        self.at = end
        return texts

    def value(self) -> tuple[Any, str]:
        """Read the type and the value of a key; returns the value, and its type for people to read."""
        kind = self.number("I")
        if kind == ARRAY:
            return self.array()
        values, name = self.values(kind, 1)
        return (values[0] if kind == STRING else values.item()), name

    def array(self, depth: int = 1) -> tuple[Any, str]:
        """Read an array, `depth` deep in others; returns it and its type."""
        if depth > MAX_NESTING:
            raise self.error(f"has arrays nested more than {MAX_NESTING} deep")
        kind, count = self.number("I"), self.number("Q")
        if kind == ARRAY:
            self.require(count * ARRAY_BYTES)
            return [self.array(depth + 1)[0] for _ in range(count)], f"arr[arr,{count}]"
        values, name = self.values(kind, count)
        return values, f"arr[{name},{count}]"

    def values(self, kind: int, count: int) -> tuple[Any, str]:
        """Read values of one type, an id of VALUE_TYPES; returns them and its name."""
        if kind not in VALUE_TYPES:
            raise self.error(f"has a value of type {kind}; GGUF has types 0 to {max(VALUE_TYPES)}")
        name, code = VALUE_TYPES[kind]
        return (self.strings(count) if code is None else self.numbers(code, count)), name


@cache
def _empty(code: str) -> np.ndarray:
    """The one empty array of a type: 12 bytes of a hostile file would else cost 112 of memory."""
    return np.empty(0, code)

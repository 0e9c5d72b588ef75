"""Checked reading of HEAD's keys: every value that the engine takes from the metadata passes through here."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelFileError

REQUIRED: Any = object()  # in the place of a default: the file must have the key
LARGEST = 2**31 - 1  # of any whole number: past this, a damaged file would only break later and less clearly


class Keys:
    """The keys of a file that begin with one prefix, such as "llama" or "tokenizer.ggml"."""

    def __init__(self, metadata: dict[str, Any], path: Path | str, prefix: str):
        """`path` is for error messages."""
        self.metadata, self.path, self.prefix = metadata, path, prefix

    def __contains__(self, key: str) -> bool:
        """Whether the file has `{prefix}.key`."""
        return f"{self.prefix}.{key}" in self.metadata

    def get(self, key: str, kind: type, default: Any = REQUIRED, least: float | None = None) -> Any:
        """The value of `{prefix}.key`, of type `kind` and at least `least`; else `default`.

        Raises ModelFileError for a value of another type, one that is too small, and a required key that is
        missing.
        """
        name = f"{self.prefix}.{key}"
        if name in self.metadata:
            return self._checked(name, self.metadata[name], kind, least)
        if default is REQUIRED:
            raise ModelFileError(f"{self.path}: the metadata has no {name}, which the model needs")
        return default

    def index(self, key: str, size: int, default: int | None) -> int | None:
        """The value of `{prefix}.key` as a place among `size`; past the end it is told and the default taken.

        So does llama.cpp. Among such files are those that write "none" as -1 in an unsigned number.
        """
        value = self.metadata.get(f"{self.prefix}.{key}")
        if type(value) is not int or 0 <= value < size:
            return self.get(key, int, default)
        instead = "none" if default is None else default
        self.warn(key, f"is {value}, but there are {size} tokens; taken as {instead}")
        return default

    def strings(self, key: str, default: Any = REQUIRED) -> list[str]:
        """The value of `{prefix}.key`, a list of nothing but strings."""
        values = self.get(key, list, default)
        if not {*map(type, values)} <= {str}:
            raise self.error(key, "holds other things than strings")
        return values

    def numbers(self, key: str, default: np.ndarray) -> np.ndarray:
        """The value of `{prefix}.key`, an array of numbers, or a list of them."""
        values = self.metadata.get(f"{self.prefix}.{key}", default)
        if type(values) is list and {*map(type, values)} <= {int, float}:
            values = np.array(values)
        if type(values) is not np.ndarray or values.dtype.kind not in "iuf":
            raise self.error(key, f"is {str(values)[:60]!r}, which is not an array of numbers")
        return values

    def of_layer(
        self, key: str, kind: type, i: int, default: Any = REQUIRED, least: float | None = None
    ) -> Any:
        """The same for layer i; the file holds an array with a value for each layer, or one value for all."""
        name = f"{self.prefix}.{key}"
        values = self.metadata.get(name)
        if not isinstance(values, np.ndarray):
            return self.get(key, kind, default, least)
        n_blocks = self.get("block_count", int)  # spare layers at the end included
        if len(values) != n_blocks:
            raise self.error(key, f"has {len(values)} values for {n_blocks} layers")
        return self._checked(name, values[i].item(), kind, least)

    def error(self, key: str, what: str) -> ModelFileError:
        """The error that says what is wrong with `{prefix}.key`."""
        return ModelFileError(f"{self.path}: {self.prefix}.{key} {what}")

    def warn(self, key: str, what: str) -> None:
        """Tell what is wrong with `{prefix}.key` and does no harm."""
        warnings.warn(str(self.error(key, what)), stacklevel=3)

    def _checked(self, name, value, kind, least):
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:  # not isinstance: to Python True is an int
            shown = f"{str(value)[:60]!r}, which is not of type {kind.__name__}"
            raise ModelFileError(f"{self.path}: {name} is {shown}")
        if kind is float and not math.isfinite(value):
            raise ModelFileError(f"{self.path}: {name} is {value}, not a finite number")
        if least is not None and value < least:
            raise ModelFileError(f"{self.path}: {name} is {value}; the least that makes sense is {least}")
        if kind is int and value > LARGEST:
            raise ModelFileError(f"{self.path}: {name} is {value}; the most that makes sense is {LARGEST}")
        return value

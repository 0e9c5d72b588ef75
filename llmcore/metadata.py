"""Checked reading of HEAD's keys: every value that the engine takes from a file's metadata passes through here."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelFileError

REQUIRED: Any = object()  # in the place of a default: the file must have the key
LARGEST = 2**31 - 1  # of any whole number: what a damaged file says past this would only break later and less clearly


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

        Raises ModelFileError for a value of another type, one that is too small, and a required key that is missing.
        """
        name = f"{self.prefix}.{key}"
        if name in self.metadata:
            return self._checked(name, self.metadata[name], kind, least)
        if default is REQUIRED:
            raise ModelFileError(f"{self.path}: the metadata has no {name}; {self.prefix} models need it")
        return default

    def of_layer(self, key: str, kind: type, i: int, default: Any = REQUIRED, least: float | None = None) -> Any:
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

    def _checked(self, name, value, kind, least):
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:  # not isinstance: to Python True is an int
            raise ModelFileError(f"{self.path}: {name} is {str(value)[:60]!r}, which is not of type {kind.__name__}")
        if kind is float and not math.isfinite(value):
            raise ModelFileError(f"{self.path}: {name} is {value}, not a finite number")
        if least is not None and value < least:
            raise ModelFileError(f"{self.path}: {name} is {value}; the least that makes sense is {least}")
        if kind is int and value > LARGEST:
            raise ModelFileError(f"{self.path}: {name} is {value}; the most that makes sense is {LARGEST}")
        return value

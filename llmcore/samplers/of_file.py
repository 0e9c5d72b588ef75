"""What a file says about sampling: `general.sampling.*`, as llama.cpp reads it (common/common.cpp)."""

import warnings
from dataclasses import fields
from typing import Any

import numpy as np

from .options import SEQUENCE, Sampling, checked

KEYS = {  # general.sampling.KEY -> the option
    **{"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"},
    **{"penalty_repeat": "repeat_penalty", "penalty_last_n": "penalty_last_n"},
    **{"xtc_probability": "xtc_probability", "xtc_threshold": "xtc_threshold", "sequence": "sequence"},
}
# Names in a sequence are written top_k, top-k or topk.
NAMES = {alias: name for name in SEQUENCE for alias in (name, name.replace("_", "-"), name.replace("_", ""))}
NAMES |= {"nucleus": "top_p", "temp": "temperature", "typ": "typ_p"}


def read_keys(metadata: dict, path) -> dict:
    """{option: value} of what the file names. What is wrong or unknown is told and left out."""
    found, known = {}, {option.name: option for option in fields(Sampling)}

    def warn(key, what):
        warnings.warn(f"{path}: general.sampling.{key} {what}", stacklevel=4)

    for key, name in KEYS.items():
        value = metadata.get(f"general.sampling.{key}")
        if value is None:
            continue
        default: Any = known[name].default
        try:
            if name == "sequence":
                value = _sequence(value, lambda what: warn("sequence", what))
            found[name] = checked(known[name], _as_number(value, default))
        except ValueError as error:
            default = ";".join(default) if name == "sequence" else default
            warn(key, f"is of no use ({error}); taken as {default}")
    if metadata.get("general.sampling.mirostat"):
        warn("mirostat", "asks for a sampler that we lack; left out")
    return found


def _as_number(value, default):
    """The value, as a whole number where the default is one, as llama.cpp takes it.

    A float32 is taken by its few digits: 0.6, not 0.6000000238418579.
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(value, float):
        value = (
            float(np.format_float_positional(np.float32(value), unique=True)) if np.isfinite(value) else value
        )
        if isinstance(default, int) and value.is_integer():
            return int(value)
    return value


def _sequence(value, warn):
    """The names of our filters in a sequence like "penalties;dry;top_k"; others are told."""
    if not isinstance(value, str):
        return value
    names = [name.strip() for name in value.split(";")]
    if unknown := [name for name in names if name.lower() not in NAMES]:
        warn(f"names {', '.join(map(repr, unknown))}, which we lack; left out")
    return tuple(dict.fromkeys(NAMES[name.lower()] for name in names if name.lower() in NAMES))

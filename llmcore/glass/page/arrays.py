"""Arrays as the page carries them: base64 of little-endian bytes, with a type, a shape and perhaps scales.

Numbers that the page calls equal to the engine's go as float32 (`exact`), whole ones as int32 (`whole`);
shares between 0 and 1 as 16-bit fixed point (`shares`); what is only drawn as int8 with a scale for each row
(`drawn`). shell/arrays.js has the one decoder; `unpack` is the same in Python.
"""

import base64
from typing import Any

import numpy as np

SHARE = 65535  # the share of 1


def exact(array: Any) -> dict:
    """Numbers as float32."""
    return _packed(np.asarray(array, "<f4"), "f4")


def whole(array: Any) -> dict:
    """Whole numbers as int32."""
    return _packed(np.asarray(array).astype("<i4"), "i4")


def shares(array: Any) -> dict:
    """Numbers between 0 and 1, to 1 / 131070."""
    return _packed(np.rint(np.clip(array, 0, 1) * SHARE).astype("<u2"), "u2")


def drawn(array: Any) -> dict:
    """Numbers to a 254th of the largest of their row (the last axis)."""
    array = np.asarray(array, np.float32)
    scale = np.abs(array).max(axis=-1, initial=0) / 127
    q = np.rint(array / np.where(scale > 0, scale, 1)[..., None]).astype("i1")
    return _packed(q, "i1") | {"k": _text(scale.astype("<f4"))}


def _packed(array, kind):
    return {"d": kind, "s": list(array.shape), "b": _text(array)}


def _text(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def unpack(packed: dict) -> np.ndarray:
    """The array that one of the functions above packed, as the page sees it.

    >>> unpack(exact([[1, 2.5]]))
    array([[1. , 2.5]], dtype=float32)
    """
    kinds = {"f4": "<f4", "i4": "<i4", "u2": "<u2", "i1": "i1"}
    array = np.frombuffer(base64.b64decode(packed["b"]), kinds[packed["d"]]).reshape(packed["s"])
    if packed["d"] == "u2":
        return array / np.float32(SHARE)
    if packed["d"] == "i1":
        scale = np.frombuffer(base64.b64decode(packed["k"]), "<f4").reshape(packed["s"][:-1])
        return array * scale[..., None]
    return array

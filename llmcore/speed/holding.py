"""Which way to hold the matrices of a model: the fastest that fits into memory.

A way is a module with `bytes_for(tensor)` and `empty(tensors)`, whose matrices have `multiply(x_TI)`.
"""

import re

from .. import linear
from ..loader import GGUF
from . import int8, mapped

WAYS = {"float32": linear, "int8": int8, "mapped": mapped}  # the fastest first
WEIGHTS = ("auto", *WAYS)  # what a user may ask for; auto takes the first that fits
RESERVE = 1 << 30  # bytes that "auto" leaves free for the cache and for reading prompts
# Latent attention multiplies by these head by head, so they are expanded however the rest is held.
EXPANDED = r"blk\.\d+\.attn_(k|v|kv)_b\.weight"


def choose(file: GGUF, wanted: str, available: int | None) -> tuple[str, str]:
    """How to hold the matrices of a model: one of WAYS as `wanted`, or for "auto" the fastest that fits, and why.

    Raises MemoryError if what is wanted does not fit: the system would end some process, ours or another.
    """
    needed = {name: bytes_needed(file, name) for name in WAYS}
    names = list(WAYS)
    if available is None:
        chosen = names[0] if wanted == "auto" else wanted
        return chosen, f"{chosen}, {needed[chosen] / 1e9:.1f} GB; nobody says how much memory is free"
    free = f"{available / 1e9:.1f} GB of memory are free"
    chosen = wanted
    if wanted == "auto":
        chosen = next(name for name in names if needed[name] + RESERVE <= available or name == names[-1])
    slower, faster = names[names.index(chosen) + 1 :], names[: names.index(chosen)]
    if needed[chosen] > available:
        reserve = dict.fromkeys(names[:-1], RESERVE)  # the last resort must do without
        smaller = [name for name in slower if needed[name] + reserve.get(name, 0) <= available]
        advice = f"; take --weights {smaller[0]}" if smaller else ""
        raise MemoryError(f"{file.path}: takes {needed[chosen] / 1e9:.1f} GB as {chosen}, and {free}{advice}")
    larger = faster if wanted == "auto" else ()
    more = "".join(f", {name} would take {needed[name] / 1e9:.1f} GB" for name in larger)
    return chosen, f"{chosen}, {needed[chosen] / 1e9:.1f} GB: {free}{more}"


def bytes_needed(file: GGUF, name: str) -> int:
    """The memory that all matrices of a model take; an embedding that is not the output matrix too stays in the map."""
    looked_up = {"position_embd.weight"} | ({"token_embd.weight"} if "output.weight" in file.tensors else set())
    return sum(
        (linear if re.fullmatch(EXPANDED, tensor.name) else WAYS[name]).bytes_for(tensor)
        for tensor in file.tensors.values()
        if len(tensor.shape) > 1 and tensor.name not in looked_up
    )

"""Which way to hold the matrices of a model: the fastest that fits into memory.

A way is a module with `bytes_for(tensor)` and `empty(tensors)`, whose matrices have `multiply(x_TI)`.
"""

import os
import re
from importlib import import_module
from types import ModuleType

from .. import linear
from ..loader import GGUF
from .machine import blas_core

# Way -> the module that holds matrices so, fastest first.
WAYS = {"float32": "llmcore.linear", "int8": "llmcore.speed.int8", "mapped": "llmcore.speed.mapped"}
PANELS = "llmcore.speed.panels"  # holds float32 matrices where BLAS has kernels for small products
PANEL_CORES = ("SkylakeX", "Cooperlake", "SapphireRapids")
PANELS_VARIABLE = "LLMCORE_PANELS"  # 1 or 0 decides it
WEIGHTS = ("auto", *WAYS)  # what a user may ask for; auto takes the first that fits
RESERVE = 1 << 30  # bytes that "auto" leaves free for the cache and for reading prompts
# No `Matrix`, so they are expanded however the rest is held: what latent attention multiplies head by head,
# and the small tensors of recurrent layers that have two dimensions.
EXPANDED = r"blk\.\d+\.(attn_(k|v|kv)_b\.weight|ssm_conv1d\.weight|ssm_norm\.weight|ssm_[ad]|.*_lerp_.*)"


def way_of(name: str) -> ModuleType:
    """The module of a way; a model is loaded without those that nobody asks for."""
    return import_module(PANELS if name == "float32" and in_panels() else WAYS[name])


def in_panels() -> bool:
    """Whether float32 matrices lie in panels, by what BLAS is: figures are in scripts/benchmark/README.md."""
    asked = os.environ.get(PANELS_VARIABLE)
    return blas_core() in PANEL_CORES if asked not in ("0", "1") else asked == "1"


def choose(file: GGUF, wanted: str, available: int | None) -> tuple[str, str]:
    """The way to hold a model's matrices, and why: one of WAYS as `wanted`, for "auto" the fastest that fits.

    Raises MemoryError if what is wanted does not fit: the system would end some process, ours or another.
    """
    if wanted not in WEIGHTS:
        raise ValueError(f"weights is {wanted!r}; it must be one of {', '.join(WEIGHTS)}")
    if available is None:
        chosen = "float32" if wanted == "auto" else wanted
        return (
            chosen,
            f"{_told(chosen)}, {in_gb(bytes_needed(file, chosen))}; nobody says how much memory is free",
        )
    free, names = f"{in_gb(available)} of memory are free", list(WAYS)
    chosen, larger = wanted, ""
    if wanted == "auto":
        for chosen in names:
            needed = bytes_needed(file, chosen)
            if needed + RESERVE <= available or chosen == names[-1]:
                break
            larger += f", {chosen} would take {in_gb(needed)}"
    needed = bytes_needed(file, chosen)
    if needed > available:
        slower = names[names.index(chosen) + 1 :]
        reserve = dict.fromkeys(names[:-1], RESERVE)  # the last resort must do without
        fit = [name for name in slower if bytes_needed(file, name) + reserve.get(name, 0) <= available]
        advice = f"; take --weights {fit[0]}" if fit else ""
        raise MemoryError(f"{file.path}: takes {in_gb(needed)} as {chosen}, and {free}{advice}")
    return chosen, f"{_told(chosen)}, {in_gb(needed)}: {free}{larger}"


def _told(way):
    """A way in words."""
    return f"{way} in panels" if way == "float32" and in_panels() else way


def in_gb(n_bytes: int) -> str:
    """A size for people."""
    return f"{n_bytes / 1e9:.1f} GB"


def bytes_needed(file: GGUF, way: str) -> int:
    """The memory that all matrices of a model take; an embedding that is only looked up stays mapped."""
    looked_up = {"position_embd.weight", "per_layer_token_embd.weight"} | (
        {"token_embd.weight"} if "output.weight" in file.tensors else set()
    )
    return sum(
        (linear if re.fullmatch(EXPANDED, tensor.name) else way_of(way)).bytes_for(tensor)
        for tensor in file.tensors.values()
        if len(tensor.shape) > 1 and tensor.name not in looked_up
    )

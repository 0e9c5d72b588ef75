"""What is in the file: HEAD and BODY, to scale.

The sizes of HEAD are counted here from what was read: they must add up to the place where BODY begins.
"""

import math
import re
from typing import Any

import numpy as np

from ....formats.cursor import ARRAY, STRING, VALUE_TYPES
from ....loader import _read_entry, _read_tensors
from ...recording import Run

WANTED: frozenset[str] = frozenset()
HEADER = 24  # bytes: GGUF, version, two counts
KINDS = (  # what a tensor is for, by its name; the first that fits
    ("norm", r"norm|_ln"),
    ("embedding", r"^(token_embd|position_embd|per_layer_token_embd)"),
    ("scores", r"^output"),
    ("state", r"ssm_|shortconv|time_mix|channel_mix"),
    ("attention", r"attn_"),
    ("ffn", r"ffn_"),
)
CODES = dict(VALUE_TYPES.values())


def part(run: Run) -> dict | None:
    """Every tensor's place, the first bytes, the keys, and the sizes that HEAD is made of."""
    file = run.file
    tensors = [tensor for tensor in file.tensors.values() if tensor.path == file.path]
    parts = sorted({tensor.path for tensor in file.tensors.values()} | {file.path})
    ordered = sorted(file.tensors.values(), key=lambda tensor: (parts.index(tensor.path), tensor.offset))
    starts = np.cumsum([0, *(path.stat().st_size for path in parts)])
    keys = {key: key_bytes(key, value, file.types[key]) for key, value in file.metadata.items()}
    head = HEADER + sum(keys.values()) + sum(entry_bytes(tensor) for tensor in tensors)
    with open(file.path, "rb") as stream:
        first = list(stream.read(HEADER))
    lists = sum(size for key, size in keys.items() if key.startswith("tokenizer.ggml.") and size > 1000)
    return {
        "parts": len(parts),
        "size": int(starts[-1]),
        "head": head,
        "body": min((tensor.offset for tensor in tensors), default=head),
        "alignment": file.alignment,
        "first": first,
        "big_endian": file.byte_order == ">",
        "version": file.version,
        "lists": lists,
        "entries": sum(entry_bytes(tensor) for tensor in tensors),
        "template": any(key.startswith("tokenizer.chat_template") for key in file.metadata),
        "keys": [[key, file.types[key], shown(file.metadata[key]), size] for key, size in keys.items()],
        "tensors": [
            [
                t.name,
                t.type,
                list(t.shape),
                int(starts[parts.index(t.path)]) + t.offset,
                t.nbytes,
                *place(t.name),
            ]
            for t in ordered
        ],
        "weights": sum(math.prod(tensor.shape) for tensor in ordered),
    }


def code(run: Run) -> list:
    """What reads the list of tensors."""
    return [_read_tensors, _read_entry]


def place(name: str) -> tuple[str, int]:
    """What a tensor is for, and its layer, or -1."""
    found = re.match(r"blk\.(\d+)\.", name)
    rest = name[found.end() :] if found else name
    return next((kind for kind, pattern in KINDS if re.search(pattern, rest)), "other"), (
        int(found[1]) if found else -1
    )


def key_bytes(key: str, value: Any, kind: str) -> int:
    """The bytes of a key in HEAD: its name, the type of its value, the value."""
    return 8 + len(key.encode()) + 4 + value_bytes(value, kind)


def value_bytes(value: Any, kind: str) -> int:
    """The bytes of a value of a type like "u32", "str" or "arr[f32,3]"."""
    if kind == VALUE_TYPES[STRING][0]:
        return 8 + len(value.encode("utf-8", "surrogateescape"))
    if not kind.startswith(VALUE_TYPES[ARRAY][0]):
        return np.dtype(CODES[kind]).itemsize
    inner = kind[4:].split(",")[0]
    if inner == VALUE_TYPES[ARRAY][0]:  # arrays in arrays, whose own types are not told
        return 12 + sum(value_bytes(item, inner_kind(item)) for item in value)
    if inner == VALUE_TYPES[STRING][0]:
        return 12 + sum(value_bytes(item, inner) for item in value)
    return 12 + len(value) * np.dtype(CODES[inner]).itemsize


def inner_kind(items: Any) -> str:
    """The type of an array inside an array."""
    if isinstance(items, np.ndarray):
        names = {np.dtype(code): name for name, code in VALUE_TYPES.values() if code}
        return f"arr[{names[items.dtype]},{len(items)}]"
    return f"arr[{'arr' if items and not isinstance(items[0], str) else 'str'},{len(items)}]"


def entry_bytes(tensor) -> int:
    """The bytes of a tensor's line in HEAD: name, dimensions, type, offset."""
    return 8 + len(tensor.name.encode()) + 4 + 8 * len(tensor.shape) + 4 + 8


def shown(value: Any) -> str:
    """The beginning of a value, as a text."""
    if isinstance(value, list | np.ndarray):
        some = ", ".join(shown(item) for item in value[:4])
        return f"[{some}{', ...' if len(value) > 4 else ''}]"
    if isinstance(value, float | np.floating):
        return f"{value:g}"
    text = repr(value) if isinstance(value, str) and len(value) < 3 else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

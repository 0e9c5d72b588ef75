"""A copy of a GGUF file with changes, written by the gguf package."""

import gguf
import numpy as np

from llmcore.formats.cursor import VALUE_TYPES
from llmcore.loader import read_gguf
from llmcore.quants import dequantize

VALUE_IDS = {name: gguf.GGUFValueType(id_) for id_, (name, _) in VALUE_TYPES.items()}


def rewrite(source, target, keys=None, tensors=None, drop=(), **options):
    """Copy `source` to `target` with other values of some `keys`, more or other float32 `tensors`, and
    without `drop`.

    `options` go to GGUFWriter.
    """
    file = read_gguf(source)
    writer = gguf.GGUFWriter(target, file.metadata["general.architecture"], **options)
    for key, value in (file.metadata | (keys or {})).items():
        if key in drop or key == "general.architecture":
            continue
        new = {int: "i32", float: "f32"}.get(type(value), "str")
        kind, _, item = file.types.get(key, new).partition("[")
        value = value.tolist() if isinstance(value, np.ndarray) else value
        writer.add_key_value(key, value, VALUE_IDS[kind], VALUE_IDS[item.split(",")[0]] if item else None)
    arrays = {name: dequantize(t.data, t.type, t.byte_order) for name, t in file.tensors.items()} | (
        tensors or {}
    )
    for name, array in arrays.items():
        if name not in drop:
            writer.add_tensor(name, np.ascontiguousarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target

"""The loader against the gguf package: what GGUFWriter wrote, or GGUFReader reads, is what we read."""

import gc
import mmap
import os
import struct
import subprocess
import sys

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFEndian, GGUFValueType
from gguf_bytes import Bytes

from llmcore.cli import inspect as listing
from llmcore.errors import ModelFileError
from llmcore.formats.cursor import VALUE_TYPES
from llmcore.loader import TENSOR_TYPES, read_gguf

rng = np.random.default_rng(0)
BYTE_ORDERS = {"<": GGUFEndian.LITTLE, ">": GGUFEndian.BIG}


def write(path, keys=(), tensors=None, **options):
    """Let GGUFWriter write (key, value, type, item type) and tensors, for which it swaps bytes itself."""
    alignment = options.pop("alignment", None)
    writer = gguf.GGUFWriter(path, "test", **options)
    if alignment:
        writer.add_custom_alignment(alignment)
    for key in keys:
        writer.add_key_value(*key)
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SCALARS = {  # our name of a type: the package's name, NumPy's name, two values
    "u8": (GGUFValueType.UINT8, "uint8", [0, 255]),
    "i8": (GGUFValueType.INT8, "int8", [-128, 127]),
    "u16": (GGUFValueType.UINT16, "uint16", [0, 65535]),
    "i16": (GGUFValueType.INT16, "int16", [-32768, 513]),
    "u32": (GGUFValueType.UINT32, "uint32", [0, 2**32 - 1]),
    "i32": (GGUFValueType.INT32, "int32", [-(2**31), 66051]),
    "u64": (GGUFValueType.UINT64, "uint64", [0, 2**64 - 1]),
    "i64": (GGUFValueType.INT64, "int64", [-(2**63), 2**53 + 1]),
    "f32": (GGUFValueType.FLOAT32, "float32", [-1.5, float("inf")]),
    "f64": (GGUFValueType.FLOAT64, "float64", [0.1, -1e300]),
    "bool": (GGUFValueType.BOOL, "bool", [False, True]),
    "str": (GGUFValueType.STRING, None, ["", "zażółć\n\0 日本 🙂"]),
}


@pytest.mark.parametrize("byte_order", BYTE_ORDERS)
def test_values_of_every_type(tmp_path, byte_order):
    keys = []
    for name, (type_, _, values) in SCALARS.items():
        keys += [(f"{name}.{i}", value, type_, None) for i, value in enumerate(values)]
        keys.append((f"{name}.array", values, GGUFValueType.ARRAY, type_))
    file = read_gguf(write(tmp_path / "values.gguf", keys, endianess=BYTE_ORDERS[byte_order]))
    assert (file.version, file.byte_order, file.alignment, file.tensors) == (3, byte_order, 32, {})
    assert file.metadata["general.architecture"] == "test"
    for name, (_, dtype, values) in SCALARS.items():
        read = [file.metadata[f"{name}.{i}"] for i in range(2)]
        assert read == values
        assert {type(value) for value in read} == {type(value) for value in values}
        assert (file.types[f"{name}.0"], file.types[f"{name}.array"]) == (name, f"arr[{name},2]")
        array = file.metadata[f"{name}.array"]
        assert list(array) == values
        if dtype is None:
            assert type(array) is list
        else:
            assert array.dtype == np.dtype(dtype)  # and so in the byte order of this machine


def test_value_types_are_those_of_the_gguf_package():
    ours = {name: id_ for id_, (name, _) in VALUE_TYPES.items()}
    assert ours == {name: int(type_) for name, (type_, _, _) in SCALARS.items()} | {
        "arr": int(GGUFValueType.ARRAY)
    }


def test_tensor_types_are_those_of_the_gguf_package():
    theirs = {int(type_): (type_.name, *gguf.GGML_QUANT_SIZES[type_]) for type_ in GGMLQuantizationType}
    newest = max(TENSOR_TYPES)  # another release of the package may lack our newest types, or have newer ones
    assert {id_: TENSOR_TYPES.get(id_) for id_ in theirs if id_ <= newest} == {
        id_: row for id_, row in theirs.items() if id_ <= newest
    }


def test_a_tensor_of_every_type_is_where_the_gguf_package_finds_it(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "types.gguf", "test")
    for type_ in GGMLQuantizationType:
        if int(type_) in TENSOR_TYPES:
            block_bytes = gguf.GGML_QUANT_SIZES[type_][1]
            data = rng.integers(0, 256, (3, 2, 5 * block_bytes), dtype=np.uint8)
            writer.add_tensor(f"{type_.name}.weight", data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = read_gguf(tmp_path / "types.gguf")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "types.gguf").tensors}
    assert list(file.tensors) == list(theirs)
    for name, tensor in file.tensors.items():
        assert (tensor.name, tensor.type) == (name, theirs[name].tensor_type.name)
        assert tensor.shape == tuple(theirs[name].shape[::-1].tolist())
        assert (tensor.offset, tensor.nbytes) == (theirs[name].data_offset, theirs[name].n_bytes)
        assert tensor.data.shape[:-1] == tensor.shape[:-1]
        assert tensor.data.tobytes() == theirs[name].data.tobytes()


@pytest.mark.parametrize("byte_order", BYTE_ORDERS)
@pytest.mark.parametrize("alignment", [None, 8, 256])
def test_weights_come_back(tmp_path, byte_order, alignment):
    arrays = {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "b": rng.standard_normal(7).astype(np.float16),
        "c": rng.integers(-9, 9, (2, 1, 3, 4)),
    }
    path = write(
        tmp_path / "weights.gguf", (), arrays, alignment=alignment, endianess=BYTE_ORDERS[byte_order]
    )
    file = read_gguf(path)
    assert file.alignment == (alignment or 32)
    for name, array in arrays.items():
        tensor = file.tensors[name]
        assert (tensor.shape, tensor.byte_order, tensor.path) == (array.shape, byte_order, path)
        assert tensor.offset % file.alignment == 0
        assert path.read_bytes()[tensor.offset :][: tensor.nbytes] == tensor.data.tobytes()
        np.testing.assert_array_equal(tensor.data.view(array.dtype.newbyteorder(byte_order)), array)


def test_tensors_are_views_of_the_map_that_outlive_the_file_object(tmp_path):
    file = read_gguf(
        write(tmp_path / "views.gguf", (), {"a": np.ones((4, 4), np.float32), "b": np.arange(3)})
    )
    tensors = list(file.tensors.values())
    bases = [tensor.data.base for tensor in tensors]
    assert all(isinstance(base, mmap.mmap) for base in bases)
    assert bases[0] is bases[1]
    whole = np.frombuffer(bases[0], np.uint8)
    for tensor in tensors:
        assert np.shares_memory(whole, tensor.data)
        assert tensor.data.ctypes.data - whole.ctypes.data == tensor.offset
        assert not tensor.data.flags.writeable
    del file, bases, whole
    gc.collect()
    assert (tensors[0].data.view(np.float32) == 1).all()


def test_version_2_nested_arrays_and_a_scalar_by_hand(tmp_path):
    b = Bytes()
    rows = b.array(5, 2, b.pack("ii", 1, -2)) + b.array(8, 1, b.string("x")) + b.array(9, 1, b.array(7, 0))
    path = tmp_path / "hand.gguf"
    path.write_bytes(
        b.file(
            [b.key("nested", 9, b.array(9, 3, rows))], [b.tensor("scalar", [])], b.pack("f", 2.5), version=2
        )
    )
    file = read_gguf(str(path))
    assert (file.version, file.types["nested"]) == (2, "arr[arr,3]")
    numbers, texts, deeper = file.metadata["nested"]
    assert (numbers.tolist(), texts, [inner.tolist() for inner in deeper]) == ([1, -2], ["x"], [[]])
    assert file.tensors["scalar"].shape == (1,)
    assert file.tensors["scalar"].data.view("<f4") == 2.5


def test_bytes_that_are_not_utf8_are_kept(tmp_path):
    b, raw = Bytes(), [b"\xff\xfe", "ż".encode()[:1], b"\xed\xa0\x80"]
    path = tmp_path / "bytes.gguf"
    path.write_bytes(b.file([b.key("tokens", 9, b.array(8, 3, b"".join(map(b.string, raw))))]))
    assert [text.encode("utf-8", "surrogateescape") for text in read_gguf(path).metadata["tokens"]] == raw


def test_long_names_are_read(tmp_path):
    name = "n" * 300  # llama.cpp stops at 63 bytes, the specification at 64
    assert list(read_gguf(write(tmp_path / "long.gguf", (), {name: np.zeros(1)})).tensors) == [name]


@pytest.fixture
def split(tmp_path):
    """Five tensors in three files, and what they hold."""
    arrays = {f"tensor.{i}": np.full((i + 1, 2), i, np.float32) for i in range(5)}
    write(tmp_path / "model.gguf", (), arrays, split_max_tensors=2)
    return [tmp_path / f"model-0000{i}-of-00003.gguf" for i in (1, 2, 3)], arrays


def test_a_split_model_opens_whole(split):
    paths, arrays = split
    file = read_gguf(paths[0])
    assert (file.path, list(file.tensors)) == (paths[0], list(arrays))
    assert (file.metadata["general.architecture"], file.metadata["split.no"]) == ("test", 0)
    for i, (name, array) in enumerate(arrays.items()):
        assert file.tensors[name].path == paths[i // 2]
        np.testing.assert_array_equal(file.tensors[name].data.view("<f4"), array)


def refusal(path):
    with pytest.raises(ModelFileError) as caught:
        read_gguf(path)
    return str(caught.value)


def test_split_models_that_do_not_fit_together(split, tmp_path):
    paths, _ = split
    assert f"{paths[1]}: this is part 2 of 3; open the first, {paths[0]}" in refusal(paths[1])

    missing = paths[2].rename(tmp_path / "elsewhere")
    assert f"{paths[0]}: part 3 of 3 is missing: no file {paths[2]}" in refusal(paths[0])

    paths[2].write_bytes(paths[1].read_bytes())
    assert f"{paths[2]}: this is part 2 of 3, not 3 of 3; was it renamed?" in refusal(paths[0])

    missing.rename(paths[2])
    first = paths[0].read_bytes()
    renamed = paths[0].rename(tmp_path / "model.gguf")
    assert f"{renamed}: this is part 1 of 3; rename it to NAME-00001-of-00003.gguf" in refusal(renamed)

    paths[0].write_bytes(first.replace(b"tensor.1", b"tensor.4"))
    assert f"{paths[2]}: tensor 'tensor.4' is in {paths[0]} as well" in refusal(paths[0])

    count = b"split.tensors.count" + struct.pack("<I", 5)
    assert count in first
    paths[0].write_bytes(first.replace(count + struct.pack("<i", 5), count + struct.pack("<i", 6)))
    assert f"{paths[0]}: split.tensors.count is 6; there are 5" in refusal(paths[0])

    paths[0].write_bytes(first.replace(b"split.no", b"split.on"))
    assert "the metadata has no split.no" in refusal(paths[0])


LISTING = """\
tiny.gguf: GGUF version 3, little endian, 1.2 kB, aligned to 32

HEAD: 6 keys
general.architecture  str         'llama'
eps                   f32         1e-05
line\\nfeed            str         'a\\n\\x1b[2J'
tokens                arr[str,3]  ['<s>', 'Ġt', '\\udcff']
scores                arr[f32,2]  [0.1, -2.0]
text                  str         'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...

BODY
name    type  shape   offset  bytes  share
matrix  Q8_0  4 x 64     832    272  23.4%
norm    F32   10        1120     40   3.4%

TOTAL: 2 tensors
type  tensors  weights       size  bits per weight  share
F32         1       10   40 bytes            32.00   3.4%
Q8_0        1      256  272 bytes             8.50  23.4%
sum         2      266  312 bytes             9.38  26.9%
"""


@pytest.fixture
def tiny(tmp_path):
    b = Bytes()
    keys = [
        b.key("general.architecture", 8, b.string("llama")),
        b.key("eps", 6, b.pack("f", 1e-5)),
        b.key("line\nfeed", 8, b.string("a\n\x1b[2J")),
        b.key("tokens", 9, b.array(8, 3, b.string("<s>") + b.string("Ġt") + b.string(b"\xff"))),
        b.key("scores", 9, b.array(6, 2, b.pack("ff", 0.1, -2))),
        b.key("text", 8, b.string("x" * 500)),
    ]
    tensors = [b.tensor("matrix", [64, 4], 8, 0), b.tensor("norm", [10], 0, 288)]
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b.file(keys, tensors, bytes(288 + 40)))
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["loader", *map(str, arguments)])
    return listing.main()


def test_the_listing(tiny, monkeypatch, capsys):
    assert run(monkeypatch, tiny) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (LISTING, "")
    assert max(map(len, out.splitlines())) <= 100


def test_the_listing_of_a_split_model_names_the_parts(split, monkeypatch, capsys):
    paths, _ = split
    assert run(monkeypatch, paths[0]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "BODY" in line] == [f"BODY in {path.name}" for path in paths]
    assert "sum         5       30  120 bytes" in out


def test_the_listing_of_a_bad_file_is_one_line(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, tmp_path / "absent.gguf") == 1
    assert capsys.readouterr() == ("", f"error: {tmp_path / 'absent.gguf'}: no such file\n")
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch)
    assert caught.value.code == 2


def test_the_listing_stops_quietly_when_nobody_reads_on(tiny):
    """As in `| head -0`: the reading end of the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "llmcore.loader", tiny], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")

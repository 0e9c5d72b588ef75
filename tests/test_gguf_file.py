"""scripts/gguf_file.py: what it writes, read by the gguf package and by llmcore."""

import gguf
import gguf_file
import numpy as np
import pytest

from llmcore.loader import read_gguf

KEYS = {
    "general.architecture": "none",
    "text": "zażółć",
    "no text": b"\xff\xfe".decode("utf-8", "surrogateescape"),
    "yes": True,
    "float": 0.5,
    "small": 7,
    "negative": -7,
    "large": 2**40,
    "larger": 2**63,
    "low": -(2**40),
    "numbers": [1, -2, 3],
    "large numbers": [1, 2**40],
    "larger numbers": [1, 2**63],
    "floats": [0.5, 0.25],
    "truths": [True, False],
    "texts": ["a", "", "ł"],
    "bytes": np.array([1, 2], np.uint8),
    "doubles": np.array([0.1]),
}
NESTED = {
    "empty": [],
    "no floats": np.empty(0, np.float32),
    "nested": [["a"], [], ["b", "c"]],
    "deep": [[[1], [2, 3]]],
}


def plain(value):
    """Arrays as lists, at every depth."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def write(path, keys, tensors=None, types=None):
    tensors = tensors or {}
    stored = {name: (array.shape, "F32") for name, array in tensors.items()}
    gguf_file.write(path, keys, stored, tensors.values(), types)
    return path


def test_keys_as_the_gguf_package_reads_them(tmp_path):
    fields = gguf.GGUFReader(write(tmp_path / "a.gguf", KEYS)).fields
    for key, value in KEYS.items():
        if key != "no text":
            assert fields[key].contents() == plain(value), key
    assert bytes(fields["no text"].parts[-1]) == b"\xff\xfe"
    kinds = {key: [kind.name for kind in fields[key].types] for key in KEYS}
    assert (kinds["small"], kinds["negative"], kinds["large"]) == (["UINT32"], ["INT32"], ["UINT64"])
    assert (kinds["larger"], kinds["low"], kinds["numbers"]) == (["UINT64"], ["INT64"], ["ARRAY", "INT32"])
    assert (kinds["bytes"], kinds["doubles"]) == (["ARRAY", "UINT8"], ["ARRAY", "FLOAT64"])


def test_empty_and_nested_arrays_come_back(tmp_path):
    first = read_gguf(write(tmp_path / "a.gguf", KEYS | NESTED))
    again = read_gguf(write(tmp_path / "b.gguf", first.metadata, types=first.types))
    for file in (first, again):
        assert {key: plain(value) for key, value in file.metadata.items()} == {
            key: plain(value) for key, value in (KEYS | NESTED).items()
        }
    assert again.types == first.types
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_the_type_of_a_key_is_kept(tmp_path):
    types = {"a": "u8", "b": "f64", "c": "arr[u16,2]", "d": "i64"}
    path = write(tmp_path / "a.gguf", {"a": 1, "b": 0.1, "c": [1, 2], "d": 5}, types=types)
    assert read_gguf(path).types == types


@pytest.mark.parametrize("alignment", [None, 8, 128])
def test_tensors_begin_at_the_alignment(alignment, tmp_path):
    tensors = {
        name: np.arange(n, dtype=np.float32).reshape(1, n) for name, n in (("a", 3), ("b", 33), ("c", 1))
    }
    keys = {"general.architecture": "none"} | ({} if alignment is None else {"general.alignment": alignment})
    path = write(tmp_path / "a.gguf", keys, tensors)
    for read in gguf.GGUFReader(path).tensors:
        np.testing.assert_array_equal(read.data, tensors[read.name])
        assert read.data_offset % (alignment or 32) == 0
    assert [tensor.shape for tensor in read_gguf(path).tensors.values()] == [(1, 3), (1, 33), (1, 1)]


@pytest.mark.parametrize("value", [[1, "a"], [1, [2]], [True, 1], None, 2**64, [2**64], {"a": 1}, 1j, [None]])
def test_what_a_key_cannot_be_is_told_in_a_line(value, tmp_path):
    with pytest.raises(ValueError, match=r"^key 'odd' cannot be written: .+$"):
        write(tmp_path / "a.gguf", {"odd": value})
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays_until_the_new_file_is_whole(tmp_path):
    def arrays():
        yield np.zeros(4, np.float32)
        raise KeyboardInterrupt

    (tmp_path / "a.gguf").write_text("precious")
    with pytest.raises(KeyboardInterrupt):
        gguf_file.write(tmp_path / "a.gguf", {}, dict.fromkeys("ab", ((4,), "F32")), arrays())
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]

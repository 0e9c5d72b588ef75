"""Every field of a model file, broken: the reader says which and why, at once, and never fails in another
way.
"""

import os
import struct
import time
import tracemalloc

import pytest
from gguf_bytes import Bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcore.errors import ModelFileError, UnsupportedModel
from llmcore.loader import read_gguf

READERS = [read_gguf]  # whoever takes the path of a model file from a stranger

b = Bytes()
one_key = [b.u32("a", 1)]
body = bytes(256)


def bomb(depth):
    """A key whose value is an array of an array of an array..."""
    value = b.array(4, 0)
    for _ in range(depth):
        value = b.array(9, 1, value)
    return b.key("bomb", 9, value)


def matrix(dims=(64, 4), type_id=8, offset=0):
    """A file with one tensor, of Q8_0 if not told otherwise: 272 bytes, of which 256 are there."""
    return b.file([], [b.tensor("w", dims, type_id, offset)], body)


def aligned(type_id, value):
    return b.file([b.key("general.alignment", type_id, value)], [b.tensor("w", [8])], body)


def two(offset, *, alignment=32, dims=(16,)):
    keys = [] if alignment == 32 else [b.u32("general.alignment", alignment)]
    tensors = [b.tensor("w", [16], 0, 0), b.tensor("v", dims, 0, offset)]
    return b.file(keys, tensors, body, alignment=alignment)


# What is wrong: the file, and what the message must say.
DAMAGE = {
    # The header.
    "empty": (b"", ["the file is empty"]),
    "binary": (b"\x7fELF" + bytes(60), ["not a GGUF file", "7f 45 4c 46"]),
    "text": (
        b"version https://git-lfs.github.com/spec/v1\noid",
        ["not a GGUF file", "text", "https://git-lfs", "Git LFS"],
    ),
    "zip": (b"PK\x03\x04" + bytes(60), ["not a GGUF file", "zip archive"]),
    "safetensors": (struct.pack("<Q", 50) + b'{"w":{"dtype"', ["not a GGUF file", "safetensors", "convert"]),
    "GGJT": (b"tjgg" + bytes(60), ["not a GGUF file", "GGJT", "older"]),
    "wrong case": (b"gguf" + b.file(one_key)[4:], ["not a GGUF file"]),
    "version 0": (b.file(one_key, version=0), ["version 0", "versions 2 and 3", "convert"]),
    "version 1": (b.file(one_key, version=1), ["version 1", "versions 2 and 3", "convert"]),
    "version 4": (b.file(one_key, version=4), ["version 4", "versions 2 and 3", "update"]),
    "version 4, big endian": (Bytes(">").file(version=4), ["version 4", "update"]),
    "half turned": (
        b"GGUF" + struct.pack(">I", 3) + b.file(one_key)[8:],
        ["HEAD (keys: 72057594037927936, tensors: 0)"],
    ),
    "3 keys of 1": (b.file(one_key, n_keys=3), ["keys: 3", "needs 42 bytes at byte 24", "(41)", "download"]),
    "2 keys of 1": (
        b.file([b.u32("a" * 20, 1)], n_keys=2),
        ["key 2 of 2", "needs 8 bytes at byte 60", "(60)"],
    ),
    "-1 keys": (b.file(one_key, n_keys=2**64 - 1), [f"keys: {2**64 - 1}", "past the end of the file (41)"]),
    "2^61 keys": (b.file(one_key, n_keys=2**61), [f"keys: {2**61}", f"needs {14 * 2**61} bytes"]),
    "-1 tensors": (b.file(one_key, n_tensors=2**64 - 1), [f"tensors: {2**64 - 1}", "(41)"]),
    "2^61 tensors": (
        b.file(one_key, n_tensors=2**61),
        [f"tensors: {2**61}", f"needs {25 * 2**61 + 14} bytes"],
    ),
    "1 tensor of 0": (
        b.file([b.u32("a" * 30, 1)], n_tensors=1),
        ["tensor 1 of 1", "needs 8 bytes at byte 70", "(70)"],
    ),
    # Keys.
    "key without a name": (b.file([b.u32("", 1), *one_key]), ["key 1 of 2", "a name of 0 bytes"]),
    "key of 2^62 bytes": (
        b.file([b.string("a" * 20, 2**62)]),
        ["key 1 of 1", f"a name of {2**62} bytes", "65535"],
    ),
    "key of 65536 bytes": (b.file([b.u32("a" * 65536, 1)]), ["key 1 of 1", "a name of 65536 bytes", "65535"]),
    "key past the end": (
        b.file([b.string("a" * 20, 50)]),
        ["key 1 of 1", "needs 50 bytes at byte 32", "(52)"],
    ),
    "key not UTF-8": (b.file([b.u32(b"caf\xe9", 1)]), ["key 1 of 1", "not UTF-8", "caf\\xe9"]),
    "key twice": (b.file([*one_key, *one_key]), ["key 'a' appears twice"]),
    "value of type 13": (b.file([b.key("a", 13, bytes(8))]), ["key 'a'", "type 13", "0 to 12"]),
    "value past the end": (
        b.file([b.key("a" * 9, 12, b"1234")]),
        ["key 'aaaaaaaaa'", "needs 8 bytes at byte 45", "(49)"],
    ),
    "bool of 2": (b.file([b.key("a", 7, b"\2")]), ["key 'a'", "the byte 2 for a bool"]),
    "bools of 1, 255": (
        b.file([b.key("a", 9, b.array(7, 2, b"\1\xff"))]),
        ["key 'a'", "the byte 255 for a bool"],
    ),
    "string of 2^62": (
        b.file([b.key("a", 8, b.string("hello", 2**62))]),
        ["key 'a'", f"has {2**62} bytes in string 1 of 1", "(50 bytes) has 5 left"],
    ),
    "string of -1": (
        b.file([b.key("a", 8, b.string("", 2**64 - 1) + body)]),
        ["key 'a'", f"has {2**64 - 1} bytes"],
    ),
    # Arrays.
    "array of type 13": (b.file([b.key("a", 9, b.array(13, 1, body))]), ["key 'a'", "type 13", "0 to 12"]),
    "array of 2^61 numbers": (
        b.file([b.key("a", 9, b.array(10, 2**61, body))]),
        ["key 'a'", f"needs {2**64} bytes"],
    ),
    "array of -1 bytes": (
        b.file([b.key("a", 9, b.array(0, 2**64 - 1, body))]),
        ["key 'a'", f"needs {2**64 - 1} bytes"],
    ),
    "array of 2^61 strings": (
        b.file([b.key("a", 9, b.array(8, 2**61, body))]),
        ["key 'a'", f"needs {2**64} bytes"],
    ),
    "array of 2^61 arrays": (
        b.file([b.key("a", 9, b.array(9, 2**61, body))]),
        ["key 'a'", f"needs {12 * 2**61} bytes"],
    ),
    "too few strings": (
        b.file([b.key("a", 9, b.array(8, 3, b.string("x") * 2 + bytes(7)))]),
        ["key 'a'", "has 1 bytes in string 2 of 3 at byte 66", "(74 bytes) has 0 left", "download"],
    ),
    "nested 17 deep": (b.file([bomb(16)]), ["key 'bomb'", "more than 16 deep"]),
    "nested 100,000 deep": (b.file([bomb(100_000)]), ["key 'bomb'", "more than 16 deep"]),
    "nested ever wider": (
        b.file([b.key("bomb", 9, b.array(9, 20, b.array(9, 10**6) * 20))]),
        ["key 'bomb'", "needs 12000000 bytes"],
    ),
    # The alignment.
    "alignment 0": (aligned(4, b.pack("I", 0)), ["'general.alignment' is 0 (u32)", "power of two"]),
    "alignment 3": (aligned(4, b.pack("I", 3)), ["'general.alignment' is 3 (u32)", "power of two"]),
    "alignment 32 as u64": (aligned(10, b.pack("Q", 32)), ["'general.alignment' is 32 (u64)", "u32"]),
    "alignment '32'": (aligned(8, b.string("32")), ["'general.alignment' is '32' (str)", "u32"]),
    "alignment True": (aligned(7, b"\1"), ["'general.alignment' is True (bool)", "u32"]),
    "alignment [32]": (
        aligned(9, b.array(4, 1, b.pack("I", 32))),
        ["'general.alignment' is", "(arr[u32,1])"],
    ),
    "alignment 2^31": (
        aligned(4, b.pack("I", 2**31)),
        ["tensor 'w' ends at byte 2147483680", "past the end"],
    ),
    # Tensors.
    "tensor without a name": (b.file([], [b.tensor("", [8])], body), ["tensor 1 of 1", "a name of 0 bytes"]),
    "tensor name not UTF-8": (b.file([], [b.tensor(b"\xff", [8])], body), ["tensor 1 of 1", "not UTF-8"]),
    "tensor twice": (
        b.file([], [b.tensor("w", [8]), b.tensor("w", [8], 0, 32)], body),
        ["tensor 'w' appears twice"],
    ),
    "5 dimensions": (matrix([1] * 5), ["tensor 'w' has 5 dimensions", "at most 4"]),
    "2^32 - 1 dimensions": (
        b.file([], [b.string("w") + b.pack("I", 2**32 - 1) + body], body),
        ["tensor 'w' has 4294967295 dimensions"],
    ),
    "no columns": (matrix([0, 4]), ["tensor 'w'", "(4, 0)", "0 weights"]),
    "no rows": (matrix([64, 0]), ["tensor 'w'", "(0, 64)", "0 weights"]),
    "2^63 weights": (matrix([2**32, 2**31]), ["tensor 'w'", f"{2**63} weights", "2^63 - 1"]),
    "2^64 + 64 weights": (matrix([2**63 + 32, 2]), ["tensor 'w'", f"{2**64 + 64} weights"]),
    "2^80 weights": (matrix([2**20] * 4), ["tensor 'w'", f"{2**80} weights"]),
    "-32 columns": (matrix([2**64 - 32]), ["tensor 'w'", f"({2**64 - 32},)"]),
    "2^64 bytes": (
        matrix([2**62], 0),
        [f"tensor 'w' ends at byte {2**64 + 64}", "past the end of the file (320)"],
    ),
    "half a block": (matrix([48, 4]), ["tensor 'w'", "rows of 48 weights", "the 32 in a block of Q8_0"]),
    "half a block of 256": (
        matrix([128, 2], 12),
        ["tensor 'w'", "rows of 128", "the 256 in a block of Q4_K"],
    ),
    "type withdrawn": (matrix(type_id=4), ["tensor 'w' is of type 4", "we know F32, F16", "Q4_K"]),
    "type -1": (matrix(type_id=2**32 - 1), ["tensor 'w' is of type 4294967295"]),
    "offset unaligned": (matrix([8], 0, 16), ["tensor 'w' has offset 16", "the alignment 32"]),
    "offset unaligned to 64": (two(96, alignment=64), ["tensor 'v' has offset 96", "the alignment 64"]),
    "offset 2^64 - 32": (matrix([8], 0, 2**64 - 32), [f"tensor 'w' ends at byte {2**64 + 64}", "(320)"]),
    "offset past the end": (
        matrix([8], 0, 512),
        ["tensor 'w' ends at byte 608", "(320)", "download complete"],
    ),
    "tensor past the end": (matrix(), ["tensor 'w' ends at byte 368", "(352)", "download complete"]),
    "same place": (two(0), ["tensor 'v' at byte 96 overlaps tensor 'w', from 96 to 160"]),
    "overlap": (two(32), ["tensor 'v' at byte 128 overlaps tensor 'w', from 96 to 160"]),
    "overlap by one": (
        b.file([], [b.tensor("w", [33], 24, 0), b.tensor("v", [1], 24, 32)], body),
        ["'v'", "overlaps"],
    ),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "model.gguf"


def refusal(reader, path, data=None):
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        reader(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return caught.value


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(reader, name, path):
    data, expected = DAMAGE[name]
    error = refusal(reader, path, data)
    assert [part for part in expected if part not in str(error)] == [], str(error)
    assert isinstance(error, UnsupportedModel) == name.startswith("type ")


def test_what_is_not_damage(path):
    """The same files with the least change that makes them sound, so that the tests above fail for their
    reason.
    """
    sound = {
        "nested 16 deep": b.file([bomb(15)]),
        "key of 65535 bytes": b.file([b.u32("a" * 65535, 1)]),
        "alignment 1": aligned(4, b.pack("I", 1)),
        "2 blocks": matrix([64, 3]),
        "rows of 32": matrix([32, 4]),
        "neighbours": two(64),
        "in another order": b.file([], [b.tensor("w", [8], 0, 64), b.tensor("v", [8], 0, 0)], body),
        "aligned to 64": two(128, alignment=64),
        "no keys, no tensors": b.file(),
    }
    for data in sound.values():
        path.write_bytes(data)
        read_gguf(path)


@pytest.mark.parametrize("reader", READERS)
def test_paths_that_are_no_files(reader, tmp_path):
    assert "no such file" in str(refusal(reader, tmp_path / "absent.gguf"))
    assert "this is a directory" in str(refusal(reader, tmp_path))
    os.symlink("nowhere", tmp_path / "link")
    assert "no such file" in str(refusal(reader, tmp_path / "link"))
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in str(refusal(reader, tmp_path / "pipe"))
    if os.geteuid() != 0:  # root reads what it likes
        (tmp_path / "secret").write_bytes(b.file())
        (tmp_path / "secret").chmod(0)
        assert "Permission denied" in str(refusal(reader, tmp_path / "secret"))


# A file with something of everything, as the pieces it is made of: what is read there, and the bytes.
PIECES = {
    "header: magic": b"GGUF",
    "header: version": b.pack("I", 3),
    "header: tensor count": b.pack("Q", 2),
    "header: key count": b.pack("Q", 5),
    "key 1: name": b.string("general.alignment"),
    "key 1: type": b.pack("I", 4),
    "key 1: value": b.pack("I", 64),
    "key 2: bools": b.key("flags", 9, b.array(7, 3, b"\0\1\1")),
    "key 3: text": b.key("text", 8, b.string("Pchnąć w tę łódź jeża lub ośm skrzyń fig")),
    "key 4: array of strings": b.string("tokens") + b.pack("IIQ", 9, 8, 3),
    "key 4: strings": b.string("<s>") + b.string("") + b.string(b"\xff"),
    "key 5: nested": b.key(
        "nested", 9, b.array(9, 2, b.array(6, 2, b.pack("ff", 1, 2)) + b.array(8, 1, b.string("x")))
    ),
    "tensor 1": b.tensor("weight", [32, 3], 8, 0),
    "tensor 2: name": b.string("norm"),
    "tensor 2: shape": b.pack("IQQ", 2, 4, 2),
    "tensor 2: type": b.pack("I", 0),
    "tensor 2: offset": b.pack("Q", 128),
    "padding": b"",  # filled in below
    "body": bytes(range(160)),
}
PIECES["padding"] = bytes(-(sum(map(len, PIECES.values())) - 160) % 64)
SOUND = b"".join(PIECES.values())


@pytest.mark.parametrize("reader", READERS)
def test_a_file_cut_at_any_byte_is_refused(reader, path):
    path.write_bytes(SOUND)
    assert len(read_gguf(path).tensors) == 2
    for size in range(len(SOUND)):
        assert "download" in str(refusal(reader, path, SOUND[:size])), size


def test_a_cut_names_the_place(path):
    named = {
        "header: magic": "the header needs 4 bytes at byte 0",
        "header: version": "the header needs 4 bytes at byte 4",
        "header: tensor count": "the header needs 8 bytes at byte 8",
        "header: key count": "the header needs 8 bytes at byte 16",
        "key 1: name": "HEAD (keys: 5, tensors: 2) needs 120 bytes at byte 24",
        "key 3: text": "key 'text' has 49 bytes in string 1 of 1",
        "key 4: array of strings": "key 'tokens' needs 8 bytes",
        "key 4: strings": "key 'tokens' has 1 bytes in string 3 of 3",
        "key 5: nested": "key 'nested' has 1 bytes in string 1 of 1",
        "tensor 1": "tensor 'weight' needs 8 bytes",
        "tensor 2: name": "tensor 2 of 2 needs 4 bytes",
        "tensor 2: shape": "tensor 'norm' needs 16 bytes",
        "tensor 2: type": "tensor 'norm' needs 4 bytes",
        "tensor 2: offset": "tensor 'norm' needs 8 bytes",
        "padding": "tensor 'weight' ends at byte",
        "body": "tensor 'norm' ends at byte",
    }
    end = 0
    for piece, data in PIECES.items():
        end += len(data)
        if piece in named:
            assert named[piece] in str(refusal(read_gguf, path, SOUND[: end - 1])), piece


def survives(reader, path, data):
    """A result, or one clear refusal; within a second; and in memory that the file's size bounds.

    The worst we know is a file of nothing but tiny tensors: 17 times its size in Python's objects.
    """
    path.unlink(missing_ok=True)  # a file that is still mapped must not shrink
    path.write_bytes(data)
    tracemalloc.start()
    start = time.process_time()
    try:
        reader(path)
        message = None
    except ModelFileError as error:
        message = str(error)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message is None or message.startswith(f"{path}: ")
    assert seconds < 1
    assert peak < 20 * len(data) + 100_000


BASES = [
    SOUND,
    Bytes(">").file([Bytes(">").u32("a", 1)], [Bytes(">").tensor("w", [4, 2])], bytes(32)),
    b.file([b.u32("split.count", 2), b.u32("split.no", 0)], version=2),
]
COUNTS = [0, 1, 31, 2**31, 2**32 - 1, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
PATCHES = st.binary(min_size=1, max_size=8) | st.sampled_from(COUNTS).map(
    lambda count: struct.pack("<Q", count)
)


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=300, deadline=None)
@given(
    base=st.sampled_from(BASES),
    patches=st.lists(st.tuples(st.integers(0, 999), PATCHES), max_size=4),
    cut=st.none() | st.integers(0, 999),
)
def test_random_damage(reader, path, base, patches, cut):
    data = bytearray(base)
    for at, patch in patches:
        data[at % len(base) : at % len(base) + len(patch)] = patch
    survives(reader, path, bytes(data[:cut]))


@pytest.mark.parametrize("reader", READERS)
def test_every_byte_changed(reader, path):
    for at in range(len(SOUND)):
        for value in (0, 255, SOUND[at] ^ 1):
            survives(reader, path, SOUND[:at] + bytes([value]) + SOUND[at + 1 :])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "item",
    [b.array(4, 0), b.array(9, 0), b.array(8, 1, b.string(b"\xff")), b.array(8, 1, b.string("日"))],
    ids=["empty", "empty nested", "bytes", "wide"],
)
def test_many_small_values_stay_small(reader, path, item):
    survives(reader, path, b.file([b.key("a", 9, b.array(9, 10_000, item * 10_000))]))

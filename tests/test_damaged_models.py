"""A model with damage anywhere in its HEAD either runs or is refused as a file: no other error, no hang, no
flood.
"""

import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import make
from hypothesis import example, given, settings
from hypothesis import strategies as st

import llmcore
from llmcore.loader import read_gguf

COUNTS = [0, 1, 31, 2**31, 2**32 - 1, 2**61, 2**62, 2**63 - 1, 2**64 - 1]
PATCHES = st.binary(min_size=1, max_size=8) | st.sampled_from(COUNTS).map(
    lambda count: struct.pack("<Q", count)
)


class Small(NamedTuple):
    """A sound model, how long its HEAD is, and where to write damaged copies."""

    data: bytes
    head: int
    path: Path

    def __repr__(self):
        return "a small model"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One narrow layer of random numbers."""
    folder = tmp_path_factory.mktemp("damaged-models")
    path = folder / "small.gguf"
    make("llama", path, layers=1, width=8, heads=2, kv_heads=1, ff=16, tied=True)
    head = min(tensor.offset for tensor in read_gguf(path).tensors.values())
    return Small(path.read_bytes(), head, folder / "damaged.gguf")


def runs_or_is_refused(path, data):
    path.unlink(missing_ok=True)  # a file that is still mapped must not shrink
    path.write_bytes(data)
    try:
        llm = llmcore.load(path, context_length=8)
    except llmcore.ModelFileError as error:
        message = str(error)
        assert message.startswith(f"{path}: "), message
        assert message.isprintable(), message
        return False
    with np.errstate(all="ignore"):  # damaged numbers may be infinite
        assert llm.logits([1, 2, 3]).shape == (3, llm.config.vocab_size)
    llm.tokenizer.encode("hello")
    return True


def test_the_undamaged_model_runs(small):
    data, _, path = small
    assert runs_or_is_refused(path, data)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 16), PATCHES), min_size=1, max_size=3),
    st.none() | st.integers(0, 1 << 16),
)
@example([], 100)
def test_random_damage(small, patches, cut):
    data, head, path = small
    damaged = bytearray(data)
    for at, patch in patches:
        damaged[at % head : at % head + len(patch)] = patch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a context longer than the one that the damaged file names
        runs_or_is_refused(path, bytes(damaged[: None if cut is None else cut % len(data)]))

"""What a file's layers cost in the cache, as `inspect` says it, against what the cache of a run holds."""

import numpy as np
import pytest
from make_tiny_model import FAMILIES, make

import llmcore
from llmcore.cache import KVCache
from llmcore.cli.inspect import layers_and_cache, row_bytes
from llmcore.config import read_config
from llmcore.loader import read_gguf


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_token_costs_is_what_the_cache_grows_by(family, tmp_path):
    path = tmp_path / "m.gguf"
    make(family, path)
    config, llm = read_config((file := read_gguf(path)).metadata, path), llmcore.load(path)
    cache = llm.empty_cache()
    states = sum(array.nbytes for layer in cache.layers for array in layer.arrays)
    added = np.zeros(len(config.layers), int)
    append = KVCache.append

    def counted(self, i, *new):
        added[i] += sum(rows.nbytes for rows in new)
        return append(self, i, *new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KVCache, "append", counted)
        llm.logits([1, 2, 3])
    assert [3 * row_bytes(plan.mixer) for plan in config.layers] == added.tolist()
    line = layers_and_cache(config)
    n = added.sum() // 3
    assert f"cache: {n / 1000:.1f} kB a token" in line or f"cache: {n} bytes a token" in line
    assert ("states of" in line) == (states > 0)
    assert file.tensors  # `inspect` has all it needs of the file in its HEAD


def test_the_line_of_a_hybrid(tmp_path):
    """LFM2 in small: twice 2 heads of 8 keys and 8 values, twice the last 2 rows of 32, all of 4 bytes."""
    make("lfm2", tmp_path / "m.gguf")
    line = layers_and_cache(read_config(read_gguf(tmp_path / "m.gguf").metadata, "m.gguf"))
    assert line == "2 shortconv, 2 attention | cache: 256 bytes a token, states of 512 bytes"

"""The recipe of tests/data/splits.json and vocabularies.json.xz: what llama.cpp and the models make of texts.

    PYTHON tests/record_vocabularies.py llama.cpp
    PYTHON tests/record_vocabularies.py models

The first needs llama-cpp-python (0.3.36 wrote the files), the second tokenizers (0.23.3) and mistral-common
(1.13.1); run it after the first. Both fetch the vocabularies with scripts/vocabulary.py. The texts stand in
tests/data/texts.json.
"""

import ctypes
import json
import lzma
import sys
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests")]
import vocabulary  # noqa: E402
from gguf_file import write  # noqa: E402

from llmcore.tokenizers.splits import SPLITS  # noqa: E402

DATA = ROOT / "tests" / "data"
TEXTS = json.loads((DATA / "texts.json").read_text(encoding="utf-8"))
NAMES = [*vocabulary.NPM, "tekken"]
CHARS = [vocabulary.BYTE_CHARS[byte] for byte in range(256)]
# All pairs of bytes, in an order without a pattern: a word that begins elsewhere has other symbols.
PAIRS = sorted((f"{a} {b}" for a in CHARS for b in CHARS), key=lambda pair: zlib.crc32(pair.encode()))


def checksums(symbols):
    """One checksum for ten texts each, of lists of symbols."""
    tens = [symbols[i : i + 10] for i in range(0, len(symbols), 10)]
    return [zlib.crc32("\n".join(" ".join(text) for text in ten).encode()) for ten in tens]


class LlamaCpp:
    """The vocabulary of a file, as llama.cpp reads it; `pre` overrides the file's."""

    def __init__(self, path, pre=None):
        import llama_cpp

        self.lib, params = llama_cpp, llama_cpp.llama_model_default_params()
        params.vocab_only = True
        if pre:
            overrides = (llama_cpp.llama_model_kv_override * 2)()
            overrides[0].key, overrides[0].tag = b"tokenizer.ggml.pre", llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
            ctypes.memmove(ctypes.addressof(overrides[0].value), pre.encode() + b"\0", len(pre) + 1)
            params.kv_overrides = overrides
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def encode(self, text):
        raw = text.encode()
        ids = (ctypes.c_int32 * (2 * len(raw) + 16))()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), False, False)
        return list(ids[:count])


def record_llama_cpp(folder):
    keys = {"model": "gpt2", "pre": "gpt-2", "tokens": CHARS + [pair.replace(" ", "") for pair in PAIRS]}
    keys |= {"merges": PAIRS, "token_type": [1] * (256 + len(PAIRS)), "bos_token_id": 0, "eos_token_id": 0}
    metadata = {"general.architecture": "llama"} | {
        f"tokenizer.ggml.{key}": value for key, value in keys.items()
    }
    write(folder / "pairs.gguf", metadata, {}, [])
    sums = {}
    for name, split in SPLITS.items():
        if split.bytewise:
            vocab = LlamaCpp(folder / "pairs.gguf", name)
            texts = [[keys["tokens"][i] for i in vocab.encode(text)] for text in TEXTS["random"]]
            sums[name] = checksums(texts)
    rows = list({str(row): row for row in sums.values()}.values())
    names = {name: rows.index(row) for name, row in sums.items()}
    (DATA / "splits.json").write_text(json.dumps({"names": names, "rows": rows}) + "\n")

    ids = {}
    for name in NAMES:
        vocabulary.make(name, folder / f"{name}.gguf")
        vocab = LlamaCpp(folder / f"{name}.gguf")
        ids[name] = {"llama.cpp": [vocab.encode(text) for text in TEXTS["plain"]]}
    save(ids)


def record_models(folder):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    from tokenizers import Tokenizer

    ids = json.loads(lzma.decompress((DATA / "vocabularies.json.xz").read_bytes()))
    for name in NAMES:
        (folder / name).mkdir()
        source = vocabulary.fetch(name, folder / name)
        if name == "tekken":
            tekken = Tekkenizer.from_file(str(source))
            own = [tekken.encode(text, bos=False, eos=False) for text in TEXTS["plain"]]
        else:
            library = Tokenizer.from_file(str(source))
            own = [library.encode(text, add_special_tokens=False).ids for text in TEXTS["plain"]]
        theirs = ids[name]["llama.cpp"]
        ids[name]["model"] = {str(i): own[i] for i in range(len(own)) if own[i] != theirs[i]}
    save(ids)


def save(ids):
    text = json.dumps(ids, separators=(",", ":"))
    (DATA / "vocabularies.json.xz").write_bytes(lzma.compress(text.encode(), preset=9))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        {"llama.cpp": record_llama_cpp, "models": record_models}[sys.argv[1]](Path(temporary))

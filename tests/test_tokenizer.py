"""The tokenizer against ids by hand, ids recorded from llama.cpp, and llama.cpp's own test vectors."""

import codecs
import json
import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcore.errors import ModelFileError, UnsupportedModel
from llmcore.loader import read_gguf
from llmcore.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, SpecialTokens, Tokenizer
from llmcore.tokenizers.bytepairs import merge_pairs
from llmcore.tokenizers.splits import SPLITS, split_words

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
RECORDED = json.loads((ROOT / "tests/data/tokenizer.json").read_text(encoding="utf-8"))

# GPT-2's 256 characters for bytes, in the order of its vocabulary: visible Latin-1, then U+0100 to U+0143.
BYTE_CHARS = [
    chr(i) for i in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100), *range(0x100, 0x144))
]


def spm(pieces, special=(), **metadata):
    """SentencePiece: <unk> 0, <s> 1, </s> 2, bytes 3 to 258, pieces (text, score), special (text, type)."""
    tokens = [("<unk>", 0, UNKNOWN), ("<s>", 0, CONTROL), ("</s>", 0, CONTROL)]
    tokens += [(f"<0x{byte:02X}>", 0, BYTE) for byte in range(256)]
    tokens += [(text, score, NORMAL) for text, score in pieces] + [(text, 0, kind) for text, kind in special]
    texts, scores, types = zip(*tokens, strict=True)
    arrays = {
        "tokens": list(texts),
        "scores": np.array(scores, np.float32),
        "token_type": np.array(types, np.int32),
    }
    return describe(**{"model": "llama", **arrays, **metadata})


def bpe(merges=(), special=(), words=(), **metadata):
    """Byte-level vocabulary: 256 bytes, the results of the merges, more words, special (text, type)."""
    texts = [*BYTE_CHARS, *dict.fromkeys(merge.replace(" ", "") for merge in merges or ()), *words]
    types = [NORMAL] * len(texts) + [kind for _, kind in special]
    arrays = {"tokens": texts + [text for text, _ in special], "token_type": np.array(types, np.int32)}
    merges = {"merges": None if merges is None else list(merges)}
    return describe(**{"model": "gpt2", "pre": "gpt-2", **merges, **arrays, **metadata})


def describe(**values):
    return {f"tokenizer.ggml.{name}": value for name, value in values.items() if value is not None}


def make(metadata):
    return Tokenizer.from_metadata(metadata, "x.gguf")


def texts_of(tokenizer, text, **options):
    return [tokenizer.tokens[i] for i in tokenizer.encode(text, add_special=False, **options)]


@cache
def from_file(path):
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return make(read_gguf(path).metadata)


# By hand: SentencePiece

PIECES = [
    ("▁", -10),
    ("a", -11),
    ("b", -12),
    ("c", -13),
    ("ab", -1),
    ("bc", -2),
    ("▁ab", -3),
    ("abc", -9),
    ("aa", -4),
]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("abc", ["▁ab", "c"]),  # ab scores -1, then ▁ab -3 beats abc -9
        ("bc", ["▁", "bc"]),
        ("bcabc", ["▁", "bc", "abc"]),  # ab and bc twice: ab first, then bc, then abc from ab + c
        ("aaa", ["▁", "aa", "a"]),  # the leftmost of equals
        ("b  c", ["▁", "b", "▁", "▁", "c"]),
        ("aé", ["▁", "a", "<0xC3>", "<0xA9>"]),
        ("<s>", ["▁", "<0x3C>", "<0x73>", "<0x3E>"]),  # a control token never comes from plain text
    ],
)
def test_spm_joins_by_score(text, pieces):
    assert texts_of(make(spm(PIECES)), text) == pieces


def test_spm_bos_eos_and_empty_text():
    tokenizer = make(spm(PIECES))
    assert tokenizer.encode("abc") == [1, 265, 262]
    assert (tokenizer.encode(""), tokenizer.encode("", add_special=False)) == ([1], [])
    assert make(spm(PIECES, add_bos_token=False, add_eos_token=True)).encode("abc") == [265, 262, 2]


def test_spm_space_prefix_returns_after_each_special_token():
    tokenizer = make(spm(PIECES, [("[u]", USER_DEFINED)]))
    assert texts_of(tokenizer, "ab<s>ab[u]ab</s>", parse_special=True) == [
        "▁ab",
        "<s>",
        "▁ab",
        "[u]",
        "▁ab",
        "</s>",
    ]
    assert texts_of(tokenizer, "[u]ab") == ["[u]", "▁ab"]
    assert texts_of(make(spm(PIECES, add_space_prefix=False)), "abc") == ["abc"]


def test_spm_decode_takes_one_space_off_the_beginning():
    tokenizer = make(spm(PIECES, [("[u]", USER_DEFINED)]))
    for text in ("ab", " ab", "  ", "é\nab c"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text
    assert tokenizer.decode([1, 265, 265]) == "ab ab"
    assert tokenizer.decode([1, 265, 2], special=True) == "<s>ab</s>"
    assert tokenizer.decode([268, 265]) == "[u] ab"
    assert make(spm(PIECES, add_space_prefix=False)).decode([265]) == " ab"


def test_spm_with_several_unknown_pieces():
    tokenizer = make(spm(PIECES, [("[PAD]", UNKNOWN), ("[MORE]", UNKNOWN)]))
    assert texts_of(tokenizer, "ab[PAD]", parse_special=True) == ["▁ab", "[PAD]"]
    assert "[PAD]" not in texts_of(tokenizer, "ab[PAD]")


# By hand: byte-level BPE


@pytest.mark.parametrize(
    ("merges", "word", "symbols"),
    [
        (["a b", "b c"], "abc", ["ab", "c"]),
        (["b c", "a b"], "abc", ["a", "bc"]),  # the lower rank first, although further right
        (["a a"], "aaaaa", ["aa", "aa", "a"]),  # the leftmost of equals
        (["a a", "aa aa"], "aaaaa", ["aaaa", "a"]),
        (["h e", "l l", "he ll", "hell o"], "hello", ["hello"]),
        (["c d", "b cd", "a b"], "abcd", ["a", "bcd"]),
        (["a b", "b a"], "ababa", ["ab", "ab", "a"]),
        ([], "ab", ["a", "b"]),
        (["a b"], "", []),
    ],
)
def test_merges(merges, word, symbols):
    assert merge_pairs(word, {merge: rank for rank, merge in enumerate(merges)}) == symbols


def test_long_words_do_not_take_quadratic_time():
    ranks = {"a" * n + " " + "a" * n: rank for rank, n in enumerate([1, 2, 4, 8])}
    start = time.perf_counter()
    assert merge_pairs("a" * 100_000, ranks) == ["a" * 16] * 6250
    assert merge_pairs("Ċ" * 200_000, {"Ċ Ċ": 0, "ĊĊ Ċ": 1, "ĊĊ ĊĊ": 2}) == ["ĊĊĊĊ"] * 50_000
    assert time.perf_counter() - start < 5  # a plain loop takes minutes


@given(
    text=st.text("abc", max_size=30), merges=st.lists(st.from_regex("[abc]{1,3} [abc]{1,3}", fullmatch=True))
)
def test_merges_as_a_plain_loop_does_them(text, merges):
    ranks, symbols = {merge: rank for rank, merge in reversed([*enumerate(merges)])}, [*text]
    while found := [
        (ranks[f"{a} {b}"], i) for i, (a, b) in enumerate(pairwise(symbols)) if f"{a} {b}" in ranks
    ]:
        _, i = min(found)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    assert merge_pairs(text, ranks) == symbols


def test_bpe_symbol_that_is_no_token_falls_to_bytes():
    metadata = bpe(["x y", "y z"])
    metadata["tokenizer.ggml.tokens"][256] = "other"
    assert texts_of(make(metadata), "xyyz") == ["x", "y", "yz"]


def test_bpe_first_of_equal_merges_counts():
    assert texts_of(make(bpe(["a b", "b c", "a b"])), "abc") == ["ab", "c"]


def test_bpe_letters_for_bytes_are_dropped_where_a_merge_made_no_token():
    metadata = bpe(["Ġ x"])
    metadata["tokenizer.ggml.tokens"][256] = "other"
    assert texts_of(make(metadata), "a x") == [
        "a",
        "x",
    ]  # as llama.cpp does: it looks for Ġ's own bytes C4 and A0


def test_ignore_merges_takes_a_word_that_is_a_token():
    assert texts_of(make(bpe(words=["abc"], pre="llama-bpe", add_bos_token=False)), "abc") == ["abc"]
    assert texts_of(make(bpe(words=["abc"], pre="qwen2")), "abc") == ["a", "b", "c"]


def test_bpe_bytes_and_spaces():
    tokenizer = make(bpe(["Ġ a"]))
    assert texts_of(tokenizer, "é a") == ["Ã", "©", "Ġa"]
    assert tokenizer.decode(tokenizer.encode("é a\n")) == "é a\n"
    assert tokenizer.token_text(256) == " a"


def test_defaults_of_bos():
    assert make(bpe()).encode("a") == [64]
    assert make(bpe(pre="llama-bpe", bos_token_id=5)).encode("a") == [5, 64]
    assert make(bpe(pre="llama-bpe", bos_token_id=5, add_bos_token=False)).encode("a") == [64]
    assert make(bpe()).bos_id is None


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("gpt-2", "Hello world", ["Hello", " world"]),
        ("gpt-2", "it's IT'S", ["it", "'s", " IT", "'", "S"]),
        ("gpt-2", "a   b", ["a", "  ", " b"]),
        ("gpt-2", "a\t\tb", ["a", "\t", "\t", "b"]),
        ("gpt-2", "a  ", ["a", "  "]),
        ("gpt-2", "ab12345!?", ["ab", "12345", "!?"]),
        ("gpt-2", "x\x1c\x85y", ["x", "\x1c", "\x85", "y"]),  # \x1c is no white space in Unicode, \x85 is
        ("gpt-2", "é漢字٣½x", ["é漢字", "٣½", "x"]),
        ("gpt-2", "\U0001d49c\U0001d4b7😀x", ["\U0001d49c\U0001d4b7", "😀", "x"]),  # two letters past U+FFFF
        ("smollm", "a 123", ["a", " ", "1", "2", "3"]),
        ("smollm", "a  1", ["a", "  ", "1"]),  # each pattern sees one piece only
        ("llama-bpe", "it's IT'S", ["it", "'s", " IT", "'S"]),
        ("llama-bpe", "12345 6", ["123", "45", " ", "6"]),
        ("llama-bpe", "a \n\n b", ["a", " \n\n", " b"]),
        ("llama-bpe", "(word) {\n}", ["(word", ")", " {\n", "}"]),
        ("llama-bpe", "'\u017fa", ["'\u017fa"]),  # long s: an s for Python's (?i), but this is no 's
        ("qwen2", "12345 6", ["1", "2", "3", "4", "5", " ", "6"]),
        ("deepseek-r1-qwen", "IT'LL", ["IT", "'LL"]),
        ("qwen35", "e\u0301a \u0301b", ["e\u0301a", " \u0301b"]),  # marks are letters
        ("qwen2", "e\u0301a \u0301b", ["e", "\u0301a", " \u0301", "b"]),
        ("tekken", "helloWorld HTTPServer 12", ["hello", "World", " HTTPServer", " ", "1", "2"]),
        ("tekken", "漢a//\n", ["漢a", "//\n"]),
        ("falcon", "a`$x 12345", ["a", "`$", "x", " ", "123", "45"]),
        ("default", "a`$x 12345", ["a", "`", "$", "x", " ", "123", "45"]),
        (
            "deepseek-llm",
            "ab\u3000。 漢字 12 \n ",
            ["ab", "\u3000", "。", " ", "漢字", " ", "12", " ", "\n", " "],
        ),
        ("deepseek-coder", "ab, 漢字1\r\n", ["ab", ",", " ", "漢字", "1", "\r", "\n"]),
        ("deepseek-v3", "_ab 漢字かな12345!\n", ["_ab", " ", "漢字かな", "123", "45", "!\n"]),
        (
            "gpt-2",
            "\U00031350\u0378",
            ["\U00031350", "\u0378"],
        ),  # a letter since Unicode 15.0; no character at all
    ],
)
def test_words(pre, text, words):
    assert split_words(text, SPLITS[pre].patterns) == words


def test_a_missing_pre_is_told_and_split_by_default():
    for pre in (None, ""):
        with pytest.warns(UserWarning, match=r"x\.gguf: tokenizer\.ggml\.pre is missing"):
            tokenizer = make(bpe(pre=pre))
        assert split_words("a=1234 b", tokenizer.algorithm.patterns) == ["a", "=", "123", "4", " b"]


def test_each_pre_cuts_any_text_without_loss():
    text = "".join(map(chr, range(0xD800))) + "aB 12345\r\n\n  x \U0001d49c\U00031350\U0010ffff\t "
    for pre in SPLITS:
        assert "".join(split_words(text, SPLITS[pre].patterns)) == text, pre


# By hand: Gemma 4


def gemma4(merges, **metadata):
    tokens = ["<bos>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", "a", "b", "\n", "▁a", "ab", "▁ab", "▁▁", "▁ab▁", "\n\n\n"]
    types = np.array([CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 257), np.int32)
    arrays = {"tokens": tokens, "token_type": types, "merges": list(merges)}
    return make(describe(**{"model": "gemma4", "bos_token_id": 0, **arrays, **metadata}))


@pytest.mark.parametrize(("reach", "pieces"), [("▁ ▁", ["▁ab", "▁", "▁ab"]), ("▁ab ▁", ["▁ab▁", "▁ab"])])
def test_gemma4_merges_characters_with_a_mark_for_space(reach, pieces):
    # Where no merge reaches into the next word, as here in the first case, words are merged one by one.
    tokenizer = gemma4(["▁ a", "a b", "▁a b", reach], add_bos_token=False)
    assert texts_of(tokenizer, "ab ab  ab") == ["ab", *pieces]
    assert texts_of(tokenizer, "a\nb\n\n\nab\n\n") == ["a", "\n", "b", "\n\n\n", "ab", "\n", "\n"]
    assert texts_of(tokenizer, "é") == ["<0xC3>", "<0xA9>"]
    assert tokenizer.encode("a")[0] == 0  # bos, whatever the file says
    for text in (" a  b\n é", "\n\n 漢"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


# By hand: special tokens


def test_special_tokens_need_parse_special_but_user_defined_ones_do_not():
    tokenizer = make(bpe(special=[("<c>", CONTROL), ("<u>", USER_DEFINED), ("<n>", UNKNOWN)]))
    assert texts_of(tokenizer, "<c>a<u>b<n>") == ["<", "c", ">", "a", "<u>", "b", "<", "n", ">"]
    assert texts_of(tokenizer, "<c>a<u>b<n>", parse_special=True) == ["<c>", "a", "<u>", "b", "<n>"]
    ids = tokenizer.encode("<c>a<u>b<n>", parse_special=True)
    assert tokenizer.decode(ids) == "a<u>b"
    assert tokenizer.decode(ids, special=True) == "<c>a<u>b<n>"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab|cd", ["a", 2]),  # the longest token anywhere, not the first that fits
        ("ab|", [1]),
        ("xab||x", ["x", 1, "|x"]),
        ("nnnnn", [4, 3]),
        ("b|cdb|cd", [2, 2]),
        ("", []),
    ],
)
def test_the_longest_special_token_wins(text, pieces):
    assert SpecialTokens({"ab|": 1, "b|cd": 2, "nn": 3, "nnn": 4}, frozenset()).split(text) == pieces


def test_phi3_special_tokens_swallow_white_space():
    special = [("<|user|>", CONTROL), ("<|endoftext|>", CONTROL)]
    metadata = spm(PIECES, special) | {"general.name": "Phi-3 mini"}
    pieces = texts_of(make(metadata), "<|user|> \nab<|endoftext|> b", parse_special=True)
    assert pieces == ["<|user|>", "▁ab", "<|endoftext|>", "▁", "▁", "b"]
    assert SpecialTokens({"  ": 1}, {"  "}).split("a       b") == ["a", 1, "b"]  # not one for each two spaces


@pytest.mark.parametrize(
    ("special", "metadata", "ends"),
    [
        (["<x>"], {}, []),
        (["<x>"], {"eos_token_id": 256}, ["<x>"]),
        (["<x>", "<y>"], {"eot_token_id": 257}, ["<y>"]),
        (
            ["<|im_end|>", "<|endoftext|>", "<x>"],
            {"eos_token_id": 258},
            ["<x>", "<|endoftext|>", "<|im_end|>"],
        ),
        (["<|fim_pad|>", "<|file_sep|>", "<|fim_prefix|>"], {}, ["<|file_sep|>", "<|fim_pad|>"]),
        (["<|end|>"], {}, ["<|end|>"]),
        (["<|end|>", "<|return|>", "<|call|>", "<|start|>"], {}, ["<|call|>", "<|return|>"]),  # gpt-oss
        (["</s>", "<eos>"], {}, ["</s>", "<eos>"]),
        (["</s>", "<eos>", "<|tool_response>"], {}, ["<eos>", "<|tool_response>"]),
    ],
)
def test_end_of_generation(special, metadata, ends):
    tokenizer = make(bpe(special=[(text, CONTROL) for text in special], **metadata))
    assert sorted(tokenizer.tokens[i] for i in tokenizer.eog_ids) == ends


def test_known_texts_are_control_tokens_whatever_the_file_says():
    special = [("<|im_end|>", NORMAL), ("<|fim_prefix|>", USER_DEFINED), ("<|message|>", CONTROL)]
    tokenizer = make(bpe(special=special))
    assert tokenizer.types[-3:] == [CONTROL, CONTROL, USER_DEFINED]


# By hand: odd texts and damaged files


@pytest.mark.parametrize("metadata", [spm(PIECES), bpe()])
def test_surrogates_and_byte_order_marks(metadata):
    tokenizer = make(metadata)
    for text, meaning in [
        ("a\ud83d", "a\ufffd"),
        ("\udc80b\ud83dA", "\ufffdb\ufffdA"),
        ("\ud83d\ude00", "😀"),
        ("\ufeffa\ufeff", "\ufeffa\ufeff"),
        ("\0", "\0"),
    ]:
        assert tokenizer.decode(tokenizer.encode(text)) == meaning


@pytest.mark.parametrize("bad", [-1, 256, 10**9])
def test_decode_refuses_ids_out_of_range(bad):
    with pytest.raises(ValueError, match=rf"{bad}\b.* 256 tokens"):
        make(bpe()).decode([1, bad])


def test_token_bytes_stream_to_the_text_of_decode():
    tokenizer = make(bpe())
    ids = [
        *tokenizer.encode("naïve 😀 漢"),
        *(BYTE_CHARS.index(char) for char in "æa"),
    ]  # bytes E6 61 are no UTF-8
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    streamed = "".join(decoder.decode(tokenizer.token_bytes(i)) for i in ids) + decoder.decode(
        b"", final=True
    )
    assert streamed == tokenizer.decode(ids)
    assert streamed == "naïve 😀 漢\ufffda"


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({}, ModelFileError, "x.gguf: the metadata has no tokenizer.ggml.model"),
        (describe(model="bert"), UnsupportedModel, "'bert'; we have llama, gpt2, gemma4"),
        (describe(model="llama"), ModelFileError, "the metadata has no tokenizer.ggml.tokens"),
        (
            describe(model="llama", tokens=np.arange(3)),
            ModelFileError,
            "tokens is '.0 1 2.', which is not of type list",
        ),
        (
            describe(model="llama", tokens=["a", ["b"]]),
            ModelFileError,
            "tokens holds other things than strings",
        ),
        (describe(model="llama", tokens=[]), ModelFileError, "tokens is empty"),
        (bpe(pre="nonesuch"), UnsupportedModel, "'nonesuch'; we have gpt-2, "),
        (bpe(pre="jina-v2-de"), UnsupportedModel, "'jina-v2-de'; we have gpt-2, .* tekken, "),
        (bpe(merges=None), ModelFileError, "the metadata has no tokenizer.ggml.merges"),
        (bpe() | {"tokenizer.ggml.merges": np.arange(3)}, ModelFileError, "merges is .* not of type list"),
        (bpe(eos_token_id="2"), ModelFileError, "eos_token_id is '2', which is not of type int"),
        (bpe(words=["a"]), ModelFileError, "tokens holds 'a' twice"),
        (
            spm(PIECES, scores=np.zeros(3)),
            ModelFileError,
            r"scores has shape \(3,\), but there are 268 tokens",
        ),
        (spm(PIECES, scores=["0"] * 268), ModelFileError, "scores is .* not an array of numbers"),
        (spm(PIECES, token_type=[[1]] * 268), ModelFileError, "token_type is .* not an array of numbers"),
        (bpe(token_type="1"), ModelFileError, "token_type is '1', which is not an array of numbers"),
        (spm(PIECES, token_type=np.ones(267)), ModelFileError, r"token_type has shape \(267,\)"),
    ],
)
def test_bad_metadata_is_refused_by_name(metadata, error, message):
    with pytest.raises(error, match=message):
        make(metadata)


@pytest.mark.parametrize("token_id", [256, -1, 2**32 - 1, 2**40])
@pytest.mark.parametrize("role", ["bos", "eos", "eot", "eom", "unknown", "fim_pre", "fim_pad", "fim_sep"])
def test_an_id_past_the_tokens_is_told_and_the_default_taken(role, token_id):
    key = f"{role}_token_id"
    with pytest.warns(
        UserWarning, match=rf"x\.gguf: tokenizer\.ggml\.{key} is {token_id}, .* 256 tokens"
    ) as told:
        tokenizer = make(bpe(**{key: token_id}))
    assert len(told) == 1
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.eog_ids) == (None, None, frozenset())
    with pytest.warns(UserWarning, match=key):
        tokenizer = make(spm(PIECES, **{key: max(token_id, 268)}))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.encode("abc")) == (1, 2, [1, 265, 262])


def test_harmless_mistakes_are_told():
    def told(metadata, message):
        with pytest.warns(UserWarning, match=message):
            return make(metadata)

    assert told(bpe(add_bos_token=True), "bos_token_id is missing").encode("a") == [64]
    merges = {"tokenizer.ggml.merges": ["a b", "bc", "b c", " c", "c ", "c d e"]}
    tokenizer = told(bpe(["a b", "b c"]) | merges, "merges holds ' c', which is not two symbols")
    assert texts_of(tokenizer, "abcc bc") == ["ab", "c", "c", "Ġ", "bc"]
    longer = {
        "scores": np.append(spm(PIECES)["tokenizer.ggml.scores"], 9),
        "token_type": np.ones(300, np.int32),
    }
    assert texts_of(told(spm(PIECES, **longer), "numbers for 268 tokens"), "abc") == ["▁ab", "c"]


def test_an_empty_chat_template_is_none():
    assert make(bpe() | {"tokenizer.chat_template": ""}).chat_template is None


# Bytes of SentencePiece are found by their text, whatever their type


@pytest.mark.parametrize("kind", [None, *range(7)])
def test_bytes_go_by_their_text(kind):
    """Files of early 2024 have them as normal tokens, or no types at all; llama.cpp looks for <0x0A>."""
    types = None
    if kind is not None:
        types = spm(PIECES)["tokenizer.ggml.token_type"].copy()
        types[3:259] = kind
    tokenizer = make(spm(PIECES, token_type=types))
    assert texts_of(tokenizer, "a\n😀") == ["▁", "a", "<0x0A>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert tokenizer.decode(tokenizer.encode("a\n😀", add_special=False)) == "a\n😀"


def test_the_unknown_token_may_be_any():
    for token_id in (5, 13, 260):  # a byte, another byte, "a": llama.cpp takes them where the text has them
        tokenizer = make(spm(PIECES, unknown_token_id=token_id))
        assert texts_of(tokenizer, "a\n\x02") == ["▁", "a", "<0x0A>", "<0x02>"]


def test_a_missing_byte_is_the_character_itself_or_unknown():
    metadata = spm([*PIECES, ("\t", -20)])
    for byte in (0x09, 0x0A, 0xF0):
        metadata["tokenizer.ggml.tokens"][3 + byte] = f"other{byte}"
    with pytest.warns(UserWarning, match="lacks 3 of the 256 bytes, such as <0x09>"):
        tokenizer = make(metadata)
    assert texts_of(tokenizer, "a\t\n😀é") == [
        *("▁", "a", "\t", "<unk>", "<unk>", "<0x9F>", "<0x98>", "<0x80>", "<0xC3>", "<0xA9>")
    ]


def test_a_byte_typed_token_with_another_text_is_text():
    metadata = bpe(words=["<0x0A>", "xyz"])
    metadata["tokenizer.ggml.token_type"][256:] = BYTE
    assert make(metadata).decode([256, 257]) == "\nxyz"


# Recorded from llama.cpp (tests/data/tokenizer.json says how)


RECORDED_SPLITS = [
    *("gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "tekken", "falcon", "default"),
    *("deepseek-llm", "deepseek-coder", "deepseek-v3"),
]


@cache
def recorded(name):
    special = [tuple(pair) for pair in RECORDED["special"]]
    if name == "spm":
        return make(spm(RECORDED["pieces"], special))
    if name == "gemma4":
        pieces, merges = RECORDED["pieces"] + RECORDED["gemma4_pieces"], RECORDED["gemma4_merges"]
        return make(spm(pieces, special) | describe(model="gemma4", merges=merges, bos_token_id=1))
    return make(bpe(RECORDED["merges"], special, pre=name, bos_token_id=1))


# Here a mark is no letter to llama.cpp's tekken, but one to the published pattern (test_splits.py has more).
OTHER_WORDS = {("tekken", "andYou'RE6\u0489's\u2940!!!")}


@pytest.mark.parametrize("name", ["spm", "gemma4", *RECORDED_SPLITS])
def test_recorded_ids(name):
    tokenizer = recorded(name)
    for case in RECORDED["cases"]:
        text, (plain, *_, parsed) = case["text"], 2 * case.get(name, case["gpt-2"])
        assert (tokenizer.encode(text, add_special=False) == plain) == ((name, text) not in OTHER_WORDS), text
        if (name, text) not in OTHER_WORDS:
            assert tokenizer.encode(text, add_special=False, parse_special=True) == parsed, text


@given(text=st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"])))
@pytest.mark.parametrize("name", ["spm", *RECORDED_SPLITS])
@settings(max_examples=50, deadline=None)
def test_decode_undoes_encode(name, text):
    tokenizer = recorded(name)
    ids = tokenizer.encode(text, add_special=False)
    assert tokenizer.decode(ids) == text
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    streamed = "".join([decoder.decode(tokenizer.token_bytes(i)) for i in ids]) + decoder.decode(
        b"", final=True
    )
    assert streamed.removeprefix(" " if name == "spm" else "") == text


# Whole vocabularies, where they are at hand


@pytest.mark.parametrize("name", ["llama-spm", "phi-3", "gpt-2", "llama-bpe", "qwen2", "deepseek-llm"])
def test_vectors_of_llama_cpp(name):
    path = SHARED / f"vocab/ggml-vocab-{name}.gguf"
    tokenizer = from_file(path)
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text().splitlines()
    assert len(lines) == 46  # the 47th text is what follows the last separator: nothing
    assert texts[46:] == [""]
    for text, line in zip(texts, lines, strict=False):
        assert tokenizer.encode(text, add_special=False) == [int(number) for number in line.split()], text


MODELS = ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"]


@pytest.mark.parametrize("name", MODELS)
def test_prompts_of_real_models(name):
    reference = SHARED / "reference/real/given.json"
    tokenizer = from_file(ROOT / "models" / name)
    if not reference.exists():
        pytest.skip(f"{reference} is not there")
    for prompt in json.loads(reference.read_text(encoding="utf-8"))[name]:
        assert tokenizer.encode(prompt["prompt"]) == prompt["ids"]


def test_chat_tokens_of_real_models():
    smollm, gemma = (from_file(ROOT / "models" / name) for name in MODELS)
    assert {smollm.tokens[i] for i in smollm.eog_ids} == {"<|im_end|>", "<|endoftext|>", "<reponame>"}
    assert {gemma.tokens[i] for i in gemma.eog_ids} == {"<eos>", "<end_of_turn>", "</s>"}
    assert texts_of(smollm, "<|im_start|>user\n", parse_special=True) == ["<|im_start|>", "user", "Ċ"]
    assert "<|im_start|>" in smollm.chat_template
    assert texts_of(gemma, "<start_of_turn>user\n\n", parse_special=True) == [
        "<start_of_turn>",
        "user",
        "\n\n",
    ]


@given(text=st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"])))
@pytest.mark.parametrize(
    "path", [SHARED / f"vocab/ggml-vocab-{name}.gguf" for name in ("llama-spm", "gpt-2", "qwen2")]
)
@settings(max_examples=50, deadline=None)
def test_decode_undoes_encode_for_whole_vocabularies(path, text):
    tokenizer = from_file(path)
    assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


def test_joined_pieces_never_spell_a_control_token():
    """Here llama.cpp gives the control token 1: "s" and ">" join, then "<" and "s>"."""
    tokens = ["<unk>", "<s>", "</s>", "<", "s", ">", "s>", "▁"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.float32([0, 0, 0, -4, -5, -6, -1, -7]),
        "tokenizer.ggml.token_type": np.int32([2, 3, 3, 1, 1, 1, 1, 1]),
        "tokenizer.ggml.add_space_prefix": False,
    }
    tokenizer = Tokenizer.from_metadata(metadata, "x.gguf")
    assert tokenizer.encode("<s>", add_special=False) == [3, 6]
    assert tokenizer.encode("<s>", add_special=False, parse_special=True) == [1]

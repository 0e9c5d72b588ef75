"""How byte-level BPE cuts a text into words before it merges: the published patterns of each model family.

The key tokenizer.ggml.pre of a file names its row in `SPLITS`. Names and patterns are those of llama.cpp's
src/llama-vocab.cpp, whose reading of Unicode (src/unicode.cpp) is the one that `split_words` follows.
"""

import re
import unicodedata
from functools import cache
from itertools import accumulate
from typing import NamedTuple


class Split(NamedTuple):
    """How `BytePairs` cuts a text into words."""

    patterns: tuple[str, ...]  # as published (no capturing groups), one after another; text between matches counts too
    ignore_merges: bool = False  # a word that is a token is never built from merges
    add_bos: bool = False  # where the file does not say


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
ENGLISH = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|"
LLAMA3 = ENGLISH + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = ENGLISH + r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + SPACES
UPPER, LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"  # caseless letters are both
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
)
ASCII_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
DEEPSEEK3 = ASCII_WORD + r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + SPACES
CHINESE, KANJI = "[一-龥ࠀ-一가-퟿]+", "[一-龥぀-ゟ゠-ヿ]+"  # noqa: RUF001
LETTERS = (  # of the scripts with upper and lower case, as deepseek-llm lists them
    r"A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ"
    r"Ὀ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯ"  # noqa: RUF001
    r"ꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"  # noqa: RUF001
)
PUNCTUATION = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"  # noqa: RUF001
SPLITS = {  # tokenizer.ggml.pre -> Split; names in one row share it
    name: split
    for names, split in (
        ("gpt-2 phi-2 mpt olmo jais trillion exaone4 gigachat a.x-4.0 mellum granite-docling", Split((GPT2,))),
        ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", Split((r"\p{N}", GPT2))),
        ("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2", Split((LLAMA3,), True, True)),
        ("dbrx smaug-bpe", Split((LLAMA3,))),
        ("qwen2 deepseek-r1-qwen megrez kormo stablelm2 hunyuan solar-open f2llmv2 grok-2", Split((QWEN2,))),
        ("qwen35", Split((QWEN35,))),
        ("tekken", Split((TEKKEN,), True, True)),
        ("falcon", Split((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"))),
        ("deepseek-llm", Split(("[\r\n]", rf"\s?[{LETTERS}]+", PUNCTUATION, r"\s+$", CHINESE, r"\p{N}+"))),
        ("deepseek-coder", Split(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CHINESE, r"\p{N}"))),
        ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", Split((r"\p{N}{1,3}", KANJI, DEEPSEEK3))),
        ("default", Split((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))),
        ("gemma4", Split((r"[^\n]+|[\n]+",))),
    )
    for name in names.split()
}

# `re` knows no \p{L}, and classes that spell it out are slow. So a pattern sees not the text but an equally long copy,
# where each character past ASCII is a stand-in for its category; one that itself names characters past ASCII sees them,
# except that white space among them is \v (llama.cpp does so too). ASCII's \s and \S are right for both.
STAND_INS = {"L": "ª", "N": "²", "P": "·", "S": "¬", "M": "\x80"}  # of their category but for \x80; the rest is \x81
WIDE_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
UNICODE_15 = {  # what llama.cpp's tables (15.1) know and Python 3.11's (14.0) do not: first and last of runs
    "L": "1123f-11240 11f02 11f04-11f10 11f12-11f33 1342f 13441-13446 1b132 1b155 1df25-1df2a 1e030-1e06d"
    " 1e4d0-1e4eb 2b739 2ebf0-2ee5d 31350-323af",
    "M": "cf3 ece 10efd-10eff 11241 11f00-11f01 11f03 11f34-11f3a 11f3e-11f42 13440 13447-13455 1e08f 1e4ec-1e4ef",
    "N": "11f50-11f59 1d2c0-1d2d3 1e4f0-1e4f9",
    "P": "11b00-11b09 11f43-11f4f",
    "S": "2ffc-2fff 31ef 1f6dc 1f774-1f776 1f77b-1f77f 1f7d9 1fa75-1fa77 1fa87-1fa88 1faad-1faaf 1fabb-1fabd"
    " 1fabf 1face-1facf 1fada-1fadb 1fae8 1faf7-1faf8",
}


def split_words(text: str, patterns: tuple[str, ...]) -> list[str]:
    """The pieces of a text that merges never reach across: each pattern cuts the pieces that those before it left."""
    literal = WIDE_SPACE.sub("\v", text)
    collapsed = text if text.isascii() else "".join(map(_stand_in, literal))
    words = [text]
    for pattern in patterns:
        pieces, split = _cut(collapsed if r"\p" in pattern else literal, words), _compile(pattern).split
        words = [word for piece in pieces for word in split(piece) if word]
    return _cut(text, words)


@cache
def _stand_in(char):
    kind = unicodedata.category(char)
    if kind == "Cn":
        runs = ((kind, *run.split("-")) for kind, runs in UNICODE_15.items() for run in runs.split())
        kind = next((run[0] for run in runs if int(run[1], 16) <= ord(char) <= int(run[-1], 16)), kind)
    return char if char < "\x80" else STAND_INS.get(kind[0], "\x81")


@cache
def _compile(pattern):
    """`re` object for a published split pattern; its one group lets split give what lies between matches too."""

    def members(match):
        ascii_chars = [rf"\x{i:02x}" for i in range(128) if unicodedata.category(chr(i))[0] == match[1]]
        return "".join(ascii_chars) + STAND_INS[match[1]]

    in_brackets = re.sub(r"\[(?:\\.|[^\\\]])*\]|\\p\{\w\}", lambda m: m[0] if m[0][0] == "[" else f"[{m[0]}]", pattern)
    return re.compile("(" + re.sub(r"\\p\{(\w)\}", members, in_brackets) + ")", re.ASCII)


def _cut(text, pieces):
    """Cut `text` into pieces as long as `pieces`."""
    ends = list(accumulate(map(len, pieces)))
    return list(map(text.__getitem__, map(slice, [0, *ends], ends)))

"""How byte-level BPE cuts a text into words before it merges: the published patterns of each model family.

The key tokenizer.ggml.pre of a file names its row in `SPLITS`. Names and patterns are those of llama.cpp's
src/llama-vocab.cpp, whose reading of Unicode (src/unicode.cpp) `split_words` follows. The words of o200k and
Tekken, which llama.cpp approximates, are as their models publish them. Qwen's models also compose a text
first (NFC). No key of a file says so, and what comes back would not be what went in; we leave it out, as
llama.cpp does.
"""

import re
import unicodedata
from functools import cache
from itertools import accumulate
from typing import NamedTuple


class Split(NamedTuple):
    """The way in which `BytePairs` cuts a text into words and encodes them."""

    patterns: tuple[str, ...]  # without capturing groups, one after another; text between matches counts too
    ignore_merges: bool = False  # a word that is a token is never built from merges
    add_bos: bool = False  # where the file does not say
    bytewise: bool = True  # merges join bytes; otherwise characters, with \u2581 for a space
    whole_newlines: bool = False  # a run of newlines that is a token is never built from merges


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
ENGLISH = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
WORD, SIGNS = r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+"
LLAMA3 = rf"{ENGLISH}|{WORD}|\p{{N}}{{1,3}}|{SIGNS}[\r\n]*|{SPACES}"
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = QWEN2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"\s\p{L}\p{N}", r"\s\p{L}\p{M}\p{N}")
JAIS2 = LLAMA3.removesuffix(r"\s+(?!\S)|\s+")
JAIS2 += "|".join([*(rf"\s{{{2**n}}}(?!\S)" for n in range(9, 1, -1)), r"\s{1,2}(?!\S)", r"\s"])
SEED = rf"{ENGLISH}|{WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACES}"
BAILING = rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{WORD}|\p{{N}}|{SIGNS}[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
PHRASE = r"\p{L}[\p{L}\p{M}]*(?: \p{L}[\p{L}\p{M}]*)*"  # words with single spaces between
EXAONE_MOE = rf"{ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?{PHRASE}|\p{{N}}|{SIGNS}[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"


def _cased(upper: str, lower: str, digits: str, ending: str = "") -> str:
    """Words that begin anew where a capital follows a small letter: helloWorld is two."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = f"{start}{upper}*{lower}+{ending}|{start}{upper}+{lower}*{ending}"
    return rf"{words}|{digits}|{SIGNS}[\r\n/]*|{SPACES}"


UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN, O200K = _cased(UPPER, LOWER, r"\p{N}"), _cased(UPPER, LOWER, r"\p{N}{1,3}", ENGLISH + "?")
# The models of these two tell upper from lower case as well, but llama.cpp does not, and no published
# vocabulary of theirs was at hand to show what is right.
AYA = rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+{ENGLISH}?|\p{{N}}{{1,3}}|{SIGNS}[\r\n/]*|{SPACES}"
YOUTU = AYA.replace("{1,3}", "")
KIMI = (
    r"\p{Han}+|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})\p{L})+" + ENGLISH + "?"
    rf"|\p{{N}}{{1,3}}|{SIGNS}[\r\n]*|{SPACES}"
)
# Digits in threes from the right: 1234567 is 1, 234, 567. What stands before a number goes with its first
# group into the next pattern, which so sees whether white space ends there.
THREES = (r"(?:\A|(?<=\p{N}))[^\p{N}]*\p{N}+", r"(?<=\p{N})(?:\p{N}{3})+\Z", r"(?:\A|(?<=\p{N}))\p{N}{3}")
# Published as \p{N}+, then (?=(\d{3})+(?!\d)), whose time grows with the square of a number's length.
SUPERBPE = (
    r"\p{N}+",
    r"(?:(?<!\d)|(?<=(?<!\d)\d)|(?<=(?<!\d)\d\d))(?=(?:\d{3})+(?!\d))",
    r"\d{3}(?=\d{3})",
)
ASCII_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
MARKED_WORD = ASCII_WORD + r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
DEEPSEEK3 = rf"{MARKED_WORD}[\r\n]*|{SPACES}"
SPARK = MARKED_WORD + r"|[\r\n]|\s+(?!\S)|\s+"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"  # noqa: RUF001
CHINESE, KANJI = "[一-龥ࠀ-一가-퟿]+", "[一-龥぀-ゟ゠-ヿ]+"  # noqa: RUF001
LETTERS = (  # of the scripts with upper and lower case, as deepseek-llm lists them
    r"A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ"
    r"Ὀ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯ"  # noqa: RUF001
    r"ꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"  # noqa: RUF001
)
PUNCTUATION = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"  # noqa: RUF001
CJK = "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+"  # noqa: RUF001
YOUTU_SCRIPTS = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"  # noqa: RUF001
CODES = ("<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\t\n]|    |  ")  # of chameleon, and its white space
SPLITS = {  # tokenizer.ggml.pre -> Split; names in one row share it
    name: split
    for names, split in (
        ("gpt-2 phi-2 mpt olmo jais trillion exaone4", Split((GPT2,))),
        ("gigachat a.x-4.0 mellum granite-docling", Split((GPT2,))),
        ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", Split((r"\p{N}", GPT2))),
        ("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2", Split((LLAMA3,), True, True)),
        ("glm4 glm5", Split((LLAMA3,), ignore_merges=True)),
        ("dbrx smaug-bpe chatglm-bpe", Split((LLAMA3,))),
        ("jais-2", Split((JAIS2,))),
        ("minicpm5", Split((r"\p{N}{1,3}", LLAMA3.replace("{1,3}", "+")), ignore_merges=True)),
        ("qwen2 deepseek-r1-qwen megrez kormo stablelm2 hunyuan solar-open f2llmv2 grok-2", Split((QWEN2,))),
        ("laguna", Split((r"[^\n]+|[\n]+", QWEN2))),
        ("ufakzeka", Split((QWEN2.removeprefix(ENGLISH + "|"),))),  # Turkish: 'ta is no contraction
        ("qwen35", Split((QWEN35,))),
        ("seed-coder", Split((SEED,))),
        ("bailingmoe bailingmoe2 llada-moe", Split((BAILING,))),
        ("exaone-moe", Split((EXAONE_MOE,))),
        ("tekken", Split((TEKKEN,), True, True)),
        ("gpt-4o llama4 kanana2 talkie minimax-m2", Split((O200K,), ignore_merges=True)),
        ("granite-embed-multi-97m", Split((O200K,), ignore_merges=True)),
        ("youtu", Split((YOUTU_SCRIPTS, YOUTU), ignore_merges=True)),
        ("tiny_aya cohere2moe", Split((*THREES, AYA))),
        ("kimi-k2", Split((KIMI,))),
        ("afmoe", Split((*THREES, CJK, DEEPSEEK3))),
        ("superbpe", Split(SUPERBPE)),
        ("falcon", Split((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"))),
        ("deepseek-llm", Split(("[\r\n]", rf"\s?[{LETTERS}]+", PUNCTUATION, r"\s+$", CHINESE, r"\p{N}+"))),
        ("deepseek-coder", Split(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CHINESE, r"\p{N}"))),
        ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", Split((r"\p{N}{1,3}", KANJI, DEEPSEEK3))),
        ("spark2_5", Split((r"\p{N}{1,3}", KANJI, SPARK, r"\p{N}"))),
        ("bloom poro-chat gpt3-finnish", Split((BLOOM,))),
        ("viking", Split((BLOOM, r"\p{N}"))),
        ("chameleon", Split((*CODES, r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", GPT2), add_bos=True)),
        ("default", Split((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))),
        ("gemma4", Split((r"[^\n]+|[\n]+",), add_bos=True, bytewise=False, whole_newlines=True)),
        ("sarvam-moe", Split((r"[^\n]+|[\n]+",), bytewise=False)),
    )
    for name in names.split()
}

# `re` knows no \p{L}, and classes that spell it out are slow. So a pattern sees not the text but an equally
# long copy, where each character past ASCII is a stand-in for its category. A pattern that itself names
# characters past ASCII sees them, except that white space among them is \v, as in llama.cpp. ASCII's \s and
# \S are right for both.
CATEGORIES = (
    "Lu",
    "Ll",
    "Lt",
    "Lm",
    "Lo",
    "Lo Han",
    "Han",
    "M",
    "N",
    "P",
    "S",
    "other",
)  # "Han": of no letter
STAND_INS = {category: chr(0x80 + i) for i, category in enumerate(CATEGORIES)}
WIDE_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
HAN = re.compile(  # as llama.cpp bounds it for kimi-k2
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ebef\U0002f800-\U0002fa1f]"
)
UNICODE_15 = {  # what llama.cpp's tables (15.1) know and Python 3.11's (14.0) do not: first and last of runs
    "Lo": "1123f-11240 11f02 11f04-11f10 11f12-11f33 1342f 13441-13446 1b132 1b155 1df25-1df2a 1e030-1e06d"
    " 1e4d0-1e4eb 2b739 2ebf0-2ee5d 31350-323af",
    "M": "cf3 ece 10efd-10eff 11241 11f00-11f01 11f03 11f34-11f3a 11f3e-11f42 13440 13447-13455 1e08f"
    " 1e4ec-1e4ef",
    "N": "11f50-11f59 1d2c0-1d2d3 1e4f0-1e4f9",
    "P": "11b00-11b09 11f43-11f4f",
    "S": "2ffc-2fff 31ef 1f6dc 1f774-1f776 1f77b-1f77f 1f7d9 1fa75-1fa77 1fa87-1fa88 1faad-1faaf 1fabb-1fabd"
    " 1fabf 1face-1facf 1fada-1fadb 1fae8 1faf7-1faf8",
}


def split_words(text: str, patterns: tuple[str, ...]) -> list[str]:
    """The pieces of a text that merges never reach across; each pattern cuts what earlier ones left.

    >>> split_words("It's 1234  times", SPLITS["llama-bpe"].patterns)
    ['It', "'s", ' ', '123', '4', ' ', ' times']
    """
    literal = WIDE_SPACE.sub("\v", text)
    collapsed = text if text.isascii() else "".join(map(_stand_in, literal))
    words = [text]
    for pattern in patterns:
        pieces, split = _cut(collapsed if r"\p" in pattern else literal, words), _compile(pattern).split
        words = [word for piece in pieces for word in split(piece) if word]
    return _cut(text, words)


@cache
def _stand_in(char):
    """What stands for a character in the copy of the text that patterns see."""
    category = unicodedata.category(char)
    if category == "Cn":
        runs = ((newer, *run.split("-")) for newer, runs in UNICODE_15.items() for run in runs.split())
        category = next((new for new, first, *last in runs if _between(char, first, *last)), category)
    if char < "\x80":
        return char
    if HAN.match(char):
        return STAND_INS["Lo Han" if category == "Lo" else "Han"]
    return STAND_INS.get(category) or STAND_INS.get(category[0]) or STAND_INS["other"]


def _between(char, first, last=None):
    """Whether the hexadecimal numbers `first` and `last` (default: the same) enclose a character's."""
    return int(first, 16) <= ord(char) <= int(last or first, 16)


@cache
def _compile(pattern):
    """`re` object for a published pattern; its one group lets split give what lies between matches too."""

    def members(match):
        ascii_chars = [rf"\x{i:02x}" for i in range(128) if unicodedata.category(chr(i)).startswith(match[1])]
        stand_ins = [
            char for names, char in STAND_INS.items() if any(n.startswith(match[1]) for n in names.split())
        ]
        return "".join(ascii_chars + stand_ins)

    in_brackets = re.sub(
        r"\[(?:\\.|[^\\\]])*\]|\\p\{\w+\}", lambda m: m[0] if m[0][0] == "[" else f"[{m[0]}]", pattern
    )
    return re.compile("(" + re.sub(r"\\p\{(\w+)\}", members, in_brackets) + ")", re.ASCII)


def _cut(text, pieces):
    """Cut `text` into pieces as long as `pieces`."""
    ends = list(accumulate(map(len, pieces)))
    return list(map(text.__getitem__, map(slice, [0, *ends], ends)))

"""Values as models write them into calls: JSON's, Python's literals (LFM2), and Gemma's <|"|>text<|"|>.

>>> read_literal("['Ala', True, {n: -1.5}] and more", 0)
(['Ala', True, {'n': -1.5}], 24)
"""

import json
import math
import re
import sys

WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
QUOTES = ('<|"|>', '"""', "'''", '"', "'")
NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])")
KEY = re.compile(r"""[^\s:=,(){}\[\]"'<|]+""")
BARE_KEY = re.compile(r"[^:,{}\[\]]*(?=:)")  # Gemma's template writes any key as it is
SPACE = re.compile(r"\s*")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|.)", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""} | {
    c: c for c in "\\'\"/"
}
NEXT = (
    r"""["'<\[{(]|[-+.\d]|(?:[Tt]rue|[Ff]alse|null|None)\b|[\w.-]+\s*[=:(]"""  # a value, or a key or a call
)
AFTER_KEY = re.compile(r"\s*:")
AFTER_STRING = re.compile(rf"[\s)\]}}]*(?:$|<\|tool_call_end|<tool_call\||,\s*(?:{NEXT}|[)\]}}]))")


def _finite(number):
    """A number that JSON can write: neither NaN nor 1e999, which is infinite to a float."""
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is no number that JSON can write")
    return value


# strict=False: models break lines inside of strings
DECODER = json.JSONDecoder(strict=False, parse_float=_finite, parse_constant=_finite)


def read_json(text: str, at: int):
    """The JSON value that begins at `at`, after white space, and where it ends. Raises ValueError if there
    is none."""
    try:
        value, end = DECODER.raw_decode(text, skip_space(text, at))
        return (_without_surrogates(value) if SURROGATE.search(text, at, end) else value), end
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_of(text: str):
    """The value of a text that is JSON and nothing else. Raises ValueError for any other."""
    value, end = read_json(text, 0)
    if skip_space(text, end) < len(text):
        raise ValueError("something follows the value")
    return value


def _without_surrogates(value):
    """The value with U+FFFD for each half of a pair, which no text can have and no file can take."""
    if isinstance(value, dict):
        return {_whole(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    return _whole(value) if isinstance(value, str) else value


def _whole(text):
    """The text with pairs of surrogates joined, as JSON writes an emoji, and U+FFFD for a single one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_literal(text: str, at: int):
    """The value that begins at `at`, after white space, and where it ends. Raises ValueError if there is
    none."""
    at = skip_space(text, at)
    if text.startswith(QUOTES, at):
        return _string(text, at)
    if text.startswith("{", at):
        return read_fields(text, at + 1, "}", ":")
    if text.startswith(("[", "("), at):
        return _items(text, at + 1, "]" if text[at] == "[" else ")")
    if number := NUMBER.match(text, at):
        digits = number[0]
        return (int(digits) if digits.lstrip("+-").isdigit() else _finite(digits)), number.end()
    if (word := KEY.match(text, at)) and word[0] in WORDS:
        return WORDS[word[0]], word.end()
    raise ValueError(f"no value at {text[at : at + 20]!r}")


def read_fields(text: str, at: int, close: str, colon: str, names=()):
    """The fields up to `close`: {key: value} with ":", f(key=value) with "=". `names` are the keys of bare
    values."""
    fields: dict = {}
    names = iter(names)
    while (at := skip_space(text, at)) < len(text):
        if text.startswith(close, at):
            return fields, at + len(close)
        is_key = colon == ":"
        if text.startswith(QUOTES, at):
            key, after = _string(text, at, AFTER_KEY if is_key else AFTER_STRING)
        else:
            key, after = _word(text, at, BARE_KEY if is_key else KEY)
        after = skip_space(text, after)
        if text.startswith(colon, after):
            value, at = read_literal(text, after + len(colon))
        else:
            key = next(names, None)
            value, at = read_literal(text, at)
        if key is None:
            raise ValueError(f"a value without a name before {text[at : at + 20]!r}")
        fields[key] = value
        at = _comma(text, at, close)
    raise ValueError("it is cut off")


def skip_space(text: str, at: int) -> int:
    """The first place from `at` on that is not white space."""
    space = SPACE.match(text, at)
    return space.end() if space else at


def _items(text, at, close):
    items = []
    while (at := skip_space(text, at)) < len(text):
        if text.startswith(close, at):
            return items, at + 1
        value, at = read_literal(text, at)
        items.append(value)
        at = _comma(text, at, close)
    raise ValueError("it is cut off")


def _comma(text, at, close):
    """Past the comma at `at`; the closing bracket may stand in its place."""
    at = skip_space(text, at)
    if text.startswith(",", at):
        return at + 1
    if text.startswith(close, at):
        return at
    raise ValueError(f"no comma before {text[at : at + 20]!r}" if at < len(text) else "it is cut off")


def _word(text, at, pattern):
    word = pattern.match(text, at)
    return (word[0].strip(), word.end()) if word else (None, at)


def _string(text, at, after=AFTER_STRING):
    """The string at `at` and its end. LFM2's own template writes 'it's' without a backslash: a quote ends a
    string only where what follows can stand behind one, closing brackets and the next value."""
    quotes = [quote for quote in QUOTES if text.startswith(quote, at)]
    for quote in quotes:
        if found := _quoted(text, at + len(quote), quote, after):
            return found
    raise ValueError("a string is cut off")


def _quoted(text, begin, quote, after):
    """The string from `begin` to the quote that ends it, and the end of that; None if none does."""
    end = begin
    while (end := text.find(quote, end)) >= 0:
        if quote == '<|"|>':
            return text[begin:end], end + len(quote)
        first = end
        while first > begin and text[first - 1] == "\\":
            first -= 1
        if (end - first) % 2 == 0 and after.match(text, end + len(quote)):
            return _unescape(text[begin:end]), end + len(quote)
        end += 1
    return None


def _unescape(content):
    """The text that Python's and JSON's escapes stand for; what is no escape stays as it is."""
    if "\\" not in content:
        return content
    return _whole(ESCAPE.sub(_escaped, content))


def _escaped(match):
    digits = match[1] or match[2] or match[3]
    if digits:
        code = int(digits, 16)
        return chr(code) if code <= sys.maxunicode else match[0]
    return ESCAPES.get(match[0][1:], match[0])

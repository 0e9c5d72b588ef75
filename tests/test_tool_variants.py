"""Every way to write the same call, in every format: the readings are worked out by hand.

test_tools.py has what models were seen to write; here are its kinds: white space, the order and the names of
keys, escapes, values that hold markers, what is broken beside what is sound.
"""
# ruff: noqa: RUF001 (texts as models write them)

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tools import CASES, CASES_OF_OURS, TEMPLATES, tool

from llmcore.chat import parse_answer
from llmcore.chat.formats import format_of

TOOLS = [
    tool("add", a="integer", b="integer"),
    tool("look", city="string"),
    tool("todo"),
    tool("ns.g-h", s="string"),
    tool(
        "all",
        x="object",
        l="array",
        n=["string", "null"],
        f="number",
        t="boolean",
        u={},
        e={"enum": [1, "c"]},
    ),
]
ADD, TODO = {"name": "add", "arguments": {"a": 1}}, {"name": "todo", "arguments": {}}


def look(city):
    return {"name": "look", "arguments": {"city": city}}


def read(name, text, **options):
    return parse_answer(text, TEMPLATES[name], tools=TOOLS, **options)


# JSON between markers: what stands before the objects, behind them, and between two

JSON_FORMATS = {
    "Qwen-Qwen2.5-7B-Instruct": ("<tool_call>\n", "\n</tool_call>", None),
    "Qwen-Qwen3-0.6B": ("<tool_call>", "</tool_call>", None),
    "NVIDIA-Nemotron-Nano-v2": ("<TOOLCALL>[", "]</TOOLCALL>", ", "),
    "MiniMax-M1": ("<tool_calls>\n", "\n</tool_calls>", "\n"),
    "Apriel-1.6-15b-Thinker-fixed": ("<tool_calls>[", "]</tool_calls>", ", "),
    "mistralai-Mistral-Nemo-Instruct-2407": ("[TOOL_CALLS][", "]", ", "),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("<|START_ACTION|>[\n", "\n]<|END_ACTION|>", ",\n"),
    "CohereForAI-c4ai-command-r-plus-tool_use": ("Action:\n```json\n[\n", "\n]\n```", ",\n"),
    "fireworks-ai-llama-3-firefunction-v2": (" functools[", "]", ", "),
    "ibm-granite-granite-3.3-2B-Instruct": ("<|tool_call|>[", "]", ", "),
    "Apertus-8B-Instruct": ("<|tools_prefix|>[", "]<|tools_suffix|>", ", "),
    "GigaChat3-10B-A1.8B": ("<|message_sep|>\n\nfunction call<|role_sep|>\n", "", None),
    "GigaChat3.1-10B-A1.8B": ("<|function_call|>", "", None),
    "meta-llama-Llama-3.1-8B-Instruct": ("", "", "; "),
}
MARKERS = '}]</tool_call>{"</TOOLCALL></tool_calls><|END_ACTION|>[/TOOL_CALLS]```<|tools_suffix|><think>'
OBJECTS = [
    ('{"name":"add","arguments":{"a":1}}', ADD),
    ('{ "name" : "add" ,\n  "arguments" : {\n "a" : 1\n }\n}', ADD),
    ('{"arguments": {"a": 1}, "name": "add"}', ADD),
    ('{"name": "add", "parameters": {"a": 1}}', ADD),
    ('{"name": "add", "arguments": "{\\"a\\": 1}"}', ADD),
    ('{"name": "todo", "arguments": {}}', TODO),
    ('{"name": "todo", "arguments": ""}', TODO),
    ('{"name": "todo", "arguments": null}', TODO),
    ('{"id": "x1", "name": "add", "arguments": {"a": 1}}', ADD),
    ('{"name": "add", "arguments": {"a": 1}, "id": 7}', ADD),
    ('{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}', ADD),
    (r'{"name": "look", "arguments": {"city": "\u0141\u00f3d\u017a \ud83c\udf89"}}', look("Łódź 🎉")),
    (r'{"name": "look", "arguments": {"city": "half \ud83c"}}', look("half \ufffd")),
    ('{"name": "look", "arguments": {"city": "a\nb"}}', look("a\nb")),
    ('{"name": "look", "arguments": {"city": "7"}}', look("7")),
    ('{"name": "add", "arguments": {"a": "1"}}', {"name": "add", "arguments": {"a": "1"}}),
    ('{"name": "add", "arguments": {"a": 1, "a": 2}}', {"name": "add", "arguments": {"a": 2}}),
    ('{"name": "ns.g-h", "arguments": {"s": "z"}}', {"name": "ns.g-h", "arguments": {"s": "z"}}),
    (json.dumps(look(MARKERS)), look(MARKERS)),
    (
        '{"name": "all", "arguments": {"x": {"name": "a", "arguments": {}}, "l": [[], null], "f": -1e-3}}',
        {
            "name": "all",
            "arguments": {"x": {"name": "a", "arguments": {}}, "l": [[], None], "f": -0.001},
        },
    ),
]


@pytest.mark.parametrize("name", JSON_FORMATS)
def test_the_same_call_in_json(name):
    before, behind, between = JSON_FORMATS[name]
    for written, call in OBJECTS:
        one = f"{before}{written}{behind}"
        two = f"{before}{written}{between}{written}{behind}" if between else f"{one}\n{one}"
        for text, content, n in (
            (one, "", 1),
            (f"{before}{written}", "", 1),  # the end is missing
            (f"So.\n{one}", "So.", 1),
            (f"{one}\nDone.", "Done.", 1),
            (two, "", 2),
            (f"{one}\nAnd:\n{one}", "And:", 2),
        ):
            answer = read(name, text)
            assert (answer["content"].strip(), answer["tool_calls"]) == (content, [call] * n), text
            assert "problems" not in answer


BROKEN_OBJECTS = (
    '{"name": "nope", "arguments": {"a": 1}}',
    '{"name": "add", "arguments": {"a": 1}',
    '{"name": "add", "arguments": {a: 1}}',
    '{"name": "add", "arguments": {"a": 1,}}',
    '{"name": "add", "arguments": {"a": 1e999}}',
    '{"name": "add", "arguments": [1]}',
    '{"name": "add", "arguments": "a=1"}',
    '{"name": 3, "arguments": {}}',
    '{"name": "", "arguments": {}}',
)


@pytest.mark.parametrize("name", JSON_FORMATS)
def test_what_is_no_call_stays_as_it_was_written_with_a_reason(name):
    before, behind, between = JSON_FORMATS[name]
    good = json.dumps(ADD)
    for bad in BROKEN_OBJECTS:
        text = f"{before}{bad}{behind}"
        answer = read(name, text)
        assert answer["content"].strip() == text.strip()
        assert answer["tool_calls"] == []
        assert len(answer["problems"]) == 1 or not bad.startswith('{"name": "')
        if bad.endswith("}}") and "1," not in bad and "{a" not in bad and "999" not in bad:
            beside = f"{before}{bad}{between}{good}{behind}" if between else f"{text}\n{before}{good}{behind}"
            answer = read(name, beside)
            assert answer["tool_calls"] == [ADD]
            assert bad in answer["content"]
            assert answer["problems"]


@pytest.mark.parametrize("name", ["Qwen-Qwen2.5-7B-Instruct", "GigaChat3.1-10B-A1.8B", "Apertus-8B-Instruct"])
def test_a_broken_call_takes_no_other_with_it(name):
    before, behind, _ = JSON_FORMATS[name]
    broken = f'{before}{{"name": "add", "arguments": {{"a": '  # cut off, without its end
    answer = read(name, f"{broken}\n{before}{json.dumps(ADD)}{behind}")
    assert answer["tool_calls"] == [ADD]
    assert answer["content"].strip() == broken.strip()


def test_json_that_is_an_answer_is_no_broken_call():
    for text in ('{"name": "Ada", "age": 36}', '{"name": "todo"}', '{"id": 3}', "{}", "[]"):
        assert read("meta-llama-Llama-3.1-8B-Instruct", text) == {
            "content": text,
            "reasoning": "",
            "tool_calls": [],
        }


# A name, then JSON


def deepseek(item):
    return lambda calls: (
        "<｜tool▁calls▁begin｜>" + "\n".join(item(*call) for call in calls) + "<｜tool▁calls▁end｜>"
    )


def joined(item):
    return lambda calls: "".join(item(*call) for call in calls)


NAMED = {
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": deepseek(
        lambda f, j: f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{f}\n```json\n{j}\n```<｜tool▁call▁end｜>"
    ),
    "deepseek-ai-DeepSeek-V3.1": deepseek(
        lambda f, j: f"<｜tool▁call▁begin｜>{f}<｜tool▁sep｜>{j}<｜tool▁call▁end｜>"
    ),
    "Kimi-K2-Instruct": joined(
        lambda f, j: f"<|tool_call_begin|>functions.{f}:0<|tool_call_argument_begin|>{j}<|tool_call_end|>"
    ),
    "Mistral-Small-3.2-24B-Instruct-2506": joined(lambda f, j: f"[TOOL_CALLS]{f}[CALL_ID]000000001[ARGS]{j}"),
    "mistralai-Ministral-3-14B-Reasoning-2512": joined(lambda f, j: f"[TOOL_CALLS]{f}[ARGS]{j}"),
    "meetkai-functionary-medium-v3.1": joined(lambda f, j: f"<function={f}>{j}</function>"),
    "openai-gpt-oss-120b": joined(
        lambda f, j: f"<|start|>assistant to=functions.{f}<|channel|>commentary json<|message|>{j}<|call|>"
    ),
    "upstage-Solar-Open-100B": joined(
        lambda f, j: f"<|tool_call:begin|>x1<|tool_call:name|>{f}<|tool_call:args|>{j}<|tool_call:end|>"
    ),
}
VALUES = (
    "Łódź",
    "}",
    '"',
    "a\nb",
    "\\",
    "<|end|>",
    "<|call|>",
    "[ARGS]",
    "```",
    "</function>",
    "<｜tool▁call▁end｜>",
)


@pytest.mark.parametrize("name", NAMED)
def test_a_name_then_json(name):
    written = NAMED[name]
    for arguments in ('{"a": 1}', '{\n  "a": 1\n}', '{"a":1}\n'):
        assert read(name, written([("add", arguments)]))["tool_calls"] == [ADD]
    for value in VALUES:
        for ascii_only in (True, False):
            text = written([("look", json.dumps({"city": value}, ensure_ascii=ascii_only))])
            assert read(name, text)["tool_calls"] == [look(value)], text
    assert read(name, written([("add", '{"a": 1}'), ("todo", "{}")]))["tool_calls"] == [ADD, TODO]
    for bad in (("add", "[1]"), ("add", '{"a": '), ("add", "{a: 1}"), ("nope", "{}")):
        for calls in ([("todo", "{}"), bad], [bad, ("todo", "{}")]):
            answer = read(name, written(calls))
            assert answer["tool_calls"] == [TODO], written(calls)
            assert bad[1].strip() in answer["content"]
            assert answer["problems"]


# Tags


def function(outer):
    def written(name, values, space):
        inner = "".join(f"<parameter={key}>{text}</parameter>{space}" for key, text in values)
        return f"<{outer}>{space}<function={name}>{space}{inner}</function>{space}</{outer}>"

    return written


def invoke(outer, p=""):
    def written(name, values, space):
        inner = "".join(f'<{p}parameter name="{key}">{text}</{p}parameter>{space}' for key, text in values)
        return f'<{outer}>{space}<{p}invoke name="{name}">{space}{inner}</{p}invoke>{space}</{outer}>'

    return written


def glm(name, values, space):
    inner = [f"<arg_key>{key}</arg_key>{space}<arg_value>{text}</arg_value>{space}" for key, text in values]
    return f"<tool_call>{name}{space}{''.join(inner)}</tool_call>"


def minicpm(name, values, space):
    inner = "".join(f'<param name="{key}">{text}</param>{space}' for key, text in values)
    return f'<function name="{name}">{space}{inner}</function>'


TAGS = {
    "Qwen3-Coder": function("tool_call"),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": function("tool_call"),
    "ByteDance-Seed-OSS": function("seed:tool_call"),
    "MiniMax-M2": invoke("minimax:tool_call"),
    "deepseek-ai-DeepSeek-V4": invoke("｜DSML｜tool_calls", "｜DSML｜"),
    "GLM-4.6": glm,
    "GLM-4.7-Flash": glm,
    "openbmb-MiniCPM5-1B": minicpm,
}
TYPED = [
    ("look", "city", "123", "123"),
    ("look", "city", "null", "null"),
    ("look", "city", '{"a": 1}', '{"a": 1}'),
    ("look", "city", '"quoted"', '"quoted"'),
    ("look", "city", "", ""),
    ("look", "city", "  a  ", "  a  "),
    ("look", "city", "a\n\nb", "a\n\nb"),
    ("look", "city", "a < b && c > \\n &lt;", "a < b && c > \\n &lt;"),
    ("look", "city", "</parameter> </arg_value> </param> x", "</parameter> </arg_value> </param> x"),
    ("look", "city", "</tool_call><tool_call>", "</tool_call><tool_call>"),
    ("look", "city", "<think>x</think>", "<think>x</think>"),
    ("add", "a", "-5", -5),
    ("add", "a", " 5 ", 5),
    ("add", "a", "five", "five"),
    ("all", "f", "2.50", 2.5),
    ("all", "f", "1e999", "1e999"),
    ("all", "t", "false", False),
    ("all", "n", "null", None),
    ("all", "n", "5", "5"),
    ("all", "l", '[1, "</parameter>", null]', [1, "</parameter>", None]),
    ("all", "l", "['a', True]", ["a", True]),
    ("all", "l", "[1,", "[1,"),
    ("all", "x", r'{"a": "\u0141 \ud83c"}', {"a": "Ł \ufffd"}),
    ("all", "x", "{}", {}),
    ("all", "u", "7", 7),
    ("all", "e", "1", 1),
    ("all", "e", "c", "c"),
    ("all", "unknown", "5", 5),
]


@pytest.mark.parametrize("name", TAGS)
def test_the_same_values_in_tags(name):
    lines = "\n" if "<parameter=example" in TEMPLATES[name] or name == "Qwen3-Coder" else ""
    for space in ("\n", ""):
        for called, key, text, value in TYPED:
            written = TAGS[name](called, [(key, f"{lines}{text}{lines}")], space)
            [call] = read(name, written)["tool_calls"]
            assert json.dumps(call) == json.dumps({"name": called, "arguments": {key: value}}), written
        one = TAGS[name]("add", [("a", "1")], space)
        unknown = TAGS[name]("nope", [("a", "1")], space)
        twice = TAGS[name]("add", [("a", "1"), ("a", "2")], space)
        todo = TAGS[name]("todo", [], space)
        for text, content, calls in (
            (f"So.\n{one}\nThen\n{one}{todo}", "So.\n\nThen", [ADD, ADD, TODO]),
            (f"{unknown}\n{one}", unknown, [ADD]),
            (f"{one}\n{twice}", twice, [ADD]),
            (one[: len(one) * 2 // 3], one[: len(one) * 2 // 3].strip(), []),
        ):
            answer = read(name, text)
            assert (answer["content"], answer["tool_calls"]) == (content, calls), text
            assert ("problems" in answer) == (not text.startswith("So."))


def test_cdata_is_markup_only_where_the_template_says_so():
    cdata = "<![CDATA[<b>]]>"
    assert read("openbmb-MiniCPM5-1B", minicpm("look", [("city", cdata)], ""))["tool_calls"] == [look("<b>")]
    for name in TAGS.keys() - {"openbmb-MiniCPM5-1B"}:
        assert read(name, TAGS[name]("look", [("city", cdata)], ""))["tool_calls"] == [look(cdata)]


# Python and Gemma 4

Q = '<|"|>'
OTHERS = {
    "LFM2.5-8B-A1B": [
        ("add( a = 1 )", ADD),
        ("add(1)", ADD),
        ("todo()", TODO),
        ("look(city='{'a': 1}')", look("{'a': 1}")),  # its own template writes strings so
        (r"look(city='a\'b')", look("a'b")),
        ("look(city='''a\nb''')", look("a\nb")),
        ("look(city='<|tool_call_end|>), todo()')", look("<|tool_call_end|>), todo()")),
        ("all(x={'k': [1, None, (2,)]}, n=None, t=True)",
            {"name": "all", "arguments": {"x": {"k": [1, None, [2]]}, "n": None, "t": True}}),
    ],
    "google-gemma-4-31B-it": [
        ("add{ a : 1 }", ADD),
        ("todo{}", TODO),
        (f"look{{city:{Q}a, b:c}} <tool_call|>{Q}}}", look("a, b:c} <tool_call|>")),
        ('look{city:"x"}', look("x")),
        ("look{city:90210}", look("90210")),
        (f'all{{x:{{a key:1,q"u:{Q}{Q},:null}},l:[{{}},-1.5e3]}}',
            {"name": "all", "arguments": {"x": {"a key": 1, 'q"u': "", "": None}, "l": [{}, -1500.0]}}),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "written", "call"), [(n, w, c) for n, pairs in OTHERS.items() for w, c in pairs]
)
def test_python_and_gemma(name, written, call):
    around = (
        ("<|tool_call_start|>[", "]<|tool_call_end|>")
        if "LFM" in name
        else ("<|tool_call>call:", "<tool_call|>")
    )
    one = around[0] + written + around[1]
    assert read(name, one) == {"content": "", "reasoning": "", "tool_calls": [call]}
    assert read(name, f"So.{one}And{one}") == {
        "content": "So.And",
        "reasoning": "",
        "tool_calls": [call, call],
    }


# Nothing is lost, whatever happens to an answer

SAMPLES = [(case["template"].removesuffix(".jinja"), case["output"]) for case in CASES.values()]
SAMPLES += [(case[0], case[1]) for case in CASES_OF_OURS]
# Headers of messages and the ids of calls are markup, in which a word may stand.
HEADERS = {"harmony", "atem", "kimi-k3", "mistral", "command"}


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_damaged_answer_loses_no_word(data):
    name, text = data.draw(st.sampled_from(SAMPLES))
    pieces = re.findall(r"<[^<>]*>|\[/?[A-Z_]+\]|\w+|\s+|.", text)
    for word in ("zqxa", "zqxb"):
        place = data.draw(st.integers(0, len(pieces)))
        if data.draw(st.booleans()):
            pieces.insert(place, word)
        else:
            del pieces[place : place + data.draw(st.integers(1, 3))]
    text = "".join(pieces)[: data.draw(st.integers(0, 2000))]
    tools = data.draw(st.sampled_from([None, TOOLS]))
    answer = parse_answer(text, TEMPLATES[name], tools=tools, in_reasoning=data.draw(st.booleans()))
    form = format_of(TEMPLATES[name])
    if form is None or form.name not in HEADERS:
        found = json.dumps(answer, ensure_ascii=False)
        assert all(word in found for word in re.findall("zqx[ab]", text))
    json.dumps(answer, allow_nan=False, ensure_ascii=False).encode()  # no NaN, no half of a surrogate pair

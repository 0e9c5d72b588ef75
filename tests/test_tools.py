"""Answers -> content, thought and calls, in every format that the real templates write; functions -> schemas."""
# ruff: noqa: E501, RUF001 (texts as models write them)

import gzip
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_functions import FUNCTIONS

from llmcore.chat import parse_answer, render_template, tools_for
from llmcore.chat import template as chat
from llmcore.chat.arguments import Types, value_in
from llmcore.chat.formats import TABLE, format_of
from llmcore.chat.literals import read_literal
from llmcore.chat.reasoning import reasoning_of

TEMPLATES = {
    name: entry["template"]
    for name, entry in json.loads(gzip.decompress((DATA / "templates.json.gz").read_bytes()))[
        "templates"
    ].items()
}
RECORD = json.loads((DATA / "toolcalls.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in RECORD["cases"]}
SCHEMAS = json.loads((DATA / "tool_schemas.json").read_text(encoding="utf-8"))[
    "schemas"
]  # of tool_functions.py
SHARED = Path(__file__).parents[2] / "shared" / "vocab2" / "chat_tools.json"


def tool(name, **properties):
    """The schema of a tool whose arguments have the types given."""
    properties = {
        key: {"type": kind} if isinstance(kind, str | list) else kind for key, kind in properties.items()
    }
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": "?", "parameters": parameters}}


TOOLS = [
    tool("add", a="integer", b="integer"),
    tool("look", city="string"),
    tool("write", text="string", n="integer", on="boolean", x="number", xs="array", deep="object"),
    tool("pick", value=["string", "object"], amount=["string", "integer"], note=["null", "string"]),
    tool("todo"),
]
ADD = {"name": "add", "arguments": {"a": 1}}
LOOK = {"name": "look", "arguments": {"city": "Łódź"}}


def read(name, text, *, tools=TOOLS, in_reasoning=False):
    """(content, reasoning, calls) without white space at the ends."""
    answer = parse_answer(text, TEMPLATES[name], tools=tools, in_reasoning=in_reasoning)
    return answer["content"].strip(), answer["reasoning"].strip(), answer["tool_calls"]


def read_case(case, text=None):
    tools = [RECORD["tools"][name] for name in case["tools"]]
    template = TEMPLATES[case["template"].removesuffix(".jinja")]
    text = case["output"] if text is None else text
    return parse_answer(text, template, tools=tools, in_reasoning=case["starts_in_reasoning"])


@pytest.mark.parametrize("name", CASES)
def test_recorded_outputs(name):
    case = CASES[name]
    answer, want = read_case(case), case["expected"]
    if name == "hermes unknown function":  # the call of a tool that nobody gave stays text, and says so
        assert answer["tool_calls"] == []
        assert "delete_all" in answer["content"]
        assert answer["problems"] == ["there is no tool called 'delete_all'"]
        return
    assert answer["tool_calls"] == want["tool_calls"]
    assert answer["reasoning"].strip() == want["reasoning"].strip()
    assert want["content"] is None or answer["content"].strip() == want["content"].strip()


@pytest.mark.parametrize("name", CASES)
def test_a_cut_answer_has_only_calls_that_the_whole_one_has(name):
    case = CASES[name]
    whole = read_case(case)["tool_calls"]
    for length in range(len(case["output"])):
        calls = read_case(case, case["output"][:length])["tool_calls"]
        assert calls == whole[: len(calls)], case["output"][:length]


@pytest.mark.parametrize("name", CASES)
def test_no_word_is_lost_wherever_it_stands(name):
    """In content, thought, call or argument: but a message's header and a call's id are markup."""
    case = CASES[name]
    text = case["output"]
    markup = [
        m.span()
        for m in re.finditer(r'(<\|(start|channel|constrain)\|>[^<]*)+|\[CALL_ID\]\d+|, "id": "\w+"', text)
    ]
    for place in range(len(text) + 1):
        if not any(begin < place <= end for begin, end in markup):
            answer = read_case(case, text[:place] + "zqx" + text[place:])
            assert "zqx" in json.dumps(answer), text[:place]


# What each template writes of two calls is read back as these two calls: an answer as its own model gives it.
DEEP = {"k": [1, {"a": "b"}]}
TEXT = "if a < b and \"c\" != x:\n    print('</think></tool_call>')\n"
WRITTEN = [
    {
        "name": "write",
        "arguments": {"text": TEXT, "n": -7, "on": True, "x": 2.5, "xs": ["ż", "b c"], "deep": DEEP},
    },
    {"name": "look", "arguments": {"city": "it is"}},
]
ENDINGS = re.compile(
    r"(</s>|\[e~\[|<end_of_sentence>|<\|(call|eom|eot|end|message_sep|assistant_end)\|>|<｜end▁of▁sentence｜>|</assistant>"
    r"|<SPECIAL_12>|<seed:eos>|<sep>|<｜hy_eos:opensource｜>|\s)+$"
)
ONE_CALL = (
    "GigaChat3-10B-A1.8B",
    "GigaChat3.1-10B-A1.8B",
    "openai-gpt-oss-120b",
    *(n for n in TEMPLATES if "Llama-3." in n),
)
NO_CALLS_IN_HISTORY = (
    *(
        "HuggingFaceTB-SmolLM3-3B",
        "LFM2-8B-A1B",
        "LFM2.5-Instruct",
        "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    ),
    *("google-gemma-2-2b-it", "ibm-granite-granite-3.3-2B-Instruct", "llama-cpp-deepseek-r1"),
    *("llama-cpp-rwkv-world", "microsoft-Phi-3.5-mini-instruct", "CohereForAI-c4ai-command-r-plus-tool_use"),
    *("NVIDIA-Nemotron-Nano-v2", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"),
)
STRINGS_ONLY = "8B-tool_use"  # these templates fail at schemas that are richer


def written_answer(name, calls):
    """What the template writes for an assistant's message with these calls, and whether its prompt opens a
    thought.
    """

    def render(messages, prompt):
        variables = {"messages": messages, "tools": TOOLS, "add_generation_prompt": prompt, "documents": None}
        if name.endswith(STRINGS_ONLY):
            variables["tools"] = [tool("look", city={"type": "string", "description": "?"})]
        variables |= {"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": True, "thinking": True}
        variables |= {"functions": "[]", "datetime": "today"}  # what firefunction calls them
        return chat._answer(TEMPLATES[name], variables, "2026-03-05T06:07:08")["text"]

    tool_calls = [
        {
            "type": "function",
            "id": f"ABCDEFGH{i}",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }
        for i, call in enumerate(calls)
    ]
    user = {"role": "user", "content": "?"}
    message = {
        "role": "assistant",
        "content": "" if "gpt-oss" in name else "Content.",
        "tool_calls": tool_calls,
    }
    thought = {"reasoning_content": "Thought.", "thinking": "Thought.", "reasoning": "Thought."}
    prompt, whole = render([user], True), render([user, message | thought], False)
    start = prompt[
        : next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    ]
    markers = reasoning_of(TEMPLATES[name])
    again = "<|END_OF_TURN_TOKEN|>", "<|eot_id|><|start_header_id|>"  # some begin another turn, asked or not
    text = re.split("|".join(map(re.escape, again)), whole[len(start) :])[0]
    return ENDINGS.sub("", text), bool(markers) and start.rstrip().endswith(markers.open)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_writes_is_read_back(name):
    pytest.importorskip("jinja2")
    calls = WRITTEN[:1] if name in ONE_CALL else WRITTEN
    calls = [LOOK, LOOK] if name.endswith(STRINGS_ONLY) else calls
    if name in NO_CALLS_IN_HISTORY:
        pytest.skip("the template writes no calls, or not as a model does after its prompt")
    text, in_reasoning = written_answer(name, calls)
    content, reasoning, found = read(name, text, in_reasoning=in_reasoning)
    assert found == calls
    assert content in ("", "Content.")
    assert reasoning in ("", "Thought.")


def test_every_format_of_the_table_is_one_that_a_template_has():
    formats = {form.name for form in map(format_of, TEMPLATES.values()) if form}
    assert formats == {form.name for form in TABLE}


X = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
HERMES = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
LFM = "<|tool_call_start|>[add(a=1)]<|tool_call_end|>"
GLM = "<tool_call>look\n<arg_key>city</arg_key>\n<arg_value>Łódź</arg_value>\n</tool_call>"
DEEPSEEK = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n"
    '{"a": 1}```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)
DSML = (
    '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="pick">\n<｜DSML｜parameter name="amount" string="true">7</｜DSML｜parameter>'
    "\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)
ATEM = (
    '<atem:function_calls>\n<atem:invoke name="add">\n<atem:parameter name="a">1</atem:parameter>\n</atem:invoke>\n'
    "</atem:function_calls>"
)
PICK = {"name": "pick", "arguments": {"amount": "7"}}
N = "]<]minimax[>["
CASES_OF_OURS = [
    # template, answer, whether the prompt opened the thought -> content, thought, calls
    ("Qwen-Qwen3-0.6B", "<think>a</think>" + HERMES + "\nAnd " + HERMES, False, "And", "a", [ADD, ADD]),
    ("Qwen-Qwen3-0.6B", f"<think>I could {HERMES} here</think>No.", False, "No.", f"I could {HERMES} here", []),
    ("Qwen-Qwen3-0.6B", f"I could {HERMES}</think>{HERMES}", True, "", f"I could {HERMES}", [ADD]),
    ("Qwen-Qwen3-0.6B", "<think>cut of", False, "", "cut of", []),
    ("Qwen-Qwen3-0.6B", "The tag <think> opens a thought.", False, "The tag <think> opens a thought.", "", []),
    ("Qwen-Qwen3-0.6B", "Forgotten.</think>Yes.", False, "Yes.", "Forgotten.", []),
    ("Qwen-Qwen2.5-7B-Instruct", "Its end is </think>.", False, "Its end is </think>.", "", []),
    ("Qwen-Qwen2.5-7B-Instruct", HERMES.replace("}}", "}}}"), False, "", "", [ADD]),
    ("Qwen3.5-4B", X, True, "", "", [ADD]),
    ("Qwen3.5-4B", "<think>\n\n</think>\n\n" + X, True, "", "", [ADD]),
    ("Qwen3.5-4B", "a\n</think>\n\nb\n" + X + "\n" + X, True, "b", "a", [ADD, ADD]),
    ("Qwen3-Coder", X.replace("</function>\n", ""), False, "", "", [ADD]),
    ("GLM-4.7-Flash", "x</think><tool_call>todo</tool_call>", True, "", "x", [{"name": "todo", "arguments": {}}]),
    ("inclusionai-ling-3.0-flash", GLM + "\nDone.<|role_end|>", False, "Done.", "", [LOOK]),
    ("inclusionai-ling-3.0-flash", "x\n" + GLM.replace("Łódź", "</think>"), True, "", "x",
        [{"name": "look", "arguments": {"city": "</think>"}}]),
    ("LFM2-8B-A1B", "See [add](url).", False, "See [add](url).", "", []),
    ("LFM2-8B-A1B", "So." + LFM, False, "So.", "", [ADD]),
    ("LFM2.5-8B-A1B", f"<think>{LFM}?</think>{LFM}", False, "", f"{LFM}?", [ADD]),
    ("LFM2.5-8B-A1B", r"""<|tool_call_start|>[look("it's \"\u0141\" \n"), todo()]<|tool_call_end|>""", False, "", "",
        [{"name": "look", "arguments": {"city": 'it\'s "Ł" \n'}}, {"name": "todo", "arguments": {}}]),
    ("LFM2.5-8B-A1B", "<|tool_call_start|>[look(city='it's, well, (here)')]<|tool_call_end|>", False, "", "",
        [{"name": "look", "arguments": {"city": "it's, well, (here)"}}]),
    ("google-gemma-4-31B-it", "<|channel>thought\nHm.\n<channel|>Hello<channel|>", False, "Hello", "Hm.", []),
    ("google-gemma-4-31B-it", "<|channel><|channel>thought\n<channel|>Hello", False, "Hello", "", []),
    ("google-gemma-4-31B-it", "<|tool_call>call:todo{}<tool_call|><|tool_call>call:look{city:90210}<tool_call|>", False,
        "", "", [{"name": "todo", "arguments": {}}, {"name": "look", "arguments": {"city": "90210"}}]),
    ("mistralai-Ministral-3-14B-Reasoning-2512", '[THINK][TOOL_CALLS]add[ARGS]{"a":2}[/THINK][TOOL_CALLS]add[ARGS]{"a":1}',
        False, "", '[TOOL_CALLS]add[ARGS]{"a":2}', [ADD]),
    ("Mistral-Small-3.2-24B-Instruct-2506", 'Hm.[TOOL_CALLS]add[ARGS]{oops[TOOL_CALLS]add[ARGS]{"a": 1}', False,
        "Hm.[TOOL_CALLS]add[ARGS]{oops", "", [ADD]),
    ("llama-cpp-deepseek-r1", "</think>" + DEEPSEEK, True, "", "", [ADD]),
    ("deepseek-ai-DeepSeek-V3.1", "T</think>C" + DEEPSEEK.replace("function<｜tool▁sep｜>add\n```json\n", "add<｜tool▁sep｜>")
        .replace("```", ""), True, "C", "T", [ADD]),
    ("deepseek-ai-DeepSeek-V3.2", "C\n\n" + DSML.replace("tool_calls", "function_calls"), False, "C", "", [PICK]),
    ("deepseek-ai-DeepSeek-V4", "T\n\n" + DSML, True, "", "T", [PICK]),
    ("openai-gpt-oss-120b", "<|channel|>analysis<|message|>T<|end|><|start|>assistant<|channel|>final<|message|>C<|return|>",
        False, "C", "T", []),
    ("openai-gpt-oss-120b", "T<|end|><|start|>assistant<|channel|>commentary<|message|>C<|end|><|start|>assistant"
        '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>', True, "C", "T", [ADD]),
    ("openai-gpt-oss-120b", ' to=functions.look<|channel|>analysis<|message|>{"city": "<|end|>"}', False, "", "",
        [{"name": "look", "arguments": {"city": "<|end|>"}}]),
    ("openai-gpt-oss-120b", "<|channel|>commentary to=assistant<|channel|>analysis<|message|>T<|end|><|start|>assistant",
        False, "", "T", []),
    ("openai-gpt-oss-120b", "<|start|>assistant to=python<|channel|>commentary<|message|>print(1)", False, "print(1)", "", []),
    ("Kimi-K2-Instruct", 'C<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{"a": 1}'
        "<|tool_call_end|><|tool_calls_section_end|>", False, "C", "", [ADD]),
    ("Kimi-K3", 'T<|close|>think<|sep|><|open|>response<|sep|>C<|close|>response<|sep|><|open|>tools<|sep|><|open|>call '
        'tool="pick" index="1"<|sep|><|open|>argument key="amount" type="string"<|sep|>7<|close|>argument<|sep|><|close|>call'
        "<|sep|><|close|>tools<|sep|><|close|>message<|sep|>", True, "C", "T", [PICK]),
    ("MiniMax-M2", 'T\n</think>\n\n<minimax:tool_call>\n<invoke name="pick">\n<parameter name="value">{"k": 1}</parameter>\n'
        '<parameter name="amount">7</parameter>\n</invoke>\n<invoke name="todo">\n</invoke>\n</minimax:tool_call>', True, "",
        "T", [{"name": "pick", "arguments": {"value": {"k": 1}, "amount": 7}}, {"name": "todo", "arguments": {}}]),
    ("MiniMax-M3", f'</mm:think>{N}<tool_call>\n{N}<invoke name="write">{N}<xs>{N}<item>a{N}</item>{N}</xs>{N}<deep>{N}<k>2{N}</k>'
        f"{N}</deep>{N}</invoke>\n{N}</tool_call>", False, "", "",
        [{"name": "write", "arguments": {"xs": ["a"], "deep": {"k": 2}}}]),
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", '<|START_THINKING|>T<|END_THINKING|><|START_ACTION|>[\n {"tool_call_id":'
        ' "0", "tool_name": "add", "parameters": {"a": 1}}\n]<|END_ACTION|>', False, "", "T", [ADD]),
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "<|START_RESPONSE|>C<|END_RESPONSE|>", False, "C", "", []),
    ("CohereForAI-c4ai-command-r-plus-tool_use", 'Action:\n```json\n[{"tool_name": "add", "parameters": {"a": 1}}]\n```',
        False, "", "", [ADD]),
    ("meta-llama-Llama-3.1-8B-Instruct", '{"name": "add", "parameters": {"a": 1}}; {"name": "add", "parameters": {"a": 1}}',
        False, "", "", [ADD, ADD]),
    ("meta-llama-Llama-3.1-8B-Instruct", '{"name": "Ada", "age": 36}', False, '{"name": "Ada", "age": 36}', "", []),
    ("meta-llama-Llama-3.1-8B-Instruct", '<|python_tag|>look.call(city="Łódź")', False, "", "", [LOOK]),
    ("meetkai-functionary-medium-v3.2", 'all\nC>>>add\n{"a": 1}>>>look\n{"city": "Łódź"}', False, "C", "", [ADD, LOOK]),
    ("fireworks-ai-llama-3-firefunction-v2", ' functools[{"name": "add", "arguments": {"a": 1}}]', False, "", "", [ADD]),
    ("ibm-granite-granite-3.3-2B-Instruct", "<think>T</think><response>C</response>", False, "C", "T", []),
    ("Apriel-1.6-15b-Thinker-fixed", "T\n[BEGIN FINAL RESPONSE]\nC", True, "C", "T", []),
    ("upstage-Solar-Open-100B", "<|think|>T<|end|><|begin|>assistant<|content|>C<|end|>", False, "C", "T", []),
    ("muse-glimmer", f" to=self<|message|>I could {ATEM}<|eom|><|start|>assistant to=user<|message|>C<|eom|><|start|>assistant "
        f"to=add<|message|>{ATEM}", False, "C", f"I could {ATEM}", [ADD]),
    ("microsoft-Phi-3.5-mini-instruct", HERMES, False, HERMES, "", []),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES_OF_OURS, ids=lambda case: f"{case[0]}: {case[1][:30]}")
def test_each_format(case):
    name, text, in_reasoning, *want = case
    assert [*read(name, text, in_reasoning=in_reasoning)] == want


BROKEN = {
    "cut inside": '<tool_call>\n{"name": "add", "arguments": {"a": 1',
    "no JSON": "<tool_call>add(1)</tool_call>",
    "arguments are a list": '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
    "no name": '<tool_call>{"arguments": {"a": 1}}</tool_call>',
    "another word for arguments": '<tool_call>{"name": "add", "inputs": {"a": 1}}</tool_call>',
    "not a number": '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>',
    "nested too deeply": '<tool_call>{"name": "add", "arguments": {"a": ' + "[" * 100_000,
    "a tool of nobody": '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_call_stays_text_with_a_reason(kind):
    for before in ("", "So: "):
        answer = parse_answer(before + BROKEN[kind], TEMPLATES["Qwen-Qwen2.5-7B-Instruct"], tools=TOOLS)
        assert answer["tool_calls"] == []
        inside = BROKEN[kind].removeprefix("<tool_call>").removesuffix("</tool_call>")
        assert before.strip() in answer["content"]
        assert inside.strip() in answer["content"]
        assert len(answer["problems"]) == 1
        assert "\n" not in answer["problems"][0]


def test_what_is_sound_beside_a_broken_call_is_read():
    text = f"{HERMES}\n<tool_call>oops</tool_call>\n{HERMES}"
    answer = parse_answer(text, TEMPLATES["Qwen-Qwen2.5-7B-Instruct"], tools=TOOLS)
    assert answer["tool_calls"] == [ADD, ADD]
    assert answer["content"] == "<tool_call>oops</tool_call>"
    text = X.replace("</parameter>", "</parametr>") + "\n" + X  # its value does not swallow the next call
    answer = parse_answer(text, TEMPLATES["Qwen3-Coder"], tools=TOOLS)
    assert answer["tool_calls"] == [ADD]
    assert "</parametr>" in answer["content"]


def test_without_tools_every_call_is_reported_and_values_are_read_as_json_where_they_can_be():
    text = X.replace("add", "any") + X.replace("1", "1 + 1")
    answer = parse_answer(text, TEMPLATES["Qwen3-Coder"])
    assert [call["arguments"] for call in answer["tool_calls"]] == [{"a": 1}, {"a": "1 + 1"}]
    assert answer.keys() == {"content", "reasoning", "tool_calls"}


MARKS = sorted({m for t in TEMPLATES.values() for m in re.findall(r"</?[\w:｜▁|]+[|｜]?>|\[/?[A-Z_]+\]", t)})
PIECES = st.sampled_from(MARKS) | st.sampled_from(
    ['{"name": "add", "arguments": {"a": 1}}', *"\n{}[]\"'=:,", "add", "call:", "all"]
)


@settings(deadline=None)
@given(st.lists(PIECES | st.text(max_size=5), max_size=12), st.sampled_from(sorted(TEMPLATES)), st.booleans())
def test_any_text_is_read_by_every_template(pieces, name, in_reasoning):
    answer = parse_answer("".join(pieces), TEMPLATES[name], tools=TOOLS, in_reasoning=in_reasoning)
    assert all(call["name"] in {"add", "look", "write", "pick", "todo"} for call in answer["tool_calls"])
    assert isinstance(answer["content"], str)
    assert isinstance(answer["reasoning"], str)


@pytest.mark.parametrize("name", TEMPLATES)
def test_plain_text_is_content(name):
    """Code, JSON and Markdown that has no marker of the format."""
    text = ' f(x) = {"a": [1]}; [link](url) <b>bold</b>\n\n```json\n{"k": 1}\n```\n'
    assert parse_answer(text, TEMPLATES[name], tools=TOOLS) == {
        "content": text,
        "reasoning": "",
        "tool_calls": [],
    }


def test_reading_takes_time_in_proportion_to_the_text():
    begun = time.process_time()
    for name in (
        "Qwen-Qwen3-0.6B",
        "Qwen3-Coder",
        "LFM2.5-8B-A1B",
        "google-gemma-4-31B-it",
        "openai-gpt-oss-120b",
    ):
        for filler in ("<", "a ", "\\", "'", " ", "\n"):
            parse_answer("<think>" + filler * 50_000, TEMPLATES[name], tools=TOOLS)
    assert time.process_time() - begun < 10


# Values and schemas


@pytest.mark.parametrize(
    ("kinds", "text", "value"),
    [
        ({"string"}, '"foo"', '"foo"'),
        ({"string"}, "5123123", "5123123"),
        ({"integer"}, " -14 ", -14),
        ({"number"}, "2.50", 2.5),
        ({"boolean"}, "True", True),
        ({"object"}, "{'k': [1, None]}", {"k": [1, None]}),
        ({"string", "null"}, "null", None),
        ({"string", "null"}, "123 Main St", "123 Main St"),
        ({"string", "null"}, "123", "123"),
        ({"string", "integer"}, "42", 42),
        ({"string", "integer"}, "007", "007"),
        ({"string", "object"}, "{not json", "{not json"),
        ({"integer"}, "two", "two"),
        (set(), "7", 7),
        (set(), '"7"', '"7"'),
        (set(), "NaN", "NaN"),
    ],
)
def test_a_values_type_comes_from_its_schema(kinds, text, value):
    found = value_in(kinds, text)
    assert found == value
    assert type(found) is type(value)


def test_types_of_schemas():
    schemas = {
        "listed": ["string", "null"],
        "nullable": {"type": "integer", "nullable": True},
        "choices": {"enum": ["celsius", None]},
        "either": {"anyOf": [{"type": "array"}, {"oneOf": [{"const": 2}]}]},
        "elsewhere": {"$ref": "#/$defs/size"},
        "circle": {"$ref": "#/$defs/circle"},
        "nonsense": {"type": 3} | {"enum": 4},
    }
    given_tool = tool("f", **schemas)
    given_tool["function"]["parameters"]["$defs"] = {
        "size": {"type": "number"},
        "circle": {"$ref": "#/$defs/circle"},
    }
    types = Types([given_tool])
    assert {name: types.kinds("f", name) for name in schemas} == {
        "listed": {"string", "null"},
        "nullable": {"integer", "null"},
        "choices": {"string", "null"},
        "either": {"array", "integer", "number"},
        "elsewhere": {"number"},
        "circle": set(),
        "nonsense": set(),
    }


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_schemas_are_those_of_transformers(function):
    [schema] = tools_for([function])
    [want] = [schema for schema in SCHEMAS if schema["function"]["name"] == function.__name__]
    assert json.dumps(schema) == json.dumps(want)  # the order of keys, too: templates write them


def test_tools_may_be_schemas_and_functions():
    bare = tool("f")["function"]
    assert tools_for([tool("g"), bare, FUNCTIONS[3]]) == [tool("g"), tool("f"), SCHEMAS[3]]
    assert tools_for(None) is None
    assert tools_for([]) is None


def test_a_tool_that_cannot_be_described_is_refused():
    def undocumented(a: int): ...

    def untyped(a):
        """Do.

        Args:
            a: it
        """

    def undescribed(a: int):
        """Do."""

    def odd(a: complex):
        """Do.

        Args:
            a: it
        """

    def many(*a: int):
        """Do."""

    reasons = {
        undocumented: "docstring",
        untyped: "type",
        undescribed: "described",
        odd: "JSON",
        many: "no name",
    }
    for function, reason in reasons.items():
        with pytest.raises(ValueError, match=f"^{function.__name__}.*{reason}"):
            tools_for([function])
    for nothing in ({"type": "function"}, "add", {"function": {"name": 3}}):
        with pytest.raises(ValueError, match="a tool is a Python function or a schema"):
            tools_for([nothing])
    with pytest.raises(ValueError, match="two tools are called 'f'"):
        tools_for([tool("f"), tool("f")])


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_literals_read_what_python_and_json_write(value):
    assert read_literal(json.dumps([value]), 0)[0] == [value]
    try:
        repr(value).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate
    if "\\" not in repr(value) or "\\x" in repr(value):
        assert read_literal(repr([value]), 0)[0] == [value]


# Rendering


def shared_renderings():
    return json.loads(SHARED.read_text(encoding="utf-8")) if SHARED.exists() else {"cases": []}


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/vocab2/chat_tools.json is not here")
@pytest.mark.parametrize("number", range(len(shared_renderings()["cases"])))
def test_conversations_with_tools_render_as_in_transformers(number):
    pytest.importorskip("jinja2")
    record = shared_renderings()
    case = record["cases"][number]
    messages = json.loads(json.dumps(record["conversations"][case["conversation"]]))
    for message in messages:
        if case.get("tweak") == "content null" and "tool_calls" in message:
            message["content"] = None
        for call in message.get("tool_calls", ()) if case.get("tweak") == "string arguments" else ():
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    tools = tools_for(record["tools"]) if case["tools"] else None
    render = lambda: render_template(  # noqa: E731
        record["templates"][case["template"]],
        messages,
        tools=tools,
        bos_token="<BOS>",
        eos_token="<EOS>",
        **case["variables"],
    )
    if case["expected"] is None:
        with pytest.raises(ValueError, match="chat template"):
            render()
        return
    want = re.sub(r"\{\{strftime (.*?)\}\}", lambda match: time.strftime(match[1]), case["expected"])
    assert render() == want


def test_the_child_that_renders_imports_no_tools():
    code = "import sys, llmcore.chat.template; print([m for m in sys.modules if 'answer' in m or 'chat.tools' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        __import__("llmcore.chat").chat.nothing  # noqa: B018

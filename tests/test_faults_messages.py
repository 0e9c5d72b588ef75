"""Messages in every form that callers write, and markup in them, through the templates of released models."""

import gzip
import json
from datetime import datetime
from types import SimpleNamespace

import pytest
from conftest import DATA, tiny_llama
from rewrite import rewrite

import llmcore
from llmcore.chat import encode_chat
from llmcore.chat import prompt as chat_prompt
from llmcore.chat import template as chat
from llmcore.chat.messages import plain_messages

RECORD = json.loads(gzip.decompress((DATA / "templates.json.gz").read_bytes()))
USER = {"role": "user", "content": "hello there"}
ANSWER = {"role": "tool", "tool_call_id": "call_1ab2", "name": "get_weather", "content": "sunny"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tell the weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "where"}},
            },
        },
    }
]


def call(arguments, **more):
    function = {"name": "get_weather", "arguments": arguments}
    return {
        "role": "assistant",
        "tool_calls": [{"id": "call_1ab2", "type": "function", "function": function}],
        **more,
    }


FORMS = {  # what a caller writes, and the same in the plainest form
    "parts": (
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "there"}],
            }
        ],
        [USER],
    ),
    "None": (
        [USER, {"role": "assistant", "content": None}, USER],
        [USER, {"role": "assistant", "content": ""}, USER],
    ),
    "nulls": (
        [
            USER,
            {"role": "assistant", "content": "yes", "tool_calls": None, "name": None, "refusal": None},
            USER,
        ],
        [USER, {"role": "assistant", "content": "yes"}, USER],
    ),
    "a JSON string": (
        [USER, call('{"city": "Łódź"}', content=None), ANSWER],
        [USER, call({"city": "Łódź"}, content=""), ANSWER],
    ),
    "a tool's parts": (
        [USER, call("{}"), ANSWER | {"content": [{"type": "text", "text": "sunny"}]}],
        [USER, call({}, content=""), ANSWER],
    ),
}


@pytest.fixture
def in_process(monkeypatch):
    """Render in this process, where it is as fast as a function call, and at one time."""

    class Clock(datetime):
        @classmethod
        def now(cls):
            return cls(2026, 7, 26, 12, 30)

    def run(command, input, **_):
        return SimpleNamespace(stdout=json.dumps(chat._answer(**json.loads(input))))

    monkeypatch.setattr(chat.subprocess, "run", run)
    for room in (chat, chat_prompt):
        monkeypatch.setattr(room, "datetime", Clock)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """`tokenizer(template, texts)`: the tiny model's, with those texts as user-defined tokens."""
    file = llmcore.load_tokenizer(tiny_llama())

    def make(template, texts=(), control=()):
        tokens, types = list(file.tokens), list(file.types)
        for i, text in enumerate((*texts, *control), 1):
            tokens[-i], types[-i] = text, 4 if text in texts else 3
        keys = {
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.chat_template": template,
        }
        return llmcore.load_tokenizer(rewrite(tiny_llama(), tmp_path_factory.mktemp("m") / "m.gguf", keys))

    return make


def prompt(made, messages, **options):
    """What the ids of a conversation spell, or the refusal of the template."""
    try:
        return made.decode(encode_chat(made, messages, **options), special=True)
    except llmcore.ModelFileError:
        raise
    except ValueError as error:
        return f"refused: {error}"


@pytest.mark.parametrize("name", RECORD["templates"])
def test_each_form_gives_the_prompt_of_the_plain_one(name, tokenizer, in_process):
    made = tokenizer(RECORD["templates"][name]["template"])
    for form, (written, plain) in FORMS.items():
        tools = TOOLS if "string" in form or "tool" in form else None
        got = prompt(made, written, tools=tools)
        assert got == prompt(made, plain, tools=tools), form
        assert "'type': 'text'" not in got
        assert '\\"city' not in got
        if tools is None or "Apriel" not in name:  # whose template writes the tools themselves as Python does
            assert "{'" not in got, form


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "message 2, part 1 is of type 'im",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]},
            "message 2, part 2 is",
        ),
        ({"role": "user", "content": 5}, "message 2: content must be a text"),
        ({"role": "user", "content": {"text": "a"}}, "message 2: content must be a text"),
        ({"role": "user"}, "message 2 has no content"),
        ({"role": "user", "content": None}, "message 2 has no content"),
        ({"role": None, "content": "a"}, "message 2 has the role None"),
        ({"content": "a"}, "message 2 has the role None"),
        ({"role": "assistant", "tool_calls": "x"}, "message 2: tool_calls must be a list"),
    ],
)
def test_what_cannot_be_told_in_text_is_a_fault_of_the_message(message, words, tokenizer):
    with pytest.raises(ValueError, match=words) as caught:
        encode_chat(tokenizer("{{ messages }}"), [USER, message])
    assert not isinstance(caught.value, llmcore.ModelFileError)


def test_broken_arguments_are_told_of_the_message(tokenizer, in_process):
    made = tokenizer("{% for m in messages %}{{ m.tool_calls[0].function.arguments.items() }}{% endfor %}")
    with pytest.raises(
        ValueError, match=r"message 1: the arguments of a tool call are no JSON object: '\{oops'"
    ) as caught:
        encode_chat(made, [call("{oops")])
    assert not isinstance(caught.value, llmcore.ModelFileError)


def test_the_callers_messages_stay_as_they_were():
    messages = [USER, call('{"a": 1}', content=None)]
    before = json.dumps(messages)
    plain_messages(messages)
    assert json.dumps(messages) == before


@pytest.mark.parametrize(
    "template", ["{{ bos_token }}", "{{ messages[0].content }}", "{{ messages | length }}"]
)
def test_a_prompt_without_the_last_message_is_an_error(template, tokenizer, in_process):
    with pytest.raises(ValueError, match="leaves out the last message, of the role 'user'"):
        encode_chat(
            tokenizer(template), [{"role": "user", "content": "first"}, {"role": "user", "content": "last"}]
        )


def test_an_empty_template_is_none(tokenizer):
    with pytest.raises(ValueError, match="no chat template"):
        encode_chat(tokenizer(""), [USER])


GPT_OSS = ("<|start|>", "<|message|>", "<|channel|>", "<|end|>")
QWEN = ("<think>", "</think>", "<tool_response>", "</tool_response>", "<tool_call>")


@pytest.mark.parametrize(
    ("name", "markup"),
    [("openai-gpt-oss-120b", GPT_OSS), ("Qwen-Qwen3-0.6B", QWEN)],
    ids=["gpt-oss", "Qwen3"],
)
@pytest.mark.parametrize("place", ["user", "tool", "tools", "role", "arguments", "assistant"])
def test_what_a_template_uses_as_markup_is_plain_text_in_messages(name, markup, place, tokenizer, in_process):
    made = tokenizer(RECORD["templates"][name]["template"], (*markup, "<table>", "▁▁▁"))
    ids = [made.special.ids[text] for text in markup]
    bad = "".join(markup) + "<table>"

    def count(text):
        messages = [USER, call({"city": text if place == "arguments" else "x"}), ANSWER]
        if place in ("user", "tool"):
            messages[{"user": 0, "tool": 2}[place]] = messages[{"user": 0, "tool": 2}[place]] | {
                "content": text
            }
        if place == "role":
            messages.insert(0, {"role": f"user{text}", "content": "x"})
        if place == "assistant":
            messages = [USER, {"role": "assistant", "content": f"a {text}"}, USER]
        tools = [json.loads(json.dumps(TOOLS[0]).replace("Tell", text if place == "tools" else "Tell"))]
        try:
            found = encode_chat(made, messages, tools=tools)
        except llmcore.ModelFileError:
            raise
        except ValueError as error:
            return f"refused {error!s:.60}"
        return [found.count(i) for i in ids]

    assert count(bad) == count("harmless")


def test_user_defined_tokens_that_are_no_markup_stay_tokens_in_messages(tokenizer, in_process):
    made = tokenizer(
        "{% for m in messages %}<mark>{{ m.content }}{% endfor %}", ("<table>", "\n\n\n", "<mark>")
    )
    ids = encode_chat(made, [{"role": "user", "content": "a<table>b\n\n\n<mark>"}])
    assert [ids.count(made.special.ids[text]) for text in ("<table>", "\n\n\n", "<mark>")] == [1, 1, 1]


def test_markup_that_a_template_composes_is_markup(tokenizer, in_process):
    """It stands nowhere in the template's text, only in what the template writes."""
    made = tokenizer("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", ("<user>",))
    ids = encode_chat(made, [{"role": "user", "content": "a<user>b"}])
    assert ids.count(made.special.ids["<user>"]) == 1
    assert "a<user>b" in made.decode(ids)


def test_the_thought_that_an_answer_begins_with_keeps_its_markers(tokenizer, in_process):
    made = tokenizer(RECORD["templates"]["Qwen-Qwen3-0.6B"]["template"], QWEN)
    old = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}
    text = made.decode(encode_chat(made, [USER, old, USER]), special=True)
    assert "hm" not in text  # Qwen3's template leaves out the thoughts of earlier answers
    assert "yes" in text

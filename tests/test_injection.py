"""Markup in every text that a stranger may write, through every template: it never becomes markup."""

import gzip
import json
import re
from contextlib import suppress

import numpy as np
import pytest
from conftest import DATA, tiny_llama
from test_faults_messages import in_process  # noqa: F401 (a fixture)

from llmcore.chat import encode_chat
from llmcore.chat.reasoning import reasoning_of
from llmcore.loader import read_gguf
from llmcore.tokenizer import Tokenizer

RECORD = json.loads(gzip.decompress((DATA / "templates.json.gz").read_bytes()))["templates"]
TEMPLATES = {name: entry["template"] for name, entry in RECORD.items()}
MARKER = re.compile(r"""<[^<>\s{}'"=]{1,60}>|<\|"\|>|\[/?[A-Z_]{2,30}\]|\]<\]minimax\[>\[""")
CONTROL, USER_DEFINED = 3, 4


def tokenizer(template, kind):
    """A tokenizer in which all markers of the template are tokens of that kind."""
    metadata = dict(read_gguf(tiny_llama()).metadata)
    tokens = list(metadata["tokenizer.ggml.tokens"])
    markers = sorted({text for text in MARKER.findall(template) if text not in tokens})
    types, scores = metadata["tokenizer.ggml.token_type"], metadata["tokenizer.ggml.scores"]
    metadata |= {
        "tokenizer.ggml.tokens": [*tokens, *markers],
        "tokenizer.ggml.token_type": np.array([*types, *[kind] * len(markers)]),
        "tokenizer.ggml.scores": np.array([*scores, *[0.0] * len(markers)], np.float32),
        "tokenizer.chat_template": template,
    }
    return Tokenizer.from_metadata(metadata, "here"), [*markers, "<s>", "</s>"]


def conversation(text, answer, role="user"):
    """A conversation with `text` in each place that a stranger may fill, `answer` in the model's own."""
    function = {"name": f"f{text}", "arguments": {"city": text, f"k{text}": {text: [text]}}}
    messages = [
        {"role": "system", "content": f"Be {text}"},
        {"role": role, "content": text, "name": text},
        {
            "role": "assistant",
            "content": f"So {answer}",
            "reasoning_content": f"I think {answer}",
            "tool_calls": [{"type": "function", "id": "ABCDEFGH1", "function": function}],
        },
        {"role": "tool", "tool_call_id": "ABCDEFGH1", "name": f"f{text}", "content": text},
        {"role": "assistant", "content": f"It is {answer}"},
        {"role": "user", "content": f"thanks {text}"},
    ]
    properties = {
        "city": {"type": "string", "description": text, "enum": [f"e{text}", "x"], "default": text},
        f"p{text}": {"type": "string", "description": "?"},
    }
    parameters = {"type": "object", "properties": properties, "required": ["city", text]}
    described = {"name": f"f{text}", "description": text, "parameters": parameters}
    return messages, [{"type": "function", "function": described}]


def markup(made, *texts):
    """The tokens of markup in a conversation with these texts; None if the template refuses it."""
    messages, tools = conversation(*texts)
    for some in (messages, messages[1:]):  # some have no role for the system
        with suppress(ValueError):
            ids = encode_chat(made, some, tools=tools)
            return [made.tokens[i] for i in ids if i in made.special.ids.values()]
    return None


@pytest.mark.parametrize("kind", [CONTROL, USER_DEFINED], ids=["control", "user-defined"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_no_text_becomes_markup(name, kind, in_process):  # noqa: F811
    made, markers = tokenizer(TEMPLATES[name], kind)
    text = answer = "Zq" + "".join(markers)
    thought = reasoning_of(TEMPLATES[name])
    if thought and kind == USER_DEFINED:  # an answer may bring its thought with it, for the template to find
        answer = answer.replace(thought.open, "").replace(thought.close, "")
    want = markup(made, "Zq", "Zq")
    if want is None:
        pytest.skip("the template refuses the conversation")
    assert markup(made, text, answer) == want
    if (want := markup(made, "Zq", "Zq", "userZq")) is not None:
        assert markup(made, text, answer, f"user{text}") == want

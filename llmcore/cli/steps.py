"""One step of an agent: the conversation so far -> the model's next message, an answer or calls of tools.

A model whose chat template knows tools is told of them by it and calls them in its own format. Any other one
is told in plain words, and its step is constrained to JSON of a schema, so that it cannot miss the form.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ..chat import encode_chat, parse_answer
from ..chat.formats import Format, format_of
from ..chat.session import Done, Session, Text
from .toolbox import Tool

LONGEST_ANSWER = 2000  # characters that the schema allows
ASKED = [{"role": "user", "content": "?"}]
TOLD = """Answer the question with the help of tools. First use the tool that fits the question, then answer.
Each of your messages is one line of JSON. These lines use a tool, with the text in parentheses filled in:
{tools}
This line answers: {{"answer": (what the user asked for)}}"""
CUT_ANSWER = re.compile(r'\s*\{\s*"answer"\s*:\s*"(.*?)(?:\\u?[0-9a-fA-F]{0,3})?\Z', re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A message of the model, whether it is complete, and what it cost."""

    message: dict  # with "tool_calls" if it calls any
    problem: str  # why it is neither an answer nor a call; empty if it is one
    done: Done


@dataclass
class ByTemplate:
    """Steps of a model whose template knows tools; `session.tools` has them."""

    session: Session
    seeds: Iterator[int]
    watch: Callable[[Text], None]

    def __call__(self, messages: list[dict], last: bool) -> Step:
        """The model's next message."""
        session = self.session
        template = session.llm.tokenizer.chat_template or ""
        done = next_answer(session, messages, next(self.seeds), self.watch)
        read = parse_answer(session.written, template, tools=session.tools, in_reasoning=session.opened)
        message: dict[str, Any] = {"role": "assistant", "content": read["content"].strip()}
        if read["reasoning"]:
            message["reasoning_content"] = read["reasoning"]
        if read["tool_calls"]:
            n_before = sum(len(earlier.get("tool_calls", ())) for earlier in messages)
            message["tool_calls"] = written_calls(read["tool_calls"], format_of(template), n_before)
            return Step(message, "", done)
        problems = read.get("problems") or ([] if message["content"] else ["the answer is empty"])
        return Step(message, "; ".join(problems), done)


@dataclass
class BySchema:
    """Steps of a model that knows no tools, each one an object of JSON."""

    session: Session
    seeds: Iterator[int]
    watch: Callable[[Text], None]
    tools: list[Tool]
    sampling: Callable  # the options of sampling with this json_schema
    has_system: bool = field(init=False)

    def __post_init__(self):
        """See whether the template has a place for a system message."""
        system = {"role": "system", "content": "!"}
        try:
            encode_chat(self.session.llm.tokenizer, [system, *ASKED], template=self.session.template)
            self.has_system = True
        except ValueError:
            self.has_system = False

    def __call__(self, messages: list[dict], last: bool) -> Step:
        """The model's next message. The last one is an answer, and so is the one after a call made twice."""
        made = [call["function"] for message in messages for call in message.get("tool_calls", ())]
        only_answer = last or (len(made) > 1 and made[-1] in made[:-1])
        self.session.sampling = self.sampling(step_schema([] if only_answer else self.tools))
        done = next_answer(self.session, self._in_words(messages), next(self.seeds), self.watch)
        said = self.session.messages[-1]
        thought = {key: said[key] for key in ("reasoning_content",) if key in said}
        message = {"role": "assistant", "content": said["content"].strip()} | thought
        try:
            step = json.loads(message["content"])
        except ValueError:
            if not (cut := CUT_ANSWER.match(message["content"])):
                return Step(message, f"the call is cut off ({done.end})", done)
            step = {"answer": json.loads(f'"{cut[1]}"', strict=False)}
        if "answer" in step:
            message["content"] = step["answer"]
            return Step(message, "", done)
        call = {"name": step["tool"], "arguments": step["arguments"]}
        message |= {"content": "", "tool_calls": written_calls([call], None, len(made))}
        return Step(message, "", done)

    def _in_words(self, messages):
        """The conversation in roles that any template has."""
        system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
        told = f"{system}\n\n{TOLD.format(tools=in_words(self.tools))}".strip()
        turns = [self._turn(message) for message in messages if message["role"] != "system"]
        if self.has_system:
            return [{"role": "system", "content": told}, *turns]
        return [{"role": "user", "content": f"{told}\n\n{turns[0]['content']}"}, *turns[1:]]

    def _turn(self, message):
        if message["role"] == "tool":
            return {"role": "user", "content": f"{message['name']} answers:\n{message['content']}"}
        if message["role"] == "user":
            return message
        calls = [call["function"] for call in message.get("tool_calls", ())]
        steps = [{"tool": call["name"], "arguments": call["arguments"]} for call in calls]
        content = "\n".join(json.dumps(step, ensure_ascii=False) for step in steps)
        return {"role": "assistant", "content": content or message["content"]}


def knows_tools(tokenizer, template: dict) -> bool:
    """Whether the chat template tells a model of its tools, in a format whose calls can be read."""
    if format_of(tokenizer.chat_template or "") is None:
        return False
    properties = {"city": {"type": "string", "description": "a city"}}
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    tool = {"name": "look", "description": "Look at a city.", "parameters": parameters}
    plain = encode_chat(tokenizer, ASKED, template=template)
    return encode_chat(tokenizer, ASKED, tools=[tool], template=template) != plain


def next_answer(session: Session, messages: list[dict], seed: int, watch: Callable[[Text], None]) -> Done:
    """Have the last message answered; `watch` is told each piece."""
    session.messages = list(messages)
    with closing(session.answer(seed=seed)) as events:
        for event in events:
            if isinstance(event, Text):
                watch(event)
            elif isinstance(event, Done):
                return event
    raise AssertionError("an answer ends with Done")


def written_calls(calls: list[dict], form: Format | None, n_before: int) -> list[dict]:
    """Calls as messages have them, with ids as the template expects them; n_before came earlier."""
    ids = form.ids if form else Format.ids
    return [
        {"type": "function", "id": ids.format(name=call["name"], n=n), "function": call}
        for n, call in enumerate(calls, n_before)
    ]


def step_schema(tools: list[Tool]) -> dict:
    """The JSON schema of a step: a call of one of the tools, or an answer."""
    text = {"type": "string", "minLength": 1, "maxLength": LONGEST_ANSWER}
    steps = [_object({"answer": text})]
    for tool in tools:
        parameters = tool.schema["function"].get("parameters") or {"type": "object", "properties": {}}
        parameters = {"additionalProperties": False} | parameters
        steps.append(_object({"tool": {"const": tool.name}, "arguments": parameters}))
    return {"anyOf": steps} if tools else steps[0]


def _object(properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def in_words(tools: list[Tool]) -> str:
    """The tools, one a line: how each is called, and what it does."""
    lines = []
    for tool in tools:
        function = tool.schema["function"]
        properties = (function.get("parameters") or {}).get("properties") or {}
        arguments = [f'"{key}": ({value.get("description") or key})' for key, value in properties.items()]
        what = (function.get("description") or "").strip().partition("\n")[0]
        lines.append(f'{{"tool": "{tool.name}", "arguments": {{{", ".join(arguments)}}}}}: {what}')
    return "\n".join(lines)

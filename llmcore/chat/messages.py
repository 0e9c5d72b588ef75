"""Messages as callers write them -> messages as templates expect them.

Callers write what OpenAI's interface takes: a text in parts, None where there is no text, the arguments of a
call as a JSON string. Templates were written against plainer messages, and what they make of these forms is
an error or a piece of Python in the prompt. What cannot be told in text is the caller's fault, and is told
with the message's number.
"""

import json

TEXT_PARTS = {"text", "input_text", "output_text"}
SHAPE = 'messages must be a list of dicts like {"role": "user", "content": "Hello"}'


def plain_messages(messages) -> list[dict]:
    """The same messages with plain text as content, and with each call's arguments as an object.

    Raises ValueError for what is no message, or holds more than text.
    """
    return [_plain(message, f"message {n}") for n, message in enumerate(text_messages(messages), 1)]


def text_messages(messages) -> list[dict]:
    """The same messages with the text parts of each content joined, and all else as it is, as transformers
    has it.

    Raises ValueError for what is no message, or holds more than text.
    """
    if not isinstance(messages, list | tuple) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(SHAPE)
    return [
        _with_reasoning(
            message | {"content": _text(message["content"], f"message {n}")}
            if isinstance(message.get("content"), list | tuple)
            else message
        )
        for n, message in enumerate(messages, 1)
    ]


def _plain(message, where):
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ValueError(f"{where} has the role {role!r}; {SHAPE}")
    if role == "user" and message.get("content") is None:
        raise ValueError(f"{where} has no content: what does the user say?")
    # Null is how libraries write what is not there (tool_calls, name, refusal); templates ask whether it is
    # defined.
    plain = {key: value for key, value in message.items() if value is not None}
    plain["content"] = _text(message.get("content"), where)
    if "tool_calls" in plain:
        if not isinstance(plain["tool_calls"], list | tuple):
            raise ValueError(f"{where}: tool_calls must be a list, not {plain['tool_calls']!r:.60}")
        plain["tool_calls"] = [_call(call, where) for call in plain["tool_calls"]]
        if not plain["tool_calls"]:
            del plain["tool_calls"]
    return plain


def _text(content, where):
    """The text of a content: parts one after another."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise ValueError(f"{where}: content must be a text or a list of text parts, not {content!r:.60}")
    return "".join(_part(part, f"{where}, part {n}") for n, part in enumerate(content, 1))


def _part(part, where):
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else None
    if kind in TEXT_PARTS and isinstance(part.get("text"), str):
        return part["text"]
    what = f"is of type {kind!r}" if isinstance(kind, str) and kind not in TEXT_PARTS else f"is {part!r:.60}"
    raise ValueError(f'{where} {what}; this model reads text alone: {{"type": "text", "text": "..."}}')


def _call(call, where):
    """A call with its arguments as an object, whether they stand in "function" or beside its name."""
    if not isinstance(call, dict):
        raise ValueError(f"{where}: a tool call must be a dict, not {call!r:.60}")
    if isinstance(call.get("function"), dict):
        return call | {"function": _call(call["function"], where)}
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        return call if arguments is not None or "name" not in call else call | {"arguments": {}}
    try:
        value = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return call  # what a model wrote may be broken; it stays the text that it is
    return call | {"arguments": value} if isinstance(value, dict) else call


def _with_reasoning(message):
    """The message, with what the model thought before it under each of the names that templates look for."""
    names = ("reasoning_content", "thinking", "reasoning")
    thought = next((message[name] for name in names if message.get(name) is not None), None)
    return message if thought is None else {"thinking": thought} | message | {"reasoning_content": thought}


def without_object(messages) -> str | None:
    """What is wrong with the first call whose arguments are no JSON object; many templates need one."""
    for n, message in enumerate(messages, 1):
        for call in calls_of(message):
            arguments = call.get("arguments")
            if arguments is not None and not isinstance(arguments, dict):
                return f"message {n}: the arguments of a tool call are no JSON object: {arguments!r:.60}"
    return None


def calls_of(message: dict) -> list[dict]:
    """The names and arguments of the calls in a message, whatever shape the rest of them has."""
    calls = message.get("tool_calls")
    inner = (
        [call.get("function", call) for call in calls if isinstance(call, dict)]
        if isinstance(calls, list)
        else []
    )
    return [call for call in inner if isinstance(call, dict)]

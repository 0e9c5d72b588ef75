"""What a model wrote -> what it said, what it thought, and the tools it calls.

The scan goes from left to right and asks only for the next marker: inside a thought for its end, outside for
a call or a thought. Nothing is lost: what looks like a call and is none stays visible in the content, with
the reason beside it. Only markup disappears.
"""

import re
from collections.abc import Callable, Iterable

from .arguments import Types
from .calls import Call, NotACall, ahead
from .formats import ENDS, Format, format_of
from .literals import read_json, skip_space
from .reasoning import TAGS, Reasoning, reasoning_of


def parse_answer(
    text: str, template: str, *, tools: Iterable[Callable | dict] | None = None, in_reasoning: bool = False
) -> dict:
    """An answer as {"content": str, "reasoning": str, "tool_calls": [{"name": str, "arguments": dict}, ...]}.

    `template` is the chat template's source, whose markers say in which format the model calls tools and
    thinks. `tools` are what the model was given, as for `tools_for`: values in tags get the types of their
    schemas, and a call of anything else stays text. `in_reasoning`: the prompt ended inside an opened
    thought.

    What was cut off or broken is no call; it stays in the content as it was written. Then the result has the
    key "problems", too: the reasons, one line each. Raises ValueError for tools that are none, never for any
    text.
    """
    types, form, markers = Types(tools), format_of(template) or Format("none", ()), reasoning_of(template)
    for end in ENDS:
        if end in template:
            text = text.removesuffix(end)
    if form.messages:
        return _joined(_messages(text, form, markers, types, in_reasoning))
    pieces = list(_pieces(text, form, markers or TAGS, types, in_reasoning))
    if markers and any(kind == "closed" for kind, _ in pieces):  # the prompt had opened a thought after all
        pieces = _pieces(text, form, markers, types, thinking=True)
    return _joined(pieces)


def _joined(pieces):
    """The answer of (kind, value) pieces in the order of the text."""
    pieces = list(pieces)
    content = "".join(value for kind, value in pieces if kind in ("text", "closed"))
    if any(kind not in ("text", "closed") for kind, _ in pieces):  # white space beside markup belongs to it
        content = content.strip()
    thoughts = [value.strip() for kind, value in pieces if kind == "thought"]
    calls = [{"name": value.name, "arguments": value.arguments} for kind, value in pieces if kind == "call"]
    answer = {"content": content, "reasoning": "\n".join(filter(None, thoughts)), "tool_calls": calls}
    problems = [value for kind, value in pieces if kind == "problem" and value]
    return answer | ({"problems": problems} if problems else {})


def _pieces(text, form: Format, markers: Reasoning, types, thinking):
    """(kind, value) of the parts of an answer: text, thought, call, problem; drop: control tokens; closed:
    the end of a thought that nothing opened."""
    names = {
        "call": form.begin,
        "open": re.escape(markers.open),
        "drop": form.drop,
        "close": re.escape(markers.close),
    }
    event = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in names.items()))
    at, thought, silent = 0, thinking, True  # silent: only white space since the start, a thought or a call
    while at < len(text):
        if thinking:
            begin = ahead(re.escape(markers.open), text, at)  # some write the marker that the prompt had, too
            end, at = _end_of_thought(text, begin, form, markers, types)
            yield "thought", text[begin:end]
            thinking, thought, silent = False, True, True
            continue
        found = event.search(text, at)
        before = text[at : found.start() if found else len(text)]
        yield "text", before
        if found is None:
            return
        at, kind, silent = found.end(), found.lastgroup, silent and not before.strip()
        if kind == "call":
            pieces, at = _calls(text, found, form, types)
            silent = pieces[0][0] == "call"
            yield from pieces
        elif kind == "open" and (silent or markers.anywhere):
            thinking = True
        elif found[0] == markers.close and not thought:
            yield "closed", found[0]
        else:
            yield "drop" if kind == "drop" else "text", found[0]


def _end_of_thought(text, at, form, markers, types):
    """Where the thought ends and where the answer goes on.

    What looks like a call inside a thought is part of it; but if the thought is never closed, or only inside
    of the call, the call ends it.
    """
    close = text.find(markers.close, at)
    for found in re.compile(form.begin).finditer(text, at, close if close >= 0 else len(text)):
        try:
            calls, end = form.read(text, found.start(), types)
        except NotACall as error:
            calls, end = error.calls, at
        if calls and not any(_problem(call, types) for call in calls) and (close < 0 or end > close):
            return found.start(), found.start()
    return (close, close + len(markers.close)) if close >= 0 else (len(text), len(text))


def _calls(text, found, form, types):
    """The pieces of what stands where a call may begin, and its end; what is no call of a known tool is
    text."""
    rest = []
    try:
        calls, end = form.read(text, found.start(), types)
    except NotACall as error:
        calls, end = error.calls, max(error.end, found.start() + 1)
        rest = [("text", text[error.start : end]), ("problem", str(error))]
    problems = [_problem(call, types) for call in calls]
    if calls and all(problems) and not rest:  # as it was written, with its markup
        return [("text", text[found.start() : end]), *(("problem", problem) for problem in problems)], end
    pieces = []
    for call, problem in zip(calls, problems, strict=True):
        stays = [("text", text[call.start : call.end]), ("problem", problem)]
        pieces += stays if problem else [("call", call)]
    return pieces + rest, end


def _problem(call, types):
    """Why it is no call of a tool that there is; None if it is one."""
    return call.problem or (None if types.knows(call.name) else f"there is no tool called {call.name!r}")


HEADER = re.compile(
    r"(?:<\|start\|>[^<]*|\A\s*to=[^\s<]+\s*)?(?:<\|(?:channel|constrain)\|>[^<]*)*<\|message\|>"
)
END_OF_BODY = re.compile(r"<\|(?:end|call|return|eom|eot)\|>|(?=<\|(?:start|channel)\|>)|\Z")
NOBODY = (None, "assistant", "user", "self", "all")  # receivers that are no tools


def _messages(text, form, markers, types, thinking):
    """The pieces of an answer in several messages:
    <|start|>assistant<|channel|>analysis<|message|>...<|end|>.

    The header says what a message is: a thought for channel analysis or receiver self, a call for any other
    receiver.
    """
    at = 0
    if thinking and markers:
        text = markers.open.lstrip() + text
    while at < len(text):
        header = HEADER.search(text, at)
        before = text[at : header.start() if header else len(text)]
        yield "text", re.sub(r"<\|start\|>assistant\s*\Z", "", before)  # a header that was cut off
        if header is None:
            return
        yield "drop", header[0]
        receiver = (re.findall(r"to=([^\s<]+)", header[0]) or [None])[-1]
        channel = (re.findall(r"<\|channel\|>\s*(\w+)", header[0]) or [None])[-1]
        end = END_OF_BODY.search(text, header.end())
        if receiver in NOBODY:
            kind = "thought" if channel == "analysis" or receiver == "self" else "text"
            yield kind, text[header.end() : end.start()] + "\n"
        elif form.read is None:
            pieces, after = _message_call(text, header.end(), receiver.removeprefix("functions."), types)
            end = END_OF_BODY.search(text, after)
            yield from [*pieces, ("text", text[after : end.start()])]
        else:
            end = END_OF_BODY.search(text, _end_of_call(text, header.end(), end.start(), form, types))
            yield from _pieces(text[header.end() : end.start()], form, markers, types, thinking=False)
        at = end.end()


def _end_of_call(text, begin, end, form, types):
    """Where the call ends that begins between `begin` and `end`, for a value may hold the end of a message;
    `begin` if there is none."""
    found = re.compile(form.begin).search(text, begin, end)
    try:
        return form.read(text, found.start(), types)[1] if found else begin
    except NotACall:
        return begin


def _message_call(text, at, name, types):
    """The pieces of a message for a tool, whose body is the JSON of its arguments, and where the JSON
    ends."""
    begin = skip_space(text, at)
    try:
        value, end = read_json(text, begin)
        reason = None if isinstance(value, dict) else f"the arguments for {name!r} are no JSON object"
    except ValueError:
        end = END_OF_BODY.search(text, at).start()
        reason = f"the arguments for {name!r} are cut off or no JSON"
    reason = reason if types.knows(name) else f"there is no tool called {name!r}"
    if reason:
        return [("text", text[at:end]), ("problem", reason)], end
    return [("call", Call(name, value, begin, end))], end

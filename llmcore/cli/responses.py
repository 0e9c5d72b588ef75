"""The texts that were written for a request -> its answer in OpenAI's words."""

import json
from typing import Any

from ..chat import parse_answer
from ..chat.reasoning import TAGS, reasoning_of
from ..chat.session import Told, as_message
from ..tokenizer import Tokenizer
from ..tokenizers.streaming import END_OF_TEXT, STOP_STRING, Splitter, TextDecoder
from .requests import Request, Text


def answer_body(tokenizer: Tokenizer, request: Request, texts: list[Text], name: str, model: str) -> dict:
    """The body of an answer called `name`. Its time is 0, so that the same request has the same answer."""
    choices: list[dict] = []
    for index, text in enumerate(texts):
        said: dict[str, Any] = {"text": text.text}
        reason = finish_reason(text)
        if request.chat:
            said = {"message": message_of(tokenizer, request, text, f"{name}_{index}")}
            reason = "tool_calls" if "tool_calls" in said["message"] else reason
        shown = _logprobs_of_answer if request.chat else _logprobs_of_text
        logprobs = None if request.top is None else shown(tokenizer, text)
        choices.append({"index": index, **said, "logprobs": logprobs, "finish_reason": reason})
    kind, prefix = ("chat.completion", "chatcmpl") if request.chat else ("text_completion", "cmpl")
    head = {"id": f"{prefix}-{name}", "object": kind, "created": 0, "model": model}
    return {**head, "choices": choices, "usage": usage(request, texts)}


def usage(request: Request, texts: list[Text]) -> dict[str, int]:
    """How many tokens were read and written."""
    n_prompt, n_written = sum(map(len, request.prompts)), sum(text.n_tokens for text in texts)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_written,
        "total_tokens": n_prompt + n_written,
    }


def finish_reason(text: Text) -> str:
    """Why a text ended: of itself, or because there was no room for more."""
    return "stop" if text.end in (END_OF_TEXT, STOP_STRING) else "length"


def message_of(tokenizer: Tokenizer, request: Request, text: Text, name: str) -> dict:
    """The assistant's message that a text is: what it says, thinks and calls; `name` is for its calls."""
    template = tokenizer.chat_template or ""
    markers = reasoning_of(template) or TAGS
    prompt_ids = text.writer.ids[: text.writer.n_prompt].tolist()
    thinking = tokenizer.decode(prompt_ids[-16:], special=True).rstrip().endswith(markers.open)
    decoder = TextDecoder(tokenizer)
    if not request.tools:
        told = Told(markers, request.stop, thinking)
        said, thought = list[str](), list[str]()
        for piece, is_thought in _told(text, decoder, told):
            (thought if is_thought else said).append(piece)
        return as_message("".join(said), "".join(thought), markers)
    written = "".join(_with_markup(text, decoder, request.stop))
    answer = parse_answer(written, template, tools=request.tools, in_reasoning=thinking)
    message: dict[str, Any] = {"role": "assistant", "content": answer["content"]}
    if answer["reasoning"]:
        message["reasoning_content"] = answer["reasoning"]
    if calls := answer["tool_calls"]:
        message["content"] = answer["content"] or None
        message["tool_calls"] = [_call(call, f"call_{name}_{n}") for n, call in enumerate(calls)]
    return message


def _told(text, decoder, told):
    """The pieces of a text, and whether each is reasoning."""
    for token in text.tokens():
        yield from told.feed(*decoder.feed(token))
        if told.stopped:
            return
    yield told.rest()


def _with_markup(text, decoder, stop):
    """The pieces of a text, control tokens written out: they are the markup of calls. Up to a stop string."""
    splitter = Splitter(stop)
    for token in text.tokens():
        for piece, mark in splitter.feed(decoder.feed(token)[0]):
            yield piece
            if mark:
                return
    yield splitter.rest()


def _call(call, name):
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    return {"id": name, "type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _logprobs_of_answer(tokenizer, text):
    def shown(token_id, logprob):
        data = tokenizer.token_bytes(token_id, special=True)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}

    rows = [[shown(*pair) for pair in row] for row in text.logprobs]
    return {"content": [{**own, "top_logprobs": best} for own, *best in rows]}


def _logprobs_of_text(tokenizer, text):
    rows = [[(tokenizer.token_text(token_id), logprob) for token_id, logprob in row] for row in text.logprobs]
    tokens, starts = [row[0][0] for row in rows], [0]
    for token in tokens:
        starts.append(starts[-1] + len(token))
    return {
        "tokens": tokens,
        "token_logprobs": [row[0][1] for row in rows],
        "top_logprobs": [
            dict(reversed(row[1:])) for row in rows
        ],  # of two that read alike the likelier stays
        "text_offset": starts[:-1],
    }

"""Requests of OpenAI's protocol, read and checked: each field has a row in a table, and its own error."""

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..chat import encode_chat, tools_for
from ..chat.reasoning import reasoning_of
from ..chat.required import call_grammar
from ..errors import ContextOverflow, whole
from ..llm import LLM
from ..samplers import constraint
from ..samplers.options import Sampling
from .answers import Chat
from .checks import (
    RequestError,
    any_whole,
    as_it_is,
    between,
    biases,
    choice_of_tool,
    flag,
    ignored,
    is_id,
    mapping,
    named,
    one_of,
    refused,
    schema_of_format,
    stops,
    text,
    texts_or_ids,
)

MOST_CHOICES, MOST_TOP = 128, 20
SAMPLING = {f.name: as_it_is for f in fields(Sampling) if f.name != "thought"} | {"logit_bias": biases}
IGNORED = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity"),
    *("prompt_cache_retention", "prediction", "parallel_tool_calls", "cache_prompt"),
)
COMMON: dict[str, Callable] = {
    "model": text,
    "n": between(1, MOST_CHOICES),
    "seed": any_whole,
    "stop": stops,
    "max_tokens": whole,
    "stream": flag,
    "stream_options": mapping,
    "ignore_eos": flag,
    **SAMPLING,
    **dict.fromkeys(IGNORED, ignored),
}
CHAT = COMMON | {
    "messages": as_it_is,
    "max_completion_tokens": whole,
    "logprobs": flag,
    "top_logprobs": between(0, MOST_TOP),
    "tools": as_it_is,
    "tool_choice": choice_of_tool,
    "response_format": schema_of_format,
    "reasoning_effort": text,
    "chat_template_kwargs": mapping,
    "continue_final_message": flag,
    "modalities": one_of(["text"]),
    "audio": refused("this server writes text alone"),
    "web_search_options": refused("this server does not search the web"),
    "functions": refused("use tools"),
    "function_call": refused("use tool_choice"),
}
COMPLETION = COMMON | {
    "prompt": as_it_is,
    "logprobs": between(0, MOST_TOP),
    "echo": flag,
    "suffix": refused("a model without a chat template for it cannot fill in the middle"),
    "best_of": one_of(1),
}
EMBEDDING = {
    "model": text,
    "input": as_it_is,
    "encoding_format": lambda name, value: named(name, value, ("float", "base64")),
    "dimensions": whole,
    "pooling": lambda name, value: named(name, value, ("mean", "last")),
    "user": ignored,
}
TOKENIZE = {"model": text, "content": text, "prompt": text, "messages": as_it_is, "tools": as_it_is}
TOKENIZE |= {"add_special": flag, "add_special_tokens": flag, "parse_special": flag, "with_pieces": flag}
TOKENIZE |= {"chat_template_kwargs": mapping}
DETOKENIZE = {"model": text, "tokens": as_it_is}


def checked(body: Mapping[str, Any], table: Mapping[str, Callable]) -> dict[str, Any]:
    """The fields of a body that are not null, each checked. Raises RequestError, with the field's name."""
    for name in body:
        if name not in table:
            raise RequestError(f"Unrecognized request argument supplied: {name:.60}", param=name)
    given = {}
    for name, check in table.items():
        if body.get(name) is not None:
            value = tried(lambda name=name, check=check: check(name, body[name]), name)
            if value is not None:
                given[name] = value
    return given


def tried(work, param):
    """What `work` returns; the ValueError it raises is the client's to put right."""
    try:
        return work()
    except ContextOverflow as error:
        raise RequestError(str(error), param, "context_length_exceeded") from None
    except ImportError as error:
        raise RequestError(str(error), param, "not_installed", status=501) from None
    except ValueError as error:
        first = re.match(r"\w*", str(error))[0]
        named = first in SAMPLING and param != "response_format"
        raise RequestError(str(error), first if named else param, "invalid_value") from None


@dataclass(frozen=True)
class Asked:
    """What is to be written: for each prompt n texts."""

    prompts: list[list[int]]
    n: int
    stream: bool
    include_usage: bool
    stops: list[str]
    options: dict  # of LLM.writer
    n_top: int | None  # None: no log-probabilities
    chat: Chat | None = None
    echo: list[str] | None = None  # the prompts, to be repeated before the texts

    def writers(self, llm: LLM):
        """(the prompt's number, its writer) for each choice. Raises RequestError."""
        seed, param = self.options["seed"], "prompt" if self.chat is None else "messages"
        for i, ids in enumerate(self.prompts):
            for k in range(self.n):
                options = self.options | {"seed": (seed + k) % (1 << 64)}
                yield i, tried(lambda ids=ids, options=options: llm.writer(ids, **options), param)


def _common(llm, given, default_tokens, sampling, n_top, tools=None):
    """The fields of `Asked` that chats and completions share."""
    own = {name: given[name] for name in SAMPLING if name in given} | constraint_of(llm, given, tools)
    stream_options = given.get("stream_options", {})
    if stream_options and not given.get("stream"):
        raise RequestError("stream_options is only allowed with stream: true", "stream_options")
    max_tokens = given.get("max_completion_tokens", given.get("max_tokens", default_tokens))
    options = {
        "max_tokens": max_tokens,
        "sampling": tried(lambda: llm.sampling(**sampling | own), None),
        "seed": given.get("seed", secrets.randbits(32)),
        "ignore_eos": given.get("ignore_eos", False),
    }
    return {
        "n": given.get("n", 1),
        "stream": given.get("stream", False),
        "include_usage": bool(stream_options.get("include_usage")),
        "stops": given.get("stop", []),
        "options": options,
        "n_top": n_top,
    }


def constraint_of(llm: LLM, given: Mapping, tools: list[dict] | None) -> dict:
    """The options of sampling by which an answer becomes what was asked for. Raises RequestError."""
    asked = {name: given[name] for name in ("json_schema", "regex", "grammar") if name in given}
    choice = given.get("tool_choice", "auto")
    must_call = choice not in ("none", "auto")
    names = [*asked, *["response_format"] * ("response_format" in given), *["tool_choice"] * must_call]
    if len(names) > 1:
        what = f"{' and '.join(names)} all say what the answer must be; give one of them"
        raise RequestError(what, names[-1], "invalid_value")
    if must_call:
        name = choice[0] if isinstance(choice, tuple) else None
        asked = {"grammar": tried(lambda: call_grammar(llm.tokenizer, tools or [], name), "tool_choice")}
    elif "response_format" in given:
        asked = {"json_schema": given["response_format"]}
        tried(lambda: constraint.check(llm.sampling(**asked)), "response_format")
    if asked and "messages" in given:
        asked["thought"] = reasoning_of(llm.tokenizer.chat_template or "")
    return asked


def read_chat(llm: LLM, body: dict, sampling: Mapping) -> Asked:
    """A request for an answer; `sampling` is what the server was told. It renders a template."""
    given = checked(body, CHAT)
    if "messages" not in given:
        raise RequestError("messages is missing", "messages", "missing_required_parameter")
    top = given.get("top_logprobs")
    if top is not None and not given.get("logprobs"):
        raise RequestError("top_logprobs is only allowed with logprobs: true", "top_logprobs")
    n_top = (top or 0) if given.get("logprobs") else None
    tools = None if given.get("tool_choice") == "none" else tried(lambda: tools_of(given), "tools")
    template = llm.tokenizer.chat_template or ""
    if tools and not re.search("tools|functions", template):
        raise RequestError("this model's chat template has no place for tools", "tools", "unsupported")
    common = _common(llm, given, llm.context_length, sampling, n_top, tools)
    ids = chat_ids(llm, given, tools)
    end = llm.tokenizer.decode(ids[-16:], special=True)
    chat = Chat(llm.tokenizer, template, end, common["stops"], tools)
    return Asked([ids], chat=chat, **common)


def tools_of(given: Mapping) -> list[dict] | None:
    """The tools of a request. Raises ValueError."""
    tools = given.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise ValueError("tools must be a list")
    return tools_for(tools)


def chat_ids(llm: LLM, given: Mapping, tools: list[dict] | None) -> list[int]:
    """The prompt of a conversation."""
    variables = dict(given.get("chat_template_kwargs", {}))
    if effort := given.get("reasoning_effort"):
        variables = {"reasoning_effort": effort, "enable_thinking": effort != "none"} | variables
    options: dict[str, Any] = {"tools": tools, "template": variables}
    options["continue_final_message"] = given.get("continue_final_message", False)
    return tried(lambda: encode_chat(llm.tokenizer, given["messages"], **options), "messages")


def read_completion(llm: LLM, body: dict, sampling: Mapping) -> Asked:
    """A request to continue texts."""
    given = checked(body, COMPLETION)
    if "prompt" not in given:
        raise RequestError("prompt is missing", "prompt", "missing_required_parameter")
    common = _common(llm, given, 16, sampling, given.get("logprobs"))
    prompts = tried(lambda: texts_or_ids("prompt", given["prompt"]), "prompt")
    ids = [llm.encode_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    echo = None
    if given.get("echo"):
        if given.get("logprobs") is not None:
            raise RequestError(
                "echo does not tell log-probabilities of the prompt; ask for one of both", "echo"
            )
        echo = [
            p if isinstance(p, str) else tried(lambda p=p: llm.tokenizer.decode(p), "prompt") for p in prompts
        ]
    return Asked(ids, echo=echo, **common)


def tokenized(llm: LLM, given: Mapping) -> list[int]:
    """The ids that were asked for. Raises RequestError."""
    if "messages" in given:
        return chat_ids(llm, given, tried(lambda: tools_of(given), "tools"))
    content = given.get("content", given.get("prompt"))
    if content is None:
        raise RequestError("content, prompt or messages is missing", "content", "missing_required_parameter")
    special = given.get("add_special", given.get("add_special_tokens", "prompt" in given))
    return llm.tokenizer.encode(content, add_special=special, parse_special=given.get("parse_special", True))


def detokenized(llm: LLM, given: Mapping) -> str:
    """The text of the ids. Raises RequestError."""
    ids = given.get("tokens")
    if not (isinstance(ids, list) and all(map(is_id, ids))):
        raise RequestError("tokens must be a list of token ids", "tokens", "invalid_value")
    return tried(lambda: llm.tokenizer.decode(ids), "tokens")

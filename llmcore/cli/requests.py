"""A request in OpenAI's words -> the texts to write.

What a request asks for beside its prompt is read field by field. A field that would change the text and that
we lack is refused by name: an answer must not look as if it had been heeded.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..chat import encode_chat
from ..errors import ModelFileError, whole
from ..llm import LLM
from ..ops import log_softmax
from ..samplers.options import Sampling
from ..speed.batching import Whole
from ..tokenizers.streaming import END_OF_TEXT, Token, stop_strings

SAMPLING = {option.name for option in fields(Sampling)}
OPTIONS = SAMPLING | {
    *("max_tokens", "max_completion_tokens", "seed", "stop", "ignore_eos", "n", "logprobs", "top_logprobs"),
    *("tools", "tool_choice", "chat_template_kwargs", "continue_final_message"),
}
# Fields that say nothing about the text, and those of which we know one value: what goes without saying.
SILENT = {
    *("model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("parallel_tool_calls", "stream_options"),
}
ONLY: dict[str, Any] = {
    "stream": False, "echo": False, "best_of": 1, "suffix": "", "modalities": ["text"],
    "response_format": {"type": "text"},
}  # fmt: skip
MOST_TEXTS, MOST_LOGPROBS = 128, 20  # of a prompt, and tokens shown in place of one: OpenAI's limits
LEAST = -9999.0  # log-probability: JSON has no infinity
DIGITS = 4  # of a log-probability; what lies behind them depends on which texts were written together
BROKEN = "broken"  # how a text ends whose logits were no numbers


@dataclass(frozen=True)
class Defaults:
    """What a request gets that does not name it: the options of the command line."""

    sampling: dict = field(default_factory=dict)
    max_tokens: int | None = None  # None: as many as the context holds
    seed: int | None = None  # None: each request has its own
    stop: list[str] = field(default_factory=list)
    ignore_eos: bool = False
    chat: bool = False  # a prompt is answered, as a user's message, and not continued
    system: str | None = None  # the system message of a conversation that has none
    template: dict = field(default_factory=dict)  # variables for the chat template


@dataclass(frozen=True)
class Request:
    """What is asked for: n texts after each of the prompts."""

    prompts: list[list[int]]
    chat: bool  # the texts are answers
    n: int
    top: int | None  # log-probabilities are asked for, those of so many tokens beside the one chosen
    stop: list[str]
    tools: list[dict] | None
    seed: int
    writer: dict  # the other options of `LLM.writer`


class Text(Whole):
    """A text of a request. Logits that are no numbers end it alone, and not the texts written beside it."""

    def __init__(self, writer, tokenizer, stop, top: int | None):
        """`top`: as in Request."""
        super().__init__(writer, tokenizer, stop)
        self.top, self.problem = top, ""
        self.logprobs: list[list[tuple[int, float]]] = []  # of each token: its own, then the most likely

    def go_on(self, logits_V: np.ndarray) -> None:
        """Choose the next token, as Whole does."""
        try:
            super().go_on(logits_V)
        except ModelFileError as error:
            self.end, self.problem = BROKEN, str(error)
            return
        if self.top is not None and self.end != END_OF_TEXT:
            logprobs_V = log_softmax(logits_V.astype(np.float64))
            best = np.argsort(-logprobs_V, kind="stable")[: self.top]
            ids = [self.writer.ids[-1], *best.tolist()]
            self.logprobs.append([(i, round(max(LEAST, float(logprobs_V[i])), DIGITS)) for i in ids])

    def tokens(self) -> Iterator[Token]:
        """The tokens that it consists of, once more."""
        ids, last = self.writer.ids[self.writer.n_prompt :], len(self.writer.ids) - self.writer.n_prompt - 1
        return (Token(i, np.empty(0), self.end if n == last else None) for n, i in enumerate(ids))


def read_request(llm: LLM, body: dict, defaults: Defaults, own_seed: int) -> Request:
    """The request that a body makes: a conversation if it has messages, else a prompt.

    `own_seed` is for a request to which nobody gives one. Raises ValueError, with the field's name, and what
    `encode_chat` raises.
    """
    given = {name: value for name, value in body.items() if value is not None and name not in SILENT}
    for name in sorted(given.keys() - OPTIONS - {"prompt", "messages"}):
        if name not in ONLY:
            raise ValueError(f"there is no field {name!r} in a request")
        if given[name] != ONLY[name]:
            raise ValueError(f"{name} is {given[name]!r:.60}; here it can only be {json.dumps(ONLY[name])}")
    chat = "messages" in given or defaults.chat
    tools = _tools(given) if chat else None
    stop = stop_strings(given["stop"]) if "stop" in given else defaults.stop
    own, template = _boolean(given, "ignore_eos", defaults.ignore_eos), given.get("chat_template_kwargs", {})
    n_tokens = given.get("max_completion_tokens", given.get("max_tokens", defaults.max_tokens))
    sampling = {name: given[name] for name in SAMPLING & given.keys()}
    if "logit_bias" in sampling:
        sampling["logit_bias"] = _biases(sampling["logit_bias"])
    options: dict[str, Any] = {"sampling": llm.sampling(**defaults.sampling | sampling), "ignore_eos": own}
    options["max_tokens"] = llm.context_length if n_tokens is None else whole("max_tokens", n_tokens)
    seed = next((s for s in (given.get("seed"), defaults.seed) if s is not None), own_seed)
    return Request(
        prompts=[_answered(llm, given, defaults, tools, template)] if chat else _continued(llm, given),
        chat=chat,
        n=_at_most("n", whole("n", given.get("n", 1)), MOST_TEXTS),
        top=_top(given, chat),
        stop=stop,
        tools=tools,
        seed=whole("seed", seed, least=0),
        writer=options,
    )


def texts_of(llm: LLM, request: Request) -> list[Text]:
    """The texts to write, those of one prompt next to each other. Raises what `LLM.writer` raises."""
    return [
        Text(
            llm.writer(ids, seed=request.seed + k, **request.writer), llm.tokenizer, request.stop, request.top
        )
        for ids in request.prompts
        for k in range(request.n)
    ]


def _answered(llm, given, defaults, tools, template):
    """The ids of a conversation, ready for its answer."""
    if "prompt" in given and "messages" in given:
        raise ValueError("a request has messages or a prompt, not both")
    messages = given.get("messages")
    if messages is None:
        if not isinstance(prompt := given.get("prompt"), str):
            raise ValueError(f"the prompt is {prompt!r:.60}; to be answered it must be a text")
        messages = [{"role": "user", "content": prompt}]
    if messages == []:
        raise ValueError("messages is empty: there is nothing to answer")
    if defaults.system is not None and isinstance(messages, list):
        roles = [message.get("role") for message in messages if isinstance(message, dict)]
        if "system" not in roles and "developer" not in roles:
            messages = [{"role": "system", "content": defaults.system}, *messages]
    if not isinstance(template, dict):
        raise ValueError(f"chat_template_kwargs is {template!r:.60}; it must be an object")
    goes_on = _boolean(given, "continue_final_message", False)
    options: dict[str, Any] = {"tools": tools, "template": defaults.template | template}
    return encode_chat(llm.tokenizer, messages, continue_final_message=goes_on, **options)


def _continued(llm, given):
    """The ids of each prompt: a text, ids, or a list of either."""
    for name in ("tools", "chat_template_kwargs", "continue_final_message"):
        if name in given:
            raise ValueError(f"{name} is for messages, not for a prompt that is continued")
    prompt = given.get("prompt")
    if isinstance(prompt, str):
        return [llm.encode_prompt(prompt)]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(i, int) for i in prompt):
            return [prompt]
        if all(isinstance(item, str) or (isinstance(item, list) and item) for item in prompt):
            return [llm.encode_prompt(item) if isinstance(item, str) else item for item in prompt]
    raise ValueError(f"the prompt is {prompt!r:.60}; it must be a text, token ids, or a list of these")


def _tools(given):
    """The tools that the model may call; none of them if the choice is none."""
    tools, choice = given.get("tools"), given.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise ValueError(f'tool_choice is {choice!r:.60}; here it can only be "auto" or "none"')
    if not (tools is None or (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools))):
        raise ValueError(f"tools is {tools!r:.60}; it must be a list of JSON schemas")
    return tools if tools and choice == "auto" else None


def _top(given, chat):
    """How many tokens are shown in place of one, or None: a conversation says it with two fields."""
    asked = given.get("logprobs")
    if chat:
        if not _boolean(given, "logprobs", False):
            return None
        asked = given.get("top_logprobs", 0)
    if asked is None:
        return None
    name = "top_logprobs" if chat else "logprobs"
    return _at_most(name, whole(name, asked, least=0), MOST_LOGPROBS)


def _at_most(name, count, most):
    if count > most:
        raise ValueError(f"{name} is {count}; it can be {most} at most")
    return count


def _boolean(given, name, default):
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r:.60}; it must be true or false")
    return value


def _biases(biases):
    """{token id: bias}; the keys of a JSON object are texts."""
    if not isinstance(biases, dict) or not all(key.isdecimal() for key in biases):
        raise ValueError(f"logit_bias is {biases!r:.60}; it must map token ids to numbers")
    return {int(key): bias for key, bias in biases.items()}

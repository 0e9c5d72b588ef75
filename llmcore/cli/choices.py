"""The texts of a request as they are written beside those of others; read and told as the server does it."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..llm import LLM
from ..serve.answers import Answer, Delta, Listener, Logprobs, Plain
from ..serve.metrics import Metrics
from ..serve.replies import ChatForm, TextForm, usage_of
from ..serve.requests import Asked, read_chat, read_completion
from ..tokenizers.streaming import STOP_STRING
from ..writing import Writer

DIGITS = 4  # of a log-probability; what lies behind them depends on which texts were written together
BROKEN = "broken"  # how a text ends whose logits are no numbers, or leave no token to choose
CONSTRAINTS = ("json_schema", "regex", "grammar")


@dataclass(frozen=True)
class Defaults:
    """What a request gets that does not name it: the options of the command line."""

    sampling: dict = field(default_factory=dict)
    max_tokens: int | None = None
    seed: int | None = None  # None: each request has its own
    stop: list[str] = field(default_factory=list)
    ignore_eos: bool = False
    chat: bool = False  # a plain prompt is answered, as a user's message, and not continued
    system: str | None = None  # the system message of a conversation that has none
    template: dict = field(default_factory=dict)  # variables for the chat template


def read_body(llm: LLM, body: dict, defaults: Defaults, own_seed: int) -> Asked:
    """What a body asks for, a conversation if it has messages; `own_seed` is for one that nobody gives one.

    Raises RequestError, and ValueError for what a batch cannot do.
    """
    body = {name: value for name, value in body.items() if value is not None}
    if body.get("stream"):
        raise ValueError("stream: the answers of a batch come whole")
    sampling = dict(defaults.sampling)
    constraint = {name: sampling.pop(name) for name in CONSTRAINTS if name in sampling}
    if not body.keys() & {"response_format", *CONSTRAINTS}:
        body |= constraint
    filled: dict[str, Any] = {"seed": own_seed if defaults.seed is None else defaults.seed}
    filled |= {"max_tokens": defaults.max_tokens} if defaults.max_tokens else {}
    filled |= {"stop": defaults.stop} if defaults.stop else {}
    filled |= {"ignore_eos": True} if defaults.ignore_eos else {}
    if "messages" not in body:
        return read_completion(llm, filled | body, sampling)
    kwargs, messages = body.get("chat_template_kwargs", {}), body["messages"]
    if defaults.template and isinstance(kwargs, dict):
        body["chat_template_kwargs"] = defaults.template | kwargs
    if defaults.system is not None and isinstance(messages, list):
        roles = [message.get("role") for message in messages if isinstance(message, dict)]
        if "system" not in roles and "developer" not in roles:
            body["messages"] = [{"role": "system", "content": defaults.system}, *messages]
    return read_chat(llm, filled | body, sampling)


class Choice:
    """One text of a request, for `write_together`. What breaks it ends it alone, and not those beside it."""

    def __init__(self, llm: LLM, asked: Asked, writer: Writer):
        """Nothing of it is written yet."""
        self.writer, self.end, self.problem = writer, "", ""
        self.answer, self.logprobs, self.calls = Answer(asked.chat), list[Logprobs](), list[dict]()
        told = asked.chat.told() if asked.chat else Plain(asked.stops)
        control = bool(asked.chat and asked.chat.tools)
        self._listener = Listener(llm, told, self._hear, Metrics(), asked.n_top, control=control)

    @property
    def ids(self):
        """The ids of the prompt and of the text so far."""
        return self.writer.ids

    @property
    def n_prompt(self) -> int:
        """How many of them are the prompt."""
        return self.writer.n_prompt

    def go_on(self, logits_V: np.ndarray) -> None:
        """Choose the next token from the logits after the last."""
        try:
            token = self.writer.choose(logits_V)
        except ValueError as error:
            self.end, self.problem = BROKEN, str(error)
            return
        stopped = self._listener.take(token)
        self.end = STOP_STRING if stopped else token.end or ""
        if self.end:
            self._add(self.answer.finish(self, self.end))

    def _hear(self, said):
        self._add(self.answer.feed(said))

    def _add(self, delta: Delta):
        self.calls += delta.tool_calls
        for one in delta.logprobs:
            top = [(i, round(logprob, DIGITS)) for i, logprob in one.top]
            self.logprobs.append(Logprobs(one.id, round(one.logprob, DIGITS), top))


def choices_of(llm: LLM, asked: Asked) -> list[Choice]:
    """The texts to write. Raises RequestError."""
    return [Choice(llm, asked, writer) for _, writer in asked.writers(llm)]


def reply_of(llm: LLM, asked: Asked, choices: list[Choice], name: str, model: str) -> dict:
    """The body of OpenAI's reply. The same request has the same reply: its time is 0, its ids are names."""
    form: Any = TextForm(llm.tokenizer, asked.n_top, asked.echo, asked.n)
    if asked.chat:
        form = ChatForm(llm.tokenizer, asked.n_top)
    told = [form.choice(i, c.answer, c.logprobs, c.calls, c.end) for i, c in enumerate(choices)]
    for i, choice in enumerate(told):
        for k, call in enumerate(choice.get("message", {}).get("tool_calls", ())):
            # Nine letters and digits, since the templates of Mistral take no others.
            call["id"] = hashlib.sha256(f"{name} {i} {k}".encode()).hexdigest()[:9]
    usage = usage_of(sum(map(len, asked.prompts)), 0, (choice.answer for choice in choices))
    head = {"id": f"{form.prefix}-{name}", "object": form.whole, "created": 0, "model": model}
    return {**head, "choices": told, "usage": usage}

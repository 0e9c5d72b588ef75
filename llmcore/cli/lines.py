"""Lines of a file of requests -> requests; their texts -> lines of a file of answers.

Two kinds of lines go in. OpenAI's batch format has an envelope around the body of a request, and so has its
answer:

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...]}}
    {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200, "body": {...}}, "error": null}

A plain line is the body itself, and its answer is its text; further fields of it are handed on:

    {"prompt": "Once upon a time", "max_tokens": 20, "shelf": 7}
    {"batch_id": "batch_req_...", "shelf": 7, "text": ", the city of", "finish_reason": "length", ...}

What is wrong with a line is its answer.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..llm import LLM
from ..serve.checks import RequestError
from ..serve.rendering import kept_renderer
from ..serve.requests import SAMPLING, Asked
from ..speed.batching import write_together
from .choices import Choice, Defaults, choices_of, read_body, reply_of
from .command import sentence
from .records import ENVELOPE, Record, is_enveloped

URLS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}  # and what their bodies must have
ASKS = {  # the fields of a plain line that are not handed on
    *("prompt", "messages", "max_tokens", "max_completion_tokens", "seed", "stop", "ignore_eos", "stream"),
    *("tools", "tool_choice", "response_format", "reasoning_effort", "chat_template_kwargs"),
    *("continue_final_message", "n", "logprobs", "top_logprobs", *SAMPLING),
}
NOT_PLAIN = ("n", "logprobs", "top_logprobs")  # need more room than a plain answer has
ANSWER = ("batch_id", "text", "reasoning", "tool_calls", "finish_reason", "usage", "error")


@dataclass(frozen=True)
class Job:
    """All that the answers depend on beside the line: two jobs that agree in `name` give the same answers."""

    name: str
    model: str
    defaults: Defaults

    def id_of(self, n: int) -> str:
        """The name of line n in this job."""
        return f"batch_req_{self.name}_{n}"


@dataclass(frozen=True)
class Answer:
    """A line of the output."""

    n: int
    line: bytes
    n_tokens: int
    problem: str = ""


@dataclass
class Pending:
    """A line whose answer is not complete."""

    n: int
    id: str
    envelope: dict | None  # None: a plain line
    kept: dict = field(default_factory=dict)  # the fields of a plain line that are handed on
    asked: Asked | None = None
    choices: list[Choice] = field(default_factory=list)
    error: dict | None = None

    @property
    def complete(self) -> bool:
        """Whether all its texts have ended."""
        return all(choice.end for choice in self.choices)


def answers(llm: LLM, job: Job, records: Iterable[Record], batch: int) -> Iterator[Answer]:
    """The answers to records, in their order; their texts are written `batch` at a time."""
    pending: deque[Pending] = deque()

    def choices():
        for record in records:
            pending.append(begun(llm, job, record))
            yield from pending[-1].choices

    with kept_renderer():
        for _ in write_together(llm.weights, llm.config, choices(), batch):
            while pending and pending[0].complete:
                yield answered(llm, job, pending.popleft())
    yield from (answered(llm, job, line) for line in pending)


def begun(llm: LLM, job: Job, record: Record) -> Pending:
    """A line with the texts that it asks for; with none of them if something is wrong with it."""
    line = Pending(record.n, job.id_of(record.n), {"custom_id": None})
    try:
        defaults = job.defaults
        body = _body(_fields(record), line, defaults.chat)
        if record.problem:
            raise ValueError(record.problem)
        if line.envelope is None and defaults.max_tokens is None:  # as `generate` has it; OpenAI has 16
            defaults = replace(defaults, max_tokens=llm.context_length)
        seed = int.from_bytes(hashlib.sha256(line.id.encode()).digest()[:4], "big")
        line.asked = read_body(llm, body, defaults, seed)
        line.choices = choices_of(llm, line.asked)
    except (ImportError, MemoryError, OSError):  # nothing that another line could do without
        raise
    except RequestError as error:
        told = error.body["error"]
        if told["code"] == "not_installed":
            raise ImportError(told["message"]) from None
        line.error = told | {"code": told["code"] or "invalid_request"}
    except Exception as error:
        line.error = {"code": "invalid_request", "message": sentence(error)}
    return line


def _fields(record):
    """The object that a line is."""

    def no_number(name):
        raise ValueError(f"{name} is no number of JSON")

    try:
        fields = json.loads(record.data.decode(), parse_constant=no_number)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} of the line is not UTF-8") from None
    except RecursionError:
        raise ValueError("the line is no JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"the line is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"the line is no JSON object: {record.data.decode():.60}")
    return fields


def _body(fields, line, chat):
    """The body of the request; notes in the line what its answer will need."""
    if is_enveloped(fields):
        line.envelope = {"custom_id": fields.get("custom_id")}  # whatever it is
        return _enveloped_body(fields)
    line.envelope = None
    line.kept = {name: value for name, value in fields.items() if name not in ASKS and name not in ANSWER}
    prompt, messages = fields.get("prompt"), fields.get("messages")
    if (prompt is None) is (messages is None):
        raise ValueError("the line must have either a prompt or messages, or be in OpenAI's format")
    for name in ANSWER:
        if fields.get(name) is not None:
            raise ValueError(f"the field {name!r} is one that the answer has; give it another name")
    for name in NOT_PLAIN:
        if fields.get(name) not in (None, False, 1 if name == "n" else 0):
            raise ValueError(f"{name} needs OpenAI's format: {', '.join(ENVELOPE)}")
    asks = {name: value for name, value in fields.items() if name in ASKS and name not in NOT_PLAIN}
    if chat and messages is None:
        if not isinstance(prompt, str):
            raise ValueError(f"the prompt is {prompt!r:.60}; to be answered it must be a text")
        asks["messages"] = [{"role": "user", "content": asks.pop("prompt")}]
    return asks


def _enveloped_body(fields):
    missing = [name for name in ENVELOPE if fields.get(name) is None]
    if missing:
        raise ValueError(f"the line lacks {', '.join(missing)}; OpenAI's format has {', '.join(ENVELOPE)}")
    if not isinstance(fields["custom_id"], str):
        raise ValueError(f"custom_id is {fields['custom_id']!r:.60}; it must be a text")
    if fields["method"] != "POST":
        raise ValueError(f"method is {fields['method']!r:.60}; it must be POST")
    if not isinstance(fields["url"], str) or fields["url"] not in URLS:
        raise ValueError(f"url is {fields['url']!r:.60}; there are {' and '.join(URLS)}")
    body, needed = fields["body"], URLS[fields["url"]]
    if not isinstance(body, dict):
        raise ValueError(f"body is {body!r:.60}; it must be an object")
    if body.get(needed) is None or body.keys() & {"prompt", "messages"} != {needed}:
        has = ", ".join(body) or "nothing"
        raise ValueError(f"the body for {fields['url']} must have {needed}, and no other text; it has {has}")
    return body


def answered(llm: LLM, job: Job, line: Pending) -> Answer:
    """The answer to a line whose texts are complete, or the reason why there is none."""
    broken = next((choice.problem for choice in line.choices if choice.problem), "")
    error = {"code": "server_error", "message": broken} if broken else line.error
    n_tokens = 0 if error else sum(choice.answer.n_tokens for choice in line.choices)
    reply = None if error else _reply(llm, job, line)
    head: dict[str, Any] = {"batch_id": line.id, **line.kept}
    if line.envelope is not None:
        head = {"id": line.id, **line.envelope}
        response = {"status_code": 200, "request_id": f"req_{job.name}_{line.n}", "body": reply}
        head |= {"response": None if error else response, "error": error}
    elif error:
        head["error"] = error
    else:
        head |= _plain(line, reply)
    # A lone surrogate, which JSON can write and UTF-8 cannot, is written as JSON does.
    data = json.dumps(head, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Answer(line.n, data + b"\n", n_tokens, error["message"] if error else "")


def _reply(llm, job, line):
    return reply_of(llm, line.asked, line.choices, f"{job.name}_{line.n}", job.model)


def _plain(line, reply):
    """What a plain answer says, and what is needed to write it again."""
    (choice,) = reply["choices"]
    message = choice.get("message", {"content": choice.get("text")})
    answer: dict[str, Any] = {"text": message["content"] or ""}
    answer |= {"reasoning": message["reasoning_content"]} if "reasoning_content" in message else {}
    answer |= {"tool_calls": message["tool_calls"]} if "tool_calls" in message else {}
    answer["finish_reason"] = choice["finish_reason"]
    if line.asked.options["sampling"].temperature > 0:
        answer["seed"] = line.asked.options["seed"]
    return answer | {"usage": reply["usage"]}

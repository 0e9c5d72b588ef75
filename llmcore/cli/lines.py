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
from pathlib import Path
from typing import Any

from ..llm import LLM
from ..speed.batching import write_together
from .command import sentence
from .requests import ONLY, OPTIONS, Defaults, Request, Text, read_request, texts_of
from .responses import answer_body, finish_reason, message_of, usage

URLS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}  # and what their bodies must have
ENVELOPE = ("custom_id", "method", "url", "body")
ANSWER = (
    "batch_id",
    "text",
    "reasoning",
    "tool_calls",
    "finish_reason",
    "usage",
    "error",
)  # fields of a plain one
NOT_PLAIN = ("n", "logprobs", "top_logprobs")  # need more room than a plain line has
PARQUET, ROWS = b"PAR1", 256


@dataclass(frozen=True)
class Record:
    """A line of the input: its number, its JSON, and what is wrong with it among the others."""

    n: int
    data: bytes
    problem: str = ""


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
    request: Request | None = None
    texts: list[Text] = field(default_factory=list)
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether all its texts have ended."""
        return all(text.end for text in self.texts)


def read_records(path: Path) -> Iterator[Record]:
    """The lines of a file, JSON lines or parquet; empty ones are left out. Raises ValueError, ImportError."""
    first_line: dict[str, int] = {}  # custom_id -> the first line that has it
    with open(path, "rb") as file:
        is_parquet = file.read(4) == PARQUET
    for n, data in enumerate(_rows(path) if is_parquet else _lines(path), 1):
        if not data.strip():
            continue
        problem = ""
        if b'"custom_id"' in data:
            name = _custom_id(data)
            if name is not None and (first := first_line.setdefault(name, n)) != n:
                problem = f"the custom_id {name!r:.60} is that of line {first}, too"
        yield Record(n, data, problem)


def _lines(path):
    with open(path, "rb") as file:
        for n, line in enumerate(file):
            line = line.rstrip(b"\r\n")
            yield line if n else line.removeprefix(b"\xef\xbb\xbf")


def _custom_id(data):
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return None  # told when the line's turn comes
    name = fields.get("custom_id") if isinstance(fields, dict) and is_enveloped(fields) else None
    return name if isinstance(name, str) else None


def is_enveloped(fields: dict) -> bool:
    """Whether a line is in OpenAI's format; a plain one may have fields of the same names."""
    return "prompt" not in fields and "messages" not in fields and any(name in fields for name in ENVELOPE)


def _rows(path):
    """The rows of a parquet file as JSON; a null is a field that is not there."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError('parquet needs pyarrow; get it with: pip install "llmcore[parquet]"') from None
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(ROWS):
            for row in batch.to_pylist():
                for name in ("messages", "body"):  # a column of texts can hold them, as JSON
                    if isinstance(text := row.get(name), str) and text[:1] in "[{":
                        row[name] = _json_or_text(text)
                yield json.dumps(_without_nulls(row), ensure_ascii=False, default=str).encode()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: this parquet file cannot be read: {error}") from None


def _json_or_text(text):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _without_nulls(value):
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def answers(llm: LLM, job: Job, records: Iterable[Record], batch: int) -> Iterator[Answer]:
    """The answers to records, in their order; their texts are written `batch` at a time."""
    pending: deque[Pending] = deque()

    def texts():
        for record in records:
            pending.append(begun(llm, job, record))
            yield from pending[-1].texts

    for _ in write_together(llm.weights, llm.config, texts(), batch):
        while pending and pending[0].complete:
            yield answered(llm, job, pending.popleft())
    yield from (answered(llm, job, line) for line in pending)


def begun(llm: LLM, job: Job, record: Record) -> Pending:
    """A line with the texts that it asks for; with none of them if something is wrong with it."""
    line = Pending(record.n, job.id_of(record.n), {"custom_id": None})
    try:
        body = _body(_fields(record), line)
        if record.problem:
            raise ValueError(record.problem)
        seed = int.from_bytes(hashlib.sha256(line.id.encode()).digest()[:4], "big")
        defaults = job.defaults if line.envelope is None else replace(job.defaults, chat=False)
        line.request = read_request(llm, body, defaults, seed)
        line.texts = texts_of(llm, line.request)
    except (ImportError, MemoryError, OSError):  # nothing that another line could do without
        raise
    except Exception as error:
        line.problem, line.texts = sentence(error), []
    return line


def _fields(record):
    """The object that a line is."""

    def no_number(name):
        raise ValueError(f"{name} is no JSON")

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


def _body(fields, line):
    """The body of the request; notes in the line what its answer will need."""
    if is_enveloped(fields):
        line.envelope = {"custom_id": fields.get("custom_id")}  # whatever it is
        return _enveloped_body(fields)
    line.envelope = None
    asks = {*OPTIONS, *ONLY, "prompt", "messages"}
    line.kept = {name: value for name, value in fields.items() if name not in asks and name not in ANSWER}
    if fields.get("prompt") is None and fields.get("messages") is None:
        raise ValueError("the line has neither a prompt nor messages, and no body that has")
    for name in ANSWER:
        if fields.get(name) is not None:
            raise ValueError(f"the field {name!r} is one that the answer has; give it another name")
    for name in NOT_PLAIN:
        if fields.get(name) not in (None, False, 1 if name == "n" else 0):
            raise ValueError(f"{name} needs OpenAI's format: custom_id, method, url and body")
    return {name: value for name, value in fields.items() if name in asks}


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
    broken = next((text.problem for text in line.texts if text.problem), "")
    code, problem = ("model_error", broken) if broken else ("invalid_request", line.problem)
    error = {"code": code, "message": problem} if problem else None
    n_tokens = 0 if error else sum(text.n_tokens for text in line.texts)
    head: dict[str, Any] = {"batch_id": line.id, **line.kept}
    if line.envelope is None:
        rest = {"error": error} if error else _plain(llm, job, line)
    else:
        head = {"id": line.id, **line.envelope}
        rest = {"response": None if error else _response(llm, job, line), "error": error}
    # A lone surrogate, which JSON can write and UTF-8 cannot, is written as JSON does.
    data = json.dumps(head | rest, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Answer(line.n, data + b"\n", n_tokens, problem)


def _response(llm, job, line):
    body = answer_body(llm.tokenizer, line.request, line.texts, f"{job.name}_{line.n}", job.model)
    return {"status_code": 200, "request_id": f"req_{job.name}_{line.n}", "body": body}


def _plain(llm, job, line):
    """What a plain answer says, and what is needed to write it again."""
    (text,) = line.texts
    answer: dict[str, Any] = {"text": text.text}
    reason = finish_reason(text)
    if line.request.chat:
        message = message_of(llm.tokenizer, line.request, text, f"{job.name}_{line.n}")
        answer["text"] = message["content"] or ""
        if "reasoning_content" in message:
            answer["reasoning"] = message["reasoning_content"]
        if "tool_calls" in message:
            answer["tool_calls"], reason = message["tool_calls"], "tool_calls"
    answer["finish_reason"] = reason
    if line.request.writer["sampling"].temperature > 0:
        answer["seed"] = line.request.seed
    return answer | {"usage": usage(line.request, line.texts)}

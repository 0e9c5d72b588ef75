"""A server that speaks OpenAI's protocol, asked for greedy texts with log-probabilities.

Servers differ in what they show. What each of them says becomes a `Reply`; what none of them should say, and
a server that hangs, dies or answers something else, becomes a ServerError of one line.
"""

import http.client
import json
import math
import queue
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from llmcore.cli.command import on_one_line

TOP = 5  # likeliest tokens asked for: as many as OpenAI's older protocol allows
LONGEST = 50_000_000  # bytes of an answer
PURE = {"repeat_penalty": 1.0}  # llama.cpp's field: llama-cpp-python has 1.1, also at temperature 0
OLD, CHAT = "/completions", "/chat/completions"


class ServerError(ValueError):
    """The server cannot be compared with; the message says what it did."""


class Refused(ServerError):
    """The server answered with an error of its own."""


@dataclass(frozen=True)
class Shown:
    """A token as a server shows it."""

    text: str
    logprob: float
    data: bytes | None = None  # its bytes, where the server tells them: a text may hide half a character
    id: int | None = None


@dataclass(frozen=True)
class Step:
    """A token that the server chose, and those that it found the likeliest."""

    chosen: Shown
    top: list[Shown]


@dataclass(frozen=True)
class Reply:
    """What a server made of a prompt."""

    text: str
    ended: bool  # of itself, and not because there was no room for more
    n_prompt: int | None  # tokens that it counts in the prompt
    steps: list[Step] | None  # None: it shows no log-probabilities


@dataclass
class Server:
    """Where to ask, and what was found out about it so far."""

    url: str  # with or without /v1 at its end
    key: str | None = None
    seconds: float = 120  # patience for one answer
    model: str | None = None  # its name for the model; None: the first that it lists
    silent: dict[str, str] = field(default_factory=dict)  # path -> why it shows no log-probabilities
    strict: bool = False  # it refuses fields that OpenAI does not have

    def __post_init__(self):
        """Check the address."""
        self.url = self.url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise ServerError(f"{self.url}: the server's address must begin with http:// or https://")

    def find_model(self) -> None:
        """Ask for the name of its model, unless it was given; a server that lists none needs none."""
        if self.model is None:
            try:
                listed = self.ask("/models")
                self.model = str(listed["data"][0]["id"])  # it is sent back as it is
            except Refused:
                self.model = "default"
            except (KeyError, IndexError, TypeError):
                raise self._nonsense("/models", listed) from None

    def complete(self, prompt: str, n_tokens: int, plain: bool = False) -> Reply:
        """The greedy continuation of a text; `plain`: with the penalties that the server has by default."""
        return self._reply(OLD, {"prompt": prompt}, n_tokens, {"logprobs": TOP}, plain)

    def answer(self, messages: list[dict], n_tokens: int) -> Reply:
        """The greedy answer to a conversation."""
        return self._reply(CHAT, {"messages": messages}, n_tokens, {"logprobs": True, "top_logprobs": TOP})

    def _reply(self, path, body, n_tokens, logprobs, plain=False):
        """Ask for log-probabilities and for no penalties; then for less, until the server takes it."""
        body = {"model": self.model, **body, "max_tokens": n_tokens, "temperature": 0}
        first: Refused | None = None
        for shows, pure in ((True, True), (True, False), (False, True), (False, False)):
            if (shows and path in self.silent) or (pure and (plain or self.strict)):
                continue
            try:
                reply = self._read(
                    path, self.ask(path, body | (logprobs if shows else {}) | (PURE if pure else {}))
                )
            except Refused as refusal:
                first = first or refusal
                continue
            self.strict = self.strict or not (pure or plain)
            if not shows or reply.steps is None:
                self.silent.setdefault(path, str(first) if first and not shows else "it leaves them out")
            return reply
        raise first or AssertionError

    def _read(self, path, answer) -> Reply:
        try:
            (choice, *_) = answer["choices"]
            text = choice["message"]["content"] if path == CHAT else choice["text"]
            logprobs, usage = choice.get("logprobs"), answer.get("usage") or {}
            if not isinstance(text or "", str):
                raise TypeError
            steps = _steps(logprobs) if logprobs else None
            n_prompt = usage.get("prompt_tokens")
            ended = choice.get("finish_reason") == "stop"
            steps = None if text and not steps else steps
            return Reply(text or "", ended, None if n_prompt is None else int(n_prompt), steps)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise self._nonsense(path, answer) from None

    def _nonsense(self, path, answer):
        shown = json.dumps(answer)
        return ServerError(f"{self.url}/v1{path} answers what is not OpenAI's protocol: {shown:.200}")

    def ask(self, path: str, body: dict | None = None) -> Any:
        """What the server answers, as JSON, within so many seconds. Raises ServerError."""
        url, answers = f"{self.url}/v1{path}", queue.SimpleQueue[Any]()
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers)
        # In a thread, since the time limits of sockets begin anew with each byte that comes.
        threading.Thread(target=lambda: answers.put(_fetch(request, self.seconds)), daemon=True).start()
        try:
            status, content = answers.get(timeout=self.seconds + 1)
        except queue.Empty:
            raise ServerError(f"{url} has not answered within {self.seconds:g} seconds") from None
        if isinstance(content, Exception):
            raise ServerError(f"{url}: {on_one_line(_reason(content, self.seconds))}") from None
        if len(content) > LONGEST:
            raise ServerError(f"{url} answers with more than {LONGEST:,} bytes") from None
        shown = content.decode("utf-8", "replace").strip()
        if status >= 400:
            raise Refused(f"{url} answers with status {status}: {on_one_line(_message(shown)):.300}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            what = on_one_line(shown) or "nothing"
            raise ServerError(f"{url} answers what is no JSON: {what:.200}") from None


def _fetch(request, seconds):
    """(status, the bytes) or (0, the exception)."""
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:
            content = response.read(LONGEST + 1)
            if response.length and len(content) <= LONGEST:  # so much is still to come, and never will
                raise http.client.IncompleteRead(content, response.length)
            return response.status, content
    except urllib.error.HTTPError as error:
        try:
            return error.code, error.read(LONGEST)
        except (OSError, http.client.HTTPException):
            return error.code, b""
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, error


def _reason(error, seconds):
    """Why there is no answer, in words."""
    error = getattr(error, "reason", error)
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:g} seconds"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there; is the server running?"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
        return "the server closed the connection without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "the server closed the connection in the middle of its answer"
    return str(error) or type(error).__name__


def _message(text):
    """The sentence of an error that a server tells in JSON, or all of it."""
    try:
        error = json.loads(text)
        error = error.get("error", error.get("detail", error))
        return str(error["message"] if isinstance(error, dict) and "message" in error else error)
    except (ValueError, RecursionError, AttributeError):
        return text or "no reason given"


def _steps(logprobs) -> list[Step]:
    """The steps in either of OpenAI's two forms; servers mix them."""
    if "content" in logprobs:
        rows = logprobs["content"] or []
        return [Step(_shown(row), [_shown(item) for item in row.get("top_logprobs") or []]) for row in rows]
    tokens, own = logprobs["tokens"], logprobs["token_logprobs"]
    tops = logprobs.get("top_logprobs") or [{}] * len(tokens)
    return [
        Step(
            Shown(str(token), _number(logprob)),
            [Shown(str(text), _number(value)) for text, value in (top or {}).items()],
        )
        for token, logprob, top in zip(tokens, own, tops, strict=True)
    ]


def _shown(row):
    data, token_id = row.get("bytes"), row.get("id")
    token_id = token_id if isinstance(token_id, int) else None
    return Shown(str(row["token"]), _number(row["logprob"]), bytes(data) if data else None, token_id)


def _number(value):
    number = float(value)
    if math.isnan(number):
        raise ValueError
    return number

"""What goes back to clients, in the forms of OpenAI's protocol."""

import base64
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..tokenizers.streaming import END_OF_TEXT, STOP_STRING
from .answers import Answer, Delta, Logprobs

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def new_id(prefix: str) -> str:
    """An id of a reply."""
    return f"{prefix}-{secrets.token_hex(12)}"


def call_id() -> str:
    """The id of a call: nine letters and digits, since the templates of Mistral take no others."""
    return "".join(secrets.choice(LETTERS) for _ in range(9))


def event(data: Any) -> bytes:
    """One event of a stream (server-sent events)."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def reason_of(end: str, called: bool = False) -> str:
    """OpenAI's word for how a text ended."""
    if called and end in (END_OF_TEXT, STOP_STRING):
        return "tool_calls"
    return "stop" if end in (END_OF_TEXT, STOP_STRING) else "length"


def usage_of(n_prompt: int, n_cached: int, answers: Iterable[Answer]) -> dict:
    """What it took, in tokens."""
    answers = list(answers)
    n_tokens = sum(answer.n_tokens for answer in answers)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_tokens,
        "total_tokens": n_prompt + n_tokens,
        "prompt_tokens_details": {"cached_tokens": n_cached},
        "completion_tokens_details": {"reasoning_tokens": sum(answer.n_thought for answer in answers)},
    }


class ChatForm:
    """How an answer of a conversation is written down."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer, n_top: int | None):
        """`n_top`: None where no log-probabilities were asked for."""
        self.tokenizer, self.n_top = tokenizer, n_top

    def first(self, i: int) -> dict | None:
        """The delta that a choice begins with."""
        return self._choice(i, {"role": "assistant", "content": ""}, [], None)

    def last(self, i: int, reason: str) -> dict:
        """How a choice ends."""
        return self._choice(i, {}, [], reason)

    def part(self, i: int, delta: Delta) -> dict:
        """What is new in a choice."""
        said: dict[str, Any] = {}
        if delta.content:
            said["content"] = delta.content
        if delta.reasoning:
            said["reasoning_content"] = delta.reasoning
        if delta.tool_calls:
            said["tool_calls"] = [{"index": k, **call} for k, call in enumerate(calls_of(delta.tool_calls))]
        return self._choice(i, said, delta.logprobs, None)

    def _choice(self, i, delta, logprobs, reason):
        return {
            "index": i,
            "delta": delta,
            "logprobs": self._logprobs(logprobs) if logprobs else None,
            "finish_reason": reason,
        }

    def choice(self, i: int, answer: Answer, logprobs: list[Logprobs], calls: list[dict], end: str) -> dict:
        """A whole choice."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if calls:
            message |= {"content": answer.content or None, "tool_calls": calls_of(calls)}
        return {
            "index": i,
            "message": message,
            "logprobs": None if self.n_top is None else self._logprobs(logprobs),
            "finish_reason": reason_of(end, bool(calls)),
        }

    def _logprobs(self, logprobs):
        def told(token_id, logprob):
            data = self.tokenizer.token_bytes(token_id, special=True)
            return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(data)}

        content = [
            told(one.id, one.logprob) | {"top_logprobs": [told(*pair) for pair in one.top]}
            for one in logprobs
        ]
        return {"content": content, "refusal": None}


class TextForm:
    """How the text that continues a prompt is written down."""

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer, n_top: int | None, echo: Sequence[str] | None, n: int):
        """`echo`: the prompts, each of n choices, to be repeated before the text."""
        self.tokenizer, self.n_top, self.echo, self.n = tokenizer, n_top, echo, n
        self._offsets: dict[int, int] = {}

    def _prompt(self, i):
        return self.echo[i // self.n] if self.echo else ""

    def first(self, i: int) -> dict | None:
        """The prompt that a choice begins with, if it was asked for."""
        return self._choice(i, self._prompt(i), [], None) if self.echo else None

    def last(self, i: int, reason: str) -> dict:
        """How a choice ends."""
        return self._choice(i, "", [], reason)

    def part(self, i: int, delta: Delta) -> dict:
        """What is new in a choice."""
        return self._choice(i, delta.content, delta.logprobs, None)

    def choice(self, i: int, answer: Answer, logprobs: list[Logprobs], calls: list[dict], end: str) -> dict:
        """A whole choice."""
        self._offsets[i] = len(self._prompt(i))
        return self._choice(i, self._prompt(i) + answer.content, logprobs, reason_of(end))

    def _choice(self, i, text, logprobs, reason):
        told = None if self.n_top is None else self._logprobs(i, logprobs)
        return {"index": i, "text": text, "logprobs": told, "finish_reason": reason}

    def _logprobs(self, i, logprobs):
        texts, offset = [self.tokenizer.token_text(one.id) for one in logprobs], self._offsets.get(i, 0)
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        self._offsets[i] = offset
        return {
            "tokens": texts,
            "token_logprobs": [finite(one.logprob) for one in logprobs],
            "top_logprobs": [
                {self.tokenizer.token_text(k): finite(logprob) for k, logprob in one.top} for one in logprobs
            ],
            "text_offset": offsets,
        }


def finite(logprob: float) -> float:
    """The log-probability, or what OpenAI writes for minus infinity, which JSON lacks."""
    return max(logprob, -9999.0)


def calls_of(calls: list[dict]) -> list[dict]:
    """Calls with ids; arguments are JSON in a text."""
    return [
        {
            "id": call_id(),
            "type": "function",
            "function": {
                "name": call["name"],
                "arguments": json.dumps(call["arguments"], ensure_ascii=False),
            },
        }
        for call in calls
    ]


def head_of(form, model: str, kind: str) -> dict:
    """The fields that each reply begins with."""
    return {"id": new_id(form.prefix), "object": kind, "created": int(time.time()), "model": model}


def embedding(vector_D: np.ndarray, i: int, encoding: str) -> dict:
    """One vector of a reply: its numbers, or in base64 their bytes, little-endian float32."""
    data = vector_D.astype("<f4")
    said = base64.b64encode(data.tobytes()).decode() if encoding == "base64" else data.tolist()
    return {"object": "embedding", "index": i, "embedding": said}


def model_card(name: str, llm, created: int, sampling: Mapping) -> dict:
    """What /v1/models says of a model."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "llmcore",
        "max_model_len": llm.context_length,
        "chat": llm.tokenizer.chat_template is not None,
        "weights": llm.held,
        "sampling": dict(sampling),
    }

"""A request at work: its texts, and what is heard of them on the way from the engine's thread."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial

from ..errors import ModelFileError
from .answers import Answer, Delta, Listener, Logprobs, Over, Plain, Said
from .checks import RequestError
from .engine import Engine, QueueFull, Stopping, Text
from .requests import Asked
from .texts import FAILED, Writing

RETRY = 0.05  # seconds until a text of a long list asks again for a place in the queue


class Job:
    """The texts of one request. At most as many at a time as run at once: the queue is for everybody."""

    def __init__(self, engine: Engine, make: Callable[[Callable], Sequence[Text]]):
        """`make(put_for)` makes the texts; `put_for(i)` is what text i is heard through."""
        self.engine, self._loop = engine, asyncio.get_running_loop()
        self._heard: asyncio.Queue = asyncio.Queue()
        self.texts = list(make(lambda i: partial(self._put, i)))
        self._later, self._n_sent = deque(self.texts), 0
        self._send(engine.parallel)

    def _put(self, i, heard):
        """Called on the engine's thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._heard.put_nowait, (i, heard))

    def _send(self, n):
        """Submit n texts more, all or none."""
        texts = [self._later[k] for k in range(min(n, len(self._later)))]
        self.engine.submit(texts)
        for _ in texts:
            self._later.popleft()
        self._n_sent += len(texts)

    async def heard(self) -> AsyncIterator[tuple[int, Said | Over]]:
        """What is heard of the texts, with each one's number, until all are over."""
        n_over = 0
        while n_over < len(self.texts):
            try:
                i, heard = await asyncio.wait_for(self._heard.get(), RETRY if self._later else None)
                n_over += isinstance(heard, Over)
                yield i, heard
            except asyncio.TimeoutError:
                n_over += 0
            if self._later and self._n_sent - n_over < self.engine.parallel:
                try:
                    self._send(1)
                except QueueFull:
                    pass
                except Stopping as error:
                    raise failure(error) from None

    def close(self) -> None:
        """Nobody wants what is not over yet."""
        self._later.clear()
        self.engine.cancel(self.texts[: self._n_sent])

    @property
    def n_cached(self) -> int:
        """Tokens of the prompts that a cache held, each prompt counted once."""
        return sum(text.n_cached for text in self.texts if text.first is None)

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompts, each counted once."""
        return sum(text.n_prompt for text in self.texts if text.first is None)


class Choices:
    """The texts that a request asked to be written, each put together as it comes."""

    def __init__(self, engine: Engine, asked: Asked, writers: Sequence):
        """`writers`: those of `asked`."""
        self.asked = asked
        self.answers = [Answer(asked.chat) for _ in writers]
        self.logprobs: list[list[Logprobs]] = [[] for _ in writers]
        self.calls: list[list[dict]] = [[] for _ in writers]
        self.ends = [""] * len(writers)
        self.job = Job(engine, lambda put_for: self._texts(engine, writers, put_for))

    def _texts(self, engine, writers, put_for):
        firsts: dict[int, Writing] = {}
        chat = self.asked.chat
        for i, (prompt, writer) in enumerate(writers):
            told = chat.told() if chat else Plain(self.asked.stops)
            control = bool(chat and chat.tools)
            listener = Listener(
                engine.llm, told, put_for(i), engine.metrics, self.asked.n_top, control=control
            )
            text = Writing(writer, listener, firsts.get(prompt))
            firsts.setdefault(prompt, text)
            yield text

    async def deltas(self) -> AsyncIterator[tuple[int, Delta, str | None]]:
        """(the choice's number, what is new, how it ends or None). Raises RequestError where it fails."""
        async for i, heard in self.job.heard():
            if isinstance(heard, Over):
                if heard.end == FAILED:
                    raise failure(heard.error)
                self.ends[i] = heard.end
                delta = self.answers[i].finish(heard.text, heard.end)
                self.calls[i] = delta.tool_calls
                yield i, delta, heard.end
            else:
                delta = self.answers[i].feed(heard)
                self.logprobs[i] += delta.logprobs
                yield i, delta, None


def failure(error: Exception | None) -> RequestError:
    """What a client is told of a text that failed."""
    if isinstance(error, Stopping):
        return RequestError("the server is stopping", status=503, headers={"Retry-After": "10"})
    if isinstance(error, MemoryError):
        return RequestError("the server is out of memory", status=503, headers={"Retry-After": "10"})
    if isinstance(error, ModelFileError):
        return RequestError(str(error), status=500)
    if isinstance(error, ValueError):  # options that leave no token to choose
        return RequestError(str(error), code="invalid_value")
    logging.getLogger(__name__).error("a text failed", exc_info=error)
    return RequestError(f"the text failed: {type(error).__name__}: {error}", status=500)

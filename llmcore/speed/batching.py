"""Several texts at once: their next tokens share each pass over the weights, which costs little more than for
one.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np

from ..cache import KVCache
from ..config import Config
from ..errors import whole
from ..model import CHUNK, empty_cache, forward, prefill, unembed
from ..tokenizer import Tokenizer
from ..tokenizers.streaming import END_OF_TEXT, STOP_STRING, Splitter, TextDecoder, stop_strings
from ..weights import Weights
from ..writing import Writer


class Whole:
    """A text, handed out when complete; until then `text` is what it says so far and `end` is None."""

    def __init__(self, writer: Writer, tokenizer: Tokenizer, stop: Sequence[str]):
        """A text of which nothing is written yet."""
        self.writer, self.text = writer, ""
        self.end: str | None = None
        self._decoder, self._splitter = TextDecoder(tokenizer), Splitter(stop)

    def go_on(self, logits_V: np.ndarray) -> None:
        """Choose the next token from the logits after the last."""
        token = self.writer.choose(logits_V)
        self.end = token.end
        for text, mark in self._splitter.feed(*self._decoder.feed(token)):
            self.text += text
            if mark:
                self.end = STOP_STRING
                return
        if self.end:
            self.text += self._splitter.rest()

    @property
    def n_tokens(self) -> int:
        """How many tokens the text consists of."""
        return len(self.writer.ids) - self.writer.n_prompt - (self.end == END_OF_TEXT)


def write_texts(llm, prompts, batch: int, stop: str | Sequence[str], options: dict) -> Iterator[Whole]:
    """The texts of several prompts, `batch` at a time; `options` are those of `LLM.writer`."""
    batch, texts, stops = whole("batch", batch), [], stop_strings(stop)
    for n, prompt in enumerate(prompts, 1):
        try:
            texts.append(Whole(llm.writer(prompt, **options), llm.tokenizer, stops))
        except ValueError as error:
            raise type(error)(f"prompt {n}: {error}") from None
    return write_together(llm.weights, llm.config, texts, batch)


class Growing(Protocol):
    """What `write_together` asks of a text; `end` is empty or None until it is complete."""

    @property
    def writer(self) -> Writer:
        """Its ids so far."""

    @property
    def end(self) -> str | None:
        """How it ended."""

    def go_on(self, logits_V: np.ndarray) -> None:
        """Choose the next token from the logits after the last."""


T = TypeVar("T", bound=Growing)


def write_together(weights: Weights, config: Config, texts: Iterable[T], batch: int) -> Iterator[T]:
    """Have texts written, `batch` of them at a time; yields each as soon as it and all before it are
    complete.

    Where one ends the next begins: its prompt is read, then it joins the others. No more than `batch` texts
    that have not begun are taken from an iterator, so it may have no end.
    """
    coming, waiting, begun = iter(texts), deque[T](), deque[T]()
    running: list[tuple[T, KVCache]] = []
    while True:
        waiting.extend(islice(coming, batch - len(waiting)))
        if not (waiting or running):
            return
        if waiting and len(running) < batch:
            moved = [(text, empty_cache(config)) for text in _next_texts(waiting, batch - len(running))]
            begun += [text for text, _ in moved]
            running += moved
            last_TD = read_prompts(weights, config, moved)
        else:
            moved = running
            last_ids = [(np.array(text.writer.ids[-1:]), cache) for text, cache in running]
            last_TD = forward(weights, config, last_ids)
        for (text, _), logits_V in zip(moved, unembed(weights, config, last_TD), strict=True):
            text.go_on(logits_V)
        running = [(text, cache) for text, cache in running if not text.end]
        while begun and begun[0].end:
            yield begun.popleft()


def _next_texts(waiting, n_most):
    """Take the first text, and those after it whose prompts fit into one chunk together with its own."""
    taken = [waiting.popleft()]
    n_rows = taken[0].writer.n_prompt
    while waiting and len(taken) < n_most and (n_rows := n_rows + waiting[0].writer.n_prompt) <= CHUNK:
        taken.append(waiting.popleft())
    return taken


def read_prompts(weights, config, texts):
    """The hidden states (n, D) at the ends of n prompts, read together; a long one in chunks."""
    if len(texts) == 1:
        (text, cache), *_ = texts
        for x_TD in prefill(weights, config, np.array(text.writer.ids), cache):
            last_1D = x_TD[-1:]
        return last_1D
    x_TD = forward(weights, config, [(np.array(text.writer.ids), cache) for text, cache in texts])
    return x_TD[np.cumsum([text.writer.n_prompt for text, _ in texts]) - 1]

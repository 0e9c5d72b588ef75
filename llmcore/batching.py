"""Several texts at once: their next tokens share each pass over the weights, which costs little more than for one."""

import codecs
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from .cache import KVCache
from .config import Config
from .model import CHUNK, forward_batch, prefill, unembed
from .tokenizer import Tokenizer
from .weights import Weights
from .writing import END_OF_TEXT, STOP_STRING, Writer, until_stop


class Whole:
    """A text that is handed out when it is complete; until then `text` is what it says so far and `end` is None."""

    def __init__(self, writer: Writer, tokenizer: Tokenizer, stop: str | Sequence[str]):
        self.writer, self.text, self.end, self._tokenizer = writer, "", None, tokenizer
        self._stops = [stop] if isinstance(stop, str) else list(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def go_on(self, logits_V: np.ndarray) -> None:
        """Choose the next token from the logits after the last."""
        token = self.writer.choose(logits_V)
        new = b"" if token.end == END_OF_TEXT else self._tokenizer.token_bytes(token.id)
        piece = self._decoder.decode(new, final=token.end is not None)
        self.text += piece
        self.end = token.end
        if any(stop in self.text[-len(stop + piece) :] for stop in self._stops):
            self.text, self.end = "".join(until_stop([self.text], self._stops)), STOP_STRING

    @property
    def n_tokens(self) -> int:
        """How many tokens the text consists of."""
        return len(self.writer.ids) - self.writer.n_prompt - (self.end == END_OF_TEXT)


def write_together(weights: Weights, config: Config, texts: list[Whole], batch: int) -> Iterator[Whole]:
    """Have texts written, `batch` of them at a time; yields each as soon as it and all before it are complete.

    Where one ends the next begins: its prompt is read, then it joins the others.
    """
    waiting, begun, running = deque(texts), deque(), []
    while waiting or running:
        if waiting and len(running) < batch:
            moved = [(text, KVCache(config)) for text in _next_texts(waiting, batch - len(running))]
            begun += [text for text, _ in moved]
            running += moved
            last_TD = read_prompts(weights, config, moved)
        else:
            moved = running
            last_ids = [(np.array(text.writer.ids[-1:]), cache) for text, cache in running]
            last_TD = forward_batch(weights, config, last_ids)
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
    """The hidden states (n, D) at the ends of n prompts, which go through the model together; a long one in chunks."""
    if len(texts) == 1:
        (text, cache), *_ = texts
        for x_TD in prefill(weights, config, np.array(text.writer.ids), cache):
            last_1D = x_TD[-1:]
        return last_1D
    x_TD = forward_batch(weights, config, [(np.array(text.writer.ids), cache) for text, cache in texts])
    return x_TD[np.cumsum([text.writer.n_prompt for text, _ in texts]) - 1]

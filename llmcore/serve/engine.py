"""One thread computes, for all requests: continuous batching.

Each step is one pass over the weights. It takes in the last token of every text that is being written, and of
the prompts that are being read a piece, whose size bounds how long the others wait. Texts join and leave
between any two steps. (Iteration-level scheduling: Yu et al. 2022, "Orca"; prompts in pieces beside texts:
Agrawal et al. 2024, arXiv:2403.02310.)
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

import numpy as np

from ..llm import LLM
from ..model import CHUNK, forward, unembed
from ..speed.machine import available_memory
from .metrics import Metrics
from .prefixes import Prefixes, Read
from .texts import CANCELLED, FAILED, READ, Reading, Writing

BESIDE, FEWEST = 128, 16  # rows of prompts, at most and at least, in a step that has texts to write as well
SLOWER, QUICK = 3, 0.05  # such a step takes so many times as long as one without, or as so many seconds
Text = Writing | Reading


class QueueFull(Exception):
    """No more texts can wait."""


class Stopping(Exception):
    """The server takes no more requests."""


class Engine:
    """Texts that wait, texts that run, and the thread that works on them."""

    def __init__(self, llm: LLM, parallel: int = 8, queue: int = 64, metrics: Metrics | None = None):
        """Write `parallel` texts at a time, while at most `queue` wait."""
        self.llm, self.parallel, self.queue = llm, parallel, queue
        self.metrics = metrics or Metrics()
        self.waiting: deque[Text] = deque()
        self.running: list[Text] = []
        # A quarter of what is free stays for texts that may be gone on with
        self.prefixes = Prefixes(2 * parallel, (available_memory() or 1 << 32) // 4)
        self.beside, self._alone = BESIDE, QUICK  # rows of prompts; seconds of the last step without any
        self._wake = threading.Condition()
        self._draining = self._stopped = False
        self._thread = threading.Thread(target=self._work, name="llmcore-engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, texts: Sequence[Text]) -> None:
        """Have texts written or read, all or none. Raises QueueFull or Stopping."""
        with self._wake:
            if self._draining:
                raise Stopping
            if self.room() < len(texts):
                raise QueueFull
            self.waiting += texts
            self._wake.notify()

    @property
    def alive(self) -> bool:
        """Whether texts can be submitted."""
        return self._thread.is_alive() and not self._draining

    def room(self) -> int:
        """How many more texts may come now."""
        return self.queue + self.parallel - len(self.waiting) - len(self.running)

    def cancel(self, texts: Sequence[Text]) -> None:
        """Nobody wants these any more; those that are over stay as they are."""
        with self._wake:
            for text in texts:
                text.cancelled = True
            gone = [text for text in texts if text in self.waiting]
            self.waiting = deque(text for text in self.waiting if not text.cancelled)
            self._wake.notify()
        for text in gone:
            close(text, CANCELLED)

    def drain(self) -> None:
        """Take no more texts; those that wait are told so, those that run are finished."""
        with self._wake:
            self._draining = True
            waiting, self.waiting = self.waiting, deque()
        for text in waiting:
            close(text, FAILED, Stopping())

    def stop(self) -> None:
        """End the thread after this step; what still runs is cancelled."""
        self.drain()
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self):
        """What the thread does."""
        while True:
            with self._wake:
                while not (self.waiting or self.running or self._stopped):
                    self._wake.wait()
                stopped = self._stopped
            for text in [*self.running]:
                if text.cancelled or stopped:
                    self._end(text, CANCELLED)
            if stopped:
                return
            self._admit()
            if self.running:
                self._step()

    def _admit(self):
        """Begin with texts that wait, as long as there is room. Those of one prompt wait for its first."""
        while len(self.running) < self.parallel:
            with self._wake:
                ready = (text for text in self.waiting if not is_ahead(text.first))
                text = next(ready, None)
                if text is None:
                    return
                self.waiting.remove(text)
            try:
                text.cache = self._begun_cache(text)
            except Exception as error:
                close(text, FAILED, error)
                continue
            text.n_cached = text.cache.length
            self.running.append(text)
            self.metrics.count("prompt_tokens", text.n_prompt)
            self.metrics.count("cached_tokens", text.n_cached)

    def _begun_cache(self, text):
        """A cache for a text, with what is known of its prompt already."""
        cache = None
        if text.writes:  # what an embedding is pooled of has to be computed
            running = [Read(other.ids, other.cache) for other in self.running]
            with suppress(MemoryError):
                cache = self.prefixes.take(text.ids, running)
        return self.llm.empty_cache() if cache is None else cache

    def _step(self):
        """One pass: a token of each text, and a piece of the prompts."""
        unread = [(text, len(text.ids) - text.cache.length, text.begun) for text in self.running]
        shares, begin = share(unread, self.beside), time.perf_counter()
        n_rows = sum(n for text, n in shares if not text.begun)
        try:
            x_TD = forward(self.llm.weights, self.llm.config, [self._unread(*part) for part in shares])
            self._take(shares, x_TD)
        except MemoryError as error:
            if not self.prefixes.forget():
                self._end(self.running[-1], FAILED, error)
        except Exception as error:  # a fault of ours must not end the server
            for text, _ in shares:
                self._end(text, FAILED, error)
        seconds = time.perf_counter() - begin
        self.metrics.observe("step_seconds", seconds)
        if any(begun for _, _, begun in unread):
            self._pace(n_rows, seconds)

    def _pace(self, n_rows, seconds):
        """Have the next step read fewer rows of prompts, or more, after one that took so long."""
        if n_rows == 0:
            self._alone = seconds
            return
        for_a_row = max(seconds - self._alone, 1e-6) / n_rows
        rows = SLOWER * max(self._alone, QUICK) / for_a_row
        self.beside = int(min(BESIDE, max(FEWEST, (self.beside + rows) / 2)))

    def _unread(self, text, n):
        return np.array(text.ids[text.cache.length : text.cache.length + n]), text.cache

    def _take(self, shares, x_TD):
        """Hand each text its hidden states; those that are read to their end choose their next tokens."""
        choosing, rows = [], []
        for (text, n), stop in zip(shares, accumulate(n for _, n in shares), strict=True):
            text.take(x_TD[stop - n : stop])
            if text.cache.length == len(text.ids):
                if text.writes:
                    choosing.append(text)
                    rows.append(stop - 1)
                else:
                    self._end(text, READ)
        if not choosing:
            return
        logits_TV = unembed(self.llm.weights, self.llm.config, x_TD[rows])
        for text, logits_V in zip(choosing, logits_TV, strict=True):
            try:
                end, error = text.choose(logits_V), None
            except Exception as raised:  # of this text alone, as logits that are not finite
                end, error = FAILED, raised
            self.metrics.count("generated_tokens", 1)
            if end:
                self._end(text, end, error)

    def _end(self, text, end, error=None):
        """A text is over: who asked for it is told, and its cache is kept for who comes next."""
        with suppress(ValueError):  # it may have ended in the same step
            self.running.remove(text)
            if text.writes and error is None:
                self.prefixes.keep(Read(text.ids, text.cache))
            text.cache = None  # it is large, and who asked may hold on to the text
            close(text, end, error)


def close(text: Text, end: str, error: Exception | None = None) -> None:
    """Tell who asked for a text that it is over."""
    text.over, listener, text.listener = True, text.listener, None  # no circle is left of text and listener
    listener.close(text, end, error)


def is_ahead(first: Text | None) -> bool:
    """Whether a prompt is still being read, or waits to be."""
    return first is not None and not (first.begun or first.over)


def share(texts: Sequence[tuple[Text, int, bool]], beside: int = BESIDE) -> list[tuple[Text, int]]:
    """(text, its unread ids, whether it is being written) -> how many ids of each the next step takes in.

    A text that is written has one. Prompts share what else there is, `beside` if there are such texts,
    evenly, the shortest first, and what one leaves goes to the next: a short prompt is read in a step or two,
    whatever else is being read.
    """
    shares = [(text, n) for text, n, begun in texts if begun]
    prompts = sorted((item for item in texts if not item[2]), key=lambda item: item[1])
    left = beside if shares else CHUNK
    for i, (text, n, _) in enumerate(prompts):
        n = min(n, max(1, left // (len(prompts) - i)))
        shares.append((text, n))
        left -= n
    return shares

"""A constraint that begins after the thought: what a model thinks is free, what it answers is not."""

from collections.abc import Sequence

import numpy as np

THINKING, BETWEEN, ANSWERING = "thinking", "between", "answering"


class AfterThought:
    """`Rules` for an answer, which may begin with a thought or other markup, see `chat/reasoning.py`.

    THINKING: any token may come, but for the end of the text. BETWEEN, at the start and after a thought:
    markup or the answer itself, so both are followed until one drops out; after a thought line ends, too.
    ANSWERING: the rules.
    """

    def __init__(self, rules, tokenizer, markers):
        """`markers` is a `chat.reasoning.Reasoning`."""
        self._rules, self._guide, self._tokenizer = rules, rules.guide, tokenizer
        spell = self._guide.spelling.ids
        self._open, *silent = [spell(text, tokenizer.special) for text in (markers.open, *markers.silent)]
        self._markup, self._markup_after = [self._open, *silent], [self._open] * markers.anywhere + silent
        self._markers, self._close = markers, markers.close.encode()
        self._ends = [i for i in tokenizer.eog_ids if self._guide.text(i) != self._close]

    def begin(self, prompt: Sequence[int]) -> None:
        """The prompt may have opened the thought, or closed it."""
        end = self._tokenizer.decode(prompt[-16:], special=True).rstrip()
        closed = end.endswith(self._markers.close)
        self._state = THINKING if end.endswith(self._markers.open) else ANSWERING if closed else BETWEEN
        self._tail = b""  # of a thought: what may be the beginning of its end
        self._answer_anew()

    def _answer_anew(self, n_line_ends=0):
        """Markup is complete; what comes now may be the answer, after so many line ends at most."""
        self._rules.begin(())
        self._pending, self._fits = list[int](), True  # tokens of markup, and whether they may be an answer
        self._n_line_ends = n_line_ends

    def mask(self) -> np.ndarray:
        """Which tokens may come next, bool (V,)."""
        if self._state == ANSWERING:
            return self._rules.mask()
        if self._state == THINKING:
            allowed_V = np.ones(len(self._guide.tokens), bool)
            allowed_V[self._ends] = False
            for n, ids in self._guide.overlong(self._close).items():
                if self._tail.endswith(self._close[:n]):
                    allowed_V[ids] = False
            return allowed_V
        allowed_V = self._rules.mask() if self._fits else np.zeros(len(self._guide.tokens), bool)
        n = len(self._pending)
        allowed_V[[ids[n] for ids in self._markup if ids[:n] == self._pending]] = True
        allowed_V[[i for i, n in self._guide.line_ends.items() if n <= self._n_line_ends]] = True
        return allowed_V

    def take(self, token_id: int) -> None:
        """The token comes next."""
        if self._state == ANSWERING:
            self._rules.take(token_id)
        elif self._state == THINKING:
            self._tail += self._guide.text(token_id)
            if self._close in self._tail:
                self._state = BETWEEN
                self._markup = self._markup_after
                self._answer_anew(n_line_ends=2 if self._tail.endswith(self._close) else 0)
                self._tail = b""
            self._tail = self._tail[-len(self._close) :]
        elif self._guide.line_ends.get(token_id, 3) <= self._n_line_ends:
            self._n_line_ends -= self._guide.line_ends[token_id]
        else:
            self._between(token_id)

    def _between(self, token_id):
        self._pending.append(token_id)
        self._n_line_ends = 0
        if self._pending in self._markup:
            self._state = THINKING if self._pending == self._open else BETWEEN
            self._answer_anew()
            return
        self._fits = self._fits and self._rules.take(token_id)
        if not any(ids[: len(self._pending)] == self._pending for ids in self._markup):
            self._state = ANSWERING

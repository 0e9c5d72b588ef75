"""A run, recorded: what the engine did with a prompt, token by token, and the arrays it did it with.

The run goes as any other: the prompt is read, a token is drawn, and so on. First it runs unwatched, for its
logits and timings; then once more with the same draws and a recorder that looks on. Of a long prompt the
first token, the last ones and those that are written have rows of their own; attention to the tokens between
is summed in one column, so that shares still sum to 1.

Shape key: R rows kept, C columns kept, N query heads, L layers, V vocabulary.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..loader import GGUF
from ..samplers.options import Sampling
from .keeping import BETWEEN, Keeper

LAST = 63  # tokens at the end of a long prompt that have rows of their own


@dataclass(frozen=True, eq=False)
class Run:
    """What happened. A row stands for a token that the model has read; the last one written is not read."""

    llm: Any
    file: GGUF
    ids: list[int]  # of the prompt and of what was written
    n_prompt: int
    sampling: Sampling
    seed: int
    chat: bool
    rows: np.ndarray  # (R,): the positions that are kept
    columns: np.ndarray  # (C,): the same with BETWEEN in its place, where some are left out
    kept: dict[tuple[str, int], np.ndarray]  # (R, ...) by name and layer; of kq_soft_max (N, R, C)
    states: dict[tuple[str, int], list[np.ndarray]]  # of recurrent layers, after each pass
    logits: np.ndarray  # (tokens written, V): what each was drawn from
    seconds: list[float]  # of each step; the first reads the prompt
    layer_seconds: np.ndarray  # (passes, L): of each layer in each pass, while it was watched
    same: bool  # whether the recorded run's logits equal the unwatched one's, bit for bit
    end: str  # what ended the text
    worked_out: dict[str, Any] = field(default_factory=dict)  # by scenes, for one another

    @property
    def n_new(self) -> int:
        """The number of tokens written."""
        return len(self.ids) - self.n_prompt

    @property
    def n_between(self) -> int:
        """The number of tokens that have no row."""
        return len(self.ids) - 1 - len(self.rows)

    @property
    def targets(self) -> list[int]:
        """The token that came after each row."""
        return [self.ids[position + 1] for position in self.rows]

    @property
    def step_rows(self) -> dict[int, int]:
        """{row: step} of the rows after which the model wrote a token."""
        return {len(self.rows) - self.n_new + step: step for step in range(self.n_new)}

    def stack(self, name: str) -> dict[int, np.ndarray]:
        """The arrays of a name, by layer."""
        return {layer: array for (found, layer), array in self.kept.items() if found == name}


def rows_of(n_prompt: int, n_new: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions that have a row, and the columns, of so many tokens.

    >>> rows_of(3, 2)
    (array([0, 1, 2, 3]), array([0, 1, 2, 3]))
    """
    rows = np.arange(n_prompt + n_new - 1)
    if n_prompt <= LAST + 3:
        return rows, rows
    rows = np.array([0, *rows[n_prompt - LAST :]])
    return rows, np.array([0, BETWEEN, *rows[1:]])


def record(
    llm,
    file: GGUF,
    prompt_ids: Sequence[int],
    names: Iterable[str],
    *,
    max_tokens: int,
    seed: int,
    sampling: Sampling,
    ignore_eos: bool = False,
    chat: bool = False,
) -> Run:
    """Run a prompt and keep the arrays of these names. Raises what `LLM.tokens` raises."""
    options = {"max_tokens": max_tokens, "seed": seed, "sampling": sampling, "ignore_eos": ignore_eos}
    times, tokens = [time.perf_counter()], []
    for token in llm.tokens(prompt_ids, **options):
        tokens.append(token)
        times.append(time.perf_counter())
    ids = [*prompt_ids, *(token.id for token in tokens)]
    rows, columns = rows_of(len(prompt_ids), len(tokens))
    recorder = Recorder(rows, columns)
    watched = llm.watched(recorder.see, {"inp_embd", *names})
    again = list(watched.tokens(prompt_ids, **options))
    return Run(
        llm=llm,
        file=file,
        ids=[int(token_id) for token_id in ids],
        n_prompt=len(prompt_ids),
        sampling=sampling,
        seed=seed,
        chat=chat,
        rows=rows,
        columns=columns,
        kept=recorder.keeper.arrays,
        states=recorder.keeper.states,
        logits=np.stack([token.logits for token in tokens]),
        seconds=np.diff(times).tolist(),
        layer_seconds=recorder.layer_seconds(len(llm.config.layers)),
        same=len(again) == len(tokens)
        and all(np.array_equal(a.logits, b.logits) for a, b in zip(again, tokens, strict=True)),
        end=tokens[-1].end or "",
    )


class Recorder:
    """A keeper that also takes the time: what passes between two arrays is the engine's, in that layer."""

    def __init__(self, rows: np.ndarray, columns: np.ndarray):
        """Of a text, these positions and columns."""
        self.keeper = Keeper(rows, columns)
        self._seconds: list[dict[int, float]] = []  # of each pass, by layer
        self._left = 0.0  # when the last array was given back

    def see(self, name: str, layer: int, array: np.ndarray) -> None:
        """Keep what is wanted of an array, outside of the time that is taken."""
        came = time.perf_counter()
        if name == "inp_embd":  # the first of a pass
            self._seconds.append({})
        else:
            spent = self._seconds[-1]
            spent[layer] = spent.get(layer, 0.0) + came - self._left
        self.keeper.see(name, layer, array)
        self._left = time.perf_counter()

    def layer_seconds(self, n_layers: int) -> np.ndarray:
        """The seconds of each layer in each pass, those of the keeper not among them; (passes, L)."""
        return np.array([[spent.get(i, 0.0) for i in range(n_layers)] for spent in self._seconds])

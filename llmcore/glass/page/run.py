"""What all scenes need of a run: its tokens, what came next at each, and what was likely.

Shape key: R rows, V vocabulary, K best.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain

import numpy as np

from ...ops import softmax
from ..lens import best_of, unembedded
from ..recording import Run
from .arrays import exact, whole

BEST = 64  # candidates that are kept after a token of the prompt
BEST_OF_STEP = 512  # and after one that the model wrote the next token after


def what_all_need(run: Run) -> dict:
    """The part of the page's data that belongs to no scene."""
    config = run.llm.config
    likely = candidates(run)
    runners_up = [
        next(int(i) for i in row["ids"] if i != target)
        for row, target in zip(likely, run.targets, strict=True)
    ]
    steps = run.step_rows
    return {
        "model": run.file.path.name.removesuffix(".gguf"),
        "architecture": config.architecture,
        "prompt": run.n_prompt,
        "ids": whole(run.ids),
        "rows": whole(run.rows),
        "columns": whole(run.columns),
        "between": run.n_between,
        "targets": whole(run.targets),
        "others": whole(runners_up),
        "steps": [steps.get(row, -1) for row in range(len(run.rows))],
        "vocabulary": config.vocab_size,
        "width": config.d_model,
        "layers": len(config.layers),
        "tokens": texts_of(run, {*run.ids, *(int(i) for row in likely for i in row["ids"])}),
        "candidates": [
            {"ids": whole(row["ids"]), "logits": exact(row["logits"]), "lse": row["lse"]} for row in likely
        ],
        "chat": run.chat,
        "same": run.same,
        "end": run.end,
    }


def texts_of(run: Run, ids) -> dict[int, str]:
    """The texts of tokens, for display; bytes that are no UTF-8 as U+FFFD."""
    return {int(i): run.llm.tokenizer.token_text(int(i)) for i in sorted(ids)}


@lru_cache(maxsize=1)
def candidates(run: Run) -> list[dict]:
    """The best next tokens after each row, their logits, and log sum exp of all logits.

    After a row that the model went on from, the logits are those that it drew from; after the others they are
    computed here, many rows at a time.
    """
    steps, found = run.step_rows, []
    others = [row for row in range(len(run.rows)) if row not in steps]
    logits = dict(zip(others, logits_after(run, others), strict=True))
    for row in range(len(run.rows)):
        logits_V = run.logits[steps[row]] if row in steps else logits[row]
        ids = best_of(logits_V[None], BEST_OF_STEP if row in steps else BEST)[0]
        logits_64 = logits_V.astype(np.float64)
        lse = float(logits_64.max() + math.log(np.exp(logits_64 - logits_64.max()).sum()))
        found.append({"ids": ids, "logits": logits_V[ids], "lse": lse})
    return found


def logits_after(run: Run, rows: list[int]) -> Iterator[np.ndarray]:
    """The logits (V,) after rows, one after another."""
    x_RD = run.kept["l_out", len(run.llm.config.layers) - 1]
    return chain.from_iterable(unembedded(run.llm, x_RD[rows]))


def summary_of(run: Run) -> dict:
    """What a check from outside reads; the page adds `checks`."""
    steps = []
    for logits_V, token_id in zip(run.logits, run.ids[run.n_prompt :], strict=True):
        best, p_V = best_of(logits_V[None], 5)[0], softmax(logits_V.astype(np.float64))
        steps.append({"id": token_id, "top": [[int(i), float(logits_V[i]), float(p_V[i])] for i in best]})
    return {
        "prompt_ids": run.ids[: run.n_prompt],
        "new_ids": run.ids[run.n_prompt :],
        "steps": steps,
        "lens": lens_of(run),
        "checks": {},
    }


def lens_of(run: Run) -> list[int]:
    """The best next token after each layer, at the last token of the prompt."""
    row = len(run.rows) - run.n_new
    x_LD = np.stack([run.kept["l_out", i][row] for i in range(len(run.llm.config.layers))])
    best = np.concatenate([best_of(logits_LV, 1)[:, 0] for logits_LV in unembedded(run.llm, x_LD)]).tolist()
    return [*best[:-1], int(best_of(run.logits[:1], 1)[0, 0])]

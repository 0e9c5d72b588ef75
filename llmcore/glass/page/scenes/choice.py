"""Which token is taken: the filters one after another, and the draw, as the engine did it.

The steps are done once more here, with the same filters and the same numbers drawn, so that what each filter
left and the number that decided can be shown; the token must come out the same.
"""

import copy
from importlib import import_module
from typing import Any

import numpy as np

from ....ops import softmax
from ....samplers import prepare
from ....sampling import FILTERS, Text, filters_on, sample
from ...recording import Run
from ..arrays import exact, whole

WANTED: frozenset[str] = frozenset()
MOST = 512  # candidates of a draw that are kept
SHOWN = 12  # candidates of which is said what removed them
SIMPLE = {"top_k", "top_p", "min_p", "temperature"}  # filters that the page can work out itself
OPTIONS = {"penalties": "repeat_penalty", "dry": "dry_multiplier", "typ_p": "typical_p"}
OPTIONS |= {"xtc": "xtc_probability"}
SETTINGS = ("temperature", "top_k", "top_p", "min_p")


def part(run: Run) -> dict | None:
    """The stages of each step, and the settings."""
    names = filters_on(run.sampling)
    return {
        "settings": {name: getattr(run.sampling, name) for name in SETTINGS},
        "names": names,
        "others": {name: told(run, name) for name in names if name not in SIMPLE},
        "order": [name for name in run.sampling.sequence if name in SIMPLE],
        "simple": set(names) <= SIMPLE,
        "seed": run.seed,
        "steps": stages_of(run),
    }


def code(run: Run) -> list:
    """The pipeline and its filters."""
    names = [name for name in filters_on(run.sampling) if name not in FILTERS]
    return [sample, *(import_module(f"llmcore.samplers.{name}").keep for name in names)]


def told(run: Run, name: str) -> str:
    """The value that says most of a rarer filter."""
    return str(getattr(run.sampling, OPTIONS.get(name, name), ""))


def stages_of(run: Run) -> list[dict]:
    """For each token written: the candidates left after each filter, what removed the likeliest ones, the
    number drawn, and the stretch of the line from 0 to 1 on which it fell.
    """
    rng = np.random.default_rng(run.seed)
    prepared = prepare(run.sampling, run.llm.tokenizer)
    found = []
    for step, (logits_V, taken) in enumerate(zip(run.logits, run.ids[run.n_prompt :], strict=True)):
        text = Text(run.ids[: run.n_prompt + step], rng, *prepared)
        found.append(stages(logits_V, taken, run.sampling, text))
    return found


def stages(logits_V: np.ndarray, taken: int, sampling, text: Text) -> dict:
    """The stages of one draw. Raises AssertionError if it ends elsewhere than the engine did."""
    ids, logits = np.arange(len(logits_V)), logits_V
    best = np.argsort(-logits_V, kind="stable")[:SHOWN]
    left: list[int] = []
    removed: dict[int, str] = {}
    for name in filters_on(sampling):
        keep = FILTERS.get(name) or import_module(f"llmcore.samplers.{name}").keep
        before = {int(i) for i in best if i in ids}
        ids, logits = keep(ids, logits, sampling, text)
        removed |= dict.fromkeys(before - {int(i) for i in ids if i in best}, name)
        left.append(len(ids))
    about: dict[str, Any] = {"left": left, "removed": removed, "taken": taken}
    if sampling.temperature <= 0:
        assert taken == int(ids[logits == logits.max()].min())
        return about | {"number": None}
    order = np.argsort(ids)
    ids, p = ids[order], softmax(logits[order].astype(np.float64))
    number = float(copy.deepcopy(text.rng).random())
    assert taken == int(text.rng.choice(ids, p=p))
    edges = np.concatenate([[0.0], np.cumsum(p)]) / np.cumsum(p)[-1]
    at = int(np.flatnonzero(ids == taken)[0])
    about |= {"number": number, "from": float(edges[at]), "to": float(edges[at + 1])}
    places = np.searchsorted(ids, best)
    about["shown"] = {int(i): float(p[at]) for i, at in zip(best, places, strict=True) if i in ids}
    if len(ids) <= MOST:
        about |= {"ids": whole(ids), "chances": exact(p)}
    return about

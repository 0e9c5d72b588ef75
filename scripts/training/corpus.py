"""What a model is trained on: batches of token ids, drawn anew for each step from the seed and the step's
number alone.

So training that was interrupted needs no memory of where its random numbers were.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training import grammar
from training.archive import BOS_ID, EOS_ID
from training.backprop import PAD

VOCABULARY_SENTENCES = 10_000  # the tokenizer learns from so many sentences of the grammar
HELD_OUT_SENTENCES = 2_000
HELD_OUT_SHARE = 0.05  # of a text: its end
HELD_OUT_WINDOWS = 200  # at most


@dataclass(frozen=True)
class Corpus:
    """Batches are ids (B, T), padded with PAD."""

    batch: Callable[[int], np.ndarray]  # that of a step
    held_out: list[np.ndarray]  # batches that no step sees
    floor: float | None  # the entropy in nats per predicted token, where it is known


def grammar_lines(seed: int) -> list[str]:
    """Sentences to learn a vocabulary from."""
    return sentences(f"{seed} vocabulary", VOCABULARY_SENTENCES)


def sentences(seed: str, count: int) -> list[str]:
    """Random sentences of the grammar, the same for the same seed."""
    rng = random.Random(seed)
    return [grammar.sample(rng) for _ in range(count)]


def grammar_corpus(tokenizer, seed: int, batch: int, context: int) -> Corpus:
    """Each text is one sentence between BOS and EOS, and never seen before; one past the context is cut.

    The model predicts every token but BOS. Encoding is a one-to-one function of the sentence, so its tokens
    have the sentence's entropy, and the best possible loss is that entropy over the expected number of
    tokens: sum over words of (expected count) (tokens of the word), since BPE joins nothing across spaces,
    and one for EOS.
    """

    def ids(name, count):
        texts = [tokenizer.encode(text, add_special=False) for text in sentences(f"{seed} {name}", count)]
        return pad([[BOS_ID, *text, EOS_ID][: context + 1] for text in texts])

    counts = grammar.expected_words()
    tokens = 1 + sum(n * len(tokenizer.encode(word, add_special=False)) for word, n in counts.items())
    held_out = [ids(f"held out {start}", 100) for start in range(0, HELD_OUT_SENTENCES, 100)]
    return Corpus(lambda step: ids(step, batch), held_out, grammar.entropy() / tokens)


def text_corpus(tokenizer, text: str, seed: int, batch: int, context: int) -> Corpus:
    """Each text is BOS and a stretch of `context` tokens from anywhere in `text`; its end is held out.

    Raises ValueError where the text is too short for that.
    """
    ids = np.array(tokenizer.encode(text, add_special=False))
    n_held_out = max(context, int(HELD_OUT_SHARE * len(ids)))
    if len(ids) < n_held_out + context:
        raise ValueError(
            f"the text has {len(ids)} tokens, and a context of {context} needs at least {2 * context}"
        )
    training, held_out = ids[:-n_held_out], ids[-n_held_out:]

    def windows(ids, starts):
        return np.column_stack([np.full(len(starts), BOS_ID), *(ids[starts + i] for i in range(context))])

    def draw(step):
        rng = np.random.default_rng([seed, step])
        return windows(training, rng.integers(0, len(training) - context + 1, batch))

    starts = np.arange(0, n_held_out - context + 1, context)[:HELD_OUT_WINDOWS]
    return Corpus(
        draw, [windows(held_out, part) for part in np.array_split(starts, -(-len(starts) // 20))], None
    )


def pad(texts: list[list[int]]) -> np.ndarray:
    """Texts of different lengths as one array (B, T)."""
    ids_BT = np.full((len(texts), max(map(len, texts))), PAD)
    for row, text in zip(ids_BT, texts, strict=True):
        row[: len(text)] = text
    return ids_BT

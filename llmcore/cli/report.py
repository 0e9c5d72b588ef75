"""What a command says beside the text, on standard error."""

import sys
import time
from collections.abc import Iterable, Iterator

import numpy as np

from ..llm import LLM
from ..ops import log_softmax
from ..tokenizers.streaming import END_OF_TEXT, Token


class Clock:
    """Watches tokens go by: when each came, and how the last one ended."""

    def __init__(self):
        """The clock starts now."""
        self.times = [time.perf_counter()]
        self.end: str | None = None

    def watch(self, tokens: Iterable[Token]) -> Iterator[Token]:
        """The same tokens; notes the time and the end of each."""
        for token in tokens:
            self.times.append(time.perf_counter())
            self.end = token.end
            yield token


def timings(times: list[float], n_prompt: int, end: str, n_cached: int = 0) -> str:
    """One line: how long the prompt took, n_cached of it known, how long the text, and how it ended."""
    n_tokens = len(times) - 1
    prompt = f"prompt {n_prompt} tokens" + (f" after {n_cached} in the cache" if n_cached else "")
    if n_tokens == 0:
        return f"{prompt} | {end}"
    n_text = n_tokens - (end == END_OF_TEXT)
    prefill, decode = times[1] - times[0], times[-1] - times[1]
    speed = f" ({(n_tokens - 1) / decode:.1f} tokens/s)" if n_tokens > 1 else ""
    return (
        f"{prompt} in {prefill:.2f} s ({n_prompt / prefill:.1f} tokens/s)"
        f" | text {n_text} tokens in {decode:.2f} s{speed} | {end}"
    )


def say_choices(say, llm: LLM, given: dict, seed: int) -> None:
    """Say what was chosen for the user: the seed, what the file says about sampling, how weights are held."""
    parts = [f"seed {seed}"] if llm.sampling(**given).temperature > 0 else []
    if line := " | ".join([*parts, *said_by_file(llm, given)]):
        say(line)
    say(f"weights: {llm.held}")


def said_by_file(llm: LLM, given: dict) -> list[str]:
    """The options of sampling that the file names and nobody gave, in words; none if there are none."""
    own = {name: value for name, value in llm.file_sampling.items() if name not in given}
    shown = [
        f"{name} {';'.join(value) if isinstance(value, tuple) else value}" for name, value in own.items()
    ]
    return [f"from the file: {', '.join(shown)}"] if shown else []


def report_logprobs(tokens: Iterable[Token], llm: LLM, n: int) -> Iterator[Token]:
    """The same tokens; tells the log-probability of each, and those of the n most likely."""

    def shown(token_id):
        return f"{llm.tokenizer.token_text(token_id)!r} {logprobs_V[token_id]:.4f}"

    for token in tokens:
        logprobs_V = log_softmax(token.logits.astype(np.float64))
        best = np.argsort(-logprobs_V, kind="stable")[:n]
        print(f"logprob {shown(token.id)} | best {', '.join(map(shown, best))}", file=sys.stderr, flush=True)
        yield token

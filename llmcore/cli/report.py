"""What a command says beside the text, on standard error."""

import sys
import time

import numpy as np

from ..llm import LLM
from ..ops import log_softmax
from ..writing import END_OF_TEXT

class Clock:
    """Watches tokens go by, and says how long they took."""

    def __init__(self):
        self.times = [time.perf_counter()]
        self.end = None

    def watch(self, tokens):
        """The same tokens; notes the time and the end of each."""
        for token in tokens:
            self.times.append(time.perf_counter())
            self.end = token.end
            yield token

    def line(self, n_prompt, end, n_cached=0) -> str:
        """One line of timings: of n_prompt tokens that were processed, after n_cached that need not be.

        The first token comes out of the prompt's pass, so decoding is counted from there.
        """
        n_tokens = len(self.times) - 1
        prompt = f"prompt {n_prompt} tokens" + (f" after {n_cached} in the cache" if n_cached else "")
        if n_tokens == 0:
            return f"{prompt} | {end}"
        n_text = n_tokens - (end == END_OF_TEXT)
        prefill, decode = self.times[1] - self.times[0], self.times[-1] - self.times[1]
        speed = f" ({(n_tokens - 1) / decode:.1f} tokens/s)" if n_tokens > 1 else ""
        return (
            f"{prompt} in {prefill:.2f} s ({n_prompt / prefill:.1f} tokens/s)"
            f" | text {n_text} tokens in {decode:.2f} s{speed} | {end}"
        )


def report_logprobs(tokens, llm: LLM, n: int):
    """The same tokens; writes the log-probability of each to standard error, and those of the n most likely."""

    def shown(token_id):
        return f"{llm.tokenizer.token_text(token_id)!r} {logprobs_V[token_id]:.4f}"

    for token in tokens:
        logprobs_V = log_softmax(token.logits.astype(np.float64))
        best = np.argsort(-logprobs_V, kind="stable")[:n]
        print(f"logprob {shown(token.id)} | best {', '.join(map(shown, best))}", file=sys.stderr, flush=True)
        yield token


def say_how(say, llm, sampling, seed) -> None:
    """Say what was chosen for the user: how weights are held, and the seed."""
    if sampling.temperature > 0:
        say(f"seed {seed}")
    say(f"weights: {llm.held}")

"""A server's greedy text held against the logits of the model file, token by token.

The server's own tokens are followed: at each position both know the same text, so that one difference does
not make all that follows differ. Of what a server shows, its likeliest tokens, all else is one bucket:

    KL = sum over shown tokens of p (ln p - ln q)  +  rest_p (ln rest_p - ln rest_q)

with our p and the server's q. It is at most the KL over the whole vocabulary, since putting outcomes into one
bucket cannot tell two distributions further apart (Cover & Thomas, Elements of Information Theory, 2.7).
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from judging.server import Reply, Shown
from llmcore.llm import LLM
from llmcore.model import prefill, unembed
from llmcore.ops import log_softmax
from llmcore.tokenizer import Tokenizer
from llmcore.writing import finite

LEAST_REST = 1e-6  # a bucket with less than float32 can tell says nothing
END = "(end of text)"
HALF = "\ufffd"  # what stands for a piece of a character


@dataclass(frozen=True)
class Difference:
    """The first token that differs: what each of the two finds the likeliest after the same text."""

    position: int
    ours: str
    theirs: str
    apart: float  # how much likelier we find ours, in nats


@dataclass
class Comparison:
    """What came of one prompt."""

    name: str  # "prompt 3", "conversation 1"
    n_prompt: int  # tokens of the prompt, by the file
    reply: Reply
    n_tokens: int = 0  # positions that were compared
    n_same: int = 0  # ... where both find the same token the likeliest
    first: Difference | None = None
    gaps: list[float] = field(default_factory=list)  # their log-probability less ours, of each token shown
    kl: list[float] = field(default_factory=list)  # of each position
    n_not_greedy: int = 0  # positions where the server took another token than its own likeliest


@dataclass(frozen=True)
class Model:
    """The model of the file."""

    llm: LLM

    @cached_property
    def _ids_of(self) -> dict[str, list[int]]:
        """Every way to write a token -> the tokens that are written so."""
        found = defaultdict(list)
        for i in range(self.llm.tokenizer.vocab_size):
            for text in spellings(self.llm.tokenizer, i):
                found[text].append(i)
        return found

    def candidates(self, shown: Shown) -> list[int]:
        """The tokens that look as a server shows one."""
        if shown.id is not None and 0 <= shown.id < self.llm.tokenizer.vocab_size:
            return [shown.id]
        tokenizer, found = self.llm.tokenizer, self._ids_of.get(shown.text, [])
        if shown.data is not None:
            found = [i for i in found if tokenizer.token_bytes(i, special=True) == shown.data] or found
        return found

    def find(self, shown: Shown, logprobs_V: np.ndarray) -> int | None:
        """The token that a server shows among its likeliest, None if nobody knows.

        Of a few that look alike it is the one as likely as it says; pieces of characters all look alike.
        """
        found = self.candidates(shown)
        if len(found) > 1 and (not shown.text or HALF in shown.text):
            return None
        return min(found, key=lambda i: abs(logprobs_V[i] - shown.logprob), default=None)

    def find_chosen(self, shown: Shown, logprobs_V: np.ndarray, rest: bytes) -> int | None:
        """The token that was chosen, with whose bytes the `rest` of its text begins; None if none fits."""
        found = self.candidates(shown)
        if len(found) > 1:
            found = [i for i in found if _after(rest, self.llm.tokenizer.token_bytes(i)) is not None]
        return max(found, key=lambda i: logprobs_V[i], default=None)

    def steps(self, ids: list[int]) -> Iterator[np.ndarray]:
        """The log-probabilities (V,) of the token after a prompt, then of the one after each id sent back."""
        llm, cache, new = self.llm, self.llm.empty_cache(), list(ids)
        while True:
            *_, x_TD = prefill(llm.weights, llm.config, np.array(new), cache)
            (logits_V,) = unembed(llm.weights, llm.config, x_TD[-1:])
            finite(logits_V, cache.length)
            new = [(yield log_softmax(logits_V.astype(np.float64)))]

    def compare(self, name: str, ids: list[int], reply: Reply, n_most: int) -> Comparison:
        """Hold a reply to the prompt `ids`, of at most n_most tokens, against the logits."""
        result = Comparison(name, len(ids), reply)
        if reply.steps is None:
            self._compare_text(result, ids, n_most)
        else:
            self._compare_steps(result, ids, n_most)
        return result

    def _compare_steps(self, result, ids, n_most):
        following = self.steps(ids)
        logprobs_V, rest = next(following), result.reply.text.encode("utf-8", "surrogatepass")
        for step in result.reply.steps:
            token_id = self.find_chosen(step.chosen, logprobs_V, rest)
            if token_id is None:
                return
            rest = _after(rest, self.llm.tokenizer.token_bytes(token_id)) or b""
            _count(result, self.llm.tokenizer, logprobs_V, token_id)
            shown = {i: item.logprob for item in step.top if (i := self.find(item, logprobs_V)) is not None}
            shown[token_id] = step.chosen.logprob
            result.n_not_greedy += shown[token_id] < max(shown.values()) - 1e-6
            result.gaps += [lp - logprobs_V[i] for i, lp in shown.items() if math.isfinite(lp)]
            result.kl.append(shown_kl(logprobs_V, shown))
            logprobs_V = following.send(token_id)
        if result.reply.ended and result.n_tokens < n_most:
            _count(result, self.llm.tokenizer, logprobs_V, self._likeliest_end(logprobs_V))

    def _compare_text(self, result, ids, n_most):
        """Without log-probabilities our own greedy text is followed, up to where the server's differs."""
        tokenizer, theirs = self.llm.tokenizer, result.reply.text.rstrip(HALF)
        following, written = self.steps(ids), list[int]()
        logprobs_V = next(following)
        while len(written) < n_most:
            best = int(logprobs_V.argmax())
            said = tokenizer.decode([*ids, *written]).removeprefix(tokenizer.decode(ids))
            now = tokenizer.decode([*ids, *written, best]).removeprefix(tokenizer.decode(ids))
            ends = best in tokenizer.eog_ids
            if len(said.rstrip(HALF)) >= len(theirs) and not ends:
                if result.reply.ended:
                    _count(result, tokenizer, logprobs_V, self._likeliest_end(logprobs_V))
                return
            if ends or not theirs.startswith(now.rstrip(HALF)):
                rest = theirs[len(said.rstrip(HALF)) :]
                other = tokenizer.encode(rest, add_special=False)[:1] if rest else []
                same = ends and not rest
                _count(result, tokenizer, logprobs_V, best if same or not other else other[0])
                return
            _count(result, tokenizer, logprobs_V, best)
            written.append(best)
            logprobs_V = following.send(best)

    def _likeliest_end(self, logprobs_V):
        return max(self.llm.tokenizer.eog_ids, key=lambda i: logprobs_V[i], default=int(logprobs_V.argmax()))


def _after(rest, data):
    """What is left of a text behind the bytes of a token, None if it begins otherwise.

    The end of a text may cut its last token short, and a server may take off its first space.
    """
    for start in (data, data.removeprefix(b" ")):
        if rest.startswith(start) or start.startswith(rest):
            return rest[len(start) :]
    return None


def _count(result, tokenizer, logprobs_V, token_id):
    """Count a position at which the server took a token."""
    best = int(logprobs_V.argmax())
    ends = tokenizer.eog_ids
    same = token_id == best or (token_id in ends and best in ends)
    result.n_tokens += 1
    result.n_same += same
    if not same and result.first is None:
        ours, theirs = (END if i in ends else tokenizer.token_text(i) for i in (best, token_id))
        apart = float(logprobs_V[best] - logprobs_V[token_id])
        result.first = Difference(result.n_tokens, ours, theirs, apart)


def spellings(tokenizer: Tokenizer, token_id: int) -> set[str]:
    """How servers write a token: as text, with or without half characters, or as the vocabulary has it."""
    data = tokenizer.token_bytes(token_id, special=True)
    return {data.decode("utf-8", "replace"), data.decode("utf-8", "ignore"), tokenizer.tokens[token_id]}


def shown_kl(logprobs_V: np.ndarray, shown: dict[int, float]) -> float:
    """KL(ours || theirs) over the tokens shown and the bucket of all others; never below 0 but for rounding.

    >>> p = np.log([0.5, 0.25, 0.25])
    >>> round(shown_kl(p, {0: math.log(0.25)}), 6)  # 0.5 ln 2 + 0.5 ln(0.5 / 0.75)
    0.143841
    """
    ours = {i: float(logprobs_V[i]) for i in shown}
    kl = sum(math.exp(lp) * (lp - shown[i]) for i, lp in ours.items())
    rest_p, rest_q = (1 - sum(map(math.exp, values.values())) for values in (ours, shown))
    if rest_p > LEAST_REST and rest_q > LEAST_REST:
        kl += rest_p * (math.log(rest_p) - math.log(rest_q))
    return kl

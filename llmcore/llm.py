"""A loaded model: text in, text out. The loop that every engine has at its heart: predict, choose, append, again."""

import codecs
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from .cache import KVCache
from .chat import encode_chat
from .config import Config, read_config
from .errors import ContextOverflow, ModelFileError
from .linear import available_memory, expanding
from .loader import read_gguf
from .model import forward, prefill, unembed
from .sampling import Sampling, sample
from .tokenizer import Tokenizer
from .weights import Weights, map_weights

WEIGHTS = ("auto", "float32")  # the ways to hold weights; auto is float32 so far (int8 and mapped: issue 5)

END_OF_TEXT, MAX_TOKENS, CONTEXT_FULL = "end of text", "max tokens reached", "context full"


@dataclass(frozen=True)
class Token:
    """One step of generation."""

    id: int
    logits: np.ndarray  # (V,) as the model gave them, before any filter
    end: str | None = None  # on the last token: END_OF_TEXT (the token itself says so and has no text), MAX_TOKENS, ...


def load(path, *, weights: str = "auto", context_length: int | None = None, progress: bool = False) -> "LLM":
    """Open a GGUF file and make it ready to run.

    weights         how matrices are held, one of WEIGHTS
    context_length  tokens of prompt and text together; by default as many as the model was trained on
    progress        show a bar while weights are expanded, if standard error is a terminal and it takes a second

    Raises ModelFileError and UnsupportedModel, and MemoryError for a model that does not fit.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights is {weights!r}; it must be one of {', '.join(WEIGHTS)}")
    if context_length is not None and context_length < 1:
        raise ValueError(f"context_length is {context_length}; it must be 1 or more")
    file = read_gguf(path)
    if not file.tensors:
        raise ModelFileError(f"{file.path}: holds a vocabulary and no tensors; llmcore.load_tokenizer opens it")
    config = read_config(file.metadata, file.path)
    context_length = context_length or config.context_length
    if context_length > config.context_length:
        if config.family.positions:
            raise ValueError(
                f"context_length is {context_length}, but this model has {config.context_length} positions"
            )
        warnings.warn(
            f"a context of {context_length} tokens is more than the {config.context_length} this model was trained on",
            stacklevel=2,
        )
    mapped, jobs = map_weights(file, config, context_length)
    _check_memory(file.path, jobs)
    with _progress_bar(progress, jobs) as report, expanding(jobs, report):
        tokenizer = Tokenizer.from_metadata(file.metadata, file.path)  # made while threads expand the weights
        if tokenizer.vocab_size != config.vocab_size:
            raise ModelFileError(
                f"{file.path}: the tokenizer has {tokenizer.vocab_size} tokens, but the model {config.vocab_size}"
            )
    return LLM(config, tokenizer, mapped, context_length)


def _check_memory(path, jobs):
    """Refuse a model that does not fit, or the system would end some process, ours or another."""
    needed, available = sum(weight_IO.nbytes for _, weight_IO in jobs), available_memory()
    if available is not None and needed > available:
        needed, available = f"{needed / 1e9:.1f} GB in float32", f"{available / 1e9:.1f} GB"
        raise MemoryError(f"{path}: takes {needed}, and {available} are free; take a smaller model")


def load_tokenizer(path) -> Tokenizer:
    """The tokenizer of a GGUF file, which may hold a vocabulary alone. Raises ModelFileError, UnsupportedModel."""
    file = read_gguf(path)
    return Tokenizer.from_metadata(file.metadata, file.path)


@dataclass(frozen=True)
class LLM:
    """A model in memory. It keeps no state between calls: every text has a cache of its own."""

    config: Config
    tokenizer: Tokenizer
    weights: Weights
    context_length: int

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """The logits after every token of a text; (T,) -> float32 (T, V)."""
        ids_T = self._checked(ids)
        logits_TV = np.empty((len(ids_T), self.config.vocab_size), np.float32)
        cache = KVCache(self.config)
        for x_TD in prefill(self.weights, self.config, ids_T, cache):
            logits_TV[cache.length - len(x_TD) : cache.length] = unembed(self.weights, self.config, x_TD)
        return logits_TV

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        ignore_eos: bool = False,
    ) -> Iterator[str]:
        """Continue a prompt (text or token ids); yields the text in pieces, as soon as each is certain.

        Ends at the model's end of text (unless ignore_eos), before a stop string, after max_tokens, or when the context
        is full, of which it warns. Raises ContextOverflow if the prompt alone is too long, ValueError for a value out
        of range.
        """
        how = Sampling(temperature, top_k, top_p, min_p, repeat_penalty)
        tokens = self.tokens(prompt, max_tokens=max_tokens, how=how, seed=seed, ignore_eos=ignore_eos)
        return until_stop(self.text(_warn_of_full_context(tokens, self.context_length)), stop)

    def chat(self, messages: list[dict], **options) -> Iterator[str]:
        """Answer a conversation, messages like {"role": "user", "content": "Hello"}; the options are `generate`'s.

        Raises what `generate` raises, and what `chat.encode_chat` does.
        """
        return self.generate(encode_chat(self.tokenizer, messages), **options)

    def tokens(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int,
        how: Sampling,
        seed: int | None,
        ignore_eos: bool = False,
        cache: KVCache | None = None,
    ) -> Iterator[Token]:
        """What `generate` is made of: each token chosen, with its logits; the last one says why it is the last.

        A caller may bring a `cache` that holds the first tokens of the prompt, not all: only the rest is processed.
        Afterwards it holds the prompt and every token but the last.
        """
        ids_T = self._checked(self.encode_prompt(prompt) if isinstance(prompt, str) else prompt)
        cache = KVCache(self.config) if cache is None else cache
        if cache.length >= len(ids_T):
            raise ValueError(f"the cache holds {cache.length} tokens, which leaves none of the {len(ids_T)} to process")
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; it must be 1 or more")
        if seed is not None and seed < 0:
            raise ValueError(f"seed is {seed}; it must be 0 or more")
        return self._tokens(ids_T, max_tokens, how, np.random.default_rng(seed), ignore_eos, cache)

    def _tokens(self, prompt_T, max_tokens, how, rng, ignore_eos, cache):
        for x_TD in prefill(self.weights, self.config, prompt_T[cache.length :], cache):
            last_1D = x_TD[-1:]
        ids = prompt_T.tolist()
        while True:
            logits_V = unembed(self.weights, self.config, last_1D)[0]
            token_id = sample(logits_V, ids, how, rng)
            ids.append(token_id)
            end = self._end(ids, len(ids) - len(prompt_T) == max_tokens, ignore_eos)
            yield Token(token_id, logits_V, end)
            if end:
                return
            last_1D = forward(self.weights, self.config, np.array([token_id]), cache)

    def _end(self, ids, is_last_asked_for, ignore_eos):
        if ids[-1] in self.tokenizer.eog_ids and not ignore_eos:
            return END_OF_TEXT
        if is_last_asked_for:
            return MAX_TOKENS
        return CONTEXT_FULL if len(ids) > self.context_length else None

    def text(self, tokens: Iterable[Token]) -> Iterator[str]:
        """The text of tokens, piece by piece. A character may span tokens: its bytes wait until it is whole."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in tokens:
            if token.end != END_OF_TEXT and (piece := decoder.decode(self.tokenizer.token_bytes(token.id))):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a prompt, control tokens written out in it included; one BOS, even if the text brings its own."""
        ids = self.tokenizer.encode(text, add_special=True, parse_special=True)
        return ids[1:] if ids[:2] == [self.tokenizer.bos_id] * 2 else ids

    def _checked(self, ids):
        """The ids as an array, if each is a token and all fit into the context."""
        ids_T = np.asarray(ids)
        if ids_T.size == 0:
            raise ValueError("the prompt is empty: a model continues a text, so give it at least one token")
        if ids_T.ndim != 1 or ids_T.dtype.kind not in "iu":
            raise ValueError(f"token ids must be a list of whole numbers, not {ids_T.ndim}-dimensional {ids_T.dtype}")
        if ids_T.min() < 0 or ids_T.max() >= self.config.vocab_size:
            wrong = ids_T[(ids_T < 0) | (ids_T >= self.config.vocab_size)][0]
            raise ValueError(f"token id {wrong} is not in the vocabulary of {self.config.vocab_size} tokens")
        if len(ids_T) > self.context_length:
            raise ContextOverflow(
                f"the prompt has {len(ids_T)} tokens and the context holds {self.context_length}; "
                "shorten the prompt or, if the model allows it, ask for a longer context"
            )
        return ids_T


def until_stop(pieces: Iterable[str], stop: str | Sequence[str] = ()) -> Iterator[str]:
    """The text up to the stop string that is complete first; however it is cut into pieces, the result is the same.

    What may be the beginning of a stop string is held back until that is decided.
    """
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(stops):
        raise ValueError("a stop string is empty: it would stop before the first character")
    return _until_stop(pieces, stops)


def _until_stop(pieces, stops):
    held = ""
    for piece in pieces:
        held += piece
        found = [(at + len(stop), at) for stop in stops if (at := held.find(stop)) >= 0]
        if found:
            _, start = min(found)
            if start:
                yield held[:start]
            return
        certain = len(held) - max((overlap(held, stop) for stop in stops), default=0)
        if certain:
            yield held[:certain]
            held = held[certain:]
    if held:
        yield held


def overlap(text, stop):
    """The length of the longest end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def _warn_of_full_context(tokens, context_length):
    for token in tokens:
        yield token
        if token.end == CONTEXT_FULL:
            warnings.warn(f"the text ends here because the context of {context_length} tokens is full", stacklevel=2)


@contextmanager
def _progress_bar(wanted, jobs):
    """The function that `expanding` reports bytes to: the update of a tqdm bar, or None."""
    if not wanted:
        yield None
        return
    from tqdm import tqdm  # here, because to import it takes 0.05 s

    total = sum(tensor.nbytes for tensor, _ in jobs)
    # disable=None: only on a terminal; delay: only for what takes longer than a second
    with tqdm(desc="loading", total=total, unit="B", unit_scale=True, delay=1, disable=None, leave=False) as bar:
        yield bar.update

"""A loaded model: `load` opens a file, `LLM` turns text into text."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from .cache import KVCache
from .config import Config, read_config
from .errors import ContextOverflow, ModelFileError
from .loader import read_gguf
from .model import empty_cache, prefill, unembed
from .sampling import Sampling
from .speed.filling import filling
from .speed.holding import WAYS, WEIGHTS, choose
from .speed.machine import VARIABLES, available_memory, keep_freed_memory, use_threads
from .tokenizer import Tokenizer
from .weights import Weights, map_weights
from .writing import CONTEXT_FULL, Token, Writer, decode_tokens, no_guess, until_stop, write


def load(
    path,
    *,
    weights: str = "auto",
    context_length: int | None = None,
    progress: bool = False,
    threads: int | None = None,
) -> "LLM":
    """Open a GGUF file and make it ready to run.

    weights         how matrices are held, one of speed.holding.WEIGHTS
    context_length  tokens of prompt and text together; by default as many as the model was trained on
    progress        show a bar while weights are expanded, if standard error is a terminal and it takes a second
    threads         how many to compute with, in this process and from now on; by default one a core

    Raises ModelFileError and UnsupportedModel, and MemoryError for a model that does not fit.
    """
    _check_arguments(weights, context_length, threads)
    file = read_gguf(path)
    if not file.tensors:
        raise ModelFileError(f"{file.path}: holds a vocabulary and no tensors; llmcore.load_tokenizer opens it")
    config = read_config(file.metadata, file.path)
    context_length = _check_context(config, context_length or config.context_length)
    if not use_threads(threads) and threads is not None:
        warnings.warn(
            f"NumPy's BLAS here cannot be told to use {threads} threads; set {VARIABLES[0]} before Python starts",
            stacklevel=2,
        )
    keep_freed_memory()
    way, why = choose(file, weights, available_memory())
    mapped, jobs = map_weights(file, config, context_length, WAYS[way].empty)
    with _progress_bar(progress, jobs) as report, filling(jobs, report):
        tokenizer = Tokenizer.from_metadata(file.metadata, file.path)  # made while threads expand the weights
        if tokenizer.vocab_size != config.vocab_size:
            raise ModelFileError(
                f"{file.path}: the tokenizer has {tokenizer.vocab_size} tokens, but the model {config.vocab_size}"
            )
    return LLM(config, tokenizer, mapped, context_length, why)


def _check_arguments(weights, context_length, threads):
    if weights not in WEIGHTS:
        raise ValueError(f"weights is {weights!r}; it must be one of {', '.join(WEIGHTS)}")
    for name, value in (("context_length", context_length), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")


def _check_context(config, context_length):
    """The same length, if the model can have it; past what it was trained on with a warning."""
    if context_length > config.context_length:
        if config.family.positions:
            raise ValueError(
                f"context_length is {context_length}, but this model has {config.context_length} positions"
            )
        warnings.warn(
            f"a context of {context_length} tokens is more than the {config.context_length} this model was trained on",
            stacklevel=3,
        )
    return context_length


@contextmanager
def _progress_bar(wanted, jobs):
    """The function that `filling` reports bytes to: the update of a tqdm bar, or None."""
    if not wanted:
        yield None
        return
    from tqdm import tqdm  # here, because its import would slow every start

    total = sum(job.data.nbytes for job in jobs)
    # disable=None: only on a terminal; delay: only for what takes longer than a second
    with tqdm(desc="loading", total=total, unit="B", unit_scale=True, delay=1, disable=None, leave=False) as bar:
        yield bar.update


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
    held: str = ""  # the way the weights are held, and why, in words

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """The logits after every token of a text; (T,) -> float32 (T, V)."""
        ids_T = self._checked(ids)
        logits_TV = np.empty((len(ids_T), self.config.vocab_size), np.float32)
        cache = self.empty_cache()
        for x_TD in prefill(self.weights, self.config, ids_T, cache):
            logits_TV[cache.length - len(x_TD) : cache.length] = unembed(self.weights, self.config, x_TD)
        return logits_TV

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        ignore_eos: bool = False,
        draft: int | None = None,
        **sampling,
    ) -> Iterator[str]:
        """Continue a prompt (text or token ids); yields the text in pieces, as soon as each is certain.

        max_tokens  the most tokens to write
        seed        the same seed gives the same text
        stop        strings before which the text ends
        ignore_eos  go on when the model ends its text
        draft       at most so many tokens are guessed ahead where the text repeats itself: the same text, sooner
        sampling    temperature=0.8, top_k=40 and so on: the fields of `sampling.Sampling`, with its defaults

        Ends at the model's end of text, before a stop string, after max_tokens, or when the context is full, of which it
        warns. Raises ContextOverflow if the prompt alone is too long, ValueError for a value out of range.
        """
        tokens = self.tokens(
            prompt, max_tokens=max_tokens, sampling=Sampling(**sampling), seed=seed, ignore_eos=ignore_eos, draft=draft
        )
        return until_stop(decode_tokens(self.tokenizer, _warn_of_full_context(tokens, self.context_length)), stop)

    def generate_batch(
        self,
        prompts: Iterable[str | Sequence[int]],
        *,
        batch: int = 8,
        max_tokens: int,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        ignore_eos: bool = False,
        **sampling,
    ) -> Iterator[str]:
        """Continue several prompts, `batch` at a time; yields whole texts in the order of the prompts.

        Each is the text that `generate` gives for the prompt alone (and the same seed), since logits differ by rounding
        only; together they take a fraction of the time. Raises what `generate` raises, before anything runs.
        """
        texts = self.texts(
            prompts,
            batch=batch,
            max_tokens=max_tokens,
            sampling=Sampling(**sampling),
            seed=seed,
            stop=stop,
            ignore_eos=ignore_eos,
        )
        return (whole.text for whole in texts)

    def chat(self, messages: list[dict], **options) -> Iterator[str]:
        """Answer a conversation, messages like {"role": "user", "content": "Hello"}; the options are `generate`'s.

        Raises what `generate` raises, and what `chat.encode_chat` does.
        """
        from .chat import encode_chat  # here, because a text that is only continued needs no template

        return self.generate(encode_chat(self.tokenizer, messages), **options)

    def texts(self, prompts, *, batch: int, max_tokens: int, sampling: Sampling, seed, stop=(), ignore_eos=False):
        """What `generate_batch` is made of: each text with the tokens it consists of, and why it ended."""
        from .speed.batching import Whole, write_together  # here, because one text needs no company

        if batch < 1:
            raise ValueError(f"batch is {batch}; it must be 1 or more")
        texts, stops = [], [stop] if isinstance(stop, str) else stop
        for n, prompt in enumerate(prompts, 1):
            try:
                writer = self._writer(prompt, max_tokens, sampling, seed, ignore_eos)
            except ValueError as error:
                raise type(error)(f"prompt {n}: {error}") from None
            texts.append(Whole(writer, self.tokenizer, stops))
        return _warn_of_full_context(write_together(self.weights, self.config, texts, batch), self.context_length)

    def tokens(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling,
        seed: int | None,
        ignore_eos: bool = False,
        draft: int | None = None,
        cache: KVCache | None = None,
    ) -> Iterator[Token]:
        """What `generate` is made of: each token chosen, with its logits; the last one says why it is the last.

        A caller may bring a `cache` that holds the first tokens of the prompt, at most all but the last: only the rest
        is processed. With drafts it may be ahead of the text afterwards: the caller truncates it before the next use.
        """
        writer = self._writer(prompt, max_tokens, sampling, seed, ignore_eos)
        cache = self.empty_cache() if cache is None else cache
        if cache.length >= writer.n_prompt:
            raise ValueError(
                f"the cache holds {cache.length} tokens, which leaves none of the {writer.n_prompt} to process"
            )
        guesser = no_guess
        if draft is not None:
            from .speed.drafting import Lookup  # here, because a text without drafts needs none

            guesser = Lookup(draft)
        return write(self.weights, self.config, writer, cache, guesser)

    def empty_cache(self) -> KVCache:
        """A cache for one text."""
        return empty_cache(self.config)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a prompt, control tokens written out in it included; one BOS, even if the text brings its own."""
        ids = self.tokenizer.encode(text, add_special=True, parse_special=True)
        return ids[1:] if ids[:2] == [self.tokenizer.bos_id] * 2 else ids

    def _writer(self, prompt, max_tokens, sampling, seed, ignore_eos):
        ids_T = self._checked(self.encode_prompt(prompt) if isinstance(prompt, str) else prompt)
        end_ids = () if ignore_eos else self.tokenizer.eog_ids
        return Writer(
            ids_T.tolist(), sampling, seed, max_tokens=max_tokens, context_length=self.context_length, end_ids=end_ids
        )

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


def _warn_of_full_context(tokens, context_length):
    """The same tokens, or whole texts; warns of one that ends because the context is full."""
    for token in tokens:
        yield token
        if token.end == CONTEXT_FULL:
            warnings.warn(f"the text ends here because the context of {context_length} tokens is full", stacklevel=2)

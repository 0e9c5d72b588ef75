"""A loaded model: `load` opens a file, `LLM` turns text into text."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .cache import KVCache
from .config import Config, read_config
from .errors import ContextOverflow, ModelFileError, whole
from .loader import read_gguf
from .model import empty_cache, prefill, unembed
from .samplers import prepare, read_sampling
from .samplers.options import Sampling, sampling_of
from .speed.filling import fill
from .speed.holding import choose, way_of
from .speed.machine import allocate_apart, available_memory, keep_freed_memory, use_threads
from .tokenizer import Tokenizer
from .tokenizers.streaming import CONTEXT_FULL, Token, decode_tokens
from .weights import Weights, map_weights
from .writing import Guesser, Writer, no_guess, write


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
    progress        show a bar while weights are expanded, if standard error is a terminal
    threads         how many to compute with, in this process and from now on; by default one a core

    Raises ModelFileError and UnsupportedModel, and MemoryError for a model that does not fit.
    """
    context_length = None if context_length is None else whole("context_length", context_length)
    threads = None if threads is None else whole("threads", threads)
    file = read_gguf(path)
    if not file.tensors:
        raise ModelFileError(f"{file.path}: a vocabulary, no tensors; llmcore.load_tokenizer opens it")
    config = read_config(file.metadata, file.path)
    context_length = _checked_context(config, context_length or config.context_length)
    use_threads(threads)
    way, why = choose(file, weights, available_memory())
    allocate_apart()
    arrays, jobs = map_weights(file, config, context_length, way_of(way).empty)
    keep_freed_memory(arrays.output)  # the last of the weights to go
    tokenizer = Tokenizer.from_metadata(file.metadata, file.path)
    fill(jobs, progress)
    own = read_sampling(file.metadata, file.path)
    return LLM(config, tokenizer, arrays, context_length, why, own, file.path)


def _checked_context(config, context_length):
    """The same length, if the model can have it; past what it was trained on with a warning."""
    trained = config.context_length
    if context_length > trained and config.family.positions:
        raise ValueError(f"context_length is {context_length}, but this model has {trained} positions")
    if context_length > trained:
        what = f"a context of {context_length} tokens is more than the {trained} this model was trained on"
        warnings.warn(what, stacklevel=3)
    return context_length


def load_tokenizer(path) -> Tokenizer:
    """The tokenizer of a GGUF file, which may hold a vocabulary alone.

    Raises ModelFileError and UnsupportedModel.
    """
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
    file_sampling: dict = field(default_factory=dict)  # the options of sampling that the file names
    path: Any = None  # of the file

    def sampling(self, **given) -> Sampling:
        """The options of sampling: those given, else those of the file, else the defaults of `Sampling`.

        Raises ValueError for a value out of range or a name that is no option.
        """
        return sampling_of(self.file_sampling, given)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """The logits after every token of a text; (T,) -> float32 (T, V)."""
        ids_T = self._checked(ids)
        logits_TV = np.empty((len(ids_T), self.config.vocab_size), np.float32)
        cache = self.empty_cache()
        for x_TD in prefill(self.weights, self.config, ids_T, cache):
            logits_TV[cache.length - len(x_TD) : cache.length] = unembed(self.weights, self.config, x_TD)
        return logits_TV

    def watch(self, ids: Sequence[int], see: Callable, names: Iterable[str] | None = None) -> np.ndarray:
        """The logits of a text, as `logits` gives them, in a pass that `see` looks at: see `watched`."""
        return self.watched(see, names).logits(ids)

    def watched(self, see: Callable, names: Iterable[str] | None = None) -> "LLM":
        """The same model, all of whose passes `see(name, layer, array)` looks at, and may change.

        What it returns takes the array's place; None leaves it. `glass.NAMES` lists the names and shapes;
        `names` are those to be seen, all by default. The array is read-only and good until `see` returns.
        """
        from .glass.watching import watched  # here, because mostly nobody looks

        return watched(self, see, names)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int,
        seed: int | None = None,
        stop: str | Sequence[str] | None = (),
        ignore_eos: bool = False,
        draft: int | None = None,
        draft_model: "LLM | None" = None,
        **sampling,
    ) -> Iterator[str]:
        """Continue a prompt (text or token ids); yields the text in pieces, as soon as each is certain.

        seed         the same seed gives the same text
        stop         strings before which the text ends
        ignore_eos   go on when the model ends its text
        draft        guess at most so many tokens ahead where the text repeats itself: the same text, sooner
        draft_model  have this smaller model of the same vocabulary guess ahead: the same text, perhaps sooner
        sampling     temperature=0.8, top_k=40 and so on, the fields of `samplers.options.Sampling`; what is
                     not given is what the file names, else the default; with json_schema=, regex= or
                     grammar= the text is what they describe

        Ends at the model's end of text, before a stop string, after max_tokens, or, with a warning, when the
        context is full. Raises ContextOverflow for a prompt that is too long, ValueError for a wrong value.
        """
        options: dict[str, Any] = {"max_tokens": max_tokens, "seed": seed, "ignore_eos": ignore_eos}
        options |= {"draft": draft, "draft_model": draft_model}
        tokens = self.tokens(prompt, sampling=self.sampling(**sampling), **options)
        return decode_tokens(self.tokenizer, self._warn_of_full_context(tokens), stop)

    def generate_batch(
        self,
        prompts: Iterable[str | Sequence[int]],
        *,
        batch: int = 8,
        max_tokens: int,
        seed: int | None = None,
        stop: str | Sequence[str] | None = (),
        ignore_eos: bool = False,
        **sampling,
    ) -> Iterator[str]:
        """Continue several prompts, `batch` at a time; yields whole texts in the order of the prompts.

        Each is the text that `generate` gives for the prompt alone (and the same seed), since logits differ
        by rounding only; together they take a fraction of the time. Raises the same, before anything runs.
        """
        options = {"max_tokens": max_tokens, "seed": seed, "stop": stop, "ignore_eos": ignore_eos}
        texts = self.texts(prompts, batch=batch, sampling=self.sampling(**sampling), **options)
        return (text.text for text in texts)

    def chat(
        self,
        messages: list[dict],
        *,
        tools: Iterable | None = None,
        template: Mapping | None = None,
        continue_final_message: bool = False,
        **options,
    ) -> Iterator[str]:
        """Answer a conversation, messages like {"role": "user", "content": "Hello"}.

        tools                   functions or JSON schemas that the model may call, see `chat.tools_for`
        template                variables that its chat template reads, like {"enable_thinking": False}
        continue_final_message  go on with the last message in place of answering it; yields the rest
        options                 those of `generate`

        Raises what `generate` raises, and what `chat.encode_chat` does.
        """
        from .chat import encode_chat, reasoning_of  # here, because other texts need no template

        options = {"thought": reasoning_of(self.tokenizer.chat_template or "")} | options
        said: dict[str, Any] = {"tools": tools, "template": template}
        ids = encode_chat(self.tokenizer, messages, continue_final_message=continue_final_message, **said)
        return self.generate(ids, **options)

    def texts(self, prompts: Iterable[str | Sequence[int]], *, batch: int, stop=(), **options) -> Iterator:
        """What `generate_batch` is made of: each text with the tokens it consists of, and why it ended."""
        from .speed.batching import write_texts  # here, because one text needs no company

        return self._warn_of_full_context(write_texts(self, prompts, batch, stop, options))

    def tokens(
        self,
        prompt: str | Sequence[int],
        *,
        draft: int | None = None,
        draft_model: "LLM | None" = None,
        cache: KVCache | None = None,
        **options,
    ) -> Iterator[Token]:
        """What `generate` is made of: each token chosen, with its logits; `options` are those of `writer`.

        A caller may bring a `cache` that holds the first tokens of the prompt, at most all but the last: only
        the rest is processed. With drafts it may end up ahead of the text: truncate it before its next use.
        """
        writer = self.writer(prompt, **options)
        cache = self.empty_cache() if cache is None else cache
        if cache.length >= writer.n_prompt:
            n, n_prompt = cache.length, writer.n_prompt
            raise ValueError(f"the cache holds {n} tokens, which leaves none of the {n_prompt} to process")
        guesser: Guesser = no_guess
        if draft is not None or draft_model is not None:
            from .speed.drafting import guesser_for  # here, because a text without drafts needs none

            guesser = guesser_for(self, draft, draft_model)
        return write(self.weights, self.config, writer, cache, guesser)

    def writer(
        self, prompt: str | Sequence[int], *, max_tokens: int, sampling: Sampling, seed=None, ignore_eos=False
    ) -> Writer:
        """The writer of one text. Raises ContextOverflow, and ValueError for a value out of range."""
        ids = self._checked(self.encode_prompt(prompt) if isinstance(prompt, str) else prompt).tolist()
        end_ids = () if ignore_eos else self.tokenizer.eog_ids
        limits: dict[str, Any] = {"max_tokens": max_tokens, "end_ids": end_ids}
        limits["context_length"] = self.context_length
        prepared = prepare(sampling, self.tokenizer, ignore_eos)
        return Writer(ids, sampling, seed, **limits, prepared=prepared)

    def empty_cache(self) -> KVCache:
        """A cache for one text."""
        return empty_cache(self.config)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a prompt with control tokens written out; one BOS, even if it brings its own."""
        ids = self.tokenizer.encode(text, add_special=True, parse_special=True)
        return ids[1:] if ids[:2] == [self.tokenizer.bos_id] * 2 else ids

    def _checked(self, ids):
        """The ids as an array, if each is a token and all fit into the context."""
        ids_T, n_vocab = np.asarray(ids), self.config.vocab_size
        if ids_T.size == 0:
            raise ValueError("the prompt is empty: a model continues a text, so give it at least one token")
        if ids_T.ndim != 1 or ids_T.dtype.kind not in "iu":
            raise ValueError(f"token ids must be whole numbers in a list, not {ids_T.ndim}-d {ids_T.dtype}")
        if len(wrong := ids_T[(ids_T < 0) | (ids_T >= n_vocab)]):
            raise ValueError(f"token id {wrong[0]} is not in the vocabulary of {n_vocab} tokens")
        if len(ids_T) > self.context_length:
            raise ContextOverflow(
                f"the prompt has {len(ids_T)} tokens and the context holds {self.context_length}; "
                "shorten the prompt or, if the model allows it, ask for a longer context"
            )
        return ids_T

    def _warn_of_full_context(self, tokens):
        """The same tokens, or whole texts; warns of one that ends because the context is full."""
        for token in tokens:
            yield token
            if token.end == CONTEXT_FULL:
                what = f"the text ends here because the context of {self.context_length} tokens is full"
                warnings.warn(what, stacklevel=2)

"""Texts that are written together are those that each gives alone."""

import re
from types import SimpleNamespace

import pytest
from conftest import make, real_model
from test_model import REAL

import llmcore
from llmcore.llm import LLM
from llmcore.sampling import Sampling
from llmcore.speed.batching import Whole
from llmcore.tokenizers.streaming import CONTEXT_FULL, END_OF_TEXT, MAX_TOKENS, STOP_STRING

PROMPTS = [
    "hello",
    "a",
    [5, 6, 7],
    "the two of us, and all the rest of it",
    "łąka",
    [9] * 30,
    "x y z",
    "hello",
]
OPTIONS = {"max_tokens": 25, "temperature": 0, "ignore_eos": True}
HOT = {
    "max_tokens": 25,
    "temperature": 1.5,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "repeat_penalty": 1.2,
    "seed": 3,
}


def alone(llm, prompts, **options):
    return ["".join(llm.generate(prompt, **options)) for prompt in prompts]


@pytest.mark.parametrize("options", [OPTIONS, HOT], ids=["greedy", "hot"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt-oss", "deepseek2", "qwen3moe", "gpt2", "olmo2"])
def test_each_text_is_that_of_its_prompt_alone(family, options, tmp_path):
    make(family, tmp_path / "m.gguf", context=128)
    llm = llmcore.load(tmp_path / "m.gguf")
    assert list(llm.generate_batch(PROMPTS, batch=3, **options)) == alone(llm, PROMPTS, **options)


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_the_size_of_the_batch_changes_nothing(llama, batch, monkeypatch):
    monkeypatch.setattr("llmcore.model.CHUNK", 4)
    assert list(llama.generate_batch(iter(PROMPTS), batch=batch, **OPTIONS)) == alone(
        llama, PROMPTS, **OPTIONS
    )
    assert list(llama.generate_batch([], batch=batch, **OPTIONS)) == []


@pytest.mark.filterwarnings("ignore:the text ends here")
def test_texts_end_as_they_do_alone(llama):
    """By an end token, a stop string (over pieces and characters), the number of tokens, a full context."""
    prompts = [llama.encode_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in PROMPTS]
    how = Sampling(temperature=0)
    ninth = list(llama.tokens(prompts[0], max_tokens=9, sampling=how, seed=0, ignore_eos=True))[-1].id
    tokenizer = SimpleNamespace(eog_ids={ninth}, token_bytes=llama.tokenizer.token_bytes)
    llm = LLM(llama.config, tokenizer, llama.weights, 40)
    stop = re.findall("[a-z]{3}", "".join(llm.generate(prompts[4], max_tokens=20, temperature=0)))[:1]
    expected = alone(llm, prompts, max_tokens=20, temperature=0, stop=stop)
    assert list(llm.generate_batch(prompts, batch=4, max_tokens=20, temperature=0, stop=stop)) == expected
    texts = llm.texts(prompts, batch=4, max_tokens=20, sampling=how, seed=0, stop=stop)
    assert {text.end for text in texts} == {END_OF_TEXT, STOP_STRING, MAX_TOKENS, CONTEXT_FULL}


def test_a_full_context_is_warned_of(llama_path):
    llm = llmcore.load(llama_path, context_length=8)
    with pytest.warns(UserWarning, match="context of 8 tokens is full"):
        list(llm.generate_batch([[1] * 7, [1]], max_tokens=3, ignore_eos=True))


@pytest.mark.filterwarnings("ignore:the text ends here")
def test_a_text_comes_when_it_and_all_before_it_are_complete(llama, monkeypatch):
    """Prompts with room for 3, 1, 6 and 2 more tokens, two at a time."""
    llm = LLM(llama.config, llama.tokenizer, llama.weights, 40)
    done = []
    go_on = Whole.go_on

    def noting(text, logits_V):
        go_on(text, logits_V)
        done.append(text.writer.n_prompt) if text.end else None

    monkeypatch.setattr(Whole, "go_on", noting)
    prompts = [[5] * n for n in (38, 40, 35, 39)]
    seen = []
    for text in llm.texts(prompts, batch=2, max_tokens=99, sampling=Sampling(), seed=0, ignore_eos=True):
        seen.append((text.writer.n_prompt, list(done)))
        assert text.n_tokens == 41 - text.writer.n_prompt
    # 40 ends at once, and 35 takes its place; when 38 has ended, 39 joins 35 and ends before it
    assert seen == [(38, [40, 38]), (40, [40, 38]), (35, [40, 38, 39, 35]), (39, [40, 38, 39, 35])]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"prompts": ["a", ""], "batch": 0}, ValueError, "batch is 0"),
        ({"prompts": ["a", []]}, ValueError, "prompt 2: the prompt is empty"),
        ({"prompts": ["a", "b", [1] * 513]}, llmcore.ContextOverflow, "prompt 3: .*513 tokens.* 512"),
        ({"max_tokens": 0}, ValueError, "max_tokens is 0"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"top_p": 2.0}, ValueError, r"top_p is 2\.0"),
        ({"stop": ["a", ""]}, ValueError, "a stop string is ''"),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_before_anything_runs(llama, arguments, error, words):
    with pytest.raises(error, match=words):
        llama.generate_batch(**({"prompts": ["x"], "max_tokens": 1} | arguments))


@pytest.mark.slow
@pytest.mark.parametrize("file", REAL)
def test_real_models_write_the_same_together(file):
    llm = real_model(file)
    prompts, how = [case["prompt"] for case in REAL[file]], Sampling(temperature=0)
    texts = llm.texts(prompts, batch=4, max_tokens=48, sampling=how, seed=0, ignore_eos=True)
    for text, case in zip(texts, REAL[file], strict=True):
        assert list(text.writer.ids) == case["ids"] + case["greedy"]

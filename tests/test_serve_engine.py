"""The engine of the server: what it writes for many is what each gets alone, whoever comes and goes."""

import gc
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import test_recurrent_texts
from conftest import FOLDER, make, real_model
from test_model import REAL

import llmcore
from llmcore.cache import KVCache
from llmcore.sampling import Sampling
from llmcore.serve import engine as engine_module
from llmcore.serve.engine import BESIDE, Engine, QueueFull, Stopping, share
from llmcore.serve.prefixes import Prefixes, Read, in_common
from llmcore.serve.texts import CANCELLED, FAILED, READ, Reading, Writing
from llmcore.tokenizers.streaming import MAX_TOKENS, STOP_STRING

ATTENTIVE = ("llama", "gemma3", "deepseek2", "qwen3moe", "gpt2")
COLD, HOT = Sampling(temperature=0), Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, repeat_penalty=1.2)


class Ear:
    """Hears a text; `stop_at` tokens end it, as a stop string does, and `each` is called with every token."""

    def __init__(self, stop_at=None, each=lambda ear: None):
        self.ids, self.over, self.end, self.error = [], threading.Event(), None, None
        self.stop_at, self.each = stop_at, each

    def take(self, token):
        self.ids.append(token.id)
        self.each(self)
        return len(self.ids) == self.stop_at

    def close(self, text, end, error):
        assert self.end is None, "closed twice"
        self.end, self.error = end, error
        self.over.set()


class Running:
    """An engine at work, for a `with`."""

    def __init__(self, llm, **options):
        self.engine = Engine(llm, **options)

    def __enter__(self):
        self.engine.start()
        return self.engine

    def __exit__(self, *_):
        self.engine.stop()


def attentive(family):
    path = Path(FOLDER.name) / f"serve-{family}.gguf"
    if not path.exists():
        make(family, path, context=512)
    return llmcore.load(path)


def model(family):
    return attentive(family) if family in ATTENTIVE else test_recurrent_texts.model(family)


def writing(llm, ids, ear, sampling=COLD, seed=0, max_tokens=12, first=None):
    options = {"max_tokens": max_tokens, "sampling": sampling, "seed": seed, "ignore_eos": True}
    return Writing(llm.writer(ids, **options), ear, first)


def alone(llm, ids, sampling=COLD, seed=0, max_tokens=12):
    options = {"max_tokens": max_tokens, "sampling": sampling, "seed": seed, "ignore_eos": True}
    return [token.id for token in llm.tokens(ids, **options)]


def prompts(n, seed=7):
    """Prompts of all lengths, of which some begin like others."""
    rng = np.random.default_rng(seed)
    common = rng.integers(3, 250, 60).tolist()
    made = []
    for i in range(n):
        own = rng.integers(3, 250, int(rng.integers(1, 90))).tolist()
        made.append(common[: int(rng.integers(20, 60))] + own if i % 3 else own)
    return [*made, made[0], made[1], [*made[1], 5, 6, 7]]


def wait(*ears):
    for ear in ears:
        assert ear.over.wait(60), "a text is lost"


@pytest.mark.parametrize("sampling", [COLD, HOT], ids=["cold", "hot"])
@pytest.mark.parametrize("family", [*ATTENTIVE, *test_recurrent_texts.FAMILIES])
def test_each_text_is_that_of_its_prompt_alone(family, sampling, monkeypatch):
    """Twelve texts, four at a time, whose prompts are read in pieces and taken from one another's caches."""
    monkeypatch.setattr(engine_module, "BESIDE", 16)
    monkeypatch.setattr(engine_module, "CHUNK", 32)
    llm, ears = model(family), [Ear() for _ in range(12)]
    texts = [
        writing(llm, ids, ear, sampling, i) for i, (ids, ear) in enumerate(zip(prompts(9), ears, strict=True))
    ]
    with Running(llm, parallel=4) as engine:
        for text in texts:
            engine.submit([text])
            time.sleep(0.002)
        wait(*ears)
    for i, (ids, ear) in enumerate(zip(prompts(9), ears, strict=True)):
        assert ear.end == MAX_TOKENS
        assert ear.ids == alone(llm, ids, sampling, i), (
            f"text {i}, of whose prompt {texts[i].n_cached} were known"
        )
    assert sum(text.n_cached for text in texts) > 0


@pytest.mark.parametrize("family", ["llama", "gemma3", "lfm2", "falcon-h1", "mamba2"])
def test_what_was_read_is_not_read_again(family):
    """A conversation goes on from all of its cache."""
    llm = model(family)
    ids = list(range(20, 120))
    with Running(llm) as engine:
        engine.submit([writing(llm, ids, first := Ear())])
        wait(first)
        onward = [*ids, *first.ids[:-1], 9, 8, 7]
        engine.submit([text := writing(llm, onward, ear := Ear())])
        wait(ear)
        assert text.n_cached == len(onward) - 3
        assert ear.ids == alone(llm, onward)


def test_what_is_over_goes_without_a_search_for_circles(llama):
    """A cache is large, and Python's collector counts objects, not bytes."""
    gc.collect()
    gc.disable()
    try:
        with Running(llama) as engine:
            engine.prefixes.n_most = 0
            text = writing(llama, list(range(5, 45)), ear := Ear())
            engine.submit([text])
            wait(ear)
            gone = weakref.ref(text)
            assert text.cache is None
            ear.text = text  # as a request holds on to its texts
            del text, ear
            end = time.monotonic() + 10
            while gone() is not None:
                assert time.monotonic() < end
                engine.submit([writing(llama, [5], other := Ear())])
                wait(other)
    finally:
        gc.enable()


def test_texts_of_one_prompt_read_it_once(llama):
    ids = list(range(5, 105))
    with Running(llama) as engine:
        ears = [Ear() for _ in range(3)]
        first = writing(llama, ids, ears[0], HOT, 0)
        others = [writing(llama, ids, ear, HOT, i, first=first) for i, ear in enumerate(ears[1:], 1)]
        engine.submit([first, *others])
        wait(*ears)
    assert [text.n_cached for text in (first, *others)] == [0, 99, 99]
    assert [ear.ids for ear in ears] == [alone(llama, ids, HOT, i) for i in range(3)]


def test_a_text_of_one_prompt_does_not_wait_for_one_that_left(llama):
    with Running(llama, parallel=1) as engine:
        busy = writing(llama, [5], blocker := Ear(each=lambda ear: time.sleep(0.01)), max_tokens=30)
        first = writing(llama, [5, 6], gone := Ear())
        second = writing(llama, [5, 6], ear := Ear(), first=first)
        engine.submit([busy, first, second])
        engine.cancel([first])
        wait(blocker, gone, ear)
    assert (gone.end, gone.ids) == (CANCELLED, [])
    assert ear.ids == alone(llama, [5, 6])


def begun(engine, llama):
    """What hears a text of 60 tokens, the first of which has come."""
    came = threading.Event()
    engine.submit([writing(llama, [5, 6], ear := Ear(each=lambda _: came.set()), max_tokens=60)])
    assert came.wait(60)
    return ear


def test_a_long_prompt_stops_the_others_for_one_piece_alone(llama, monkeypatch):
    """Every pass beside a text that is written reads at most BESIDE tokens of prompts."""
    rows, forward = [], engine_module.forward

    def noting(weights, config, texts):
        rows.append([len(ids) for ids, _ in texts])
        return forward(weights, config, texts)

    monkeypatch.setattr(engine_module, "forward", noting)
    with Running(llama) as engine:
        ear = begun(engine, llama)
        engine.submit([writing(llama, [7] * 450, late := Ear()), writing(llama, [8, 9, 10], short := Ear())])
        wait(ear, late, short)
    beside = [step for step in rows if 1 in step and sum(step) > len(step) and len(step) > 1]
    assert max(map(sum, beside)) <= BESIDE + 8
    assert sum(sum(step) >= 450 - 8 for step in rows) == 0
    assert sum(3 in step for step in beside) == 1  # a short prompt is read in one step beside a long one


def test_a_slow_model_reads_prompts_in_smaller_pieces(llama, monkeypatch):
    """Of 5 ms a row and 10 ms a pass: within 3 x 50 ms there is room for 30 rows, after a few steps."""
    rows, forward = [], engine_module.forward

    def slow(weights, config, texts):
        n = [len(ids) for ids, _ in texts]
        rows.append(n)
        time.sleep(0.01 + 0.005 * sum(n))
        return forward(weights, config, texts)

    monkeypatch.setattr(engine_module, "forward", slow)
    with Running(llama) as engine:
        ear = begun(engine, llama)
        engine.submit([writing(llama, [7] * 450, late := Ear())])
        wait(ear, late)
    beside = [max(step) for step in rows if len(step) > 1 and max(step) > 1]
    assert beside[0] == BESIDE
    assert all(n <= 40 for n in beside[4:])
    assert len(beside) > 8


def test_shares_of_a_step():
    """The shortest prompt first; what it leaves goes to the others; a text that is written has one token."""
    texts = [("long", 1000, False), ("written", 1, True), ("short", 10, False), ("middle", 60, False)]
    assert share(texts) == [("written", 1), ("short", 10), ("middle", 59), ("long", 59)]
    assert share(texts[:1]) == [("long", 512)]
    assert share([("a", 400, False), ("b", 400, False)]) == [("a", 256), ("b", 256)]
    many = [(i, 5, False) for i in range(200)]
    assert all(n >= 1 for _, n in share([*many, ("w", 1, True)]))


def test_a_client_that_leaves_stops_its_text(llama):
    with Running(llama) as engine:
        begun = threading.Event()
        ear = Ear(each=lambda ear: (begun.set(), time.sleep(0.005)))
        engine.submit([text := writing(llama, [5, 6], ear, max_tokens=400)])
        assert begun.wait(60)
        engine.cancel([text])
        wait(ear)
        assert ear.end == CANCELLED
        assert len(ear.ids) < 400
        engine.cancel([text])  # once more changes nothing


def test_a_listener_ends_its_text(llama):
    with Running(llama) as engine:
        engine.submit([writing(llama, [5, 6], ear := Ear(stop_at=3))])
        wait(ear)
    assert (ear.end, len(ear.ids)) == (STOP_STRING, 3)


def test_more_than_the_queue_holds_is_refused_whole(llama):
    with Running(llama, parallel=1, queue=2) as engine:
        ears = [Ear(each=lambda _: time.sleep(0.01)) for _ in range(3)]
        engine.submit([writing(llama, [5], ear, max_tokens=20) for ear in ears])
        with pytest.raises(QueueFull):
            engine.submit([writing(llama, [5], Ear())])
        wait(*ears)
        engine.submit([writing(llama, [5], ear := Ear())])
        wait(ear)


def test_who_drains_finishes_what_runs_and_turns_the_others_away(llama):
    with Running(llama, parallel=1) as engine:
        begun = threading.Event()
        runs, waits = Ear(each=lambda _: (begun.set(), time.sleep(0.002))), Ear()
        engine.submit([writing(llama, [5, 6], runs, max_tokens=30), writing(llama, [5, 6], waits)])
        assert begun.wait(60)
        engine.drain()
        wait(runs, waits)
        assert runs.ids == alone(llama, [5, 6], max_tokens=30)
        assert (waits.end, type(waits.error)) == (FAILED, Stopping)
        with pytest.raises(Stopping):
            engine.submit([writing(llama, [5], Ear())])


def test_who_stops_cancels_what_runs(llama):
    with Running(llama) as engine:
        begun = threading.Event()
        engine.submit([writing(llama, [5], ear := Ear(each=lambda _: begun.set()), max_tokens=500)])
        assert begun.wait(60)
    assert ear.end in (CANCELLED, MAX_TOKENS)


def test_one_text_that_fails_leaves_the_others_alone(llama):
    def broken(ear):
        if len(ear.ids) == 2:
            raise ZeroDivisionError

    with Running(llama) as engine:
        engine.submit(
            [writing(llama, [5, 6], bad := Ear(each=broken)), writing(llama, [7, 8], good := Ear())]
        )
        wait(bad, good)
    assert (bad.end, type(bad.error)) == (FAILED, ZeroDivisionError)
    assert good.ids == alone(llama, [7, 8])


def test_a_pass_that_fails_ends_its_texts_and_not_the_engine(llama, monkeypatch):
    with Running(llama) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(engine_module, "forward", lambda *_: 1 / 0)
            engine.submit([writing(llama, [5, 6], bad := Ear())])
            wait(bad)
        engine.submit([writing(llama, [5, 6], good := Ear())])
        wait(good)
    assert (bad.end, type(bad.error)) == (FAILED, ZeroDivisionError)
    assert good.ids == alone(llama, [5, 6])


def test_out_of_memory_first_costs_what_is_kept_then_the_latest_text(llama, monkeypatch):
    forward, full = engine_module.forward, threading.Event()

    def limited(weights, config, texts):
        if full.is_set() and len(texts) > 1:
            raise MemoryError
        return forward(weights, config, texts)

    monkeypatch.setattr(engine_module, "forward", limited)
    with Running(llama) as engine:
        engine.submit([writing(llama, list(range(5, 45)), ear := Ear())])
        wait(ear)
        assert engine.prefixes.nbytes
        full.set()
        ears = [Ear(), Ear()]
        engine.submit([writing(llama, [n, 6], ear) for n, ear in enumerate(ears, 5)])
        wait(*ears)
        assert [(ear.end, type(ear.error)) for ear in ears] == [
            (MAX_TOKENS, type(None)),
            (FAILED, MemoryError),
        ]


def test_a_text_that_is_read_is_pooled_over_all_its_tokens(llama, monkeypatch):
    monkeypatch.setattr(engine_module, "CHUNK", 32)
    ids = np.random.default_rng(1).integers(3, 250, 100).tolist()
    with Running(llama) as engine:
        engine.submit([text := Reading(ids, lambda n, x_TD: n + len(x_TD), ear := Ear())])
        wait(ear)
    assert (ear.end, text.pooled_D) == (READ, 100)


def read(llm, ids, n=None):
    """The cache of the first n ids of a text."""
    cache = llm.empty_cache()
    llmcore.model.forward(llm.weights, llm.config, [(np.array(ids[:n]), cache)])
    return Read(ids, cache)


def test_what_is_kept_stays_within_its_bounds(llama):
    kept = Prefixes(2, 1 << 30)
    for n in (20, 30, 40):
        kept.keep(read(llama, [n] * n))
    kept.keep(read(llama, [5] * 3))  # too short to be of use
    found = [kept.take([n] * 50, []) for n in (20, 30, 40)]
    assert [cache and cache.length for cache in found] == [None, 30, 40]
    small = Prefixes(8, read(llama, [5] * 20).cache.nbytes)
    small.keep(read(llama, [5] * 20))
    small.keep(read(llama, [6] * 20))
    assert small.take([5] * 50, []) is None
    assert small.forget()
    assert not small.forget()


def test_a_cache_that_others_may_want_is_copied(llama):
    """Who shares a little of a text leaves it whole; whoever runs keeps its own; a copy is no view."""
    common, kept = list(range(10, 40)), Prefixes(4, 1 << 30)
    kept.keep(long := read(llama, common + [7] * 200))
    short = kept.take([*common, 9, 9], [])
    assert isinstance(short, KVCache)
    assert (short.length, long.cache.length) == (30, 230)
    again = kept.take(common + [7] * 300, [])
    assert again is long.cache
    running = read(llama, common + [8] * 5)
    theirs = kept.take([*common, 3], [running])
    assert theirs is not running.cache
    for array in theirs.layers[0].arrays:
        array[:] = np.nan
    assert np.isfinite(running.cache.layers[0].read(30)[0]).all()


def test_a_cache_that_cannot_be_had_costs_its_text_alone(llama, monkeypatch):
    with Running(llama) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(engine.prefixes, "take", lambda *_: 1 / 0)
            engine.submit([writing(llama, [5, 6], bad := Ear())])
            wait(bad)
        engine.submit([writing(llama, [5, 6], good := Ear())])
        wait(good)
    assert (bad.end, type(bad.error)) == (FAILED, ZeroDivisionError)
    assert good.ids == alone(llama, [5, 6])


@pytest.mark.slow
@pytest.mark.parametrize("file", REAL)
def test_real_models_write_the_same_together(file):
    """Recorded greedy texts of another engine, eight together, and once more on top of what is cached."""
    llm = real_model(file)
    with Running(llm) as engine:
        for _ in range(2):
            ears = [Ear() for _ in REAL[file]]
            for case, ear in zip(REAL[file], ears, strict=True):
                engine.submit([writing(llm, case["ids"], ear, max_tokens=48)])
            for case, ear in zip(REAL[file], ears, strict=True):
                assert ear.over.wait(600)
                assert ear.ids == case["greedy"]


@pytest.mark.parametrize("family", ["mamba2", "falcon-h1"])
def test_in_common_is_what_a_recurrent_layer_can_go_back_to(family):
    llm = model(family)
    found = read(llm, [5] * 40)
    found.cache.keep()
    llmcore.model.forward(llm.weights, llm.config, [(np.array([6] * 10), found.cache)])
    found = Read([5] * 40 + [6] * 10, found.cache)
    assert [
        in_common(found, ids) for ids in ([5] * 40 + [6] * 10 + [7], [5] * 40 + [6] * 5 + [7], [5] * 39)
    ] == [
        50,
        40,
        0,
    ]

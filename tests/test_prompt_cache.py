"""What a cache holds, in a file: the next process goes on from it to the bit, and what does not fit is no
cache for it.
"""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import FOLDER, ROOT, make, real_model, tiny_llama
from rewrite import rewrite
from same_model import logits_of
from test_conversation import CHATML, make_model
from test_session import say, talk, text_of

import llmcore
from llmcore.chat.session import Session
from llmcore.loader import read_gguf
from llmcore.quants import dequantize
from llmcore.speed import cache_file
from llmcore.speed.cache_file import CacheFile, CacheFileError, fingerprint, kept, read_ahead, save

IDS = np.random.default_rng(7).integers(3, 288, 1200).tolist()
# Rows alone; windows of 8 in most layers; convolutions, delta nets, Mamba beside attention; states alone
FAMILIES = ("llama", "gemma3", "lfm2", "qwen35", "falcon-h1", "mamba2", "rwkv7", "deepseek2", "gemma4")
FORGETFUL = ("gemma3", "lfm2", "qwen35", "falcon-h1", "mamba2", "rwkv7", "gemma4")


@functools.cache
def path_of(family):
    if family == "llama":
        return tiny_llama()
    path = Path(FOLDER.name) / f"prompt-cache-{family}.gguf"
    make(family, path, context=2048)
    return path


@functools.cache
def model(family, **options):
    return llmcore.load(path_of(family), **{"context_length": 512 if family == "llama" else 2048} | options)


def go_on(llm, cache, ids):
    """The logits after ids[cache.length:], however far the cache has come."""
    return logits_of(llm, ids[cache.length :], cache)[-8:]


def ids_for(llm):
    return IDS[: llm.context_length * 3 // 5]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_second_process_goes_on_to_the_bit(family, tmp_path):
    llm, path = model(family), tmp_path / "c"
    ids = ids_for(llm)
    first, n_known = read_ahead(llm, path, ids)
    assert (first.length, n_known) == (len(ids), 0)
    again = llmcore.load(path_of(family), context_length=llm.context_length)
    second, n_known = read_ahead(again, path, ids)
    assert (second.length, n_known) == (len(ids), len(ids))
    longer = [*ids, *IDS[::-1][:9]]
    assert np.array_equal(go_on(llm, first, longer), go_on(again, second, longer))
    # A few passes more, so that rows are moved and states replaced.
    for _ in range(3):
        longer += IDS[:200]
        if len(longer) < llm.context_length:
            assert np.array_equal(go_on(llm, first, longer), go_on(again, second, longer))


@pytest.mark.parametrize("family", FAMILIES)
def test_another_text_goes_on_from_what_is_common(family, tmp_path):
    llm, path = model(family), tmp_path / "c"
    ids, n_fixed = ids_for(llm), 200
    read_ahead(llm, path, ids, lambda: n_fixed)
    other = ids[:250] + IDS[::-1][:40]
    cache, n_known = read_ahead(llm, path, other, lambda: n_fixed)
    assert n_known == (n_fixed if family in FORGETFUL else 250)
    fresh = llm.empty_cache()
    want = logits_of(llm, other, fresh)[-8:]
    cache.truncate(n_known)  # what came from the file
    np.testing.assert_allclose(go_on(llm, cache, other), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("family", ["llama", "qwen35", "gemma3"])
def test_the_file_is_made_anew_for_much_that_is_new(family, tmp_path):
    llm, path = model(family), tmp_path / "c"
    read_ahead(llm, path, IDS[:200], lambda: 100)
    before = path.read_bytes()
    assert read_ahead(llm, path, IDS[:210], lambda: 100)[1] == 200
    assert path.read_bytes() == before
    assert read_ahead(llm, path, IDS[:290], lambda: 100)[1] == 200
    assert read_ahead(llm, path, IDS[:290], lambda: 100)[1] == 290
    # A text that shares 100 tokens makes a file from which both places of the first are reached.
    assert read_ahead(llm, path, IDS[:100] + IDS[600:700], lambda: 100)[1] == 100
    assert read_ahead(llm, path, IDS[:100] + IDS[800:810], lambda: 100)[1] == 100


def test_small_prompts_make_no_file(tmp_path):
    read_ahead(model("llama"), tmp_path / "c", IDS[:10])
    read_ahead(model("llama"), tmp_path / "c", [])
    assert not (tmp_path / "c").exists()


def test_an_empty_file_is_none_yet(tmp_path):
    (tmp_path / "c").write_bytes(b"")
    assert read_ahead(model("llama"), tmp_path / "c", IDS[:100])[1] == 0
    assert read_ahead(model("llama"), tmp_path / "c", IDS[:100])[1] == 100


# What does not fit.


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / "c"
    read_ahead(model("llama"), path, IDS[:100])
    return path


@pytest.mark.parametrize("family", ["gemma3", "qwen35"])
def test_a_cache_of_another_model_is_refused_by_name(family, written):
    with pytest.raises(CacheFileError, match=rf"made by another model \(llama, .*; this one is {family}"):
        CacheFile(written, model(family))


@pytest.mark.parametrize("tensor", ["output_norm.weight", "blk.2.ffn_down.weight"])
def test_a_cache_of_another_file_is_refused(tensor, written, tmp_path):
    stored = read_gguf(tiny_llama()).tensors[tensor]
    data = dequantize(stored.data, stored.type, stored.byte_order).copy()
    data.reshape(-1)[len(data) // 2] += 1
    other = llmcore.load(rewrite(tiny_llama(), tmp_path / "other.gguf", tensors={tensor: data}))
    with pytest.raises(CacheFileError, match="another file of this model"):
        CacheFile(written, other)


def test_a_model_may_be_moved(written, tmp_path):
    (tmp_path / "moved.gguf").write_bytes(Path(tiny_llama()).read_bytes())
    moved = llmcore.load(tmp_path / "moved.gguf")
    assert read_ahead(moved, written, IDS[:100])[1] == 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context_length": 256}, r"a context of 512 tokens \(here 256\)"),
        ({"weights": "int8"}, r"weights held as float32 \(here as int8\)"),
    ],
)
def test_a_cache_of_other_settings_is_refused_by_name(options, words, written):
    with pytest.raises(CacheFileError, match=words) as error:
        CacheFile(written, model("llama", **options))
    assert "\n" not in str(error.value)
    assert str(written) in str(error.value)


@pytest.mark.parametrize("key", ["version", "byte_order"])
def test_a_cache_of_another_version_is_refused_by_name(key, written, monkeypatch):
    ours = fingerprint(model("llama")) | {key: "another"}
    monkeypatch.setattr(cache_file, "fingerprint", lambda llm: ours)
    with pytest.raises(CacheFileError, match=r"another version of llmcore|machine of the byte order"):
        CacheFile(written, model("llama"))


def test_damage_anywhere_is_one_line(written, tmp_path):
    whole, path = written.read_bytes(), tmp_path / "c"
    rng = np.random.default_rng(0)
    for at in (*range(48), *rng.integers(48, len(whole), 60).tolist(), len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
        with pytest.raises(CacheFileError, match=r"no cache that llmcore wrote|damaged") as error:
            read_ahead(model("llama"), path, IDS[:100])
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_part_of_a_file_is_one_line(written, tmp_path):
    whole, path = written.read_bytes(), tmp_path / "c"
    for n in (1, 15, 16, 30, 39, 40, 41, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(CacheFileError, match=r"no cache that llmcore wrote|damaged"):
            read_ahead(model("llama"), path, IDS[:100])
    path.write_bytes(whole + b"x")
    with pytest.raises(CacheFileError, match="damaged"):
        read_ahead(model("llama"), path, IDS[:100])
    path.write_text('[{"role": "user", "content": "hello"}]' * 9)
    with pytest.raises(CacheFileError, match="no cache that llmcore wrote"):
        read_ahead(model("llama"), path, IDS[:100])


KILLED = """
import os, signal, sys
import llmcore
from llmcore.speed import cache_file
n, checksum = [0], cache_file.checksum

def killing(part):
    n[0] += 1
    if n[0] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return checksum(part)

cache_file.checksum = killing
cache_file.read_ahead(llmcore.load(sys.argv[1]), sys.argv[2], list(range(3, 203)))
"""


@pytest.mark.parametrize("n_written", [1, 5])
def test_a_kill_in_the_middle_leaves_the_old_file(n_written, written, tmp_path):
    path = tmp_path / "c"
    path.write_bytes(written.read_bytes())
    command = [sys.executable, "-c", KILLED, str(tiny_llama()), str(path), str(n_written)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == -9
    assert path.read_bytes() == written.read_bytes()
    assert list(tmp_path.glob("c.*.part"))  # it was in the middle


def test_a_full_disk_leaves_the_old_file(written, tmp_path, monkeypatch):
    path, llm = tmp_path / "c", model("llama")
    path.write_bytes(written.read_bytes())

    def full(part):
        raise OSError(28, "No space left on device")

    cache, _ = read_ahead(llm, path, IDS[:100])
    monkeypatch.setattr(cache_file, "checksum", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, llm, IDS[:100], [kept(cache)])
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert path.read_bytes() == written.read_bytes()


def test_a_file_that_cannot_be_written_costs_no_text(tmp_path):
    path = tmp_path / "nowhere" / "c"
    with pytest.warns(UserWarning, match="what was read is not kept: .*nowhere"):
        assert read_ahead(model("llama"), path, IDS[:100])[0].length == 100


# Sessions and the command line.


@functools.cache
def chat_model(family="llama", template=CHATML):
    path = Path(FOLDER.name) / f"prompt-cache-{family}-{len(template)}-chat.gguf"
    return llmcore.load(make_model(path, template, source=path_of(family)), context_length=512)


@pytest.mark.parametrize("family", ["llama", "lfm2", "gemma3", "qwen35"])
def test_a_session_goes_on_where_it_was_saved(family, tmp_path):
    llm = chat_model(family)
    session = talk(llm, "hello", messages=[{"role": "system", "content": "the two czy " * 9}])
    say(session, "hello")
    n = session.save_cache(tmp_path / "c")
    assert n == len(session._ids[: session._cache.length])
    other = talk(llm, messages=json.loads(json.dumps(session.messages)))
    assert other.load_cache(tmp_path / "c") == n
    mine, theirs = say(session, "and the in"), say(other, "and the in")
    assert text_of(mine) == text_of(theirs)
    assert (other.last.n_cached, other.last.n_prompt) == (session.last.n_cached, session.last.n_prompt)
    assert other.last.n_cached > 0


@pytest.mark.parametrize("family", ["llama", "lfm2", "gemma3", "qwen35"])
def test_a_session_reads_ahead_what_all_conversations_share(family, tmp_path):
    llm, system = chat_model(family), [{"role": "system", "content": "the two czy " * 9}]
    plain = talk(llm, messages=list(system))
    want = text_of(say(plain, "hello"))
    for known in (False, True):
        session = Session(llm, plain.sampling, 12, messages=list(system))
        n, n_known = session.read_ahead(tmp_path / "c")
        assert n_known == (n if known else 0)
        assert text_of(say(session, "hello")) == want
        assert session.last.n_cached == n
        session.messages = list(system)
        say(session, "another")  # goes back to what all share
        assert session.last.n_cached >= n
    assert plain.last.n_cached == 0


def run(module, *arguments, stdin=None):
    command = [sys.executable, "-m", f"llmcore.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=stdin)


GREEDY = ("--temperature", 0, "--max-tokens", 8, "--model")


def test_the_command_keeps_the_prompt(tmp_path):
    path = tmp_path / "c"
    told = ["--prompt", "the two czy " * 20, *GREEDY, tiny_llama(), "--prompt-cache", path]
    first, second = run("generate", *told), run("generate", *told)
    assert first.stdout == second.stdout == run("generate", *told[:-2]).stdout
    assert "after" not in first.stderr
    assert "| prompt 1 tokens after " in second.stderr
    refused = run("generate", *told, "--context", 300)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(f"error: {path}: a cache made by a context of 512")
    assert refused.stdout == ""
    several = tmp_path / "several"
    several.write_text("a\nb\n")
    done = run("generate", "--prompts-file", several, *GREEDY, tiny_llama(), "--prompt-cache", path)
    assert done.returncode == 2
    assert "--prompt-cache is for one prompt" in done.stderr


def test_an_answer_keeps_what_other_answers_share(tmp_path):
    llm, path = chat_model("lfm2"), tmp_path / "c"
    told = ["--system", "the two czy " * 20, *GREEDY, llm.path, "--prompt-cache", path, "--context", 512]
    run("generate", "--prompt", "hello", *told)
    done = run("generate", "--prompt", "and you?", *told)
    n = int(done.stderr.split(" in the cache")[0].split()[-1])
    assert n > 60
    assert done.stdout == run("generate", "--prompt", "and you?", *told[:-4], "--context", 512).stdout


def test_a_conversation_is_saved_with_its_cache(tmp_path):
    llm, path, talk_path = chat_model(), tmp_path / "c", tmp_path / "talk.json"
    told = [*GREEDY, llm.path, "--context", 512]
    one = run("chat", *told, stdin=f"hello the two\n/save {talk_path}\nthe in\n")
    assert f"in {talk_path}.cache" in one.stderr
    two = run("chat", *told, stdin=f"/load {talk_path}\nthe in\n")
    assert one.stdout.splitlines()[-1] == two.stdout.splitlines()[-1]
    assert "tokens need not be read again" in two.stderr
    assert " in the cache in " in two.stderr
    other = [*GREEDY, llm.path, "--context", 400]
    three = run("chat", *other, stdin=f"/load {talk_path}\nthe in\n")
    assert three.returncode == 0
    assert "a cache made by a context of 512 tokens (here 400)" in three.stderr
    assert three.stdout.splitlines()[-1] == two.stdout.splitlines()[-1]
    four = run("chat", *told, "--system", "the two czy " * 9, "--prompt-cache", path, stdin="a\n")
    five = run("chat", *told, "--system", "the two czy " * 9, "--prompt-cache", path, stdin="a\n")
    assert four.stdout == five.stdout
    assert f"{path}: had 0 of the " in four.stderr
    assert f"{path}: had 0 of the " not in five.stderr


@pytest.mark.slow
@pytest.mark.parametrize("family", ["SmolLM2", "gemma3", "lfm2"])
def test_a_system_prompt_of_4000_tokens_starts_at_once(family, tmp_path):
    if family == "SmolLM2":
        path = real_model("SmolLM2-135M-Instruct.Q4_1.gguf").path
    else:  # windows, and states; large enough that reading takes its time
        plain = tmp_path / "plain.gguf"
        make(family, plain, context=8192, width=512, heads=8, kv_heads=4, ff=1024, layers=8)
        path = make_model(tmp_path / "chat.gguf", CHATML, source=plain)
    words = llmcore.load_tokenizer(path).encode(
        "the two czy oj zno of and in li re " * 600, add_special=False
    )
    system = llmcore.load_tokenizer(path).decode(words[:4000])
    told = [
        "--system",
        system,
        "--prompt",
        "Who are you?",
        "--temperature",
        0,
        "--max-tokens",
        20,
        "--model",
        path,
    ]
    answers, seconds = [], []
    for _ in range(2):
        done = run("generate", *told, "--prompt-cache", tmp_path / "c")
        answers.append(done.stdout)
        seconds.append(float(re.search(r"(?:tokens|cache) in ([\d.]+) s", done.stderr)[1]))
    assert answers[0] == answers[1]
    assert "| prompt 1 tokens after" in done.stderr
    assert seconds[0] >= 20 * seconds[1], seconds

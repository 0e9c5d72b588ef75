"""Files opened by mistake are named, harmless keys told and passed over, counts and errors in a sentence."""

import json
import re
import shutil
import warnings

import numpy as np
import pytest
from conftest import step_of, tiny_llama
from rewrite import rewrite

import llmcore
from llmcore import threads
from llmcore.cli import command
from llmcore.cli.command import NO_MODEL, on_one_line, status_of
from llmcore.loader import read_gguf
from llmcore.speed.team import Team

PLAIN = {"max_tokens": 4, "seed": 1}


def refusal(path):
    with pytest.raises(llmcore.ModelFileError) as caught:
        llmcore.load(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            "<!DOCTYPE html><title>Zażółć gęślą jaźń — 100 % ✓ a page that is long enough".encode(),
            "it is a web page",
        ),
        (b"\xef\xbb\xbf  <html lang='pl'>", "it is a web page"),
        ("Zażółć gęślą jaźń, zażółć gęślą jaźń, zażółć gęślą".encode(), "it is text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b'{"error":"Repository not found"}', "it is text"),
        (b"\x28\xb5\x2f\xfd" + bytes(90), "compressed with zstd"),
    ],
)
def test_other_files_are_named(data, words, tmp_path):
    (tmp_path / "m.gguf").write_bytes(data)
    assert words in refusal(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("general.type", "adapter", "a LoRA adapter"),
        ("general.type", "mmproj", "looks at images"),
        ("general.type", "imatrix", "statistics of a model"),
    ],
)
def test_files_without_a_language_model_are_named(key, value, words, tmp_path):
    added = rewrite(tiny_llama(), tmp_path / "m.gguf", {key: value})
    assert words in refusal(added)


def test_vision_tensors_are_named_and_others_are_not(tmp_path):
    blob = rewrite(tiny_llama(), tmp_path / "blob.gguf", tensors={"v.blk.0.attn_q.weight": np.ones((8, 8))})
    assert "its mmproj in one file, as ollama keeps them" in refusal(blob)
    more = rewrite(tiny_llama(), tmp_path / "more.gguf", tensors={"blk.0.attn_x.weight": np.ones((8, 8))})
    assert "the text would be wrong without it" in refusal(more)


def test_parts_that_were_joined_are_told(tmp_path):
    import gguf_file

    array = np.ones((2, 32), np.float32)
    part = tmp_path / "part.gguf"
    gguf_file.write(part, {"split.no": 0, "split.count": 2}, {"w": (array.shape, "F32")}, [array])
    (tmp_path / "joined.gguf").write_bytes(part.read_bytes() * 2)
    assert "2 parts were joined into this one file" in refusal(tmp_path / "joined.gguf")
    assert "rename it to NAME-00001-of-00002.gguf" in refusal(part)


def test_a_piece_of_a_file_is_told(tmp_path):
    data = tiny_llama().read_bytes()
    (tmp_path / "m.gguf-split-a").write_bytes(data[: len(data) // 2])
    (tmp_path / "m.gguf-split-b").write_bytes(data[len(data) // 2 :])
    for name in "ab":
        assert "join all pieces in order" in refusal(tmp_path / f"m.gguf-split-{name}")


def test_an_address_is_no_file():
    message = refusal("https://example.org/org/repo/resolve/main/m-Q4_0.gguf?download=true")
    assert message.startswith("https://example.org/")
    assert message.endswith("or name it hf:org/repo/m-Q4_0.gguf")


@pytest.mark.parametrize("size", [1, 287, 300])
def test_a_vocab_size_that_disagrees_is_told_and_the_tokens_count(size, tmp_path, llama):
    path = rewrite(tiny_llama(), tmp_path / "m.gguf", {"llama.vocab_size": size})
    with pytest.warns(
        UserWarning, match=rf"llama.vocab_size is {size}, but there are 288 tokens; taken as 288"
    ):
        again = llmcore.load(path)
    assert np.array_equal(again.logits([1, 2]), llama.logits([1, 2]))


@pytest.mark.parametrize("name", ["Lord-of-the-Rings.gguf", "a-00001-of-00001.gguf", "best-of-00002.gguf"])
def test_a_name_that_looks_like_a_part_is_found(name, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "MODELS", tmp_path)
    for other in (
        name,
        "mmproj-F16.gguf",
        "m.imatrix.gguf",
        "b-00002-of-00002.gguf",
        "Some-mmproj-q8_0.gguf",
    ):
        shutil.copy(tiny_llama(), tmp_path / other)
    assert command.the_one_model() == tmp_path / name
    assert not NO_MODEL.search("mmprojector.gguf")


def spoiled(path, target, scale):
    """A copy in which one number of the norm before the last layer's feed-forward is another."""
    weight = read_gguf(path).tensors["blk.2.ffn_norm.weight"]
    data = bytearray(path.read_bytes())
    data[weight.offset : weight.offset + 4] = np.float32(scale).tobytes()
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error_everywhere(value, tmp_path, monkeypatch):
    broken = llmcore.load(spoiled(tiny_llama(), tmp_path / "m.gguf", value), weights="float32")
    words = r"logits after \d+ tokens are not finite numbers"
    with np.errstate(all="ignore"):
        for options in ({"temperature": 0}, {"seed": 3}, {"temperature": 0, "draft": 2}):
            with pytest.raises(llmcore.ModelFileError, match=words):
                "".join(broken.generate([1, 2, 3], max_tokens=3, **options))
        with pytest.raises(llmcore.ModelFileError, match=words):
            list(broken.generate_batch([[1, 2], [3]], max_tokens=3))
        import perplexity

        with pytest.raises(llmcore.ModelFileError, match=words):
            perplexity.scores(broken, np.array([[1, 2, 3, 4, 5, 6, 7, 8]]))


@pytest.mark.parametrize("count", [2.5, "3", None, 0, -1, True, [3], np.float64(3)])
@pytest.mark.parametrize("name", ["max_tokens", "seed", "draft", "batch", "context_length", "threads"])
def test_a_count_that_is_not_whole_is_refused_by_name(name, count, llama):
    if (count is None and name not in ("max_tokens", "batch")) or (count == 0 and name == "seed"):
        return  # None is the default, and 0 a seed
    call = {
        "context_length": lambda: llmcore.load(tiny_llama(), context_length=count),
        "threads": lambda: llmcore.load(tiny_llama(), threads=count),
        "batch": lambda: llama.generate_batch([[1]], max_tokens=1, batch=count),
    }.get(name, lambda: llama.generate([1], **(PLAIN | {name: count})))
    with pytest.raises(ValueError, match=rf"^{name} is .*; it must be a whole number"):
        call()


def test_counts_of_numpy_are_counts(llama):
    want = "".join(llama.generate([1, 2], max_tokens=3, seed=5))
    assert (
        "".join(llama.generate([1, 2], max_tokens=np.int64(3), seed=np.uint8(5), draft=np.int32(2))) == want
    )
    again = llmcore.load(tiny_llama(), context_length=np.int64(30), threads=np.int64(1))
    assert type(again.context_length) is int


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": []}, "no option 'tools'; LLM.chat takes tools"),
        ({"colour": 1}, "no option 'colour'; of sampling there are temperature"),
        ({"stop": 5}, "stop is 5; it must be a text or a list of texts"),
        ({"stop": [""]}, "a stop string is ''"),
    ],
)
def test_an_option_that_is_none_is_told_in_a_sentence(options, words, llama):
    with pytest.raises(ValueError, match=re.escape(words)):
        llama.generate([1], **(PLAIN | options))


def test_no_stop_string_and_a_tiny_temperature_are_sound(llama):
    greedy = "".join(llama.generate([1, 2], max_tokens=5, temperature=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "".join(llama.generate([1, 2], max_tokens=5, temperature=1e-310, seed=1, stop=None)) == greedy


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("can't start new thread"), "may start no more threads"),
        (MemoryError(), "not enough memory"),
        (ValueError("\x1b[31mred\r\nline"), r"\\x1b\[31mred\\r\\nline"),
        (ValueError("a\u202eb"), r"a\\u202eb"),
    ],
)
def test_whatever_goes_wrong_is_one_plain_line(error, words, capsys):
    def work():
        raise error

    assert status_of(work) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(rf"error: .*{words}.*\n", err)
    assert err[:-1].isprintable()


def test_strangers_names_are_escaped():
    assert on_one_line("a\x1b]0;x\x07\x9b1m\nb") == r"a\x1b]0;x\x07\x9b1m\nb"


def test_a_stop_string_may_hold_a_control_token(tmp_path):
    """It stops at the token, alone or inside text, one text or several."""
    tokens = list(llmcore.load_tokenizer(tiny_llama()).tokens)
    types = list(llmcore.load_tokenizer(tiny_llama()).types)
    tokens[100], types[100], letter = "<|im_end|>", 3, 101
    output_VD = np.zeros((288, 64))
    path = rewrite(
        tiny_llama(),
        tmp_path / "m.gguf",
        {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types},
    )
    llm = llmcore.load(path)
    from llmcore.tokenizers.streaming import Token, decode_tokens

    ids = [letter, letter, 100, letter]
    text = llm.tokenizer.token_text(letter)
    run = lambda stop: "".join(decode_tokens(llm.tokenizer, [Token(i, output_VD) for i in ids], stop))  # noqa: E731
    assert run(None) == 3 * text
    assert run("<|im_end|>") == 2 * text
    assert run(f"{text}<|im_end|>") == text
    assert run(["nothing", f"<|im_end|>{text}"]) == 2 * text


def test_a_block_applies_what_its_file_has_even_if_its_halves_are_parallel():
    """residual_scale, and a norm behind each half, of a family that has no such files."""
    from types import SimpleNamespace

    from llmcore import model

    x_TD = np.arange(6, dtype=np.float32).reshape(2, 3)
    family = SimpleNamespace(layer_norm=False)
    config = SimpleNamespace(family=family, parallel=True, per_layer=None, residual_scale=0.5, norm_eps=0.0)
    gain = np.full(3, 3, np.float32)
    plan = SimpleNamespace(mixer=1, ffn=1)
    layer = SimpleNamespace(
        attn_norm=None, output_scale=None, mixer=None, ffn=None, ffn_norm=None,
        post_attention_norm=model.Norm(gain, None), post_ffw_norm=model.Norm(gain, None),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "kind_of", lambda mixer: SimpleNamespace(run=lambda h, *_: h + 1))
        patch.setattr(model.ffn, "run", lambda h, *_: h + 2)
        got = model.block(x_TD, layer, plan, config, step_of(), 0)
    want = x_TD.astype(np.float64)
    for more in (1, 2):
        half = x_TD.astype(np.float64) + more
        want = want + 0.5 * 3 * half / np.sqrt((half**2).mean(axis=1, keepdims=True))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_save_on_a_full_disk_keeps_the_older_file(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from llmcore.cli import chat

    path = tmp_path / "talk.json"
    path.write_text("older")
    terminal = SimpleNamespace(
        session=SimpleNamespace(messages=[{"role": "user", "content": "a"}], save_cache=lambda path: None),
        say=print,
    )

    def full(self, text, **_):
        self.write_bytes(text[:3].encode())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(chat.Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            chat.save(terminal, path)
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["talk.json"]
    chat.save(terminal, path)
    assert json.loads(path.read_text())[0]["content"] == "a"


def test_without_new_threads_the_work_is_done(monkeypatch):
    done = []

    def start(self):
        raise RuntimeError("can't start new thread")

    before, share = threads.n_threads(), threads._Team.share
    threads.use(4, Team(4, lambda n: None).share)
    try:
        monkeypatch.setattr("threading.Thread.start", start)
        threads.each(done.append, range(20))
    finally:
        threads.use(before, share)
    assert sorted(done) == list(range(20))

"""scripts/train.py: its models, against other readers and engines; interruption; what it refuses."""

import signal
import subprocess
import sys
import time

import gguf
import numpy as np
import pytest
import record_trained
from conftest import DATA, ROOT
from training import backprop, corpus, grammar
from training.archive import BOS_ID, tokenizer_keys

import llmcore
from llmcore.config import read_config
from llmcore.loader import read_gguf
from llmcore.tokenizer import Tokenizer

SCRIPT = ROOT / "scripts" / "train.py"
TINY = [
    "--layers",
    2,
    "--width",
    16,
    "--heads",
    2,
    "--vocab",
    300,
    "--batch",
    4,
    "--steps",
    30,
    "--every",
    10,
]
NAMES = ["m_1.gguf", "m_2.gguf", "m_3.gguf", "m_final.gguf"]
ANY_TEXT = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}


def command(*arguments):
    return [sys.executable, SCRIPT, *map(str, arguments)]


def run(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A short training on the grammar, never interrupted."""
    out = tmp_path_factory.mktemp("train") / "new" / "folder"
    done = run("--grammar", "--out", out, *TINY)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == NAMES
    return out


def written(folder):
    """What a run leaves, but for the state, whose archive holds the time it was written at."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "state.npz"}


def test_models_differ_in_numbers_alone(folder):
    assert sorted(written(folder)) == ["losses.csv", *NAMES]
    readers = [gguf.GGUFReader(folder / name) for name in NAMES]
    sizes = {(folder / name).stat().st_size for name in NAMES}
    assert len(sizes) == 1
    for reader in readers:
        first = readers[0]
        assert {name: field.contents() for name, field in reader.fields.items()} == {
            name: field.contents() for name, field in first.fields.items()
        }
        assert [(t.name, t.tensor_type, t.shape.tolist()) for t in reader.tensors] == [
            (t.name, t.tensor_type, t.shape.tolist()) for t in first.tensors
        ]
    for tensors in zip(*(reader.tensors for reader in readers), strict=True):
        assert len({tensor.data.tobytes() for tensor in tensors}) == len(NAMES), tensors[0].name


def test_the_engine_predicts_what_training_predicted(folder):
    file = read_gguf(folder / "m_final.gguf")
    config = read_config(file.metadata, "m_final.gguf")
    params = {name: np.array(t.data).view("<f4").reshape(t.shape) for name, t in file.tensors.items()}
    llm = llmcore.load(folder / "m_final.gguf")
    ids = llm.tokenizer.encode("the dog that many cats see says that anna runs")
    logits = llm.logits(ids[:-1]).astype(float)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_probs[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(backprop.losses(params, config, np.array([ids])), expected, rtol=1e-4)


def test_losses_are_written(folder):
    rows = np.genfromtxt(folder / "losses.csv", delimiter=",", names=True)
    assert rows["step"].tolist() == list(range(31))
    assert np.isfinite(rows["loss"][1:]).all()
    assert np.flatnonzero(np.isfinite(rows["held_out"])).tolist() == [0, 10, 20, 30]
    assert rows["held_out"][30] < rows["held_out"][0] < 6
    assert len(set(rows["floor"])) == 1


def test_another_seed_makes_other_models(folder, tmp_path):
    run("--grammar", "--out", tmp_path / "other", *TINY, "--seed", 1)
    assert not set(written(folder).values()) & set(written(tmp_path / "other").values())


@pytest.mark.parametrize(("how", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_interrupted_training_ends_at_the_same_numbers(folder, tmp_path, how, status):
    arguments = ["--grammar", "--out", tmp_path, *TINY]
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while not (tmp_path / "m_2.gguf").exists() and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(how)
    if process.returncode != 0:  # else it was done before the signal came
        assert process.returncode == status
        assert not (tmp_path / "m_final.gguf").exists()
    for _ in range(2):  # and once it has ended, the same command changes nothing
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "going on after step" in done.stdout
        assert written(tmp_path) == written(folder)


def test_other_options_are_refused(folder):
    before = written(folder)
    for options in (["--width", 32], ["--seed", 5], ["--lr", 0.1], ["--steps", 40]):
        done = run("--grammar", "--out", folder, *TINY, *options)
        name = options[0].removeprefix("--")
        assert done.returncode == 1
        assert f"belongs to a training with {name} " in done.stderr
        assert done.stderr.count("\n") == 1
    assert written(folder) == before


def test_models_of_others_are_not_overwritten(tmp_path):
    (tmp_path / "m_1.gguf").write_text("precious")
    done = run("--grammar", "--out", tmp_path, *TINY)
    assert done.returncode == 1
    assert "m_1.gguf is there" in done.stderr
    assert (tmp_path / "m_1.gguf").read_text() == "precious"


def test_a_damaged_state_is_told(tmp_path):
    for content in (b"", b"PK\x03\x04 no archive", b"text"):
        (tmp_path / "state.npz").write_bytes(content)
        done = run("--grammar", "--out", tmp_path, *TINY)
        assert done.returncode == 1
        assert "state.npz is damaged" in done.stderr
        assert done.stderr.count("\n") == 1


BAD = {
    "no text": ([], 2, "give a text to learn, or --grammar"),
    "text and grammar": (["text.txt", "--grammar"], 2, "give a text to learn, or --grammar"),
    "no such text": (["absent.txt"], 1, "absent.txt"),
    "empty": (["empty.txt"], 1, "is empty"),
    "white": (["white.txt"], 1, "is empty"),
    "binary": (["binary.txt"], 1, "is not UTF-8 text"),
    "short": (["short.txt"], 1, "needs at least 128"),
    "odd width": (
        ["--grammar", "--width", 12, "--heads", 4],
        1,
        "a width of 12 does not make 4 heads of an even width",
    ),
    "heads": (["--grammar", "--heads", 4, "--kv-heads", 3], 1, "4 query heads cannot share 3"),
    "layers": (["--grammar", "--layers", 0], 2, "--layers is 0"),
    "steps": (["--grammar", "--steps", -1], 2, "--steps is -1"),
    "vocab": (["--grammar", "--vocab", 100], 2, "--vocab is 100"),
    "vocab for all letters": (["--grammar", "--vocab", 261], 1, "no vocabulary of 261 tokens"),
    "rate": (["--grammar", "--lr", "nan"], 2, "--lr is nan"),
    "word": (["--grammar", "--width", "wide"], 2, "wide"),
    "file as folder": (["--grammar", "--out", "short.txt"], 1, "short.txt"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_in_one_line(name, tmp_path):
    arguments, status, message = BAD[name]
    (tmp_path / "empty.txt").touch()
    (tmp_path / "white.txt").write_text(" \n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "short.txt").write_text("Too short to learn from.")
    done = subprocess.run(command("--out", "out", *arguments), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_numbers_out_of_bounds_are_told(tmp_path):
    done = run("--grammar", "--out", tmp_path, *TINY, "--lr", 1e30)
    assert done.returncode == 1
    assert "a smaller --lr" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def recorded():
    with np.load(DATA / "trained.npz") as file:
        return {name: file[name] for name in file.files}


def test_ids_and_logits_are_those_of_llama_cpp(recorded, tmp_path):
    path = tmp_path / "m_final.gguf"
    path.write_bytes(recorded["model"].tobytes())
    llm = llmcore.load(path)
    for i, text in enumerate(record_trained.TEXTS):
        assert llm.tokenizer.encode(text) == recorded[f"ids {i}"].tolist(), text
    expected = recorded["logits"].astype(float)
    logits = llm.logits(recorded["ids 0"][: len(expected)])
    assert ((logits - expected) ** 2).sum() / (expected**2).sum() < 1e-9


def test_training_still_writes_the_recorded_archive(recorded, tmp_path):
    """The same head; the same body but for what another BLAS rounds otherwise."""
    recorded_path = tmp_path / "recorded.gguf"
    recorded_path.write_bytes(recorded["model"].tobytes())
    ours, theirs = (gguf.GGUFReader(path) for path in (record_trained.trained(tmp_path), recorded_path))
    assert {name: field.contents() for name, field in ours.fields.items()} == {
        name: field.contents() for name, field in theirs.fields.items()
    }
    for a, b in zip(ours.tensors, theirs.tensors, strict=True):
        assert a.name == b.name
        np.testing.assert_allclose(a.data, b.data, atol=0.02)


def test_tokens_of_a_sentence_are_those_of_its_words():
    """On which the floor of the loss rests; with few tokens, so that most words are several."""
    for vocab in (300, 512):
        keys = tokenizer_keys(corpus.grammar_lines(0), vocab)
        tokenizer = Tokenizer.from_metadata(keys, "keys")
        made = corpus.grammar_corpus(tokenizer, 0, batch=8, context=200)
        lengths, seen = [], set()
        for text in corpus.sentences("any", 2000):
            ids = tokenizer.encode(text, add_special=False)
            assert ids == [i for word in text.split() for i in tokenizer.encode(word, add_special=False)]
            assert tokenizer.decode(ids) == text
            lengths.append(len(ids) + 1)
            seen.add(text)
        error = np.std(lengths) / np.sqrt(len(lengths))
        assert abs(np.mean(lengths) - grammar.entropy() / made.floor) < 4 * error
        first = [row[row >= 0].tolist() for row in made.batch(1)]
        assert all(row[0] == BOS_ID and row[-1] == tokenizer.eos_id for row in first)
        assert all(grammar.parses(tokenizer.decode(row[1:-1])) for row in first)


def test_a_step_draws_the_same_texts_each_time():
    tokenizer = Tokenizer.from_metadata(tokenizer_keys(record_trained.LINES, 330), "keys")
    text = record_trained.TEXT
    made = corpus.text_corpus(tokenizer, text, seed=3, batch=5, context=16)
    np.testing.assert_array_equal(made.batch(7), made.batch(7))
    assert made.batch(7).shape == (5, 17)
    assert (made.batch(7) != made.batch(8)).any()
    ids = tokenizer.encode(text, add_special=False)
    n_held_out = max(16, int(0.05 * len(ids)))
    starts = {tuple(ids[i : i + 16]) for i in range(len(ids) - n_held_out - 15)}
    assert all(row[0] == BOS_ID and tuple(row[1:].tolist()) in starts for row in made.batch(7))
    assert made.held_out[0][0, 1:].tolist() == ids[-n_held_out:][:16]


def share_that_parses(path, count=400):
    llm = llmcore.load(path)
    texts = ("".join(llm.generate([BOS_ID], max_tokens=63, seed=seed, **ANY_TEXT)) for seed in range(count))
    return sum(grammar.parses(text.removeprefix(" ")) for text in texts) / count


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_default_training_nears_the_entropy_and_writes_the_language(seed, tmp_path):
    done = run("--grammar", "--out", tmp_path, "--seed", seed)
    assert done.returncode == 0, done.stderr
    rows = np.genfromtxt(tmp_path / "losses.csv", delimiter=",", names=True)
    assert rows["held_out"][-1] < 1.05 * rows["floor"][-1]
    assert share_that_parses(tmp_path / "m_final.gguf") >= 0.95
    assert share_that_parses(tmp_path / "m_1.gguf") < 0.01

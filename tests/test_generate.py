"""The command line as a user meets it: what goes where, and with which exit status."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, make, tiny_llama

import llmcore
from llmcore import generate

MODEL = str(tiny_llama())
GREEDY = ("--model", MODEL, "--temperature", "0", "--max-tokens", "12", "--ignore-eos")

HELD = r"weights: float32( in panels)?, 0\.0 GB: \d+\.\d GB of memory are free\n"


def run(*arguments, stdin=None, cwd=ROOT):
    """(status, standard output, standard error) of the command line in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "llmcore.generate", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, cwd=cwd, env=environment, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def text():
    """What the model says to "hello", by the library."""
    return "".join(llmcore.load(MODEL).generate("hello", max_tokens=12, temperature=0, ignore_eos=True))


def test_only_the_text_goes_to_standard_output(text):
    status, out, err = run(*GREEDY, "--prompt", "hello")
    assert (status, out) == (0, text)
    timings = r"load \S+ s \| prompt \d+ tokens in .* \| text 12 tokens in .* \| max tokens reached\n"
    assert re.fullmatch(HELD + timings, err)


@pytest.mark.parametrize("how", ["int8", "mapped"])
def test_weights_may_be_held_in_other_ways_by_other_numbers_of_threads(text, how):
    status, out, err = run(*GREEDY, "--prompt", "hello", "--weights", how, "--threads", "1")
    assert (status, out) == (0, text)
    assert err.startswith(f"weights: {how}, 0.0 GB: ")


def test_quiet_says_nothing_else(text):
    assert run(*GREEDY, "--prompt", "hello", "--quiet") == (0, text, "")


def test_echo_puts_the_prompt_first(text):
    assert run(*GREEDY, "--prompt", "hello", "--echo")[1] == "hello" + text


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_prompt_may_come_by_a_pipe_or_a_file(text, end, tmp_path):
    (tmp_path / "prompt.txt").write_bytes(b"hello" + end)
    assert run(*GREEDY, "--prompt", "-", stdin=b"hello" + end)[:2] == (0, text)
    assert run(*GREEDY, "--prompt-file", str(tmp_path / "prompt.txt"))[:2] == (0, text)


def test_only_one_line_end_is_taken_off():
    more = run(*GREEDY, "--prompt", "-", "--echo", stdin=b"hello\n\n")[1]
    assert more.startswith("hello\n")
    assert not more.startswith("hello\n\n")


def test_a_draft_model_changes_nothing(text, llama_path):
    path = str(llama_path)
    assert run(*GREEDY, "--prompt", "hello", "--draft-model", path)[:2] == (0, text)
    assert run(*GREEDY, "--prompt", "hello", "--draft-model", path, "--draft", "lookup")[:2] == (0, text)


def test_a_draft_model_of_another_vocabulary_is_refused(tmp_path):
    make("llama", tmp_path / "other.gguf", vocab=300)
    status, out, err = run(*GREEDY, "--prompt", "hello", "--draft-model", str(tmp_path / "other.gguf"))
    assert (status, out) == (1, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.endswith("it must have the same vocabulary")


@pytest.mark.parametrize("draft", ["lookup", "lookup:3"])
def test_drafts_change_nothing(text, draft):
    assert run(*GREEDY, "--prompt", "hello", "--draft", draft)[:2] == (0, text)


@pytest.mark.parametrize(
    "more", [(), ("--batch", "2"), ("--stop", "e"), ("--temperature", "2", "--seed", "7")]
)
def test_each_line_of_a_prompts_file_is_answered_by_a_line(more, tmp_path):
    prompts = ["hello", "żółw, łąka", "a", " b ", "hello"]
    (tmp_path / "prompts.txt").write_bytes("\r\n".join(prompts).encode() + b"\n")
    status, out, err = run(*GREEDY, "--prompts-file", str(tmp_path / "prompts.txt"), *more)
    alone = [
        run(*GREEDY, "--prompt", prompt, *(more if more[:1] != ("--batch",) else ()))[1] for prompt in prompts
    ]
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == alone
    timings = (
        r"load \S+ s \| 5 prompts of \d+ tokens \| 5 texts of \d+ tokens, all in \S+ s \(\S+ tokens/s\)\n"
    )
    assert re.fullmatch("(seed 7\n)?" + HELD + timings, err)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\n\n", "line 2 is empty"),
        (b"", "line 1 is empty"),
        (b"a\ncaf\xe9\n", "byte 5 is not UTF-8"),
        (b"a\n" + b"x" * 600, "prompt 2: the prompt has 602 tokens and the context holds 512"),
    ],
    ids=["between", "at the end", "alone", "not UTF-8", "too long"],
)
def test_a_bad_prompts_file_is_one_line_and_status_1(data, words, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(data)
    status, out, err = run("--model", MODEL, "--prompts-file", str(tmp_path / "prompts.txt"))
    assert (status, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


def test_the_seed_is_told_and_repeats_the_text():
    hot = ("--model", MODEL, "--prompt", "hello", "--max-tokens", "12", "--temperature", "2", "--top-k", "0")
    _, out, err = run(*hot)
    seed = re.match(r"seed (\d+)\n" + HELD, err)[1]
    assert run(*hot, "--seed", seed)[1] == out


def test_a_stop_string_ends_the_text_before_it(text):
    stop = text[3:5]
    status, out, err = run(*GREEDY, "--prompt", "hello", "--stop", "never", "--stop", stop)
    assert (status, out) == (0, text[: text.index(stop)])
    assert err.endswith("| stop string\n")


def test_logprobs_are_those_of_the_logits():
    _, _, err = run(*GREEDY, "--prompt", "hello", "--logprobs", "2")
    lines = [line for line in err.splitlines() if line.startswith("logprob ")]
    assert len(lines) == 12
    llm = llmcore.load(MODEL)
    logits_V = llm.logits(llm.encode_prompt("hello"))[-1].astype(float)
    import math

    total = math.log(sum(math.exp(logit) for logit in logits_V))
    best = sorted(range(288), key=lambda i: -logits_V[i])[:2]
    shown = [f"{llm.tokenizer.token_text(i)!r} {logits_V[i] - total:.4f}" for i in best]
    assert lines[0] == f"logprob {shown[0]} | best {shown[0]}, {shown[1]}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nowhere.gguf", "--prompt", "x"], "nowhere.gguf: no such file"),
        (["--model", "LICENSE", "--prompt", "x"], "LICENSE: not a GGUF file"),
        (["--model", ".", "--prompt", "x"], "directory"),
        (["--model", MODEL, "--prompt", "x" * 600], "prompt has 602 tokens and the context holds 512"),
        (["--model", MODEL, "--prompt", "hello", "--context", "3"], "the context holds 3"),
        (["--model", MODEL, "--prompt-file", "nowhere.txt"], "nowhere.txt"),
        (["--model", MODEL, "--prompts-file", "nowhere.txt"], "nowhere.txt"),
        (["--model", MODEL, "--prompt", b"caf\xe9"], "--prompt: byte 3 is not UTF-8"),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_a_bad_file_or_prompt_is_one_line_and_status_1(arguments, words):
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--prompt"),
        (["--prompt", "x", "--prompt-file", "y"], "not allowed with"),
        (["--prompt", "x", "--max-tokens", "0"], "'0' is not a whole number of 1 or more"),
        (["--prompt", "x", "--max-tokens", "ten"], "'ten' is not a whole number"),
        (["--prompt", "x", "--top-p", "1.5"], "top_p is 1.5"),
        (["--prompt", "x", "--temperature", "nan"], "temperature is nan"),
        (["--prompt", "x", "--weights", "int4"], "int4"),
        (["--prompt", "x", "--threads", "0"], "'0' is not a whole number of 1 or more"),
        (["--prompt", "x", "--stop", ""], "a stop string is ''"),
        (["--prompt", "x", "--batch", "2"], "--batch is for several prompts: it needs --prompts-file"),
        (["--prompts-file", "x", "--echo"], "--echo is for one prompt"),
        (["--prompts-file", "x", "--logprobs", "1"], "--logprobs is for one prompt"),
        (["--prompts-file", "x", "--draft", "lookup"], "--draft is for one prompt"),
        (["--prompts-file", "x", "--draft-model", "x"], "--draft-model is for one prompt"),
        (["--prompts-file", "x", "--batch", "0"], "'0' is not a whole number of 1 or more"),
        (["--prompts-file", "x", "--prompt", "y"], "not allowed with"),
        (["--prompt", "x", "--draft", "oracle"], "'oracle' is neither lookup nor lookup:N"),
        (["--prompt", "x", "--draft", "lookup:0"], "'lookup:0' is neither lookup nor lookup:N"),
        (["--prompt", "x", "--seed", "-1"], "'-1' is not a whole number of 0 or more"),
        (
            ["--prompt", "x", "--no\x1b[31m\nsuch"],
            r"arguments: --no\x1b[31m\nsuch; --help lists all",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_arguments_are_status_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        generate.main(arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_without_a_model_the_one_in_models_is_taken(text, tmp_path):
    arguments = [argument for argument in GREEDY if argument not in ("--model", MODEL)] + [
        "--prompt",
        "hello",
    ]
    status, _, err = run(*arguments, cwd=tmp_path)
    assert status == 1
    assert "no model in" in err
    assert "smollm2" in err
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one.gguf").symlink_to(MODEL)
    # A later part of a split file is no model of its own
    (tmp_path / "models" / "big-00002-of-00002.gguf").touch()
    assert run(*arguments, cwd=tmp_path)[:2] == (0, text)
    (tmp_path / "models" / "two.gguf").symlink_to(MODEL)
    status, _, err = run(*arguments, cwd=tmp_path)
    assert status == 1
    assert "more than one model" in err
    assert "one.gguf" in err


def test_ctrl_c_keeps_what_was_written_and_tells_the_timings():
    command = [sys.executable, "-u", "-m", "llmcore.generate", "--model", MODEL, "--prompt", "hello"]
    command += ["--context", "100000", "--ignore-eos", "--seed", "1"]  # more text than anyone would wait for
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        begun = process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(begun + out) >= 20
    assert err.decode().splitlines()[-1].endswith("| interrupted")
    assert "Traceback" not in err.decode()


def test_a_reader_that_leaves_is_no_error():
    command = [sys.executable, "-m", "llmcore.generate", *GREEDY, "--prompt", "hello"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
        assert process.wait(timeout=30) == 0
        assert re.fullmatch(HELD, process.stderr.read().decode())


def test_text_streams(tmp_path):
    """The first piece arrives while the rest is still being made."""
    command = [
        sys.executable,
        "-m",
        "llmcore.generate",
        "--model",
        MODEL,
        "--prompt",
        "hello",
        "--context",
        "100000",
    ]
    with subprocess.Popen(
        [*command, "--ignore-eos"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout.read(1)
        time.sleep(0.1)
        assert process.poll() is None
        process.kill()

"""The terminal chat as a user meets it: in a pseudo-terminal, and through pipes."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, real_model, tiny_llama
from rewrite import rewrite

import llmcore
from llmcore.chat.reasoning import TAGS
from llmcore.chat.session import Told

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "LC_ALL": "C.UTF-8"}
TIMINGS = re.compile(
    r"prompt (\d+) tokens(?: after (\d+) in the cache)?.*?\| text (\d+) tokens.*?\| ([\w ]+)"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("chat") / "chat.gguf", CHATML)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A model that never ends: one of two letters, with opposite logits, is always the most likely token."""
    output_VD = np.zeros((288, 64))
    for letter, sign in (("a", 1), ("l", -1)):
        output_VD[llmcore.load_tokenizer(tiny_llama()).encode(letter)[-1]] = sign
    return make_model(tmp_path_factory.mktemp("chat") / "endless.gguf", CHATML, {"output.weight": output_VD})


def make_model(path, template, tensors=None, source=None):
    """The tiny model, or that of `source`, with a chat template and its tokens."""
    source = source or tiny_llama()
    file = llmcore.load_tokenizer(source)
    tokens, types = list(file.tokens), list(file.types)
    tokens[-2:], types[-2:] = ["<|im_start|>", "<|im_end|>"], [3, 3]
    keys = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.chat_template": template,
    }
    return str(rewrite(source, path, keys, tensors))


class Terminal:
    """A conversation in a pseudo-terminal."""

    def __init__(self, *arguments):
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "llmcore.chat", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=ENVIRONMENT,
            cwd=ROOT,
            preexec_fn=lambda: (
                os.setsid(),
                __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
            ),
        )
        os.close(slave)
        self.master, self.seen = master, b""

    def __enter__(self):
        self.expect("> ")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def expect(self, words, seconds=30):
        """What is written up to and with `words`, which must come."""
        end = time.monotonic() + seconds
        while words.encode() not in self.seen:
            assert time.monotonic() < end, f"no {words!r} in {self.seen.decode(errors='replace')!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536)
        text, _, self.seen = self.seen.partition(words.encode())
        return re.sub(r"\x1b\[\??\d*[a-z]", "", text.decode(errors="replace")).replace("\r\n", "\n") + words

    def say(self, line):
        """What is written after a line is typed, up to the next prompt."""
        os.write(self.master, line.encode() + b"\n")
        self.expect(line[-3:])  # the echo
        return self.expect("\n> ") if self.seen else self.expect("> ")


def timings(text):
    """(new tokens, cached tokens, tokens of the answer, how it ended) of each answer."""
    return [(int(a), int(b or 0), int(c), end) for a, b, c, end in TIMINGS.findall(text)]


GREEDY = ("--temperature", "0", "--max-tokens", "12")


def test_a_second_turn_processes_only_its_own_tokens(model):
    llm = llmcore.load(model)
    texts = [f"hello {i}" for i in range(100)]
    answers = (
        list(llm.chat([{"role": "user", "content": text}], max_tokens=6, temperature=0)) for text in texts
    )
    # an answer that is UTF-8, which those of a random model seldom are
    text = next(text for text, answer in zip(texts, answers, strict=True) if "\ufffd" not in "".join(answer))
    with Terminal("--model", model, "--temperature", "0", "--max-tokens", "6") as terminal:
        [(first, cached, written, _)] = timings(terminal.say(text))
        assert (cached, written) == (0, 6)
        [(second, cached, _, _)] = timings(terminal.say("hello"))
    assert cached == first + written - 1  # all but the answer's last token has been through the model
    asked = "<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert second == 1 + len(llm.tokenizer.encode(asked, add_special=False, parse_special=True))


def test_undo_and_retry(model, tmp_path):
    file = str(tmp_path / "talk.json")

    def messages(terminal):
        terminal.say(f"/save {file}")
        return json.loads(open(file, encoding="utf-8").read())

    with Terminal("--model", model, "--max-tokens", "8", "--temperature", "2", "--seed", "1") as terminal:
        terminal.say("Zażółć gęślą jaźń 👋🏽")
        before = messages(terminal)
        assert [message["role"] for message in before] == ["user", "assistant"]
        assert before[0]["content"] == "Zażółć gęślą jaźń 👋🏽"
        [(new, cached, _, _)] = timings(terminal.say("/retry"))
        assert (new, cached > 0) == (1, True)
        after = messages(terminal)
        assert after[0] == before[0]
        assert after[1] != before[1]
        terminal.say("more")
        assert len(messages(terminal)) == 4
        terminal.say("/undo")
        assert messages(terminal) == after
        terminal.say("/clear")
        assert messages(terminal) == []
        assert "error: there is no turn to take back" in terminal.say("/undo")


def test_ctrl_c_stops_the_answer_and_keeps_it(endless, tmp_path):
    with Terminal("--model", endless, "--context", "100000", "--temperature", "0") as terminal:
        os.write(terminal.master, b"hello\n")
        terminal.expect("hello\r\n")
        while not re.search(r"[al] [al]", terminal.seen.decode(errors="replace")):  # the answer has begun
            terminal.seen += os.read(terminal.master, 65536)
        os.write(terminal.master, b"\x03")
        assert "| interrupted" in terminal.expect("\n> ")
        terminal.say(f"/save {tmp_path}/talk.json")
        talk = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
        assert talk[1]["role"] == "assistant"
        assert talk[1]["content"]
        time.sleep(0.5)  # Python only heeds a signal at a prompt once it waits for the first key
        os.write(terminal.master, b"\x03")  # nothing to stop
        terminal.expect("(Ctrl-D or /bye ends)")
        terminal.expect("> ")
        os.write(terminal.master, b"\x04")
        assert terminal.process.wait(timeout=30) == 0


def test_commands(model, tmp_path):
    (tmp_path / "bad.json").write_text('[{"role": "user"}]')
    with Terminal("--model", model, *GREEDY) as terminal:
        for line, words in [
            ("/nonsense", "error: no command /nonsense; /help lists those there are"),
            ("/help", "/stats"),
            ("/undo now", "error: /undo takes nothing after it"),
            ("/save", "error: /save needs a FILE"),
            (f"/load {tmp_path}/none.json", "No such file"),
            (f"/load {tmp_path}/bad.json", "not a list of messages"),
            ("/retry", "error: there is no message to answer"),
            ("/stats", "context: 0 of 512 tokens used, 512 left"),
            ("/system Be brief.", ""),
            ("hello", "prompt"),
            ("/stats", "answer 1: prompt"),
        ]:
            text = terminal.say(line)
            assert words in text
            assert "Traceback" not in text
            assert text.count("error:") == words.count("error:") or "/load" in line
        terminal.say(f"/save {tmp_path}/talk.json")
        terminal.say("/clear")
        assert "3 messages" in terminal.say(f"/load {tmp_path}/talk.json")
        os.write(terminal.master, b"/bye\n")
        assert terminal.process.wait(timeout=30) == 0


def test_a_full_context_is_told_and_nothing_dropped_unasked(model):
    with Terminal("--model", model, *GREEDY, "--context", "120") as terminal:
        terminal.say("one " * 8)
        os.write(terminal.master, b"two " * 10 + b"\n")
        assert "the context holds 120" in terminal.expect("Drop the oldest turns? [y/N] ")
        os.write(terminal.master, b"n\n")
        assert "error: the conversation has" in terminal.expect("\n> ")
        os.write(terminal.master, b"two " * 10 + b"\n")
        terminal.expect("[y/N] ")
        os.write(terminal.master, b"y\n")
        assert "dropped the oldest 1 turns" in terminal.expect("\n> ")


def piped(text, *arguments):
    """(status, standard output, standard error) of a conversation through pipes."""
    command = [sys.executable, "-m", "llmcore.chat", *arguments]
    done = subprocess.run(
        command, input=text.encode(), capture_output=True, env=ENVIRONMENT, cwd=ROOT, timeout=60
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_each_line_of_a_pipe_is_a_turn(model):
    llm = llmcore.load(model)
    messages = [{"role": "system", "content": "Be brief."}]
    for text in ("hello", "Cześć 👋"):
        messages.append({"role": "user", "content": text})
        answer = "".join(llm.chat(messages, max_tokens=12, temperature=0))
        messages.append({"role": "assistant", "content": answer})
    status, out, err = piped("hello\n\nCześć 👋", "--model", model, *GREEDY, "--system", "Be brief.")
    answers = "".join(message["content"] + "\n" for message in messages if message["role"] == "assistant")
    assert status == 0
    assert out.splitlines()[0] == answers.splitlines()[0]
    assert "\033" not in out + err
    assert len(timings(err)) == 2


def test_a_script_ends_or_drops_when_the_context_is_full(model):
    text = ("one " * 8 + "\n") * 4
    status, out, err = piped(text, "--model", model, *GREEDY, "--context", "120")
    assert status == 1
    assert re.search(
        r"error: the conversation has \d+ tokens with this message, the context holds 120; .*\n$", err
    )
    status, out, err = piped(
        text, "--model", model, *GREEDY, "--context", "120", "--context-policy", "drop-oldest"
    )
    assert status == 0
    assert "dropped the oldest 1 turns" in err
    assert len(timings(err)) == 4
    assert "context full" not in err
    status, out, err = piped(
        "x" * 200, "--model", model, *GREEDY, "--context", "120", "--context-policy", "drop-oldest"
    )
    assert (status, out) == (1, "")
    assert "the context holds 120" in err


@pytest.mark.parametrize(
    ("template", "arguments", "words"),
    [
        ("{{ nothing.at.all }}", (), "tokenizer.chat_template) fails in line 1"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            ("--system", "x"),
            "no system role",
        ),
    ],
)
def test_what_cannot_be_a_conversation_is_one_line_at_once(template, arguments, words, tmp_path):
    path = make_model(tmp_path / "model.gguf", template)
    for status, out, err in (
        piped("hello\n", "--model", path, *arguments),
        run_generate("--model", path, "--prompt", "hello", "--chat", *arguments),
    ):
        assert (status, out) == (1, "")
        assert err.startswith("error: ")
        assert words in err
        assert err.count("\n") == 1


def run_generate(*arguments):
    command = [sys.executable, "-m", "llmcore.generate", *arguments]
    done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, cwd=ROOT, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_generate_answers_with_chat_and_says_what_it_does_without(model):
    llm = llmcore.load(model)
    arguments = ("--model", model, *GREEDY, "--prompt", "hello")
    user, system = {"role": "user", "content": "hello"}, {"role": "system", "content": "Be brief."}
    for messages, options in [([user], ("--chat",)), ([system, user], ("--chat", "--system", "Be brief."))]:
        answer = "".join(llm.chat(messages, max_tokens=12, temperature=0))
        status, out, err = run_generate(*arguments, *options)
        assert (status, out) == (0, answer)
        assert "note:" not in err
    _, out, err = run_generate(*arguments)
    assert out == "".join(llm.generate("hello", max_tokens=12, temperature=0))
    assert err.startswith("note: the prompt is continued, not answered; with --chat this model answers it\n")
    assert run_generate(*arguments, "--quiet")[2] == ""


@pytest.mark.parametrize(
    ("pieces", "thinking", "answer", "thought"),
    [
        (["<th", "ink>why", "</thi", "nk>so"], False, "so", "<think>why</think>"),
        (["why</think>", "so"], True, "so", "why</think>"),
        (["a <thi", "s> b"], False, "a <this> b", ""),
        (["never ends"], True, "", "never ends"),
        # Speaks about tags
        (["<think>b</think>c<think>d</think>"], False, "c<think>d</think>", "<think>b</think>"),
        ([], False, "", ""),
    ],
)
def test_reasoning_is_told_from_the_answer(pieces, thinking, answer, thought):
    for cut in (pieces, list("".join(pieces))):
        told = Told(TAGS, [], thinking)
        found = [part for piece in cut for part in told.feed(piece)]
        found.append(told.rest())
        assert "".join(piece for piece, is_thought in found if not is_thought) == answer
        assert "".join(piece for piece, is_thought in found if is_thought) == thought


def test_reasoning_that_the_template_opens_is_dimmed_and_closed_in_the_history(tmp_path):
    opened = CHATML.replace("assistant\n'", "assistant\n<think>\n'")
    path = make_model(tmp_path / "thinker.gguf", opened)
    with Terminal("--model", path, *GREEDY) as terminal:
        os.write(terminal.master, b"hello\n")
        terminal.expect("\033[2m")
        terminal.expect("\n> ")
        terminal.say(f"/save {tmp_path}/talk.json")
    talk = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert talk[1]["content"] == ""
    assert talk[1]["reasoning_content"]


def test_ctrl_c_ends_a_script(endless):
    command = [
        sys.executable,
        "-m",
        "llmcore.chat",
        "--model",
        endless,
        "--context",
        "100000",
        "--temperature",
        "0",
    ]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        cwd=ROOT,
    ) as process:
        process.stdin.write(b"hello\nhello\n")
        process.stdin.flush()
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_three_turns_with_a_real_model():
    real_model("SmolLM2-135M-Instruct.Q4_1.gguf")
    path = str(ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    text = "What is the capital of France?\nAnd of Italy?\nThank you!\n"
    status, out, err = piped(text, "--model", path, "--temperature", "0", "--max-tokens", "40")
    assert status == 0
    assert "Paris" in out.splitlines()[0]
    (first, none, written, _), (second, cached, more, _), (third, last, _, _) = timings(err)
    assert none == 0
    assert (cached, last) == (
        first + written,
        cached + second + more,
    )  # "<|im_end|>" was never read, but counted as no text
    assert second < 20
    assert third < 20

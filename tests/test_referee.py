"""scripts/referee.py against a small server whose numbers are known: right, rounded, wrong in each way."""

import json
import math
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import FOLDER, ROOT, tiny_llama
from judging import prompts  # conftest.py puts scripts/ on the path
from judging.compare import Comparison, Difference, Model, shown_kl
from judging.server import CHAT, OLD, Reply, Server, ServerError, Shown, Step
from judging.verdict import judge, summarize
from referee import read_prompts
from rewrite import rewrite

import llmcore
from llmcore.chat import encode_chat
from llmcore.loader import read_gguf
from llmcore.quants import dequantize

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEXTS, N = ["hello", "the sea and", "1, 2, 3,"], 5


@pytest.fixture(scope="module")
def path():
    """A model with a template that writes tokens one can see: all others have a logit of 0."""
    file = read_gguf(tiny_llama())
    tokenizer, output = llmcore.load_tokenizer(tiny_llama()), file.tensors["output.weight"]
    rows = np.array(dequantize(output.data, output.type, output.byte_order))
    for i in range(len(rows)):
        text = tokenizer.token_bytes(i).decode("utf-8", "replace")
        rows[i] *= bool(text) and "\ufffd" not in text
    keys = {"tokenizer.chat_template": TEMPLATE}
    return rewrite(tiny_llama(), Path(FOLDER.name) / "refereed.gguf", keys, {"output.weight": rows})


@pytest.fixture(scope="module")
def llm(path):
    return llmcore.load(path)


@contextmanager
def serving(answer):
    """The address of a server; `answer(path, body)` gives the status and the JSON, or raw bytes, or None."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self, body):
            found = answer(self.path.removeprefix("/v1"), body)
            if callable(found):
                found(self)
                return
            status, data = found
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            self.handle_one(None)

        def do_POST(self):
            self.handle_one(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Fake:
    """A server of the model; each option is a way to be wrong, or to show less."""

    def __init__(self, llm, *, noise=0.0, template=True, extra=0, penalty=None, form="old", strict=False):
        self.llm, self.noise, self.template, self.extra = llm, noise, template, extra
        self.penalty, self.form, self.strict, self.asked = penalty, form, strict, []

    def __call__(self, path, body):
        if path == "/models":
            return 200, {"data": [{"id": "fake"}]}
        self.asked.append((path, body))
        if self.strict and "repeat_penalty" in body:
            return 400, {"error": {"message": "Unrecognized request argument: repeat_penalty"}}
        if self.form == "refuses" and "logprobs" in body:
            return 500, {"error": {"message": "logprobs is not supported"}}
        if path == OLD:
            ids = self.llm.encode_prompt(body["prompt"])
        elif self.template:
            ids = encode_chat(self.llm.tokenizer, body["messages"])
        else:
            ids = self.llm.encode_prompt(" ".join(m["content"] for m in body["messages"]))
        steps, ended = self.steps(ids, body["max_tokens"], body.get("repeat_penalty"))
        text = self.llm.tokenizer.decode([*ids, *(i for i, _ in steps)]).removeprefix(
            self.llm.tokenizer.decode(ids)
        )
        said = {"message": {"role": "assistant", "content": text}} if path == CHAT else {"text": text}
        choice = {"index": 0, **said, "finish_reason": "stop" if ended else "length"}
        if self.form != "refuses":
            choice["logprobs"] = self.shown(path, steps)
        return 200, {"choices": [choice], "usage": {"prompt_tokens": len(ids) + self.extra}}

    def steps(self, ids, n, asked):
        """The tokens chosen with the log-probabilities at each, by Python's own float64 arithmetic."""
        ids, rng, steps = list(ids), np.random.default_rng(len(ids)), []
        while len(steps) < n:
            logits = self.llm.logits(ids)[-1].astype(np.float64)
            logits = (logits + self.noise * rng.standard_normal(len(logits))).tolist()
            total = math.log(sum(map(math.exp, logits)))
            logprobs = [logit - total for logit in logits]
            order = sorted(range(len(logprobs)), key=lambda i: -logprobs[i])
            on = self.penalty == "always" or (self.penalty == "by default" and asked is None)
            chosen = order[1] if on and len(steps) == 2 else order[0]
            if chosen in self.llm.tokenizer.eog_ids:
                return steps, True
            steps.append((chosen, [(i, logprobs[i]) for i in order[:5]] + [(chosen, logprobs[chosen])]))
            ids.append(chosen)
        return steps, False

    def shown(self, path, steps):
        token = self.llm.tokenizer.token_text
        if self.form == "none":
            return None
        if path == CHAT or self.form == "content":
            rows = []
            for i, row in steps:
                items = [
                    {"token": token(k), "logprob": lp, "bytes": [*self.llm.tokenizer.token_bytes(k)] or None}
                    for k, lp in row
                ]
                rows.append(items[-1] | {"id": i, "top_logprobs": items[:-1]})
            return {"content": rows}
        return {
            "tokens": [token(i) for i, _ in steps],
            "token_logprobs": [row[-1][1] for _, row in steps],
            "top_logprobs": [{token(k): lp for k, lp in row[:-1]} for _, row in steps],
        }


def refereed(llm, fake, texts=TEXTS, chats=()):
    """What is found: the words, and the two summaries."""
    model = Model(llm)
    with serving(fake) as url:
        server = Server(url, seconds=30)
        server.find_model()
        continued = []
        for n, text in enumerate(texts, 1):
            reply = server.complete(text, N)
            continued.append(model.compare(f"prompt {n}", llm.encode_prompt(text), reply, N))
        answered = []
        for n, messages in enumerate(chats, 1):
            ids = encode_chat(llm.tokenizer, messages)
            answered.append(model.compare(f"conversation {n}", ids, server.answer(messages, N), N))
    summaries = summarize(continued) if continued else None, summarize(answered) if answered else None
    return [word for word, _ in judge(*summaries)], *summaries, server


CHATS = [[{"role": "user", "content": "hello"}], [{"role": "user", "content": "Ada?"}]]


@pytest.mark.parametrize("form", ["old", "content"])
def test_nothing_is_found_where_nothing_is_wrong(llm, form):
    words, texts, chats, server = refereed(llm, Fake(llm, form=form), chats=CHATS)
    assert words == ["same"]
    assert texts.n_tokens == len(TEXTS) * N
    assert texts.n_same == texts.n_tokens
    # float32 logits of about 5, once in one pass over the text and once step by step
    assert texts.kl < 1e-9
    assert max(texts.largest, chats.largest) < 1e-4
    assert [texts.counts, chats.counts, texts.first, server.silent] == [[], [], None, {}]


def test_rounding_is_found_and_measured(llm):
    """Noise of 0.1 on each logit: KL is about its variance / 2 = 0.005, less what one bucket hides."""
    words, texts, _, _ = refereed(llm, Fake(llm, noise=0.1))
    assert words == ["rounded"]
    assert 1e-4 < texts.kl < 0.01
    assert 0.05 < texts.largest < 0.6


def test_another_model_is_found(llm):
    words, texts, _, _ = refereed(llm, Fake(llm, noise=3.0))
    assert words == ["different"]
    assert texts.first is not None


def test_a_wrong_template_is_found_by_the_number_of_tokens_and_by_the_answers(llm):
    words, texts, chats, _ = refereed(llm, Fake(llm, template=False), chats=CHATS)
    assert words == ["template"]
    assert [name for name, _, _ in chats.counts] == ["conversation 1", "conversation 2"]
    assert chats.counts[0][1] == len(encode_chat(llm.tokenizer, CHATS[0]))
    assert chats.counts[0][2] == len(llm.encode_prompt("hello"))
    assert (texts.level, chats.level) == ("same", "different")


def test_a_doubled_bos_is_found(llm):
    words, texts, _, _ = refereed(llm, Fake(llm, extra=1))
    assert words == ["tokenizer"]
    assert texts.counts[0] == (
        "prompt 1",
        len(llm.encode_prompt("hello")),
        len(llm.encode_prompt("hello")) + 1,
    )


def test_a_penalty_is_found(llm):
    words, texts, _, _ = refereed(llm, Fake(llm, penalty="always"))
    assert words == ["penalty", "same"]
    assert texts.n_not_greedy == len(TEXTS)
    assert texts.first[1].position == 3
    words, texts, _, _ = refereed(llm, Fake(llm, penalty="by default"))  # it is asked for none
    assert words == ["same"]


@pytest.mark.parametrize("form", ["none", "refuses"])
def test_without_log_probabilities_texts_are_judged(llm, form):
    words, texts, _, server = refereed(llm, Fake(llm, form=form), chats=CHATS)
    assert words == ["same"]
    assert texts.kl is None
    assert texts.n_same == texts.n_tokens
    assert texts.n_tokens == len(TEXTS) * N
    assert set(server.silent) == {OLD, CHAT}
    assert ("logprobs is not supported" in server.silent[OLD]) == (form == "refuses")
    words, texts, _, _ = refereed(llm, Fake(llm, form=form, noise=3.0))
    assert words == ["different"]
    assert texts.first[1].apart > 1


def test_a_strict_server_is_asked_for_less(llm):
    fake = Fake(llm, strict=True)
    words, _, _, server = refereed(llm, fake)
    assert words == ["same"]
    assert server.strict
    assert sum("repeat_penalty" in body for _, body in fake.asked) == 1


def test_a_text_that_ends_sooner_or_later(llm):
    """The server ends after two tokens where we would go on; with log-probabilities and without."""
    ids = llm.encode_prompt("hello")
    fake = Fake(llm)
    steps, _ = fake.steps(ids, 2, None)
    rows = [Step(Shown("", row[-1][1], id=i), [Shown("", lp, id=k) for k, lp in row]) for i, row in steps]
    text = llm.tokenizer.decode([*ids, *(i for i, _ in steps)]).removeprefix(llm.tokenizer.decode(ids))
    for shown in (rows, None):
        found = Model(llm).compare("prompt 1", ids, Reply(text, True, len(ids), shown), N)
        assert (found.n_tokens, found.n_same) == (3, 2)
        assert found.first.theirs == "(end of text)"
        assert found.first.apart > 0
        cut = Model(llm).compare("prompt 1", ids, Reply(text, False, len(ids), shown), N)
        assert (cut.n_tokens, cut.first) == (2, None)


def test_kl_by_hand():
    """Shown: the first of 1/2, 1/4, 1/8, 1/8; the server says 1/4 of it: 1/2 ln 2 + 1/2 ln (1/2 / 3/4)."""
    ours = np.log([0.5, 0.25, 0.125, 0.125])
    assert shown_kl(ours, {0: math.log(0.25)}) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    theirs = {0: math.log(0.5), 1: math.log(0.125)}  # 1/4 ln 2 + 1/4 ln (1/4 / 3/8)
    assert shown_kl(ours, theirs) == pytest.approx(0.25 * math.log(2) + 0.25 * math.log(2 / 3))
    assert shown_kl(ours, {i: float(lp) for i, lp in enumerate(ours)}) == pytest.approx(0, abs=1e-12)


def test_levels_of_texts_alone():
    """Where two tokens are nearly as likely, any engine may take either; nats apart, none may."""
    for apart, level in ((0.01, "same"), (0.3, "rounded"), (2.0, "different")):
        first = Difference(3, "a", "b", apart)
        one = Comparison("prompt 1", 4, Reply("x", False, 4, None), n_tokens=3, n_same=2, first=first)
        summary = summarize([one])
        assert (summary.level, summary.n_texts, summary.apart) == (level, 0, apart)
        ((word, sentence),) = judge(summary, None)
        assert word == level
        assert "{" not in sentence


def slow(handler):
    time.sleep(5)


def trickle(handler):
    with suppress(OSError):  # the other side may have left
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(50):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)


def leaves(handler):
    handler.close_connection = True


def half(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    handler.close_connection = True


def other(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    handler.close_connection = True


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (slow, "answer.* within 1 seconds"),
        (trickle, "not answered within 1 seconds"),
        (leaves, "closed the connection without an answer"),
        (half, "closed the connection in the middle of its answer"),
        (other, "SSH"),
        ((200, b"<html>hello</html>"), "answers what is no JSON: <html>"),
        ((200, b""), "answers what is no JSON: nothing"),
        ((200, b"[" * 100_000), "no JSON"),
        ((200, {"choices": []}), "not OpenAI's protocol"),
        ((200, [1]), "not OpenAI's protocol"),
        ((200, {"choices": [{"text": 5}]}), "not OpenAI's protocol"),
        ((200, {"choices": [{"text": "", "logprobs": {"content": [{}]}}]}), "not OpenAI's protocol"),
        (
            (200, {"choices": [{"text": "", "logprobs": {"tokens": [1], "token_logprobs": []}}]}),
            "not OpenAI's",
        ),
        ((200, {"choices": [{"text": ""}], "usage": {"prompt_tokens": "many"}}), "not OpenAI's protocol"),
        ((401, {"error": {"message": "Invalid API key"}}), "status 401: Invalid API key"),
        ((503, b"loading"), "status 503: loading"),
        ((500, {"detail": "no"}), "status 500: no"),
        ((404, b""), "status 404: no reason given"),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)[:60]),
)
def test_a_server_that_hangs_dies_or_talks_nonsense_is_told_in_a_line(found, words):
    with serving(lambda path, body: found) as url:
        server = Server(url, seconds=1, model="fake")
        begin = time.perf_counter()
        with pytest.raises(ServerError, match=words) as error:
            server.complete("x", 2)
        assert time.perf_counter() - begin < 4
        assert url in str(error.value)
        assert "\n" not in str(error.value)


def test_addresses():
    with pytest.raises(ServerError, match="must begin with http://"):
        Server("localhost:8080")
    with pytest.raises(ServerError, match="nobody listens there"):
        Server("http://127.0.0.1:9", seconds=5).ask("/models")
    assert Server("http://h/v1/").url == "http://h"


def test_prompts_of_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text('one\n{"prompt": "two"}\n{"messages": [{"role": "user", "content": "x"}]}\n{ three\n')
    assert read_prompts(file) == (["one", "two", "{ three"], [[{"role": "user", "content": "x"}]])
    file.write_text("a\n\nb\n")
    with pytest.raises(ValueError, match="line 2 is empty"):
        read_prompts(file)


def run(path, url, *arguments):
    command = [sys.executable, ROOT / "scripts" / "referee.py", "--model", path, "--against", url]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=ROOT)


def test_the_command(llm, path, tmp_path):
    """The template is wrong and a penalty is on by default; the report says both, in words and in JSON."""
    file = tmp_path / "prompts.txt"
    file.write_text("hello\nthe sea\n" + json.dumps({"messages": CHATS[0]}) + "\n")
    with serving(Fake(llm, template=False, penalty="by default")) as url:
        done = run(path, url, "--prompts", str(file), "--max-tokens", "4")
        assert done.returncode == 0, done.stderr
        assert "TEMPLATE: The server does not use the file's chat template: conversation 1 has" in done.stdout
        assert "'<s><user>hello\\n<assistant>'" in done.stdout
        assert "Note: unless it is asked" in done.stdout
        machine = json.loads(run(path, url, "--prompts", str(file), "--max-tokens", "4", "--json").stdout)
    assert machine["verdict"] == "template"
    assert [item["what"] for item in machine["found"]] == ["template"]
    assert machine["texts"]["level"] == "same"
    assert machine["prompts"][2]["prompt_tokens"]["file"] == len(encode_chat(llm.tokenizer, CHATS[0]))
    assert len(machine["notes"]) == 1


def test_a_server_without_one_kind_of_question(llm, path, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("hello\n" + json.dumps({"messages": CHATS[0]}) + "\n")
    fake = Fake(llm)
    no_texts = lambda p, body: (404, {"error": "no such path"}) if p == OLD else fake(p, body)  # noqa: E731
    with serving(no_texts) as url:
        done = run(path, url, "--prompts", str(file), "--max-tokens", "3")
    assert "left out: " in done.stdout
    assert "SAME" in done.stdout


def test_errors_of_the_command_are_one_line(path, tmp_path):
    for arguments, status, words in (
        ((path, "http://127.0.0.1:9"), 1, "nobody listens there"),
        ((path, "127.0.0.1:9"), 1, "must begin with http"),
        ((tmp_path / "no.gguf", "http://127.0.0.1:9"), 1, "nobody listens|no such file"),
        ((path, "http://127.0.0.1:9", "--prompts", str(tmp_path / "no.txt")), 1, "no.txt"),
    ):
        done = run(*arguments)
        assert done.returncode == status
        assert any(word in done.stderr for word in words.split("|"))
        assert done.stderr.count("\n") == 1


def test_the_default_prompts_are_many_and_various():
    assert len({*prompts.TEXTS}) == len(prompts.TEXTS) >= 24
    assert sum(not text.isascii() for text in prompts.TEXTS) >= 5
    assert {len(messages) for messages in prompts.CONVERSATIONS} == {1, 2, 3}

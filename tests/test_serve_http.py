"""The server as clients see it: what it answers, and what it says of what it cannot."""

import base64
import json
import re
import threading
import time

import numpy as np
import pytest

pytest.importorskip("starlette", reason='pip install "llmcore[serve]"')
pytest.importorskip("httpx", reason="starlette's test client needs it")
from conftest import FOLDER
from starlette.testclient import TestClient
from test_conversation import CHATML, make_model

import llmcore
from llmcore.chat import encode_chat
from llmcore.model import forward
from llmcore.ops import log_softmax
from llmcore.sampling import Sampling
from llmcore.serve import app as app_module
from llmcore.serve.app import Served, make_app
from llmcore.serve.engine import Engine

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello there"}]
GREEDY = {"temperature": 0, "max_tokens": 12}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def llm():
    path = make_model(FOLDER.name + "/serve-chat.gguf", CHATML)
    return llmcore.load(path)


def client_of(engine, **terms):
    served = Served(engine.llm, ["tiny", "other"], engine, **terms)
    client = TestClient(make_app(served), base_url="http://localhost", raise_server_exceptions=False)
    client.llm = engine.llm
    return client


@pytest.fixture(scope="module")
def client(llm):
    engine = Engine(llm, parallel=4, queue=64)
    engine.start()
    yield client_of(engine)
    engine.stop()


def ask(client, path=CHAT, **fields):
    about = {"messages": MESSAGES} if path == CHAT else {"prompt": "hello"}
    return client.post(path, json=about | GREEDY | fields)


def events(client, path=CHAT, **fields):
    about = {"messages": MESSAGES} if path == CHAT else {"prompt": "hello"}
    with client.stream("POST", path, json=about | GREEDY | {"stream": True} | fields) as reply:
        assert reply.status_code == 200, reply.read()
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def error_of(reply, status):
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return error


# What is written


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 1.5, "top_k": 0, "seed": 3}], ids=str
)
def test_an_answer_is_that_of_the_model_alone(client, llm, options):
    want = "".join(llm.chat(MESSAGES, max_tokens=12, **options))
    reply = ask(client, **options).json()
    (choice,) = reply["choices"]
    assert choice["message"]["content"] == want
    assert choice["finish_reason"] in ("stop", "length")
    assert (reply["object"], reply["model"]) == ("chat.completion", "tiny")
    parts = events(client, **options)
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == want
    assert [part["choices"][0]["finish_reason"] for part in parts][-1] == choice["finish_reason"]


def test_a_text_is_that_of_generate(client, llm):
    prompts = ["hello", [5, 6, 7], "a b"]
    want = ["".join(llm.generate(prompt, **GREEDY)) for prompt in prompts]
    choices = ask(client, TEXT, prompt=prompts).json()["choices"]
    assert [choice["text"] for choice in choices] == want
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert ask(client, TEXT, prompt=[5, 6, 7]).json()["choices"][0]["text"] == want[1]
    texts = [""] * 3
    for part in events(client, TEXT, prompt=prompts):
        texts[part["choices"][0]["index"]] += part["choices"][0]["text"]
    assert texts == want
    assert ask(client, TEXT, echo=True).json()["choices"][0]["text"] == "hello" + want[0]
    assert "".join(p["choices"][0]["text"] for p in events(client, TEXT, echo=True)) == "hello" + want[0]


def test_many_clients_at_once_each_get_their_own(client, llm):
    """Twenty at a time, streamed and whole, in a queue for four."""
    said = [f"number {n} " * (1 + 3 * n % 40) for n in range(20)]
    want = ["".join(llm.chat([{"role": "user", "content": text}], **GREEDY)) for text in said]
    got = {}

    def one(n):
        messages = [{"role": "user", "content": said[n]}]
        if n % 2:
            parts = events(client, messages=messages)
            got[n] = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
        else:
            got[n] = ask(client, messages=messages).json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=one, args=(n,), daemon=True) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [got.get(n) for n in range(20)] == want


def test_choices_have_seeds_of_their_own(client, llm):
    hot = {"temperature": 1.5, "top_k": 0, "max_tokens": 12}
    reply = ask(client, n=3, seed=7, **hot).json()
    want = ["".join(llm.chat(MESSAGES, seed=seed, **hot)) for seed in (7, 8, 9)]
    assert [choice["message"]["content"] for choice in reply["choices"]] == want
    negative = ask(client, seed=-5, **hot).json()["choices"][0]
    assert negative["message"]["content"] == "".join(llm.chat(MESSAGES, seed=(1 << 64) - 5, **hot))


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_stop_strings_and_limits_end_a_text(client, llm, path):
    whole = "".join(llm.chat(MESSAGES, **GREEDY) if path == CHAT else llm.generate("hello", **GREEDY))
    stop = re.sub(r"\s", "", whole)[3:5]

    def text(choice):
        return choice["message"]["content"] if path == CHAT else choice["text"]

    (choice,) = ask(client, path, stop=stop).json()["choices"]
    assert text(choice) == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"
    (choice,) = ask(client, path, stop=["never", stop], max_tokens=1).json()["choices"]
    assert choice["finish_reason"] == "length"
    reply = ask(client, path, max_tokens=9, ignore_eos=True).json()
    assert reply["usage"]["completion_tokens"] == 9


def test_usage_tells_what_was_cached(client, llm):
    messages = [{"role": "user", "content": "a long story of " + "words " * 30}]
    n = len(encode_chat(llm.tokenizer, messages))
    for cached in (0, n - 1):
        usage = ask(client, messages=messages).json()["usage"]
        assert usage["prompt_tokens"] == n
        assert (usage["prompt_tokens_details"]["cached_tokens"] > 16) == bool(cached)
        assert usage["total_tokens"] == n + usage["completion_tokens"]
    ends = ask(client, messages=messages, max_tokens=400, temperature=1.5, seed=1).json()
    assert ends["choices"][0]["finish_reason"] == "stop"  # and the end-of-text token is no token of the text
    sampling = {"sampling": llm.sampling(temperature=1.5), "max_tokens": 400, "seed": 1}
    ids = encode_chat(llm.tokenizer, messages)
    assert ends["usage"]["completion_tokens"] == len(list(llm.tokens(ids, **sampling))) - 1
    last = events(client, messages=messages, stream_options={"include_usage": True})[-1]
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == n - 1


def test_log_probabilities_are_those_of_the_logits(client, llm):
    ids = encode_chat(llm.tokenizer, MESSAGES)
    reply = ask(client, logprobs=True, top_logprobs=3, max_tokens=4, ignore_eos=True).json()
    content = reply["choices"][0]["logprobs"]["content"]
    chosen = [
        token.id for token in llm.tokens(ids, max_tokens=4, sampling=Sampling(temperature=0), ignore_eos=True)
    ]
    want = log_softmax(llm.logits([*ids, *chosen]).astype(np.float64))[len(ids) - 1 :]
    assert len(content) == len(chosen)
    for told, row, i in zip(content, want, chosen, strict=False):
        assert told["logprob"] == pytest.approx(row[i], abs=1e-4)
        assert bytes(told["bytes"]) == llm.tokenizer.token_bytes(i, special=True)
        assert [t["logprob"] for t in told["top_logprobs"]] == pytest.approx(sorted(row)[:-4:-1], abs=1e-4)
    streamed = [
        one
        for part in events(client, logprobs=True, top_logprobs=3, max_tokens=4, ignore_eos=True)
        for one in (part["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert [one["token"] for one in streamed] == [one["token"] for one in content]
    told = ask(client, TEXT, logprobs=2, max_tokens=3, ignore_eos=True).json()["choices"][0]["logprobs"]
    assert [len(told[key]) for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")] == [3] * 4
    assert "".join(told["tokens"]).startswith(told["tokens"][0])
    assert told["text_offset"] == np.cumsum([0, *map(len, told["tokens"][:-1])]).tolist()
    assert ask(client).json()["choices"][0]["logprobs"] is None


def test_a_thought_is_told_apart(tmp_path):
    """A prompt that opens a thought which a model of two letters never closes."""
    template = CHATML.replace("assistant\n", "assistant\n<think>\n")
    assert template != CHATML
    thinker = llmcore.load(make_model(tmp_path / "thinks.gguf", template))
    engine = Engine(thinker)
    engine.start()
    try:
        reply = ask(client_of(engine), max_tokens=8).json()
        message = reply["choices"][0]["message"]
        assert message["content"] == ""
        assert (
            message["reasoning_content"]
            == "".join(thinker.chat(MESSAGES, **GREEDY | {"max_tokens": 8})).strip()
        )
        assert (
            reply["usage"]["completion_tokens_details"]["reasoning_tokens"]
            == reply["usage"]["completion_tokens"]
        )
    finally:
        engine.stop()


WRONG = {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def test_a_schema_is_kept_to(client, llm):
    pytest.importorskip("llguidance", reason='pip install "llmcore[json]"')
    long = {"max_tokens": 100, "temperature": 1.0}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    for seed in range(3):
        want = "".join(llm.chat(MESSAGES, json_schema=SCHEMA, seed=seed, **long))
        for fields in ({"response_format": wanted}, {"json_schema": SCHEMA}):
            content = ask(client, seed=seed, **long, **fields).json()["choices"][0]["message"]["content"]
            assert content == want
            assert set(json.loads(content)) == {"a", "b"}
    (choice,) = ask(client, response_format={"type": "json_object"}, temperature=1.0).json()["choices"]
    assert choice["message"]["content"].startswith("{")
    assert ask(client, response_format={"type": "text"}).status_code == 200
    assert ask(client, TEXT, regex="[ab]{3}").json()["choices"][0]["text"] in {
        x + y + z for x in "ab" for y in "ab" for z in "ab"
    }


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": {"type": "xml"}}, "response_format", '"json_schema"'),
        ({"response_format": "json"}, "response_format", "must be an object"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "schema"),
        ({"response_format": WRONG}, "response_format", ""),
        (
            {"response_format": {"type": "json_object"}, "grammar": 'root ::= "a"'},
            "response_format",
            "one of them",
        ),
        ({"regex": "("}, "regex", "regex"),
        ({"json_schema": {"type": "object"}, "ignore_eos": True}, "json_schema", "ignore_eos"),
        ({"thought": "x"}, "thought", "Unrecognized request argument"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_kept_to(client, fields, param, words):
    pytest.importorskip("llguidance", reason='pip install "llmcore[json]"')
    error = error_of(ask(client, **fields), 400)
    assert error["param"] == param
    assert words in error["message"]


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city"],
        },
    },
}
OTHER = {
    "type": "function",
    "function": {"name": "other", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """A server of a model whose template writes calls as Qwen's and Hermes' do."""
    pytest.importorskip("llguidance", reason='pip install "llmcore[json]"')
    template = "{{ tools }}" + CHATML + "{# <tool_call> #}"
    path = make_model(tmp_path_factory.mktemp("calls") / "calls.gguf", template)
    engine = Engine(llmcore.load(path))
    engine.start()
    yield client_of(engine)
    engine.stop()


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=str
)
def test_a_call_that_must_come_comes(caller, choice):
    fields = {"tools": [WEATHER, OTHER] if choice != "required" else [WEATHER], "tool_choice": choice}
    fields |= {"temperature": 1.0, "max_tokens": 200}
    for seed in range(3):
        (whole,) = ask(caller, seed=seed, **fields).json()["choices"]
        assert whole["finish_reason"] == "tool_calls"
        assert whole["message"]["content"] is None
        (call,) = whole["message"]["tool_calls"]
        assert (call["type"], call["function"]["name"]) == ("function", "weather")
        assert json.loads(call["function"]["arguments"])["city"] in ("Rome", "Oslo")
        assert re.fullmatch("[a-zA-Z0-9]{9}", call["id"])
        parts = [part["choices"][0] for part in events(caller, seed=seed, **fields)]
        (streamed,) = [call for part in parts for call in part["delta"].get("tool_calls", [])]
        assert (streamed["index"], streamed["function"]) == (0, call["function"])
        assert "".join(part["delta"].get("content", "") for part in parts) == ""
        assert parts[-1]["finish_reason"] == "tool_calls"
    free = ask(caller, tools=[WEATHER], tool_choice="none", **GREEDY).json()["choices"][0]
    assert free["message"]["content"] == "".join(caller.llm.chat(MESSAGES, **GREEDY))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tool_choice": "sometimes", "tools": [WEATHER]}, "none or auto or required"),
        ({"tool_choice": {"type": "function"}, "tools": [WEATHER]}, "must be {"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": [WEATHER]},
            "no tool called 'x'",
        ),
        ({"tool_choice": "required", "tools": [WEATHER], "regex": "a"}, "one of them"),
    ],
    ids=str,
)
def test_a_call_that_cannot_come(caller, fields, words):
    error = error_of(ask(caller, **fields), 400)
    assert error["param"] == "tool_choice"
    assert words in error["message"]


def test_embeddings_are_normalized_hidden_states(client, llm):
    """Pooled by hand from the last hidden states, with the last norm written out."""
    ids = llm.tokenizer.encode("hello there")
    x_TD = forward(llm.weights, llm.config, [(np.array(ids), llm.empty_cache())]).astype(np.float64)
    gain = llm.weights.output_norm.gain
    normed = x_TD / np.sqrt((x_TD**2).mean(-1, keepdims=True) + llm.config.norm_eps) * gain
    for pooling, want in (("mean", normed.mean(0)), ("last", normed[-1])):
        body = {"input": ["hello there", ids, "x"], "model": "tiny", "pooling": pooling}
        reply = client.post("/v1/embeddings", json=body).json()
        got = [np.array(item["embedding"]) for item in reply["data"]]
        np.testing.assert_allclose(got[0], want / np.linalg.norm(want), atol=1e-5)
        assert got[1].tolist() == pytest.approx(got[0].tolist(), abs=1e-6)
        data = client.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()["data"]
        assert np.frombuffer(base64.b64decode(data[0]["embedding"]), "<f4").tolist() == pytest.approx(
            got[0].tolist()
        )
    short = client.post("/v1/embeddings", json={"input": "hello there", "dimensions": 8}).json()["data"][0][
        "embedding"
    ]
    want = normed.mean(0)[:8]
    np.testing.assert_allclose(short, want / np.linalg.norm(want), atol=1e-5)
    assert reply["usage"]["prompt_tokens"] == 2 * len(ids) + len(llm.tokenizer.encode("x"))


def test_more_inputs_than_the_queue_holds(client):
    """A long list takes its places one after another."""
    data = client.post("/v1/embeddings", json={"input": [f"text {n}" for n in range(150)]}).json()["data"]
    assert [item["index"] for item in data] == list(range(150))
    choices = ask(client, TEXT, prompt=[[5, n] for n in range(10, 110)], max_tokens=2).json()["choices"]
    assert len(choices) == 100


def test_tokens_and_text(client, llm):
    text = "hello <|im_end|> żółw"
    reply = client.post("/tokenize", json={"content": text}).json()
    assert reply["tokens"] == llm.tokenizer.encode(text, add_special=False, parse_special=True)
    assert (
        client.post("/tokenize", json={"prompt": text}).json()["count"]
        == reply["count"] + llm.tokenizer.add_bos
    )
    pieces = client.post("/tokenize", json={"content": text, "with_pieces": True}).json()["tokens"]
    assert [piece["id"] for piece in pieces] == reply["tokens"]
    ids = client.post("/tokenize", json={"messages": MESSAGES}).json()["tokens"]
    assert ids == encode_chat(llm.tokenizer, MESSAGES)
    body = {"tokens": llm.tokenizer.encode("hello żółw")}
    assert client.post("/detokenize", json=body).json()["content"] == "hello żółw"


def test_models_health_and_metrics(client):
    listed = client.get("/v1/models").json()["data"]
    assert [card["id"] for card in listed] == ["tiny", "other"]
    assert client.get("/v1/models/other").json()["max_model_len"] == 512
    assert ask(client, model="other").json()["model"] == "other"
    assert client.get("/health").json()["status"] == "ok"
    lines = client.get("/metrics").text.splitlines()
    for line in lines:
        assert re.fullmatch(
            r'# (HELP|TYPE) llmcore_\w+ .+|llmcore_\w+(\{(\w+="[^"]*",?)+\})? [\d.e+-]+', line
        ), line
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert int(values["llmcore_generated_tokens_total"]) > 0
    assert int(values['llmcore_requests_total{path="/v1/models",status="200"}']) > 0
    assert values['llmcore_step_seconds_bucket{le="+Inf"}'] == values["llmcore_step_seconds_count"]


# What is refused


@pytest.mark.parametrize(
    ("path", "fields", "param", "words"),
    [
        (CHAT, {"messages": None}, "messages", "messages is missing"),
        (CHAT, {"messages": "hi"}, "messages", "must be a list of dicts"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "image_url"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages", "message 1 has the role None"),
        (CHAT, {"temperature": "hot"}, "temperature", "must be a finite number"),
        (CHAT, {"top_p": 2}, "top_p", "top_p is 2"),
        (CHAT, {"top_p": True}, "top_p", "top_p is True"),
        (CHAT, {"max_tokens": 0}, "max_tokens", "must be a whole number, 1 or more"),
        (CHAT, {"max_completion_tokens": 2.5}, "max_completion_tokens", "2.5"),
        (CHAT, {"n": 129}, "n", "at most 128"),
        (CHAT, {"stop": [""]}, "stop", "at least one character"),
        (CHAT, {"stop": {"a": 1}}, "stop", ""),
        (CHAT, {"seed": "x"}, "seed", "whole number"),
        (CHAT, {"stream": "yes"}, "stream", "true or false"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        (CHAT, {"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "at most 20"),
        (CHAT, {"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
        (CHAT, {"logit_bias": {"99999": 1}}, "logit_bias", "99999"),
        (CHAT, {"tools": "x"}, "tools", "must be a list"),
        (CHAT, {"tools": [{"type": "function"}]}, "tools", ""),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "no place for tools"),
        (CHAT, {"functions": [{}]}, "functions", "use tools"),
        (CHAT, {"modalities": ["audio"]}, "modalities", "text"),
        (CHAT, {"temprature": 1}, "temprature", "Unrecognized request argument"),
        (CHAT, {"prompt": "x"}, "prompt", "Unrecognized request argument"),
        (CHAT, {"logit_bias": {str(i): (-1e9) for i in range(3)}}, "logit_bias", "at most a million"),
        (TEXT, {"prompt": None}, "prompt", "prompt is missing"),
        (TEXT, {"prompt": 3}, "prompt", "prompt must be a text"),
        (TEXT, {"prompt": [[5, "a"]]}, "prompt", "token ids"),
        (TEXT, {"prompt": [[5, 100000]]}, "prompt", "100000"),
        (TEXT, {"prompt": []}, "prompt", "prompt must be"),
        (TEXT, {"prompt": [[]]}, "prompt", "empty"),
        (TEXT, {"suffix": "x"}, "suffix", "not supported"),
        (TEXT, {"best_of": 3}, "best_of", "can only be 1"),
        (TEXT, {"echo": True, "logprobs": 1}, "echo", "log-probabilities"),
    ],
    ids=str,
)
def test_each_field_has_its_error(client, path, fields, param, words):
    error = error_of(ask(client, path, **fields), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input": None}, "input is missing"),
        ({"input": "a", "encoding_format": "int8"}, "float or base64"),
        ({"input": "a", "dimensions": 1000}, "dimensions is 1000"),
        ({"input": [5, 99999]}, "99999"),
        ({"input": ""}, ""),
    ],
)
def test_embeddings_that_cannot_be(client, fields, words):
    reply = client.post("/v1/embeddings", json=fields)
    if fields["input"] == "":  # a model with a BOS embeds that
        assert reply.status_code in (200, 400)
        return
    assert words in error_of(reply, 400)["message"]


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"nul\xff", b'{"a": NaN}', b"[" * 100000, b"3"], ids=str)
def test_a_body_that_is_no_object(client, data):
    error = error_of(client.post(CHAT, content=data), 400)
    assert error["code"] == "invalid_json"


def test_a_body_that_is_too_large(client, monkeypatch):
    monkeypatch.setattr(app_module, "MOST_BYTES", 100)
    error_of(client.post(CHAT, content=b"x" * 101), 413)


def test_routes_methods_and_models_that_are_not_here(client):
    assert error_of(client.get("/v1/nothing"), 404)["code"] == "unknown_url"
    assert error_of(client.get("/page/../app.py"), 404)
    assert error_of(client.get("/page/%2e%2e%2fapp.py"), 404)
    error_of(client.get(CHAT), 405)
    error = error_of(ask(client, model="gpt-9"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "tiny" in error["message"]
    error_of(client.get("/v1/models/gpt-9"), 404)


def test_a_prompt_that_is_too_long_is_told_with_both_numbers(client, llm):
    error = error_of(ask(client, TEXT, prompt=[5] * 600), 400)
    assert error["code"] == "context_length_exceeded"
    assert "600" in error["message"]
    assert "512" in error["message"]
    error = error_of(ask(client, messages=[{"role": "user", "content": "word " * 600}]), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


def test_a_full_queue_is_429(llm):
    engine = Engine(llm, parallel=1, queue=1)  # not started: what comes waits
    client = client_of(engine)
    for _ in range(2):
        engine.submit([type("Text", (), {"cancelled": False})()])
    reply = ask(client)
    error = error_of(reply, 429)
    assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
    assert int(reply.headers["retry-after"]) >= 1


def test_a_server_that_stops_says_so(llm):
    engine = Engine(llm)
    client = client_of(engine)
    engine.drain()
    error = error_of(ask(client), 503)
    assert "stopping" in error["message"]
    assert client.get("/health").status_code == 503


def test_a_model_that_breaks_ends_one_request(llm, monkeypatch):
    from llmcore.errors import ModelFileError
    from llmcore.writing import Writer

    engine = Engine(llm)
    engine.start()
    try:
        client = client_of(engine)
        with monkeypatch.context() as patch:

            def broken(*_):
                raise ModelFileError("the logits after 3 tokens are not finite")

            patch.setattr(Writer, "choose", broken)
            error = error_of(ask(client), 500)
            assert error["type"] == "server_error"
            assert "not finite" in error["message"]
            with client.stream("POST", CHAT, json={"messages": MESSAGES, "stream": True}) as reply:
                text = reply.read().decode()
            assert '"error":{"message":"the logits' in text
            assert text.endswith("data: [DONE]\n\n")
        assert ask(client).status_code == 200
    finally:
        engine.stop()


# Who may ask


def test_only_names_of_this_machine_are_hosts(client):
    for host in (
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
    ):
        assert (
            "not this machine" in error_of(client.get("/v1/models", headers={"Host": host}), 403)["message"]
        )
    for host in ("localhost:8080", "127.0.0.1", "[::1]:99", "127.9.9.9:1"):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_pages_of_other_origins_may_not_ask(client, llm):
    for origin in ("http://evil.example", "null", "http://localhost:9999"):
        error_of(client.get("/v1/models", headers={"Origin": origin}), 403)
        error_of(client.options(CHAT, headers={"Origin": origin}), 403)
    own = client.get("/v1/models", headers={"Origin": "http://localhost"})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers
    friend = {"Origin": "http://friend.example"}
    open_to = client_of(Engine(llm), origins=["http://friend.example"])
    reply = open_to.get("/v1/models", headers=friend)
    assert reply.headers["access-control-allow-origin"] == "http://friend.example"
    preflight = open_to.options(CHAT, headers=friend | {"Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 204
    assert "Authorization" in preflight.headers["access-control-allow-headers"]
    error_of(open_to.get("/v1/models", headers={"Origin": "http://evil.example"}), 403)


def test_a_key_is_asked_for(llm):
    client = client_of(Engine(llm), key="secret", local=False)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secre"}):
        error = error_of(client.get("/v1/models", headers=headers), 401)
        assert error["code"] == "invalid_api_key"
    headers = {"Authorization": "Bearer secret", "Host": "any.example"}
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.get("/").status_code == 200
    error_of(client.get("/metrics"), 401)


def test_the_page_is_its_own_and_asks_nobody(client):
    reply = client.get("/")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://|//\w", re.sub(r"<!--.*?-->", "", reply.text))
    for name in re.findall(r'(?:src|href)="([^"#]+)"', reply.text):
        assert client.get(name).status_code == 200, name
    assert not re.search(r"\son\w+=|<script>|style=", reply.text)


def test_a_client_that_leaves_before_its_answer_stops_it(llm):
    """The request goes in, its connection breaks: nothing runs any more."""
    import anyio

    engine = Engine(llm)
    engine.start()
    app = make_app(Served(llm, ["tiny"], engine))
    body = json.dumps({"messages": MESSAGES, "max_tokens": 400, "ignore_eos": True}).encode()

    async def leave(stream):
        data = body if not stream else body[:-1] + b', "stream": true}'
        messages = [{"type": "http.request", "body": data, "more_body": False}]
        sent = []

        async def receive():
            if messages:
                return messages.pop()
            while not engine.running:
                await anyio.sleep(0.001)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "query_string": b""}
        await app({**scope, "asgi": {"spec_version": "2.3"}, "http_version": "1.1"}, receive, send)
        return sent

    try:
        for stream in (False, True):
            anyio.run(leave, stream)
            end = time.monotonic() + 30
            while engine.running or engine.waiting:
                assert time.monotonic() < end
                time.sleep(0.005)
        written = int(re.search(r"generated_tokens_total (\d+)", engine.metrics.text({}))[1])
        assert written < 800
    finally:
        engine.stop()

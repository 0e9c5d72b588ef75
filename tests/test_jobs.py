"""`llmcore batch`: each line of requests has its answer, in order, once, whatever ends the work."""

import hashlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import FOLDER, ROOT, real_model, tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite import rewrite

import llmcore
from llmcore.cli import jobs, journal, lines, records
from llmcore.cli.choices import Choice, Defaults, choices_of, read_body, reply_of
from llmcore.cli.records import Record
from llmcore.loader import read_gguf
from llmcore.quants import dequantize
from llmcore.speed.batching import write_together

MODEL = str(tiny_llama())
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
GREEDY = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
JOB = lines.Job("0" * 24, "tiny", Defaults())


def envelope(custom_id, body, url="/v1/completions", method="POST"):
    return {"custom_id": custom_id, "method": method, "url": url, "body": body}


def to_lines(requests):
    return "".join(json.dumps(request) + "\n" for request in requests)


def batch(*arguments, model=MODEL):
    """The exit status of the command, run in this process."""
    return jobs.main([*map(str, arguments), "--model", str(model), "--weights", "float32"])


def read(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def answer_to(llm, request, **defaults):
    """What one line is answered."""
    record = Record(1, request if isinstance(request, bytes) else json.dumps(request).encode())
    job = lines.Job("0" * 24, "tiny", Defaults(**defaults))
    (answer,) = lines.answers(llm, job, [record], 8)
    assert answer.line.endswith(b"\n")
    return json.loads(answer.line)


@pytest.fixture(scope="module")
def chat_path():
    """A model with a template that shows roles and texts, and no more."""
    return rewrite(MODEL, Path(FOLDER.name) / "chat.gguf", {"tokenizer.chat_template": TEMPLATE})


@pytest.fixture(scope="module")
def chatty(chat_path):
    return llmcore.load(chat_path)


@pytest.fixture
def files(tmp_path):
    """A file of 12 requests of both kinds, two of them bad, and where its answers go."""
    requests = [{"prompt": f"tale {n}", "shelf": n, **GREEDY} for n in range(6)]
    requests += [envelope(f"r{n}", {"prompt": f"song {n}", **GREEDY}) for n in range(4)]
    path = tmp_path / "in.jsonl"
    path.write_text(to_lines(requests) + "nonsense\n" + to_lines([{"prompt": []}]))
    return path, tmp_path / "out.jsonl"


def test_texts_are_those_of_each_prompt_alone(llama, files):
    assert batch(*files, "--batch", 3) == 0
    alone = [llama.generate(f"tale {n}", **GREEDY) for n in range(6)]
    alone += [llama.generate(f"song {n}", **GREEDY) for n in range(4)]
    answers = read(files[1])
    texts = [answer["text"] for answer in answers[:6]]
    bodies = [answer["response"]["body"] for answer in answers[6:10]]
    texts += [body["choices"][0]["text"] for body in bodies]
    assert texts == ["".join(text) for text in alone]
    assert [answer["shelf"] for answer in answers[:6]] == list(range(6))
    assert [answer["custom_id"] for answer in answers[6:10]] == ["r0", "r1", "r2", "r3"]
    assert "no JSON" in answers[10]["error"]["message"]
    assert "prompt must be a text" in answers[11]["error"]["message"]


def test_an_answer_in_openai_s_format(llama):
    """Every field that the format has, with what a hand can count: 2 texts of 6 tokens."""
    body = {"model": "any", "prompt": "tale", "n": 2, "seed": 4, "max_tokens": 6, "ignore_eos": True}
    answer = answer_to(llama, envelope("a", body))
    texts = ["".join(llama.generate("tale", max_tokens=6, seed=4 + k, ignore_eos=True)) for k in (0, 1)]
    n_prompt = len(llama.encode_prompt("tale"))
    name = "0" * 24 + "_1"
    assert answer == {
        "id": f"batch_req_{name}",
        "custom_id": "a",
        "response": {
            "status_code": 200,
            "request_id": f"req_{name}",
            "body": {
                "id": f"cmpl-{name}",
                "object": "text_completion",
                "created": 0,
                "model": "tiny",
                "choices": [
                    {"index": k, "text": texts[k], "logprobs": None, "finish_reason": "length"}
                    for k in (0, 1)
                ],
                "usage": {
                    "prompt_tokens": n_prompt,
                    "completion_tokens": 12,
                    "total_tokens": n_prompt + 12,
                    "prompt_tokens_details": {"cached_tokens": 0},
                    "completion_tokens_details": {"reasoning_tokens": 0},
                },
            },
        },
        "error": None,
    }


def test_a_conversation_is_answered_as_chat_answers_it(chatty):
    messages = [{"role": "user", "content": "hello"}]
    said = "".join(chatty.chat(messages, **GREEDY))
    answer = answer_to(chatty, envelope("a", {"messages": messages, **GREEDY}, "/v1/chat/completions"))
    (choice,) = answer["response"]["body"]["choices"]
    assert choice["message"] == {"role": "assistant", "content": said, "refusal": None}
    assert answer["response"]["body"]["object"] == "chat.completion"
    assert answer_to(chatty, {"messages": messages, **GREEDY})["text"] == said
    assert answer_to(chatty, {"prompt": "hello", **GREEDY}, chat=True)["text"] == said
    system = [{"role": "system", "content": "be brief"}, *messages]
    told = "".join(chatty.chat(system, **GREEDY))
    assert answer_to(chatty, {"messages": messages, **GREEDY}, system="be brief")["text"] == told
    assert answer_to(chatty, {"messages": system, **GREEDY}, system="be long")["text"] == told


def test_options_of_the_line_come_before_those_of_the_command(llama):
    defaults = {"sampling": {"temperature": 0.0}, "max_tokens": 9, "ignore_eos": True, "stop": []}
    text = "".join(llama.generate("tale", max_tokens=9, temperature=0, ignore_eos=True))
    assert answer_to(llama, {"prompt": "tale"}, **defaults)["text"] == text
    assert answer_to(llama, {"prompt": "tale", "stop": text[3:5]}, **defaults)["text"] == text[:3]
    hot = {"max_tokens": 4, "temperature": 2.0, "seed": 5, "logit_bias": {"7": 3}}
    wanted = llama.generate("tale", ignore_eos=True, **hot | {"logit_bias": {7: 3}})
    assert answer_to(llama, {"prompt": "tale", **hot}, **defaults)["text"] == "".join(wanted)


def test_what_an_answer_must_be_is_said_by_the_line_or_by_the_command(chatty):
    pytest.importorskip("llguidance", reason="pip install 'llmcore[json]'")
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": [3, 5]}}}
    messages = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 30}
    answer = answer_to(chatty, messages | {"response_format": form})
    assert json.loads(answer["text"]) in (3, 5)
    defaults = {"sampling": {"regex": "[ab]{4}"}, "max_tokens": 30}
    assert re.fullmatch("[ab]{4}", answer_to(chatty, messages, **defaults)["text"])
    assert re.fullmatch("[ab]{4}", answer_to(chatty, {"prompt": "x"}, **defaults)["text"])
    assert re.fullmatch("c{3}", answer_to(chatty, {"prompt": "x", "regex": "c{3}"}, **defaults)["text"])


def test_a_line_without_a_seed_has_its_own_and_tells_it(llama):
    requests = [Record(n, b'{"prompt": "tale", "max_tokens": 8, "ignore_eos": true}') for n in (1, 2)]
    first, second = (json.loads(a.line) for a in lines.answers(llama, JOB, requests, 2))
    assert first["seed"] != second["seed"]
    for answer in (first, second):
        again = llama.generate("tale", max_tokens=8, ignore_eos=True, seed=answer["seed"])
        assert "".join(again) == answer["text"]


def test_log_probabilities_are_those_of_the_logits(llama, chatty):
    """By Python's own arithmetic in float64, on the logits of one pass over the whole text."""
    body = {"prompt": "tale", "logprobs": 3, **GREEDY}
    (choice,) = answer_to(llama, envelope("a", body))["response"]["body"]["choices"]
    ids = llama.encode_prompt("tale")
    for n, own in enumerate(choice["logprobs"]["token_logprobs"]):
        logits = llama.logits(ids)[-1].tolist()
        best = max(logits)
        total = best + math.log(sum(math.exp(logit - best) for logit in logits))
        assert own == pytest.approx(best - total, abs=1e-4)  # four digits, and float32 logits of about 5
        top = choice["logprobs"]["top_logprobs"][n]  # where some of the three read alike, one is shown
        assert 1 <= len(top) <= 3
        assert own == max(top.values()) or len(top) < 3
        ids.append(logits.index(best))
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    offsets = choice["logprobs"]["text_offset"]
    assert [choice["text"][at:][:1] for at in offsets] == [t[:1] for t in choice["logprobs"]["tokens"]]
    chat = {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 2, **GREEDY}
    answer = answer_to(chatty, envelope("a", chat, "/v1/chat/completions"))
    content = answer["response"]["body"]["choices"][0]["logprobs"]["content"]
    assert len(content) == 6
    for entry in content:
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"]
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]
        assert len(entry["top_logprobs"]) == 2


BAD = [
    (b"{", "no JSON"),
    (b"\xff", "byte 0 of the line is not UTF-8"),
    (b"[1]", "no JSON object"),
    (b'{"prompt": NaN}', "NaN is no number of JSON"),
    (b"[" * 100_000, "nested too deeply"),
    ({}, "must have either a prompt or messages"),
    ({"text": "x"}, "must have either a prompt or messages"),
    ({"prompt": None}, "must have either a prompt or messages"),
    ({"prompt": "x", "text": "y"}, "the field 'text' is one that the answer has"),
    ({"prompt": 5}, "prompt must be a text"),
    ({"prompt": []}, "prompt must be a text"),
    ({"prompt": ["a", 1]}, "prompt holds 1; it must be a text"),
    ({"prompt": [1, 2, 10**6]}, "token id 1000000 is not in the vocabulary"),
    ({"prompt": [1, 2, 10**30]}, "must be whole numbers|too large"),
    ({"prompt": "x" * 600}, "602 tokens and the context holds 512"),
    ({"prompt": "x", "temperature": "hot"}, "temperature is 'hot'"),
    ({"prompt": "x", "max_tokens": 2.5}, r"max_tokens is 2\.5"),
    ({"prompt": "x", "max_tokens": 0}, "max_tokens is 0"),
    ({"prompt": "x", "seed": 0.5}, r"seed is 0\.5"),
    ({"prompt": "x", "stop": [""]}, "a stop string is ''"),
    ({"prompt": "x", "stop": 5}, "stop is 5"),
    ({"prompt": "x", "stream": True}, "the answers of a batch come whole"),
    ({"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias is"),
    ({"prompt": "x", "ignore_eos": "yes"}, "ignore_eos is 'yes'"),
    ({"prompt": "x", "n": 2}, "n needs OpenAI's format"),
    ({"prompt": "x", "messages": []}, "must have either a prompt or messages"),
    ({"prompt": "x", "tools": []}, "Unrecognized request argument supplied: tools"),
    ({"messages": [{"role": "user", "content": "x"}]}, "no chat template"),
    ({"custom_id": "a"}, "lacks method, url, body"),
    (envelope(None, {"prompt": "x"}), "lacks custom_id"),
    (envelope(5, {"prompt": "x"}), "custom_id is 5"),
    (envelope("a", {"prompt": "x"}, method="GET"), "method is 'GET'"),
    (envelope("a", {"prompt": "x"}, url="/v1/embeddings"), "url is '/v1/embeddings'; there are"),
    (envelope("a", {"prompt": "x"}, url="/v1/chat/completions"), "must have messages"),
    (envelope("a", []), r"body is \[\]"),
    (envelope("a", {"prompt": "x", "temprature": 1}), "Unrecognized request argument supplied: temprature"),
    (envelope("a", {"prompt": "x", "n": 10**9}), "n is 1000000000; it must be at most 128"),
    (envelope("a", {"prompt": "x", "logprobs": 21}), "logprobs is 21; it must be at most 20"),
    (
        envelope("a", {"prompt": "x", "response_format": {"type": "json_object"}}),
        "argument supplied: response_format",
    ),
]


@pytest.mark.parametrize(("request_", "words"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_with_a_line_is_its_answer(llama, request_, words):
    answer = answer_to(llama, request_)
    assert answer["error"]["code"]
    assert re.search(words, answer["error"]["message"])
    assert answer.get("text", answer.get("response")) is None


def test_what_is_wrong_with_a_conversation_is_its_answer(chatty):
    messages = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    for more, words in (
        ({"messages": "hello"}, "messages must be a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"tools": 5}, "tools must be a list"),
        ({"tools": [{"type": "function"}]}, "function"),
        ({"tools": [], "tool_choice": "required"}, "there are no tools"),
        ({"chat_template_kwargs": 3}, "chat_template_kwargs is 3"),
        ({"chat_template_kwargs": {"messages": 3}}, "messages is set by the conversation"),
    ):
        assert words in answer_to(chatty, messages | more)["error"]["message"]
    assert "error" not in answer_to(chatty, messages | {"tools": [], "tool_choice": "none"})


def test_a_name_that_came_before_is_refused(files):
    path, out = files
    twice = [envelope("a", {"prompt": "x", **GREEDY}), envelope("a", {"prompt": "y", **GREEDY})]
    plain = [{"custom_id": "a", "prompt": "x", **GREEDY}] * 2  # here it is a field like any other
    path.write_text(to_lines(twice + plain))
    assert batch(*files) == 0
    first, second, *rest = read(out)
    assert first["error"] is None
    assert second["error"]["message"] == "the custom_id 'a' is that of line 1, too"
    assert [answer["custom_id"] for answer in rest] == ["a", "a"]
    assert all("text" in answer for answer in rest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [*lines.ASKS, *records.ENVELOPE, "echo", "stream", "suffix", "model", "user"]


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4), st.dictionaries(st.sampled_from(FIELDS), JSON)
)
def test_whatever_a_line_holds_it_has_an_answer(llama, fields, body):
    for request in (fields, fields | {"prompt": "x"}, {"prompt": "x"} | fields, envelope("a", body)):
        request = {"max_tokens": 2} | request
        answer = answer_to(llama, json.dumps(request).encode("utf-8", "surrogatepass"))
        assert any(answer.get(name) is not None for name in ("error", "text", "response"))


def test_texts_that_utf_8_cannot_hold(llama):
    """JSON can write half of a pair; in the answer it is written so again, in the prompt it is U+FFFD."""
    data = b'{"prompt": "a\\ud800", "mark": "\\ud800", "max_tokens": 2, "temperature": 0, "ignore_eos": true}'
    (answer,) = lines.answers(llama, JOB, [Record(1, data)], 1)
    assert rb'"mark": "\ud800"' in answer.line
    text = "".join(llama.generate("a\ufffd", max_tokens=2, temperature=0, ignore_eos=True))
    assert json.loads(answer.line.decode())["text"] == text


def test_logits_that_are_no_numbers_end_one_text_alone(tmp_path):
    file = read_gguf(MODEL)
    embedding = file.tensors["token_embd.weight"]
    rows = np.array(dequantize(embedding.data, embedding.type, embedding.byte_order))
    rows[9] = np.nan
    rewrite(MODEL, tmp_path / "broken.gguf", tensors={"token_embd.weight": rows})
    llm = llmcore.load(tmp_path / "broken.gguf")
    requests = [{"prompt": ids, "temperature": 0, "max_tokens": 3} for ids in ([5, 6], [5, 9], [6, 7])]
    records = [Record(n, json.dumps(r).encode()) for n, r in enumerate(requests, 1)]
    first, broken, last = (json.loads(answer.line) for answer in lines.answers(llm, JOB, records, 3))
    assert broken["error"]["code"] == "server_error"
    assert "not finite" in broken["error"]["message"]
    assert first["text"] == "".join(llm.generate([5, 6], temperature=0, max_tokens=3))
    assert last["text"] == "".join(llm.generate([6, 7], temperature=0, max_tokens=3))


HERMES = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}{# <tool_call> {"name": <function-name>, "arguments": <args-dict>} </tool_call>
<think> </think> tools #}"""
CALL = '<think>\nhm\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "?",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


@pytest.mark.parametrize("tools", [None, [ADD]])
def test_thoughts_and_calls_are_told_apart(tools, tmp_path):
    path = rewrite(MODEL, tmp_path / "hermes.gguf", {"tokenizer.chat_template": HERMES})
    llm = llmcore.load(path)
    body = {"messages": [{"role": "user", "content": "1?"}], "tools": tools, "stop": "STOP"}
    asked = read_body(llm, body, Defaults(), 1)
    (choice,) = choices_of(llm, asked)
    for token_id in llm.tokenizer.encode(CALL + "STOP more", add_special=False):
        logits_V = np.zeros(llm.config.vocab_size, np.float32)
        logits_V[token_id] = 99
        if not choice.end:
            choice.go_on(logits_V)
    assert choice.end == "stop string"
    (told,) = reply_of(llm, asked, [choice], "x", "m")["choices"]
    message = told["message"]
    assert message.pop("refusal") is None
    called = {"name": "add", "arguments": '{"a": 1}'}
    call = {"id": hashlib.sha256(b"x 0 0").hexdigest()[:9], "type": "function", "function": called}
    assert told["finish_reason"] == ("tool_calls" if tools else "stop")
    wanted = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]}
    if tools is None:
        wanted = {
            "role": "assistant",
            "content": CALL.partition("</think>\n\n")[2],
            "reasoning_content": "hm",
        }
    message["content"] = message["content"] and message["content"].strip()
    assert message == wanted


def test_texts_are_taken_from_an_iterator_as_they_are_needed(llama):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield Choice(llama, asked, next(asked.writers(llama))[1])

    asked = read_body(llama, {"prompt": [5], "max_tokens": 2, "ignore_eos": True}, Defaults(), 1)
    texts = write_together(llama.weights, llama.config, endless(), 3)
    for n in range(1, 10):
        assert next(texts).answer.n_tokens == 2
        assert len(taken) <= n + 2 * 3  # three that run, three that wait


def test_it_goes_on_wherever_it_was_cut(files):
    """Before and after each line end, and at places of each line."""
    assert batch(*files, "--seed", 1) == 0
    whole = files[1].read_bytes()
    ends = [0, *(found.end() for found in re.finditer(b"\n", whole))]
    rng = random.Random(1)
    places = {at + step for at in ends for step in (-1, 0, 1, 30)} | {
        rng.randrange(len(whole)) for _ in range(9)
    }
    for at in sorted(place for place in places if 0 <= place <= len(whole)):
        files[1].write_bytes(whole[:at])
        assert batch(*files, "--seed", 1, "--batch", 1 + at % 4, "--threads", 1) == 0
        assert files[1].read_bytes() == whole, f"cut at byte {at}"
        files[1].write_bytes(whole[:at] + b"\0" * 5 if at not in ends else whole[:at])
        assert batch(*files, "--seed", 1) == 0
        assert files[1].read_bytes() == whole, f"cut at byte {at}, zeros behind"


def test_what_is_done_is_not_done_again(files, capsys, monkeypatch):
    assert batch(*files) == 0
    before = files[1].stat()
    monkeypatch.setattr(jobs, "open_model", None)
    capsys.readouterr()
    assert batch(*files) == 0
    assert files[1].stat().st_mtime_ns == before.st_mtime_ns
    assert capsys.readouterr().err == f"{files[1]}: 12 of 12 lines done before\n"


@pytest.mark.parametrize("torn", [False, True])
def test_another_job_is_refused_by_name(files, torn, capsys, tmp_path):
    path, out = files
    assert batch(*files) == 0
    there = out.read_bytes()[: -7 if torn else None]
    out.write_bytes(there)
    other = rewrite(MODEL, tmp_path / "other.gguf", {"general.name": "another"})
    (tmp_path / "more.jsonl").write_bytes(path.read_bytes() + b'{"prompt": "x"}\n')
    for arguments, model, words in (
        ((*files, "--top-k", 3), MODEL, "with other options;"),
        ((*files, "--context", 100), MODEL, "with other options;"),
        (files, other, "with another model;"),
        ((tmp_path / "more.jsonl", out), MODEL, "with another input;"),
        ((tmp_path / "more.jsonl", out, "--seed", 1), MODEL, "with another input and other options;"),
    ):
        capsys.readouterr()
        assert batch(*arguments, model=model) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert words in message
        assert str(out) in message
        assert out.read_bytes() == there


@pytest.mark.parametrize(
    "data",
    [b"my notes", b"my notes\n", b'{"id": 1}\n', b'{"id": "batch_req_xy_1"}\n', b"\n"],
)
def test_a_file_that_is_not_ours_is_left_alone(files, data, capsys):
    files[1].write_bytes(data)
    assert batch(*files) == 1
    assert "line 1 is no answer of `llmcore batch`" in capsys.readouterr().err
    assert files[1].read_bytes() == data


def test_lines_out_of_order_or_too_many_are_refused(files, capsys):
    assert batch(*files) == 0
    first, second, *rest = files[1].read_bytes().splitlines(keepends=True)
    for wrong in ([second, first, *rest], [first, first], [first, second, *rest, rest[-1]]):
        files[1].write_bytes(b"".join(wrong))
        assert batch(*files) == 1
        assert re.search(r"line \d+ is not the one that belongs there", capsys.readouterr().err)


def test_two_processes_do_not_write_one_file(files, capsys):
    fcntl = pytest.importorskip("fcntl")
    with open(files[1], "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert batch(*files) == 1
    assert "another process is at work" in capsys.readouterr().err
    assert batch(*files) == 0


def test_a_full_disk_leaves_whole_lines_and_it_goes_on(files):
    resource = pytest.importorskip("resource")
    assert batch(*files) == 0
    whole = files[1].read_bytes()
    files[1].unlink()
    limit = len(whole) // 2
    command = [sys.executable, "-m", "llmcore", "batch", *map(str, files), "--model", MODEL]
    done = subprocess.run(
        [*command, "--weights", "float32"],
        capture_output=True,
        cwd=ROOT,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    there = files[1].read_bytes()
    assert there.endswith(b"\n")
    assert whole.startswith(there)
    assert batch(*files) == 0
    assert files[1].read_bytes() == whole


def test_ctrl_c_keeps_what_is_done(files, monkeypatch, capsys):
    assert batch(*files) == 0
    whole = files[1].read_bytes()
    files[1].unlink()
    append, seen = journal.append, []

    def interrupted(file, line):
        if len(seen) == 5:
            signal.raise_signal(signal.SIGINT)
        seen.append(line)
        append(file, line)

    monkeypatch.setattr(jobs, "append", interrupted)
    assert batch(*files) == 130
    assert files[1].read_bytes() == b"".join(seen[:5])
    assert "interrupted at 5 of 12; the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(jobs, "append", append)
    assert batch(*files) == 0
    assert files[1].read_bytes() == whole


def test_a_parquet_file_is_answered_as_its_rows_in_json(chatty, chat_path, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    messages = [{"role": "user", "content": "hello"}]
    rows = [
        {"prompt": "tale", "messages": None, "stop": None, "shelf": 1},
        {"prompt": None, "messages": messages, "stop": ["e"], "shelf": None},
        {"prompt": None, "messages": None, "stop": None, "shelf": 3},
    ]
    bare = [{key: value for key, value in row.items() if value is not None} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    (tmp_path / "in.jsonl").write_text(to_lines(bare))
    said = [row | {"messages": row["messages"] and json.dumps(row["messages"])} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(said), tmp_path / "said.parquet")
    found = []
    for name in ("in.parquet", "in.jsonl", "said.parquet"):
        out = tmp_path / f"{name}.out.jsonl"
        assert batch(tmp_path / name, out, "--max-tokens", 5, "--temperature", 0, model=chat_path) == 0
        found.append([{k: v for k, v in answer.items() if k != "batch_id"} for answer in read(out)])
    assert found[0] == found[1] == found[2]
    assert [answer.get("shelf") for answer in found[0]] == [1, None, 3]
    assert "must have either a prompt or messages" in found[0][2]["error"]["message"]


def test_windows_line_ends_empty_lines_and_a_byte_order_mark(files):
    path, out = files
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "x", "max_tokens": 1}\r\n\r\n  \n{"prompt": "y", "max_tokens": 1}'
    )
    assert batch(*files) == 0
    assert [answer["batch_id"].rpartition("_")[2] for answer in read(out)] == ["1", "4"]
    assert all("text" in answer for answer in read(out))


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nowhere.jsonl", "OUT"), 1, "nowhere.jsonl"),
        (("EMPTY", "OUT"), 1, "there is no request in it"),
        (("IN", "IN"), 1, "is the input, too"),
        (("IN", "FOLDER"), 1, "is no file"),
        (("IN", "FOLDER/none/out.jsonl"), 1, "No such file"),
        (("IN", "out.parquet"), 2, "name it .jsonl"),
        (("IN", "OUT", "--draft", "lookup"), 2, "--draft is for one prompt"),
        (("IN", "OUT", "--cpus", "2"), 2, "--cpus is for --ray"),
        (("IN", "OUT", "--ray", "--threads", "2"), 2, "--cpus says how many"),
        (("IN", "OUT", "--top-p", "2"), 2, "top_p is 2.0"),
        (("IN",), 2, "OUT"),
    ],
    ids=str,
)
def test_bad_arguments_are_one_line(files, tmp_path, arguments, status, words, capsys):
    (tmp_path / "empty").write_text("\n\n")
    names = {"IN": files[0], "OUT": files[1], "EMPTY": tmp_path / "empty", "FOLDER": tmp_path}
    arguments = [str(names.get(a, a)).replace("FOLDER", str(tmp_path)) for a in arguments]
    if status == 2:
        with pytest.raises(SystemExit) as ended:
            batch(*arguments)
        assert ended.value.code == 2
    else:
        assert batch(*arguments) == 1
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert not files[1].exists()


def killed(command, out, n_kills, rng, longest):
    """Run the command, killed so many times at random moments, then to its end."""
    for _ in range(n_kills):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, longest))
        process.kill()
        process.wait()
        print(out.stat().st_size if out.exists() else "none", "bytes")
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL here")
def test_500_prompts_and_ten_kills_make_500_right_lines(llama, tmp_path):
    requests = [{"prompt": f"tale {n}", "shelf": n, "max_tokens": 30, "ignore_eos": True} for n in range(500)]
    (tmp_path / "in.jsonl").write_text(to_lines(requests))
    once, often = tmp_path / "once.jsonl", tmp_path / "often.jsonl"
    arguments = [str(tmp_path / "in.jsonl"), str(often), "--model", MODEL, "--batch", "2", "--seed", "5"]
    command = [sys.executable, "-m", "llmcore", "batch", *arguments, "--weights", "float32"]
    begin = time.perf_counter()
    assert batch(tmp_path / "in.jsonl", once, "--seed", 5) == 0
    print(f"whole: {time.perf_counter() - begin:.1f} s")
    done = killed(command, often, 10, random.Random(3), 1.5)
    assert done.returncode == 0, done.stderr
    assert often.read_bytes() == once.read_bytes()
    for n in (0, 99, 499):
        text = "".join(llama.generate(f"tale {n}", max_tokens=30, ignore_eos=True, seed=5))
        assert read(often)[n]["text"] == text
    assert [answer["shelf"] for answer in read(often)] == list(range(500))


@pytest.mark.slow
def test_a_real_model_answers_as_it_does_alone(tmp_path):
    llm = real_model("SmolLM2-135M-Instruct.Q4_1.gguf")
    prompts = ["Once upon a time", "The capital of Poland is", "def add(a, b):"]
    requests = [{"prompt": prompt, "temperature": 0, "max_tokens": 24} for prompt in prompts]
    requests.append({"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 24})
    (tmp_path / "in.jsonl").write_text(to_lines(requests))
    model = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert batch(tmp_path / "in.jsonl", tmp_path / "out.jsonl", model=model) == 0
    alone = ["".join(llm.generate(prompt, temperature=0, max_tokens=24)) for prompt in prompts]
    alone.append("".join(llm.chat(requests[-1]["messages"], temperature=0, max_tokens=24)))
    assert [answer["text"] for answer in read(tmp_path / "out.jsonl")] == alone

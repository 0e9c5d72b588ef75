"""Texts that must be JSON of a schema, a match of an expression or of a grammar: the whole engine writes
them, and `jsonschema`, `json` and `re` say whether they are.
"""

import functools
import gc
import gzip
import json
import lzma
import re
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jsonschema
import numpy as np
import pytest
from conftest import DATA, FOLDER, ROOT, SHARED, real_model, tiny_llama
from schemas import schema
from test_conversation import CHATML, make_model

import llmcore
from llmcore.chat import encode_chat, parse_answer, reasoning_of
from llmcore.chat.formats import format_of
from llmcore.chat.required import FORMS, call_grammar
from llmcore.chat.session import Session, Text
from llmcore.loader import read_gguf
from llmcore.samplers import prepare
from llmcore.samplers.schemas import parts
from llmcore.sampling import Sampling, sample
from llmcore.speed.batching import Whole, write_together
from llmcore.tokenizer import Tokenizer
from llmcore.tokenizers.streaming import END_OF_TEXT
from llmcore.tokenizers.vocabulary import CONTROL

ANY = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}  # the widest choice
CITY = {"type": "object", "properties": {"city": {"enum": ["Bern", "Rome"]}}, "required": ["city"]}
CITY |= {"additionalProperties": False}


def valid(text, of):
    jsonschema.validate(json.loads(text), of)
    return True


@functools.cache
def tiny():
    with pytest.warns(UserWarning, match="more than the 512"):
        return llmcore.load(tiny_llama(), context_length=4096)


@functools.cache
def model(template=CHATML):
    name = f"constraint-{abs(hash(template))}.gguf"
    return llmcore.load(make_model(Path(FOLDER.name) / name, template))


def finished(llm, prompt, seed=0, **options):
    """The text of an answer that ended by itself."""
    sampling = llm.sampling(**ANY | options)
    tokens = list(llm.tokens(prompt, sampling=sampling, seed=seed, max_tokens=llm.context_length))
    assert tokens[-1].end == END_OF_TEXT
    return b"".join(llm.tokenizer.token_bytes(token.id) for token in tokens).decode()


@pytest.mark.parametrize("seed", range(24))
def test_a_random_model_writes_json_of_any_schema(seed):
    llm, of = tiny(), schema(seed, bounded=True)
    assert valid(finished(llm, "a", seed, json_schema=of), of)
    assert valid(finished(llm, "a", seed + 1, json_schema=json.dumps(of)), of)


@pytest.mark.slow
def test_a_real_model_writes_json_of_any_schema():
    llm = real_model("SmolLM2-135M-Instruct.Q4_1.gguf")
    ids = encode_chat(llm.tokenizer, [{"role": "user", "content": "Write an example as JSON."}])
    schemas = [schema(seed) for seed in range(200)]
    options = [llm.sampling(temperature=1.0, json_schema=of) for of in schemas]
    writers = [llm.writer(ids, max_tokens=1000, sampling=s, seed=i) for i, s in enumerate(options)]
    texts = write_together(llm.weights, llm.config, [Whole(w, llm.tokenizer, ()) for w in writers], 20)
    ended = [(of, text) for of, text in zip(schemas, texts, strict=True) if text.end == END_OF_TEXT]
    assert all(valid(text.text, of) for of, text in ended)
    # In strings without a limit, and in references to themselves, a small model may go round for ever: five.
    assert len(ended) >= 190


@pytest.mark.parametrize(
    ("of", "text", "may_be"),
    [
        ({"type": "number"}, "0." + "1" * 20, True),
        ({"type": "number"}, "0." + "1" * 21, False),  # a model that repeats itself would never end
        ({"const": "1" * 40}, f'"{"1" * 40}"', True),
        ({"type": "string", "format": "time"}, '"12:34:56.123456789Z"', True),
        ({"type": "string", "format": "time"}, '"12:34:56.1234567891Z"', False),
        ({"type": "string", "format": "hostname"}, f'"{".a" * 70}"'.replace('".', '"'), False),
        ({"properties": {"a": {}}}, '{"a":1,"b":2}', False),  # nobody asked for b
        ({"properties": {"a": {}}, "additionalProperties": {}}, '{"a":1,"b":2}', True),
        ({"type": "object"}, '{"b":2}', True),
        ({"properties": {"a": {}}, "required": ["b"]}, '{"a":1,"b":2}', True),
        ({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, '{"a":1,"b":2}', True),
        (
            {"properties": {"a": {}}, "anyOf": [{"required": ["b"]}, {"required": ["c"]}]},
            '{"a":1,"b":2}',
            True,
        ),
        ({"items": {"properties": {"a": {}}}, "type": "array"}, '[{"a":1,"b":2}]', False),
        ({"properties": {"properties": {"type": "object"}}}, '{"properties":{"b":2}}', True),
        ({"const": {"properties": {"a": {}}}}, '{"properties":{"a":{}}}', True),
    ],
)
def test_objects_have_the_properties_that_are_named(of, text, may_be):
    tokenizer = tiny().tokenizer
    sampling = Sampling(temperature=0, json_schema=of)
    prepared, so_far = prepare(sampling, tokenizer), [1]
    for token_id in [*encode(tokenizer, text), *tokenizer.eog_ids]:
        logits_V = np.zeros(tokenizer.vocab_size, np.float32)
        logits_V[token_id] = 9
        so_far.append(sample(logits_V, so_far, sampling, np.random.default_rng(0), *prepared))
        if so_far[-1] != token_id:
            break
    assert (so_far[-1] == token_id) == may_be


@pytest.mark.parametrize("file", ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"])
def test_vocabularies_of_bytes_and_of_sentencepiece_spell_any_text(file):
    llm = real_model(file)
    for text in ("żółw 日本 👍", "a  b\n\tc", "x" * 40):
        assert "".join(llm.generate("a", max_tokens=99, regex=re.escape(text))) == text


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        ({"regex": r"(ab|c){3,5}x"}, r"(ab|c){3,5}x"),
        ({"regex": "é{1,3}|日本"}, "é{1,3}|日本"),
        ({"grammar": 'root ::= "a" digit{2} ("!" | "?")\ndigit ::= [0-9]'}, r"a\d\d[!?]"),
        ({"grammar": 'start: "a" DIGIT DIGIT ("!" | "?")\nDIGIT: /[0-9]/'}, r"a\d\d[!?]"),
        ({"regex": ""}, ""),
    ],
)
def test_texts_match_expressions_and_grammars(constraint, pattern):
    texts = {finished(tiny(), "a", seed, **constraint) for seed in range(12)}
    assert all(re.fullmatch(pattern, text) for text in texts)
    assert len(texts) > 1 or not pattern


LONG = {"regex": r"(he|the|\[1, 2, 3\]\n){2,60}\."}  # repeats itself, so that drafts come


def test_drafts_change_nothing():
    llm, n_right = tiny(), 0
    for seed in range(8):
        options = {"temperature": 0.7, "max_tokens": 200, "seed": seed, **LONG}
        alone = "".join(llm.generate("the the the", **options))
        assert "".join(llm.generate("the the the", draft=7, **options)) == alone
        n_right += passes(llm, options) < len(llm.tokenizer.encode(alone))
    assert n_right, "no draft was ever right, so the test has shown nothing"


def passes(llm, options):
    """How many passes the text takes with drafts."""
    from llmcore import writing

    counted, before = [], writing.prefill

    def prefill(*args):
        counted.append(1)
        return before(*args)

    writing.prefill = prefill
    try:
        "".join(llm.generate("the the the", draft=7, **options))
    finally:
        writing.prefill = before
    return len(counted)


def test_each_text_of_a_batch_is_that_of_its_prompt_alone():
    llm, options = tiny(), {**ANY, "max_tokens": 300, "seed": 3}
    prompts = ["a", "the the the he", "to", "in re", "two czy"]
    for constraint in (LONG, {"json_schema": schema(2, bounded=True)}):
        alone = ["".join(llm.generate(prompt, **options, **constraint)) for prompt in prompts]
        assert list(llm.generate_batch(prompts, batch=2, **options, **constraint)) == alone


def test_a_stop_string_and_max_tokens_end_a_text_before_its_end():
    llm, options = tiny(), {"temperature": 0, "regex": "[a-z]{20}"}
    whole = finished(llm, "a", **options)
    cut = list(llm.generate("a", max_tokens=4, **options))
    assert whole.startswith("".join(cut))
    assert len("".join(cut)) < 20
    stop = whole[5:8]
    assert "".join(llm.generate("a", max_tokens=99, stop=stop, **options)) == whole[: whole.index(stop)]


def test_the_mask_comes_before_the_filters_and_after_the_bias():
    tokenizer = tiny().tokenizer
    first, second, other = map(tokenizer.tokens.index, "tao")
    logits_V = np.zeros(tokenizer.vocab_size, np.float32)
    logits_V[[first, second, other]] = 1, 2, 9

    def choose(**options):
        sampling = Sampling(regex="[ta]", **options)
        return sample(logits_V, [1], sampling, np.random.default_rng(0), *prepare(sampling, tokenizer))

    assert choose(temperature=0) == choose(top_k=1) == choose(min_p=1.0) == second  # of o nothing is left
    assert choose(temperature=0, logit_bias={first: 2.0}) == first
    assert choose(temperature=0, logit_bias={second: -np.inf}) == first
    with pytest.raises(
        ValueError, match="regex: after 1 tokens logit_bias bans each token that may come next"
    ):
        choose(logit_bias=dict.fromkeys(map(tokenizer.tokens.index, ["t", "a", "<0x74>", "<0x61>"]), -np.inf))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"json_schema": {"properties": {"a": {"items": {"type": "strin"}}}}},
            "at /properties/a/items: Invalid",
        ),
        (
            {"json_schema": {"$defs": {"x": {"not": {}}}, "items": {"$ref": "#/$defs/x"}}},
            r'at /\$defs/x: .*"not"',
        ),
        ({"json_schema": '{"a"'}, "json_schema is no JSON: .* line 1 column 5"),
        ({"json_schema": [1]}, "json_schema is .* must be an object"),
        ({"json_schema": {"a": {1}}}, "json_schema is no JSON"),
        ({"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "json_schema: Unsatisfiable"),
        ({"json_schema": False}, "json_schema: Unsatisfiable"),
        ({"json_schema": {"type": "integer", "minimum": 10**30, "maximum": 1}}, "json_schema: "),
        (
            {"json_schema": functools.reduce(lambda inner, _: {"items": inner}, range(900), {})},
            "json_schema: ",
        ),
        ({"regex": "("}, r'regex: invalid regex "\(": unclosed group'),
        ({"regex": 3}, "regex is 3; it must be a text"),
        ({"grammar": 'root ::= "a" b'}, "grammar: Rule 'b' not found"),
        ({"grammar": "start: a\na: b"}, 'grammar: line 2, column 4: unknown name: "b"$'),
        ({"grammar": ""}, "grammar: "),
        ({"grammar": "start: B", "regex": "a"}, "regex and grammar exclude each other"),
        ({"regex": "a", "ignore_eos": True}, "regex: .* ignore_eos is asked for"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_runs(wrong, words):
    for call in (tiny().generate, lambda prompt, **o: model().chat([{"role": "user", "content": "a"}], **o)):
        with pytest.raises(ValueError, match=words) as error:
            call("a", max_tokens=1, **wrong)
        assert "\n" not in str(error.value)


def test_a_place_in_a_schema_is_its_json_pointer():
    assert list(parts({"a/b": [{"c~": {}}]})) == [("/a~1b/0", {"c~": {}}), ("/a~1b/0/c~0", {})]


def test_a_model_that_is_gone_leaves_nothing():
    llm = llmcore.load(tiny_llama())
    thought = reasoning_of("<think>")
    assert "".join(llm.generate("a", max_tokens=9, regex="ab", thought=thought)).endswith("ab")
    gone = weakref.ref(llm.tokenizer)
    del llm
    gc.collect()
    assert gone() is None


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ImportError, match=r"llmcore\[json\]"):
        tiny().generate("a", max_tokens=1, regex="missing")


# Thoughts. A scripted model has the next token of its script as the likeliest by far.


def scripted(tokenizer, script, prompt="?", **options):
    """What is written where the script's tokens, then the end, are the likeliest, each where it may come."""
    sampling = Sampling(temperature=0, thought=reasoning_of(tokenizer.chat_template), **options)
    so_far, prepared = encode(tokenizer, prompt), prepare(sampling, tokenizer)
    n_prompt = len(so_far)
    for token_id in [*encode(tokenizer, script), *[min(tokenizer.eog_ids)] * 40]:
        logits_V = np.zeros(tokenizer.vocab_size, np.float32)
        logits_V[encode(tokenizer, '{"city":"Bern"}')] = 10
        logits_V[[*tokenizer.eog_ids]] = 50
        logits_V[token_id] = 99
        so_far.append(sample(logits_V, so_far, sampling, np.random.default_rng(0), *prepared))
        if so_far[-1] in tokenizer.eog_ids:
            break
    return tokenizer.decode(so_far[n_prompt:], special=True)


def encode(tokenizer, text):
    """The ids of a text in the midst of another: SentencePiece puts no space before it."""
    spell = getattr(tokenizer.algorithm, "processor", tokenizer.algorithm).encode
    pieces = tokenizer.special.split(text)
    return [i for piece in pieces for i in ([piece] if isinstance(piece, int) else spell(piece))]


@functools.cache
def thinker(opened):
    """A tokenizer whose template writes thoughts between plain tags, and may open one."""
    template = CHATML.replace("assistant\n'", "assistant\n<think>\n'") if opened else CHATML + "{# <think> #}"
    path = make_model(Path(FOLDER.name) / f"constraint-thinker-{opened}.gguf", template)
    return llmcore.load_tokenizer(path)


@pytest.mark.parametrize(
    ("prompt", "script"),
    [
        ("<|im_start|>assistant\n", '{"city": "Bern"}'),  # no thought
        ("<|im_start|>assistant\n", '<think>\nI {} "city" <b></thin the end</think>\n\n{"city": "Bern"}'),
        ("<|im_start|>assistant\n", '<think></think>{"city": "Bern"}'),
        ("<|im_start|>assistant\n<think>\n", 'the <think> the</think>\n{"city": "Rome"}'),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", '{"city": "Rome"}'),
    ],
)
def test_the_constraint_begins_after_the_thought(prompt, script):
    assert scripted(thinker(False), script, prompt, json_schema=CITY) == script + "</s>"


@pytest.mark.parametrize(
    ("prompt", "script", "written"),
    [
        ("<|im_start|>assistant\n", 'Sure: {"city": "Bern"}', r'\{"city": ?"(Bern|Rome)"\}'),
        ("<|im_start|>assistant\n", "<think>so</think>so", r'<think>so</think>\{.*"\}'),
        ("<|im_start|>assistant\n", "<think>so</think>\n\n\n", r"<think>so</think>\n\n\{.*"),
        ("<|im_start|>assistant\n", "<think>so</think><think>", r"<think>so</think>\{.*"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<think>so", r'\{.*"\}'),
    ],
)
def test_what_is_no_answer_is_not_written_after_the_thought(prompt, script, written):
    text = scripted(thinker(False), script, prompt, json_schema=CITY)
    assert re.fullmatch(written + "</s>", text, re.DOTALL)


def test_a_text_does_not_end_in_its_thought():
    tokenizer = thinker(False)
    text = scripted(tokenizer, "<think>so", "<|im_start|>assistant\n", json_schema=CITY)
    assert "</s>" not in text  # the end is the likeliest of all, 40 times over


def test_a_tag_that_the_expression_allows_may_be_the_answer():
    for script in ("<thx>", "<think>so</think><a>", "<a>"):
        assert (
            scripted(thinker(False), script, "<|im_start|>assistant\n", regex="<[a-z]{1,4}>")
            == script + "</s>"
        )


def test_the_messages_of_gpt_oss():
    path = SHARED / "vocab2/gptoss.gguf.xz"
    if not path.exists():
        pytest.skip("../shared/vocab2/gptoss.gguf.xz is not here")
    target = Path(FOLDER.name) / "gptoss.gguf"
    target.write_bytes(lzma.decompress(path.read_bytes()))
    metadata = read_gguf(target).metadata
    metadata["tokenizer.chat_template"] = "<|start|><|channel|>analysis<|message|>"
    tokenizer = Tokenizer.from_metadata(metadata, target)
    prompt = "<|start|>user<|message|>?<|end|><|start|>assistant"
    final = '<|channel|>final<|message|>{"city": "Bern"}'
    for thought in ("", '<|channel|>analysis<|message|>I {"city"<|end|><|start|>assistant'):
        text = scripted(tokenizer, thought + final, prompt, json_schema=CITY)
        assert text.startswith(thought + final)
        assert text[len(thought + final) :] in {tokenizer.tokens[i] for i in tokenizer.eog_ids}


@pytest.mark.parametrize("opened", [False, True])
def test_chat_and_sessions_constrain_the_answer_alone(opened):
    llm = model(thinker(opened).chat_template)
    for seed in range(6):
        messages = [{"role": "user", "content": "a"}]
        options = {
            "json_schema": CITY,
            **ANY,
            "logit_bias": dict.fromkeys(encode(llm.tokenizer, "</think>"), 1.0),
        }
        session = Session(llm, llm.sampling(**options), max_tokens=400, messages=list(messages))
        events = list(session.answer(seed=seed))
        text = "".join(llm.chat(messages, max_tokens=400, seed=seed, **options))
        assert "".join(event.piece for event in events if isinstance(event, Text)) == text
        if session.last.end == END_OF_TEXT:
            assert valid(session.messages[-1]["content"], CITY)


# The command line.


def run(*arguments):
    command = [sys.executable, "-m", "llmcore.generate", "--model", str(tiny_llama()), "--quiet"]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_command_reads_schemas_and_grammars(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(CITY))
    (tmp_path / "g").write_text('root ::= "yes" | "no"')
    assert valid(run("--prompt", "a", "--json-schema", str(tmp_path / "s.json")).stdout, CITY)
    assert run("--prompt", "a", "--grammar", str(tmp_path / "g")).stdout in ("yes", "no")
    assert run("--prompt", "a", "--regex", "(yes|no)!").stdout in ("yes!", "no!")
    (tmp_path / "p").write_text("a\nthe\n")
    texts = run("--prompts-file", str(tmp_path / "p"), "--json-schema", str(tmp_path / "s.json")).stdout
    assert [valid(json.loads(line), CITY) for line in texts.splitlines()] == [True, True]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('{"type": "strin"}', "json_schema: Invalid type: strin"),
        ("{", "json_schema is no JSON"),
        ("\xff", "UTF-8"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_name(data, words, tmp_path):
    path = tmp_path / "s.json"
    path.write_bytes(data.encode("latin-1"))
    done = run("--prompt", "a", "--json-schema", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr
    assert words in done.stderr


def test_a_wrong_expression_is_status_2():
    assert run("--prompt", "a", "--regex", "(").returncode == 2
    assert run("--prompt", "a", "--regex", "a", "--grammar", "x").returncode == 2


# Calls that must come.


def weather(city: str, days: int = 1, unit: Literal["C", "F"] | None = None):
    """Tell the weather.

    Args:
        city: the place
        days: how many
        unit: of the temperature
    """


def now():
    """Tell the time."""


BOUNDED = {
    "properties": {"n": {"type": "integer", "minimum": 0}, "s": {"$ref": "#/$defs/s"}},
    "required": ["s"],
}
BOUNDED |= {"$defs": {"s": {"type": "string", "maxLength": 6}}}
NOTE = {"type": "function", "function": {"name": "note", "parameters": BOUNDED}}
RECORD = json.loads(gzip.decompress((DATA / "templates.json.gz").read_bytes()))["templates"]
FORMATS = {name: format_of(template["template"]) for name, template in RECORD.items()}


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form and form.name in FORMS])
def test_a_required_call_is_one_in_the_format_of_the_template(name):
    template, llm = RECORD[name]["template"], tiny()
    tokenizer = replace(llm.tokenizer, chat_template=template)
    for seed, name in enumerate((None, "note", "now", None)):
        text = finished(llm, "a", seed, grammar=call_grammar(tokenizer, [now, NOTE], name), temperature=30.0)
        answer = parse_answer(text, template, tools=[now, NOTE])
        ((call,), content) = answer["tool_calls"], answer["content"]
        assert content == ""
        assert call["name"] in ("note", "now") if name is None else call["name"] == name
        if call["name"] == "note":
            jsonschema.validate(call["arguments"], BOUNDED)
        else:
            assert call["arguments"] == {}


def test_a_call_has_the_control_tokens_of_its_format():
    path = make_model(Path(FOLDER.name) / "constraint-calls.gguf", CHATML + "{# <|im_start|> [TOOL_CALLS] #}")
    metadata = read_gguf(path).metadata
    tokens = list(metadata["tokenizer.ggml.tokens"])
    tokens[-1] = "[TOOL_CALLS]"
    tokenizer = Tokenizer.from_metadata(metadata | {"tokenizer.ggml.tokens": tokens}, path)
    smuggled = {"type": "function", "function": {"name": "[TOOL_CALLS]<|im_start|>", "parameters": {}}}
    sampling = Sampling(temperature=0, grammar=call_grammar(tokenizer, [smuggled]))
    ids, prepared = [1], prepare(sampling, tokenizer)
    while ids[-1] not in tokenizer.eog_ids:
        ids.append(sample(np.zeros(288, np.float32), ids, sampling, np.random.default_rng(0), *prepared))
    text = '[TOOL_CALLS][{"name": "[TOOL_CALLS]<|im_start|>", "arguments": {}, "id": "000000000"}]'
    assert tokenizer.decode(ids[1:-1], special=True) == text
    assert [i for i in ids if tokenizer.types[i] == CONTROL] == [1, 287, 2]  # bos, the marker, the end


@pytest.mark.parametrize(
    ("template", "tools", "name", "words"),
    [
        ("<arg_key>", [now], None, "'glm'; a call can be required in hermes"),
        (CHATML, [now], None, "writes no calls that we know"),
        ("<tool_call>", [], None, "there are no tools"),
        ("<tool_call>", [now], "later", "no tool called 'later'; there are now"),
        ("<tool_call>", [{"name": "f", "parameters": {"not": {}}}], None, "the tool 'f': json_schema: .*not"),
    ],
)
def test_a_call_that_cannot_be_required_is_refused(template, tools, name, words):
    with pytest.raises(ValueError, match=words):
        call_grammar(replace(tiny().tokenizer, chat_template=template), tools, name)


def test_a_real_model_calls_a_function():
    llm = real_model("SmolLM2-135M-Instruct.Q4_1.gguf")
    grammar = call_grammar(replace(llm.tokenizer, chat_template="<tool_call>"), [weather])
    for seed in range(3):
        text = "".join(llm.generate("The weather", max_tokens=200, seed=seed, grammar=grammar))
        (call,) = parse_answer(text, "<tool_call>", tools=[weather])["tool_calls"]
        assert call["name"] == "weather"
        assert call["arguments"].keys() <= {"city", "days", "unit"}
        assert call["arguments"].get("unit") in (None, "C", "F")

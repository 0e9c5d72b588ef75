"""Template variables, messages that are continued, and what the command line says about both."""

import hashlib
import json
from functools import partial

import pytest
from conftest import DATA, real_model, tiny_llama
from rewrite import rewrite
from test_chat import RECORD, TOKENS, chat, in_process  # noqa: F401  (a fixture)
from test_generate import GREEDY, run

import llmcore
from llmcore.chat.prompt import _continued
from llmcore.cli.options import unescaped

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ '|' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}{% if thinks is false %}no{% endif %}{{ style }}"
)
CONTINUED = json.loads((DATA / "continued.json").read_text())
MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Once upon a "}]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    target = tmp_path_factory.mktemp("chat") / "chat.gguf"
    return rewrite(tiny_llama(), target, {"tokenizer.chat_template": TEMPLATE})


@pytest.fixture(scope="module")
def tokenizer(path):
    return llmcore.load_tokenizer(path)


def prompt(tokenizer, messages=MESSAGES[:1], **options):
    return tokenizer.decode(llmcore.chat.encode_chat(tokenizer, messages, **options), special=True)


@pytest.mark.parametrize("name", CONTINUED)
def test_a_continued_prompt_is_that_of_transformers(name, in_process):  # noqa: F811
    render = partial(
        chat.render_template, RECORD["templates"][name]["template"], **TOKENS, add_generation_prompt=False
    )
    try:
        text = _continued(render, MESSAGES)
    except ValueError:
        text = None
    assert CONTINUED[name] == (text and hashlib.sha1(text.encode()).hexdigest()[:12])


def test_the_last_message_is_continued(tokenizer, in_process):  # noqa: F811
    assert prompt(tokenizer, MESSAGES, continue_final_message=True).endswith("[assistant]Once upon a ")
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "Once"}]}]
    assert prompt(tokenizer, parts, continue_final_message=True).endswith("[assistant]Once")
    for messages in ([], [{"role": "assistant"}], [{"role": "assistant", "content": None}]):
        with pytest.raises(ValueError, match="no text to go on with"):
            prompt(tokenizer, messages, continue_final_message=True)


def test_variables_reach_the_template(tokenizer, in_process):  # noqa: F811
    assert prompt(tokenizer, template={"thinks": False, "style": "brief"}).endswith("[assistant]nobrief")
    assert prompt(tokenizer, template={"thinks": True}).endswith("[assistant]")
    marked = llmcore.chat.encode_chat(tokenizer, MESSAGES[:1], template={"style": "</s>"})
    assert tokenizer.eos_id not in marked


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"messages": []}, "template: messages is set by"),
        ({"bos_token": "x"}, "template: bos_token is set by"),
        ({"x": {1, 2}}, "holds what is no JSON value"),
        ({"x": float("nan")}, "holds what is no JSON value"),
        ({1: 2}, "must map names to values"),
        ("thinks", "must map names to values"),
    ],
    ids=str,
)
def test_variables_that_cannot_be(tokenizer, wrong, words):
    with pytest.raises(ValueError, match=words):
        prompt(tokenizer, template=wrong)


def test_chat_goes_on_with_an_answer():
    llm = real_model("SmolLM2-135M-Instruct.Q4_1.gguf")
    question = {"role": "user", "content": "What is the capital of Poland?"}
    begun = [question, {"role": "assistant", "content": "The capital of Poland is"}]
    answer = "".join(llm.chat(begun, continue_final_message=True, max_tokens=3, temperature=0))
    assert answer.startswith(" Warsaw")


# The command line


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (r"a\nb", "a\nb"),
        (r"\t\r\'\"\\n", "\t\r'\"\\n"),
        (r"\x41\xc3\xa9", "Aé"),
        (r"\x4 \d \ ", r"\x4 \d \ "),
        ("é\\", "é\\"),
    ],
)
def test_escapes_are_those_of_llama_cpp(text, want):
    assert unescaped(text) == want


def test_the_command_line_escapes_and_passes_variables_on(path):
    model = ("--model", str(path), *GREEDY[2:], "--quiet", "--echo")
    assert run(*model, "--prompt", r"a\nb")[1].startswith("a\nb")
    assert run(*model, "--prompt", r"a\nb", "--no-escape")[1].startswith(r"a\nb")
    status, _, err = run(*model, "--prompt", "a", "--template", "style=</s>", "--template", "thinks=false")
    assert (status, err) == (0, "")
    assert run(*model, "--prompt", "a", "--template", "messages=1")[0] == 1
    assert run(*model, "--prompt", "a", "--template", "messages")[0] == 2


def test_an_answer_may_be_begun_by_the_user(path):
    model = ("--model", str(path), *GREEDY[2:], "--quiet")
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "he\ntwo"}]
    want = llmcore.load(path).chat(
        messages, continue_final_message=True, max_tokens=12, temperature=0, ignore_eos=True
    )
    assert run(*model, "--prompt", "a", "--prefill", r"he\ntwo")[1] == "".join(want)


def test_what_the_file_says_is_told_with_the_seed(tmp_path):
    named = rewrite(
        tiny_llama(), tmp_path / "named.gguf", {"general.sampling.top_k": 5, "general.sampling.temp": 0.6}
    )
    options = ("--model", str(named), "--prompt", "a", "--max-tokens", "3", "--seed", "4")
    assert "seed 4 | from the file: temperature 0.6, top_k 5\n" in run(*options)[2]
    assert "seed 4 | from the file: temperature 0.6\n" in run(*options, "--top-k", "40")[2]


@pytest.mark.parametrize(
    "wrong",
    [("--logit-bias", "5"), ("--logit-bias", "5+inf"), ("--typical", "2"), ("--samplers", "top_k;x")],
    ids=str,
)
def test_bad_options_are_status_2(wrong):
    assert run(*GREEDY, "--prompt", "a", *wrong)[0] == 2


def test_options_of_sampling_reach_the_text():
    status, text, _ = run(*GREEDY, "--prompt", "hello", "--logit-bias", "40+100", "--logit-bias", "41-inf")
    assert status == 0
    want = llmcore.load(tiny_llama()).generate(
        "hello", max_tokens=12, temperature=0, ignore_eos=True, logit_bias={40: 100.0, 41: float("-inf")}
    )
    assert text == "".join(want)

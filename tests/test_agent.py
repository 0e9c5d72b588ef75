"""The agent: its loop with a scripted model in every format, its tools, its screen."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_faults_messages import in_process  # noqa: F401 (a fixture)
from test_injection import CONTROL, TEMPLATES, tokenizer
from test_tools import NO_CALLS_IN_HISTORY, written_answer

from llmcore.chat.formats import format_of
from llmcore.chat.reasoning import reasoning_of
from llmcore.chat.session import Done, Session
from llmcore.cli.agent import REFUSED, Screen, main, work
from llmcore.cli.allowed import Allowed
from llmcore.cli.calculator import calculate
from llmcore.cli.steps import BySchema, ByTemplate, Step, knows_tools, step_schema
from llmcore.cli.toolbox import CHARACTERS, ENTRIES, HITS, built_in, tool_of
from llmcore.tokenizers.streaming import CONTEXT_FULL, END_OF_TEXT, MAX_TOKENS, Token

QUESTION = [{"role": "user", "content": "What is the weather in Łódź?"}]


def look(city: str) -> str:
    """Look at a city.

    Args:
        city: its name
    """
    return f"sunny in {city}, 21 degrees"


TOOL = tool_of(look)


def screen(**options):
    return Screen(lambda *_, **__: None, yes=True, terminal=False, **options)


class Scripted:
    """A model that says what stands in a script, and keeps the prompts that it is asked with."""

    def __init__(self, template, script):
        self.tokenizer, _ = tokenizer(template, CONTROL)
        self.script, self.prompts, self.schemas = list(script), [], []
        self.bytes = [self.tokenizer.tokens.index(f"<0x{byte:02X}>") for byte in range(256)]
        self.context_length = 100_000

    def empty_cache(self):
        return SimpleNamespace(truncate=lambda length: 0, keep=lambda: None)

    def sampling(self, json_schema=None):
        from llmcore.samplers.options import Sampling

        self.schemas.append(json_schema)
        return Sampling()

    def tokens(self, ids, **_):
        self.prompts.append(self.tokenizer.decode(ids, special=True))
        for piece in self.tokenizer.special.split(self.script.pop(0)):
            text = b"" if isinstance(piece, int) else piece.encode()
            for i in [self.bytes[byte] for byte in text] or [piece]:
                yield Token(i, np.zeros(1))
        yield Token(self.tokenizer.eos_id, np.zeros(1), END_OF_TEXT)


def agent(model, tools=(TOOL,), messages=QUESTION, max_steps=10, template=None):
    """(the answer, the messages) of an agent with this model."""
    session, said = Session(model, template=template or {}), list(messages)
    seeds = iter(range(100))
    if knows_tools(model.tokenizer, session.template):
        session.tools = [tool.schema for tool in tools]
        ask = ByTemplate(session, seeds, lambda _: None)
    else:
        ask = BySchema(session, seeds, lambda _: None, list(tools), model.sampling)
    return work(ask, said, {tool.name: tool for tool in tools}, screen(), max_steps), said


# The loop in every format: the call is what the template itself writes of one

KNOWING = [name for name in TEMPLATES if format_of(TEMPLATES[name]) and name not in NO_CALLS_IN_HISTORY]
FINAL = {
    "harmony": "<|channel|>final<|message|>{}",
    "functionary-3.2": "all\n{}",
    "atem": " to=user<|message|>{}",
}
CALL = {"name": "look", "arguments": {"city": "Łódź"}}


def final(name, text):
    form, markers = format_of(TEMPLATES[name]), reasoning_of(TEMPLATES[name])
    if form.name in FINAL:
        return FINAL[form.name].format(text)
    _, opened = written_answer(name, [CALL])
    return f"Well.{markers.close}{text}" if opened else text


@pytest.mark.parametrize("name", KNOWING)
def test_call_answer_final(name, in_process):  # noqa: F811
    call, _ = written_answer(name, [CALL])
    model = Scripted(TEMPLATES[name], [call, final(name, "It is sunny.")])
    if not knows_tools(model.tokenizer, {}):
        assert name in ("deepseek-ai-DeepSeek-V3.1",)
        pytest.skip("the template does not tell a model of its tools")
    answer, messages = agent(model)
    assert answer == "It is sunny."
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    [called] = messages[1]["tool_calls"]
    assert called["function"] == CALL
    assert messages[2] == {
        "role": "tool",
        "tool_call_id": called["id"],
        "name": "look",
        "content": "sunny in Łódź, 21 degrees",
    }
    first, second = model.prompts
    assert "Look at a city." in first
    assert "sunny in Łódź, 21 degrees" in second
    assert "sunny" not in first
    # the call stands before its answer, as the template writes calls
    said = second[second.index("What is the weather in Łódź?") :]
    assert said.index("look") < said.index("sunny in Łódź")


def test_ids_of_calls_are_those_that_templates_expect(in_process):  # noqa: F811
    ids = {}
    for name in ("Kimi-K2-Instruct", "mistralai-Mistral-Nemo-Instruct-2407"):
        call, _ = written_answer(name, [CALL, CALL])
        model = Scripted(TEMPLATES[name], [call, call, final(name, "Done.")])
        _, messages = agent(model)
        ids[name] = [c["id"] for m in messages for c in m.get("tool_calls", ())]
        answered = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
        assert answered == ids[name]
    assert ids["Kimi-K2-Instruct"] == [f"functions.look:{n}" for n in range(4)]
    assert ids["mistralai-Mistral-Nemo-Instruct-2407"] == ["call00000", "call00001", "call00002", "call00003"]


QWEN = TEMPLATES["Qwen-Qwen2.5-7B-Instruct"]


def hermes(name, arguments):
    return (
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"
    )


def test_what_goes_wrong_is_told_to_the_model(in_process):  # noqa: F811
    script = [
        hermes("look", {"town": "x"}),
        hermes("nope", {}),
        "<tool_call>\n{oops\n</tool_call>",
        "",
        "Enough.",
    ]
    model = Scripted(QWEN, script)
    answer, messages = agent(model)
    assert answer == "Enough."
    told = [message["content"] for message in messages if message["role"] in ("tool", "user")][1:]
    assert told[0].startswith("error: ")
    assert "the arguments of look are: city" in told[0]
    assert "there is no tool called 'nope'" in told[1]
    assert "cut off or broken" in told[2]
    assert "the answer is empty" in told[3]


def test_a_call_that_is_not_allowed_is_not_made(in_process):  # noqa: F811
    model = Scripted(QWEN, [hermes("look", {"city": "x"}), "As you like."])
    session = Session(model, tools=[TOOL.schema])
    no = screen()
    no.confirm = lambda name, arguments: False
    messages = list(QUESTION)
    work(ByTemplate(session, iter(range(9)), lambda _: None), messages, {"look": None}, no, 5)
    assert messages[2]["content"] == REFUSED


def test_the_steps_are_limited(in_process):  # noqa: F811
    model = Scripted(QWEN, [hermes("look", {"city": "x"})] * 9)
    with pytest.raises(ValueError, match=r"no answer after 3 steps; --max-steps N allows more"):
        agent(model, max_steps=3)


CUT_OFF = [
    ('{"answer": "It is sun', "It is sun"),
    ('{ "answer" : "a \\"quoted\\" w\\u0142', 'a "quoted" wł'),
    ('{"answer": "half an escape \\u01', "half an escape "),
    ('{"answer": "half an escape \\', "half an escape "),
]


@pytest.mark.parametrize(("written", "answer"), CUT_OFF)
def test_an_answer_that_is_cut_off_is_one(written, answer, in_process):  # noqa: F811
    assert agent(Scripted(TEMPLATES["google-gemma-2-2b-it"], [written]))[0] == answer


def test_a_call_that_is_cut_off_is_none(in_process):  # noqa: F811
    script = ['{"tool": "look", "arguments": {"ci', '{"answer": "Well."}']
    answer, messages = agent(Scripted(TEMPLATES["google-gemma-2-2b-it"], script))
    assert answer == "Well."
    assert "the call is cut off" in messages[2]["content"]


# A model whose template knows no tools


@pytest.mark.parametrize("name", ["google-gemma-2-2b-it", "microsoft-Phi-3.5-mini-instruct"])
def test_a_template_without_tools(name, in_process):  # noqa: F811
    call = '{"tool": "look", "arguments": {"city": "Łódź"}}'
    model = Scripted(TEMPLATES[name], [call, '{"answer": "It is sunny."}'])
    answer, messages = agent(model)
    assert answer == "It is sunny."
    assert messages[1]["tool_calls"][0]["function"] == CALL
    assert '{"tool": "look", "arguments": {"city": (its name)}}: Look at a city.' in model.prompts[0]
    assert call in model.prompts[1]
    assert "look answers:\nsunny in Łódź" in model.prompts[1]


def test_the_last_step_is_an_answer_and_so_is_the_one_after_a_repetition(in_process):  # noqa: F811
    call = '{"tool": "look", "arguments": {"city": "x"}}'
    only_answer = step_schema([])
    model = Scripted(TEMPLATES["google-gemma-2-2b-it"], [call, call, '{"answer": "Yes."}'])
    assert agent(model)[0] == "Yes."
    assert [schema == only_answer for schema in model.schemas] == [False, False, True]
    model = Scripted(TEMPLATES["google-gemma-2-2b-it"], [call, '{"answer": "No."}'])
    assert agent(model, max_steps=2)[0] == "No."
    assert model.schemas[-1] == only_answer


def test_the_schema_of_a_step_allows_calls_and_answers_and_nothing_else():
    jsonschema = pytest.importorskip("jsonschema")
    schema = step_schema(built_in(Allowed(())))
    valid = jsonschema.Draft202012Validator(schema).is_valid
    assert valid({"answer": "x"})
    assert valid({"tool": "calculate", "arguments": {"expression": "1"}})
    assert valid({"tool": "current_time", "arguments": {}})
    for wrong in (
        {},
        {"answer": ""},
        {"tool": "rm", "arguments": {}},
        {"tool": "calculate", "arguments": {}},
    ):
        assert not valid(wrong)
    assert not valid({"answer": "x", "tool": "calculate"})
    assert not valid({"tool": "calculate", "arguments": {"expression": "1", "more": 1}})


# The tools


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "allowed"
    (inside / "sub").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "allowed-too").mkdir()
    (tmp_path / "allowed-too" / "secret.txt").write_text("secret")
    (inside / "a.txt").write_text("one\nTwo\nthree\n")
    (inside / "sub" / "b.txt").write_text("two more")
    (inside / ".hidden").write_text("two hidden")
    (inside / "data.bin").write_bytes(b"\0two")
    (inside / "out").symlink_to(tmp_path / "secret.txt")
    (inside / "up").symlink_to(tmp_path)
    (inside / "link").symlink_to("a.txt")
    (inside / "circle").symlink_to("circle")
    os.mkfifo(inside / "pipe")
    return inside


def call(folder, name, *more, **arguments):
    tools = {tool.name: tool for tool in built_in(Allowed.of([str(folder), *more]))}
    return tools[name].answer(arguments)


def test_files_are_read_listed_and_searched(folder):
    assert call(folder, "read_file", path="a.txt") == "[a.txt, lines 1 to 3 of 3]\none\nTwo\nthree"
    assert call(folder, "read_file", path="a.txt", start="2").endswith("2 to 3 of 3]\nTwo\nthree")
    assert call(folder, "read_file", path=str(folder / "a.txt")).endswith("one\nTwo\nthree")
    assert call(folder, "read_file", path="sub/../link").endswith("one\nTwo\nthree")
    listed = call(folder, "list_files").splitlines()
    assert "a.txt (14 bytes)" in listed
    assert "sub/" in listed
    assert "out (link)" in listed
    assert call(folder, "list_files", path="sub") == "sub/b.txt (8 bytes)"
    assert call(folder, "search_text", text="two") == "a.txt:2: Two\nsub/b.txt:1: two more"
    assert call(folder, "search_text", text="zzz") == "['zzz' does not stand in any of 4 files]"


OUTSIDE = (
    *(
        "../secret.txt",
        "sub/../../secret.txt",
        "out",
        "up/secret.txt",
        "up",
        "..",
        "../allowed-too/secret.txt",
    ),
    *("/etc/passwd", "~/x", "circle", "a.txt/../../secret.txt", "a\0.txt", "", "nothing", "./../secret.txt"),
    *(
        "//etc/passwd",
        "sub/../..",
        "x" * 5000,
        "/proc/self/environ",
        "/dev/stdin",
        "up/allowed-too/secret.txt",
    ),
)


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("name", ["read_file", "list_files", "search_text"])
def test_no_path_leads_out(folder, name, path):
    if path == "" and name != "read_file":
        return  # all that may be read
    more = {"text": "secret"} if name == "search_text" else {}
    with pytest.raises(ValueError, match=r"not under what may be read|is a folder, a pipe or a device"):
        call(folder, name, path=path, **more)


def test_an_absolute_path_is_judged_by_where_it_leads(folder):
    with pytest.raises(ValueError, match="not under what may be read"):
        call(folder, "read_file", path=str(folder.parent / "secret.txt"))
    with pytest.raises(ValueError, match="not under what may be read"):
        call(folder, "read_file", path=f"{folder}/../secret.txt")


def test_a_link_that_is_put_in_the_place_of_a_folder_leads_nowhere(folder, tmp_path):
    """Between the check of a path and its opening."""
    from llmcore.cli.allowed import read_text

    allowed = Allowed.of([str(folder)])
    root, real = allowed.find("sub/b.txt")
    (folder / "sub" / "b.txt").unlink()
    (folder / "sub").rmdir()
    (folder / "sub").symlink_to(tmp_path / "allowed-too")
    (tmp_path / "allowed-too" / "b.txt").write_text("secret")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        read_text(root, real)


def test_one_file_may_be_allowed_alone(folder):
    file = folder / "a.txt"
    assert "one" in call(file, "read_file", path="a.txt")
    assert call(file, "list_files") == "a.txt (14 bytes)"
    assert call(file, "search_text", text="two") == "a.txt:2: Two"
    with pytest.raises(ValueError, match="not under what may be read"):
        call(file, "read_file", path="sub/b.txt")


def test_what_is_no_text_file_is_told(folder):
    for path, words in (("data.bin", "not a text file"), ("pipe", "a pipe or a device"), ("sub", "a folder")):
        with pytest.raises(ValueError, match=words):
            call(folder, "read_file", path=path)


def test_sizes_are_limited_and_said(folder):
    (folder / "long.txt").write_text("".join(f"line {n}\n" for n in range(1, 5001)))
    read = call(folder, "read_file", path="long.txt")
    assert len(read) < CHARACTERS + 200
    head = read.splitlines()[0]
    last = len(read.splitlines()) - 1
    assert head == f"[long.txt, lines 1 to {last} of 5000; start={last + 1} reads on]"
    assert call(folder, "read_file", path="long.txt", start=last + 1).splitlines()[1] == f"line {last + 1}"
    (folder / "wide.txt").write_text("x" * 3_000_000)
    read = call(folder, "read_file", path="wide.txt")
    assert len(read) < CHARACTERS + 200
    assert "in its first 2,000,000 bytes" in read
    assert "[the line goes on]" in read
    assert call(folder, "search_text", text="line").endswith(f"[the first {HITS} lines; there are more]")
    for n in range(ENTRIES + 5):
        (folder / "sub" / f"f{n:03}").touch()
    assert call(folder, "list_files", path="sub").endswith(f"[{ENTRIES} of {ENTRIES + 6}]")


def test_a_folder_that_is_not_there_is_told_at_once():
    with pytest.raises(ValueError, match="--allow /nowhere/at/all: No such file"):
        Allowed.of(["/nowhere/at/all"])


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 * (3 + 4) ** 2", "98"),
        ("2+3^2", "11"),
        ("-2^2", "-4"),
        ("0.1 + 0.2", "0.3"),
        ("7 / 2", "3.5"),
        ("7 // 2 + 7 % 4", "6"),
        ("sqrt(16) + max(1, 2, 3)", "7"),
        ("12 × 12 ÷ 6 − 4", "20"),  # noqa: RUF001
        ("factorial(20)", "2432902008176640000"),
        ("round(2.567, 1)", "2.6"),
        ("sin(pi / 2)", "1"),
        ("{17} * 23 + 5", "396"),  # small models write braces
    ],
)
def test_the_calculator(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "9**9**9",
            "factorial(100000)",
            "10**10**10",
            "round(5, -1000000000)",
            "1e308*10",
            "(-8)**0.5",
            "1/0",
        ),
        *("__import__('os').system('x')", "().__class__", "'a'*9", "[1]*9", "x", "lambda: 1", "1,000", ""),
        *("(" * 900, "1 if 1 else 2", "True", "open('x')", "max()", "log(0)", "print(1)", "f'{1}'", "1;2"),
        *("max(*[1])", "round(1, ndigits=2)", "10 ** (10 ** 4)", "9" * 2000),
    ],
)
def test_the_calculator_computes_nothing_else(expression):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        calculate(expression)


@given(st.text(alphabet="0123456789+-*/%^().,e sqrtmaxpiround_[]'\"", max_size=40))
def test_the_calculator_never_fails_otherwise(expression):
    with suppress(ValueError):
        float(calculate(expression))


def test_the_time():
    tool = {tool.name: tool for tool in built_in(Allowed(()))}["current_time"]
    assert "UTC+0000" in tool.answer({"zone": "UTC"})
    for zone in ("Nowhere/Else", "../../etc/passwd", "/etc/passwd"):
        with pytest.raises(ValueError, match="there is no time zone"):
            tool.answer({"zone": zone})


def test_arguments_are_checked_by_their_types(folder):
    with pytest.raises(ValueError, match="start must be of type integer, not string"):
        call(folder, "read_file", path="a.txt", start="two")
    with pytest.raises(ValueError, match="path must be of type string, not object"):
        call(folder, "read_file", path={})
    with pytest.raises(
        ValueError, match="unexpected keyword argument 'more'; the arguments of calculate are"
    ):
        call(folder, "calculate", expression="1", more=1)
    assert call(folder, "calculate", expression=3) == "3"


# The command


def run(*arguments, stdin="", **options):
    command = [sys.executable, "-m", "llmcore", "agent", *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600, **options
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["What?"], "error: nobody can confirm the calls, since standard input is no terminal; --yes allows"),
        (["--yes", " "], "error: the question is empty"),
        (["--yes", "--transcript", "/nowhere/at/t.json", "What?"], "there is no such folder"),
    ],
)
def test_what_would_end_badly_is_one_line_before_a_model_is_loaded(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert main(["--model", "no.gguf", *arguments]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_folder_that_is_not_there_is_one_line(capsys):
    assert main(["--model", "no.gguf", "--yes", "--allow", "/nowhere/at/all", "What?"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: --allow /nowhere/at/all: No such file or directory; name a folder or a file that is there"
    ]


def test_calls_are_shown_on_one_line_and_confirmed(monkeypatch, capsys):
    asked = Screen(print, yes=False, terminal=False)
    answers = iter(["y\n", "yes\n", "n\n", "\n", "Yes please\n", ""])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(readline=lambda: next(answers)))
    arguments = {"path": "a\n\x1b[31mb", "long": "x" * 5000}
    assert [asked.confirm("read", arguments) for _ in range(6)] == [True, True, False, False, False, False]
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert r'call: read(path="a\n\u001b[31mb", long="xxx' in shown
    assert "x" * 5000 in shown
    assert Screen(print, yes=True, terminal=False).confirm("read", arguments)
    assert "[cut: 300 of 5,007 characters]" in capsys.readouterr().err


def test_an_interrupt_ends_the_line_of_the_question(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", SimpleNamespace(readline=interrupted))
    with pytest.raises(KeyboardInterrupt):
        Screen(print, yes=False, terminal=True).confirm("f", {})
    assert capsys.readouterr().err.endswith("[y/N] \n")


def test_the_transcript_is_whole_or_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "t.json"
    kept = screen(path=path, head={"model": "m"})
    kept.keep(QUESTION)
    kept.keep([*QUESTION, {"role": "assistant", "content": "Łódź"}], answer="Łódź")
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written == {
        "model": "m",
        "answer": "Łódź",
        "messages": [*QUESTION, {"role": "assistant", "content": "Łódź"}],
    }
    monkeypatch.setattr(
        "os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        kept.keep(QUESTION)
    assert json.loads(path.read_text(encoding="utf-8")) == written
    assert list(tmp_path.iterdir()) == [path]


def test_a_tools_answer_fills_no_more_than_its_part_of_the_context():
    from llmcore.cli.agent import fitted

    model = SimpleNamespace(
        context_length=400, tokenizer=SimpleNamespace(encode=lambda text, **_: [0] * len(text))
    )
    assert fitted("x" * 100, model) == "x" * 100
    assert fitted("x" * 1000, model) == "x" * 100 + "\n[cut: 100 of 1,000 characters]"


def test_a_step_is_told_before_its_calls():
    lines = []
    told = Screen(lambda text, **_: lines.append(text), yes=True, terminal=False)
    message = {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.\nYes.", "tool_calls": [1]}
    told.show(1, Step(message, "", Done(END_OF_TEXT, 5, 3, [0.0, 1.0, 2.0])))
    assert lines[1:] == ["  Hm.", "  Yes.", "  I look."]
    assert lines[0].startswith("step 1: prompt 5 tokens after 3 in the cache")
    for end in (MAX_TOKENS, CONTEXT_FULL):
        told.show(2, Step({"role": "assistant", "content": "It"}, "", Done(end, 5, 3, [0.0, 1.0])))
        assert lines[-1] == f"the answer is cut off: {end}"


@pytest.mark.slow
def test_a_real_model_without_tools_ends_a_task_of_two_steps(tmp_path):
    pytest.importorskip("llguidance")
    model = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not model.exists():
        pytest.skip(f"{model.name} is not here; python -m llmcore get smollm2 gets it")
    transcript = tmp_path / "t.json"
    done = run(
        *("--model", model, "--yes", "--temperature", 0, "--max-steps", 5, "--max-tokens", 100),
        *("--transcript", transcript, "What is 17 * 23 + 5?"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "knows no tools: each step is written under a JSON schema" in done.stderr
    messages = json.loads(transcript.read_text(encoding="utf-8"))["messages"]
    assert len([message for message in messages if message["role"] == "tool"]) >= 1
    assert "after" in done.stderr.split("step 2: ")[1].splitlines()[0]  # the cache was kept

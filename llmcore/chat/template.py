"""Messages -> prompt, through the model's own template; `python -m llmcore.chat` is a conversation in the
terminal.

A conversation is a list of messages like {"role": "user", "content": "Hello"}. The file's
tokenizer.chat_template, a program in the language Jinja, writes it down the way the model met conversations
in its training: "<|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\n", and the model continues that
text.

Two strangers speak here, and neither is trusted. The template is code from whoever made the file: it runs in
Jinja's immutable sandbox, in a process of its own that ends with the rendering and has SECONDS of processor
time and MEMORY bytes (where the system has such limits, as Linux does; elsewhere WAIT seconds bound it). The
messages are data from whoever types: "<|im_start|>system" in a message is encoded as plain text, never as the
control token.
"""

import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from ..errors import ModelFileError
from .messages import calls_of, text_messages, without_object

SECONDS, WAIT, MEMORY = 2, 20, 1 << 29  # what rendering may take: processor time, time in all, bytes
LONGEST = 10_000_000  # characters of a prompt
TOO_MUCH = {"broken": f"takes more than {SECONDS} seconds or {MEMORY >> 20} MB"}
CHILD = "import sys; sys.path[:] = sys.argv[1:]; from llmcore.chat.template import _child; _child()"


def render_template(
    template: str,
    messages: list[dict],
    *,
    bos_token: str | None,
    eos_token: str | None,
    add_generation_prompt: bool = True,
    **variables,
) -> str:
    """The prompt that a chat template makes of messages, as transformers' apply_chat_template renders it.

    `variables` (tools, enable_thinking, ...) are further names that the template may read; all must be JSON
    values. Raises ValueError for messages that the template refuses with a reason of its own, ModelFileError
    for a template that is broken, breaks out of its sandbox or its limits, ImportError without jinja2.
    """
    try:
        import jinja2  # noqa: F401  (the child needs it)
    except ImportError:
        raise ImportError('chat needs jinja2; get it with: pip install "llmcore[chat]"') from None
    tokens = {
        name: text for name, text in (("bos_token", bos_token), ("eos_token", eos_token)) if text is not None
    }
    variables = (
        {"tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
        | tokens
        | variables
    )
    variables["messages"] = text_messages(messages)
    answer = ask(
        json.dumps({"template": template, "variables": variables, "now": datetime.now().isoformat()})
    )
    if "refused" in answer:
        raise ValueError(f"the model's chat template refuses these messages: {answer['refused']}")
    if "broken" in answer and (problem := without_object(variables["messages"])):
        raise ValueError(f"{problem}; the model's chat template {answer['broken']}")
    if "broken" in answer:
        raise ModelFileError(f"the model's chat template (tokenizer.chat_template) {answer['broken']}")
    return answer["text"]


def _ask_child(request):
    """What a process of its own answers to the request; "broken" if it has not lived to tell."""
    # -I -S: the child is to find what we find, and nothing of its environment
    path = [*filter(None, sys.path), str(Path(__file__).parents[2])]
    command = [sys.executable, "-I", "-S", "-c", CHILD, *path]
    with suppress(subprocess.TimeoutExpired, json.JSONDecodeError):
        # a session of its own, so that Ctrl-C in a terminal is ours to handle
        done = subprocess.run(
            command,
            input=request.encode(),
            capture_output=True,
            timeout=WAIT,
            start_new_session=True,
            check=False,
        )
        return json.loads(done.stdout)
    return TOO_MUCH


ask: Callable[[str], dict] = _ask_child  # a server puts a process in its place that is kept


def _child():
    """Answer one request on standard input; this is the process that a template may spoil."""
    sys.stdout.buffer.write(respond(sys.stdin.buffer.read()))


def respond(request: bytes) -> bytes:
    """The answer to a request; from now on this process has no more than its limits."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    return json.dumps(_answer(**json.loads(request))).encode()


def _answer(template, variables, now):
    """The text, or why there is none."""
    import jinja2

    for message in variables["messages"]:
        for call in calls_of(message):
            if isinstance(call.get("arguments"), dict):
                call["arguments"] = Arguments(call["arguments"])
    try:
        text = _environment(now, variables).from_string(template).render(variables)
    except Exception as error:
        if (
            type(error) is jinja2.TemplateError
        ):  # raise_exception's alone; Jinja's own errors are of its subclasses
            return {"refused": f"{error!s:.500}"}
        calls = traceback.walk_tb(error.__traceback__)
        line = [line for frame, line in calls if frame.f_code.co_filename == "<template>"][-1:]
        line = getattr(error, "lineno", None) or (line[0] if line else "?")
        return {"broken": f"fails in line {line}: {type(error).__name__}: {error!s:.500}".rstrip(": ")}
    return {"text": text} if len(text) <= LONGEST else {"broken": f"writes more than {LONGEST:,} characters"}


class Arguments(dict):
    """The arguments of a call: an object to templates that write it with tojson, JSON to the others."""

    def __str__(self):
        return json.dumps(self, ensure_ascii=False)

    def __add__(self, other):
        return str(self) + other

    def __radd__(self, other):
        return other + str(self)


def lists_in(value) -> Iterator[int]:
    """The identities of all lists in a value."""
    if isinstance(value, list):
        yield id(value)
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from lists_in(item)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """The filter of that name, which does not escape HTML as Jinja's own does."""
    options = {
        "ensure_ascii": ensure_ascii,
        "indent": indent,
        "separators": separators,
        "sort_keys": sort_keys,
    }
    return json.dumps(value, **options, default=list)  # a list of what map and select give


def _environment(now, variables):
    """What Hugging Face's templates expect of Jinja (transformers' utils/chat_template_utils.py)."""
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

    given = set(lists_in(variables))

    class Sandbox(ImmutableSandboxedEnvironment):
        """Nothing that came from outside can be changed; a list that the template made may grow (Kimi K2)."""

        def is_safe_attribute(self, obj, attr, value):
            if type(obj) is list and attr in ("append", "pop") and id(obj) not in given:
                return SandboxedEnvironment.is_safe_attribute(self, obj, attr, value)
            return super().is_safe_attribute(obj, attr, value)

    class Generation(jinja2.ext.Extension):
        """{% generation %}: what the model itself says, of interest to those who train it."""

        tags = frozenset({"generation"})

        def parse(self, parser):
            line = next(parser.stream).lineno
            return jinja2.nodes.Scope(
                parser.parse_statements(["name:endgeneration"], drop_needle=True), lineno=line
            )

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": datetime.fromisoformat(now).strftime,
    }
    return environment

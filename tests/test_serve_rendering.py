"""The process that is kept to render templates answers as one of its own does, whatever a template tries."""

import json
import os
import time

import pytest
from test_tools import TEMPLATES

from llmcore.chat import template as chat
from llmcore.serve.rendering import Renderer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
MESSAGES = [
    {"role": "user", "content": "żółw"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]


@pytest.fixture(scope="module")
def renderer():
    kept = Renderer()
    yield kept
    kept.close()


def request(template, **variables):
    about = {"messages": MESSAGES, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
    about |= {"tools": None, "documents": None} | variables
    return json.dumps({"template": template, "variables": about, "now": "2026-11-25T10:00:00"})


@pytest.mark.parametrize("name", sorted(TEMPLATES)[::6])
def test_it_renders_as_a_process_of_its_own(renderer, name):
    asked = request(TEMPLATES[name])
    assert renderer.ask(asked) == chat._ask_child(asked)


@pytest.mark.parametrize(
    ("template", "key", "words"),
    [
        (
            "{% for i in range(10 ** 5) %}{% for j in range(10 ** 5) %}{% endfor %}{% endfor %}",
            "broken",
            "2 seconds",
        ),
        ("{{ 'a' * 10 ** 10 }}", "broken", ""),
        ("{{ raise_exception('no') }}", "refused", "no"),
        ("{{ nothing.at.all }}", "broken", "fails in line 1"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "broken", "unsafe"),
        ("{% if %}", "broken", "fails in line 1"),
    ],
)
def test_what_a_template_does_is_its_own_loss(renderer, template, key, words):
    assert words in renderer.ask(request(template))[key]
    assert renderer.ask(request("{{ messages[0].content }}")) == {"text": "żółw"}


def test_nothing_stays_of_another_template(renderer):
    assert renderer.ask(request("{{ messages.append(1) }}"))["broken"]
    assert renderer.ask(request("{{ messages | length }}")) == {"text": "3"}


def test_a_process_that_ended_is_started_again(renderer):
    renderer.ask(request("a"))
    renderer._process.kill()
    renderer._process.wait()
    assert renderer.ask(request("b")) == {"text": "b"}


def test_it_is_sooner_than_a_process_each(renderer):
    asked = request("{{ messages[0].content }}")
    renderer.ask(asked)

    def seconds(ask):
        begin = time.perf_counter()
        for _ in range(5):
            ask(asked)
        return time.perf_counter() - begin

    assert 2 * seconds(renderer.ask) < seconds(chat._ask_child)

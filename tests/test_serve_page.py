"""The page in a real browser, Debian's chromium: a conversation as a user has it, and what axe says of it."""

import json
import re
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason='pip install "llmcore[serve]"')
from browser import MARKS, assert_axe_finds_nothing
from conftest import FOLDER
from playwright.sync_api import expect
from serving import served
from test_conversation import CHATML, make_model

import llmcore
from llmcore.chat import encode_chat
from llmcore.ops import softmax
from llmcore.serve import engine as engine_module

pytestmark = MARKS
LOOKS = [(1280, 800, "light"), (390, 844, "dark"), (1280, 800, "dark"), (390, 844, "light")]


class Site:
    """A server for a page; `script` is what it says next, `pause` how long each token takes."""

    def __init__(self, monkeypatch):
        self.script, self.pause = [], 0.0
        unembed = engine_module.unembed

        def scripted(*arguments):
            time.sleep(self.pause)
            logits_TV = unembed(*arguments)
            if self.script:
                logits_TV[:] = -100
                logits_TV[:, self.script.pop(0)] = 0
            return logits_TV

        monkeypatch.setattr(engine_module, "unembed", scripted)


@contextmanager
def site_of(llm, monkeypatch, **terms):
    """A server whose model does as it is told."""
    site = Site(monkeypatch)
    with served(llm, **terms) as (site.engine, port):
        site.url = f"http://127.0.0.1:{port}"
        yield site


@pytest.fixture(scope="module")
def llm():
    return llmcore.load(make_model(FOLDER.name + "/serve-page.gguf", CHATML))


@pytest.fixture
def open_page(browser):
    """Opens pages and sees to it that none of them asks another server, or complains."""
    opened = []

    def open_one(url, width=1280, height=800, scheme="light"):
        size = {"width": width, "height": height}
        context = browser.new_context(viewport=size, color_scheme=scheme, accept_downloads=True)
        page = context.new_page()
        seen = {"requests": [], "errors": []}
        page.on("request", lambda request: seen["requests"].append(request.url))
        page.on("pageerror", lambda error: seen["errors"].append(str(error)))
        page.on("console", lambda said: seen["errors"].append(said.text) if said.type == "error" else None)
        page.goto(url + "/")
        opened.append((context, url, seen))
        return page

    yield open_one
    for context, url, seen in opened:
        context.close()
        assert not [asked for asked in seen["requests"] if not asked.startswith((url, "blob:"))]
        # what the server refuses, chromium tells in the console as well
        assert not [error for error in seen["errors"] if "Failed to load resource" not in error]


def say(page, text):
    """Send a message, and wait until its answer is written."""
    n = page.locator(".assistant").count()
    page.fill("#say", text)
    page.keyboard.press("Enter")
    answer = page.locator(".assistant").nth(n)
    expect(answer).to_have_attribute("aria-busy", "false", timeout=60_000)
    return answer


def assert_clean(page):
    """axe finds nothing, and nothing is wider than the screen."""
    assert_axe_finds_nothing(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("width", "height", "scheme"), LOOKS)
def test_a_conversation(llm, open_page, monkeypatch, width, height, scheme):
    """Three turns, with stop, regenerate, a folded thought, probabilities, a system message, and export."""
    with site_of(llm, monkeypatch) as site:
        page = open_page(site.url, width, height, scheme)
        expect(page.locator("#model")).to_contain_text("tiny")
        assert_clean(page)
        wide = width > 900
        if not wide:
            page.click("#open-settings")
            assert_clean(page)
        page.fill("#temperature", "0")
        page.fill("#max_tokens", "20")
        page.fill("#system", "Be brief.")
        if not wide:
            page.keyboard.press("Escape")
            expect(page.locator("#settings")).to_be_hidden()

        first = say(page, "hello <img src=x onerror=alert(1)> <b>there</b>")
        asked = page.locator(".user .text").first
        assert asked.text_content() == "hello <img src=x onerror=alert(1)> <b>there</b>"
        assert page.locator("#talk img, #talk b").count() == 0
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": asked.text_content()},
        ]
        want = "".join(llm.chat(messages, temperature=0, max_tokens=20))
        assert first.locator(".text").text_content() == want

        token = first.locator(".token").first
        token.hover()
        ids = encode_chat(llm.tokenizer, messages)
        p_V = softmax(llm.logits(ids)[-1].astype(np.float64))
        shown = page.locator("#tip .chosen span").first.text_content()
        assert float(shown.removesuffix("%")) == pytest.approx(100 * p_V.max(), abs=0.06)
        assert page.locator("#tip .row").count() == 5
        first.locator(".text").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(first.locator(".token.here")).to_have_count(1)
        expect(page.locator("#tip")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#tip")).to_be_hidden()

        site.pause = 0.05
        page.fill("#say", "more")
        page.keyboard.press("Enter")
        second = page.locator(".assistant").nth(1)
        second.locator(".token").nth(2).wait_for()
        page.click("#stop")
        expect(second.locator(".cost")).to_have_text("stopped")
        site.pause = 0.0
        end = time.monotonic() + 20
        while site.engine.running:
            assert time.monotonic() < end
            time.sleep(0.01)
        stopped = second.locator(".text").text_content()
        assert page.get_by_role("button", name="Regenerate").count() == 1
        page.get_by_role("button", name="Regenerate").click()
        expect(page.locator(".assistant").nth(1).locator(".cost")).to_contain_text("20 tokens")
        assert page.locator(".assistant").nth(1).locator(".text").text_content().startswith(stopped)

        text = "<think>\nhm, so\n</think>\n\nWell, yes."
        site.script += [*llm.tokenizer.encode(text, add_special=False), llm.tokenizer.eos_id]
        if not wide:
            page.click("#open-settings")
        page.fill("#max_tokens", "60")
        if not wide:
            page.click("#close-settings")
        third = say(page, "and now think")
        assert third.locator(".text").text_content() == "Well, yes."
        expect(third.locator("details")).not_to_have_attribute("open", "")
        third.locator("summary").click()
        assert third.locator("details div").text_content() == "hm, so"
        assert_clean(page)
        if not wide:
            page.click("#open-settings")
        with page.expect_download() as download:
            page.click("#export-json")
        saved = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
        assert [message["role"] for message in saved["messages"]] == ["system", *["user", "assistant"] * 3]
        assert saved["messages"][2]["content"] == want
        with page.expect_download() as download:
            page.click("#export-markdown")
        assert "> hm, so" in Path(download.value.path()).read_text(encoding="utf-8")

        page.reload()
        expect(page.locator(".assistant")).to_have_count(3)
        assert page.locator(".assistant .text").first.text_content() == want
        page.click("#new")
        expect(page.locator(".turn")).to_have_count(0)
        expect(page.locator("#welcome")).to_be_visible()


def test_a_conversation_by_keyboard_alone(llm, open_page, monkeypatch):
    with site_of(llm, monkeypatch) as site:
        page = open_page(site.url)
        expect(page.locator("#say")).to_be_focused()
        page.keyboard.type("one line")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("and another")
        site.pause = 0.05
        page.keyboard.press("Enter")
        answer = page.locator(".assistant")
        answer.locator(".token").nth(1).wait_for()
        page.keyboard.press("Escape")
        expect(answer.locator(".cost")).to_have_text("stopped")
        site.pause = 0.0
        assert page.locator(".user .text").text_content() == "one line\nand another"
        reached = set()
        for _ in range(12):
            page.keyboard.press("Shift+Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert {"talk", "Edit", "Copy", "Regenerate", "new", "open-settings"} <= reached
        page.get_by_role("button", name="Edit").press("Enter")
        expect(page.locator("#say")).to_be_focused()
        assert page.locator("#say").input_value() == "one line\nand another"
        assert page.locator(".turn").count() == 0


def test_a_key_is_asked_for(llm, open_page, monkeypatch):
    with site_of(llm, monkeypatch, key="secret") as site:
        page = open_page(site.url)
        expect(page.locator("#key")).to_be_focused()
        assert_clean(page)
        page.fill("#key", "secret")
        page.keyboard.press("Tab")
        expect(page.locator("#model")).to_contain_text("tiny")
        page.fill("#max_tokens", "3")
        assert "tokens" in say(page, "hello").locator(".cost").text_content()


def test_what_goes_wrong_is_told(llm, open_page, monkeypatch):
    """A prompt that is too long; then a server that is gone."""
    with site_of(llm, monkeypatch) as site:
        page = open_page(site.url)
        answer = say(page, "word " * 600)
        assert re.search(r"\d+ tokens and the context holds 512", answer.locator(".cost").text_content())
        assert_clean(page)
        page.click("#new")
    assert "cannot be reached" in say(page, "hello").locator(".cost").text_content()

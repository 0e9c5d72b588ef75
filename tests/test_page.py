"""The page of a run in a real browser, Debian's chromium: what it shows and does, and what axe says of it."""

import json
import re

import numpy as np
import pytest
from browser import MARKS, assert_axe_finds_nothing
from conftest import real_model
from make_tiny_model import FAMILIES, make
from same_model import LONG, SHORT
from test_explain import HOSTILE

import llmcore
from llmcore.chat import encode_chat
from llmcore.glass.page import write_page
from llmcore.glass.page.scenes import wanted
from llmcore.glass.recording import record
from llmcore.loader import read_gguf

pytestmark = MARKS
LOOKS = [(1280, "light"), (390, "dark"), (1280, "dark"), (390, "light")]
NO_WORDS = re.compile(r"\b(NaN|undefined|null|Infinity)\b|\[object")
SMOLLM2, GEMMA3 = "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"


@pytest.fixture
def open_page(browser):
    """Opens pages and sees to it that none of them asks for anything, or complains."""
    opened = []

    def open_one(path, width=1280, scheme="light", fragment=""):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page, requests, errors = context.new_page(), [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.goto(path.as_uri() + fragment)
        opened.append((context, requests, errors))
        return page

    yield open_one
    for context, requests, errors in opened:
        context.close()
        assert errors == []
        assert len(requests) == 1


def written(llm, path, ids, language="en", max_tokens=4, chat=False, **sampling):
    """A page, and its run."""
    options = {"max_tokens": max_tokens, "seed": 1, "sampling": llm.sampling(**sampling), "chat": chat}
    run = record(llm, read_gguf(llm.weights.token_embd.path), ids, wanted(), **options)
    write_page(run, path, language)
    return run


@pytest.fixture(scope="module")
def france(tmp_path_factory):
    llm = real_model(SMOLLM2)
    path = tmp_path_factory.mktemp("page") / "france.html"
    return path, written(llm, path, llm.encode_prompt("The capital of France is"))


def tiny(tmp_path, family="llama", ids=SHORT[:9], language="en", options=(), **sampling):
    path = tmp_path / f"{family}.gguf"
    make(family, path, **dict(options))
    out = tmp_path / f"{family}.html"
    return out, written(llmcore.load(path), out, ids.tolist(), language, **sampling)


def settled(page):
    """All texts of a page whose details are open, or what is wrong with it."""
    assert page.evaluate("document.documentElement.dataset.checks") == "ok", checks(page)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.wait_for_timeout(50)  # some are filled when they open
    text = page.evaluate("document.body.innerText")
    assert not NO_WORDS.search(text), text[max(0, NO_WORDS.search(text).start() - 60) :][:120]
    return text


def checks(page):
    return json.loads(page.locator("#summary").text_content())["checks"]


def follow(page, position):
    page.locator("#ribbon button").nth(position).click()


def wide(page):
    return page.evaluate("document.documentElement.scrollWidth"), page.viewport_size["width"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_page_that_holds(family, tmp_path, open_page):
    path, run = tiny(tmp_path, family, language=["en", "pl"][len(family) % 2])
    page = open_page(path, *LOOKS[sum(map(ord, family)) % 4])
    settled(page)
    assert all(checks(page).values())
    assert len(checks(page)) >= 4
    for position in range(len(run.rows)):
        page.keyboard.press("ArrowRight" if position else "Home")
        assert not NO_WORDS.search(page.evaluate("document.body.innerText"))
    scroll, width = wide(page)
    assert scroll == width


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
@pytest.mark.parametrize("name", ["france", "polish", "chat", "gemma", "long"])
def test_axe_finds_nothing_and_nothing_is_too_wide(width, scheme, name, tmp_path, open_page, france):
    path, out = france[0], tmp_path / "page.html"
    llm = real_model(GEMMA3 if name == "gemma" else SMOLLM2)
    if name == "polish":
        written(llm, out, llm.encode_prompt("Rome is the capital of Italy. Paris is the capital of"), "pl")
    elif name == "chat":
        ids = encode_chat(llm.tokenizer, [{"role": "user", "content": "What is the capital of Poland?"}])
        written(llm, out, ids, chat=True, temperature=0)
    elif name == "gemma":
        written(llm, out, llm.encode_prompt("The capital of France is"))
    elif name == "long":
        written(llm, out, llm.encode_prompt(("one two three four five. " * 30).strip()))
    page = open_page(path if name == "france" else out, width, scheme)
    settled(page)
    page.wait_for_timeout(200)
    assert wide(page) == (width, width)
    assert_axe_finds_nothing(page)


def test_numbers_shown_and_held_are_those_of_the_engine(france, open_page):
    path, run = france
    page = open_page(path)
    for step, logits_V in enumerate(run.logits):
        held = page.evaluate(f"[...arr(DATA.run.candidates[DATA.run.steps.indexOf({step})].logits)]")
        np.testing.assert_array_equal(np.float32(held), np.sort(logits_V)[::-1][: len(held)])
        follow(page, run.n_prompt - 1 + step)
        shown = page.locator("#scores tbody tr td:nth-child(2)").all_text_contents()[:10]
        assert shown == [f"{logit:.3f}" for logit in np.sort(logits_V)[::-1][:10]]
        p_V = np.exp(logits_V.astype(np.float64) - logits_V.max())
        first = page.locator("#scores tbody tr td:nth-child(4)").first.text_content()
        assert first == f"{100 * (p_V / p_V.sum()).max():.0f}%"
    summary = json.loads(page.locator("#summary").text_content())
    assert summary["prompt_ids"] == run.ids[: run.n_prompt]
    assert summary["lens"][-1] == int(run.logits[0].argmax())


def test_one_cursor_moves_everything(france, open_page):
    page = open_page(france[0])
    assert page.locator('#ribbon [aria-pressed="true"]').text_content() == "·is"
    assert page.locator("#start .sofar .next").text_content() == "·Paris"
    page.keyboard.press("ArrowLeft")
    assert page.locator('#ribbon [aria-pressed="true"]').text_content() == "·France"
    assert "t=3" in page.evaluate("location.hash")
    assert page.locator("#start .sofar .on").text_content() == "·France"
    assert page.locator("#token h3 .chip").first.text_content() == "·France"
    follow(page, 5)
    assert page.locator("#again .pills [aria-pressed=true]").text_content() == "then ·Paris"
    page.locator("#again .pills button").first.click()
    assert "t=4" in page.evaluate("location.hash")
    assert page.locator('#ribbon [aria-pressed="true"]').text_content() == "·is"


def test_the_fragment_brings_the_reader_back(france, open_page):
    page = open_page(france[0], fragment="#t=2&layer=7&head=3&rather=0")
    assert page.locator('#ribbon [aria-pressed="true"]').text_content() == "·of"
    assert page.evaluate("[state.layer, state.head, state.rather]") == [7, 3, False]
    page.evaluate("location.hash = '#t=1&layer=2&head=1&rather=1'")
    page.wait_for_timeout(50)
    assert page.evaluate("[state.t, state.layer, state.head, state.rather]") == [1, 2, 1, True]
    page = open_page(france[0], fragment="#t=99999&layer=999999&head=999999")
    settled(page)
    page = open_page(france[0], fragment="#t=99999&layer=<b>&head=-4")
    assert page.locator('#ribbon [aria-pressed="true"]').text_content() == "·is"


def test_sliders_and_draws(france, open_page):
    path, run = france
    page = open_page(path)
    assert page.locator("#choice .funnel strong").last.text_content() == "2"
    sliders = page.locator("#choice input[type=range]")
    sliders.nth(3).fill("0")
    sliders.nth(2).fill("1")
    assert page.locator("#choice .funnel strong").last.text_content() == "40"
    sliders.nth(1).focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#choice .funnel strong").last.text_content() == "39"
    assert page.evaluate("state.t") == run.n_prompt - 1
    page.get_by_text("draw 100 times").click()
    counts = page.locator("#choice .say").text_content()
    assert sum(int(n) for n in re.findall("(\\d+)\u00d7", counts)) <= 100
    sliders.nth(0).fill("0")
    assert page.locator("#choice .funnel strong").last.text_content() == "1"
    page.get_by_text("as it was in the run").click()
    assert page.locator("#choice .funnel strong").last.text_content() == "2"
    assert page.locator("#choice .needle").text_content() == "0.5118 ▲"


def test_a_weights_own_bits_light_up(france, open_page):
    page = open_page(france[0])
    page.locator("#weight .cells .cell").nth(17).click()
    lit = page.locator("#weight .bits i.lit")
    assert lit.count() == 4 + 16 + 16
    assert page.locator("#weight .formula").first.text_content().startswith("weight 17 = ")
    page.keyboard.press("ArrowRight")
    assert page.locator("#weight .formula").first.text_content().startswith("weight 18 = ")


def test_the_game_counts(france, open_page):
    page = open_page(france[0])
    best = page.evaluate("DATA.game.rounds[0].best")
    at = page.evaluate("DATA.game.rounds[0].ids").index(best)
    page.locator("#game .pills button").nth(at).click()
    assert "You agree" in page.locator("#game").inner_text()
    assert "agreed 1 of 1" in page.locator("#game").inner_text()


def test_words_are_explained_by_keyboard_and_by_mouse(france, open_page):
    page = open_page(france[0])
    word = page.locator("#file .term").first
    word.hover()
    assert page.locator("#tip").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    page.locator("#weight .term").first.focus()
    assert len(page.locator("#tip").text_content()) > 20


def test_colours_and_width_may_change_while_it_is_read(france, open_page):
    """Then every picture and text is what it would be in a page opened so."""

    def seen(page):
        page.mouse.move(1, 500)
        page.wait_for_timeout(400)
        pictures = "[...document.querySelectorAll('canvas')].map((one) => one.toDataURL())"
        return page.evaluate(f"[document.body.innerText, ...{pictures}]")

    changed = open_page(france[0])
    changed.locator("#scheme").click()
    assert seen(changed) == seen(open_page(france[0], scheme="dark"))
    changed = open_page(france[0])
    changed.set_viewport_size({"width": 390, "height": 900})
    assert seen(changed)[0] == seen(open_page(france[0], 390))[0]


def test_it_prints_and_says_what_it_says_without_a_mouse(france, open_page):
    page = open_page(france[0])
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert not page.locator("#bar").is_visible()
    assert page.locator("#file table").first.is_visible()
    labels = page.evaluate(
        "[...document.querySelectorAll('canvas')].map((one) => one.getAttribute('aria-label'))"
    )
    assert all(labels)


def test_text_of_strangers_is_shown_as_text(open_page, tmp_path):
    llm = real_model(SMOLLM2)
    out = tmp_path / "page.html"
    run = written(llm, out, llm.encode_prompt(HOSTILE))
    page = open_page(out)
    text = settled(page)
    assert not re.search("[\x00\u202e\u2028]", text)
    assert page.locator("script").count() == 4
    assert page.locator("#ribbon").inner_text().replace("\n", "").startswith("</script><script>")
    assert run.same


def test_a_prompt_of_many_tokens_says_what_was_left_out(open_page, tmp_path):
    path, run = tiny(tmp_path, ids=LONG[:300])
    page = open_page(path, 390, "dark")
    settled(page)
    assert "Your prompt has 300 tokens" in page.locator("#start .cap").text_content()
    assert page.locator("#ribbon .between").text_content() == "… 236 tokens …"
    assert page.locator("#ribbon button").count() == len(run.rows)
    scroll, width = wide(page)
    assert scroll == width

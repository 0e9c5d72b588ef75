"""The scenes of the layers in a real browser: numbers shown are those of the run."""

import numpy as np
import pytest
from browser import MARKS, assert_axe_finds_nothing
from conftest import real_model
from same_model import LONG, SHORT
from test_page import SMOLLM2, checks, open_page, settled, tiny, wide, written

from llmcore.glass.page import told

pytestmark = MARKS
__all__ = ["open_page"]  # a fixture
PROMPT = "Rome is the capital of Italy. Paris is the capital of"
SCENES = {  # family: which scenes of the layers its page has
    "llama": {"attention", "ffn"},
    "lfm2": {"attention", "shortconv", "ffn"},
    "qwen35": {"attention", "memory", "ffn"},
    "qwen3next": {"attention", "memory", "ffn", "experts"},
    "deepseek2": {"attention", "latent", "ffn", "experts"},
    "kimi-linear": {"attention", "latent", "memory", "ffn", "experts"},
    "mamba": {"memory"},
    "mamba2": {"memory"},
    "rwkv7": {"memory", "ffn"},
    "falcon-h1": {"attention", "memory", "ffn"},
    "nemotron_h": {"attention", "memory", "ffn"},
    "gemma4": {"attention", "ffn"},
    "gpt-oss": {"attention", "experts"},
    "gpt2": {"attention", "ffn"},
    "command-r": {"attention", "ffn"},
}
KINDS = {"attention", "latent", "shortconv", "memory", "ffn", "experts"}


@pytest.fixture(scope="module")
def rome(tmp_path_factory):
    llm = real_model(SMOLLM2)
    path = tmp_path_factory.mktemp("scenes") / "rome.html"
    return path, written(llm, path, llm.encode_prompt(PROMPT), temperature=0)


def follow(page, position):
    page.locator("#ribbon button").nth(position).click()


def state(page):
    return page.evaluate("({...state})")


def percent(p):
    """As the page writes a share."""
    x = 100 * p
    return f"{x:.0f}%" if x == 0 or x >= 9.95 else "<0.1%" if x < 0.05 else f"{x:.1f}%"


@pytest.mark.parametrize("family", SCENES)
def test_a_model_has_the_scenes_of_its_layers(family, tmp_path, open_page):
    path, run = tiny(tmp_path, family, SHORT[:14])
    page = open_page(path, 390, ["dark", "light"][len(family) % 2])
    settled(page)
    assert {name for name in KINDS if page.locator(f"#{name}").count()} == SCENES[family]
    for layer in range(len(run.llm.config.layers)):
        page.evaluate(f"go({{layer: {layer}, head: 99, t: {3 * layer}}})")
        settled(page)
    assert wide(page) == (390, 390)
    assert_axe_finds_nothing(page)


@pytest.mark.parametrize("family", ["llama", "qwen35", "mamba", "lfm2", "kimi-linear", "gemma4"])
def test_a_long_prompt_has_them_too(family, tmp_path, open_page):
    path, _ = tiny(tmp_path, family, LONG[:120], language="pl")
    page = open_page(path, 390, "light")
    settled(page)
    for name in ("votes", "lens", "layer", *SCENES[family]):
        assert page.locator(f"#{name}").count() == 1
    follow(page, 1)
    settled(page)
    assert wide(page) == (390, 390)


def test_the_page_recomputes_what_it_claims(rome, open_page):
    page = open_page(rome[0])
    settled(page)
    assert {
        *("rows_sum_to_1", "scores_give_shares", "shares_times_values", "gate_times_up"),
        *("lens_ends_in_scores", "votes_sum", "votes_score", "heads_sum"),
    } <= {name for name, ok in checks(page).items() if ok}


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        ("arr(DATA.attention.layers[3].shares)[40] += 0.01", "rows_sum_to_1"),
        ("arr(DATA.attention.single[0].query)[5] += 1", "scores_give_shares"),
        ("arr(DATA.attention.single[0].found)[2] += 0.1", "shares_times_values"),
        ("arr(DATA.votes.pieces)[100] += 0.1", "votes_sum"),
        ("arr(DATA.votes.logits)[3] += 0.1", "votes_score"),
        ("arr(DATA.votes.heads[5])[4] += 0.1", "heads_sum"),
        ("arr(DATA.lens.last)[1] += 0.1", "lens_ends_in_scores"),
        ("arr(DATA.ffn.layers[2].up)[0] += 0.1", "gate_times_up"),
    ],
)
def test_a_number_that_is_wrong_is_found_out(spoil, name, rome, open_page):
    page = open_page(rome[0])
    settled(page)
    page.evaluate(f"{{ {spoil}; }}")
    scene = {"rows": "attention", "scores": "attention", "shares": "attention", "votes": "votes"}
    scene |= {"heads": "votes", "lens": "lens", "gate": "ffn"}
    found = page.evaluate(f"SCENES.{scene[name.split('_')[0]]}.checks(DATA)")
    assert [one["ok"] for one in found if one["name"] == name] == [False]


def test_scores_shown_are_the_engines_and_votes_sum_to_them(rome, open_page):
    path, run = rome
    page = open_page(path)
    for row, step in run.step_rows.items():
        follow(page, row)
        target, other = told.targets(run)[row]
        logits_V = run.logits[step]
        notice = page.locator("#votes .notice")
        assert f"the difference of the two scores is {logits_V[target] - logits_V[other]:.3f}." in " ".join(
            notice.inner_text().split()
        )
        page.locator("#votes .pills button").first.click()
        assert f"the score is {logits_V[target]:.3f}." in " ".join(notice.inner_text().split())
        page.locator("#votes .pills button").last.click()


def test_shares_shown_are_the_engines(rome, open_page):
    path, run = rome
    page = open_page(path)
    for layer, head, row in ((0, 0, 3), (23, 4, 11), (12, 8, 13)):
        page.evaluate(f"go({{layer: {layer}, head: {head}, t: {row}}})")
        shares_C = np.rint(run.kept["kq_soft_max", layer][head, row] * 65535) / 65535
        want = [percent(share) for share in np.sort(shares_C)[::-1][:5] if share > 0]
        assert page.locator("#attention .bars .figure").all_text_contents() == want[: row + 1]
        assert page.locator("#attention h3").first.text_content() == f"Layer {layer}, head {head}"


def test_what_is_open_stays_open_and_follows(rome, open_page):
    page = open_page(rome[0])
    for scene in ("layer", "attention", "ffn", "lens", "votes"):
        page.locator(f"#{scene} .body summary").first.click()
    before = page.locator("#votes details table").first.inner_text()
    page.locator("#ribbon button").nth(13).click()
    for scene in ("layer", "attention", "ffn", "lens", "votes"):
        assert page.locator(f"#{scene} .body details").first.get_attribute("open") is not None
    assert page.locator("#votes details table").first.inner_text() != before
    settled(page)


def test_layers_and_heads_are_chosen_by_slider_tap_and_search(rome, open_page):
    page = open_page(rome[0])
    assert [state(page)[key] for key in ("layer", "head")] == [23, 4]  # the head that carries Paris to France
    slider = page.locator("#layer input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert state(page)["layer"] == 22
    assert page.locator("#attention h3").first.text_content() == "Layer 22, head 4"
    assert page.locator("#votes output").first.text_content() == "22"
    page.locator("#attention input[type=range]").nth(1).fill("7")
    assert state(page)["head"] == 7
    box = page.locator("#attention canvas").first.bounding_box()
    page.locator("#attention canvas").first.click(position={"x": box["width"] - 12, "y": 22})
    assert [state(page)[key] for key in ("layer", "head")] == [29, 0]
    page.get_by_role("button", name="the one with most to say").click()
    assert [state(page)[key] for key in ("layer", "head")] == [23, 4]
    page.locator("#layer svg.chart").nth(1).click(position={"x": 60, "y": 60})
    assert state(page)["layer"] == 0
    page.locator("#votes .bars button").nth(1).click()
    assert state(page)["layer"] == 29


def test_heads_that_are_found_do_what_is_said_of_them(rome, open_page):
    path, run = rome
    page = open_page(path)
    page.get_by_role("button", name="one that looks one back").click()
    layer, head = (state(page)[key] for key in ("layer", "head"))
    shares_RC = run.kept["kq_soft_max", layer][head]
    assert np.mean([shares_RC[row, row - 1] for row in range(2, len(run.rows))]) > 0.4
    page.get_by_role("button", name="one that finds what came next last time").click()
    layer, head = (state(page)[key] for key in ("layer", "head"))
    # " is the capital of": each stands twice, and what followed the first time is looked at
    shares_RC = run.kept["kq_soft_max", layer][head]
    again = [shares_RC[row, run.ids.index(run.ids[row]) + 1] for row in (8, 9, 10)]
    assert np.mean(again) > 0.3


def test_hidden_numbers_and_experts_are_pointed_at(rome, tmp_path, open_page):
    path, run = rome
    page = open_page(path)
    page.locator("#ffn canvas").hover(position={"x": 5, "y": 5})
    first = run.kept["ffn_hidden", 23][11, 0]
    scale = np.abs(run.kept["ffn_hidden", 23][11]).max() / 127
    shown = page.locator("#ffn .say").text_content()
    assert shown.startswith("Hidden number 0: ")
    assert float(shown.split(": ")[1]) == pytest.approx(float(first), abs=float(scale))
    path, run = tiny(tmp_path, "qwen3moe", SHORT[:9])
    page = open_page(path)
    marked = page.locator("#experts table.router tr.mark td:first-child").all_text_contents()
    layer = state(page)["layer"]
    row = run.n_prompt - 1
    order = np.argsort(-run.kept["ffn_moe_weights", layer][row], kind="stable")
    assert marked == [str(i) for i in run.kept["ffn_moe_topk", layer][row][order]]


def test_what_is_left_in_a_state_is_shown(tmp_path, open_page):
    path, run = tiny(tmp_path, "mamba2", SHORT[:9])
    page = open_page(path)
    row, layer = run.n_prompt - 1, state(page)["layer"]
    kept = told.memory(run).kept[layer]
    notice = " ".join(page.locator("#memory .notice").inner_text().split())
    assert f"{percent(kept.left[row][0])} is left" in notice
    assert f"keeps {percent(kept.lanes[row].mean())} of its state" in notice
    page.locator("#memory canvas").first.click(position={"x": 5, "y": 20})
    assert state(page)["layer"] == 0

"""The page on which a prompt is followed: what stands in it is what the engine computed; text stays text."""

import base64
import hashlib
import html.parser
import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from blocks import random_blocks
from conftest import real_model
from gguf import GGMLQuantizationType
from gguf import quants as gguf_quants
from make_tiny_model import FAMILIES, make
from same_model import LONG, SHORT

import llmcore
from llmcore import glass
from llmcore.formats import FORMATS
from llmcore.glass import page
from llmcore.glass.page.arrays import drawn, exact, shares, unpack, whole
from llmcore.glass.page.scenes import scenes, wanted
from llmcore.glass.page.scenes.choice import stages
from llmcore.glass.page.scenes.file import entry_bytes, key_bytes
from llmcore.glass.page.scenes.text import merges_of, words_of
from llmcore.glass.page.scenes.weight import bits_of, floats_in
from llmcore.glass.recording import BETWEEN, record, rows_of
from llmcore.loader import read_gguf
from llmcore.mixers.step import NOBODY
from llmcore.quants import dequantize
from llmcore.samplers.options import SEQUENCE, Sampling
from llmcore.sampling import Text, sample
from llmcore.speed.holding import WAYS
from llmcore.tokenizers.vocabulary import USER_DEFINED

IDS = SHORT[:9].tolist()


def run_of(path, ids=IDS, max_tokens=3, names=None, weights="float32", **sampling):
    llm = llmcore.load(path, weights=weights)
    options = {"max_tokens": max_tokens, "seed": 5, "ignore_eos": True, "sampling": llm.sampling(**sampling)}
    return record(llm, read_gguf(path), ids, wanted() if names is None else names, **options)


@pytest.fixture(scope="module", params=FAMILIES)
def run(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("explain") / "m.gguf"
    make(request.param, path)
    return run_of(path)


class Elements(html.parser.HTMLParser):
    """The elements of a page, and the text in each script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.policy, self.key = [], {}, "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        self.key = attributes.get("id", tag)
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]

    def handle_endtag(self, tag):
        self.key = None

    def handle_data(self, data):
        if self.key and self.tags[-1] in ("script", "style"):
            self.texts[self.key] = self.texts.get(self.key, "") + data


def loaded(text):
    """Data and summary of a page, as its scripts read them."""
    found = Elements(text).texts
    return json.loads(found["data"]), json.loads(found["summary"])


def test_the_page_says_what_the_engine_computed(run):
    data, summary = loaded(page.page_of(run))
    assert run.same
    assert run.llm.weights.watcher is NOBODY
    assert run.layer_seconds.shape == (run.n_new, len(run.llm.config.layers))
    assert (run.layer_seconds > 0).all()
    assert summary["prompt_ids"] == IDS
    assert [*IDS, *summary["new_ids"]] == unpack(data["run"]["ids"]).tolist() == run.ids
    whole_V = run.llm.logits(run.ids[:-1])
    for step, logits_V in enumerate(run.logits):
        row = data["run"]["steps"].index(step)
        found = data["run"]["candidates"][row]
        ids = unpack(found["ids"])
        np.testing.assert_array_equal(unpack(found["logits"]), logits_V[ids])
        assert (np.diff(logits_V[ids]) <= 0).all()
        top = summary["steps"][step]["top"]
        assert [i for i, _, _ in top] == np.argsort(-logits_V, kind="stable")[:5].tolist()
        assert [np.float32(logit) for _, logit, _ in top] == logits_V[[i for i, _, _ in top]].tolist()
        size = np.abs(whole_V).max()
        np.testing.assert_allclose(logits_V, whole_V[run.n_prompt - 1 + step], atol=1e-4 * size, rtol=0)
    assert len(summary["lens"]) == len(run.llm.config.layers)
    assert summary["lens"][-1] == summary["steps"][0]["top"][0][0]


def test_every_scene_has_texts_code_and_no_number_that_is_none(run):
    data = page.data_of(run)
    json.dumps(data, allow_nan=False)
    texts = json.loads(page.read("texts/en.json"))
    for name in scenes():
        if name in data:
            assert "title" in texts[name]
            for one in data["code"][name]:
                lines = (page.Path(page.__file__).parents[3] / one["file"]).read_text().splitlines()
                assert lines[one["line"] - 1].strip() == one["text"].splitlines()[0].strip()


def test_head_is_as_long_as_its_keys_and_its_list(run):
    file = run.file
    keys = sum(key_bytes(key, value, file.types[key]) for key, value in file.metadata.items())
    end = 24 + keys + sum(map(entry_bytes, file.tensors.values()))
    first = min(tensor.offset for tensor in file.tensors.values())
    assert -(-end // file.alignment) * file.alignment == first


def test_rows_of_a_long_prompt_are_those_of_the_whole(tmp_path):
    """Over a chunk of the engine, so that the prompt has several passes."""
    path, ids = tmp_path / "m.gguf", LONG[:560].tolist()
    make("llama", path, context=1024)
    run = run_of(path, ids, names={"l_out", "kq_soft_max", "ffn_hidden"})
    kept = glass.keep(run.llm, run.ids[:-1], ["l_out", "kq_soft_max", "ffn_hidden"])
    assert run.rows.tolist() == [0, *range(497, 562)]
    assert run.columns.tolist() == [0, BETWEEN, *range(497, 562)]
    assert run.n_between == 496
    for name in ("l_out", "ffn_hidden"):
        for layer, array in run.stack(name).items():
            np.testing.assert_allclose(array, kept[name, layer][run.rows], atol=2e-5)
    for layer, shares_NRC in run.stack("kq_soft_max").items():
        all_NTS = kept["kq_soft_max", layer][:, run.rows]
        between = all_NTS[:, :, 1:497].sum(axis=2)
        want = np.concatenate([all_NTS[:, :, :1], between[:, :, None], all_NTS[:, :, 497:]], axis=2)
        np.testing.assert_allclose(shares_NRC, want, atol=2e-6)
        np.testing.assert_allclose(shares_NRC.sum(axis=2), 1, atol=1e-5)
    data, _ = loaded(page.page_of(run_of(path, ids)))
    assert data["run"]["between"] == 496


def test_a_window_cuts_the_first_columns(tmp_path):
    make("gemma3", tmp_path / "m.gguf", window=4)
    run = run_of(tmp_path / "m.gguf", SHORT[:20].tolist(), names={"kq_soft_max"})
    kept = glass.keep(run.llm, run.ids[:-1], ["kq_soft_max"])
    for layer, shares_NRC in run.stack("kq_soft_max").items():
        np.testing.assert_allclose(shares_NRC, kept["kq_soft_max", layer], atol=2e-6)


@pytest.mark.parametrize("n_prompt", [1, 2, 65, 66, 67, 68, 600])
def test_every_token_that_was_read_has_a_row_or_is_between(n_prompt):
    rows, columns = rows_of(n_prompt, 3)
    assert rows[-1] == n_prompt + 1
    assert len(rows) <= 68
    assert (BETWEEN in columns) == (n_prompt > 66)
    assert sorted({*rows} | ({*range(1, n_prompt - 63)} if BETWEEN in columns else set())) == [
        *range(n_prompt + 2)
    ]


@pytest.mark.parametrize("weights", ["float32", "int8", "mapped"])
@pytest.mark.parametrize("length", [1, 70])
def test_pages_of_each_way_and_of_the_shortest_and_a_long_prompt(weights, length, tmp_path):
    make("llama", tmp_path / "m.gguf", type="Q8_0")
    run = run_of(tmp_path / "m.gguf", LONG[:length].tolist(), weights=weights)
    _, summary = loaded(page.page_of(run))
    assert run.same
    assert summary["new_ids"] == run.ids[length:]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0, "repeat_penalty": 1.5},
        {"temperature": 1.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"temperature": 0.01},
        {"top_k": 3},
        {"typical_p": 0.5, "xtc_probability": 0.6, "xtc_threshold": 0.05},
        {"top_n_sigma": 1.0, "dry_multiplier": 2.0, "presence_penalty": 0.5},
        {"logit_bias": {7: 4.0, 9: -np.inf}, "sequence": ("temperature", "top_k", "min_p")},
    ],
)
def test_filters_and_draws_are_those_of_the_engine(options):
    sampling, rng = Sampling(**options), np.random.default_rng(0)
    for seed in range(20):
        logits_V = rng.normal(0, 3, 300).astype(np.float32)
        so_far = rng.integers(0, 300, 12).tolist()
        taken = sample(logits_V, so_far, sampling, np.random.default_rng(seed))
        found = stages(logits_V, taken, sampling, Text(so_far, np.random.default_rng(seed)))
        assert found["left"] == sorted(found["left"], reverse=True)
        if sampling.temperature <= 0:
            assert found["number"] is None
            continue
        assert found["from"] <= found["number"] < found["to"]
        ids, p = unpack(found["ids"]), unpack(found["chances"]).astype(np.float64)
        assert len(ids) == (found["left"] or [300])[-1]
        assert p.sum() == pytest.approx(1, abs=1e-6)
        assert found["to"] - found["from"] == pytest.approx(p[ids.tolist().index(taken)], abs=1e-6)
        assert not {*found["removed"]} & {*ids.tolist()}


@pytest.mark.parametrize("file", ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf", ""])
def test_merges_end_in_the_tokens_of_the_text(file, llama_path):
    """Of byte pairs, of pieces with scores, and of a vocabulary that has little more than bytes."""
    tokenizer = real_model(file).tokenizer if file else llmcore.load(llama_path).tokenizer
    ids = tokenizer.encode("The capital of  France isn't Łódź, 12345!\n\n\tnaïve 日本 🙂 tokenization")
    words = words_of(tokenizer, ids)
    assert [i for _, word in words for i in word] == ids
    n_merged = 0
    for start, word in words:
        assert ids[start : start + len(word)] == word
        found = merges_of(tokenizer, word)
        if found["how"] == "merged":
            n_merged += 1
            assert len(found["last"]) == len(word)
            for (before, at, _), after in pairwise([*found["steps"], [found["last"], 0, 0]]):
                assert len(after[0]) == len(before) - 1
                assert after[0][:at] == before[:at]
                assert after[0][at + 1 :] == before[at + 2 :]
    assert n_merged > len(words) / 2 or not file


@pytest.mark.parametrize("kind", FORMATS)
def test_a_block_is_integers_times_scales_to_the_last_bit(kind):
    raw = random_blocks(kind, 1).reshape(-1)
    found = bits_of(raw, kind, "<")
    want = gguf_quants.dequantize(raw, GGMLQuantizationType[kind]).ravel()
    np.testing.assert_array_equal(unpack(found["values"]), want)

    def product(scales):
        unit, steps = unpack(scales["unit"]), scales["steps"]
        each = unit if steps is None else unit * unpack(steps).astype(np.float32)
        return np.repeat(each, len(want) // len(each)).astype(np.float32)

    weights = np.array(found["q"], np.float32) * product(found["scale"])
    if "offset" in found:
        weights = weights + product(found["offset"])
    np.testing.assert_array_equal(weights, want)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_bit_turned_over_changes_what_the_page_says_it_changes(kind):
    raw = random_blocks(kind, 1).reshape(-1)
    found, group = bits_of(raw, kind, "<"), FORMATS[kind].group
    before = dequantize(raw, kind)
    owners = [0] * len(before)
    for bit, roles in enumerate(found["bits"]):
        turned = raw.copy()
        turned[bit // 8] ^= 0x80 >> bit % 8
        with np.errstate(over="ignore", invalid="ignore"):
            changed = np.flatnonzero(dequantize(turned, kind).view(np.int32) != before.view(np.int32))
        told = set()
        for name, *where in roles:
            if name == "q":
                told |= {*where}
                for i in where:
                    owners[i] += 1
            else:
                groups = where or range(len(before) // group)
                told |= {i for g in groups for i in range(g * group, (g + 1) * group)}
        assert {*changed.tolist()} <= told
        if kind != "TQ1_0":  # where five weights share a byte
            assert sum(name == "q" for name, *_ in roles) == 0 or len(roles[0]) == 2
    assert min(owners) > 0


@pytest.mark.parametrize(("kind", "size"), [("F32", 4), ("F16", 2), ("BF16", 2)])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_a_float_is_its_sign_exponent_and_fraction(kind, size, byte_order):
    raw = np.random.default_rng(3).integers(0, 256, 16 * size).astype(np.uint8)
    raw.reshape(-1, size)[:, -1 if byte_order == "<" else 0] &= 0xBF  # no infinity
    values = dequantize(raw, kind, byte_order)
    for one, value in zip(floats_in(raw, kind, byte_order), values, strict=True):
        if one["exponent"]:
            exact = (-1) ** one["sign"] * 2.0 ** (one["exponent"] - one["bias"])
            assert exact * (1 + one["fraction"] / 2 ** one["width"]) == value
        assert len(one["bits"]) == 8 * size


def test_arrays_come_back_as_they_went():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(unpack(exact(x)), x)
    np.testing.assert_array_equal(unpack(whole([[1, -5], [2**31 - 1, 0]])), [[1, -5], [2**31 - 1, 0]])
    p = rng.random((2, 7))
    np.testing.assert_allclose(unpack(shares(p)), p, atol=0.5001 / 65535)
    np.testing.assert_allclose(unpack(drawn(x)), x, atol=0.5001 * np.abs(x).max() / 127)
    assert not unpack(drawn(np.zeros((2, 3)))).any()


HOSTILE = "</script><script>alert(1)</script> <!--data--> {{x}} %JS% \u202eabc \x00 \udced\udca0\udc80 "
HOSTILE += '"\\ &amp; ${1} \u2028'


def test_text_of_strangers_stays_text(tmp_path):
    """In a token, a key, a value, the name of the file, and the prompt that is made of such tokens."""
    path = tmp_path / "<img src=x> <!--data-->.gguf"
    make("llama", path)
    plain = run_of(path)
    tokenizer = plain.llm.tokenizer
    tokens = [f"{HOSTILE}{i}" if i in plain.ids else text for i, text in enumerate(tokenizer.tokens)]
    types = [USER_DEFINED if i in plain.ids else kind for i, kind in enumerate(tokenizer.types)]
    strange = replace(plain.llm, tokenizer=replace(tokenizer, tokens=tokens, types=types))
    more = {"x": HOSTILE, HOSTILE.encode("utf-8", "replace").decode(): [HOSTILE], "bytes": "\udcff\udcfe"}
    kinds = dict(zip(more, ("str", "arr[str,1]", "str"), strict=True))
    file = replace(plain.file, metadata=plain.file.metadata | more, types=plain.file.types | kinds)
    text = page.page_of(replace(plain, llm=strange, file=file))
    assert Elements(text).tags == Elements(page.page_of(plain)).tags
    assert not re.search("[\x00\u202e\u2028\ud800-\udfff]", text)
    data, _ = loaded(text)
    assert data["run"]["tokens"][str(plain.ids[1])].startswith(
        "</script><script>alert(1)</script> <!--data-->"
    )
    assert data["run"]["model"] == "<img src=x> <!--data-->"
    assert {key: value for key, _, value, _ in data["file"]["keys"]}["x"].startswith("</script>")


def test_the_policy_lets_only_the_pages_own_script_run(llama_path):
    found = Elements(page.page_of(run_of(llama_path)))
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(found.texts[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in found.policy
    assert found.policy.startswith("default-src 'none'")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", found.texts["script"])
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", found.texts["script"])


def test_languages_have_the_same_texts():
    tables = {name: json.loads(page.read(f"texts/{name}.json")) for name in page.LANGUAGES}
    assert {*tables} >= {"en", "pl"}

    def places(text):
        forms = text.values() if isinstance(text, dict) else [text]
        assert all(form and isinstance(form, str) for form in forms)
        return {place for form in forms for place in re.findall(r"\{(\w+)\}", form)}

    def terms(text):
        forms = text.values() if isinstance(text, dict) else [text]
        found = {term for form in forms for term in re.findall(r"\[\[([^\]]+)\]\]", form)}
        return {term.split("|")[-1] for term in found}

    forms = {"en": {"one", "other"}, "pl": {"one", "few", "many", "other"}}
    english = tables["en"]
    for language, table in tables.items():
        assert {name: {*part} for name, part in table.items()} == {
            name: {*part} for name, part in english.items()
        }
        for name, part in table.items():
            for key, text in part.items():
                where = f"{language} {name}.{key}"
                assert isinstance(text, dict) == isinstance(english[name][key], dict), where
                if isinstance(text, dict):
                    assert {*text} == forms.get(language, {*text}), where
                    assert "n" in places(text), where
                assert places(text) == places(english[name][key]), where
                assert terms(text) <= {*table["glossary"]}, where
    filters = {*SEQUENCE, "logit_bias", "constraint"}
    assert {f"filter_{name}" for name in filters} <= {*english["choice"]}
    assert {f"way_{way}" for way in WAYS} <= {*english["cost"]}
    assert {*english["words"]} == {*english["glossary"]}
    used = {
        key
        for name in scenes()
        for key in re.findall(r'\bt(?:\.plain)?\("(\w+)"', page.read(f"scenes/{name}.js"))
    }
    assert used <= {key for part in english.values() for key in part}


def test_the_command_writes_a_page_and_says_so(llama_path, tmp_path, capsys):
    from llmcore.__main__ import main

    out = tmp_path / "page.html"
    asked = ["--model", str(llama_path), "--prompt", "abc", "--seed", "3", "--out", str(out)]
    assert main(["explain", *asked, "--language", "pl", "--temperature", "0.5"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f"wrote {out}" in said.err
    text = out.read_text(encoding="utf-8")
    assert '<html lang="pl">' in text
    assert loaded(text)[0]["choice"]["settings"]["temperature"] == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("more", "status", "line"),
    [
        (["--max-tokens", "65"], 2, "at most 64"),
        (["--out", "/nowhere/x.html"], 1, "there is no directory /nowhere"),
        (["--temperature", "x"], 2, "temperature"),
        (["--language", "xx"], 2, "language"),
    ],
)
def test_what_makes_no_sense_is_one_line(more, status, line, llama_path, capsys):
    from llmcore.__main__ import main

    try:
        found = main(["explain", "--model", str(llama_path), "--prompt", "abc", *more])
    except SystemExit as error:
        found = error.code
    assert found == status
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("file", ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"])
def test_pages_of_real_models_are_small(file):
    llm = real_model(file)
    path = llm.weights.token_embd.path
    ids = llm.encode_prompt("The capital of France is")
    options = {"max_tokens": 4, "seed": 1, "sampling": llm.sampling()}
    run = record(llm, read_gguf(path), ids, wanted(), **options)
    text = page.page_of(run)
    assert len(text) < 3e6
    _, summary = loaded(text)
    assert summary["steps"][0]["top"][0][0] == int(llm.logits(ids)[-1].argmax())

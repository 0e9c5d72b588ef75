"""What the README says is held against the code, so that it cannot rot."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT, real_model

from llmcore.cli.options import generate_parser
from llmcore.families import ARCHITECTURES
from llmcore.quants import SUPPORTED
from llmcore.speed.holding import WAYS

README = (ROOT / "README.md").read_text(encoding="utf-8")
SINGLE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*SINGLE, *ROOT.glob("scripts/**/README.md")]


def section(title):
    return re.search(rf"^##+ {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)[1]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def rows(text, heading):
    """The first cells of a table, by the heading of its first column."""
    table = re.search(
        rf"^\| {re.escape(heading)} \|.*?\n\|[- |]+\n(.*?)(?=^[^|]|\Z)", text, re.MULTILINE | re.DOTALL
    )
    return [line.split("|")[1].strip() for line in table[1].splitlines() if line.startswith("|")]


def quoted(cells):
    return re.findall(r"`([^`]+)`", " ".join(cells))


def test_it_can_be_read_at_one_sitting():
    assert README.count("\n") <= 200


def test_two_commands_of_one_line_do_all_the_set_up():
    for title in ("Run a model", "Run the tests"):
        (block,) = blocks(section(title), "sh")
        assert block.count("\n") == 1


def test_the_python_block_runs(capsys):
    real_model("SmolLM2-135M-Instruct.Q4_1.gguf")
    (block,) = blocks(section("Use it from Python"), "python")
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(", the city of Nova Haven")


def test_the_options_are_those_of_the_command():
    named = {
        word.split()[0] for word in quoted(rows(section("Run a model"), "option")) if word.startswith("--")
    }
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", generate_parser().format_help()))
    assert named | {"--help", "--model", "--batch"} == flags


def test_the_ways_to_hold_weights_are_those_of_the_code():
    assert quoted(rows(section("Run a model"), "`--weights`")) == list(WAYS)


def test_the_architectures_are_those_of_the_table():
    assert sorted(quoted(rows(section("What is supported"), "architecture"))) == sorted(ARCHITECTURES)


def test_the_tensor_types_are_those_of_the_code():
    (line,) = (line for line in README.splitlines() if line.startswith("| tensor types |"))
    assert sorted(re.findall(r"\b(?:I?Q\d\w*|TQ\d_\d|B?F\d+|MXFP4|NVFP4)\b", line)) == sorted(SUPPORTED)


def test_every_room_of_the_book_is_in_the_list():
    named = {name for name in quoted(rows(section("Read the code"), "room")) if name.endswith(".py")}
    book = {path.name for path in (ROOT / "llmcore").glob("*.py")} - {"__init__.py", "__main__.py"}
    mixers = {path.name for path in (ROOT / "llmcore/mixers").glob("*.py")} - {"__init__.py"}
    assert book <= named
    assert mixers <= set(quoted([section("Read the code")]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), target
        headings = (
            re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        )
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, target

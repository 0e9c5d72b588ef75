"""The shape of the house: imports point upward in the order a reader meets the rooms, and the core needs little."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "llmcore"
ORDER = [
    *("errors", "machine", "loader", "listing", "quants", "config", "linear", "holding", "weights", "splits"),
    *("tokenizer", "chat", "ops", "cache", "attention", "ffn", "model", "sampling", "drafting", "writing"),
    *("batching", "llm", "hub", "generate", "conversation"),
]
# room -> what it imports when it is needed: chat and hub say how to install it, machine does without
OPTIONAL = {"chat": {"jinja2"}, "hub": {"huggingface_hub"}, "machine": {"threadpoolctl"}}
CORE = {"numpy", "gguf", "sentencepiece", "tqdm"}
PROGRAMS = {("loader", "listing"), ("chat", "conversation")}  # `python -m llmcore.loader` starts listing


def imports(room):
    """(module, level) of every import in a room."""
    for node in ast.walk(ast.parse((PACKAGE / f"{room}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.module, node.level
        elif isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)


def test_every_room_has_its_place():
    assert sorted(ORDER) == sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("room", ORDER)
def test_imports_point_upward(room):
    for module, level in imports(room):
        if level:
            is_program = (room, module) in PROGRAMS
            assert is_program or module in ORDER[: ORDER.index(room)], f"{room} imports {module}, which stands below it"


@pytest.mark.parametrize("room", ORDER)
def test_nothing_but_the_core_dependencies(room):
    for module, level in imports(room):
        top = module.split(".")[0]
        known = CORE | sys.stdlib_module_names | OPTIONAL.get(room, set())
        assert level or top in known, f"{room} imports {module}"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_project_declares_just_the_core_dependencies():
    import tomllib

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert {name.split(">")[0] for name in project["dependencies"]} == CORE

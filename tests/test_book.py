"""The shape of the house: a book that is read from top to bottom, and wings around it.

The book is the files directly in `llmcore/`, and of `formats/`, `tokenizers/`, `mixers/` and `ffn/` those
that the model at hand needs. It imports no wing, but for its two doors. Imports point upward in one order, so
there is no circle.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "llmcore"
ORDER = """
    errors threads metadata
    formats/mistaken formats/cursor formats/foreign formats formats/simple formats/k formats/other
    loader quants
    tokenizers tokenizers/splits tokenizers/vocabulary tokenizers/bytepairs tokenizers/sentencepiece
    tokenizers/streaming tokenizers/special tokenizer
    ops linear mixers mixers/rope mixers/state cache mixers/step
    mixers/keys mixers/heads mixers/attend mixers/attention mixers/latent
    mixers/conv mixers/shortconv mixers/delta_rule mixers/deltanet mixers/kda
    mixers/duality mixers/mamba mixers/mamba2 mixers/side_by_side mixers/rwkv7
    ffn/activations ffn/dense ffn ffn/experts ffn/beside ffn/per_layer
    families config tensors weights model
    samplers/options sampling samplers/dry samplers/logit_bias samplers/penalties
    samplers/top_n_sigma samplers/typ_p samplers/xtc samplers/after_thought samplers/schemas
    samplers/constraint samplers/of_file samplers writing
    speed/team speed/machine speed/mapped speed/int8 speed/panels speed/holding speed/filling
    speed/cache_file speed/drafting speed/batching
    chat/messages chat/template chat/literals chat/tools chat/arguments chat/calls chat/tags chat/formats
    chat/reasoning chat/required chat/prompt chat/answer chat
    glass/watching glass/keeping glass/stream glass/lens glass/votes glass/changing glass llm chat/session
    cli/interrupt cli/options cli/report cli/command cli/inspect cli/hub cli/get cli/batch
    cli/chat
    cli/allowed cli/calculator cli/toolbox cli/steps cli/servers cli/agent
    serve/rendering
    serve/metrics serve/prefixes serve/texts serve/engine serve/answers serve/checks serve/requests
    serve/replies serve/guard serve/jobs serve/embeddings serve/app serve/listening serve/command
    cli/records cli/choices cli/lines cli/journal cli/fleet cli/jobs
    chat/__main__ generate cli/lens
    glass/memory glass/recording glass/page/arrays glass/page/source glass/page/run
    glass/page/scenes/game glass/page/scenes/start glass/page/scenes/file glass/page/scenes/weight
    glass/page/scenes/text glass/page/scenes/token
    glass/page/told glass/page/scenes/layer glass/page/scenes/attention glass/page/scenes/latent
    glass/page/scenes/shortconv glass/page/scenes/memory glass/page/scenes/ffn glass/page/scenes/experts
    glass/page/scenes/lens glass/page/scenes/votes
    glass/page/scenes/scores glass/page/scenes/choice glass/page/scenes/again glass/page/scenes/cost
    glass/page/scenes/proof
    glass/page/scenes glass/page cli/explain __main__
""".split()  # noqa: SIM905
WINGS = {"speed", "chat", "cli", "glass", "serve"}
# Which wings they import; __main__ only what ends a command that is still being imported.
DOORS = {"llm": {"speed", "chat", "glass"}, "generate": {"cli", "chat"}, "__main__": {"cli"}}
# room -> what it imports when it is needed: they say how to install it, or do without
OPTIONAL = {"chat/template": {"jinja2"}, "cli/hub": {"huggingface_hub"}, "speed/machine": {"threadpoolctl"}}
OPTIONAL |= {"cli/records": {"pyarrow"}, "cli/fleet": {"ray"}}
OPTIONAL |= {f"serve/{room}": {"starlette"} for room in ("guard", "embeddings", "app")}
OPTIONAL |= {
    "serve/listening": {"uvicorn"},
    "serve/command": {"starlette", "uvicorn"},
    "serve/rendering": {"jinja2"},
}
OPTIONAL |= {"samplers/constraint": {"llguidance"}}
OPTIONAL |= {"cli/servers": {"mcp"}}
CORE = {"numpy", "gguf", "sentencepiece", "tqdm"}
# What is imported only once it is needed, against the order: a command, and the kinds that a folder chooses
# from.
LATER = {
    ("loader", "cli/inspect"),
    ("loader", "cli/interrupt"),
    ("cli/command", "cli/get"),
    ("cli/options", "cli/batch"),
}
LATER |= {("chat/prompt", "chat/tools")}
LATER |= {("ffn", f"ffn/{kind}") for kind in ("experts", "beside", "per_layer")}
BOOK_LINES = 2700


def path_of(room):
    return PACKAGE / room / "__init__.py" if (PACKAGE / room).is_dir() else PACKAGE / f"{room}.py"


def lines_of(paths):
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def rooms():
    found = [path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")]
    return {room.removesuffix("/__init__") for room in found} - {"__init__", "cli", "speed", "serve"}


def imports(room):
    """The rooms and packages that a room imports, ("room", name) or ("package", name)."""
    folder = path_of(room).relative_to(PACKAGE).parent
    for node in ast.walk(ast.parse(path_of(room).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (("package", alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield "package", node.module.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = [folder, *folder.parents][node.level - 1]
            module = (base / (node.module or "").replace(".", "/")).as_posix()
            within = [f"{module}/{alias.name}".removeprefix("./") for alias in node.names]
            inner = [name for name in within if name in ORDER]
            yield from (("room", name) for name in inner or [module])


def test_every_room_has_its_place():
    assert rooms() == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_imports_point_upward(room):
    above = ORDER[: ORDER.index(room)]
    for kind, name in imports(room):
        if kind == "room" and (room, name) not in LATER:
            assert name in above, f"{room} imports {name}, which stands below it"


@pytest.mark.parametrize("room", [room for room in ORDER if room.split("/")[0] not in WINGS])
def test_the_book_imports_no_wing(room):
    wings = {
        name.split("/")[0] for kind, name in imports(room) if kind == "room" and (room, name) not in LATER
    }
    assert wings & WINGS <= DOORS.get(room, set())


@pytest.mark.parametrize("room", ORDER)
def test_nothing_but_the_core_dependencies(room):
    for kind, name in imports(room):
        known = CORE | sys.stdlib_module_names | OPTIONAL.get(room, set())
        assert kind == "room" or name in known, f"{room} imports {name}"


def test_the_sandboxed_child_imports_little():
    """The process that renders a template imports chat/__init__, which may import the template and the
    prompt.
    """
    code = "import sys, llmcore.chat.template; print([m for m in sys.modules if m.startswith('llmcore')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, check=True)
    assert set(ast.literal_eval(done.stdout.decode())) <= {
        *("llmcore", "llmcore.errors", "llmcore.chat", "llmcore.chat.template", "llmcore.chat.messages"),
    }


RUN = """
import sys
from llmcore import generate
status = generate.main(sys.argv[1:])
print("\\n".join(m.__spec__.origin for name, m in sys.modules.items() if name.split(".")[0] == "llmcore"))
sys.exit(status)
"""


def test_a_plain_run_loads_the_book_and_what_its_doors_need(llama_path):
    arguments = ["--model", str(llama_path), "--prompt", "a", "--max-tokens", "2", "--weights", "float32"]
    command = [sys.executable, "-c", RUN, *arguments, "--quiet"]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    loaded = {Path(line) for line in done.stdout.splitlines() if line.startswith(str(PACKAGE))}
    names = {path.relative_to(PACKAGE).as_posix() for path in loaded}
    wings = {name for name in names if name.split("/")[0] in WINGS}
    allowed = {
        "speed/__init__.py",
        "speed/holding.py",
        "speed/filling.py",
        *("speed/machine.py", "speed/team.py", "speed/panels.py"),
        "cli/__init__.py",
    }
    assert wings <= allowed | {"cli/interrupt.py", "cli/options.py", "cli/command.py", "cli/report.py"}
    assert {name for name in names if "/" in name} - wings == {
        *("formats/__init__.py", "formats/cursor.py", "formats/mistaken.py", "formats/foreign.py"),
        *("tokenizers/__init__.py", "tokenizers/vocabulary.py"),
        "tokenizers/streaming.py",
        "tokenizers/special.py",
        *("samplers/__init__.py", "samplers/options.py"),
        *("tokenizers/sentencepiece.py", "mixers/__init__.py", "mixers/rope.py"),
        *("mixers/state.py", "mixers/step.py", "mixers/heads.py"),
        *("mixers/keys.py", "mixers/attend.py", "mixers/attention.py"),
        *("ffn/__init__.py", "ffn/activations.py", "ffn/dense.py"),
    }


def test_the_book_can_be_read_in_an_evening():
    mixers = [PACKAGE / "mixers/__init__.py", PACKAGE / "mixers/attention.py"]
    assert lines_of([*PACKAGE.glob("*.py"), *mixers]) <= BOOK_LINES


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_project_declares_just_the_core_dependencies():
    import tomllib

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert {name.split(">")[0] for name in project["dependencies"]} == CORE

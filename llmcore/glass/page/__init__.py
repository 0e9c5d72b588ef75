"""The page: one HTML file that carries all it shows, and asks nobody for anything.

shell/page.html has places, <!--NAME-->, that are filled in one pass: what fills one is not looked at again.
Scripts are plain JavaScript, joined here; a scene's script is a function of its own (see scenes/). Strangers'
text (prompt, tokens, metadata) stands in the data alone, as JSON in which nothing can end the script, and the
scripts make text nodes of it. The policy in the page's head lets no other script run, and nothing be loaded.
"""

import base64
import hashlib
import json
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..recording import Run
from .run import summary_of, what_all_need
from .scenes import SCENES, scenes
from .source import lines_of

LANGUAGES = tuple(sorted(path.name[:-5] for path in (files(__name__) / "texts").iterdir()))
SCRIPTS = ("arrays.js", "dom.js", "texts.js", "draw.js", "state.js", "charts.js", "shell.js")


def data_of(run: Run) -> dict:
    """All that the page is told of a run; a scene that the model has no need of is left out."""
    parts = {name: (scene, scene.part(run)) for name, scene in scenes().items()}
    found: dict[str, Any] = {"run": what_all_need(run)}
    found |= {name: part for name, (_, part) in parts.items() if part is not None}
    found["code"] = {
        name: [lines_of(function) for function in scene.code(run)]
        for name, (scene, part) in parts.items()
        if part is not None
    }
    return found


def page_of(run: Run, language: str = "en") -> str:
    """The page as a text, in one of LANGUAGES."""
    texts = json.loads(read(f"texts/{language}.json"))
    style, script = style_of(), script_of()
    values = {
        "language": language,
        "policy": (
            f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
            f"style-src '{hash_of(style)}'; script-src '{hash_of(script)}'"
        ),
        "style": style,
        "summary": as_json(summary_of(run)),
        "texts": as_json(texts),
        "data": as_json(data_of(run)),
        "script": script,
    }
    return re.sub(r"<!--(\w+)-->", lambda place: values[place[1]], read("shell/page.html"))


def write_page(run: Run, path: str | os.PathLike, language: str = "en") -> int:
    """Write the page beside `path` and rename it; returns its size in bytes."""
    path, page = Path(path), page_of(run, language).encode()
    beside = path.with_name(f"{path.name}.part")
    try:
        beside.write_bytes(page)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return len(page)


def read(name: str) -> str:
    """A file of this folder."""
    return (files(__name__) / name).read_text(encoding="utf-8")


def script_of() -> str:
    """All scripts, joined: the shell's, and each scene's as a function of its own around its names."""
    shell = {name: read(f"shell/{name}") for name in SCRIPTS}
    start = shell.pop("shell.js")
    made = [
        f"SCENES.{name} = (() => {{\n{read(f'scenes/{name}.js')}\n"
        'return {scene, checks: typeof checks === "undefined" ? null : checks};\n})();'
        for name in SCENES
    ]
    return "\n".join(['"use strict";', *shell.values(), "const SCENES = {};", *made, start])


def style_of() -> str:
    """All styles: the shell's, and those of scenes that have some."""
    styles = [
        read(f"scenes/{name}.css") for name in SCENES if (files(__name__) / f"scenes/{name}.css").is_file()
    ]
    return "\n".join([read("shell/page.css"), *styles])


def as_json(value: Any) -> str:
    """JSON in ASCII that an HTML parser takes for plain text, whatever stands in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def hash_of(text: str) -> str:
    """The hash of an inline script or style as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

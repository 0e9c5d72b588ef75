"""Record what transformers renders from real chat templates: tests/data/templates.json.gz.

    PYTHON tests/record_templates.py FOLDER

PYTHON is the interpreter of an environment with transformers and jinja2, FOLDER is models/templates of a
checkout of llama.cpp, a collection of templates of released models. Of each, its text and the prompts of
three conversations, or the error, are kept; the texts are their authors', kept here as data to test with.
"""

import gzip
import json
import sys
from datetime import datetime
from pathlib import Path

from transformers.utils import chat_template_utils

USER = {"role": "user", "content": " Ile to <b>2 + 2</b>? 👋\n"}
CONVERSATIONS = {
    "user": [USER],
    "system and user": [{"role": "system", "content": "Be brief."}, USER],
    "three turns": [
        USER,
        {"role": "assistant", "content": "Cztery."},
        {"role": "user", "content": "And doubled?"},
    ],
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
NOW = "2026-03-05T06:07:08"


class Clock(datetime):
    @classmethod
    def now(cls):
        return cls.fromisoformat(NOW)


def render(template, messages):
    """{"text": ...} or {"error": ...}."""
    try:
        [text], _ = chat_template_utils.render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, **TOKENS
        )
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"text": text}


if __name__ == "__main__":
    chat_template_utils.datetime = Clock
    templates = {}
    for path in sorted(Path(sys.argv[1]).glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        prompts = {name: render(template, messages) for name, messages in CONVERSATIONS.items()}
        templates[path.stem] = {"template": template, "prompts": prompts}
    record = {"conversations": CONVERSATIONS, "tokens": TOKENS, "now": NOW, "templates": templates}
    target = Path(__file__).parent / "data" / "templates.json.gz"
    target.write_bytes(gzip.compress(json.dumps(record, ensure_ascii=False, indent=1).encode(), mtime=0))
    print(f"{target}: {len(templates)} templates, {target.stat().st_size:,} bytes")

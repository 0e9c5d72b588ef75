"""Records how transformers ends a prompt that goes on with its last message; run where transformers is.

    python tests/record_continue.py TARGET.json

For each template of tests/data/templates.json.gz the SHA-1 of the prompt, or null where it is refused.
"""

import gzip
import hashlib
import json
import sys
from datetime import datetime
from pathlib import Path

from transformers.utils import chat_template_utils

RECORD = json.loads(gzip.decompress((Path(__file__).parent / "data/templates.json.gz").read_bytes()))
MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Once upon a "}]


class Clock(datetime):
    """The time of the other record, which some templates write into the prompt."""

    @classmethod
    def now(cls, zone=None):
        """That time."""
        return cls.fromisoformat(RECORD["now"])


def digest(template):
    """The start of the SHA-1 of the prompt."""
    variables = {key: value for key, value in RECORD["tokens"].items() if value is not None}
    try:
        (text,), _ = chat_template_utils.render_jinja_template(
            [MESSAGES], chat_template=template, continue_final_message=True, **variables
        )
    except Exception:  # refused, for whatever reason
        return None
    return hashlib.sha1(text.encode()).hexdigest()[:12]


chat_template_utils.datetime = Clock
rows = {name: digest(recorded["template"]) for name, recorded in RECORD["templates"].items()}
Path(sys.argv[1]).write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")

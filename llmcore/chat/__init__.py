"""Messages -> prompt, through the model's own template, and answer -> what it says, thinks and calls.

`python -m llmcore.chat` is a conversation in the terminal. The sandboxed process that renders a template
imports this folder, so only the template and the prompt are imported here; the rest is when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .prompt import encode_chat
from .template import render_template

if TYPE_CHECKING:
    from .answer import parse_answer
    from .tools import tools_for

__all__ = ["encode_chat", "parse_answer", "render_template", "tools_for"]


def __getattr__(name):
    room = {"parse_answer": ".answer", "tools_for": ".tools"}.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(room, __name__), name)

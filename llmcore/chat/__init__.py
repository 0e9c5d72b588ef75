"""Messages -> prompt, through the model's own template, and answer -> what it says, thinks and calls.

`python -m llmcore.chat` is a conversation in the terminal. The sandboxed process that renders a template
imports this folder, and so does a command that may be interrupted meanwhile: each room is imported when it is
asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .answer import parse_answer
    from .prompt import encode_chat
    from .reasoning import reasoning_of
    from .template import render_template
    from .tools import tools_for

__all__ = ["encode_chat", "parse_answer", "reasoning_of", "render_template", "tools_for"]

_HOMES = {
    "encode_chat": ".prompt",
    "parse_answer": ".answer",
    "reasoning_of": ".reasoning",
    "render_template": ".template",
    "tools_for": ".tools",
}


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)

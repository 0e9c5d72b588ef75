"""Messages -> prompt, through the model's own template; `python -m llmcore.chat` is a conversation in the terminal.

Imports the template and the prompt alone: the sandboxed process that renders a template imports this folder.
"""

from .prompt import encode_chat
from .template import render_template

__all__ = ["encode_chat", "render_template"]

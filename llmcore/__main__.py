"""`python -m llmcore COMMAND ...`, or `llmcore COMMAND ...`: one line a command."""

import sys
from importlib import import_module

from .cli.interrupt import leave_at_once

COMMANDS = {  # name: its module, what it does
    "generate": ("llmcore.generate", "continue or answer a prompt"),
    "chat": ("llmcore.cli.chat", "talk with a model in the terminal"),
    "batch": ("llmcore.cli.jobs", "answer the requests of a file, one a line, here or on a Ray cluster"),
    "explain": ("llmcore.cli.explain", "follow a prompt through a model, on one page"),
    "inspect": ("llmcore.cli.inspect", "print what is in a model file"),
    "serve": ("llmcore.serve.command", "a server that speaks OpenAI's protocol, and its page"),
    "lens": ("llmcore.cli.lens", "what the model would say after each half layer, and who voted for it"),
    "agent": ("llmcore.cli.agent", "answer a question with tools, each call confirmed"),
    "get": ("llmcore.cli.get", "fetch a model: smollm2, gemma3, or hf:ORG/REPO on the Hugging Face hub"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first argument names; returns the exit status."""
    leave_at_once()
    arguments = sys.argv[1:] if argv is None else argv
    name, *rest = arguments or ["--help"]
    if name in COMMANDS:
        return import_module(COMMANDS[name][0]).main(rest)
    from .cli.command import status_of  # here, because it is long to import

    return status_of(lambda: usage(name))


def usage(name: str) -> int:
    """Print the commands there are; the exit status, which is 0 where they were asked for."""
    asked = name in ("-h", "--help")
    out = sys.stdout if asked else sys.stderr
    if not asked:
        print(f"error: there is no command {name!r}", file=out)
    print("usage: python -m llmcore COMMAND ..., each with --help", file=out)
    for command, (_, what) in COMMANDS.items():
        print(f"  {command:<9} {what}", file=out)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
